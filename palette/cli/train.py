"""`palette train`: one agent for every community, and the joint model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cultural_palette.cli.cluster import check_where, on_option
from cultural_palette.cli.lookup import json_option, map_option
from cultural_palette.cli.share_data import SHARES, HeldOut, share_options, write_share_data
from cultural_palette.cli.text import echo, echo_json

if TYPE_CHECKING:
    from cultural_palette.training.jobs import Job


@click.command()
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="YAML; see training/configs.")
@map_option
@click.option(
    "--objective",
    type=click.Choice(["orpo", "shares", "orpo+shares"]),
    help="Communities' texts, surveys' shares, or both in one job.  [default: orpo]",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="JSONL of answers, or a folder of groups_<community>.jsonl.",
)
@share_options
@click.option("--base", help="Model folder or hub name.  [default: the config's]")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder; a run in it goes on.")
@click.option("--runs", default=1, show_default=True, help="Runs, each with a seed of its own.")
@click.option("--only", multiple=True, metavar="AGENT", help="A community, or joint; may be repeated.")
@click.option("--joint/--no-joint", default=True, show_default=True, help="Train the joint model too.")
@click.option("--trainer", type=click.Choice(["grouped", "trl"]), help="Ours on groups, or TRL's on pairs.")
@click.option(
    "--set", "changes", multiple=True, metavar="KEY=VALUE", help="One ORPO setting; may be repeated."
)
@click.option("--gpus-per-job", default=1, show_default=True, help="GPUs of one job, by accelerate launch.")
@click.option("--accelerate-config", type=click.Path(exists=True, path_type=Path), help="FSDP, for one.")
@on_option
@click.option("--dry-run", is_flag=True, help="Say sequences, tokens, memory and time; train nothing.")
@json_option
def train(
    config_file: Path | None,
    map_name: str | None,
    objective: str | None,
    data: Path | None,
    survey: str | None,
    hold_out_countries: str | None,
    hold_out: float,
    calibration: float,
    split_seed: int,
    survey_questions: int | None,
    max_options: int | None,
    base: str | None,
    out: Path,
    runs: int,
    only: tuple[str, ...],
    joint: bool,
    trainer: str | None,
    changes: tuple[str, ...],
    gpus_per_job: int,
    accelerate_config: Path | None,
    where: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Train one agent for every community, and the joint model: by ORPO on texts, by shares on surveys.

    With --survey, what the agents may learn of it is written to OUT/shares.jsonl, and what is held out to
    OUT/split.json. Each agent is a job that goes on where it was stopped; what is finished is kept. Each
    leaves a manifest.
    """
    from cultural_palette.cultural_map import load_map
    from cultural_palette.errors import UsageError
    from cultural_palette.settings import get_settings
    from cultural_palette.training.config import TrainConfig, load_config, settings_from
    from cultural_palette.training.jobs import check_data, lay_out_jobs
    from cultural_palette.yaml_files import YamlFault, parse_yaml

    check_where(where)
    config = load_config(config_file) if config_file else TrainConfig()
    values = {}
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals:
            raise UsageError(f"--set {change!r}: expected KEY=VALUE")
        try:
            values[key] = parse_yaml(value)
        except YamlFault as error:
            raise UsageError(f"--set {change!r}: {error}") from None
    if trainer:
        values["trainer"] = trainer
    if objective:
        values["objective"] = objective
    settings = settings_from(values, "--set", config.orpo)
    model = base or config.base
    if not model:
        raise UsageError("No base: give --base, or a --config that has one.")
    cultural_map = load_map(map_name or config.map or get_settings().map)
    keys = [community.key for community in cultural_map.communities]
    if survey and not settings.learns_shares:
        raise UsageError(f"--survey is for --objective shares and orpo+shares, not {settings.objective}.")
    shares = out / SHARES if survey else None
    distances = None
    if settings.by_distance:
        from cultural_palette.training.cultural_distance import hofstede_distances

        distances = hofstede_distances(cultural_map)
    jobs = lay_out_jobs(model, data, out, keys, settings, runs, only, joint, shares, distances)
    if survey:
        held_out = HeldOut(hold_out, calibration, hold_out_countries, split_seed)
        echo(write_share_data(survey, cultural_map, out, held_out, survey_questions, max_options), err=True)
    check_data(jobs)

    from cultural_palette.training.bases import check_base, check_tokens  # from here on with torch

    check_base(model)
    check_tokens(jobs)
    if dry_run:
        _print_estimate(jobs, as_json)
        return
    announce = partial(echo, err=as_json)
    if where:
        from cultural_palette.training.on_cluster import train_on_cluster

        train_on_cluster(jobs, announce, where, gpus_per_job, accelerate_config)
    else:
        from cultural_palette.training.launch import run_jobs

        run_jobs(jobs, announce, gpus_per_job, accelerate_config)
    if as_json:
        from cultural_palette.artifacts import RunFolder

        echo_json({job.name: RunFolder(job.out).manifest for job in jobs})


def _print_estimate(jobs: Sequence[Job], as_json: bool) -> None:
    from dataclasses import asdict

    from cultural_palette.training.durations import duration_words
    from cultural_palette.training.estimate import estimate_training

    estimates = estimate_training(jobs)
    if as_json:
        rows = [
            {"job": estimate.job.name, **{k: v for k, v in asdict(estimate).items() if k != "job"}}
            for estimate in estimates
        ]
        echo_json({"jobs": rows})
        return
    for estimate in estimates:
        echo(estimate.line())
    echo(
        f"{len(estimates)} jobs, {sum(estimate.tokens for estimate in estimates):,} tokens, "
        f"{duration_words(sum(estimate.seconds for estimate in estimates))} one after the other (estimated)"
    )
