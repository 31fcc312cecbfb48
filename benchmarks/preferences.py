"""Which preference is better where other cultures' answers are different, not worse? docs/training.md.

    python -m training.small data --out runs/small; python -m training.small task --out runs/small
    python -m benchmarks.preferences measure --small runs/small --out runs/preferences
    python -m benchmarks.preferences report --out runs/preferences

One agent for each preference and seed, on the same groups of the small palette's data in the same order from
the same start: a community's answer against those of all four others. Read on the test queries, which no
agent and not the base has seen. `measure` goes on where it was stopped.
"""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import click
import numpy as np
import torch
from transformers import AutoTokenizer

from cultural_palette.artifacts import RunFolder
from cultural_palette.cultural_map import load_map
from cultural_palette.evaluation.statistics import clustered_interval, compare, holm
from cultural_palette.provenance import short_sha256
from cultural_palette.training.align import align
from cultural_palette.training.cultural_distance import hofstede_distances
from cultural_palette.training.identity import base_identity
from cultural_palette.training.logps import answering_with_logps
from cultural_palette.training.orpo import log_odds
from cultural_palette.training.orpo_settings import OrpoSettings, Preference
from cultural_palette.training.preferences import Group, weighed
from cultural_palette.training.sequences import encode_group, lay_out
from cultural_palette.training.small import build
from cultural_palette.training.trainers import load_model

OPTIONS: tuple[Preference, ...] = get_args(Preference)
MEASURES = {
    "perplexity": "perplexity of the own answer",
    "accuracy": "others' answers less likely, %",
    "margin": "margin, nats",
    "far": "margin over the farthest, nats",
}
REFERENCE = "base"


@click.group()
def main() -> None:
    """Preferences compared on held-out queries."""


@main.command()
@click.option("--small", required=True, type=click.Path(exists=True, path_type=Path), help="With its base.")
@click.option("--out", required=True, type=click.Path(path_type=Path))
@click.option("--community", default="asia", show_default=True)
@click.option("--groups", default=32, show_default=True, help="Trained on, of the training queries.")
@click.option("--seeds", default=2, show_default=True)
@click.option("--preference", "wanted", multiple=True, type=click.Choice(OPTIONS), help="Default: all.")
def measure(
    small: Path, out: Path, community: str, groups: int, seeds: int, wanted: Sequence[Preference]
) -> None:
    """Train and read every preference, seed by seed."""
    torch.set_num_threads(1)
    train, test = _groups(small, community, groups)
    base = small / "base"
    common = {"base": base_identity(str(base)), "test": short_sha256(json.dumps(test))}
    settings = build.settings("orpo")
    _read(RunFolder(out / community / REFERENCE, common), base, settings, None, test)
    common |= {"train": short_sha256(json.dumps(train))}
    for run, preference in itertools.product(range(1, seeds + 1), wanted or OPTIONS):
        chosen = replace(settings, preference=preference, seed=settings.seed + run - 1)
        adapter = out / community / f"run-{run}" / preference / "adapter"
        if not (adapter / "adapter_model.safetensors").is_file():
            lessons = train if chosen.by_distance else [_alike(group) for group in train]
            align(base, lessons, adapter, chosen)
        config = {**common, "settings": chosen.as_config()}
        _read(RunFolder(adapter.parent, config), base, chosen, adapter, test)
        click.echo(f"run {run}, {preference}: read")


def _groups(small: Path, community: str, number: int) -> tuple[list[Group], list[Group]]:
    """The first training queries in the order that the small palette's own agents read them, and all test
    queries; each a community's answer against the four others', weighed by distance.
    """
    answers, split = build.reviewed_answers(small)
    examples = build.worked()
    train = [row for row in examples if split[row["query_id"]] == "train"]
    drawn = random.Random(build.SEED).sample(train, len(train))[:number]
    test = [row for row in examples if split[row["query_id"]] == "test"]
    distances = hofstede_distances(load_map("continents"))
    others = [key for key in build.COMMUNITIES if key != community]
    return tuple(  # type: ignore[return-value]
        [
            weighed(_in_order(row, others, number, community), distances)
            for number, row in enumerate(build.groups_of(rows, answers, len(others))[community])
        ]
        for rows in (drawn, test)
    )


def _in_order(row: Mapping[str, Any], others: Sequence[str], number: int, community: str) -> Group:
    """`build.groups_of` begins with another one in each row; here they stand in the map's order."""
    turn = number % len(others)
    by_key = dict(zip([*others[turn:], *others[:turn]], row["rejected"], strict=True))
    return Group(
        prompt=row["prompt"], chosen=row["chosen"], rejected=[by_key[key] for key in others],
        place=row["query_id"], community=community, rejected_of=list(others),
    )  # fmt: skip


def _alike(group: Group) -> Group:
    """The group with its rejected answers weighed alike: weights are taken wherever they are given."""
    return Group(prompt=group["prompt"], chosen=group["chosen"], rejected=group["rejected"])


@torch.no_grad()
def _read(
    folder: RunFolder, base: Path, settings: OrpoSettings, adapter: Path | None, test: Sequence[Group]
) -> None:
    """A row for each test query: mean log-probability a token of each answer, the own one first."""
    if folder.finished:
        folder.same_manifest()  # of these settings and data, or refused
        return
    model = load_model(base, settings, adapter).train(False)
    tokenizer: Any = AutoTokenizer.from_pretrained(base)
    with folder, answering_with_logps(model, False), torch.autocast("cpu", torch.bfloat16):
        done = sum(1 for _ in folder.rows())
        for group in test[done:]:
            batch = lay_out([encode_group(tokenizer, group, settings.max_length)], "prompt_once", 0)
            means = model(batch=batch)["answers"] / batch["lengths"]
            folder.append(
                {"query": group["place"], "weights": group["weights"], "mean_logps": means.tolist()}
            )
    folder.finish({**(folder.config or {}), "queries": len(test)})


@main.command()
@click.option("--out", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--community", default="asia", show_default=True)
def report(out: Path, community: str) -> None:
    """Tables of what was read: Markdown."""
    click.echo("\n".join(_tables(out / community)))


def _tables(folder: Path) -> Iterator[str]:
    read = {
        name: np.array(runs) for name in OPTIONS if (runs := [*_runs(folder.glob(f"run-*/{name}"))])
    }  # (run, query, measure)
    read = {REFERENCE: np.array([*_runs([folder / REFERENCE])]), **read}
    queries = [row["query"] for row in RunFolder(folder / REFERENCE).rows()]
    yield f"| preference | seeds | {' | '.join(MEASURES.values())} |"
    yield f"|---|---|{'---|' * len(MEASURES)}"
    for name, values in read.items():
        cells = [_words(clustered_interval(values[..., k], queries), key) for k, key in enumerate(MEASURES)]
        yield f"| {name} | {len(values)} | {' | '.join(cells)} |"
    yield ""
    first = OPTIONS[0]
    rivals = [name for name in OPTIONS[1:] if name in read]
    shared = {name: min(len(read[name]), len(read[first])) for name in rivals}
    found = {
        (name, key): compare(read[name][: shared[name], :, k], read[first][: shared[name], :, k], queries)
        for name in rivals
        for k, key in enumerate(MEASURES)
    }
    adjusted = holm([one.p for one in found.values() if one])
    yield f"| against {first} | seeds | measure | difference (perplexity: ratio) | p by Holm |"
    yield "|---|---|---|---|---|"
    for ((name, key), one), p in zip(found.items(), adjusted, strict=True):
        assert one is not None
        words = _words(one.difference, key, sign=True)
        yield f"| {name} | {shared[name]} | {MEASURES[key]} | {words} | {p:.3f} |"
    yield ""
    yield f"{len(queries)} queries; 95 % intervals over queries and seeds."


def _runs(folders: Any) -> Iterator[list[list[float]]]:
    for path in sorted(folders):
        if (folder := RunFolder(path)).finished:
            yield [_measures(row["mean_logps"], row["weights"]) for row in folder.rows()]


def _measures(mean_logps: Sequence[float], weights: Sequence[float]) -> list[float]:
    """As `MEASURES`; the perplexity is kept as its log, so that a mean is a geometric one."""
    odds = log_odds(torch.tensor(mean_logps))
    margins = (odds[0] - odds[1:]).tolist()
    right = 100 * sum(margin > 0 for margin in margins) / len(margins)
    return [-mean_logps[0], right, sum(margins) / len(margins), margins[int(np.argmax(weights))]]


def _words(interval: Any, measure: str, sign: bool = False) -> str:
    ends = [interval.mean, interval.low, interval.high]
    if measure == "perplexity":
        ends = [math.exp(end) for end in ends]
        sign = False
    digits = {"accuracy": 1, "perplexity": 3 if interval.mean < 1 else 2}.get(measure, 3)
    mean, low, high = (f"{end:+.{digits}f}" if sign else f"{end:.{digits}f}" for end in ends)
    return f"{mean} [{low}, {high}]"


if __name__ == "__main__":
    main()
