"""Reading a question's options in several orders, against a pass over the whole prompt for each of them.

    python -m benchmarks.readings --json

Rival: each order's prompt anew, in a row for every beginning of a label's spellings, as the engine read them
before its stems. Both are asked for the same decision of the graph about ten countries, after an account of
some 200 words, one part at a time; the log-probabilities must agree. Loading is not in the seconds.
"""

from __future__ import annotations

import json
import statistics
import time
from importlib import import_module
from typing import Any

import click

from cultural_palette.messages import role_pairs
from cultural_palette.option_orders import in_order, orders_of
from cultural_palette.prompts import render
from cultural_palette.questions import Question

COUNTRIES = ("Kenya", "India", "Peru", "Norway", "Japan", "Fiji", "Ghana", "Chile", "Poland", "Nepal")
PARTS = ("base", "africa", "meta")
QUESTION = Question(
    "How important is it to greet the oldest person in a room first?",
    ("Very important", "Rather important", "Not very important", "Not at all important"),
)
ACCOUNT = "People greet the eldest first and wait until they are asked to sit; the young do so less at work. "


@click.command()
@click.option("--palette", default="small", show_default=True)
@click.option("--orders", default=2, show_default=True, help="Orders of the options.")
@click.option("--threads", type=int, help="Threads of a step; torch's own choice without it.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def main(palette: str, orders: int, threads: int | None, as_json: bool) -> None:
    """Measure, and print each part's median seconds a decision, their ratio and the largest difference."""
    result = measure(palette, orders, threads)
    if as_json:
        click.echo(json.dumps(result, indent=2))
        return
    for part, row in result["parts"].items():
        click.echo(
            f"{part:<8} whole {row['whole_s']:.3f} s, ours {row['ours_s']:.3f} s: {row['ratio']:.2f} times "
            f"as quick; log-probabilities within {row['difference']:.1e}"
        )


def measure(palette: str, orders: int, threads: int | None) -> dict[str, Any]:
    """Medians over the countries, each read both ways in turn."""
    import torch

    engines: Any = import_module("cultural_palette.embedded.engine")
    if threads:
        torch.set_num_threads(threads)
    engine = engines.get_engine(palette)
    engine.vocabulary  # noqa: B018  made once
    result: dict[str, Any] = {
        "palette": palette, "orders": orders, "threads": torch.get_num_threads(), "parts": {},
    }  # fmt: skip
    labels = QUESTION.labels
    for part in PARTS:
        seconds: dict[str, list[float]] = {"whole": [], "ours": []}
        difference = 0.0
        for country in COUNTRIES:
            prompts = [
                engine.encode(role_pairs(_prompt(in_order(QUESTION, order), country)))
                for order in orders_of(len(labels), orders)
            ]
            began = time.perf_counter()
            whole = [_whole(engine, part, prompt, labels) for prompt in prompts]
            between = time.perf_counter()
            futures = [engine.option_logprobs(part, prompt, labels) for prompt in prompts]
            ours = [future.result().logprobs for future in futures]
            seconds["ours"].append(time.perf_counter() - between)
            seconds["whole"].append(between - began)
            apart = (torch.tensor(whole) - torch.tensor(ours)).abs().max()
            difference = max(difference, float(apart))
        middle = {name: statistics.median(values) for name, values in seconds.items()}
        result["parts"][part] = {
            "prompt_tokens": len(prompts[0]), "whole_s": middle["whole"], "ours_s": middle["ours"],
            "ratio": middle["whole"] / middle["ours"], "difference": difference,
        }  # fmt: skip
    return result


def _prompt(question: Question, country: str) -> Any:
    fields = {"account": ACCOUNT * 10, "country": country, "question": question.text}
    return render("decide_option", options=question.lettered(), **fields)


def _whole(engine: Any, part: str, prompt: list[int], labels: Any) -> list[float]:
    """The rival, in the worker's own thread."""
    tokens: Any = import_module("cultural_palette.models.tokens")

    def read() -> list[float]:
        import torch

        with torch.inference_mode():
            spellings = {label: tokens.tokenisations(engine.vocabulary, label) for label in labels}
            begun = sorted({s[:cut] for spelt in spellings.values() for s in spelt for cut in range(len(s))})
            ids, mask = engine._pad([prompt + list(beginning) for beginning in begun])
            output, _ = engine._forward(
                [engine._part(part)] * len(begun), mask, input_ids=ids, attention_mask=mask,
                position_ids=(mask.cumsum(1) - 1).clamp(min=0), logits_to_keep=1,
            )  # fmt: skip
            rows = dict(zip(begun, output.logits[:, -1].float().log_softmax(-1), strict=True))
            ways = {
                label: [sum(rows[s[:cut]][s[cut]] for cut in range(len(s))) for s in spelt]
                for label, spelt in spellings.items()
            }
            return [float(torch.logsumexp(torch.stack(ways[label]), 0)) for label in labels]

    result: list[float] = engine._submit(part, prompt, read).result()
    return result


if __name__ == "__main__":
    main()
