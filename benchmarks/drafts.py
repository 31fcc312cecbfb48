"""Five drafts as one mixed-adapter batch, against five generations one after the other.

    python -m benchmarks.drafts --json

Rivals, on the same weights and prompts, both greedy: the embedded engine asked one draft at a time, and
transformers' own `generate` with PEFT's `set_adapter` before each draft. Every round runs all three; the
ratios are of medians.
"""

from __future__ import annotations

import asyncio
import json
import platform
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

import click

QUESTIONS = (
    ("Kenya", "How do people greet each other?"),
    ("New Zealand", "What does freedom mean to people?"),
    ("Japan", "How are elders treated?"),
)
MAX_TOKENS = 120


@click.command()
@click.option("--rounds", default=5, show_default=True, help="Counted rounds, after one to warm up.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def main(rounds: int, as_json: bool) -> None:
    """Measure, and print medians and ratios."""
    result = asyncio.run(measure(rounds))
    if as_json:
        click.echo(json.dumps(result, indent=2))
        return
    click.echo(
        f"five drafts, {result['questions']} questions a round, {rounds} rounds, median seconds a question"
    )
    for name, seconds in result["seconds"].items():
        ratio = result["ratios"].get(name)
        click.echo(f"  {name:<28} {seconds:6.2f}" + (f"   {ratio:.2f} times the batch" if ratio else ""))


async def measure(rounds: int) -> dict[str, Any]:
    """Seconds a question (median over rounds) for the batch and both rivals, and rival / batch."""
    import peft
    import torch
    import transformers

    from cultural_palette.embedded.chat_model import EmbeddedChatModel
    from cultural_palette.embedded.engine import get_engine
    from cultural_palette.prompts import render

    engine = get_engine("nano")
    keys = engine.manifest.communities
    models = {key: EmbeddedChatModel(part=key, temperature=0, max_tokens=MAX_TOKENS) for key in keys}
    prompts = [
        {
            key: render("draft", community=key.title(), country=country, question=text, options="")
            for key in keys
        }
        for country, text in QUESTIONS
    ]

    async def batched() -> list[str]:
        texts: list[str] = []
        for by_community in prompts:
            replies = await asyncio.gather(*(models[key].ainvoke(by_community[key]) for key in keys))
            texts += [reply.text for reply in replies]
        return texts

    async def one_by_one() -> list[str]:
        return [
            (await models[key].ainvoke(by_community[key])).text for by_community in prompts for key in keys
        ]

    base = transformers.AutoModelForCausalLM.from_pretrained(engine.manifest.base, dtype=torch.float32)
    first, *others = keys
    agents = peft.PeftModel.from_pretrained(base, engine.manifest.adapters[first], adapter_name=first).eval()
    for key in others:
        agents.load_adapter(engine.manifest.adapters[key], adapter_name=key)

    async def plain_generate() -> list[str]:
        texts = []
        for by_community in prompts:
            for key in keys:
                agents.set_adapter(key)
                pairs = [("system" if m.type == "system" else "user", m.text) for m in by_community[key]]
                ids = torch.tensor([engine.encode(pairs)])
                with torch.inference_mode():
                    output = agents.generate(
                        input_ids=ids,
                        attention_mask=torch.ones_like(ids),
                        do_sample=False,
                        max_new_tokens=MAX_TOKENS,
                    )
                texts.append(engine.tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True))
        return texts

    methods: dict[str, Callable[[], Awaitable[list[str]]]] = {
        "one mixed-adapter batch": batched,
        "engine, one at a time": one_by_one,
        "transformers generate": plain_generate,
    }
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    texts: dict[str, list[str]] = {}
    for counted in range(rounds + 1):
        for name, method in methods.items():
            started = time.perf_counter()
            texts[name] = await method()
            if counted:
                seconds[name].append((time.perf_counter() - started) / len(prompts))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    batch = medians["one mixed-adapter batch"]
    return {
        "what": "five drafts of the nano palette, greedy",
        "with": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "threads": torch.get_num_threads(),
            "machine": platform.machine(),
        },
        "questions": len(prompts),
        "rounds": rounds,
        "max_tokens": MAX_TOKENS,
        "seconds": medians,
        "spread": {name: [min(values), max(values)] for name, values in seconds.items()},
        "ratios": {
            name: value / batch for name, value in medians.items() if name != "one mixed-adapter batch"
        },
        "same_texts": all(texts[name] == texts["one mixed-adapter batch"] for name in methods),
    }


if __name__ == "__main__":
    main()
