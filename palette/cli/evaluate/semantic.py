"""`palette evaluate semantic`: answers to held-out queries against the dataset's gold answers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cultural_palette.cli.lookup import json_option, map_option
from cultural_palette.cli.refs import refs_of
from cultural_palette.cli.text import echo, echo_json
from cultural_palette.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cultural_palette.cultural_map import CulturalMap
    from cultural_palette.evaluation.semantic import Scorer
    from cultural_palette.models import ModelRef, Parts, Sampling

METHOD_NAMES = (
    "vanilla", "prompting", "joint", "ties", "model_stock", "moerges", "own-draft", "other-draft",
)  # fmt: skip
DEFAULT_NLI = "sileod/deberta-v3-large-tasksource-nli"
STAND_IN = "standin-minilm"


@click.command()
@click.option(
    "--dataset",
    required=True,
    type=click.Path(path_type=Path),
    help="Dataset folder, its answers.jsonl, or JSONL of query, community, response.",
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Run folder; resumed if begun.")
@click.option(
    "--methods",
    metavar="LIST",
    help=f"Of {','.join(METHOD_NAMES)}, or your own.  [default: those with a model]",
)
@click.option("--model", metavar="REF", help="The palette, or one model for every part.")
@click.option(
    "--model-of",
    "refs",
    multiple=True,
    metavar="METHOD=REF",
    help="A method's model: 'joint=openai:joint@http://127.0.0.1:8000/v1'; repeat.",
)
@click.option(
    "--nli", default=DEFAULT_NLI, show_default=True, metavar="MODEL",
    help=f"Folder or hub name; or {STAND_IN}: ours, for places without the hub, of no use for comparisons.",
)  # fmt: skip
@click.option("--nli-revision", metavar="REVISION", help="Its commit on the hub.")
@click.option("--hide-names", is_flag=True, help="Of countries and communities, before texts are scored.")
@click.option("--queries", type=click.IntRange(1), metavar="N", help="The first N held-out queries only.")
@click.option(
    "--items", "items_file", type=click.Path(path_type=Path), metavar="FILE",
    help="These held-out answers alone: QUERY/COMMUNITY a line, such as a run's items.txt.",
)  # fmt: skip
@click.option("--max-tokens", type=click.IntRange(1), metavar="N", help="Longest answer.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of sampled answers.")
@click.option(
    "--temperature", type=click.FloatRange(0, 2), default=0.0, show_default=True, help="Of answers."
)
@click.option(
    "--together", is_flag=True,
    help="Replies of an embedded palette share batches: quicker on a CPU. A reply may then depend on what "
    "else was asked at the time; without it nothing does.",
)  # fmt: skip
@click.option(
    "--calls", type=click.Path(path_type=Path), help="Folder of kept calls, to share.  [default: OUT/calls]"
)
@map_option
@json_option
def semantic(
    dataset: Path, out: Path, methods: str | None, model: str | None, refs: tuple[str, ...], nli: str,
    nli_revision: str | None, hide_names: bool, queries: int | None, items_file: Path | None,
    max_tokens: int | None, seed: int, temperature: float, together: bool, calls: Path | None,
    map_name: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Score answers by entailment with the dataset's gold answers (the paper's Figure 4).

    Every method is asked the same, told the community (vanilla is not), and draws alike; its model is what
    differs. Without --model-of, vanilla and prompting are the settings' base model, moerges their meta model,
    own-draft each community's agent and other-draft the next community's; the others need theirs named.

    \b
    palette evaluate semantic --dataset data --out runs/semantic \\
        --model-of joint=openai:joint@http://127.0.0.1:8000/v1
    """
    import asyncio

    from cultural_palette.cultural_map import load_map
    from cultural_palette.evaluation.pinned import read_items
    from cultural_palette.evaluation.semantic import NamesHidden, SemanticPlan, evaluate_semantic, load_gold
    from cultural_palette.models import make_ready, resolve_parts
    from cultural_palette.settings import get_settings, use_settings

    settings = get_settings(map=map_name, model=model)
    with use_settings(settings):
        cultural_map = load_map(settings.map)
        parts = resolve_parts(cultural_map, settings.models, settings.model)
        models = _models(methods, refs, parts, cultural_map)
        gold = load_gold(dataset, cultural_map, queries, read_items(items_file) if items_file else None)
        sampling = _sampling(parts, temperature, max_tokens, seed)
        plan = SemanticPlan(gold, cultural_map, models, sampling, together=together)
        scorer = scorer_named(nli, nli_revision)
        if hide_names:
            scorer = NamesHidden(scorer, cultural_map)
        make_ready(parts, lambda line: echo(line, err=True))
        manifest = asyncio.run(evaluate_semantic(plan, scorer, out, tell=_tell, calls=calls))
    if as_json:
        echo_json(manifest)
    else:
        _print(manifest, out)


def scorer_named(nli: str, revision: str | None) -> Scorer:
    """The scorer that `--nli` names."""
    if nli == STAND_IN:
        from cultural_palette.evaluation.standin import load_standin

        return load_standin()
    from cultural_palette.evaluation.nli import load_entailment

    return load_entailment(nli, revision=revision)


def _sampling(parts: Parts, temperature: float, max_tokens: int | None, seed: int) -> Sampling:
    """How every method draws: as the settings say of drafts, else as the embedded palette draws them."""
    from cultural_palette.embedded.manifest import read_manifest
    from cultural_palette.models import Sampling
    from cultural_palette.settings import current_settings

    folder = parts.base.palette_folder
    shape: dict[str, Any] = dict(read_manifest(str(folder)).sampling_of("draft")) if folder else {}
    shape |= current_settings().sampling.get("draft", {})
    length = {"max_tokens": max_tokens} if max_tokens else {}
    return Sampling(**{**shape, "temperature": temperature, "seed": seed, **length})


def _models(
    methods: str | None, refs: Sequence[str], parts: Parts, cultural_map: CulturalMap
) -> Mapping[str, ModelRef | Mapping[str, ModelRef]]:
    """A model for each method asked for."""
    from cultural_palette.models import ModelRef

    keys = [community.key for community in cultural_map.communities]
    following = dict(zip(keys, [*keys[1:], keys[0]], strict=True))
    known: dict[str, ModelRef | Mapping[str, ModelRef]] = {
        "vanilla": parts.base,
        "prompting": parts.base,
        "moerges": parts.meta,
    }
    if not parts.prompted:  # one model told apart by the prompt alone has no agents
        known["own-draft"] = dict(parts.agents)
        known["other-draft"] = {key: parts.agents[following[key]] for key in keys}
    for method, ref in refs_of("--model-of", refs, "METHOD=REF", "joint=openai:joint").items():
        known[method] = ModelRef.parse(ref)
    ordered = sorted(known, key=lambda name: METHOD_NAMES.index(name) if name in METHOD_NAMES else len(known))
    names = [name.strip() for name in methods.split(",") if name.strip()] if methods else ordered
    if not names:
        raise UsageError(f"--methods names none; there are {', '.join(METHOD_NAMES)}.")
    if lacking := [name for name in names if name not in known]:
        raise UsageError(
            f"Method {lacking[0]!r} has no model: say --model-of {lacking[0]}=REF, or leave it out of "
            "--methods. "
            f"With a model: {', '.join(ordered)}."
        )
    return {name: known[name] for name in dict.fromkeys(names)}


def _tell(done: int, total: int) -> None:
    echo(f"{done:,} of {total:,} answers", err=True)


def _print(manifest: Mapping[str, Any], out: Path) -> None:
    names = [community["key"] for community in manifest["communities"]]
    scores = manifest["scores"]
    columns = [name for name in (*names, "all") if any(name in row for row in scores.values())]
    width = max(len(name) for name in (*manifest["methods"], *manifest["floors"]))
    if caution := manifest["nli"].get("caution"):
        echo(f"{caution}\n")
    echo(f"S_semantic, 0 to 100, by {manifest['nli']['model']}; 95 % intervals over queries\n")
    echo(" " * width + "".join(f"{name:>22}" for name in columns))
    for method in manifest["methods"]:
        cells = "".join(f"{_cell(scores[method].get(name)):>22}" for name in columns)
        failed = manifest["outcomes"][method]["failed"]
        echo(f"{method:<{width}}{cells}" + (f"   {failed} failed" if failed else ""))
    for floor in manifest["floors"]:
        cells = "".join(f"{_cell(manifest['floors'][floor].get(name)):>22}" for name in columns)
        echo(f"{floor:<{width}}{cells}   {'the most there is' if floor == 'itself' else 'a floor'}")
    echo(f"\n{manifest['items']} held-out answers; rows and manifest in {out}")


def _cell(score: Mapping[str, Any] | None) -> str:
    if score is None:
        return "-"
    spread = f" {score['low']:.1f}..{score['high']:.1f}" if score["low"] is not None else ""
    return f"{score['mean']:.2f}{spread}"
