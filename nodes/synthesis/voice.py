"""Whose view is written, and how the teacher is asked for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cultural_palette.cultural_map import Community, CulturalMap
from cultural_palette.models import ModelRef, Sampling
from cultural_palette.nodes.synthesis.state import Ask, ChainState, Finding, SynthesisContext, Tokens
from cultural_palette.prompts import render

NO_TOKENS: Tokens = {"input_tokens": 0, "output_tokens": 0}


@dataclass(frozen=True)
class Words:
    """The teacher's words, None when there were none. `cut`: they broke off at the most tokens."""

    text: str | None
    cut: bool
    usage: Tokens


@dataclass(frozen=True)
class Voice:
    """One community of a map, and `ask`, which reaches the teacher."""

    community: Community
    cultural_map: CulturalMap
    ask: Ask

    @property
    def others(self) -> str:
        """The names of the map's other communities."""
        return ", ".join(c.name for c in self.cultural_map.communities if c.key != self.community.key)

    async def say(
        self, state: ChainState, context: SynthesisContext, prompt: str, sampling: Sampling, **fields: str
    ) -> Words:
        """The teacher's reply to a prompt of `palette/prompts/synthesis`. Raises ModelError."""
        reply = await self.ask(
            ModelRef.parse(state["teacher"]),
            sampling,
            render(f"synthesis/{prompt}", community=self.community.name, question=state["query"], **fields),
            timeout_s=context.timeout_s,
            tags=[prompt, self.community.key],
        )
        usage: Tokens = {**NO_TOKENS, **(reply.usage or {})}  # type: ignore[typeddict-item]
        cut = reply.message.response_metadata.get("finish_reason") == "length"
        return Words(reply.text.strip() or None, cut, usage)


def earlier(findings: Sequence[Finding]) -> str:
    """What the next round is told of the last one; nothing when there was none."""
    if not findings:
        return ""
    lines = [f"- {finding['kind']}: {_line(finding)}" for finding in findings]
    return "\nAn earlier answer was turned down for this; avoid it:\n" + "\n".join(lines)


def _line(finding: Finding) -> str:
    quote = f' ("{finding["quote"]}")' if finding["quote"] else ""
    return " ".join((finding["detail"] + quote).split())
