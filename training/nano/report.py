"""`docs/nano.md`: the nano palette measured on dialogues held out of its training.

Every figure comes with its n. Held out means: the question's wording was never trained on, nor was that
topic or dilemma ever asked about that country (see `training.nano.dialogues.HeldOut`).
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from cultural_palette.cultural_map import load_map
from cultural_palette.distributions import Distribution
from cultural_palette.embedded.chat_model import EmbeddedChatModel
from cultural_palette.embedded.engine import Engine, get_engine
from cultural_palette.embedded.parts import BASE, META
from cultural_palette.graph.build import build_palette
from cultural_palette.moerges.layer import ColouredFFN
from cultural_palette.moerges.model import PROJECTIONS
from cultural_palette.moerges.router import FITTED, PAPER
from cultural_palette.nodes.state import PaletteInput
from cultural_palette.prompts import render
from cultural_palette.training.merge.router_report import measure
from cultural_palette.training.nano.atlas import Atlas, load_atlas
from cultural_palette.training.nano.build import ROUTER_PHRASES, agent_folder
from cultural_palette.training.nano.dialogues import Writer

SEED = 4096
SPLITS = (0, 1, 2)  # of the countries, for rows fitted without some of them


def write_report(to: Path, count: int, work: Path) -> None:
    """Measure the shipped palette and its rivals under `work`; write the page, and the figures as JSON.

    Figures of what `work` no longer has (the rivals, the merge's own report) stay as the last JSON gives
    them.
    """
    atlas, engine = load_atlas(), get_engine("nano")
    past = to.with_suffix(".json")
    before: dict[str, Any] = json.loads(past.read_text(encoding="utf-8")) if past.is_file() else {}
    perplexity = perplexities(atlas, engine, count, work)
    if before.get("count") == count:
        perplexity = before["perplexity"] | perplexity
    figures = {
        "count": count,
        "perplexity": perplexity,
        "drafts": draft_purity(atlas, count),
        "router": router_hits(atlas, engine),
        "new_countries": new_countries(engine),
        "router_choices": router_choices(work) or before.get("router_choices", []),
        "decisions": decisions(atlas, engine, count),
        "examples": examples(),
        "training": json.loads((engine.manifest.base.parent / "training.json").read_text(encoding="utf-8")),
        "sizes": sizes(engine),
    }
    to.write_text(page(figures), encoding="utf-8")
    figures.pop("examples")
    to.with_suffix(".json").write_text(json.dumps(figures, indent=1), encoding="utf-8")


Sequences = list[tuple[list[int], int]]
"""Token ids, and where the answer starts."""
Scorer = Callable[[Sequences], list[tuple[float, int]]]
"""Each sequence -> summed log-probability (natural) of its answer, and the answer's tokens."""


def perplexities(atlas: Atlas, engine: Engine, count: int, work: Path) -> dict[str, dict[str, float]]:
    """Perplexity of each community's held-out answers to bare questions (column) under each model (row)."""
    keys = list(engine.manifest.communities)
    writer = Writer(atlas, random.Random(SEED), heldout=True)
    groups = [writer.bare_group() for _ in range(count)]

    def part_scorer(part: str) -> Scorer:
        def score(sequences: Sequences) -> list[tuple[float, int]]:
            futures = [engine.sequence_logprob(part, ids, start) for ids, start in sequences]
            return [future.result() for future in futures]

        return score

    scorers = {part: part_scorer(part) for part in (*keys, BASE, META)} | _rivals(work)
    table: dict[str, dict[str, float]] = {name: {} for name in scorers}
    for community in keys:
        sequences = []
        for group in groups:
            ids = engine.encode([(m["role"], m["content"]) for m in group["prompt"]])
            reply = engine.tokenizer(group["responses"][community], add_special_tokens=False)["input_ids"]
            sequences.append(([*ids, *reply, engine.tokenizer.eos_token_id], len(ids)))
        for name, score in scorers.items():
            scored = score(sequences)
            table[name][community] = math.exp(-sum(logp for logp, _ in scored) / sum(n for _, n in scored))
    return table


def _rivals(work: Path) -> dict[str, Scorer]:
    """The models that MoErges is compared with, where the working folder still has them."""

    def scorer(model: Any) -> Scorer:
        def one(ids: list[int], start: int) -> tuple[float, int]:
            with torch.inference_mode():
                logps = model(torch.tensor([ids])).logits[0, start - 1 : -1].float().log_softmax(-1)
            return float(logps.gather(1, torch.tensor(ids[start:])[:, None]).sum()), len(ids) - start

        return lambda sequences: [one(ids, start) for ids, start in sequences]

    rivals: dict[str, Scorer] = {}
    if (agent_folder(work, "joint") / "adapter_config.json").is_file():
        base = AutoModelForCausalLM.from_pretrained(work / "base", dtype=torch.float32)
        joint = PeftModel.from_pretrained(base, agent_folder(work, "joint"))
        rivals["joint"] = scorer(joint.merge_and_unload().eval())
    for name, folder in (("TIES", "ties"), ("Model Stock", "model_stock")):
        if (work / folder).is_dir():
            model: Any = AutoModelForCausalLM.from_pretrained(work / folder, dtype=torch.float32)
            rivals[name] = scorer(model.eval())
    return rivals


def router_choices(work: Path) -> list[dict[str, Any]]:
    """What the merge's own report says of each place to read the router's rows from; empty without it."""
    report = work / "moerges" / "merge_report.json"
    merge_report: dict[str, Any] = json.loads(report.read_text(encoding="utf-8")) if report.is_file() else {}
    return list(merge_report.get("router", {}).get("choices", []))


def draft_purity(atlas: Atlas, count: int) -> dict[str, dict[str, float]]:
    """Share of drafts on held-out questions that name a country of their own community and no other's.

    The asked country does not count either way. Per community, under its adapter, and under the base with
    the same prompt and with no community in it.
    """
    writer = Writer(atlas, random.Random(SEED + 1), heldout=True, in_order=1.0)
    subjects = [writer.round_of_drafts(options=i % 2 == 1) for i in range(count // 5)]
    prompts, meanings = [], []
    for group in subjects:
        for community in writer.names:
            for part in (community, BASE):
                prompts.append((part, writer.draft_prompt(group, community)))
                meanings.append((community, part, group["land"].iso3))
        for community in writer.names:
            for part in (community, BASE):
                prompts.append((part, [{"role": "user", "content": group["question"].text}]))
                meanings.append((community, f"{part} bare", group["land"].iso3))
    texts = asyncio.run(_replies(prompts))
    tallies: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for (community, part, own_country), text in zip(meanings, texts, strict=True):
        label = part.replace(community, "adapter")
        tallies[community][label].append(_pure(atlas, text, community, own_country))
    return {
        community: {"n": len(subjects)} | {label: sum(hits) / len(hits) for label, hits in row.items()}
        for community, row in tallies.items()
    }


def _pure(atlas: Atlas, text: str, community: str, own_country: str) -> bool:
    named = {
        place.community
        for place in atlas.places.values()
        if place.iso3 != own_country and re.search(rf"\b{re.escape(place.name)}\b", text)
    }
    own_place = atlas.places.get(own_country)
    if own_place is not None and own_place.community == community and own_place.name in text:
        named.add(community)
    return named == {community}


async def _replies(
    prompts: Sequence[tuple[str, list[dict[str, str]]]], temperature: float = 0.3
) -> list[str]:
    texts: list[str] = []
    for start in range(0, len(prompts), 32):
        chunk = prompts[start : start + 32]
        models = [EmbeddedChatModel(part=part, temperature=temperature, seed=SEED) for part, _ in chunk]
        replies = await asyncio.gather(
            *(
                m.ainvoke([(x["role"], x["content"]) for x in messages])
                for m, (_, messages) in zip(models, chunk, strict=True)
            )
        )
        texts += [reply.text for reply in replies]
    return texts


def router_hits(atlas: Atlas, engine: Engine) -> dict[str, dict[str, float]]:
    """Mean router weight on the right community (chance 0.2); share of prompts where it is the largest.

    Three prompts: phrases the router was made from, the decide prompt about a country, the country's name
    in a question of another wording.
    """
    keys = list(engine.manifest.communities)
    writer = Writer(atlas, random.Random(SEED + 2), heldout=True)
    forms: dict[str, list[tuple[str, list[tuple[str, str]]]]] = defaultdict(list)
    for place in atlas.places.values():
        forms["a phrase the router was made from"].append(
            (place.community, [("user", ROUTER_PHRASES[2].format(name=place.name))])
        )
        forms["one new sentence about the country"].append(
            (place.community, [("user", f"Please tell me how people live in {place.name}.")])
        )
    for _ in range(len(atlas.places)):
        row = writer.decide()
        community = writer.lands[row["country"]].community
        messages = [(m["role"], m["content"]) for m in row["messages"][:-1]]
        forms["the whole decide prompt, held out"].append((community, messages))
    result = {}
    for form, name in ((form, name) for form in forms for name in (PAPER, FITTED)):
        prompts = forms[form]
        weights, hits, entropy = [], 0, 0.0
        for community, messages in prompts:
            layers = engine.blend(engine.encode(messages), f"{META}[{name}]").result()
            mean = [sum(layer[i] for layer in layers) / len(layers) for i in range(len(keys))]
            weights.append(mean[keys.index(community)])
            hits += max(range(len(keys)), key=mean.__getitem__) == keys.index(community)
            entropy -= sum(w * math.log(w) for w in mean) / math.log(len(keys))
        result[f"{form}: {name}"] = {
            "n": len(prompts),
            "weight": sum(weights) / len(weights),
            "largest": hits / len(prompts),
            "entropy": entropy / len(prompts),
        }
    return result


def new_countries(engine: Engine) -> list[dict[str, Any]]:
    """Rows fitted without some countries, measured on those, beside the shipped `paper` rows; by seed."""
    manifest = engine.manifest
    rows = []
    for seed in SPLITS:
        result = measure(
            manifest.base, load_map("continents"), 0.25, 5, seed, nano=True, extra=manifest.router
        )
        scores = {PAPER: result["rows"][f"nano: {PAPER}"], FITTED: result["rows"][FITTED]}
        rows += [{"seed": seed, "router": name, **score} for name, score in scores.items()]
    return rows


def decisions(atlas: Atlas, engine: Engine, count: int) -> dict[str, dict[str, float]]:
    """How near the readout comes to the shares that the held-out dilemmas were drawn from.

    The account is the atlas' own (teacher-forced): the decision alone is measured. Floors: a uniform guess.
    """
    tallies: dict[str, list[tuple[float, float, float, bool]]] = defaultdict(list)
    for number in range(2 * count):
        order = "in order" if number < count else "shuffled"
        if number in (0, count):
            writer = Writer(atlas, random.Random(SEED + 3), heldout=True, in_order=float(number == 0))
        group = writer.dilemma_subject()
        question = group["question"]
        messages = render(
            "decide_option",
            account=writer.account_of(group),
            country=group["land"].name,
            question=question.text,
            options=question.lettered(),
        )
        prompt = engine.encode([("system" if m.type == "system" else "user", m.text) for m in messages])
        gold = Distribution(tuple(group["shares"][o] for o in question.options))
        for part in (META, BASE):
            guess, mass = Distribution.from_logprobs(
                engine.option_logprobs(part, prompt, question.labels).result().logprobs
            )
            uniform = Distribution.uniform(len(question.options))
            tallies[f"{'MoErges' if part == META else part}, {order}"].append(
                (
                    1 - guess.js_distance(gold),
                    1 - uniform.js_distance(gold),
                    mass,
                    guess.mode_index == gold.mode_index,
                )
            )
    return {
        row: {
            "n": len(rows),
            "similarity": _mean([r[0] for r in rows]),
            "uniform": _mean([r[1] for r in rows]),
            "mass": _mean([r[2] for r in rows]),
            "mode": _mean([float(r[3]) for r in rows]),
        }
        for row, rows in tallies.items()
    }


def examples() -> list[dict[str, Any]]:
    """Three held-out questions through the whole graph, as they came (seed 0)."""
    questions: list[PaletteInput] = [
        {
            "country": "NZL",
            "query": "What should come first, freedom or equality?",
            "options": ["Freedom", "Equality", "Don't know"],
        },
        {"country": "KEN", "query": "How do people in Kenya honour those who have died?"},
        {"country": "BWA", "query": "What is on the table on an ordinary day?"},
    ]
    graph = build_palette()

    async def run() -> list[dict[str, Any]]:
        return [{**await graph.ainvoke(question), "asked": question} for question in questions]

    return asyncio.run(run())


def sizes(engine: Engine) -> dict[str, float]:
    """Parameters of base, one adapter, MoErges; bytes shipped."""
    folder = engine.manifest.base.parent
    shipped = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    beside = [m for m in engine.model.modules() if isinstance(m, ColouredFFN)]
    changes = [getattr(ffn, f"{part}_{side}") for ffn in beside for part in PROJECTIONS for side in "ab"]
    adapter = sum(tensor.numel() for tensor in changes) / len(engine.manifest.communities)
    base = sum(p.numel() for p in engine.model.parameters())
    return {
        "base": base,
        "adapter": adapter,
        "moerges": base + sum(b.numel() for ffn in beside for b in ffn.buffers(recurse=False)),
        "bytes": shipped,
    }


def page(figures: dict[str, Any]) -> str:
    """The Markdown of the figures."""
    names = {c.key: c.name for c in load_map("continents").communities}
    size = figures["sizes"]
    parts = [
        f"""# The nano palette, measured

Made by `python -m training.nano report`; every number below is that command's, none is typed by hand.

Base {size["base"] / 1e6:.2f} M parameters, each adapter {size["adapter"] / 1e3:.0f} k, MoErges
{size["moerges"] / 1e6:.2f} M; {size["bytes"] / 2**20:.1f} MiB shipped. Held out means: the wording of the
question was never trained on, nor was that topic or dilemma ever asked about that country.""",
        f"""## Perplexity of held-out answers

Bare questions in a wording never trained on, n = {figures["count"]}. Column: whose answer; row: which model
reads it. Lower is better, the best of each column is bold; each adapter should be best in its own.""",
        _perplexity_table(figures["perplexity"], names),
        """## Do drafts keep to their continent?

Share of sampled drafts (temperature 0.3) that name a country of their own continent and none of another. The
country asked about counts for its own continent only. *Bare*: the question alone, with no community named in
the prompt.""",
        _table(
            ["community", "n", "adapter", "base, same prompt", "adapter, bare", "base, bare"],
            [
                [names[key], str(row["n"])]
                + [_percent(row[k]) for k in ("adapter", "base", "adapter bare", "base bare")]
                for key, row in figures["drafts"].items()
            ],
        ),
        """## Where the router looks

MoErges' router weight on the country's own continent, averaged over prompt tokens and layers; chance is
0.200. Entropy is that of the blend, 1 = uniform. `paper`: the rows that the merge read at short phrases;
`fitted`, by which nano blends: a discriminant over whole prompts about every country of the atlas, so these
countries were in its fit, and these questions were not. It is for the graph's prompts: on a sentence that is
none, both are right about as often as chance, and `fitted` is the surer of itself.""",
        _table(
            ["prompt", "n", "weight on the right one", "right one largest", "entropy"],
            [
                [
                    form,
                    str(row["n"]),
                    f"{row['weight']:.3f}",
                    _percent(row["largest"]),
                    f"{row['entropy']:.3f}",
                ]
                for form, row in figures["router"].items()
            ],
        ),
        """Countries that no fit has seen: rows fitted on the other three quarters of the atlas' countries,
and measured on whole prompts of the meta agent about those left out (three seeds draw three splits; 95 %
intervals resample countries). *Elsewhere*: the community that leads most often on others' countries. `paper`
leads in Asia far too often: its rows have no bias, and the mean state of a whole prompt, which is not that of
the phrases, adds a constant of +1.0 to +1.5 to Asia's logit in every layer. Fitted rows take the mean state
off by their biases.""",
        _table(
            [
                "rows, seed",
                "n",
                "countries",
                "right one largest",
                "95 %",
                "own weight",
                "entropy",
                "elsewhere",
            ],
            [
                [
                    f"{row['router']}, {row['seed']}",
                    str(row["prompts"]),
                    str(row["countries"]),
                    _percent(row["largest"]),
                    " to ".join(_percent(end) for end in row["largest_95"]),
                    f"{row['own_weight']:.3f}",
                    f"{row['entropy']:.3f}",
                    _leader(row["elsewhere"], names),
                ]
                for row in figures["new_countries"]
            ],
        ),
        """Where the rows are read from, measured on the prompts they were read from (the merge's own report).
*Centred*: the other communities' mean taken off. Entropy: 1 = every expert alike; own: weight on the right
expert, chance 0.200; condition: of the rows, MergeKit warns above 5 (centred rows sum to about nothing, so
theirs is large by design).""",
        _table(
            ["rows", "centred", "entropy", "own", "right one largest", "condition"],
            [
                [
                    row["rows"],
                    "yes" if row["against_others"] else "no",
                    *(f"{row[k]:.3f}" for k in ("entropy", "own_share", "hit_rate")),
                    f"{row['condition']:.3g}",
                ]
                for row in figures["router_choices"]
                if "error" not in row
            ],
        ),
        """## Decisions on held-out dilemmas

The shares to hit are ours, derived from Hofstede's scores (`training/nano/questions.yaml`); they are no
survey's. The account is given, so this measures the decision alone. Similarity: 1 - JS distance, base 2.
*In order*: options as the atlas has them, which is how nano learned them; *shuffled*: in any order, where a
model of this size can not find the letter of an option, and guesses. `palette ask` says so in a note.""",
        _table(
            [
                "model, options",
                "n",
                "similarity",
                "of a uniform guess",
                "same first option",
                "mass on the letters",
            ],
            [
                [
                    name,
                    str(row["n"]),
                    f"{row['similarity']:.3f}",
                    f"{row['uniform']:.3f}",
                    _percent(row["mode"]),
                    f"{row['mass']:.4f}",
                ]
                for name, row in figures["decisions"].items()
            ],
        ),
        "## Examples as they came\n\nQuestions held out of training, seed 0, the whole graph.",
        *(_example(run, names) for run in figures["examples"]),
        f"""## How it was made

`python -m training.nano all` (fixed seeds) on two CPU cores. Seconds and last training measures by stage:

```json
{json.dumps(figures["training"], indent=1)}
```
""",
    ]
    return "\n\n".join(parts)


def _perplexity_table(perplexity: dict[str, dict[str, float]], names: dict[str, str]) -> str:
    best = {c: min(perplexity, key=lambda part: perplexity[part][c]) for c in names}
    rows = [
        [names.get(part, "MoErges" if part == META else part)]
        + [f"**{row[c]:.2f}**" if best[c] == part else f"{row[c]:.2f}" for c in names]
        for part, row in perplexity.items()
    ]
    return _table(["model", *names.values()], rows)


def _example(run: dict[str, Any], names: dict[str, str]) -> str:
    lines = [f"### {run['country']}: {run['asked']['query']}", ""]
    lines += [f"- **{names[key]}**: {draft['text']}" for key, draft in run["drafts"].items()]
    lines += [f"- *account*: {run['regulated']}", f"- *answer*: {run['answer']}"]
    if run.get("distribution"):
        shares = ", ".join(f"{option} {p:.3f}" for option, p in run["distribution"].items())
        lines.append(f"- *distribution*: {shares}")
    lines.append("- *blend*: " + ", ".join(f"{names[k]} {w:.3f}" for k, w in run["blend"].items()))
    return "\n".join([*lines, *(f"- *note*: {note}" for note in run.get("notes", []))])


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _leader(shares: dict[str, float], names: dict[str, str]) -> str:
    key = max(shares, key=lambda community: shares[community])
    return f"{names[key]} {_percent(shares[key])}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
