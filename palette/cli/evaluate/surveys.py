"""`palette evaluate surveys`: every method on a survey, into a folder that can be resumed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from cultural_palette.cli.cluster import Place, check_where, local_path, on_option, on_storage, shard_option
from cultural_palette.cli.evaluate.floors import load_selected, percent_words, survey_options
from cultural_palette.cli.lookup import json_option, map_option
from cultural_palette.cli.refs import refs_of
from cultural_palette.cli.text import echo, echo_json
from cultural_palette.errors import SettingsError

READOUTS = ("auto", "exact", "top_logprobs", "sampling")
AT_ONCE_EMBEDDED, AT_ONCE_SERVED = 4, 16


@click.command()
@survey_options
@click.option("--out", required=True, type=Place(), help="Folder; a run in it goes on.")
@click.option(
    "--methods",
    default="all",
    show_default=True,
    metavar="LIST",
    help="Names by commas; 'paper': Table 1's; 'all': these and our controls.",
)
@click.option(
    "--method", "own", multiple=True, metavar="MODULE:NAME", help="One of your own by its path; repeat."
)
@click.option("--runs", type=click.IntRange(1), default=1, show_default=True, help="Run r has seed SEED + r.")
@click.option("--seed", type=click.IntRange(0), metavar="N", help="Seed of the first run.  [default: 0]")
@click.option("--model", metavar="REF", help="One model for every part, by prompt alone.")
@click.option("--base-url", metavar="URL", help="OpenAI-compatible server of models without an address.")
@click.option("--set", "parts", multiple=True, metavar="PART=REF", help="One part's model; repeat.")
@click.option(
    "--models", "models_file", type=click.Path(path_type=Path), help="YAML or JSON file of PART: REF."
)
@click.option(
    "--model-of",
    multiple=True,
    metavar="NAME=REF",
    help="A model beside the palette's own that a method needs: 'joint=openai:joint@http://...'.",
)
@click.option(
    "--orders", type=click.IntRange(1), metavar="N",
    help="Orders of the options that each decision is the mean over; a scale in 2 at most.  [default: 2]",
)  # fmt: skip
@click.option(
    "--wording", type=click.Choice(("0", "1", "2")), default="0", show_default=True,
    help="Of the instructions: ours, or two others, for a robustness certificate.",
)  # fmt: skip
@click.option(
    "--blend", metavar="TEXT",
    help="How an embedded palette's MoErges weighs its communities: 'paper', 'fitted', 'uniform', 'own'.",
)  # fmt: skip
@click.option("--readout", type=click.Choice(READOUTS), help="How distributions are read.  [default: auto]")
@click.option(
    "--concurrency", type=click.IntRange(1), metavar="N", help="Items at once.  [default: 4, servers 16]"
)
@click.option(
    "--together", is_flag=True,
    help="Replies of an embedded palette share batches: quicker on a CPU. A sampled word may then depend on "
    "what else was asked at the time; without it nothing does.",
)  # fmt: skip
@click.option("--calls", type=Place(), help="Folder of kept calls, to share.  [default: OUT/calls]")
@on_option
@shard_option("Questions", 4)
@click.option("--retry-failed", is_flag=True, help="Ask again what failed, in a finished run too.")
@map_option
@json_option
def surveys(
    source: str,
    countries: str,
    max_options: int | None,
    options_kept: str,
    questions: int | None,
    draw: str,
    sample_seed: int,
    language: str,
    items_file: Path | None,
    out: Path | str,
    methods: str,
    own: tuple[str, ...],
    runs: int,
    seed: int | None,
    model: str | None,
    base_url: str | None,
    parts: tuple[str, ...],
    models_file: Path | None,
    model_of: tuple[str, ...],
    orders: int | None,
    wording: str,
    blend: str | None,
    readout: str | None,
    concurrency: int | None,
    together: bool,
    calls: Path | str | None,
    where: str | None,
    shard_size: int | None,
    retry_failed: bool,
    map_name: str | None,
    as_json: bool,
) -> None:
    """Score methods against surveys of real people; what several methods have in common is asked once.

    A stopped run goes on where it was; failures are counted and never scored. The tables are made by
    'palette report OUT'.

    \b
    palette evaluate surveys --survey global_opinions.csv --max-options 5 --questions 20 --out runs/y
    palette evaluate surveys --survey global-opinions --methods vanilla,cultural-palette --runs 5 --out runs/z
    """
    import asyncio

    from cultural_palette.cultural_map import load_map
    from cultural_palette.evaluation.methods import blends_here, methods_named
    from cultural_palette.evaluation.plan import ORDERS, Plan
    from cultural_palette.evaluation.run import evaluate
    from cultural_palette.settings import get_settings

    check_where(where, shard_size=shard_size)
    chosen_parts = refs_of("--set", parts, "NAME=REF", "meta=openai:gpt-4o-mini")
    settings = get_settings(
        map=map_name,
        model=model,
        base_url=base_url,
        models={**_of_file(models_file), **chosen_parts} or None,
        seed=seed,
        readout=readout,
        blend=blend,
    )
    cultural_map = load_map(settings.map)
    others = refs_of("--model-of", model_of, "NAME=REF", "joint=openai:joint")
    _reach_own_modules()
    names = [*(name.strip() for name in methods.split(",") if name.strip()), *own]
    blends = blends_here(cultural_map, settings.models, settings.model)
    chosen, left_out = methods_named(names, cultural_map, others, blends=blends)
    survey = load_selected(
        source, countries, max_options, options_kept, questions, draw, sample_seed, language, items_file,
        map_name,
    )  # fmt: skip
    plan = Plan(
        survey, chosen, cultural_map, settings, runs, others, left_out,
        orders or max(ORDERS, settings.permutations), int(wording), together,
    )  # fmt: skip
    if not as_json:
        _announce(plan)
    at_once = concurrency or _at_once(plan.models)
    if where:
        from cultural_palette.evaluation.on_cluster import QUESTIONS_A_SHARD, evaluate_on_cluster

        manifest = evaluate_on_cluster(
            plan,
            on_storage(out),
            where,
            calls=on_storage(calls) if calls else None,
            concurrency=at_once,
            retry_failed=retry_failed,
            quiet=as_json,
            questions_a_shard=shard_size or QUESTIONS_A_SHARD,
            in_process=_in_process(plan.models),
        )
    else:
        folder, call_folder = local_path("--out", out), calls and local_path("--calls", calls)
        manifest = asyncio.run(
            evaluate(
                plan, folder, calls=call_folder, concurrency=at_once, retry_failed=retry_failed, quiet=as_json
            )
        )
    if as_json:
        echo_json(manifest)
    else:
        _summary(out, manifest)


def _announce(plan: Any) -> None:
    survey = plan.survey
    echo(
        f"{survey.name}: {len(survey.items):,} items, {len(survey.questions):,} questions, "
        f"{len(survey.countries)} countries; {len(plan.methods)} methods, {plan.runs} runs",
        err=True,
    )
    if survey.without_data:
        echo(f"No items: {', '.join(survey.without_data)}", err=True)
    if percent := percent_words(survey):
        echo(percent, err=True)
    if survey.set_aside:
        echo(f"{len(survey.set_aside)} rows were set aside; the manifest lists them.", err=True)
    for name, why in plan.left_out.items():
        echo(f"Not available: {name} {why}", err=True)


def _summary(out: Path | str, manifest: Mapping[str, Any]) -> None:
    width = max(len(name) for name in manifest["outcomes"])
    echo(f"{'':{width}} {'ok':>8} {'unreadable':>10} {'failed':>8}")
    for name, counts in manifest["outcomes"].items():
        echo(f"{name:{width}} {counts['ok']:8,} {counts['unreadable']:10,} {counts['failed']:8,}")
    calls = manifest["calls"]
    share = f" ({calls['asked'] / calls['needed']:.1%})" if calls["needed"] else ""
    echo(f"\nCalls: {calls['needed']:,} needed, {calls['asked']:,} asked{share}, {calls['saved']:,} saved")
    for kind, counts in calls["by_kind"].items():
        echo(f"  {kind}: {counts['needed']:,} needed, {counts['asked']:,} asked")
    echo(f"{out}/rows.jsonl; next: palette report {out}")


def _at_once(models: Mapping[str, str]) -> int:
    return AT_ONCE_EMBEDDED if _in_process(models) else AT_ONCE_SERVED


def _in_process(models: Mapping[str, str]) -> bool:
    from cultural_palette.models import ModelRef

    return any(ModelRef.parse(ref).in_process for ref in models.values())


def _reach_own_modules() -> None:
    """A method of one's own lies where the command is given."""
    import sys

    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)


def _of_file(path: Path | None) -> dict[str, str]:
    if path is None:
        return {}
    from cultural_palette.yaml_files import YamlFault, read_yaml

    try:
        raw = read_yaml(path)
    except (OSError, YamlFault) as error:
        raise SettingsError(f"{path} can not be read: {error}") from None
    if not isinstance(raw, dict) or not all(isinstance(x, str) for pair in raw.items() for x in pair):
        raise SettingsError(f"{path}: expected a mapping of PART: REF, such as 'meta: openai:gpt-4o-mini'.")
    return raw
