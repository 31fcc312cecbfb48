"""Every knob of a run, declared once: settings, run-time context, flags and their help come from here.

No heavy import: `palette ask --help` reads this. Times are in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le
from typing_extensions import TypedDict

ReadoutMethod = Literal["auto", "exact", "top_logprobs", "sampling"]
PromptOrder = Literal["paper", "prefix"]
SamplingRole = Literal["draft", "meta"]
MOST_PERMUTATIONS = 720
LONGEST = 32_768
"""Tokens of a reply, at most."""


class SamplingShape(TypedDict, total=False):
    """How replies are drawn beside their temperature; `Sampling` of the models says what each does."""

    max_tokens: Annotated[int, Ge(1), Le(LONGEST)]
    top_p: Annotated[float, Gt(0), Le(1)]
    min_p: Annotated[float, Ge(0), Le(1)]
    repetition_penalty: Annotated[float, Gt(0)]
    frequency_penalty: Annotated[float, Ge(-2), Le(2)]


SamplingShape.__pydantic_config__ = {"extra": "forbid"}  # type: ignore[attr-defined]
SAMPLING = tuple(SamplingShape.__annotations__)


@dataclass(frozen=True)
class Knob:
    """What is said of a knob, and its limits: `at_least` <= value <= `at_most`, `above` < value < `below`.

    `nodes`: where Studio shows it. `editor`: Studio's kind of field. `flag`: of `palette ask`.
    """

    description: str
    at_least: float | None = None
    at_most: float | None = None
    above: float | None = None
    below: float | None = None
    nodes: tuple[str, ...] = ()
    editor: str | None = None
    flag: str | None = None


class RunKnobs:
    """The knobs that a run may turn, with their defaults."""

    model: Annotated[
        str | None,
        Knob(
            "one model that plays every part by prompt alone: 'openai:gpt-4o-mini'",
            editor="model",
            flag="--model",
        ),
    ] = None
    models: Annotated[
        dict[str, str],
        Knob("model of a part: a community's key, 'meta' or 'base'; wins over `model`", flag="--set"),
    ] = {}  # noqa: RUF012  (pydantic copies it)
    seed: Annotated[int, Knob("seed of every sampled reply", at_least=0, below=2**31, flag="--seed")] = 0
    temperature: Annotated[
        float, Knob("temperature of the drafts", at_least=0, at_most=2, flag="--temperature")
    ] = 0.3
    meta_temperature: Annotated[
        float,
        Knob(
            "temperature of the account and of the decision",
            at_least=0,
            at_most=2,
            nodes=("regulate", "decide"),
            flag="--meta-temperature",
        ),
    ] = 0.0
    max_tokens: Annotated[
        int | None,
        Knob(
            "longest reply in tokens (embedded palette 160, servers 1024)",
            at_least=1,
            at_most=LONGEST,
            flag="--max-tokens",
        ),
    ] = None
    sampling: Annotated[
        dict[SamplingRole, SamplingShape],
        Knob(
            "how replies are drawn beside their temperature, the drafts' ('draft') and all others ('meta'): "
            f"{', '.join(SAMPLING)}; `max_tokens` wins (an embedded palette brings its own)",
            flag="--sampling",
        ),
    ] = {}  # noqa: RUF012
    draft_timeout_s: Annotated[
        float,
        Knob("time for a draft, retries included", above=0, at_most=3600, flag="--draft-timeout"),
    ] = 60.0
    min_drafts: Annotated[
        int,
        Knob(
            "fewest drafts to go on with (at most as many as there are agents)",
            at_least=1,
            nodes=("memory",),
            flag="--min-drafts",
        ),
    ] = 3
    readout: Annotated[
        ReadoutMethod,
        Knob("how the distribution over options is read off the model", nodes=("decide",), flag="--readout"),
    ] = "auto"
    readout_samples: Annotated[
        int,
        Knob(
            "replies of the sampling readout",
            at_least=1,
            at_most=1000,
            nodes=("decide",),
            flag="--readout-samples",
        ),
    ] = 20
    permutations: Annotated[
        int,
        Knob(
            "orders of the options that the decision is averaged over",
            at_least=1,
            at_most=MOST_PERMUTATIONS,
            nodes=("decide",),
            flag="--permutations",
        ),
    ] = 1
    blend: Annotated[
        str | None,
        Knob(
            "how the MoErges of an embedded palette weighs its communities: 'paper', 'fitted' (its routers), "
            "'uniform', 'own', weights such as 'africa=0.2,oceania=0.8', or 'fitted:FILE' of fit-blend",
            nodes=("regulate", "decide"),
            flag="--blend",
        ),
    ] = None
    prompt_order: Annotated[
        PromptOrder,
        Knob(
            "'prefix': what questions share stands first, for a server's prefix cache", flag="--prompt-order"
        ),
    ] = "paper"


class KnobArguments(TypedDict, total=False):
    """The same knobs as keyword arguments; a test holds the two together."""

    model: str | None
    models: dict[str, str]
    seed: int
    temperature: float
    meta_temperature: float
    max_tokens: int | None
    sampling: dict[SamplingRole, SamplingShape]
    draft_timeout_s: float
    min_drafts: int
    readout: ReadoutMethod
    readout_samples: int
    permutations: int
    blend: str | None
    prompt_order: PromptOrder


@dataclass(frozen=True)
class Declared:
    """A knob as declared: its name, plain type, default, and what is said of it."""

    name: str
    type: Any
    default: Any
    knob: Knob

    @property
    def choices(self) -> tuple[str, ...]:
        """The values of a knob that has a fixed set of them."""
        return get_args(self.type) if get_origin(self.type) is Literal else ()


def declared_knobs() -> dict[str, Declared]:
    """Every knob by its name, in the order declared."""
    hints = get_type_hints(RunKnobs, include_extras=True)
    return {
        name: Declared(name, get_args(hint)[0], getattr(RunKnobs, name), get_args(hint)[1])
        for name, hint in hints.items()
    }
