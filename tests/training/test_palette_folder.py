"""`palette merge --method moerges`: a palette folder from a base, adapters and a map; used at once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

pytest.importorskip("torch")
pytest.importorskip("mergekit")

import cultural_palette as cp
from cultural_palette.cli import main
from cultural_palette.embedded.manifest import BUILT_IN, read_manifest
from cultural_palette.moerges.peft_settings import AdapterError
from cultural_palette.moerges.router import load_routers
from cultural_palette.training.merge import MergeError
from cultural_palette.training.merge.palette_folder import write_palette
from cultural_palette.training.merge.router import map_prompts

NANO = BUILT_IN["nano"]
CONTINENTS = cp.load_map("continents")
ADAPTERS = {c.key: NANO / "adapters" / c.key for c in CONTINENTS.communities}


def write(out: Path, adapters: dict[str, Path] = ADAPTERS, **more) -> dict:
    return write_palette(
        NANO / "base", adapters, CONTINENTS, map_prompts(CONTINENTS), out, map_name="continents",
        per_country=1, **more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("palettes") / "mine"
    write(out)
    return out


def test_the_folder_is_small_and_says_what_is_in_it(folder: Path) -> None:
    manifest = read_manifest(str(folder))
    assert manifest.communities == tuple(ADAPTERS) and manifest.base == (NANO / "base").resolve()
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    assert size < 1.2 * sum(f.stat().st_size for d in ADAPTERS.values() for f in d.iterdir()) + 500_000
    routers = load_routers(manifest.router)
    assert set(routers) == {"paper", "fitted"} and routers["fitted"].communities == tuple(ADAPTERS)
    report = json.loads((folder / "merge_report.json").read_text())
    for row in report["members"].values():
        assert row["changed"] > 0 and row["left_out"] == 0 and 0 < row["relative_change"] < 2
    assert report["fitted"]["countries"] > 100
    assert "africa" in (folder / "README.md").read_text()


def test_it_answers_and_its_agents_are_the_adapters(folder: Path) -> None:
    question = {"options": ["Freedom", "Equality", "Don't know"], "max_tokens": 12}
    mine = cp.ask(
        "KEN", "Which matters more to people: freedom or equality?", model=f"embedded:{folder}", **question
    )
    nano = cp.ask("KEN", "Which matters more to people: freedom or equality?", **question)
    assert {k: d.text for k, d in mine.drafts.items()} == {k: d.text for k, d in nano.drafts.items()}
    assert mine.blend is not None and sum(mine.blend.values()) == pytest.approx(1)
    fitted = cp.ask(
        "KEN", "Tea?", model=f"embedded:{folder}", blend="fitted", max_tokens=4, variant="without-draft"
    )
    assert fitted.blend is not None and fitted.blend != mine.blend


def test_the_command(tmp_path: Path) -> None:
    out = tmp_path / "palette"
    flags = ["--base", str(NANO / "base"), "--adapters", str(NANO / "adapters"), "--out", str(out)]
    done = CliRunner().invoke(main, ["merge", "--method", "moerges", *flags])
    assert done.exit_code == 0, done.output
    assert "moerges of 5 communities" in done.stdout and (out / "manifest.json").is_file()
    again = CliRunner().invoke(main, ["merge", "--method", "moerges", *flags])
    assert again.exit_code == 2 and "is there already" in again.stderr


def test_adapters_for_another_base_and_such_as_do_not_factor_are_refused(tmp_path: Path) -> None:
    changed = tmp_path / "africa"
    for name, values, message in (
        ("other", {"base_model_name_or_path": "somebody/else"}, "was trained on 'somebody/else'"),
        ("dora", {"use_dora": True}, "use_dora"),
        ("pissa", {"init_lora_weights": "pissa"}, "pissa"),
    ):
        shutil.rmtree(changed, ignore_errors=True)
        shutil.copytree(ADAPTERS["africa"], changed)
        config = json.loads((changed / "adapter_config.json").read_text())
        (changed / "adapter_config.json").write_text(json.dumps({**config, **values}))
        with pytest.raises(AdapterError, match=message):
            write(tmp_path / name, {**ADAPTERS, "africa": changed})
        assert not (tmp_path / name).exists()


@pytest.mark.parametrize(
    ("left", "config", "said"),
    [
        ("", None, "can not be loaded"),
        ("config.json", {}, "can not be loaded"),
        ("*", {"num_attention_heads": -2}, "can not be loaded: .*negative"),
        ("*", {"num_hidden_layers": "2"}, "can not be loaded: .*num_hidden_layers"),
    ],
    ids=["an empty folder", "a config alone", "heads below 0", "layers as text"],
)
def test_a_base_that_can_not_be_loaded_is_named(
    tmp_path: Path, left: str, config: dict[str, object] | None, said: str
) -> None:
    base = tmp_path / "base"
    base.mkdir()
    for file in (NANO / "base").glob(left) if left else ():
        shutil.copy2(file, base / file.name)
    if config is not None:
        whole = json.loads((base / "config.json").read_text())
        (base / "config.json").write_text(json.dumps(whole | config))
    with pytest.raises(MergeError, match=said) as told:
        write_palette(
            base, ADAPTERS, CONTINENTS, map_prompts(CONTINENTS), tmp_path / "out", map_name="continents",
            any_base=True,
        )  # fmt: skip
    assert str(base) in str(told.value) and not (tmp_path / "out").exists()
