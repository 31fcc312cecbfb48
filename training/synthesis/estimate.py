"""What a run will take, before anything is spent: answers, calls, tokens, dollars. Assumptions said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cultural_palette.cultural_map import CulturalMap
from cultural_palette.models import ModelRef
from cultural_palette.nodes.synthesis.state import SynthesisContext
from cultural_palette.prompts import render
from cultural_palette.training.queries import Query
from cultural_palette.training.synthesis.prices import Price

CHARACTERS_A_TOKEN = 4.3  # English, with the tokenizers of current models
QUERY_CHARACTERS = 72.0  # PRISM's mean, where no queries are given
REPLY_TOKENS = {"respond": 130, "feedback": 220, "aggregate": 150, "validate": 45}
FAILING_SHARE = 0.15  # answers that go round again, each round


@dataclass(frozen=True)
class SynthesisEstimate:
    """`calls`: by step for one round; `again`: calls of the rounds after the first; tokens and dollars for
    all. `cost_usd` None: no price."""

    queries: int
    communities: int
    calls: dict[str, int]
    again: int
    failing_share: float
    input_tokens: int
    output_tokens: int
    cost_usd: float | None
    price: Price | None

    @property
    def answers(self) -> int:
        """One a query and community."""
        return self.queries * self.communities

    @property
    def pairs(self) -> int:
        """Preference pairs of one community: its answer against each other."""
        return self.queries * (self.communities - 1)

    @property
    def three_steps(self) -> int:
        """Calls of respond, feedback and aggregate."""
        return sum(self.calls[step] for step in ("respond", "feedback", "aggregate"))

    @property
    def all_calls(self) -> int:
        """Every call, rounds after the first included."""
        return sum(self.calls.values()) + self.again

    def as_json(self) -> dict[str, Any]:
        """For --json."""
        return {
            "queries": self.queries,
            "communities": self.communities,
            "answers": self.answers,
            "pairs_per_community": self.pairs,
            "calls": {**self.calls, "further_rounds_expected": self.again, "all": self.all_calls},
            "tokens": {"input": self.input_tokens, "output": self.output_tokens},
            "cost_usd": self.cost_usd,
            "assumed": {
                "failing_share": self.failing_share,
                "reply_tokens": REPLY_TOKENS,
                "characters_a_token": CHARACTERS_A_TOKEN,
            },
            "price": self.price and self.price.note,
        }

    def lines(self, community: str = "community") -> list[str]:
        """For people."""
        validation = self.calls.get("validate", 0)
        cost = "cost: unknown; this model has no price (--prices FILE)"
        if self.price is not None and self.cost_usd is not None:
            cost = f"cost: {self.cost_usd:,.2f} USD ({self.price.note})"
        return [
            f"{self.queries:,} queries x {self.communities} communities = {self.answers:,} answers",
            f"{self.pairs:,} preference pairs per {community}",
            f"{self.three_steps:,} calls: respond, feedback, aggregate (3 an answer)",
            f"{validation:,} calls: validation"
            + ("" if validation else " (plain checks only; the teacher does not judge)"),
            f"{self.again:,} calls expected for further rounds "
            f"(assumed: {self.failing_share:.0%} of the answers fail a round)",
            f"{self.all_calls:,} calls in all",
            f"{self.input_tokens:,} tokens read, {self.output_tokens:,} written (assumed: "
            f"{CHARACTERS_A_TOKEN:g} characters a token; replies of "
            + ", ".join(f"{REPLY_TOKENS[step]} for {step}" for step in self.calls)
            + ")",
            cost,
        ]


def estimate(
    queries: Sequence[Query] | int,
    cultural_map: CulturalMap,
    teacher: ModelRef,
    context: SynthesisContext,
    price: Price | None,
    failing_share: float = FAILING_SHARE,
) -> SynthesisEstimate:
    """For these queries, or for so many of PRISM's length."""
    number = queries if isinstance(queries, int) else len(queries)
    mean = QUERY_CHARACTERS
    if not isinstance(queries, int) and queries:
        mean = sum(len(query.text) for query in queries) / len(queries)
    steps = ["respond", "feedback", "aggregate"]
    if context.validation_by(str(teacher)) == "teacher":
        steps.append("validate")
    answers = number * len(cultural_map.communities)
    further = sum(failing_share**round_number for round_number in range(1, context.max_rounds))
    again = round(answers * further) * len(steps)
    read = sum(_prompt_tokens(step, cultural_map, mean) for step in steps)
    written = sum(REPLY_TOKENS[step] for step in steps)
    rounds = 1 + further
    input_tokens, output_tokens = round(answers * rounds * read), round(answers * rounds * written)
    return SynthesisEstimate(
        queries=number,
        communities=len(cultural_map.communities),
        calls=dict.fromkeys(steps, answers),
        again=again,
        failing_share=failing_share,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cost_usd=price.of(input_tokens, output_tokens) if price else None,
        price=price,
    )


def _prompt_tokens(step: str, cultural_map: CulturalMap, query_characters: float) -> float:
    """Of a step's prompt with replies of the assumed length in it."""
    first, *others = (community.name for community in cultural_map.communities)
    given = {
        "respond": {"earlier": ""},
        "feedback": {"others": ", ".join(others), "response": ""},
        "aggregate": {"others": ", ".join(others), "response": "", "feedback": "", "earlier": ""},
        "validate": {"others": ", ".join(others), "response": "", "retry": ""},
    }[step]
    messages = render(f"synthesis/{step}", community=first, question="", **given)
    characters = sum(len(message.text) for message in messages) + query_characters
    inside = {
        "respond": 0,
        "feedback": REPLY_TOKENS["respond"],
        "aggregate": REPLY_TOKENS["respond"] + REPLY_TOKENS["feedback"],
        "validate": REPLY_TOKENS["aggregate"],
    }[step]
    return characters / CHARACTERS_A_TOKEN + inside
