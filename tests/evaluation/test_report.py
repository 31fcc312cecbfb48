"""The report as a user gets it: files, page and command."""

from __future__ import annotations

import csv
import importlib
import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner

from cultural_palette.artifacts import write_whole
from cultural_palette.cli import main
from cultural_palette.evaluation.metrics import ALIGNMENTS
from cultural_palette.evaluation.report.layout import (
    Cell,
    Column,
    Line,
    Section,
    Table,
    to_html,
    to_latex,
    to_markdown,
)
from cultural_palette.evaluation.report.peers import PEERS
from tests.evaluation.report_runs import made_up_run, made_up_semantics

QUICK = ("--permutations", "500")


def report(*arguments: str | Path) -> str:
    result = CliRunner().invoke(main, ["report", *map(str, arguments), *QUICK])
    assert result.exit_code == 0, result.output
    return result.output


def refused(*arguments: str | Path) -> str:
    result = CliRunner().invoke(main, ["report", *map(str, arguments), *QUICK])
    assert result.exit_code != 0
    assert isinstance(result.exception, SystemExit), result.exception
    return result.output


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run and its report, beside a semantic run."""
    folder = tmp_path_factory.mktemp("made")
    failing = {"prompting": 0.4}
    made_up_run(folder / "run", questions=8, failing=failing, models={"base": "openai:Qwen2.5-7B-Instruct"})
    made_up_semantics(folder / "semantic")
    report(folder / "run", "--semantic", folder / "semantic", "--cases", "2")
    return folder / "run" / "report"


class Page(HTMLParser):
    """Tags that are open at the end, ids, and addresses outside the page."""

    VOID = ("meta", "br", "link", "img", "path", "use", "rect")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.outside: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attributes:
            if name == "id" and value:
                self.ids.append(value)
            if name in ("src", "href", "xlink:href") and value and not value.startswith(("#", "data:")):
                self.outside.append(value)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_the_page_needs_nothing_else(made: Path) -> None:
    text = (made / "report.html").read_text()
    page = Page(text)
    assert page.open == [] and page.outside == []
    assert len(page.ids) == len(set(page.ids))
    assert not re.search(r"@import|url\((?!#)", text)
    for reference in re.findall(r'(?:url\(#|xlink:href="#)([^")]+)', text):
        assert reference in page.ids
    for heading in ("Table 1", "Tests", "Calibration", "Semantic consistency", "Case studies", "Failures"):
        assert f"<h2>{heading}</h2>" in text


def test_what_models_wrote_stays_text(made: Path) -> None:
    text = (made / "report.html").read_text()
    assert "&lt;b&gt;and&lt;/b&gt;" in text and "<b>and</b>" not in text


def test_the_cases_show_every_stage_and_every_method(made: Path) -> None:
    text = (made / "report.html").read_text()
    cases = text.split("<article>")[1:]
    assert [case[4 : case.index(":")] for case in cases] == ["Best", "Median", "Worst", "By lot", "By lot"]
    for case in cases:
        for part in ("1. Drafts", "2. Regulated account", "3. Decision and survey", "Blend of communities"):
            assert f"<h3>{part}</h3>" in case
        for method in ("Vanilla", "Prompting", "Cultural Palette", "without drafts"):
            assert f'<th scope="row">{method}</th>' in case
    assert "ModelError: the server hung up" in text


def test_all_numbers_stand_in_the_tables(made: Path) -> None:
    with (made / "tables" / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["metric"] for row in rows} == set(ALIGNMENTS)
    averages = {(r["metric"], r["method"]): r for r in rows if r["column"] == "average" and r["items"]}
    assert len([key for key in averages if key[1] == "vanilla"]) == 4
    assert {row["community"] for row in rows if row["column"] == "KEN"} == {"Africa"}
    assert {row["kind"] for row in rows} >= {"floor", "reference", "baseline", "ours", "ablation"}
    with (made / "tables" / "table1.csv").open() as file:
        wide = {row["method"]: row for row in csv.DictReader(file)}
    assert wide["vanilla"]["average"] == averages["jsdist_e", "vanilla"]["mean"]
    told = {name: int(wide["prompting"][name]) for name in ("ok", "unreadable", "failed", "missing")}
    assert sum(told.values()) == 80 and told["failed"] > 0 and told["unreadable"] > 0
    with (made / "tables" / "failures.csv").open() as file:
        failed = list(csv.DictReader(file))
    assert len(failed) == told["failed"] + told["unreadable"]
    text = (made / "report.md").read_text()
    assert f"Prompting {told['ok']} / {told['unreadable']} / {told['failed']} / 0" in text


def test_both_metrics_stand_in_one_report(made: Path) -> None:
    text = (made / "report.md").read_text()
    assert "1 - JSD, nats (eq. 5)" in text and "1 - JS distance, base e (comparable to the paper)" in text
    assert {"table1_jsdist_e.tex", "table1_jsd_e.tex"} <= {file.name for file in (made / "tables").iterdir()}


def test_the_papers_rows_stand_beside_ours_for_the_same_base(made: Path) -> None:
    text = (made / "tables" / "table1_jsdist_e.md").read_text()
    row = next(line for line in text.splitlines() if "paper: Cultural Palette" in line)
    assert [cell.strip() for cell in row.split("|")[2:7]] == ["75.50", "69.77", "73.46", "76.51", "69.57"]
    assert "repeats its Llama row" in text
    assert "paper:" not in (made / "tables" / "table1_jsd_e.md").read_text()


@pytest.mark.usefixtures("no_pictures")
def test_another_base_model_is_shown_apart_and_only_when_asked_for(tmp_path: Path) -> None:
    run = made_up_run(tmp_path / "run", questions=3)
    report(run)
    assert "paper:" not in (run / "report" / "report.md").read_text()
    report(run, "--paper", "always")
    text = (run / "report" / "report.md").read_text()
    assert "ANOTHER base model" in text and "paper:" not in text


def test_pictures_come_as_svg_and_png(made: Path) -> None:
    for key in ("averages", "heatmap", "radar", "calibration", "semantic"):
        assert (made / "figures" / f"{key}.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (made / "figures" / f"{key}.svg").read_text()


def test_the_same_run_gives_the_same_report(made: Path, tmp_path: Path) -> None:
    run = made.parent
    report(run, "--semantic", run.parent / "semantic", "--cases", "2", "--out", tmp_path / "again")
    first = {f.relative_to(made): f.read_bytes() for f in made.rglob("*") if f.is_file()}
    again = tmp_path / "again"
    assert first == {f.relative_to(again): f.read_bytes() for f in again.rglob("*") if f.is_file()}


@pytest.mark.usefixtures("no_pictures")
def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    run = made_up_run(tmp_path / "run", questions=2)
    (tmp_path / "diary").mkdir()
    (tmp_path / "diary" / "monday.txt").write_text("dear diary")
    assert "holds something else than a report" in refused(run, "--out", tmp_path / "diary")
    assert [file.name for file in (tmp_path / "diary").iterdir()] == ["monday.txt"]


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("again", [False, True], ids=["the first report", "over an older one"])
def test_a_report_stopped_anywhere_can_be_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    """Killed before any of its files, between them, or amid one; a full disk is the same."""
    run, out = made_up_run(tmp_path / "run", questions=2), tmp_path / "out"
    report(run, "--out", tmp_path / "whole")
    whole = {f.name: f.read_bytes() for f in (tmp_path / "whole").rglob("*") if f.is_file()}
    for stop in (0, 1, 2, len(whole) // 2, len(whole)):
        shutil.rmtree(out, ignore_errors=True)
        if again:
            report(run, "--out", out)
        writes = iter(range(1000))

        def killed(path: Path, data: str | bytes, stop: int = stop, writes: Iterator[int] = writes) -> None:
            if next(writes) == stop:
                path.parent.mkdir(parents=True, exist_ok=True)
                (path.parent / f".{path.name}.0123abcd.part").write_bytes(b"half")
                raise OSError("No space left on device")
            write_whole(path, data)

        with monkeypatch.context() as patch:
            patch.setattr("cultural_palette.evaluation.report.write.write_whole", killed)
            with pytest.raises(AssertionError):
                report(run, "--out", out)
        report(run, "--out", out)
        assert {f.name: f.read_bytes() for f in out.rglob("*") if f.is_file()} == whole


@pytest.mark.usefixtures("no_pictures")
def test_figures_of_an_older_report_do_not_stay(tmp_path: Path) -> None:
    run, semantic = (
        made_up_run(tmp_path / "run", questions=2),
        made_up_semantics(tmp_path / "semantic", queries=3),
    )
    report(run, "--semantic", semantic)
    assert (run / "report" / "figures" / "semantic.svg").exists()
    report(run)
    assert not (run / "report" / "figures" / "semantic.svg").exists()
    listed = json.loads((run / "report" / "report.json").read_text())["files"]
    assert all((run / "report" / name).exists() for name in listed)


@pytest.mark.usefixtures("no_pictures")
def test_an_unfinished_run_is_marked_everywhere(tmp_path: Path) -> None:
    run = made_up_run(tmp_path / "run", questions=3, finish=False)
    assert "--partial" in refused(run)
    assert all(line.startswith("PARTIAL. ") for line in report(run, "--partial").splitlines()[:-1])
    assert 'class="partial"' in (run / "report" / "report.html").read_text()
    assert json.loads((run / "report" / "report.json").read_text())["partial"] is True
    for file in (run / "report" / "tables").glob("*.tex"):
        assert "PARTIAL" in file.read_text(), file.name


@pytest.mark.usefixtures("no_pictures")
def test_a_method_that_fails_on_everything_disturbs_nothing(tmp_path: Path) -> None:
    run = made_up_run(tmp_path / "run", questions=3, failing={"cultural-palette": 1.0})
    output = report(run)
    assert "Cultural Palette answered nothing" in output
    line = next(
        x for x in (run / "report" / "report.md").read_text().splitlines() if "| Cultural Palette |" in x
    )
    assert set(line.replace("Cultural Palette", "").split()) == {"|", "–"}


@pytest.mark.usefixtures("no_pictures")
def test_a_method_without_any_answer_is_named(tmp_path: Path) -> None:
    run = made_up_run(tmp_path / "run", questions=3, failing={"vanilla": 1.0})
    output = report(run)
    assert "No answer at all, so in no figure and no test: Vanilla." in output
    page = (run / "report" / "report.html").read_text()
    assert page.count("Not shown, for every row failed or can not be read: Vanilla.") >= 3


@pytest.mark.usefixtures("no_pictures")
def test_few_batteries_are_said_to_tell_nothing(tmp_path: Path) -> None:
    run = made_up_run(tmp_path / "run", questions=4)
    output = report(run)
    # 2 / 2**4 = 0.125, times 3 methods that are compared with the best baseline
    assert "these items can not tell, however large the difference: the smallest p (Holm)" in output
    assert "0.375" in output and "beyond chance, " not in output
    assert "| none |" in (run / "report" / "tables" / "tests.md").read_text()


@pytest.mark.usefixtures("no_pictures")
def test_every_claim_has_its_test_and_every_number_its_settings(tmp_path: Path) -> None:
    run = made_up_run(tmp_path / "run", questions=12)
    manifest = json.loads((run / "manifest.json").read_text())
    settings = {"permutations": 2, "readout": "exact", "prompt_order": "paper", "temperature": 0.3}
    (run / "manifest.json").write_text(json.dumps({**manifest, "settings": settings}))
    output = report(run)
    assert "Against without drafts: better" in output and "Right country: a prediction" in output
    text = (run / "report" / "report.md").read_text()
    assert "Planned contrasts of Cultural Palette" in text
    assert "Made with orders of the options 2, readout exact, drafts at temperature 0.3, prompt order" in text
    with (run / "report" / "tables" / "tests.csv").open() as file:
        families = {row["family"] for row in csv.DictReader(file)}
    assert families == {"best baseline", "best floor", "planned"}
    for table in ("table1_jsdist_e.md", "table1_jsd_e.md", "metrics.md"):
        assert "Right country: gain" in (run / "report" / "tables" / table).read_text()
    assert "earth mover's" in text and "| mode |" in text
    assert "place bias" in (run / "report" / "tables" / "outcomes.md").read_text()


@pytest.mark.usefixtures("no_pictures")
def test_the_drawn_items_are_held_against_the_whole_survey(tmp_path: Path) -> None:
    run = made_up_run(tmp_path / "run", questions=6)
    floors = json.loads((run / "floors.json").read_text())
    floors["uniform"]["whole"] = dict.fromkeys(ALIGNMENTS, 50.0)
    (run / "floors.json").write_text(json.dumps(floors))
    report(run)
    text = (run / "report" / "report.md").read_text()
    assert re.search(
        r"The drawn items against the whole selection: uniform \d+\.\d\d here, 50\.00 on all", text
    )


@pytest.mark.usefixtures("no_pictures")
def test_peers_scores_stand_in_a_table_of_their_own(tmp_path: Path) -> None:
    run = made_up_run(tmp_path / "run", questions=3)
    report(run)
    assert not (run / "report" / "tables" / "peers.md").exists()
    report(run, "--peer", "modular-pluralism", "--peer", "culturespa")
    text = (run / "report" / "tables" / "peers.md").read_text()
    assert "Modular Pluralism's: JS distance" in text and "CultureSPA's: score" in text


def test_the_peers_of_the_command_are_the_reports() -> None:
    assert importlib.import_module("cultural_palette.cli.report").PEERS == PEERS


def test_one_country_one_method_one_question(tmp_path: Path) -> None:
    run = made_up_run(tmp_path / "run", {"mine:method": 0.5}, countries=("KEN",), questions=1, runs=1)
    assert "No baseline has an answer in this run" in report(run)
    assert not (run / "report" / "figures" / "radar.svg").exists()


def test_a_semantic_run_by_itself(tmp_path: Path) -> None:
    run = made_up_semantics(tmp_path / "run", models={"prompting": "openai:meta-llama/Llama-3.1-8B-Instruct"})
    assert report(run).startswith("MoErges: ")
    text = (run / "report" / "report.md").read_text()
    assert "Prompting, africa 59.58" in text and "| TIES |" in text
    # floors of 40 to 51, mean 45.5, in every community
    floor = next(line for line in text.splitlines() if line.startswith("| another community's gold answer"))
    assert [cell.strip() for cell in floor.split("|")[2:8]] == ["45.50"] * 6
    moerges = next(line for line in text.splitlines() if line.startswith("| MoErges"))
    average, gain = (float(moerges.split("|")[k].strip().strip("*")) for k in (7, 9))
    assert gain == pytest.approx(average - 45.5, abs=0.011)
    right = float(moerges.split("|")[11].strip())  # under the others' gold answers each scores half
    assert right == pytest.approx(average / 2, abs=0.011)
    plain = next(line for line in text.splitlines() if line.startswith("| Prompting"))
    over = float(moerges.split("|")[13].strip())
    assert over == pytest.approx(average - float(plain.split("|")[7].strip().strip("*")), abs=0.011)
    assert plain.split("|")[13].strip() == "–"
    assert "| **References** |" in text and "Words are no model of inference." in text
    itself = next(line for line in text.splitlines() if line.startswith("| the gold answer itself"))
    assert itself.split("|")[7].strip() == "85.50"  # 80 to 91
    report(run, "--paper", "never")
    assert "59.58" not in (run / "report" / "report.md").read_text()


def test_a_semantic_row_that_can_not_be_right(tmp_path: Path) -> None:
    run = made_up_semantics(tmp_path / "run", queries=2)
    lines = (run / "rows.jsonl").read_text().splitlines()
    (run / "rows.jsonl").write_text("\n".join([*lines, lines[0]]) + "\n")
    assert f"rows.jsonl:{len(lines) + 1}: prompting, africa, p0 stands twice" in refused(run)
    lines[1] = json.dumps({**json.loads(lines[1]), "s_elsewhere": 117.0})
    (run / "rows.jsonl").write_text("\n".join(lines) + "\n")
    assert "rows.jsonl:2: s_elsewhere is 117.0, expected 0 to 100" in refused(run)
    lines[1] = lines[1].replace('"s_semantic": ', '"s_semantic": 1')
    row = json.loads(lines[1])
    lines[1] = json.dumps({**row, "s_semantic": 117.0})
    (run / "rows.jsonl").write_text("\n".join(lines) + "\n")
    assert "rows.jsonl:2: s_semantic is 117.0, expected 0 to 100" in refused(run)


def test_errors_name_the_way_out(tmp_path: Path) -> None:
    run = made_up_run(tmp_path / "run", questions=2)
    assert "Unknown metric 'accuracy'. There are jsd_e: " in refused(run, "--metric", "accuracy")
    assert "The run has no method 'magic'; it has vanilla" in refused(run, "--ours", "magic")
    assert "No folder" in refused(tmp_path / "nowhere")
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps({**manifest, "map": "north-south"}))
    assert "--map north-south.yaml" in refused(run)


def test_the_command_offers_every_metric() -> None:
    help_text = CliRunner().invoke(main, ["report", "--help"]).output
    assert all(metric in help_text for metric in ALIGNMENTS)


def a_table() -> Table:
    columns = (Column("KEN", "Africa", "#e69f00"), Column("NGA", "Africa", "#e69f00"), Column("Average"))
    best, second = Cell("70.10", 70.1, "best"), Cell("60.00", 60.0, "second")
    line = Line("a_b & 5 % | <x>", (best, second, Cell("–")))
    return Table("t", "Caption", columns, (Section("Ours", (line,)), Section("Empty", ())), ("A note.",))


def test_a_table_in_three_tongues() -> None:
    markdown, latex, page = to_markdown(a_table()), to_latex(a_table()), to_html(a_table())
    assert r"| a_b & 5 % \| \<x> | **70.10** | *60.00* | – |" in markdown and "Empty" not in markdown
    assert (
        r"a\_b \& 5 \% \textbar{} \textless{}x\textgreater{} & \textbf{70.10} & \underline{60.00} & -- \\"
        in latex
    )
    assert r"\multicolumn{2}{c}{Africa}" in latex and r"\cmidrule(lr){2-3}" in latex
    assert "a_b &amp; 5 % | &lt;x&gt;" in page and '<td class="n best" data-n="70.1">70.10</td>' in page
    with pytest.raises(ValueError, match="1 cells, 2 columns"):
        Table("t", "", (Column("a"), Column("b")), (Section("", (Line("x", (Cell("1"),)),)),))
