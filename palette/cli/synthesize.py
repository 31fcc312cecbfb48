"""`palette synthesize`: a teacher answers every query for every community."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from cultural_palette.cli.cluster import Place, check_where, local_path, on_option, on_storage, shard_option
from cultural_palette.cli.flag_groups import flag_groups
from cultural_palette.cli.lookup import json_option, map_option
from cultural_palette.cli.text import echo, echo_json, visible
from cultural_palette.errors import PaletteError, UsageError

if TYPE_CHECKING:
    from cultural_palette.cultural_map import CulturalMap
    from cultural_palette.training.queries import Queries
    from cultural_palette.training.synthesis.estimate import SynthesisEstimate
    from cultural_palette.training.synthesis.run import Outcome, SynthesisSpec, Tally
    from cultural_palette.training.synthesis.session import Sitting
    from cultural_palette.training.synthesis.teacher import Ledger

EVERY_S, EVERY_ON_TERMINAL_S = 30.0, 0.5


@dataclass(frozen=True)
class QueryFlags:
    """What is answered."""

    source: str | None
    revision: str | None
    limit: int | None
    keep_greetings: bool
    english_only: bool


@dataclass(frozen=True)
class AnswerFlags:
    """How an answer is made: the fields of SynthesisContext that shape it."""

    max_rounds: int
    validation: Literal["auto", "teacher", "checks"]
    temperature: float
    seed: int
    max_tokens: int | None


@dataclass(frozen=True)
class CallFlags:
    """How calls travel and what they may cost; nothing of it changes an answer."""

    concurrency: int | None
    processes: int
    timeout_s: float
    retries: int
    prices: Path | None
    budget: float | None


@dataclass(frozen=True)
class ModeFlags:
    """What is done: a run, or an estimate, a preview, the providers' batch files."""

    dry_run: bool
    queries_count: int | None
    preview: int | None
    batch: str | None
    results: tuple[Path, ...]


@dataclass(frozen=True)
class ClusterFlags:
    """Where it runs."""

    where: str | None
    shard_size: int | None


@click.command()
@click.option(
    "--queries",
    "source",
    metavar="WHAT",
    help="prism, prism:FOLDER, or a CSV or JSONL file with a 'query' column.",
)
@click.option("--revision", help="Of PRISM on the hub.")
@click.option(
    "--teacher",
    "teachers",
    multiple=True,
    metavar="REF",
    help="openai:NAME, openai:NAME@URL,URL or embedded:nano; repeat for more addresses of one model.",
)
@click.option("--out", type=Place(), help="Folder of the run; one in it goes on.")
@map_option
@click.option("--limit", type=click.IntRange(1), help="The first so many queries only.")
@click.option(
    "--max-rounds", type=click.IntRange(1, 10), default=3, show_default=True, help="Then set aside."
)
@click.option(
    "--validation",
    type=click.Choice(["auto", "teacher", "checks"]),
    default="auto",
    show_default=True,
    help="Who validates: plain checks, then the teacher; or the checks alone (auto: for embedded).",
)
@click.option(
    "--temperature", type=click.FloatRange(0, 2), default=0.7, show_default=True, help="Of the steps."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Each round adds one.")
@click.option("--max-tokens", type=click.IntRange(1), help="Longest reply.  [default: 1024; embedded 160]")
@click.option("--keep-greetings", is_flag=True, help="Keep queries that only greet.")
@click.option("--english-only", is_flag=True, help="Leave out queries in other languages (needs lingua).")
@click.option(
    "--concurrency", type=click.IntRange(1, 4096), help="Calls at once.  [default: 64; embedded 16]"
)
@click.option(
    "--processes",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="For servers that answer faster than one process can ask.",
)
@click.option("--timeout", "timeout_s", default=120.0, show_default=True, help="Seconds for one attempt.")
@click.option("--retries", type=click.IntRange(0, 20), default=6, show_default=True, help="Of a failed call.")
@click.option("--prices", type=click.Path(path_type=Path), help="Your own, YAML.")
@click.option(
    "--budget", type=click.FloatRange(0, min_open=True), metavar="USD", help="Stop when it is used up."
)
@on_option
@shard_option("Queries", 128)
@click.option("--dry-run", is_flag=True, help="Say answers, calls, tokens and cost; ask nothing.")
@click.option(
    "--queries-count", type=click.IntRange(1), help="With --dry-run: so many queries of PRISM's length."
)
@click.option("--preview", type=click.IntRange(1, 100), metavar="N", help="Show the answers to N queries.")
@click.option("--batch", type=click.Choice(["write", "read"]), help="The providers' batch files.")
@click.option(
    "--results", multiple=True, type=click.Path(path_type=Path), help="With --batch read; may be repeated."
)
@json_option
@flag_groups(queries=QueryFlags, answers=AnswerFlags, calls=CallFlags, mode=ModeFlags, cluster=ClusterFlags)
def synthesize(
    queries: QueryFlags,
    answers: AnswerFlags,
    calls: CallFlags,
    mode: ModeFlags,
    cluster: ClusterFlags,
    teachers: tuple[str, ...],
    out: Path | str | None,
    map_name: str | None,
    as_json: bool,
) -> None:
    """Make the dataset's answers: a teacher answers every query for every community.

    A run that was stopped, in whatever way, goes on by the same command and repeats no finished call.
    """
    from cultural_palette.cultural_map import load_map
    from cultural_palette.nodes.synthesis.state import SynthesisContext
    from cultural_palette.settings import get_settings, use_settings
    from cultural_palette.training.synthesis.prices import price_of
    from cultural_palette.training.synthesis.run import SynthesisSpec
    from cultural_palette.training.synthesis.session import Sitting
    from cultural_palette.training.synthesis.sitting import finished_manifest
    from cultural_palette.training.synthesis.teacher import parse_teacher

    check_where(cluster.where, shard_size=cluster.shard_size)
    settings = get_settings(map=map_name)
    cultural_map = load_map(settings.map)
    model, urls = parse_teacher(teachers, settings)
    own_server = any("api.openai.com" not in url for url in urls)
    price = price_of(model, calls.prices, batch=mode.batch is not None, own_server=own_server)
    if calls.budget is not None and price is None:
        raise UsageError(
            f"--budget needs a price for {model}: give a file with --prices (see docs/synthesis.md)."
        )
    context = SynthesisContext(timeout_s=calls.timeout_s, **asdict(answers))
    _check(queries, mode, out, cluster, model.in_process)
    with use_settings(settings):
        if mode.queries_count is not None:
            from cultural_palette.training.synthesis.estimate import estimate

            _print_estimate(
                estimate(mode.queries_count, cultural_map, model, context, price), cultural_map, as_json
            )
            return
        queries_read = _read(queries, cultural_map)
        spec = SynthesisSpec(queries_read, cultural_map, model, context, queries.limit)
        if not as_json:
            _say_queries(queries_read, spec)
        if mode.dry_run:
            from cultural_palette.training.synthesis.estimate import estimate

            _print_estimate(estimate(spec.items, cultural_map, model, context, price), cultural_map, as_json)
            return
        assert out is not None
        sitting = Sitting(
            urls=urls,
            key=settings.api_key.get_secret_value() if settings.api_key else None,
            concurrency=calls.concurrency or (16 if model.in_process else 64),
            processes=calls.processes,
            retries=calls.retries,
            price=price,
            budget=calls.budget,
        )
        if cluster.where:
            _run_on_cluster(spec, on_storage(out), sitting, cluster, as_json)
            return
        folder = local_path("--out", out)
        if mode.preview:
            _preview(spec, folder, sitting, mode.preview)
        elif manifest := finished_manifest(spec, folder):
            echo(f"{folder} is finished; nothing is left to ask.", err=True)
            _print_manifest(folder, manifest, as_json)
        elif mode.batch:
            _batch(spec, folder, sitting, mode, as_json)
        else:
            _run(spec, folder, sitting, as_json)


def _check(
    queries: QueryFlags, mode: ModeFlags, out: Path | str | None, cluster: ClusterFlags, in_process: bool
) -> None:
    """Refuse flags that do not go together."""
    if mode.queries_count is not None and not mode.dry_run:
        raise UsageError("--queries-count goes with --dry-run.")
    if queries.source is None and mode.queries_count is None:
        raise UsageError("No queries: give --queries prism, prism:FOLDER, or a CSV or JSONL file.")
    if out is None and not mode.dry_run:
        raise UsageError("No folder: give --out, such as runs/pentachromatic.")
    if mode.batch == "read" and not mode.results:
        raise UsageError("--batch read needs --results FILE, the provider's results.")
    if mode.results and mode.batch != "read":
        raise UsageError("--results goes with --batch read.")
    if mode.batch and in_process:
        raise UsageError("--batch is for providers' servers (openai:...), not for a model in this process.")
    if cluster.where and (mode.batch or mode.preview):
        raise UsageError("--batch and --preview are for one machine: leave out --on.")


def _read(flags: QueryFlags, cultural_map: CulturalMap) -> Queries:
    from cultural_palette.training.prism import load_prism
    from cultural_palette.training.queries import Filters, read_queries

    filters = Filters(greetings=not flags.keep_greetings, english_only=flags.english_only)
    name, _, path = (flags.source or "").partition(":")
    if name == "prism":
        folder = Path(path) if path else None
        return load_prism(cultural_map, folder, revision=flags.revision, filters=filters)
    return read_queries(Path(flags.source or ""), cultural_map, filters)


def _say_queries(queries: Queries, spec: SynthesisSpec) -> None:
    counts = ", ".join(f"{number:,} {name.replace('_', ' ')}" for name, number in queries.counts.items())
    echo(f"{queries.origin['dataset']}: {counts}", err=True)
    for fault in queries.faults[:5]:
        echo(f"set aside: {fault}", err=True)
    if (more := queries.counts["unreadable"] - 5) > 0:
        echo(f"set aside: {more:,} more rows that can not be read", err=True)


def _print_estimate(estimate: SynthesisEstimate, cultural_map: CulturalMap, as_json: bool) -> None:
    if as_json:
        echo_json(estimate.as_json())
        return
    for line in estimate.lines("continent" if cultural_map.key == "continents" else "community"):
        echo(line)


class _Ticker:
    """The line of progress on standard error: in place on a terminal, else now and then."""

    def __init__(self) -> None:
        self.last = 0.0
        self.terminal = sys.stderr.isatty()
        self.shown = False

    def __call__(self, tally: Tally, ledger: Ledger) -> None:
        now = time.monotonic()
        if now - self.last < (EVERY_ON_TERMINAL_S if self.terminal else EVERY_S):
            return
        if self.last or self.terminal:
            self.line(tally, ledger)
        self.last = now

    def line(self, tally: Tally, ledger: Ledger) -> None:
        """Print it now."""
        from cultural_palette.training.synthesis.progress import progress_line

        text = progress_line(tally, ledger)
        if self.terminal:
            import shutil

            text = text[: shutil.get_terminal_size().columns - 1]
            click.echo(f"\r\x1b[2K{visible(text)}", err=True, nl=False)
            self.shown = True
        else:
            echo(text, err=True)

    def end(self) -> None:
        """Leave the line."""
        if self.shown:
            echo("", err=True)


def _run(spec: SynthesisSpec, out: Path, sitting: Sitting, as_json: bool) -> None:
    from cultural_palette.artifacts import RunFolder
    from cultural_palette.training.synthesis.session import INTERRUPTED
    from cultural_palette.training.synthesis.sitting import sit

    ticker = _Ticker()
    try:
        outcome = sit(spec, out, sitting, ticker, lambda text: echo(f"\n{text}", err=True))
    finally:
        ticker.end()
    if outcome.finished:
        _print_manifest(out, RunFolder(out).manifest, as_json)
        return
    echo(_so_far(outcome), err=True)
    if outcome.stopped == INTERRUPTED:
        raise KeyboardInterrupt
    raise PaletteError(_unfinished(out, outcome))


def _run_on_cluster(
    spec: SynthesisSpec, out: str, sitting: Sitting, cluster: ClusterFlags, as_json: bool
) -> None:
    from cultural_palette.training.synthesis.on_cluster import (
        QUERIES_A_SHARD,
        finished_manifest,
        sit_on_cluster,
    )

    shard = cluster.shard_size or QUERIES_A_SHARD
    if manifest := finished_manifest(spec, out, shard):
        echo(f"{out} is finished; nothing is left to ask.", err=True)
        _print_manifest(out, manifest, as_json)
        return
    ticker = _Ticker()
    try:
        outcome = sit_on_cluster(spec, out, sitting, ticker, cluster.where or "", shard)
    finally:
        ticker.end()
    if not outcome.finished:
        echo(_so_far(outcome), err=True)
        raise PaletteError(_unfinished(out, outcome))
    _print_manifest(out, finished_manifest(spec, out, shard) or {}, as_json)


def _so_far(outcome: Outcome) -> str:
    tally = outcome.tally
    return (
        f"{tally.written:,} of {tally.wanted:,} answers are written ({tally.ok:,} ok, "
        f"{tally.set_aside:,} set aside). The same command goes on."
    )


def _unfinished(out: Path | str, outcome: Outcome) -> str:
    tally = outcome.tally
    if outcome.stopped:
        return f"{out} is not finished: {outcome.stopped}"
    reasons = "; ".join(f"{number} x {why}" for why, number in tally.errors.most_common(3))
    return (
        f"{out} is not finished: {tally.failed:,} answers got no reply ({reasons}). The same command asks "
        "them again."
    )


def _print_manifest(out: Path | str, manifest: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        echo_json(manifest)
        return
    counts, tokens, cost = manifest["counts"], manifest["tokens"], manifest["cost_usd"]
    echo(
        f"{out}: {counts['rows']:,} answers to {counts['queries']:,} queries, {counts['ok']:,} ok, "
        f"{counts['set_aside']:,} set aside"
    )
    for key, by_status in counts["by_community"].items():
        statuses = ", ".join(f"{number:,} {status.replace('_', ' ')}" for status, number in by_status.items())
        echo(f"  {manifest['map']['communities'].get(key, key):<10} {statuses}")
    if counts["findings"]:
        echo("findings: " + ", ".join(f"{name} {number:,}" for name, number in counts["findings"].items()))
    echo(
        f"{tokens['input']:,} tokens read, {tokens['output']:,} written; "
        + (f"{cost:,.2f} USD" if cost is not None else "cost unknown (no price)")
    )


def _preview(spec: SynthesisSpec, out: Path, sitting: Sitting, number: int) -> None:
    from rich.panel import Panel
    from rich.text import Text

    from cultural_palette.cli.display import make_console
    from cultural_palette.cli.text import visible
    from cultural_palette.training.synthesis.sitting import preview

    console = make_console()
    for query, answers in preview(spec, out, sitting, number):
        console.print(Text(visible(query.text), style="bold"))
        for community in spec.cultural_map.communities:
            answer = answers[community.key]
            body = Text(visible(answer["response"] or answer["error"] or "no answer"))
            for finding in answer["validation"]["findings"]:
                body.append(f"\n{finding['kind']}: {visible(finding['detail'])}", style="italic red")
            rounds = f"{answer['rounds']} round" + ("s" if answer["rounds"] > 1 else "")
            console.print(
                Panel(
                    body,
                    title=Text(community.name, style=f"bold {community.colour}"),
                    title_align="left",
                    subtitle=Text(f"{answer['status'].replace('_', ' ')}, {rounds}", style="dim"),
                    subtitle_align="right",
                    border_style=community.colour,
                )
            )
    echo(f"The calls are kept in {out}; the run will not ask them again.", err=True)


def _batch(spec: SynthesisSpec, out: Path, sitting: Sitting, mode: ModeFlags, as_json: bool) -> None:
    from cultural_palette.artifacts import RunFolder
    from cultural_palette.training.synthesis.batch import ENDPOINT, RequestsFile, ResultsFiles
    from cultural_palette.training.synthesis.sitting import sit

    answering = RequestsFile(out / "batch") if mode.batch == "write" else ResultsFiles(mode.results)
    ticker = _Ticker()
    outcome = sit(spec, out, replace(sitting, answering=answering), ticker, lambda text: None)
    ticker.end()
    if isinstance(answering, ResultsFiles):
        counts = ", ".join(f"{number:,} {name}" for name, number in answering.counts.items())
        echo(f"results: {counts}", err=True)
        for fault in answering.faults[:5]:
            echo(f"  {fault}", err=True)
    if outcome.finished:
        _print_manifest(out, RunFolder(out).manifest, as_json)
        return
    echo(_so_far(outcome), err=True)
    if isinstance(answering, RequestsFile):
        for file in answering.close():
            echo(str(file))
        echo(
            f"{answering.requests:,} requests. Give each file to the provider as a batch for {ENDPOINT}; "
            "then the same command with --batch read --results FILE.",
            err=True,
        )
    else:
        echo("Go on with --batch write: the next step of every unfinished answer.", err=True)
