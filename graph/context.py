"""What a person may turn at run time. A field left at None is as the settings say (`palette.settings`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from langgraph.runtime import Runtime
from pydantic import BaseModel, ConfigDict, Field

from cultural_palette.models import Sampling
from cultural_palette.prompts import template_of
from cultural_palette.settings import (
    MOST_PERMUTATIONS,
    OPENAI_URL,
    PromptOrder,
    ReadoutMethod,
    Settings,
    current_settings,
)

SHARED = (
    "model", "models", "temperature", "meta_temperature", "max_tokens", "seed", "draft_timeout_s",
    "min_drafts", "readout", "readout_samples", "permutations", "prompt_order",
)  # fmt: skip


def _prompt(name: str, fields: str, node: str | None = None) -> Any:
    extra: dict[str, Any] = {"langgraph_type": "prompt"} | ({"langgraph_nodes": [node]} if node else {})
    return Field(
        default=None,
        description=f"Your own text for the prompt '{name}': [system] and [user] sections with {fields}.",
        json_schema_extra=extra,
    )


class PaletteContext(BaseModel):
    """The knobs of one run. Times are in seconds. Holds no key: a server keeps it with the run."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    model: str | None = Field(
        default=None,
        description="One model that plays every part by prompt alone, such as 'openai:gpt-4o-mini'.",
        json_schema_extra={"langgraph_type": "model"},
    )
    models: dict[str, str] = Field(
        default_factory=dict,
        description="Model of a part: a community's key, 'meta' or 'base' -> 'openai:africa@http://host:8000/v1'.",
    )
    temperature: float | None = Field(
        default=None, ge=0, le=2, description="Temperature of the drafts (settings: 0.3)."
    )
    meta_temperature: float | None = Field(
        default=None,
        ge=0,
        le=2,
        description="Temperature of the account and of the decision (settings: 0).",
        json_schema_extra={"langgraph_nodes": ["regulate", "decide"]},
    )
    max_tokens: int | None = Field(
        default=None,
        ge=1,
        le=32_768,
        description="Longest reply in tokens (embedded palette 160, servers 1024).",
    )
    seed: int | None = Field(
        default=None, ge=0, lt=2**31, description="Seed of every sampled reply (settings: 0)."
    )
    draft_timeout_s: float | None = Field(
        default=None, gt=0, le=3600, description="Seconds a draft may take, retries included (settings: 60)."
    )
    min_drafts: int | None = Field(
        default=None,
        ge=1,
        description="Fewest drafts to go on with, at most as many as there are agents (settings: 3).",
        json_schema_extra={"langgraph_nodes": ["memory"]},
    )
    readout: ReadoutMethod | None = Field(
        default=None,
        description="How the distribution over options is read (settings: auto).",
        json_schema_extra={"langgraph_nodes": ["decide"]},
    )
    readout_samples: int | None = Field(
        default=None,
        ge=1,
        le=1000,
        description="Replies of the sampling readout (settings: 20).",
        json_schema_extra={"langgraph_nodes": ["decide"]},
    )
    permutations: int | None = Field(
        default=None,
        ge=1,
        le=MOST_PERMUTATIONS,
        description="Orders of the options that the decision is averaged over (settings: 1, as asked).",
        json_schema_extra={"langgraph_nodes": ["decide"]},
    )
    prompt_order: PromptOrder | None = Field(
        default=None,
        description="'paper', or 'prefix': what questions share first, for a server's prefix cache "
        "(settings: paper).",
    )
    prompt_draft: str | None = _prompt("draft", "{community} {country} {question} {options}")
    prompt_regulate: str | None = _prompt("regulate", "{country} {memory} {question}", "regulate")
    prompt_account: str | None = _prompt("account", "{country} {question}", "regulate")
    prompt_decide: str | None = _prompt("decide", "{account} {country} {question}", "decide")
    prompt_decide_option: str | None = _prompt(
        "decide_option", "{account} {country} {question} {options}", "decide"
    )

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """These settings, written out. A model without address gets the settings' own, so that it stays
        with the run.
        """
        values = {name: getattr(settings, name) for name in SHARED}
        values["model"] = settings.model and _addressed(settings.model, settings)
        values["models"] = {part: _addressed(ref, settings) for part, ref in settings.models.items()}
        return cls(**values)

    def over(self, settings: Settings) -> Knobs:
        """Every knob with its value: this context's, else the settings'."""
        chosen = {name: getattr(self, name) for name in SHARED}
        merged = {name: getattr(settings, name) if value is None else value for name, value in chosen.items()}
        # one model named for this run is meant for every part that the run does not name itself
        merged["models"] = {**({} if self.model else settings.models), **self.models}
        prompts = {name.removeprefix("prompt_"): getattr(self, name) for name in PROMPT_FIELDS}
        if merged["prompt_order"] == "prefix":
            ours = {name: template_of(f"prefix/{name}") for name in prompts}
            prompts = {name: text or ours[name] for name, text in prompts.items()}
        return Knobs(
            **merged,
            prompts=prompts,
            request_timeout_s=settings.request_timeout_s,
            blend_checkpoint=settings.blend_checkpoint,
        )


PROMPT_FIELDS = tuple(
    f"prompt_{name}" for name in ("draft", "regulate", "account", "decide", "decide_option")
)


class Knobs(BaseModel):
    """A context with nothing left open: what nodes read."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    model: str | None
    models: dict[str, str]
    temperature: float
    meta_temperature: float
    max_tokens: int | None
    seed: int
    draft_timeout_s: float
    request_timeout_s: float
    min_drafts: int
    readout: ReadoutMethod
    readout_samples: int
    permutations: int
    prompt_order: PromptOrder
    blend_checkpoint: str | None
    prompts: Mapping[str, str | None]

    @property
    def draft_sampling(self) -> Sampling:
        """How drafts are drawn."""
        return Sampling(self.temperature, self.max_tokens, self.seed)

    @property
    def meta_sampling(self) -> Sampling:
        """How the account and the decision are drawn."""
        return Sampling(self.meta_temperature, self.max_tokens, self.seed)


def knobs_of(runtime: Runtime[PaletteContext]) -> Knobs:
    """The knobs of this run. In process the context is None when it was not passed."""
    context: Any = runtime.context
    if isinstance(context, Mapping):
        context = PaletteContext(**context)
    return (context or PaletteContext()).over(current_settings())


def _addressed(ref: str, settings: Settings) -> str:
    plain = ref.startswith("openai:") and "@http" not in ref
    return f"{ref}@{settings.base_url}" if plain and settings.base_url not in (None, OPENAI_URL) else ref
