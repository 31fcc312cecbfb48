"""What a person may turn at run time. A knob left at None is as the settings say."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, get_args

from langgraph.runtime import Runtime
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    create_model,
    model_validator,
)
from typing_extensions import Unpack

from cultural_palette.cultural_map import load_map
from cultural_palette.errors import PaletteError, SettingsError
from cultural_palette.knobs import Declared, KnobArguments, RunKnobs, SamplingRole, declared_knobs
from cultural_palette.models import ModelRef, Sampling
from cultural_palette.prompts import template_of
from cultural_palette.prompts.own import own_texts
from cultural_palette.settings import OPENAI_URL, Settings, current_settings, field_of, in_words
from cultural_palette.suggestions import did_you_mean

SHARED = tuple(declared_knobs())
DRAFT = "draft_"
"""What a draft node's name begins with; the community's key follows."""


def _open_field(knob: Declared) -> tuple[Any, Any]:
    """A knob as a field of the context: as declared, or None for what the settings say."""
    extra: dict[str, Any] = {}
    if knob.knob.editor:
        extra["langgraph_type"] = knob.knob.editor
    if knob.knob.nodes:
        extra["langgraph_nodes"] = list(knob.knob.nodes)
    shown = knob.knob.description[0].upper() + knob.knob.description[1:]
    if isinstance(knob.default, dict):
        return knob.type, Field(
            default_factory=dict, description=f"{shown}.", json_schema_extra=extra or None
        )
    default_note = "" if knob.default is None else f" (settings: {knob.default})"
    field = field_of(
        knob, default=None, description=f"{shown}{default_note}.", json_schema_extra=extra or None
    )
    return knob.type | None, field


def _prompt(name: str, fields: str, node: str | None = None) -> Any:
    """A prompt that a run may replace. Studio shows it on its node, with our own text to start from; on the
    drafts' nodes without `node`.
    """

    def in_studio(schema: dict[str, Any]) -> None:  # when a schema is wanted: it reads files
        schema |= {
            "langgraph_type": "prompt",
            "langgraph_nodes": [node] if node else list(draft_nodes(current_settings().map)),
            "default": template_of(name),
        }

    return Field(
        default=None,
        description=f"Your own text for the prompt '{name}': [system] and [user] sections with {fields}.",
        json_schema_extra=in_studio,
    )


@functools.lru_cache
def draft_nodes(map: str) -> tuple[str, ...]:
    """The draft nodes of a map. Reads its file, once."""
    try:
        communities = load_map(map).communities
    except PaletteError:  # a schema can be had where no graph can be built
        return ()
    return tuple(f"{DRAFT}{community.key}" for community in communities)


class ContextArguments(KnobArguments, total=False):
    """What `PaletteContext` takes."""

    prompt_draft: str | None
    prompt_regulate: str | None
    prompt_account: str | None
    prompt_decide: str | None
    prompt_decide_option: str | None


if TYPE_CHECKING:

    class _OpenKnobs(RunKnobs, BaseModel):
        """The knobs, each of which may be left open."""
else:
    _OpenKnobs = create_model(
        "_OpenKnobs",
        __config__=ConfigDict(protected_namespaces=()),
        **{name: _open_field(knob) for name, knob in declared_knobs().items()},
    )


class PaletteContext(_OpenKnobs):
    """The knobs of one run. Times are in seconds. Holds no key: a server keeps it with the run."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    if TYPE_CHECKING:

        def __init__(self, **knobs: Unpack[ContextArguments]) -> None: ...

    prompt_draft: str | None = _prompt("draft", "{community} {country} {question} {options}")
    prompt_regulate: str | None = _prompt("regulate", "{country} {memory} {question}", "regulate")
    prompt_account: str | None = _prompt("account", "{country} {question}", "regulate")
    prompt_decide: str | None = _prompt("decide", "{account} {country} {question}", "decide")
    prompt_decide_option: str | None = _prompt(
        "decide_option", "{account} {country} {question} {options}", "decide"
    )

    @model_validator(mode="wrap")
    @classmethod
    def _in_words(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """What is wrong with a context in a line, the same in process and on a server."""
        if isinstance(data, Mapping):
            refuse_unknown(data, cls)
        try:
            return handler(data)
        except ValidationError as error:
            raise SettingsError(in_words(error, "Knob")) from None

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
        merged["sampling"] = {
            role: {**settings.sampling.get(role, {}), **self.sampling.get(role, {})}
            for role in get_args(SamplingRole)
        }
        prompts = {name.removeprefix("prompt_"): getattr(self, name) for name in PROMPT_FIELDS}
        # Studio sends the text that it showed: unchanged, it is no text of one's own
        prompts = {
            name: None if text is None or text.strip() == template_of(name).strip() else text
            for name, text in prompts.items()
        }
        if merged["prompt_order"] == "prefix":
            ours = {name: template_of(f"prefix/{name}") for name in prompts}
            prompts = {name: text or ours[name] for name, text in prompts.items()}
        return Knobs(merged, prompts, settings.prompts, settings.request_timeout_s)


def refuse_unknown(context: Mapping[str, Any], schema: type[BaseModel] = PaletteContext) -> None:
    """Raise SettingsError for a key that no knob has: a misspelt one must not pass in silence."""
    for key in context:
        if key not in schema.model_fields:
            known = list(schema.model_fields)
            hint = did_you_mean(str(key), known, quoted=False) or f" There are {', '.join(known)}."
            raise SettingsError(f"Unknown knob {key!r} in the run's context.{hint}")


PROMPT_FIELDS = tuple(
    f"prompt_{name}" for name in ("draft", "regulate", "account", "decide", "decide_option")
)


class Knobs(RunKnobs):
    """A context with nothing left open: what nodes read. `prompts`: the run's own text by prompt, None: none;
    `template` is what to render.
    """

    def __init__(
        self,
        values: Mapping[str, Any],
        prompts: Mapping[str, str | None],
        folder: str | None,
        request_timeout_s: float,
    ) -> None:
        for name, value in values.items():
            setattr(self, name, value)
        self.prompts, self._folder = prompts, folder
        self.request_timeout_s = request_timeout_s

    async def template(self, name: str, ref: ModelRef) -> str | None:
        """A prompt's text in the place of ours: the run's own, else that of the settings' folder, else that
        which the palette of `ref` was trained with. None: ours.
        """
        if (text := self.prompts[name]) is not None:
            return text
        return (await asyncio.to_thread(self._own_texts, ref)).get(name)

    def _own_texts(self, ref: ModelRef) -> Mapping[str, str]:
        return {**ref.runs_on.prompts_of(ref), **(own_texts(Path(self._folder)) if self._folder else {})}

    @property
    def draft_sampling(self) -> Sampling:
        """How drafts are drawn."""
        return self._sampling("draft", self.temperature)

    @property
    def meta_sampling(self) -> Sampling:
        """How the account and the decision are drawn."""
        return self._sampling("meta", self.meta_temperature)

    def _sampling(self, role: SamplingRole, temperature: float) -> Sampling:
        shape: dict[str, Any] = {**self.sampling.get(role, {})}
        length = self.max_tokens or shape.pop("max_tokens", None)
        return Sampling(temperature, **{**shape, "max_tokens": length, "seed": self.seed})


def knobs_of(runtime: Runtime[PaletteContext]) -> Knobs:
    """The knobs of this run. In process the context is None when it was not passed."""
    context: Any = runtime.context
    if isinstance(context, Mapping):
        context = PaletteContext(**context)
    return (context or PaletteContext()).over(current_settings())


def _addressed(ref: str, settings: Settings) -> str:
    url = None if settings.base_url == OPENAI_URL else settings.base_url
    return str(ModelRef.parse(ref).with_address(url))
