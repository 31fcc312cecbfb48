"""Decisions files, their merging, agreement, and what is refused."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cultural_palette.cli import main
from cultural_palette.safe_text import guarded_cell, unguarded_cell
from cultural_palette.training.pentachromatic.synthesis_run import SynthesisRun, text_hash
from cultural_palette.training.review.agreement import agreement
from cultural_palette.training.review.decisions import (
    Decision,
    ReviewError,
    read_decisions,
    to_json,
)
from cultural_palette.training.review.export import Selection, export_csv
from cultural_palette.training.review.reconcile import UNRESOLVED, load_review, reconcile
from tests.training.pentachromatic_runs import COMMUNITIES, question, row, set_aside, write_run


def decision(n: int, community: str, kind: str = "approve", **more: Any) -> Decision:
    more = {"text_hash": text_hash(row(n, community)["response"])} | more
    if kind != "approve":
        more = {"reason": "because"} | more
    return Decision(f"p{n:05d}", community, kind, **more)


def saved(path: Path, reviewer: str, *decisions: Decision) -> Path:
    path.write_text(json.dumps(to_json(reviewer, "run", decisions)), encoding="utf-8")
    return path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(
        tmp_path / "run", 3, lambda n, c: set_aside(n, c) if (n, c) == (2, "asia") else row(n, c)
    )


# ---- agreement ----


def votes(*columns: str) -> dict[tuple[str, str], dict[str, str]]:
    """One letter a vote (a, e, r, or - for none), one string a reviewer."""
    kinds = {"a": "approve", "e": "edit", "r": "reject"}
    return {
        (f"q{n}", "asia"): {f"reviewer{k}": kinds[sign] for k, sign in enumerate(signs) if sign in kinds}
        for n, signs in enumerate(zip(*columns, strict=True))
    }


def test_cohens_kappa_of_two() -> None:
    pytest.importorskip("sklearn")
    # agree on 4 of 6: po = 2/3; each approves 4 of 6: pe = (4*4 + 2*2) / 36 = 5/9; (2/3 - 5/9) / (4/9) = 1/4
    found = agreement(votes("aaaarr", "aaarra"))
    assert (found.measure, found.n, found.reviewers) == ("cohen_kappa", 6, 2)
    assert found.value == pytest.approx(0.25)
    assert found.observed == pytest.approx(4 / 6, abs=1e-6)


def test_krippendorffs_alpha_of_three_with_gaps() -> None:
    pytest.importorskip("krippendorff")
    # units aa, rr, ar, two votes each: coincidences aa 2, rr 2, ar 1, ra 1; n = 6, a 3, r 3.
    # observed disagreement 2/6; expected 2*3*3 / (6*5) = 3/5; alpha = 1 - (1/3) / (3/5) = 4/9
    found = agreement(votes("a-a", "ar-", "-rr"))
    assert (found.measure, found.n, found.reviewers) == ("krippendorff_alpha", 3, 3)
    assert found.value == pytest.approx(4 / 9, abs=1e-6)
    assert found.observed == pytest.approx(2 / 3, abs=1e-6)


def test_two_with_gaps_is_alpha_over_what_both_decided() -> None:
    pytest.importorskip("krippendorff")
    found = agreement(votes("aar-", "arra"))
    assert (found.measure, found.n) == ("krippendorff_alpha", 3)


@pytest.mark.parametrize(
    ("columns", "note"),
    [
        (("aaa",), "one reviewer"),
        (("aa--", "--rr"), "no answer was decided by two"),
        (("aaa", "aaa"), "undefined"),
    ],
)
def test_no_figure_where_there_is_none(columns: tuple[str, ...], note: str) -> None:
    found = agreement(votes(*columns))
    assert found.value is None
    assert note in (found.note or "")


# ---- one decision, one file ----


@pytest.mark.parametrize(
    ("kind", "more", "says"),
    [
        ("maybe", {}, "expected one of approve, edit, reject"),
        ("reject", {"reason": " "}, "reject needs a reason"),
        ("edit", {"text": ""}, 'edit needs "text"'),
        ("reject", {"text": "x"}, "only edit takes one"),
        ("approve", {"reason": 3}, '"reason" is 3'),
    ],
)
def test_a_decision_refuses_nonsense(kind: str, more: dict[str, Any], says: str) -> None:
    with pytest.raises(ReviewError, match=says):
        decision(0, "asia", kind, **more)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not JSON"),
        ("[]", 'expected "format"'),
        ('{"format": "other/2"}', "other/2"),
        ('{"format": "cultural-palette-review/1", "reviewer": "a", "decisions": {}}', "expected a list"),
        ('{"format": "cultural-palette-review/1", "decisions": []}', "no reviewer"),
        (
            '{"format": "cultural-palette-review/1", "reviewer": "a", "decisions": '
            '[{"query_id": "q", "community": "asia", "decision": "reject"}]}',
            r"decisions\[0\] \(q / asia\): reject needs a reason",
        ),
    ],
)
def test_a_file_refuses_nonsense(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "d.json").write_text(text)
    with pytest.raises(ReviewError, match=says):
        read_decisions(tmp_path / "d.json")


def test_a_reviewer_may_not_contradict_themselves(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ReviewError, match="decides twice, and not the same, on p00000 / asia"):
        read_decisions(saved(tmp_path / "d.json", "ann", decision(0, "asia"), decision(0, "asia", "reject")))
    files = [
        read_decisions(saved(tmp_path / f"d{n}.json", "ann", each))
        for n, each in enumerate((decision(0, "asia"), decision(0, "asia", "reject")))
    ]
    with pytest.raises(ReviewError, match="otherwise than in another file"):
        reconcile(files, SynthesisRun(run).index(), "run")


# ---- merging ----


def test_the_rule(run: Path, tmp_path: Path) -> None:
    ann = saved(
        tmp_path / "ann.json", "ann",
        decision(0, "africa"), decision(0, "america"), decision(0, "asia"),
        decision(0, "europe", "edit", text="B"), decision(0, "oceania"),
    )  # fmt: skip
    ben = saved(
        tmp_path / "ben.json", "ben",
        decision(0, "africa"), decision(0, "america", "reject", reason="rude"),
        decision(0, "asia", "edit", text="A", reason="typo"), decision(0, "europe", "edit", text="C"),
    )  # fmt: skip
    index = SynthesisRun(run).index()
    review = reconcile([read_decisions(ann), read_decisions(ben)], index, "run")
    found = {key: each.decision for (_, key), each in review.verdicts.items()}
    assert found == {
        "africa": "approve",  # both
        "america": "reject",  # any reject
        "asia": "edit",  # else an edit
        "europe": UNRESOLVED,  # edits that differ
        "oceania": "approve",  # one reviewer
    }
    assert review.verdicts["p00000", "asia"].text == "A"
    assert review.verdicts["p00000", "america"].reason == "rude"
    assert not review.verdicts["p00000", "europe"].passes
    # 14 usable answers (3 x 5 - 1 set aside), 5 decided
    assert review.counts() == {
        "approve": 2, "edit": 1, "reject": 1, "unresolved": 1, "resolved": 0, "undecided": 9,
    }  # fmt: skip
    final = read_decisions(
        saved(tmp_path / "eva.json", "eva", decision(0, "europe", "edit", text="D"), decision(0, "america"))
    )
    settled = reconcile([read_decisions(ann), read_decisions(ben)], index, "run", final)
    assert settled.verdicts["p00000", "europe"].text == "D"
    assert settled.verdicts["p00000", "america"].decision == "approve"
    assert settled.counts()["resolved"] == 2
    assert settled.reviewers == ("ann", "ben")
    assert settled.agreement == review.agreement  # the resolver is no reviewer


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (Decision("p77777", "asia", "approve"), "the run has no answer p77777 / asia"),
        (Decision("p00000", "atlantis", "approve"), "the run has no answer p00000 / atlantis"),
        (
            Decision("p00000", "asia", "approve", text_hash="0" * 16),
            "was another when it was reviewed: p00000 / asia",
        ),
        (
            Decision("p00002", "asia", "approve"),
            "set aside by the synthesis, not to be decided on: p00002 / asia",
        ),
    ],
)
def test_decisions_are_about_the_runs_own_text(run: Path, tmp_path: Path, given: Decision, says: str) -> None:
    file = saved(tmp_path / "d.json", "ann", given)
    done = CliRunner().invoke(
        main, ["review", "import", str(run), str(file), "--out", str(tmp_path / "review")]
    )
    assert done.exit_code == 2
    assert says in done.output
    assert not (tmp_path / "review").exists()


def test_import_writes_a_review_that_comes_back(run: Path, tmp_path: Path) -> None:
    file = saved(
        tmp_path / "d.json", "ann", decision(0, "asia", "edit", text="A"), decision(1, "asia", text_hash=None)
    )
    out = tmp_path / "review"
    arguments = ["review", "import", str(run), str(file), "--out", str(out)]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    assert "1 approve, 1 edit, 12 undecided" in done.output
    assert "one reviewer: nothing to compare" in done.output
    assert "1 decisions do not say which text" in done.output
    index = SynthesisRun(run).index()
    assert load_review([out / "review.json"], index, "run") == reconcile([read_decisions(file)], index, "run")
    assert CliRunner().invoke(main, arguments).exit_code == 2  # not overwritten unasked
    assert CliRunner().invoke(main, [*arguments, "--overwrite"]).exit_code == 0
    other = write_run(tmp_path / "other", 3, lambda n, c: row(n, c, response=f"{c} says otherwise on {n}"))
    with pytest.raises(ReviewError, match="is not the text that was reviewed"):
        load_review([out / "review.json"], SynthesisRun(other).index(), "other")


# ---- CSV ----


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline="")))


def filled(
    path: Path,
    out: Path,
    cells: dict[tuple[str, str], dict[str, str]],
    delimiter: str = ",",
    bom: bool = True,
) -> Path:
    rows = [each | cells.get((each["query_id"], each["community"]), {}) for each in table(path)]
    with out.open("w", encoding="utf-8-sig" if bom else "utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return out


@pytest.mark.parametrize(("delimiter", "bom"), [(",", True), (";", False), ("\t", True)])
def test_a_spreadsheet_goes_out_and_comes_back(run: Path, tmp_path: Path, delimiter: str, bom: bool) -> None:
    source = SynthesisRun(run)
    index = source.index()
    assert export_csv(source, index, tmp_path / "out.csv", "Ann") == 14
    assert (tmp_path / "out.csv").read_bytes().startswith(b"\xef\xbb\xbf")
    text = 'Two lines,\n"quoted"; and more'
    cells = {
        ("p00000", "asia"): {"decision": "Edit ", "reason": "clumsy", "text": text},
        ("p00001", "europe"): {"decision": "reject", "reason": "rude"},
        ("p00000", "africa"): {"decision": "approve"},
    }
    back = filled(tmp_path / "out.csv", tmp_path / "decisions-x.csv", cells, delimiter, bom)
    file = read_decisions(back)
    assert (file.reviewer, file.undecided, len(file.decisions)) == ("Ann", 11, 3)
    verdicts = reconcile([file], index, "run").verdicts
    assert verdicts["p00000", "asia"].text == text
    assert verdicts["p00001", "europe"].reason == "rude"


@pytest.mark.parametrize("evil", ["=HYPERLINK(1)", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "'=1", "'plain"])
def test_no_cell_is_a_formula(tmp_path: Path, evil: str) -> None:
    assert not guarded_cell(evil).startswith(("=", "+", "-", "@", "\t", "\r"))
    assert unguarded_cell(guarded_cell(evil)) == evil
    run = SynthesisRun(write_run(tmp_path / "run", 1, lambda n, c: row(n, c, response=evil, query=evil)))
    export_csv(run, run.index(), tmp_path / "out.csv")
    cells = table(tmp_path / "out.csv")[0]
    assert cells["query"] == cells["response"] == guarded_cell(evil)


def test_what_is_wrong_in_a_spreadsheet_is_named_by_line(run: Path, tmp_path: Path) -> None:
    source = SynthesisRun(run)
    export_csv(source, source.index(), tmp_path / "out.csv", "Ann")
    for cells, says in (
        ({"decision": "reject"}, r"bad.csv:2 \(p00000 / africa\): reject needs a reason"),
        ({"decision": "perhaps"}, r"bad.csv:2 .*'perhaps'"),
        ({"reason": "rude"}, "bad.csv:2: a reason or a text, but no decision"),
        ({"decision": "approve", "reviewer": "Ben"}, "several reviewers"),
    ):
        with pytest.raises(ReviewError, match=says):
            read_decisions(filled(tmp_path / "out.csv", tmp_path / "bad.csv", {("p00000", "africa"): cells}))
    (tmp_path / "bad.csv").write_text("query,verdict\n")
    with pytest.raises(ReviewError, match="no column 'query_id'"):
        read_decisions(tmp_path / "bad.csv")
    (tmp_path / "bad.csv").write_bytes(
        "query_id;community;decision;reason;text\nq;asia;reject;unhöflich;\n".encode("latin-1")
    )
    with pytest.raises(ReviewError, match="not UTF-8"):
        read_decisions(tmp_path / "bad.csv")


# ---- which queries ----


def test_a_sample_is_the_same_for_every_reviewer(tmp_path: Path) -> None:
    index = SynthesisRun(write_run(tmp_path / "run", 30)).index()
    chosen = [query.query_id for query in Selection(5, seed=1).of(index).queries]
    assert len(chosen) == 5 and chosen == sorted(chosen)
    assert [query.query_id for query in Selection(5, seed=1).of(index).queries] == chosen
    assert [query.query_id for query in Selection(5, seed=2).of(index).queries] != chosen
    assert len(Selection(99).of(index).queries) == 30


def test_only_findings(run: Path, tmp_path: Path) -> None:
    index = SynthesisRun(run).index()
    assert [query.query for query in Selection(only_findings=True).of(index).queries] == [question(2)]
    clean = SynthesisRun(write_run(tmp_path / "clean", 1)).index()
    with pytest.raises(ReviewError.__mro__[1], match="validation found nothing"):
        Selection(only_findings=True).of(clean)


def test_export_refuses_to_overwrite(run: Path, tmp_path: Path) -> None:
    for name in ("review.html", "review.csv"):
        arguments = ["review", "export", str(run), "--out", str(tmp_path / name)]
        done = CliRunner().invoke(main, arguments)
        assert done.exit_code == 0, done.output
        assert "3 of 3 queries, 14 answers to decide on" in done.output
        assert CliRunner().invoke(main, arguments).exit_code == 2
        assert CliRunner().invoke(main, [*arguments, "--overwrite"]).exit_code == 0
    assert (tmp_path / "review.csv").read_bytes().startswith(b"\xef\xbb\xbfquery_id,query,")
    assert all(community in (tmp_path / "review.html").read_text("utf-8") for community in COMMUNITIES)
