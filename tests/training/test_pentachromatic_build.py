"""A synthesis run becomes a dataset: counts, forms, gate, and nothing half-written."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

pytest.importorskip("pyarrow")
pytest.importorskip("datasketch")

from cultural_palette.artifacts import MANIFEST, RunFolder
from cultural_palette.cli import main
from cultural_palette.errors import ArtifactError, UsageError
from cultural_palette.training.pentachromatic.build import DatasetSettings, build, new_folder
from cultural_palette.training.pentachromatic.forms import FORMS
from cultural_palette.training.pentachromatic.streams import JsonLines
from cultural_palette.training.pentachromatic.synthesis_run import RunRowError, SynthesisRun, text_hash
from cultural_palette.training.preferences import check_groups, read_groups
from cultural_palette.training.review.decisions import Decision, DecisionsFile
from cultural_palette.training.review.reconcile import reconcile
from tests.training.pentachromatic_runs import COMMUNITIES, question, row, set_aside, write_run


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def made(path: Path, out: Path, plan: DatasetSettings | None = None, **more: Any) -> dict[str, Any]:
    return build(SynthesisRun(path), out, plan or DatasetSettings(), **more)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", 12)


def test_counts_follow_from_the_queries(run: Path, tmp_path: Path) -> None:
    manifest = made(run, tmp_path / "ds", DatasetSettings(test_share=0.3))
    # 12 queries x 5 communities = 60 answers; each community has 12 x (5 - 1) = 48 pairs, all have 240
    assert manifest["counts"]["complete"] == 12
    assert manifest["counts"]["answers"] == 60
    assert manifest["counts"]["pairs_per_community"] == 48
    assert manifest["counts"]["pairs"] == 240
    for form, per_query in (("preferences", 4), ("groups", 1), ("published", 4)):
        for key in COMMUNITIES:
            found = {
                split: len(rows(tmp_path / "ds" / form / split / f"{FORMS[form].file.format(key)}.jsonl"))
                for split in ("train", "test")
            }
            assert found["train"] + found["test"] == 12 * per_query
            assert found["test"] == manifest["splits"]["queries"]["test"] * per_query > 0


@pytest.mark.slow
def test_the_papers_size(tmp_path: Path) -> None:
    """7,805 queries -> 39,025 answers -> 31,220 pairs per community, 156,100 in all."""

    def small(n: int, community: str) -> dict[str, Any]:
        return row(n, community, steps=None, usage=None)

    run = SynthesisRun(write_run(tmp_path / "run", 7_805, small))
    manifest = build(run, tmp_path / "ds", DatasetSettings(formats=("jsonl",)))
    assert manifest["counts"]["answers"] == 39_025
    assert manifest["counts"]["pairs_per_community"] == 31_220
    assert manifest["counts"]["pairs"] == 156_100
    written: Counter[str] = Counter()
    for path, facts in manifest["files"].items():
        with (tmp_path / "ds" / path).open("rb") as lines:
            assert sum(1 for _ in lines) == facts["rows"]
        written[path.partition("/")[0]] += facts["rows"]
    assert written["preferences"] == written["published"] == 156_100
    assert written["groups"] == written["answers.jsonl"] == 39_025


def test_what_palette_train_reads(run: Path, tmp_path: Path) -> None:
    made(run, tmp_path / "ds", DatasetSettings(test_share=0))
    groups = read_groups(tmp_path / "ds" / "groups" / "train", COMMUNITIES)
    for key in COMMUNITIES:
        check_groups(groups[key])
        first = groups[key][0]
        assert first["prompt"] == [{"role": "user", "content": question(0)}]
        assert first["chosen"] == row(0, key)["response"]
        assert first["rejected"] == [row(0, other)["response"] for other in COMMUNITIES if other != key]


def test_the_three_forms_say_the_same(run: Path, tmp_path: Path) -> None:
    made(run, tmp_path / "ds", DatasetSettings(test_share=0))
    folder = tmp_path / "ds"
    pairs = rows(folder / "preferences" / "train" / "asia.jsonl")[:4]
    own, other = row(0, "asia")["response"], row(0, "africa")["response"]
    assert pairs[0] == {
        "prompt": [{"role": "user", "content": question(0)}],
        "chosen": [{"role": "assistant", "content": own}],
        "rejected": [{"role": "assistant", "content": other}],
    }
    published = rows(folder / "published" / "train" / "asia.jsonl")
    assert published[0] == {"query": question(0), "response": own, "rejected_response": other}
    assert [each["rejected"][0]["content"] for each in pairs] == [
        each["rejected_response"] for each in published[:4]
    ]


def test_parquet_holds_what_jsonl_holds(run: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    manifest = made(run, tmp_path / "ds", DatasetSettings(test_share=0.3))
    folder = tmp_path / "ds"
    for path in [path for path in manifest["files"] if path.endswith(".jsonl") and "/" in path]:
        table = pq.read_table(folder / Path(path).with_suffix(".parquet"))
        assert table.to_pylist() == rows(folder / path)
    answers = pq.read_table(folder / "answers" / "train.parquet").to_pylist()
    n = int(answers[0]["query_id"][1:])
    assert answers[0]["respond"] == f"First thought of africa on {n}."
    assert answers[0]["birth_country"] == "KEN"
    assert json.loads(answers[0]["prompts"]) == row(n, "africa")["prompts"]


def test_no_query_is_in_both_splits(run: Path, tmp_path: Path) -> None:
    made(run, tmp_path / "ds", DatasetSettings(test_share=0.4))
    sides: dict[str, set[str]] = {}
    for each in rows(tmp_path / "ds" / "answers.jsonl"):
        sides.setdefault(each["query_id"], set()).add(each["split"])
    assert all(len(found) == 1 for found in sides.values())
    assert {side for found in sides.values() for side in found} == {"train", "test"}


def test_an_incomplete_query_gives_no_preferences_and_is_listed(tmp_path: Path) -> None:
    def change(n: int, community: str) -> dict[str, Any] | None:
        if (n, community) == (1, "asia"):
            return set_aside(n, community)
        return None if (n, community) == (2, "europe") else row(n, community)

    manifest = made(write_run(tmp_path / "run", 4, change), tmp_path / "ds", DatasetSettings(test_share=0))
    assert manifest["counts"]["complete"] == 2
    assert manifest["counts"]["incomplete"] == 2
    assert manifest["counts"]["missing_answers"] == {"absent": 1, "set_aside": 1}
    assert manifest["source"]["findings"] == {"stereotype": 1}
    assert [(each["query_id"], each["missing"]) for each in rows(tmp_path / "ds" / "incomplete.jsonl")] == [
        ("p00001", {"asia": "set_aside"}),
        ("p00002", {"europe": "absent"}),
    ]
    groups = rows(tmp_path / "ds" / "groups" / "train" / "groups_africa.jsonl")
    assert [each["prompt"][0]["content"] for each in groups] == [question(0), question(3)]
    answers = rows(tmp_path / "ds" / "answers.jsonl")
    assert Counter(each["complete"] for each in answers) == {True: 10, False: 8}
    assert all(each["status"] == "ok" for each in answers)


def test_nothing_complete_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", 2, lambda n, c: set_aside(n, c) if c == "asia" else row(n, c))
    with pytest.raises(UsageError, match=r"No query .*2 set_aside"):
        made(run, tmp_path / "ds")
    assert [each.name for each in tmp_path.iterdir()] == ["run"]


def test_a_later_row_replaces_an_earlier_one(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run") as folder:
        for community in COMMUNITIES:
            folder.append(set_aside(0, community) if community == "asia" else row(0, community))
        folder.append(row(0, "asia", response="At the second try."))
        folder.finish({"map": "continents", "communities": list(COMMUNITIES)})
    manifest = made(tmp_path / "run", tmp_path / "ds", DatasetSettings(test_share=0))
    assert manifest["source"]["rows_replaced"] == 1
    assert manifest["source"]["statuses"] == {"ok": 5}
    assert (
        rows(tmp_path / "ds" / "groups" / "train" / "groups_asia.jsonl")[0]["chosen"] == "At the second try."
    )


def test_rows_in_any_order_are_joined_by_query(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run") as folder:
        for community in reversed(COMMUNITIES):
            for n in (1, 0):
                folder.append(row(n, community))
        folder.finish({"map": "continents", "communities": list(COMMUNITIES)})
    made(tmp_path / "run", tmp_path / "ds", DatasetSettings(test_share=0))
    groups = read_groups(tmp_path / "ds" / "groups" / "train", COMMUNITIES)
    assert groups["africa"][1]["rejected"] == [row(0, c)["response"] for c in COMMUNITIES[1:]]


def decisions(name: str, **said: tuple[str, ...]) -> DecisionsFile:
    """`p0_asia=("edit", "why", "text")`."""
    found = []
    for key, (decision, *more) in said.items():
        number, community = key[1:].split("_")
        n = int(number)
        reason, text = [*more, None, None][:2]
        found.append(
            Decision(f"p{n:05d}", community, decision, reason, text, text_hash(row(n, community)["response"]))
        )
    return DecisionsFile(name, "run", tuple(found), Path(f"{name}.json"))


def approved(n: int) -> dict[str, tuple[str, ...]]:
    return {f"p{n}_{community}": ("approve",) for community in COMMUNITIES}


def test_the_gate_lets_the_approved_and_edited_pass_only(run: Path, tmp_path: Path) -> None:
    source = SynthesisRun(run)
    index = source.index()
    said = approved(0) | approved(1) | approved(2)
    said |= {"p0_asia": ("edit", "clumsy", "A better one."), "p1_europe": ("reject", "stereotype")}
    review = reconcile([decisions("ann", **said)], index, "run")
    plan = DatasetSettings(test_share=0, gate=True)
    manifest = build(source, tmp_path / "ds", plan, index=index, review=review)
    assert manifest["counts"]["complete"] == 2  # queries 0 and 2; 1 lost Europe, the other nine are undecided
    assert manifest["counts"]["missing_answers"] == {"rejected": 1, "undecided": 45}
    groups = read_groups(tmp_path / "ds" / "groups" / "train", COMMUNITIES)
    assert groups["asia"][0]["chosen"] == "A better one."
    assert groups["africa"][0]["rejected"][1] == "A better one."
    kept = rows(tmp_path / "ds" / "answers.jsonl")
    assert Counter(each["review"] for each in kept) == {"approve": 13, "edit": 1}
    assert "p1_europe" not in {f"p{int(each['query_id'][1:])}_{each['community']}" for each in kept}
    card = (tmp_path / "ds" / "README.md").read_text(encoding="utf-8")
    assert "13 approved, 1 edited, 1 rejected, 0 unresolved, 45 of 60 undecided" in card


def test_without_the_gate_rejects_go_and_the_undecided_stay(run: Path, tmp_path: Path) -> None:
    source = SynthesisRun(run)
    index = source.index()
    review = reconcile([decisions("ann", p3_asia=("reject", "stereotype"))], index, "run")
    manifest = build(source, tmp_path / "ds", DatasetSettings(test_share=0), index=index, review=review)
    assert manifest["counts"]["complete"] == 11
    assert manifest["counts"]["missing_answers"] == {"rejected": 1}


def test_the_gate_needs_decisions(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there are no decisions"):
        made(run, tmp_path / "ds", DatasetSettings(gate=True))


def test_excluded_queries_are_left_out_whole(run: Path, tmp_path: Path) -> None:
    (tmp_path / "leaks.jsonl").write_text(
        '{"query_id": "p00003", "reason": "near a survey"}\n{"query_id": "x"}\n'
    )
    arguments = ["dataset", "build", str(run), "--out", str(tmp_path / "ds"), "--json", "--exclude"]
    done = CliRunner().invoke(main, [*arguments, str(tmp_path / "leaks.jsonl")])
    manifest = json.loads(done.output)
    assert manifest["counts"]["missing_answers"] == {"excluded": 5}
    assert (manifest["excluded"]["queries"], manifest["excluded"]["unknown"]) == (2, 1)
    assert question(3) not in (tmp_path / "ds" / "answers.jsonl").read_text(encoding="utf-8")
    (tmp_path / "leaks.jsonl").write_text("p00003\n")
    done = CliRunner().invoke(main, [*arguments, str(tmp_path / "leaks.jsonl"), "--overwrite"])
    assert (done.exit_code, "leaks.jsonl:1: expected" in done.output) == (2, True)


def test_a_finished_dataset_is_not_overwritten_unasked(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "ds"
    made(run, out)
    before = (out / MANIFEST).read_bytes()
    with pytest.raises(UsageError, match="there already"):
        made(run, out, DatasetSettings(seed=1))
    assert (out / MANIFEST).read_bytes() == before
    assert made(run, out, DatasetSettings(seed=1), overwrite=True)["splits"]["seed"] == 1
    assert sorted(each.name for each in tmp_path.iterdir()) == ["ds", "run"]


def test_a_strangers_folder_is_never_overwritten(run: Path, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("x")
    with pytest.raises(UsageError, match="no dataset folder"):
        made(run, tmp_path / "home", overwrite=True)
    assert (tmp_path / "home" / "thesis.txt").read_text() == "x"


def test_a_full_disk_leaves_the_old_dataset_and_no_part(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "ds"
    made(run, out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    write, count = JsonLines.write, iter(range(1000))

    def full(self: JsonLines, each: dict[str, Any]) -> None:
        if next(count) > 100:
            raise OSError(28, "No space left on device")
        write(self, each)

    monkeypatch.setattr(JsonLines, "write", full)
    with pytest.raises(ArtifactError, match="No space left"):
        made(run, out, overwrite=True)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert sorted(each.name for each in tmp_path.iterdir()) == ["ds", "run"]


def test_a_living_build_is_respected_and_what_is_not_ours_stays(run: Path, tmp_path: Path) -> None:
    mine = [tmp_path / name for name in (".ds.part", ".ds.old", "ds.part", "ds.old")]
    for folder in mine:
        folder.mkdir()
        (folder / "answers.jsonl").write_text("mine")
    with new_folder(tmp_path / "ds"), pytest.raises(ArtifactError, match="in use by another run"):
        made(run, tmp_path / "ds")
    (tmp_path / "ds").rmdir()
    assert made(run, tmp_path / "ds")["counts"]["complete"] == 12
    assert made(run, tmp_path / "ds", overwrite=True)["counts"]["complete"] == 12
    assert [(folder / "answers.jsonl").read_text() for folder in mine] == ["mine"] * 4


def test_an_unfinished_run_is_refused_unless_asked_for(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run", {"map": "continents", "communities": list(COMMUNITIES)}) as folder:
        for community in COMMUNITIES:
            folder.append(row(0, community))
    with pytest.raises(UsageError, match="not finished"):
        SynthesisRun(tmp_path / "run")
    source = SynthesisRun(tmp_path / "run", unfinished=True)
    manifest = build(source, tmp_path / "ds", DatasetSettings())
    assert manifest["source"]["finished"] is False
    assert "(not finished)" in (tmp_path / "ds" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{torn", r"rows.jsonl:3: not JSON"),
        (json.dumps(row(0, "atlantis")), r"rows.jsonl:3: community 'atlantis' is not one of africa"),
        (json.dumps(row(0, "asia", response=" ")), r'rows.jsonl:3: "response" is \' \' though'),
        (json.dumps(row(0, "asia", status="fine")), r'rows.jsonl:3: "status" is \'fine\''),
        (json.dumps(row(0, "asia", query="Another?")), r"rows.jsonl:3: query 'p00000' reads 'Another\?'"),
        ("[]", r"rows.jsonl:3: expected a JSON object"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(tmp_path: Path, line: str, says: str) -> None:
    run = write_run(tmp_path / "run", 1)
    lines = (run / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    (run / "rows.jsonl").write_text("\n".join([*lines[:2], line, *lines[2:]]) + "\n", encoding="utf-8")
    with pytest.raises(RunRowError, match=says):
        SynthesisRun(run).index()


def test_half_a_surrogate_pair_does_not_stop_the_export(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", 1, lambda n, c: row(n, c, response=f"{c} \ud83d broken"))
    made(run, tmp_path / "ds", DatasetSettings(test_share=0))
    assert (
        rows(tmp_path / "ds" / "groups" / "train" / "groups_asia.jsonl")[0]["chosen"] == "asia \ufffd broken"
    )


@pytest.mark.parametrize(
    "said",
    [
        {"map": {"key": "poles", "communities": {"north": "the North", "south": "the South"}}},
        {"map": "poles", "communities": [{"key": "north"}, {"key": "south"}]},
        {"map": "poles", "communities": {"north": ["NOR"], "south": ["CHL"]}},
    ],
)
def test_a_map_of_two(tmp_path: Path, said: dict[str, Any]) -> None:
    keys = ["north", "south"]
    with RunFolder(tmp_path / "run") as folder:
        for n in range(3):
            for key in keys:
                folder.append(row(n, key))
        folder.finish(said)
    manifest = made(tmp_path / "run", tmp_path / "ds", DatasetSettings(test_share=0))
    assert manifest["map"] == "poles"
    assert manifest["counts"]["pairs_per_community"] == 3
    assert len(read_groups(tmp_path / "ds" / "groups" / "train", keys)["south"]) == 3


@pytest.mark.slow
def test_an_agent_trains_on_the_export(run: Path, tmp_path: Path, tiny: Any) -> None:
    from cultural_palette.training.job import run_job
    from cultural_palette.training.jobs import Job
    from cultural_palette.training.orpo_settings import OrpoSettings

    made(run, tmp_path / "ds", DatasetSettings(test_share=0))
    settings = OrpoSettings(epochs=1, rank=2, batch_size=6, max_length=256, logging_steps=1)
    data = tmp_path / "ds" / "groups" / "train"
    job = Job("asia", 1, tmp_path / "asia", str(tiny[2]), data, COMMUNITIES, settings)
    assert run_job(job)["groups"] == 12
    assert (tmp_path / "asia" / "adapter_model.safetensors").is_file()


def test_the_command(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "ds"
    done = CliRunner().invoke(main, ["dataset", "build", str(run), "--out", str(out), "--seed", "4"])
    assert done.exit_code == 0, done.output
    assert "60 answers -> 48 pairs for each of africa, america" in done.output
    done = CliRunner().invoke(main, ["dataset", "show", str(out), "--verify"])
    assert "files are as they were built" in done.output
    (out / "answers.jsonl").write_text("")
    done = CliRunner().invoke(main, ["dataset", "show", str(out), "--verify"])
    assert done.exit_code == 1
    assert "not as it was built" in done.output
    done = CliRunner().invoke(main, ["dataset", "build", str(tmp_path), "--out", str(out)])
    assert done.exit_code == 2
    assert "no folder of `palette synthesize" in done.output
