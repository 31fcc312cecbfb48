"""`docs/nano.md`: the nano palette measured on dialogues held out of its training.

Every figure comes with its n. Held out means: the question's wording was never trained on, nor was that topic or
dilemma ever asked about that country (see `training.nano.dialogues.HeldOut`).
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from palette.cultural_map import load_map
from palette.embedded.engine import BASE, META, Engine, get_engine
from training.nano.atlas import Atlas, load_atlas
from training.nano.build import ROUTER_PHRASES
from training.nano.dialogues import Writer

SEED = 4096


def write_report(to: Path, count: int) -> None:
    """Measure the shipped palette and write the page, with the figures beside it as JSON."""
    atlas, engine = load_atlas(), get_engine("nano")
    figures = {
        "count": count,
        "perplexity": perplexities(atlas, engine, count),
        "drafts": draft_purity(atlas, count),
        "router": router_hits(atlas, engine),
        "decisions": decisions(atlas, engine, count),
        "examples": examples(atlas),
        "training": json.loads((engine.manifest.base.parent / "training.json").read_text(encoding="utf-8")),
        "sizes": sizes(engine),
    }
    to.write_text(page(figures), encoding="utf-8")
    figures.pop("examples")
    to.with_suffix(".json").write_text(json.dumps(figures, indent=1), encoding="utf-8")


def perplexities(atlas: Atlas, engine: Engine, count: int) -> dict[str, dict[str, float]]:
    """Perplexity of each community's held-out answers to bare questions (column) under each model (row)."""
    keys = list(engine.manifest.communities)
    writer = Writer(atlas, random.Random(SEED), heldout=True)
    groups = [writer.bare_group() for _ in range(count)]
    table: dict[str, dict[str, float]] = {}
    for part in (*keys, BASE, META):
        table[part] = {}
        for community in keys:
            total, tokens = 0.0, 0
            for group in groups:
                ids = engine.encode([(m["role"], m["content"]) for m in group["prompt"]])
                reply = engine.tokenizer(group["responses"][community], add_special_tokens=False)["input_ids"]
                reply = [*reply, engine.tokenizer.eos_token_id]
                logp, n = engine.sequence_logprob(part, ids + reply, len(ids)).result()
                total, tokens = total + logp, tokens + n
            table[part][community] = math.exp(-total / tokens)
    return table


def draft_purity(atlas: Atlas, count: int) -> dict[str, dict[str, float]]:
    """Share of drafts on held-out questions that name a country of their own community and none of another's.

    The asked country does not count either way. Per community, under its adapter, and under the base with the same
    prompt and with no community in it.
    """
    writer = Writer(atlas, random.Random(SEED + 1), heldout=True)
    subjects = [writer._draft_group(options=i % 2 == 1) for i in range(count // 5)]
    prompts, meanings = [], []
    for group in subjects:
        for community in writer.names:
            for part in (community, BASE):
                prompts.append((part, writer._draft_prompt(group, community)))
                meanings.append((community, part, group["land"].iso3))
        for community in writer.names:
            for part in (community, BASE):
                prompts.append((part, [{"role": "user", "content": group["question"].text}]))
                meanings.append((community, f"{part} bare", group["land"].iso3))
    texts = asyncio.run(_replies(prompts))
    tallies: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for (community, part, asked), text in zip(meanings, texts, strict=True):
        label = part.replace(community, "adapter")
        tallies[community][label].append(_pure(atlas, text, community, asked))
    return {
        community: {"n": len(subjects)} | {label: sum(hits) / len(hits) for label, hits in row.items()}
        for community, row in tallies.items()
    }


def _pure(atlas: Atlas, text: str, community: str, asked: str) -> bool:
    named = {
        place.community
        for place in atlas.places.values()
        if place.iso3 != asked and re.search(rf"\b{re.escape(place.name)}\b", text)
    }
    own_asked = atlas.places.get(asked)
    if own_asked is not None and own_asked.community == community and own_asked.name in text:
        named.add(community)
    return named == {community}


async def _replies(prompts: Sequence[tuple[str, list[dict[str, str]]]], temperature: float = 0.7) -> list[str]:
    from palette.embedded.chat_model import EmbeddedChatModel

    texts: list[str] = []
    for start in range(0, len(prompts), 32):
        chunk = prompts[start : start + 32]
        models = [EmbeddedChatModel(part=part, temperature=temperature, seed=SEED) for part, _ in chunk]
        replies = await asyncio.gather(
            *(m.ainvoke([(x["role"], x["content"]) for x in messages]) for m, (_, messages) in zip(models, chunk, strict=True))
        )
        texts += [reply.text for reply in replies]
    return texts


def router_hits(atlas: Atlas, engine: Engine) -> dict[str, dict[str, float]]:
    """Mean router weight on the right community (chance 0.2) and share of prompts where it is the largest.

    Three prompts: phrases the router was made from, the decide prompt about a country, the country's name in a
    question of another wording.
    """
    keys = list(engine.manifest.communities)
    writer = Writer(atlas, random.Random(SEED + 2), heldout=True)
    forms: dict[str, list[tuple[str, list[tuple[str, str]]]]] = defaultdict(list)
    for place in atlas.places.values():
        forms["a phrase the router was made from"].append((place.community, [("user", ROUTER_PHRASES[2].format(name=place.name))]))
        forms["one new sentence about the country"].append((place.community, [("user", f"Please tell me how people live in {place.name}.")]))
    for _ in range(len(atlas.places)):
        row = writer.decide()
        community = writer.lands[row["country"]].community
        messages = [(m["role"], m["content"]) for m in row["messages"][:-1]]
        forms["the whole decide prompt, held out"].append((community, messages))
    result = {}
    for form, prompts in forms.items():
        weights, hits, entropy = [], 0, 0.0
        for community, messages in prompts:
            layers = engine.blend(engine.encode(messages)).result()
            mean = [sum(layer[i] for layer in layers) / len(layers) for i in range(len(keys))]
            weights.append(mean[keys.index(community)])
            hits += max(range(len(keys)), key=mean.__getitem__) == keys.index(community)
            entropy -= sum(w * math.log(w) for w in mean) / math.log(len(keys))
        result[form] = {"n": len(prompts), "weight": sum(weights) / len(weights), "largest": hits / len(prompts),
                        "entropy": entropy / len(prompts)}  # fmt: skip
    return result


def decisions(atlas: Atlas, engine: Engine, count: int) -> dict[str, dict[str, float]]:
    """How near the readout comes to the shares that the held-out dilemmas were drawn from.

    The account is the atlas' own (teacher-forced): the decision alone is measured. Floors: a uniform guess.
    """
    from palette.distributions import Distribution

    writer = Writer(atlas, random.Random(SEED + 3), heldout=True)
    tallies: dict[str, list[tuple[float, float, float, bool]]] = defaultdict(list)
    for _ in range(count):
        group = writer._dilemma_subject()
        question = group["question"]
        from palette.prompts import render

        messages = render("decide_option", account=writer._account(group), country=group["land"].name,
                          question=question.text, options=question.lettered())  # fmt: skip
        prompt = engine.encode([("system" if m.type == "system" else "user", m.text) for m in messages])
        gold = Distribution(tuple(group["shares"][o] for o in question.options))
        for part in (META, BASE):
            guess, mass = Distribution.from_logprobs(engine.option_logprobs(part, prompt, question.labels).result())
            uniform = Distribution.uniform(len(question.options))
            tallies[part].append((1 - guess.js_distance(gold), 1 - uniform.js_distance(gold), mass, guess.mode_index == gold.mode_index))
    return {
        part: {"n": len(rows), "similarity": _mean([r[0] for r in rows]), "uniform": _mean([r[1] for r in rows]),
               "mass": _mean([r[2] for r in rows]), "mode": _mean([float(r[3]) for r in rows])}
        for part, rows in tallies.items()
    }  # fmt: skip


def examples(atlas: Atlas) -> list[dict[str, Any]]:
    """Three held-out questions through the whole graph, as they came (seed 0)."""
    from graph.build import build_palette

    asked: list[dict[str, Any]] = [
        {"country": "NZL", "query": "What should come first, freedom or equality?",
         "options": ["Freedom", "Equality", "Don't know"]},
        {"country": "KEN", "query": "How do people in Kenya honour those who have died?"},
        {"country": "BWA", "query": "What is on the table on an ordinary day?"},
    ]  # fmt: skip
    graph = build_palette()

    async def run() -> list[dict[str, Any]]:
        return [{**await graph.ainvoke(question), "asked": question} for question in asked]

    return asyncio.run(run())


def sizes(engine: Engine) -> dict[str, float]:
    """Parameters of base, one adapter, MoErges; bytes shipped."""
    folder = engine.manifest.base.parent
    shipped = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    adapter = sum(p.numel() for n, p in engine.agents.named_parameters() if "lora_" in n) / len(engine.manifest.communities)
    plain = sum(p.numel() for n, p in engine.agents.named_parameters() if "lora_" not in n)
    return {"base": plain, "adapter": adapter, "moerges": sum(p.numel() for p in engine.meta.parameters()), "bytes": shipped}


def page(figures: dict[str, Any]) -> str:
    """The Markdown of the figures."""
    names = {c.key: c.name for c in load_map("continents").communities}
    perplexity, size = figures["perplexity"], figures["sizes"]
    lines = [
        "# The nano palette, measured", "",
        "Made by `python -m training.nano report`; every number below is that command's, none is typed by hand.", "",
        f"Base {size['base'] / 1e6:.2f} M parameters, each adapter {size['adapter'] / 1e3:.0f} k, MoErges "
        f"{size['moerges'] / 1e6:.2f} M; {size['bytes'] / 2**20:.1f} MiB shipped.", "",
        "## Perplexity of held-out answers", "",
        f"Bare questions in a wording never trained on, n = {figures['count']} questions. Column: whose answer; row: which model.",
        "Lower is better; each adapter should be best in its own column.", "",
        "| model | " + " | ".join(names.values()) + " |", "|---|" + "---:|" * len(names),
    ]  # fmt: skip
    for part, row in perplexity.items():
        best = {c: min(perplexity, key=lambda p: perplexity[p][c]) for c in row}
        cells = [f"**{row[c]:.2f}**" if best[c] == part else f"{row[c]:.2f}" for c in names]
        lines.append(f"| {names.get(part, part)} | " + " | ".join(cells) + " |")
    lines += ["", "## Do drafts keep to their continent?", "",
              "Share of sampled drafts (temperature 0.7) that name countries of their own continent and of no other; the asked",
              "country counts for its own continent only. *Bare*: the question alone, no community named in the prompt.", "",
              "| community | n | adapter | base, same prompt | adapter, bare | base, bare |", "|---|---:|---:|---:|---:|---:|"]  # fmt: skip
    for community, row in figures["drafts"].items():
        cells = [f"{100 * row[k]:.1f} %" for k in ("adapter", "base", "adapter bare", "base bare")]
        lines.append(f"| {names[community]} | {row['n']} | " + " | ".join(cells) + " |")
    lines += ["", "## Where the router looks", "",
              "MoErges' router weight on the country's own continent, averaged over prompt tokens and layers; chance is 0.200.",
              "Entropy is of the blend, 1 = uniform.", "",
              "| prompt | n | weight on the right one | right one largest | entropy |", "|---|---:|---:|---:|---:|"]  # fmt: skip
    for form, row in figures["router"].items():
        lines.append(f"| {form} | {row['n']} | {row['weight']:.3f} | {100 * row['largest']:.1f} % | {row['entropy']:.3f} |")
    lines += ["", "## Decisions on held-out dilemmas", "",
              "The shares to hit are ours, derived from Hofstede's scores (`training/nano/questions.yaml`); they are no survey's.",
              "The account is given, so this measures the decision alone. 1 - JS distance, base 2.", "",
              "| model | n | 1 - JSdist | uniform guess | same first option | mass on the letters |", "|---|---:|---:|---:|---:|---:|"]  # fmt: skip
    for part, row in figures["decisions"].items():
        lines.append(f"| {'MoErges' if part == META else part} | {row['n']} | {row['similarity']:.3f} | {row['uniform']:.3f} | "
                     f"{100 * row['mode']:.1f} % | {row['mass']:.4f} |")  # fmt: skip
    lines += ["", "## Examples as they came", "", "Questions held out of training, seed 0, whole graph."]
    for run in figures["examples"]:
        lines += ["", f"### {run['country']}: {run['asked']['query']}", ""]
        lines += [f"- **{names[key]}**: {draft['text']}" for key, draft in run["drafts"].items()]
        lines += [f"- *account*: {run['regulated']}", f"- *answer*: {run['answer']}"]
        if run.get("distribution"):
            lines.append("- *distribution*: " + ", ".join(f"{o} {p:.3f}" for o, p in run["distribution"].items()))
        lines.append("- *blend*: " + ", ".join(f"{names[k]} {w:.3f}" for k, w in run["blend"].items()))
        lines += [f"- *note*: {note}" for note in run.get("notes", [])]
    training = figures["training"]
    lines += ["", "## How it was made", "", "`python -m training.nano all` (fixed seeds), two CPU cores. Seconds and last training measures by stage:", "",
              "```json", json.dumps(training, indent=1), "```", ""]  # fmt: skip
    return "\n".join(lines)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
