"""`palette dataset`: make, show and publish the Pentachromatic dataset, or read the authors' own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from cultural_palette.cli.dataset_measure import measure
from cultural_palette.cli.lookup import json_option, map_option
from cultural_palette.cli.text import echo, echo_json

FORMAT_NAMES = ("jsonl", "parquet")


@click.group()
def dataset() -> None:
    """Make, export and measure the Pentachromatic dataset."""


@dataset.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the dataset.")
@click.option("--gate", is_flag=True, help="Only answers that a reviewer approved or edited pass.")
@click.option(
    "--decisions", multiple=True, type=click.Path(exists=True, path_type=Path), metavar="FILE",
    help="review.json, or reviewers' decisions files; may be repeated.",
)  # fmt: skip
@click.option(
    "--exclude", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE",
    help="JSONL of queries to leave out, as 'measure leakage' writes it.",
)  # fmt: skip
@click.option("--test-share", default=0.1, show_default=True, help="Share of the queries held out, 0 to 1.")
@click.option("--seed", default=0, show_default=True, help="Of the split.")
@click.option(
    "--format", "formats", multiple=True, type=click.Choice(FORMAT_NAMES), default=FORMAT_NAMES,
    show_default=True, help="Of the exports; may be repeated.",
)  # fmt: skip
@click.option("--licence", default="other", show_default=True, help="For the card, as the hub lists it.")
@click.option(
    "--language", "languages", multiple=True, default=("en",), show_default=True,
    help="For the card; may be repeated.",
)  # fmt: skip
@click.option("--unfinished", is_flag=True, help="Take what a run that is not finished has.")
@click.option("--overwrite", is_flag=True, help="Replace a dataset that is there, once the new one is whole.")
@json_option
def build(
    run: Path, out: Path, gate: bool, decisions: tuple[Path, ...], exclude: Path | None, test_share: float,
    seed: int, formats: tuple[str, ...], licence: str, languages: tuple[str, ...], unfinished: bool,
    overwrite: bool, as_json: bool,
) -> None:  # fmt: skip
    """Make a dataset of the synthesis RUN: split by query, in every form, with its card.

    Only a query that every community answered gives preferences; the others are listed in incomplete.jsonl.
    """
    from cultural_palette.training.pentachromatic.build import DatasetSettings, read_excluded
    from cultural_palette.training.pentachromatic.build import build as build_dataset
    from cultural_palette.training.pentachromatic.card import Licence
    from cultural_palette.training.pentachromatic.synthesis_run import SynthesisRun

    excluded = read_excluded(exclude) if exclude else None
    settings = DatasetSettings(test_share, seed, gate, formats, Licence(licence, languages), excluded)
    source = SynthesisRun(run, unfinished=unfinished)
    index = source.index()
    review = None
    if decisions:
        from cultural_palette.training.review.reconcile import load_review

        review = load_review(decisions, index, source.name)
    _tell(build_dataset(source, out, settings, index=index, review=review, overwrite=overwrite), out, as_json)


@dataset.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--verify", is_flag=True, help="Hash every file, and compare.")
@json_option
def show(folder: Path, verify: bool, as_json: bool) -> None:
    """Say what a dataset FOLDER holds."""
    from cultural_palette.training.pentachromatic.hub import check_files
    from cultural_palette.training.pentachromatic.reports import load_manifest

    manifest = load_manifest(folder)
    if verify:
        check_files(folder, manifest)
    _tell(manifest, folder, as_json)
    if verify:
        echo(f"{len(manifest['files'])} files are as they were built", err=as_json)


@dataset.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--repo", required=True, metavar="USER/NAME", help="Dataset on the hub; made when it is not there."
)
@click.option("--private", is_flag=True, help="When it is made, for you only.")
@click.option("--message", help="Of the commit.")
@click.option("--allow-leakage", is_flag=True, help="Send it though it holds survey questions.")
def push(folder: Path, repo: str, private: bool, message: str | None, allow_leakage: bool) -> None:
    """Send a dataset FOLDER to the Hugging Face hub, in one commit, with its card.

    Refused when 'measure leakage' found survey questions in it. The token: `hf auth login`, or HF_TOKEN.
    """
    from cultural_palette.training.pentachromatic.hub import push_to_hub

    echo(push_to_hub(folder, repo, private=private, message=message, allow_leakage=allow_leakage))


@dataset.command()
@click.argument("folder", type=click.Path(path_type=Path))
def card(folder: Path) -> None:
    """Write the card of a dataset FOLDER anew, with what 'dataset measure' has found since."""
    from cultural_palette.training.pentachromatic.card import CARD
    from cultural_palette.training.pentachromatic.reports import take_reports

    taken = ", ".join(take_reports(folder)["reports"]) or "no reports"
    echo(f"{folder / CARD}: {taken}")


@dataset.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder, for 'dataset build'.")
@click.option(
    "--community", "given", multiple=True, metavar="KEY=FILE", help="A file that does not say whose it is."
)
@map_option
@json_option
def read(
    files: tuple[Path, ...], out: Path, given: tuple[str, ...], map_name: str | None, as_json: bool
) -> None:
    """Read FILES in the authors' published format: query, response, rejected_response.

    JSONL, JSON, CSV or Parquet; the community is in a column `community` or `continent`, else in the file's
    name. OUT is then like a synthesis run: build a dataset of it, or have it reviewed.
    """

    from cultural_palette.cultural_map import load_map
    from cultural_palette.errors import UsageError
    from cultural_palette.settings import get_settings
    from cultural_palette.training.pentachromatic.published import as_run, read_published

    cultural_map = load_map(get_settings(map=map_name).map)
    pairs = {}
    for assignment in given:
        key, equals, file = assignment.partition("=")
        if not equals:
            raise UsageError(f"--community {assignment!r}: expected KEY=FILE")
        pairs[Path(file)] = cultural_map.community(key).key
    if not (paths := list(dict.fromkeys([*files, *pairs]))):
        raise UsageError("No files: name one for each community.")
    names = {c.key: (c.name, c.adjective) for c in cultural_map.communities}
    manifest = as_run(read_published(paths, names, pairs), out, map_name or cultural_map.key)
    if as_json:
        echo_json(manifest)
        return
    counts = manifest["counts"]
    echo(f"{out}: {counts['rows']:,} rows -> {counts['answers']:,} answers")
    if counts["rejected_of_no_community"]:
        echo(
            f"  {counts['rejected_of_no_community']:,} rejected answers are no community's response; "
            "a dataset built of this rejects the communities' own",
            err=True,
        )
    echo(f"  palette dataset build {out} --out ...")


dataset.add_command(measure)


def _tell(manifest: Mapping[str, Any], out: Path, as_json: bool) -> None:

    if as_json:
        echo_json(manifest)
        return
    counts, splits = manifest["counts"], manifest["splits"]["queries"]
    echo(
        f"{out}: {counts['complete']:,} queries ({splits['train']:,} train, {splits['test']:,} test) "
        f"-> {counts['answers']:,} answers -> {counts['pairs_per_community']:,} pairs for each of "
        f"{', '.join(manifest['communities'])}"
    )
    if counts["incomplete"]:
        missing = ", ".join(f"{n:,} {why.replace('_', ' ')}" for why, n in counts["missing_answers"].items())
        echo(f"  {counts['incomplete']:,} queries are incomplete ({missing}): incomplete.jsonl")
    if review := manifest["review"]:
        from cultural_palette.training.pentachromatic.card import agreement_line

        verdicts = ", ".join(f"{n:,} {name}" for name, n in review["counts"].items() if n)
        echo(f"  review ({'gate on' if manifest['gate'] else 'gate off'}): {verdicts}")
        echo(f"  agreement: {agreement_line(review['agreement'])}")
    if "jsonl" in manifest["formats"]:
        echo(f"  train on it: palette train --data {out / 'groups' / 'train'} ...")
