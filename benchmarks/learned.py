"""Do agents that learned what countries answer know how a country answers? docs/results-learned.md.

    palette train --config training/configs/shares.yaml --survey FILE --calibration 0.1 \\
      --hold-out-countries KEN,BRA,THA --survey-questions 150 --out OUT/train
    palette merge --method moerges --base BASE --adapters OUT/train/run-1 --out OUT/palette
    python -m benchmarks.learned score --survey FILE --base BASE --out OUT \\
      --router OUT/palette/router.safetensors
    python -m benchmarks.learned report --survey FILE --out OUT --page docs/results-learned.md

`score` reads every model of OUT/train that is finished, base and MoErges too, on the same test and
calibration questions; it goes on where it was stopped. `report` asks no model.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import click
import torch

from benchmarks.learned_data import JOINT, MOERGES, VANILLA, load_data, shown_of, whole_rows
from benchmarks.learned_report import results, tables, write_page
from cultural_palette.artifacts import RunFolder
from cultural_palette.cultural_map import load_map
from cultural_palette.moerges.modes import UNIFORM, Agent, Base, Blend, Mode, Routed
from cultural_palette.moerges.router import Router, load_routers
from cultural_palette.provenance import file_sha256
from cultural_palette.training.share_questions import Shown
from cultural_palette.training.share_scores import ShareReader


@click.group()
def main() -> None:
    """The experiment of docs/results-learned.md."""


@main.command()
@click.option("--survey", required=True, help="GlobalOpinionQA's CSV, or any survey.")
@click.option("--base", required=True, type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path))
@click.option("--questions", default=45, show_default=True, help="Test questions drawn.")
@click.option("--calibration", default=40, show_default=True, help="Calibration questions drawn.")
@click.option("--orders", default=1, show_default=True, help="Option orders of each.")
@click.option(
    "--router",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A palette's router of the same base: read MoErges under each of its rows too.",
)
def score(
    survey: str, base: Path, out: Path, questions: int, calibration: int, orders: int, router: Path | None
) -> None:
    """Read every finished model."""
    torch.set_num_threads(1)
    data = load_data(survey, questions, calibration)
    shown = shown_of(data, orders)
    click.echo(f"{len(shown)} questions shown, {sum(len(one.countries) for one in shown)} readings a model")
    routers = load_routers(router) if router else {}
    for name, adapters, mode in _models(out / "train", routers):
        config = {"model": name, "adapters": {k: _identity(p) for k, p in adapters.items()}, **data.drawn()}
        config |= {"orders": orders}
        if router is not None and isinstance(mode, Routed):
            config |= {"router": file_sha256(router)}
        folder = RunFolder(out / "scores" / name, config)
        if folder.finished:
            continue
        _score_one(folder, base, adapters, mode, shown, routers)
        click.echo(f"{name}: read")


def _models(train: Path, routers: Iterable[str]) -> Iterator[tuple[str, dict[str, Path], Mode]]:
    """Name, the adapters beside its base, and its mode; of the models whose training is finished."""
    yield VANILLA, {}, Base()
    keys = [community.key for community in load_map("continents").communities]
    for run in sorted(train.glob("run-*")):
        done = {path.name: path for path in sorted(run.iterdir()) if RunFolder(path).finished}
        for name in (JOINT, *keys):
            if name in done:
                yield f"{run.name}/{name}", {name: done[name]}, Agent(name)
        if all(key in done for key in keys):
            five = {key: done[key] for key in keys}
            yield f"{run.name}/{MOERGES[UNIFORM]}", five, Blend.uniform(keys)
            for router in routers:
                yield f"{run.name}/{MOERGES[router]}", five, Routed(router)


def _identity(adapter: Path) -> str:
    return str(RunFolder(adapter).manifest["files"]["adapter_model.safetensors"])


def _score_one(
    folder: RunFolder,
    base: Path,
    adapters: dict[str, Path],
    mode: Mode,
    shown: Sequence[Shown],
    routers: Mapping[str, Router],
) -> None:
    with folder:
        done = len({(row["question"], tuple(row["order"])) for row in whole_rows(folder)})
        reader = ShareReader(base, adapters, torch.bfloat16)
        if isinstance(mode, Routed):
            reader.colours.add_router(mode.router, routers[mode.router])
        for readings in reader.read(shown[done:], mode):
            folder.append({"readings": [asdict(reading) for reading in readings]})
        folder.finish({"readings": sum(1 for _ in whole_rows(folder)), **(folder.config or {})})


@main.command()
@click.option("--survey", required=True)
@click.option("--out", required=True, type=click.Path(path_type=Path))
@click.option("--questions", default=45, show_default=True)
@click.option("--calibration", default=40, show_default=True)
@click.option(
    "--page", type=click.Path(path_type=Path), help="Markdown; its part between the markers is rewritten."
)
def report(survey: str, out: Path, questions: int, calibration: int, page: Path | None) -> None:
    """Tables of what was read."""
    summary = results(load_data(survey, questions, calibration), out)
    (out / "results.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")
    click.echo(tables(summary))
    if page is not None:
        write_page(page, tables(summary))


if __name__ == "__main__":
    main()
