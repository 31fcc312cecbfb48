"""Bases that make no sense: each is refused before any job, by field and value, never by a traceback."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("torch")
pytest.importorskip("peft")

from cultural_palette.errors import PaletteError
from cultural_palette.training.bases import check_base
from cultural_palette.training.estimate import weights
from cultural_palette.training.orpo_settings import OrpoSettings, TrainingError

CONFIG, TOKENIZER, TEMPLATE = "config.json", "tokenizer_config.json", "chat_template.jinja"
FROM_1 = r"config\.json is {}; expected a whole number from 1"
ROPE = {"rope_type": "linear", "rope_theta": 10000.0}


@pytest.fixture
def base(tiny: tuple[Any, Any, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny[2], tmp_path / "base"))


def change(folder: Path, file: str, **fields: Any) -> None:
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def template(text: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / TEMPLATE).write_text(text)


def field(file: str, name: str, value: Any) -> Callable[[Path], Any]:
    return lambda folder: change(folder, file, **{name: value})


def kept_in_the_settings(value: Any) -> Callable[[Path], Any]:
    """The template as a field of tokenizer_config.json, where older models have it."""

    def bend(folder: Path) -> None:
        (folder / TEMPLATE).unlink(missing_ok=True)
        change(folder, TOKENIZER, chat_template=value)

    return bend


def put(file: str, data: bytes) -> Callable[[Path], Any]:
    return lambda folder: (folder / file).write_bytes(data)


SIZES: dict[str, tuple[Callable[[Path], Any], str]] = {
    f"{name} {value!r}": (field(CONFIG, name, value), said)
    for name, value, said in [
        ("num_attention_heads", -4, f"num_attention_heads in {FROM_1.format('-4')}"),
        ("num_attention_heads", 0, "num_attention_heads|modulo by zero"),
        ("num_attention_heads", "2", "num_attention_heads.*expected int, got str"),
        ("num_attention_heads", 3, "attention heads|not a multiple|validate_architecture"),
        ("num_key_value_heads", 0, f"num_key_value_heads in {FROM_1.format('0')}"),
        ("num_key_value_heads", -1, f"num_key_value_heads in {FROM_1.format('-1')}"),
        ("num_key_value_heads", 8, "num_attention_heads 2 .* can not be shared out to num_key_value_heads 8"),
        ("num_key_value_heads", 2, "k_proj.weight is 32 x 64 in model.safetensors and would be 64 x 64 by"),
        ("hidden_size", 63, "hidden|validate_architecture|multiple"),
        ("hidden_size", 0, f"hidden_size in {FROM_1.format('0')}"),
        ("hidden_size", 10**12, f"hidden_size in {FROM_1.format(10**12)}"),
        ("hidden_size", None, "hidden_size.*got NoneType"),
        ("hidden_size", 128, "is .* x 64 in model.safetensors and would be .* x 128 by config.json"),
        ("head_dim", 0, f"head_dim in {FROM_1.format('0')}"),
        ("num_hidden_layers", 0, f"num_hidden_layers in {FROM_1.format('0')}"),
        ("num_hidden_layers", 10**9, "num_hidden_layers .*1000000000.*from 1 to 10,000"),
        ("num_hidden_layers", [2], "num_hidden_layers.*got list"),
        ("intermediate_size", -96, f"intermediate_size in {FROM_1.format('-96')}"),
        ("vocab_size", 3, "embed_tokens.weight is .* in model.safetensors and would be 3 x 64"),
        ("max_position_embeddings", 0, f"max_position_embeddings in {FROM_1.format('0')}"),
        ("hidden_act", "nope", "config.json makes no model: KeyError: .*nope"),
        ("hidden_act", 3, "hidden_act.*got int"),
        ("rope_parameters", ROPE | {"rope_type": "odd"}, "odd"),
        ("rope_parameters", ROPE | {"factor": 0}, "rope_parameters.factor in config.json is 0; .* above 0"),
        ("rope_parameters", ROPE | {"factor": "x"}, "x"),
        ("rope_parameters", ROPE | {"factor": 2.0, "rope_theta": -1}, "rope_theta in config.json is -1"),
        ("rope_parameters", "x", "rope_parameters"),
        ("attention_dropout", 5, "attention_dropout in config.json is 5; expected 0 to 1"),
        ("attention_dropout", "x", "attention_dropout"),
        ("model_type", 3, "can not be loaded"),
        ("model_type", "nope", "can not be loaded: .*nope"),
        ("architectures", None, "of no named kind"),
        ("architectures", {}, "can not be loaded|of no named kind"),
        ("layer_types", ["nope", "nope"], "nope|layer_types"),
        ("dtype", "nope", "can not be loaded|nope"),
    ]
}
READING: dict[str, tuple[Callable[[Path], Any], str]] = {
    **{
        f"model_max_length {value!r}": (
            field(TOKENIZER, "model_max_length", value), "model_max_length in tokenizer_config.json is")
        for value in ("x", [1], 0, -1, True)
    },
    "a template that is no Jinja": (template("{% if x"), "chat template can not be rendered: "),
    "a template of unknown names": (template("{{ a.b.c }}"), "can not be rendered: 'a' is undefined"),
    "a template that divides by 0": (template("{{ 1/0 }}"), "can not be rendered: division by zero"),
    "a template that adds lists and numbers": (template("{{ messages + 1 }}"), "can not be rendered"),
    "a template that calls itself": (
        template("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}"), "can not be rendered: maximum rec"),
    "a template of an unknown filter": (template("{{ messages | nope }}"), "No filter named 'nope'"),
    "a template that reaches out": (template("{{ messages.__class__.__mro__ }}"), "chat template"),
    "a template that refuses assistants": (
        template("{% for m in messages %}{% if m.role == 'assistant' %}{{ raise_exception('no assistants') }}"
                 "{% endif %}{{ m.content }}{% endfor %}"), "can not be rendered: no assistants"),
    "a template without words": (
        template("{% for m in messages %}{{ m.role }}{% endfor %}"), "leaves out what user or assistant say"),
    "a constant template": (template("hello"), "leaves out what user or assistant say"),
    "an empty template": (template(""), "no chat template"),
    "a template in other bytes": (put(TEMPLATE, b"\xff\xfe{{"), "can not be loaded"),
    "a number for a template": (kept_in_the_settings(3), "chat template|can not be loaded"),
    "nothing for a template": (kept_in_the_settings({}), "no chat template"),
    "templates without a default": (
        kept_in_the_settings([{"name": "tools", "template": "{{ messages }}"}]), "can not be rendered"),
    "templates without a text": (kept_in_the_settings([{"name": "default"}]), "can not be loaded"),
    "a tokenizer that is a list": (put("tokenizer.json", b"[]"), "can not be loaded"),
    "an empty tokenizer": (put("tokenizer.json", b""), "can not be loaded"),
    "an endlessly nested config": (put(CONFIG, b"[" * 60_000), "can not be loaded"),
    "a config that is a list": (put(CONFIG, b"[]"), "can not be loaded"),
    "a config of other bytes": (put(CONFIG, b"\xff\xfe"), "can not be loaded"),
    "weights cut short": (
        lambda folder: (folder / "model.safetensors").write_bytes(
            (folder / "model.safetensors").read_bytes()[:5000]),
        r"model.safetensors can not be read: .*complete"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "has no weights"),
}  # fmt: skip
NONSENSE = SIZES | READING


@pytest.mark.parametrize(("bend", "said"), NONSENSE.values(), ids=NONSENSE.keys())
def test_a_base_that_makes_no_sense_is_refused_by_its_field(
    base: Path, bend: Callable[[Path], Any], said: str
) -> None:
    bend(base)
    with pytest.raises(TrainingError, match=said) as told:
        check_base(str(base))
    assert "\n" not in str(told.value) and str(base) in str(told.value)


@pytest.mark.parametrize("longest", [None, 1e30, 512])
def test_a_tokenizer_without_a_limit_is_fine(base: Path, longest: float | None) -> None:
    change(base, TOKENIZER, model_max_length=longest)
    check_base(str(base))


def test_several_templates_with_a_default_are_fine(base: Path) -> None:
    text = (base / TEMPLATE).read_text() if (base / TEMPLATE).is_file() else None
    text = text or json.loads((base / TOKENIZER).read_text())["chat_template"]
    kept_in_the_settings([{"name": "default", "template": text}, {"name": "tools", "template": "x"}])(base)
    check_base(str(base))


def test_targets_that_the_base_has_not_are_told_in_the_dry_run(base: Path) -> None:
    from transformers import AutoConfig

    with pytest.raises(TrainingError, match="targets no_such_module do not fit the base"):
        weights(AutoConfig.from_pretrained(base), OrpoSettings(rank=2, targets=("no_such_module",)))


WRONG = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.sampled_from([10**9, 2**63, 1e30, -0.5, "x", ""]),
    st.lists(st.integers(0, 2), max_size=2),
    st.dictionaries(st.sampled_from(["rope_type", "factor"]), st.text(max_size=3)),
)  # fmt: skip


def test_whatever_a_config_says_there_is_no_traceback(base: Path) -> None:
    """Up to two fields of config.json by values of any type."""
    right = json.loads((base / CONFIG).read_text())

    @settings(
        max_examples=60, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.dictionaries(st.sampled_from(sorted(right)), WRONG, min_size=1, max_size=2))
    def tried(changes: dict[str, Any]) -> None:
        (base / CONFIG).write_text(json.dumps(right | changes))
        try:
            check_base(str(base))
        except PaletteError as error:
            assert str(error)

    tried()
