"""`palette dataset measure`: do the communities separate, what is it about, does it leak the surveys."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cultural_palette.cli.lookup import json_option, map_option
from cultural_palette.cli.text import echo, echo_json

if TYPE_CHECKING:
    from cultural_palette.cultural_map import CulturalMap
    from cultural_palette.training.pentachromatic.separation.measure import Places

# Told apart again in training, which is too heavy to import for a help text; a test compares.
MINILM = "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2"
IPTC = "classla/multilingual-IPTC-news-topic-classifier"

folder_argument = click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
split_option = click.option(
    "--split", type=click.Choice(("train", "test")), help="That part of a dataset only."
)
out_option = click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the results.  [default: FOLDER]",
)
cache_option = click.option(
    "--cache",
    type=click.Path(file_okay=False, path_type=Path),
    help="What models computed, so that a stopped run goes on.  [default: .palette-vectors beside FOLDER]",
)


@click.group()
def measure() -> None:
    """Measure a dataset's FOLDER, or a synthesis run's: separation, topics, leakage."""


@measure.command()
@folder_argument
@click.option(
    "--model", default=MINILM, show_default=True, help="Of sentence-transformers: hub name or folder."
)
@click.option(
    "--beside", metavar="SET",
    help="A second set: 'prism', PRISM's folder, another dataset or run, or a CSV or JSONL.",
)  # fmt: skip
@click.option("--name", default="ours", show_default=True, help="What FOLDER is called in the figure.")
@click.option("--beside-name", help="What the second set is called.  [default: its own name]")
@click.option("--text-column", help="Of a CSV or JSONL.  [default: response, text or answer]")
@click.option("--label-column", help="Of a CSV or JSONL: a community or a country.  [default: community, ..]")
@click.option(
    "--query-column", help="Of a CSV or JSONL: equal for answers to one query.  [default: query_id, ..]"
)
@click.option("--hide-names", is_flag=True, help="Of countries and communities: is there more than the name?")
@split_option
@out_option
@cache_option
@click.option("--seed", default=0, show_default=True, help="Of the intervals, and of the order of drawing.")
@map_option
@json_option
def separation(
    folder: Path, model: str, beside: str | None, name: str, beside_name: str | None, text_column: str | None,
    label_column: str | None, query_column: str | None, hide_names: bool, split: str | None,
    out: Path | None, cache: Path | None, seed: int, map_name: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Do the communities' answers differ? Figure 3 with silhouettes and a linear probe.

    \b
    palette dataset measure separation data/pentachromatic --beside prism
    palette dataset measure separation runs/x --beside answers.csv --label-column country
    """
    from cultural_palette.training.pentachromatic.separation.measure import measure_separation
    from cultural_palette.training.pentachromatic.separation.texts import read_answers, read_second

    cultural_map = _map(folder, map_name)
    second = None
    if beside is not None:
        second = read_second(
            beside, cultural_map, text=text_column, label=label_column, query=query_column, name=beside_name
        )
    answers, places = read_answers(folder, split), _places(folder, out, cache)
    with _Progress("embedding") as progress:
        result = measure_separation(
            answers, second, cultural_map, places,
            model=model, name=name, hide_names=hide_names, seed=seed, progress=progress,
        )  # fmt: skip
    if as_json:
        echo_json(result)
        return
    for row in result["sets"]:
        echo(row["name"])
        _tell_view("as they are", row["as_is"])
        _tell_view("each query's mean taken off", row["query_centred"])
        if row["texts_cut"]:
            echo(
                f"  {row['texts_cut']:,} texts are longer than the {row['token_limit']} tokens that are read"
            )
    _tell_files(places.out, "separation.json", result)


@measure.command()
@folder_argument
@click.option("--model", default=IPTC, show_default=True, help="Topic classifier: hub name or folder.")
@click.option("--no-topics", is_flag=True, help="Only where the queries' writers were born.")
@click.option("--confidence", default=0.9, show_default=True, help="Labels below are counted apart.")
@split_option
@out_option
@cache_option
@map_option
@json_option
def topics(
    folder: Path, model: str, no_topics: bool, confidence: float, split: str | None, out: Path | None,
    cache: Path | None, map_name: str | None, as_json: bool,
) -> None:  # fmt: skip
    """What are the queries about, and where were their writers born? Figure 8."""
    from cultural_palette.training.pentachromatic.separation.measure import measure_topics
    from cultural_palette.training.pentachromatic.separation.texts import read_answers

    cultural_map = _map(folder, map_name)
    answers, places = read_answers(folder, split), _places(folder, out, cache)
    with _Progress("topics") as progress:
        result = measure_topics(
            answers, cultural_map, places,
            model=None if no_topics else model, threshold=confidence, progress=progress,
        )  # fmt: skip
    if as_json:
        echo_json(result)
        return
    if "topics" in result:
        echo(
            f"{result['queries']:,} queries: {result['confident']:,} with confidence {confidence:g} or more, "
            f"{result['uncertain']:,} below; {result['short']:,} are shorter than the classifier is meant for"
        )
        for name, row in sorted(result["topics"].items(), key=lambda pair: -sum(pair[1].values())):
            if sum(row.values()):
                echo(f"  {name:<44}{row['confident']:>7,}{row['uncertain']:>7,}")
    echo("born in: " + ", ".join(f"{key.replace('_', ' ')} {n:,}" for key, n in result["born"].items()))
    _tell_files(places.out, "topics.json", result)


@measure.command()
@folder_argument
@click.option(
    "--survey", "surveys", multiple=True, required=True, metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Questions to keep out: CSV, TSV, JSON or JSONL; may be repeated.",
)  # fmt: skip
@click.option(
    "--survey-column", help="Where its questions are.  [default: question, question_text, text, ..]"
)
@click.option(
    "--jaccard", default=0.5, show_default=True, help="Of 5-character runs: a near-copy from here on."
)
@click.option(
    "--containment", default=0.6, show_default=True,
    help="Of a question's 3-word runs in a text: a quotation from here on.",
)  # fmt: skip
@click.option("--report-only", is_flag=True, help="Exit with 0 when it leaks, too.")
@click.option(
    "--write-exclusions", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
    help="JSONL of the queries to leave out.",
)  # fmt: skip
@split_option
@out_option
@json_option
def leakage(
    folder: Path, surveys: tuple[Path, ...], survey_column: str | None, jaccard: float, containment: float,
    report_only: bool, write_exclusions: Path | None, split: str | None, out: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Does the training text hold questions of the surveys? A gate: exits with 1 when it does.

    \b
    palette dataset measure leakage data/x --survey global_opinions.csv --survey wvs_questions.json
    """
    from cultural_palette.training.pentachromatic.separation.leakage import LeakageFound, Thresholds
    from cultural_palette.training.pentachromatic.separation.measure import measure_leakage
    from cultural_palette.training.pentachromatic.separation.texts import read_answers

    thresholds = Thresholds(jaccard, containment)
    place = out or folder
    result = measure_leakage(
        read_answers(folder, split), surveys, place,
        thresholds=thresholds, column=survey_column, exclusions=write_exclusions,
    )  # fmt: skip
    if as_json:
        echo_json(result)
    else:
        _tell_leakage(result, place)
    if not result["passed"] and not report_only:
        raise LeakageFound(
            f"{result['queries_leaking']:,} queries hold questions of the surveys; "
            f"{place / 'leakage_pairs.jsonl'} has the {result['pairs']:,} pairs. "
            "--write-exclusions FILE lists the queries; --report-only lets them pass."
        )


def _map(folder: Path, name: str | None) -> CulturalMap:
    """The map asked for, else the one that the folder's manifest names, else the settings'."""
    from cultural_palette.cultural_map import load_map
    from cultural_palette.settings import get_settings
    from cultural_palette.training.pentachromatic.separation.texts import map_name_of

    return load_map(name or map_name_of(folder) or get_settings().map)


def _places(folder: Path, out: Path | None, cache: Path | None) -> Places:
    from cultural_palette.training.pentachromatic.separation.measure import Places

    return Places(out or folder, cache or folder.resolve().parent / ".palette-vectors")


class _Progress:
    """A bar on a terminal's error stream while a model is at work; nothing where all is known already."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.bar: Any = None

    def __enter__(self) -> _Progress:
        return self

    def __call__(self, done: int, total: int) -> None:
        if not total:
            return
        if not done:
            self.close()
            bar: Any = click.progressbar(length=total, label=self.what, file=sys.stderr)
            self.bar = bar.__enter__()
        elif self.bar is not None:
            self.bar.update(done - self.bar.pos)

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        if self.bar is not None:
            self.bar.__exit__(None, None, None)
        self.bar = None


def _tell_view(what: str, view: Mapping[str, Any] | None) -> None:
    if view is None:
        echo(f"  {what}: no query has answers of two communities")
        return
    echo(f"  {what}: {view['texts']:,} answers to {view['queries']:,} queries")
    for name in ("silhouette_cosine", "silhouette_cosine_2d", "silhouette_euclidean_2d"):
        echo(f"    {name.replace('_', ' '):<26}{_estimate(view[name])}")
    if (probe := view["probe"]) is None:
        echo("    probe                     too few queries")
        return
    for name, chance in (("balanced_accuracy", "balanced_chance"), ("accuracy", "chance")):
        label = f"probe, {name.replace('_', ' ')}"
        echo(f"    {label:<26}{_estimate(probe[name])}  chance {probe[chance]:.3f}")


def _estimate(row: Mapping[str, Any]) -> str:
    if row["low"] is None:
        return f"{row['value']:>6.3f}  no interval, one query"
    return f"{row['value']:>6.3f}  [{row['low']:.3f}, {row['high']:.3f}]"


def _tell_leakage(result: Mapping[str, Any], out: Path) -> None:
    echo(
        f"{result['queries_compared']:,} queries, {result['answers_compared']:,} answers; a near-copy from "
        f"Jaccard {result['threshold']:g}, a quotation from containment {result['containment_threshold']:g}"
    )
    for row in result["surveys"]:
        echo(
            f"  {row['name']}: {row['questions']:,} questions, {row['questions_leaked']:,} leaked "
            f"({row['pairs_with_queries']:,} pairs with queries, {row['pairs_with_answers']:,} with answers)"
        )
    for pair in result["examples"][:3]:
        containment = (
            "no containment" if pair["containment"] is None else f"containment {pair['containment']:.2f}"
        )
        echo(f"  {pair['query_ids'][0]} ({pair['kind']}), Jaccard {pair['jaccard']:.2f}, {containment}")
        echo(f"    survey: {_cut(pair['question'])}")
        echo(f"    text:   {_cut(pair['text'])}")
    echo(f"{'passed' if result['passed'] else 'NOT passed'}: {out / 'leakage.json'}")


def _tell_files(out: Path, name: str, result: Mapping[str, Any]) -> None:
    echo("\n".join(str(out / file) for file in (name, *result["files"])))


def _cut(text: str, width: int = 96) -> str:
    from cultural_palette.cli.text import visible

    line = visible(" ".join(text.split()))
    return line if len(line) <= width else line[: width - 1] + "…"
