"""A question to the small palette with its quicker steps, against the same engine without them.

    python -m benchmarks.quick_steps --json

Without: linear layers by `torch.nn.functional.linear` (the output layer transposed for few rows), a cache
that every step copies, a token a pass, one agent's changes after the other's. Both load the same weights and
are asked the same questions with the same seed; drafts, account and answer must be the same texts. Loading
and imports are not in the seconds.
"""

from __future__ import annotations

import json
import statistics
import time
from dataclasses import replace
from importlib import import_module
from typing import Any

import click

QUESTIONS = (
    ("IND", "What happens at a wedding?"),
    ("KEN", "Do I have to pay taxes if I only sell tomatoes at the market?"),
    ("PER", "Which animal do you think of as lucky?"),
)


@click.command()
@click.option("--questions", default=len(QUESTIONS), show_default=True, help="How many questions are asked.")
@click.option("--threads", type=int, help="Threads of a step; torch's own choice without it.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def main(questions: int, threads: int | None, as_json: bool) -> None:
    """Measure, and print medians, their ratio, and whether the texts are the same."""
    result = measure(questions, threads)
    if as_json:
        click.echo(json.dumps(result, indent=2))
        return
    for name in ("plain", "quick"):
        click.echo(f"{name:<6} {result['wall_s'][name]:6.1f} s  {result['cpu_s'][name]:6.1f} s of processors")
    click.echo(f"plain / quick: {result['wall_ratio']:.2f}, of processors {result['cpu_ratio']:.2f}")
    click.echo(f"texts that are the same: {result['same']} of {result['questions']}")


def measure(count: int, threads: int | None) -> dict[str, Any]:
    """Medians over the questions, each asked both ways in turn."""
    import torch
    import transformers

    import cultural_palette as cp

    engines: Any = import_module("cultural_palette.embedded.engine")
    coloured: Any = import_module("cultural_palette.moerges.model")
    if threads:
        torch.set_num_threads(threads)
    quick, can_pack, plan = engines.get_engine("small"), engines.can_pack, coloured.plan
    engines.can_pack = lambda: False
    plain = engines.Engine(quick.manifest)
    plain._ahead = lambda rows: []
    engines.can_pack = can_pack
    ways: dict[str, tuple[Any, Any, Any]] = {
        "plain": (
            plain,
            lambda *given: replace(plan(*given), agents=None),
            lambda config: transformers.DynamicCache(config=config),
        ),
        "quick": (quick, plan, engines.growing_cache),
    }
    wall: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    same = 0
    for country, question in QUESTIONS[:count]:
        said = []
        for name, (engine, planned, cache) in ways.items():
            engines._engines["small"], coloured.plan, engines.growing_cache = engine, planned, cache
            began, used = time.perf_counter(), time.process_time()
            answer = cp.ask(country, question, model="embedded:small", seed=0)
            wall[name].append(time.perf_counter() - began)
            cpu[name].append(time.process_time() - used)
            drafts = {key: draft.text for key, draft in answer.drafts.items()}
            said.append((answer.answer, answer.account, drafts))
        same += said[0] == said[1]
    middle = {kind: {name: statistics.median(values) for name, values in each.items()}
              for kind, each in (("wall_s", wall), ("cpu_s", cpu))}  # fmt: skip
    return {
        "questions": len(QUESTIONS[:count]),
        "threads": torch.get_num_threads(),
        **middle,
        "wall_ratio": middle["wall_s"]["plain"] / middle["wall_s"]["quick"],
        "cpu_ratio": middle["cpu_s"]["plain"] / middle["cpu_s"]["quick"],
        "same": same,
    }


if __name__ == "__main__":
    main()
