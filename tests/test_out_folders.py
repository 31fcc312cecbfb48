"""What a command writes to --out: nobody else's files go, one writes at a time, a stopped one is repeated.

`whole_folder`, `claim` and `RunFolder` themselves: tests/palette/test_artifacts.py. A report stopped at any
of its files: tests/evaluation/test_report.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cultural_palette.artifacts import RunFolder, claim
from cultural_palette.cli import main
from cultural_palette.errors import ArtifactError
from cultural_palette.fitted_blends import read_blends, write_blends
from cultural_palette.training.pentachromatic import published
from tests.evaluation.report_runs import made_up_run
from tests.training.pentachromatic_runs import write_run

NEIGHBOURS = ("{}.old", "{}.part", ".{}.old", ".{}.part", ".{}.0123456789abcdef.part", ".{}.0123abcd.part")
"""Named as temporary folders may be, and somebody's."""
Writer = Callable[[Path, Path], list[str]]


def _read(folder: Path, out: Path) -> list[str]:
    for key in ("africa", "america", "asia", "europe", "oceania"):
        (folder / f"{key}.jsonl").write_text(
            f'{{"query": "a", "response": "{key}", "rejected_response": "c"}}\n'
        )
    files = sorted(str(file) for file in folder.glob("*.jsonl"))
    return ["dataset", "read", *files, "--out", str(out)]


WRITERS: dict[str, Writer] = {
    "dataset build": lambda folder, out: [
        "dataset",
        "build",
        str(write_run(folder / "r")),
        "--out",
        str(out),
    ],
    "dataset read": _read,
    "report": lambda folder, out: ["report", str(made_up_run(folder / "r", questions=2)), "--out", str(out)],
}


def run(command: list[str]) -> Result:
    return CliRunner().invoke(main, command)


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cultural_palette.evaluation.report.figures.picture_of", lambda *_: None)


@pytest.mark.parametrize("name", WRITERS)
def test_neighbours_of_the_folder_stay(name: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    out = tmp_path / "out"
    mine = [tmp_path / shape.format("out") / "diary.txt" for shape in NEIGHBOURS]
    for file in mine:
        file.parent.mkdir()
        file.write_text("dear diary")
    done = run(WRITERS[name](tmp_path / "in", out))
    assert done.exit_code == 0, done.output
    assert out.is_dir() and [file.read_text() for file in mine] == ["dear diary"] * len(mine)
    assert sorted(tmp_path.iterdir()) == sorted([out, tmp_path / "in", *(file.parent for file in mine)])


@pytest.mark.parametrize("name", WRITERS)
def test_a_second_writer_is_told(name: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    command, out = WRITERS[name](tmp_path / "in", tmp_path / "out"), tmp_path / "out"
    with claim(out, inside=".report.lock" if name == "report" else None):  # as the first writer holds it
        second = run(command)
    assert second.exit_code == 1 and f"{out} is in use by another run" in second.output, second.output
    assert not out.exists() and run(command).exit_code == 0


def test_somebodys_file_in_a_report_stays(tmp_path: Path) -> None:
    command = WRITERS["report"](tmp_path, tmp_path / "out")
    assert run(command).exit_code == 0
    mine = tmp_path / "out" / ".diary.0123abcd.part"
    mine.write_text("dear diary")
    assert run(command).exit_code == 0 and mine.read_text() == "dear diary"


def test_reading_a_dataset_that_was_stopped_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command, out = _read(tmp_path, tmp_path / "out"), tmp_path / "out"

    def stopped(self: RunFolder, manifest: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(published.RunFolder, "finish", stopped)
        assert run(command).exit_code == 130 and not out.exists()
    assert run(command).exit_code == 0 and RunFolder(out).finished
    assert "no empty folder" in run(command).output


def test_fits_one_after_the_other_lose_no_country(tmp_path: Path) -> None:
    file = tmp_path / "blends.json"
    kind = {"of": "agents", "model": "m", "prompt": "p"}
    for code in ("KEN", "BRA"):
        write_blends(file, {**kind, "countries": {code: {"weights": {"africa": 1.0}}}})
    assert list(read_blends(file)["countries"]) == ["KEN", "BRA"]
    assert [path.name for path in tmp_path.iterdir()] == ["blends.json"]
    with claim(file), pytest.raises(ArtifactError, match="in use"), claim(file):
        pass
    late = run(["fit-blend", "--survey", "x", "--countries", "KEN", "--figure", "x.pdf", "--out", str(file)])
    assert late.exit_code == 2 and "ends in .svg or .png" in late.output  # before anything is asked
