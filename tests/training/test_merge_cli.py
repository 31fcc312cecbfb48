"""`palette merge`: what it makes, what it says, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

pytest.importorskip("torch")
pytest.importorskip("mergekit")

from cultural_palette.cli import main
from cultural_palette.cli import merge as command
from tests.training.merge_models import KEYS, make_adapter, make_base


@pytest.fixture(scope="module")
def inputs(tiny: tuple[Any, Any, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    base = make_base("qwen2", folder / "base", tiny[2])
    for seed, key in enumerate(KEYS):
        make_adapter(base, folder / "adapters" / key, seed)
    return folder


def palette_merge(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["merge", *map(str, arguments)])


def test_the_choices_are_those_of_training() -> None:
    import sys

    from cultural_palette.training.merge import METHODS, PLACES, PROMPT_SETS

    module = sys.modules[command.callback.__module__]
    assert (*METHODS, "moerges") == module.METHOD_NAMES
    assert (tuple(PLACES), tuple(PROMPT_SETS)) == (module.PLACE_NAMES, module.PROMPT_SET_NAMES)


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("ties", "africa: 6 tensors changed by"),
        ("model_stock", "model stock: mean cosine"),
        ("moerges", "router: entropy"),
    ],
)
def test_each_method_makes_a_model(inputs: Path, tmp_path: Path, method: str, said: str) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    arguments = ["--method", method, "--base", inputs / "base", "--adapters", inputs / "adapters"]
    options = ["--dense", "--rows", "ffn_in", "--prompts", "adjectives", "--centre"]
    options = options if method == "moerges" else []
    done = palette_merge(*arguments, "--out", tmp_path / "out", *options)
    assert done.exit_code == 0, done.output
    assert f"{method} of 5 communities" in done.output and said in done.output
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template
    again = palette_merge(*arguments, "--out", tmp_path / "out")
    assert again.exit_code == 2 and "--overwrite" in again.output
    if method == "moerges":
        router = json.loads((tmp_path / "out" / "merge_report.json").read_text())["router"]
        assert (router["rows"], router["against_others"]) == ("ffn_in", True)
        assert router["prompts"]["asia"] == ["Asia", "Asian", "Asian culture", "Asian people"]
        assert "mergekit-moe reads the residual" in (tmp_path / "out" / "mergekit_config.yaml").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "either --adapters FOLDER, or COMMUNITY=FOLDER"),
        (["asia"], "'asia': expected COMMUNITY=FOLDER"),
        (["asia=a", "asia=b"], "'asia' stands twice"),
        (["--adapters", "nowhere"], "nowhere has no folder 'africa'"),
        (["asia=a", "europe=b"], "a has neither adapter_config.json nor config.json"),
        (["mars=a", "asia=b"], "has no community 'mars'"),
    ],
)
def test_bad_input_is_said_bare(inputs: Path, tmp_path: Path, arguments: list[str], said: str) -> None:
    done = palette_merge(
        "--method", "moerges", "--dense", "--base", inputs / "base", "--out", tmp_path / "out", *arguments
    )
    assert done.exit_code in (1, 2) and done.output.startswith("Error: ") and said in done.output
    assert not list(tmp_path.iterdir())


def test_a_base_that_is_nowhere(inputs: Path, tmp_path: Path) -> None:
    done = palette_merge(
        "--method", "ties", "--base", "./nowhere", "--out", tmp_path / "out",
        "--adapters", inputs / "adapters",
    )  # fmt: skip
    assert done.exit_code == 2 and "'./nowhere' is no folder, and no hub name" in done.output
