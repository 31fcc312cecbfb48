"""The card, the hub's reading of it, and the push: real files, only the commit itself is caught."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

pytest.importorskip("pyarrow")
pytest.importorskip("datasketch")
pytest.importorskip("huggingface_hub")

from cultural_palette.cli import main
from cultural_palette.errors import ArtifactError, PaletteError, UsageError
from cultural_palette.training.pentachromatic.build import DatasetSettings, build
from cultural_palette.training.pentachromatic.card import Licence
from cultural_palette.training.pentachromatic.hub import push_to_hub
from cultural_palette.training.pentachromatic.streams import facts
from cultural_palette.training.pentachromatic.synthesis_run import SynthesisRun
from tests.training.pentachromatic_runs import COMMUNITIES, question, row, write_run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    manifest = {"queries": {"filters": {"duplicates": 7, "greetings": 3}}, "max_rounds": 4}
    run = SynthesisRun(write_run(tmp_path / "run", 10, manifest=manifest))
    build(run, tmp_path / "ds", DatasetSettings(test_share=0.3, seed=5))
    return tmp_path / "ds"


def card(folder: Path) -> tuple[dict[str, Any], str]:
    _, front, text = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(front), text


def test_the_card_says_what_is_in_the_folder(folder: Path) -> None:
    front, text = card(folder)
    assert front["license"] == "other"
    assert front["language"] == ["en"]
    assert front["size_categories"] == ["n<1K"]
    named = [each["config_name"] for each in front["configs"]]
    assert named == [
        "answers",
        *(f"{f}-{c}" for f in ("preferences", "groups", "published") for c in COMMUNITIES),
    ]
    assert all(
        (folder / each["path"]).is_file() for config in front["configs"] for each in config["data_files"]
    )
    for said in (
        "CC BY 4.0", "CC BY-NC 4.0", "`openai:made-up`",
        "prompt `respond`: SHA-256 begins `0123456789abcdef`",
        "duplicates: 7", "seed 5", "max rounds 4", "Nobody has looked for survey questions",
        "No person has reviewed", "map `continents`", "Known limits",
    ):  # fmt: skip
        assert said in text
    assert "| preference pairs of each community | " in text and "| 40 |" in text  # 10 queries x 4


def test_the_hubs_own_reader_takes_the_card(folder: Path) -> None:
    from huggingface_hub import DatasetCard

    data = DatasetCard.load(folder / "README.md").data
    assert data.license == "other"
    assert data.to_dict()["configs"][0]["config_name"] == "answers"


def test_load_dataset_finds_every_config_and_split(folder: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    counts = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["splits"]["queries"]
    assert counts["train"] and counts["test"]
    for config, per_query in (("preferences-asia", 4), ("groups-asia", 1), ("answers", 5)):
        found = datasets.load_dataset(str(folder), config, cache_dir=str(tmp_path / "cache"))
        assert {split: len(found[split]) for split in found} == {
            split: n * per_query for split, n in counts.items()
        }
    first = datasets.load_dataset(
        str(folder), "preferences-asia", split="train", cache_dir=str(tmp_path / "cache")
    )[0]
    assert first["prompt"][0]["content"] in {question(n) for n in range(10)}
    assert first["chosen"][0]["role"] == "assistant"


def test_a_licence_and_a_language_of_ones_own(tmp_path: Path) -> None:
    run = SynthesisRun(write_run(tmp_path / "run", 2))
    build(run, tmp_path / "ds", DatasetSettings(licence=Licence("cc-by-4.0", ("en", "sw"))))
    front, text = card(tmp_path / "ds")
    assert (front["license"], front["language"]) == ("cc-by-4.0", ["en", "sw"])
    assert "license_name" not in front
    assert "under `cc-by-4.0`" in text
    with pytest.raises(UsageError, match="licence or language"):
        Licence("no\nsuch: thing")


def test_a_models_or_a_sources_name_can_not_break_the_card(tmp_path: Path) -> None:
    odd = "---\nlicense: mit\n"
    run = SynthesisRun(write_run(tmp_path / "run", 2, lambda n, c: row(n, c, teacher=odd)))
    build(run, tmp_path / "ds", DatasetSettings())
    front, _ = card(tmp_path / "ds")
    assert front["license"] == "other"


class Commit:
    """Takes the hub's one commit: path in the repository to bytes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from huggingface_hub import HfApi

        self.made: dict[str, Any] = {}
        self.files: dict[str, bytes] = {}
        monkeypatch.setattr(
            HfApi, "create_repo", lambda _, repo_id, **more: self.made.update({repo_id: more})
        )
        monkeypatch.setattr(HfApi, "upload_folder", self._take)

    def _take(self, *, repo_id: str, folder_path: Path, allow_patterns: list[str], **more: Any) -> Any:
        from huggingface_hub import CommitInfo
        from huggingface_hub.utils import filter_repo_objects

        there = [
            path.relative_to(folder_path).as_posix() for path in folder_path.rglob("*") if path.is_file()
        ]
        for path in filter_repo_objects(there, allow_patterns=allow_patterns):
            self.files[path] = (folder_path / path).read_bytes()
        url = f"https://huggingface.co/datasets/{repo_id}/commit/0"
        return CommitInfo(
            commit_url=url, commit_message=more["commit_message"], commit_description="", oid="0"
        )


def test_push_sends_the_built_files_and_the_card_in_one_commit(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = Commit(monkeypatch)
    (folder / "leakage.json").write_text(json.dumps({"passed": True, "pairs": 0, "examples": ["a survey's"]}))
    (folder / "figures").mkdir()
    (folder / "figures" / "separation.png").write_bytes(b"png")
    (folder / "private-notes.txt").write_text("not to be sent")
    done = CliRunner().invoke(
        main, ["dataset", "push", str(folder), "--repo", "someone/colours", "--private"]
    )
    assert done.exit_code == 0, done.output
    assert "datasets/someone/colours" in done.output
    assert commit.made["someone/colours"] == {"repo_type": "dataset", "private": True, "exist_ok": True}
    assert (
        commit.files["groups/train/groups_asia.parquet"]
        == (folder / "groups" / "train" / "groups_asia.parquet").read_bytes()
    )
    assert "private-notes.txt" not in commit.files
    assert not [path for path in commit.files if path.endswith(".jsonl")]
    assert "figures/separation.png" in commit.files
    assert "leakage.json" not in commit.files  # it quotes surveys
    assert "| passed | True |" in commit.files["README.md"].decode()  # the report came after the build
    assert json.loads(commit.files["manifest.json"])["reports"] == {"leakage": {"passed": True, "pairs": 0}}
    mirror = tmp_path / "mirror"  # what a reader of the hub gets is a dataset
    for path, data in commit.files.items():
        (mirror / path).parent.mkdir(parents=True, exist_ok=True)
        (mirror / path).write_bytes(data)
    datasets = pytest.importorskip("datasets")
    found = datasets.load_dataset(str(mirror), "published-africa", cache_dir=str(tmp_path / "cache"))
    assert found["train"].column_names == ["query", "response", "rejected_response"]


def test_push_refuses_what_was_changed_since(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = Commit(monkeypatch)
    (folder / "answers" / "train.parquet").write_bytes(b"other")
    with pytest.raises(ArtifactError, match="not as it was built"):
        push_to_hub(folder, "someone/colours")
    assert commit.files == commit.made == {}


def test_push_names_what_the_hub_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import HfApi

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("401 Unauthorized")

    monkeypatch.setattr(HfApi, "create_repo", refuse)
    with pytest.raises(PaletteError, match="The hub did not take someone/colours: 401"):
        push_to_hub(folder, "someone/colours")
    with pytest.raises(UsageError, match="expected user/name"):
        push_to_hub(folder, "colours")
    with pytest.raises(UsageError, match="no folder of `palette dataset build`"):
        push_to_hub(folder.parent, "someone/colours")


def test_a_dataset_that_leaks_surveys_is_not_pushed_unasked(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = Commit(monkeypatch)
    answers = facts(folder / "answers.jsonl").sha256
    report = {"passed": False, "queries_leaking": 3, "dataset": {"sha256": answers}}
    (folder / "leakage.json").write_text(json.dumps(report))
    arguments = ["dataset", "push", str(folder), "--repo", "someone/colours"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 1
    assert "3 queries of this dataset hold questions of a survey" in done.output
    assert commit.files == {}
    assert CliRunner().invoke(main, [*arguments, "--allow-leakage"]).exit_code == 0
    assert "| queries leaking | 3 |" in commit.files["README.md"].decode()
    (folder / "leakage.json").write_text(json.dumps(report | {"dataset": {"sha256": "0" * 64}}))
    done = CliRunner().invoke(main, ["dataset", "card", str(folder)])
    assert done.exit_code == 2
    assert "is about other answers" in done.output
