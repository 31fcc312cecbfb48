"""`palette fit-blend` on nano, and `--blend fitted:FILE`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cultural_palette.cli import main
from cultural_palette.cultural_map import load_map
from cultural_palette.embedded.manifest import BUILT_IN, revision_of
from cultural_palette.errors import SettingsError
from cultural_palette.fitted_blends import as_blend, fitted_weights, write_blends
from cultural_palette.models import ModelRef
from cultural_palette.nodes.intake import _blend
from cultural_palette.settings import get_settings, use_settings

WEIGHTS = {"africa": 0.7, "asia": 0.2, "europe": 0.1}


def blends(**countries: Any) -> dict[str, Any]:
    return {"of": "agents", "model": "embedded:nano", "prompt": "survey/shares", "countries": countries}


def test_a_countrys_weights_are_read_and_given_to_the_moerges(tmp_path: Path) -> None:
    file = tmp_path / "my blends.json"
    write_blends(file, blends(KEN={"weights": WEIGHTS}))
    continents, nano = load_map("continents"), ModelRef("embedded", "nano/meta")
    found = _blend(f"fitted:{file}", "KEN", continents, nano)
    assert found == "africa=0.700000,asia=0.200000,europe=0.100000"
    assert nano.with_blend(found).name == f"nano/meta[{found}]"
    with pytest.raises(SettingsError, match=r"no blend of BRA; it has KEN.*--countries BRA"):
        _blend(f"fitted:{file}", "BRA", continents, nano)


def test_a_palettes_own_blends_lie_in_its_folder(tmp_path: Path) -> None:
    write_blends(tmp_path / "blends.json", blends(KEN={"weights": WEIGHTS}))
    assert fitted_weights(f"fitted:{tmp_path}", "KEN") == WEIGHTS
    here = ModelRef("embedded", f"{tmp_path}/meta").palette_folder
    assert fitted_weights("fitted:palette", "KEN", here) == WEIGHTS
    served = ModelRef("openai", "moerges", "http://127.0.0.1:8000/v1").palette_folder
    with pytest.raises(SettingsError, match="on a server, and its folder is not known here"):
        fitted_weights("fitted:palette", "KEN", served)


def test_a_name_of_the_settings_wins_over_a_file_called_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_blends(tmp_path / "named.json", blends(KEN={"weights": WEIGHTS}))
    write_blends(tmp_path / "wvs", blends(KEN={"weights": {"africa": 1.0}}))
    with use_settings(get_settings(fitted_blends={"wvs": str(tmp_path / "named.json")})):
        assert fitted_weights("fitted:wvs", "KEN") == WEIGHTS
        assert fitted_weights("fitted:./wvs", "KEN") == {"africa": 1.0}


def test_a_blend_fitted_later_leaves_the_palette_what_it_is(tmp_path: Path) -> None:
    """A run of evaluation is known by its weights' content, and goes on."""
    palette = tmp_path / "palette"
    shutil.copytree(BUILT_IN["nano"], palette)
    before = revision_of(str(palette))
    revision_of.cache_clear()
    write_blends(palette / "blends.json", blends(KEN={"weights": WEIGHTS}))
    assert revision_of(str(palette)) == before
    revision_of.cache_clear()
    (palette / "adapters" / "blends.json").write_text("{}")
    assert revision_of(str(palette)) != before


def test_other_countries_of_the_file_stay_and_another_kind_begins_anew(tmp_path: Path) -> None:
    file = tmp_path / "blends.json"
    write_blends(file, blends(KEN={"weights": WEIGHTS}))
    write_blends(file, blends(BRA={"weights": {"america": 1.0}}))
    assert set(json.loads(file.read_text())["countries"]) == {"KEN", "BRA"}
    write_blends(file, {**blends(BRA={"weights": {"america": 1.0}}), "of": "model"})
    assert set(json.loads(file.read_text())["countries"]) == {"BRA"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("not json", "can not be read"),
        ("{}", "is no file of 'palette fit-blend'"),
        ('{"countries": {"KEN": {"weights": {"africa": 0.4}}}}', "weights that sum to 1"),
        ('{"countries": {"KEN": {"weights": {"africa": "much"}}}}', "is no file of"),
    ],
)
def test_what_is_no_file_of_blends_is_refused(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "blends.json"
    file.write_text(text)
    with pytest.raises(SettingsError, match=says):
        fitted_weights(f"fitted:{file}", "KEN")
    with pytest.raises(SettingsError, match="no file"):
        fitted_weights(f"fitted:{tmp_path / 'nowhere.json'}", "KEN")


def test_weights_in_a_name_sum_to_one() -> None:
    text = as_blend({"africa": 1 / 3, "asia": 1 / 3, "europe": 1 / 3 - 1e-8, "oceania": 1e-8})
    assert sum(float(part.partition("=")[2]) for part in text.split(",")) == pytest.approx(1, abs=1e-12)
    assert "oceania" not in text


def survey(tmp_path: Path) -> Path:
    """Twelve questions that Kenya answered as a coin would, of six batteries."""
    topics = (
        "family",
        "work",
        "food",
        "faith",
        "friends",
        "rank",
        "time",
        "joy",
        "law",
        "art",
        "sea",
        "sport",
    )
    rows = [
        {
            "id": f"q{n}",
            "question": f"Is {topic} important in the life of people?",
            "options": ["Yes", "No"],
            "country": "KEN",
            "distribution": [0.5, 0.5],
            "battery": f"b{n // 2}",
        }
        for n, topic in enumerate(topics)
    ]
    file = tmp_path / "made-up.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.mark.parametrize("of", ["agents", "model"])
def test_fit_blend_on_nano(tmp_path: Path, of: str) -> None:
    pytest.importorskip("torch")
    out, figure = tmp_path / "blends.json", tmp_path / "blends.svg"
    done = CliRunner().invoke(
        main,
        ["fit-blend", "--survey", str(survey(tmp_path)), "--countries", "KEN", "--questions", "12",
         "--of", of, "--orders", "1", "--out", str(out), "--figure", str(figure)],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    fitted = json.loads(out.read_text())["countries"]["KEN"]
    assert sum(fitted["weights"].values()) == pytest.approx(1) and len(fitted["weights"]) == 5
    assert all(fitted["low"][key] <= fitted["high"][key] for key in fitted["weights"])
    assert (fitted["questions"], fitted["batteries"]) == (12, 6)
    assert "<svg" in figure.read_text() and "Oceania" in figure.read_text()
    if of == "agents":
        return
    asked = CliRunner().invoke(
        main,
        [
            "ask",
            "--json",
            "--blend",
            f"fitted:{out}",
            "-c",
            "KEN",
            "Is family important?",
            "-o",
            "Yes",
            "-o",
            "No",
        ],
    )
    assert asked.exit_code == 0, asked.output
    blend = json.loads(asked.output)["blend"]
    assert blend == pytest.approx(fitted["weights"], abs=1e-5)


def test_a_built_in_palette_is_not_written_to(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["fit-blend", "--survey", str(survey(tmp_path)), "--countries", "KEN"])
    assert done.exit_code == 2 and "has no folder of its own" in done.output
