"""Public names and signatures, pinned: a change here is a decision, and stands in the changelog."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Literal, get_args, get_origin, get_type_hints

import pytest

import cultural_palette as cp
from cultural_palette.knobs import KnobArguments, RunKnobs, declared_knobs
from cultural_palette.models import Model, Provider, Reply
from cultural_palette.nodes.knobs import PROMPT_FIELDS, ContextArguments, PaletteContext

KNOBS = ", **knobs: 'Unpack[ContextArguments]') -> "
SIGNATURES = {
    "ask": "(country: 'str', question: 'str', *, options: 'Sequence[str]' = (), "
    "map: 'str | CulturalMap | None' = None, variant: 'str' = 'palette', "
    "settings: 'Settings | None' = None" + KNOBS + "'Answer'",
    "aask": "(country: 'str', question: 'str', *, options: 'Sequence[str]' = (), "
    "map: 'str | CulturalMap | None' = None, variant: 'str' = 'palette', "
    "settings: 'Settings | None' = None" + KNOBS + "'Answer'",
    "stream": "(country: 'str', question: 'str', *, options: 'Sequence[str]' = (), "
    "map: 'str | CulturalMap | None' = None, variant: 'str' = 'palette', "
    "settings: 'Settings | None' = None" + KNOBS + "'AsyncIterator[Event]'",
    "batch": "(questions: 'Iterable[CountryQuestion | tuple[str, str]]', *, at_once: 'int' = 8, "
    "errors: \"Literal['raise', 'keep']\" = 'raise', map: 'str | CulturalMap | None' = None, "
    "variant: 'str' = 'palette', settings: 'Settings | None' = None"
    + KNOBS
    + "'list[Answer] | list[Answer | PaletteError]'",
    "find_country": "(text: 'str') -> 'Country'",
    "load_map": "(name_or_path: 'str | Path') -> 'CulturalMap'",
    "get_settings": "(**flags: 'Any') -> 'Settings'",
    "chat_model": "(ref: 'ModelRef', sampling: 'Sampling') -> 'BaseChatModel'",
}
FIELDS = {
    "Answer": [
        *("country", "question", "options", "answer", "distribution", "option_mass", "blend", "drafts"),
        *("account", "notes", "degraded", "determinism", "usage", "state"),
    ],
    "DraftText": ["community", "text", "error", "seconds", "model"],
    "CountryQuestion": ["country", "question", "options", "seed"],
    "DraftToken": ["community", "text"],
    "DraftDone": ["draft"],
    "DraftFailed": ["draft"],
    "AccountToken": ["text"],
    "AccountDone": ["text"],
    "AnswerToken": ["text"],
    "Decided": ["answer"],
    "ModelRef": ["provider", "name", "base_url"],
}
BUILD = [
    "cultural_map",
    "intake",
    "route",
    "draft",
    "resample",
    "memory",
    "regulate",
    "decide",
    "checkpointer",
    "name",
]


@pytest.mark.parametrize("name", SIGNATURES)
def test_functions(name: str) -> None:
    assert str(inspect.signature(getattr(cp, name))) == SIGNATURES[name]


@pytest.mark.parametrize("name", FIELDS)
def test_fields(name: str) -> None:
    kind = getattr(cp, name)
    assert [field.name for field in dataclasses.fields(kind)] == FIELDS[name]
    assert kind.__dataclass_params__.frozen


def test_build_takes_the_nodes() -> None:
    assert list(inspect.signature(cp.build).parameters) == BUILD


def test_the_names_of_the_front_door() -> None:
    assert {*SIGNATURES, *FIELDS, "build", "PaletteError", "PaletteContext", "PaletteState"} <= set(
        cp.__all__
    )


def test_the_seam_to_a_model() -> None:
    methods = [name for name, _ in inspect.getmembers(Model, inspect.isfunction) if not name.startswith("_")]
    assert methods == ["blend", "option_logprobs", "reply", "scope_notes", "top_tokens"]
    assert [f.name for f in dataclasses.fields(Reply)] == [
        "text",
        "seconds",
        "message",
        "usage",
        "finish_reason",
        "blend",
    ]
    assert [f.name for f in dataclasses.fields(Provider)][:3] == ["name", "open", "chat"]


def test_knobs_as_arguments_are_the_knobs_declared() -> None:
    """Declared once in RunKnobs; KnobArguments is their typed face, and may not drift."""
    declared = declared_knobs()
    arguments = get_type_hints(KnobArguments)
    assert list(arguments) == list(declared)
    for name, knob in declared.items():
        assert arguments[name] == knob.type, name
    assert set(get_type_hints(ContextArguments)) == {*declared, *PROMPT_FIELDS}
    assert set(PaletteContext.model_fields) == {*declared, *PROMPT_FIELDS}


@pytest.mark.parametrize("name", list(declared_knobs()))
def test_every_knob_reaches_settings_context_and_help(name: str) -> None:
    from cultural_palette.settings import Settings

    knob = declared_knobs()[name]
    assert Settings.model_fields[name].description == knob.knob.description
    assert Settings.model_fields[name].get_default(call_default_factory=True) == knob.default
    assert (
        (PaletteContext.model_fields[name].description or "")
        .lower()
        .startswith(knob.knob.description.lower()[:20])
    )
    assert getattr(RunKnobs, name) == knob.default
    if get_origin(knob.type) is Literal:
        assert knob.choices == get_args(knob.type)
