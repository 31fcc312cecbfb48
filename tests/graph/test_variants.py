"""One table, one `langgraph.json`; what a form in Studio is made from."""

from __future__ import annotations

import pytest

from cultural_palette.errors import SettingsError, UsageError
from cultural_palette.graph.variants import BASELINES, VARIANTS, build_variant, variant_named
from cultural_palette.nodes.knobs import PaletteContext, knobs_of
from cultural_palette.nodes.state import add_usage, merge_drafts
from cultural_palette.prompts import fields_of, names
from cultural_palette.settings import get_settings, use_settings


def test_every_variant_has_its_source_and_the_same_form():
    names = (*VARIANTS, *BASELINES, "single-draft:asia")
    graphs = {name: build_variant(name) for name in names}
    assert all(variant_named(name).source for name in names)
    for schema in ("get_input_jsonschema", "get_output_jsonschema", "get_context_jsonschema"):
        forms = [getattr(graph, schema)() for graph in graphs.values()]
        assert all(form["properties"] == forms[0]["properties"] for form in forms), schema


def test_unknown_variant():
    with pytest.raises(UsageError, match=r"Unknown variant 'with-milk'\. There are palette, without-draft"):
        build_variant("with-milk")


def test_the_context_is_a_form():
    schema = build_variant().get_context_jsonschema()
    fields = schema["properties"]
    assert all(field.get("description") for field in fields.values())
    assert fields["prompt_decide"]["langgraph_nodes"] == ["decide"]
    assert fields["prompt_decide"]["langgraph_type"] == "prompt"
    assert schema["additionalProperties"] is False
    prompts = {name.removeprefix("prompt_") for name in fields if name.startswith("prompt_")} - {"order"}
    assert prompts == set(names())
    for name in names():
        assert all(f"{{{field}}}" in fields[f"prompt_{name}"]["description"] for field in fields_of(name))
    assert "api_key" not in fields


def test_the_context_refuses_what_it_does_not_know():
    with pytest.raises(SettingsError):
        PaletteContext(modle="x")  # type: ignore[call-arg]
    with pytest.raises(SettingsError):
        PaletteContext(draft_timeout_s=0)


class Runtime:
    def __init__(self, context):
        self.context = context


def test_what_a_context_leaves_open_the_settings_say():
    settings = get_settings(seed=5, temperature=0.1, models={"meta": "openai:m"}, model="openai:all")
    with use_settings(settings):
        plain = knobs_of(Runtime(None))
        assert (plain.seed, plain.temperature, plain.model, plain.models) == (
            5,
            0.1,
            "openai:all",
            {"meta": "openai:m"},
        )
        turned = knobs_of(Runtime(PaletteContext(seed=0, models={"africa": "openai:a"})))
        assert (turned.seed, turned.models) == (0, {"meta": "openai:m", "africa": "openai:a"})
        assert (
            knobs_of(Runtime({"model": "openai:other"})).models == {}
        )  # one model for this run: for every part
        assert knobs_of(Runtime({"model": "openai:other"})).model == "openai:other"


def test_settings_written_out_keep_their_server():
    settings = get_settings(
        base_url="http://here/v1", model="openai:all", models={"meta": "openai:m@http://x/v1"}
    )
    context = PaletteContext.from_settings(settings)
    assert (context.model, context.models) == ("openai:all@http://here/v1", {"meta": "openai:m@http://x/v1"})


def test_drafts_merge_in_place():
    laid_out = {"b": None, "a": None}
    assert list(merge_drafts(merge_drafts(laid_out, {"a": {"text": "x"}}), {"b": {"text": "y"}})) == [
        "b",
        "a",
    ]
    assert merge_drafts(None, laid_out) == laid_out


def test_usage_adds_by_part():
    one = {"by_part": {"africa": {"input_tokens": 3, "output_tokens": 1}}}
    two = {
        "by_part": {
            "africa": {"input_tokens": 2, "output_tokens": 2},
            "meta": {"input_tokens": 1, "output_tokens": 1},
        }
    }
    both = add_usage(add_usage(None, one), two)
    assert both["by_part"] == {
        "africa": {"input_tokens": 5, "output_tokens": 3},
        "meta": {"input_tokens": 1, "output_tokens": 1},
    }
    assert (both["input_tokens"], both["output_tokens"]) == (6, 4)
