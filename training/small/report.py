"""`docs/small.md`: the small palette measured on questions held out of its training.

Every figure comes with its n. What was measured is kept in OUT/figures.json part by part, so that a stopped
report goes on; a part is measured again with `--again PART`.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import re
import resource
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import peft
import torch
import transformers

from cultural_palette.artifacts import write_whole
from cultural_palette.countries import find_country
from cultural_palette.embedded.engine import get_engine
from cultural_palette.embedded.parts import META
from cultural_palette.graph.front_door import aask
from cultural_palette.messages import role_dicts
from cultural_palette.models import ModelRef, Sampling, ask
from cultural_palette.prompts import render
from cultural_palette.settings import get_settings
from cultural_palette.training.small.build import (
    COMMUNITIES,
    DATA,
    SEED,
    agent_folder,
    draft_prompt,
    reviewed_answers,
    worked,
)
from cultural_palette.training.small.examples import shown_options
from cultural_palette.training.small.page import page

TWENTY = (  # nobody prepared them: none stands in the data
    ("IND", "What happens at a wedding?", ()),
    ("KEN", "Do I have to pay taxes if I only sell tomatoes at the market?", ()),
    ("DEU", "My colleague is always ten minutes late. Is that rude?", ()),
    ("MEX", "¿Qué se come en Navidad?", ()),
    ("JPN", "thoughts on 🍣 for breakfast?", ()),
    ("TUV", "Where would I take my parents on a free day?", ()),
    ("ATA", "What do people do in winter?", ()),
    ("NGA", "Can I wear white to a funeral?", ()),
    ("SWE", "Should both parents stay at home with a baby?", ("Yes", "No", "It depends")),
    ("BRA", "Is it okay to kiss a stranger on the cheek when we meet?", ()),
    ("CHN", "My son is three. When should he start learning to read?", ()),
    ("USA", "how much do I tip", ()),
    ("EGY", "Is it fine to eat with my left hand?", ()),
    ("FJI", "What gift do I bring to a chief?", ()),
    ("GBR", "Is it better to say sorry too often or too rarely?", ("Too often", "Too rarely")),
    ("PER", "Which animal do you think of as lucky?", ()),
    ("KAZ", "How do I politely refuse more food?", ()),
    ("MAR", "Should I haggle in a shop?", ()),
    ("NZL", "What does it mean to be a good neighbour?", ()),
    ("FRA", "Do people trust strangers?", ("Yes", "No")),
)
Scorer = Callable[[list[dict[str, str]], str], tuple[float, int]]
"""(chat, reply) -> summed log-probability (natural) of the reply and its end token, and their count."""


class Model:
    """One model with any of the adapters put on it in turn; bfloat16, as they were trained."""

    def __init__(self, folder: Path, adapters: Mapping[str, Path]) -> None:
        transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
        for name, path in adapters.items():
            if isinstance(model, peft.PeftModel):
                model.load_adapter(str(path), adapter_name=name)
            else:
                model = peft.PeftModel.from_pretrained(model, str(path), adapter_name=name)
        self.model = model.eval()

    def scorer(self, adapter: str | None) -> Scorer:
        """With this adapter on; None: with none."""

        def score(chat: list[dict[str, str]], reply: str) -> tuple[float, int]:
            head, tail = tokens(self.tokenizer, chat, reply)
            if adapter is not None:
                self.model.set_adapter(adapter)
                return self._sum(head + tail, len(head))
            if isinstance(self.model, peft.PeftModel):
                with self.model.disable_adapter():
                    return self._sum(head + tail, len(head))
            return self._sum(head + tail, len(head))

        return score

    def _sum(self, ids: list[int], start: int) -> tuple[float, int]:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            logits = self.model(torch.tensor([ids]), logits_to_keep=len(ids) - start + 1).logits[0, :-1]
        logps = logits.float().log_softmax(-1).gather(1, torch.tensor(ids[start:])[:, None])
        return float(logps.sum()), len(ids) - start


def tokens(tokenizer: Any, chat: list[dict[str, str]], reply: str) -> tuple[list[int], list[int]]:
    """The chat's ids up to where the reply begins (none for no chat), and the reply's with its end token."""
    tail = [*tokenizer(reply, add_special_tokens=False)["input_ids"]]
    if not chat:
        return tail[:1], tail[1:]
    head = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=True, return_dict=False)
    return head, [*tail, tokenizer.eos_token_id]


def perplexity(scored: Sequence[tuple[float, int]]) -> float:
    """Of all tokens together."""
    return math.exp(-sum(logp for logp, _ in scored) / sum(count for _, count in scored))


def models(work: Path) -> dict[str, Scorer]:
    """Every model that is there, by its name in the tables."""
    there = {key: agent_folder(work, key) for key in (*COMMUNITIES, "joint")}
    there = {key: path for key, path in there.items() if (path / "adapter_config.json").is_file()}
    plain, tuned = Model(work / "smollm2-135m-instruct", {}), Model(work / "base", there)
    found = {"SmolLM2": plain.scorer(None), "task base": tuned.scorer(None)}
    found |= {key: tuned.scorer(key) for key in there}
    for name, folder in (("TIES", "ties"), ("Model Stock", "model_stock")):
        if (work / folder / "config.json").is_file():
            found[name] = Model(work / folder, {}).scorer(None)
    return found


def moerges(palette: str) -> Scorer:
    """The shipped palette's MoErges, float32, as it answers."""
    engine = get_engine(palette)

    def score(chat: list[dict[str, str]], reply: str) -> tuple[float, int]:
        head, tail = tokens(engine.tokenizer, chat, reply)
        return engine.sequence_logprob(META, head + tail, len(head)).result()

    return score


def held_out(work: Path, count: int) -> tuple[list[dict[str, Any]], dict[str, dict[str, str]]]:
    """The first `count` held-out questions, and every question's answers."""
    answers, split = reviewed_answers(work)
    return [row for row in worked() if split[row["query_id"]] == "test"][:count], answers


def perplexities(work: Path, scorers: Mapping[str, Scorer], count: int) -> dict[str, Any]:
    """Perplexity of each community's held-out answers (column) under each model (row), under the draft prompt
    that names the community; and, where an adapter is a community's, how often it finds its own answer
    likelier than another community's (by the mean log-probability of a token, which orders as the odds
    do)."""
    rows, answers = held_out(work, count)
    table: dict[str, dict[str, float]] = {}
    accuracy: dict[str, dict[str, float]] = {}
    for name, score in scorers.items():
        scored: dict[str, list[tuple[float, int]]] = {key: [] for key in COMMUNITIES}
        wins: dict[str, list[bool]] = {key: [] for key in COMMUNITIES}
        for row in rows:
            for key in COMMUNITIES:
                prompt = draft_prompt(row, key, random.Random(row["query_id"]))
                own = score(prompt, answers[row["query_id"]][key])
                scored[key].append(own)
                if name in (key, "task base"):
                    for other in COMMUNITIES:
                        if other != key:
                            theirs = score(prompt, answers[row["query_id"]][other])
                            wins[key].append(own[0] / own[1] > theirs[0] / theirs[1])
        table[name] = {key: perplexity(found) for key, found in scored.items()}
        accuracy[name] = {key: sum(found) / len(found) for key, found in wins.items() if found}
        print(name, {key: round(value, 2) for key, value in table[name].items()}, accuracy[name], flush=True)
    return {"n": len(rows), "perplexity": table, "accuracy": accuracy}


def neutral(scorers: Mapping[str, Scorer]) -> dict[str, float]:
    """Perplexity of our neutral paragraphs, no prompt before them, under each model."""
    texts = (DATA / "neutral.txt").read_text(encoding="utf-8").strip().split("\n\n")
    return {name: perplexity([score([], text) for text in texts]) for name, score in scorers.items()}


# -- drafts -------------------------------------------------------------------------------------


class Words:
    """Whose text is this? Naive Bayes over the words of the training answers."""

    def __init__(self, texts: Mapping[str, Sequence[str]]) -> None:
        self.counts = {
            key: Counter(word for text in found for word in _words(text)) for key, found in texts.items()
        }
        self.vocabulary = set().union(*self.counts.values())

    def of(self, text: str, without: Sequence[str] = ()) -> str:
        """The likeliest community; `without`: words that do not count, such as the asked country's name."""
        words = [word for word in _words(text) if word in self.vocabulary and word not in without]

        def likelihood(key: str) -> float:
            counts = self.counts[key]
            total = counts.total() + len(self.vocabulary)
            return sum(math.log((counts[word] + 1) / total) for word in words)

        return max(self.counts, key=likelihood)


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", text.lower())


def loops(text: str) -> bool:
    """Whether a run of four words comes three times, or a sentence twice."""
    words, sentences = _words(text), [s.strip().lower() for s in re.split(r"[.!?]\s+", text) if len(s) > 20]
    runs = Counter(zip(*(words[i:] for i in range(4)), strict=False))
    return any(count >= 3 for count in runs.values()) or len(set(sentences)) < len(sentences)


def is_cut(text: str) -> bool:
    """Whether it ends in the middle of a sentence."""
    return not text.rstrip().endswith((".", "!", "?", '"', "'", ")", "”"))


async def _draft(palette: str, part: str, row: Mapping[str, Any], community: str, seed: int) -> str:
    prompt = render("draft", **_draft_fields(row, community))
    sampling = Sampling(0.3, None, seed)
    reply = await ask(ModelRef("embedded", f"{palette}/{part}"), sampling, prompt, timeout_s=3600)
    return reply.text


def _draft_fields(row: Mapping[str, Any], community: str) -> dict[str, str]:
    question, _ = shown_options(row, random.Random(row["query_id"]))
    return {
        "community": COMMUNITIES[community],
        "country": find_country(row["country"]).in_text,
        "question": row["query"],
        "options": question.lettered(),
    }


def drafts(work: Path, palette: str, count: int) -> dict[str, Any]:
    """Drafts on held-out questions, by each adapter and by the task base with the same prompt: how many are
    taken for their own community's by the words of the training answers, how many loop or break off."""
    rows, answers = held_out(work, count)
    train = [
        texts
        for query, texts in answers.items()
        if query not in {row["query_id"] for row in held_out(work, 999)[0]}
    ]
    whose = Words({key: [texts[key] for texts in train] for key in COMMUNITIES})

    async def all_of(row: Mapping[str, Any], base: bool) -> list[str]:
        parts = ["base" if base else key for key in COMMUNITIES]
        calls = (_draft(palette, part, row, key, SEED) for part, key in zip(parts, COMMUNITIES, strict=True))
        return await asyncio.gather(*calls)

    found: dict[str, dict[str, Any]] = {}
    for name, base in (("adapters", False), ("task base", True)):
        kept: dict[str, list[bool]] = {key: [] for key in COMMUNITIES}
        texts: list[str] = []
        seconds = []
        for row in rows[: count if not base else max(1, count // 2)]:
            started = time.perf_counter()
            five = asyncio.run(all_of(row, base))
            seconds.append(time.perf_counter() - started)
            texts += five
            names = _words(_draft_fields(row, "asia")["country"])
            for key, text in zip(COMMUNITIES, five, strict=True):
                kept[key].append(whose.of(text, names) == key)
        found[name] = {
            "n": len(texts),
            "kept": {key: sum(hits) / len(hits) for key, hits in kept.items()},
            "loops": sum(map(loops, texts)) / len(texts),
            "cut": sum(map(is_cut, texts)) / len(texts),
            "words": sum(len(text.split()) for text in texts) / len(texts),
            "seconds_for_five": sorted(seconds)[len(seconds) // 2],
            "texts": texts[:10],
        }
    written = [
        (key, text) for row in held_out(work, 999)[0] for key, text in answers[row["query_id"]].items()
    ]
    ceiling = sum(whose.of(text) == key for key, text in written) / len(written)
    return {**found, "ceiling": ceiling, "ceiling_n": len(written)}


def decisions(work: Path, palette: str, count: int) -> dict[str, Any]:
    """The letter that MoErges puts first, given the account, on held-out questions with options: how often it
    is the likeliest by our estimate, beside chance and the last-place guess; options in an order drawn
    anew."""
    rows = [row for row in held_out(work, 999)[0] if row["options"]][:count]
    engine = get_engine(palette)
    hits: dict[str, list[float]] = {META: [], "base": []}
    chance = []
    for row in rows:
        question, shares = shown_options(row, random.Random(row["query_id"] + "d"))
        fields = {"account": row["account"], "country": find_country(row["country"]).in_text}
        chat = role_dicts(
            render("decide_option", question=row["query"], options=question.lettered(), **fields)
        )
        prompt = engine.encode([(each["role"], each["content"]) for each in chat])
        best = max(shares, key=lambda letter: shares[letter])
        chance.append(1 / len(shares))
        for part, found in hits.items():
            logps = engine.option_logprobs(part, prompt, question.labels).result().logprobs
            found.append(float(question.labels[logps.index(max(logps))] == best))
    return {"n": len(rows), "chance": sum(chance) / len(chance)} | {
        name: sum(found) / len(found) for name, found in hits.items()
    }


def routing(palette: str) -> dict[str, Any]:
    """Router weight of a country's own community, and how often it is the largest, over a draft-like prompt
    about each profiled country; chance 0.2."""
    engine, keys = get_engine(palette), list(COMMUNITIES)
    profiles = [json.loads(line) for line in (DATA / "profiles.jsonl").open(encoding="utf-8")][::3]
    own, first, entropy = [], [], []
    for profile in profiles:
        chat = [("user", f"Country: {profile['name']}\nQuestion: What happens at a wedding?")]
        layers = torch.tensor(engine.blend(engine.encode(chat)).result())
        mean = layers.mean(0)
        index = keys.index(profile["community"])
        own.append(float(mean[index]))
        first.append(float(mean.argmax() == index))
        entropy.append(float(-(layers * layers.log()).sum(1).mean() / math.log(len(keys))))
    return {
        "n": len(profiles), "own_share": sum(own) / len(own), "largest": sum(first) / len(first),
        "entropy": sum(entropy) / len(entropy),
    }  # fmt: skip


def twenty(palette: str) -> list[dict[str, Any]]:
    """The questions that nobody prepared, with the whole answer as it came."""
    found = []
    for country, question, options in TWENTY:
        started = time.perf_counter()
        answer = asyncio.run(
            aask(
                country, question, options=list(options), model=f"embedded:{palette}", draft_timeout_s=900,
                settings=get_settings(request_timeout_s=900),
            )
        )  # fmt: skip
        found.append(
            {
                "country": country,
                "question": question,
                "options": options,
                "drafts": {key: draft.text for key, draft in answer.drafts.items()},
                "account": answer.account,
                "answer": answer.answer,
                "distribution": answer.distribution,
                "seconds": time.perf_counter() - started,
            }
        )
        print(country, question, "->", answer.answer, flush=True)
    return found


def memory_mib() -> float:
    """The most that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# -- the page -----------------------------------------------------------------------------------


def write_report(to: Path, work: Path, count: int, drafted: int, palette: str = "small") -> None:
    """Measure what is not in OUT/figures.json yet, and write the page."""
    kept = work / "figures.json"
    figures: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}

    def part(name: str, measure: Callable[[], Any]) -> None:
        if name not in figures:
            started = time.perf_counter()
            figures[name] = measure()
            figures.setdefault("seconds", {})[name] = round(time.perf_counter() - started, 1)
            write_whole(kept, json.dumps(figures, ensure_ascii=False, indent=1))
            print(name, figures["seconds"][name], "s", flush=True)

    part("drafts", lambda: drafts(work, palette, drafted))
    part("twenty", lambda: twenty(palette))
    part("decisions", lambda: decisions(work, palette, 30))
    part("routing", lambda: routing(palette))
    part("memory_mib", memory_mib)
    if "scores" not in figures or "neutral" not in figures:
        scorers = models(work)
        part("scores", lambda: perplexities(work, scorers, count))
        part("neutral", lambda: neutral(scorers))
    part("moerges", lambda: perplexities(work, {"MoErges": moerges(palette)}, min(count, 10)))
    part("moerges_neutral", lambda: neutral({"MoErges": moerges(palette)}))
    notes = json.loads((work / "notes.json").read_text(encoding="utf-8"))
    write_whole(to, page(figures, notes))
