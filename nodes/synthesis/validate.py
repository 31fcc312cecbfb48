"""Validation: findings of plain checks, then of the teacher, whose reply is read strictly.

A validation that can not be read is asked again; read or not, it never passes an answer by accident.
"""

from __future__ import annotations

import re
from typing import Any, Literal

from langgraph.runtime import Runtime
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cultural_palette.nodes.synthesis.checks import check_text
from cultural_palette.nodes.synthesis.state import (
    STEPS,
    ChainState,
    Finding,
    SynthesisContext,
    Tokens,
    add_tokens,
    context_of,
)
from cultural_palette.nodes.synthesis.voice import NO_TOKENS, Voice

READINGS = 3
FENCE = re.compile(r"\A```(?:json)?[ \t]*\n(?P<inside>.*)\n```\Z", re.DOTALL)


class Fault(BaseModel):
    """One finding as the teacher writes it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    kind: Literal["relevance", "foreign_marker", "contradiction", "stereotype", "safety"]
    detail: str = Field(min_length=1)
    quote: str | None = None


class Verdict(BaseModel):
    """The teacher's judgement; one that contradicts itself is no judgement."""

    model_config = ConfigDict(extra="forbid", strict=True)

    passed: bool
    findings: list[Fault]

    @model_validator(mode="after")
    def _agrees(self) -> Verdict:
        if self.passed == bool(self.findings):
            raise ValueError(f"passed is {self.passed}, with {len(self.findings)} findings")
        return self


async def validate(state: ChainState, runtime: Runtime[SynthesisContext], *, voice: Voice) -> dict[str, Any]:
    """The round's findings. The teacher is not asked about an answer that the checks turn down."""
    context = context_of(runtime)
    findings, usage = checked(state, voice), NO_TOKENS
    if not findings and context.validation_by(state["teacher"]) == "teacher":
        findings, usage = await _judged(state, context, voice)
    return {"passed": not findings, "findings": findings, "usage": usage}


def checked(state: ChainState, voice: Voice) -> list[Finding]:
    """What plain checks find in this round's answer."""
    for step in STEPS:
        if not state.get(step):
            return [{"kind": "format", "detail": f"The reply of the step '{step}' was empty.", "quote": None}]
    answer = state["aggregate"] or ""
    if state.get("cut"):
        detail = "The answer broke off at the most tokens a reply may have."
        return [{"kind": "format", "detail": detail, "quote": answer[-40:]}]
    return check_text(state["query"], answer, voice.community, voice.cultural_map)


async def _judged(state: ChainState, context: SynthesisContext, voice: Voice) -> tuple[list[Finding], Tokens]:
    usage, trouble = NO_TOKENS, ""
    for attempt in range(1, READINGS + 1):
        reply = await voice.say(
            state,
            context,
            "validate",
            context.judging(state["teacher"], state["round"]),
            response=state["aggregate"] or "",
            others=voice.others,
            retry=trouble and f"\nYour last reply could not be read ({trouble}). Send the JSON object only.",
        )
        usage = add_tokens(usage, reply.usage)
        verdict = read_verdict(reply.text or "")
        if isinstance(verdict, Verdict):
            return [
                {"kind": fault.kind, "detail": fault.detail, "quote": fault.quote}
                for fault in verdict.findings
            ], usage
        trouble = f"attempt {attempt}: {verdict}"
    detail = f"The validation could not be read in {READINGS} attempts: {trouble}."
    return [{"kind": "format", "detail": detail, "quote": None}], usage


def read_verdict(text: str) -> Verdict | str:
    """The verdict in a reply: one JSON object, in a Markdown fence or not; else why there is none."""
    text = text.strip()
    if fenced := FENCE.match(text):
        text = fenced["inside"].strip()
    if not text:
        return "the reply was empty"
    try:
        return Verdict.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        return f"{where}: {first['msg']}" if where else str(first["msg"])
