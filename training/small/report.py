"""`docs/small.md`: the small palette measured on questions held out of its training.

Every figure comes with its n. What was measured is kept in OUT/figures.json part by part, so that a stopped
report goes on; to measure a part again, take it out there.
"""

from __future__ import annotations

import asyncio
import functools
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
from cultural_palette.embedded.engine import CACHE, get_engine
from cultural_palette.embedded.manifest import read_manifest
from cultural_palette.embedded.parts import META
from cultural_palette.embedded.quiet import hide_progress_bars
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
from cultural_palette.training.small.duplicates import duplicates
from cultural_palette.training.small.examples import shown_options, step_prompt
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
STEP_QUESTIONS = 16
"""Held-out questions on which the graph's later steps are scored."""
LONG_S = 3600  # a busy machine may take its time
Scored = tuple[float, int]
"""Summed log-probability (natural) of a reply and its end token, and their count."""
Scorer = Callable[[list[dict[str, str]], Sequence[str]], list[Scored]]
"""(chat, replies to it) -> each reply's score."""


class Model:
    """One model with any of the adapters put on it in turn; bfloat16, as they were trained."""

    def __init__(self, folder: Path, adapters: Mapping[str, Path]) -> None:
        hide_progress_bars()
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

        def score(chat: list[dict[str, str]], replies: Sequence[str]) -> list[Scored]:
            pairs = [tokens(self.tokenizer, chat, reply) for reply in replies]
            if adapter is not None:
                self.model.set_adapter(adapter)
            elif isinstance(self.model, peft.PeftModel):
                with self.model.disable_adapter():
                    return self._sums(pairs[0][0], [tail for _, tail in pairs])
            return self._sums(pairs[0][0], [tail for _, tail in pairs])

        return score

    def _sums(self, head: list[int], tails: Sequence[list[int]]) -> list[Scored]:
        """The prompt once, then every reply in one batch behind its keys and values."""
        longest = max(map(len, tails))
        ids = torch.tensor([tail + [0] * (longest - len(tail)) for tail in tails])
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            before = self.model(torch.tensor([head]), use_cache=True, logits_to_keep=1)
            cache = before[CACHE]
            cache.batch_repeat_interleave(len(tails))
            mask = torch.ones(len(tails), len(head) + longest, dtype=torch.long)
            after = self.model(ids, attention_mask=mask, use_cache=True, **{CACHE: cache})
        logits = torch.cat([before.logits[:, -1:].expand(len(tails), -1, -1), after.logits[:, :-1]], 1)
        logps = logits.float().log_softmax(-1).gather(2, ids[:, :, None])[:, :, 0]
        return [(float(logps[n, : len(tail)].sum()), len(tail)) for n, tail in enumerate(tails)]


def tokens(tokenizer: Any, chat: list[dict[str, str]], reply: str) -> tuple[list[int], list[int]]:
    """The chat's ids up to where the reply begins (none for no chat), and the reply's with its end token."""
    tail = [*tokenizer(reply, add_special_tokens=False)["input_ids"]]
    if not chat:
        return tail[:1], tail[1:]
    head = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=True, return_dict=False)
    return head, [*tail, tokenizer.eos_token_id]


def models(work: Path) -> dict[str, Callable[[], Scorer]]:
    """Every model that is there, by its name in the tables; loaded when it is called for, the last one
    kept."""
    there = {key: agent_folder(work, key) for key in (*COMMUNITIES, "joint")}
    there = {key: path for key, path in there.items() if (path / "adapter_config.json").is_file()}

    @functools.lru_cache(maxsize=1)
    def model(folder: Path, adapters: bool = False) -> Model:
        return Model(folder, there if adapters else {})

    def of(folder: Path, adapter: str | None = None, adapters: bool = False) -> Callable[[], Scorer]:
        return lambda: model(folder, adapters).scorer(adapter)

    scorers = {"SmolLM2": of(work / "smollm2-135m-instruct"), "task base": of(work / "base", adapters=True)}
    scorers |= {key: of(work / "base", key, adapters=True) for key in there}
    for name, folder in (("TIES", "ties"), ("Model Stock", "model_stock")):
        if (work / folder / "config.json").is_file():
            scorers[name] = of(work / folder)
    return scorers


def moerges(palette: str) -> Scorer:
    """The shipped palette's MoErges, float32, as it answers."""
    engine = get_engine(palette)

    def score(chat: list[dict[str, str]], replies: Sequence[str]) -> list[Scored]:
        pairs = [tokens(engine.tokenizer, chat, reply) for reply in replies]
        return [engine.sequence_logprob(META, head + tail, len(head)).result() for head, tail in pairs]

    return score


def held_out(work: Path, count: int) -> tuple[list[dict[str, Any]], dict[str, dict[str, str]]]:
    """The first `count` held-out questions, and every question's answers."""
    answers, split = reviewed_answers(work)
    return [row for row in worked() if split[row["query_id"]] == "test"][:count], answers


def scores(work: Path, name: str, score: Scorer, count: int) -> dict[str, Any]:
    """Each community's held-out answers under a model, under the draft prompt that names the community: every
    answer's score. And, for a community's own adapter and the task base, whether that answer is likelier than
    each other community's (by the mean log-probability of a token, which orders as the odds do).
    """
    rows, answers = held_out(work, count)
    scored: dict[str, list[Scored]] = {key: [] for key in COMMUNITIES}
    wins: dict[str, list[list[bool]]] = {key: [] for key in COMMUNITIES}
    for row in rows:
        texts = answers[row["query_id"]]
        for key in COMMUNITIES:
            prompt = draft_prompt(row, key, random.Random(row["query_id"]))
            rivals = [other for other in COMMUNITIES if other != key] if name in (key, "task base") else []
            own, *theirs = score(prompt, [texts[key], *(texts[other] for other in rivals)])
            scored[key].append(own)
            if rivals:
                wins[key].append([own[0] / own[1] > logp / length for logp, length in theirs])
    return {"n": len(rows), "scored": scored, "wins": {key: pairs for key, pairs in wins.items() if pairs}}


def neutral(score: Scorer) -> list[Scored]:
    """Our neutral paragraphs' scores, with no prompt before them."""
    texts = (DATA / "neutral.txt").read_text(encoding="utf-8").strip().split("\n\n")
    return [score([], [text])[0] for text in texts]


# -- drafts -------------------------------------------------------------------------------------


class Words:
    """Whose text is this? Naive Bayes over the words of the training answers."""

    def __init__(self, texts: Mapping[str, Sequence[str]]) -> None:
        self.counts = {
            key: Counter(word for text in answers for word in _words(text)) for key, answers in texts.items()
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
    words = _words(text)
    sentences = [" ".join(_words(part)) for part in re.split(r"[.!?]", text) if len(part) > 20]
    runs = Counter(zip(*(words[i:] for i in range(4)), strict=False))
    return any(count >= 3 for count in runs.values()) or len(set(sentences)) < len(sentences)


def is_cut(text: str) -> bool:
    """Whether it ends in the middle of a sentence."""
    return not text.rstrip().endswith((".", "!", "?", '"', "'", ")", "”"))


async def _draft(palette: str, part: str, row: Mapping[str, Any], community: str, seed: int) -> str:
    prompt = render("draft", **_draft_fields(row, community))
    sampling = Sampling(0.3, None, seed, **_drafts_own(palette))
    reply = await ask(ModelRef("embedded", f"{palette}/{part}"), sampling, prompt, timeout_s=LONG_S)
    return reply.text


def _drafts_own(palette: str) -> Mapping[str, Any]:
    """The palette's sampling of drafts, for its base too, which has none of its own."""
    own = read_manifest(palette).sampling_of("draft")
    return {name: value for name, value in own.items() if name != "max_tokens"}


def _draft_fields(row: Mapping[str, Any], community: str) -> dict[str, str]:
    question, _ = shown_options(row, random.Random(row["query_id"]))
    return {
        "community": COMMUNITIES[community],
        "country": find_country(row["country"]).in_text,
        "question": row["query"],
        "options": question.lettered(),
    }


def words_of_communities(work: Path) -> tuple[Words, dict[str, Any]]:
    """The words of the training answers, and how often they tell whose a held-out answer is."""
    rows, answers = held_out(work, 999)
    held = {row["query_id"] for row in rows}
    train = [texts for query, texts in answers.items() if query not in held]
    whose = Words({key: [texts[key] for texts in train] for key in COMMUNITIES})
    written = [(key, text) for query in held for key, text in answers[query].items()]
    ceiling = sum(whose.of(text) == key for key, text in written) / len(written)
    return whose, {"ceiling": ceiling, "ceiling_n": len(written)}


def keeping(whose: Words, asked_of: Sequence[tuple[str, Mapping[str, str]]]) -> dict[str, Any]:
    """How many drafts keep to their community, loop or break off. `asked_of`: ISO code of the country asked
    about, and each community's draft."""
    hits: dict[str, list[bool]] = {key: [] for key in COMMUNITIES}
    for country, five in asked_of:
        names = _words(find_country(country).in_text)
        for key, text in five.items():
            hits[key].append(whose.of(text, names) == key)
    texts = [text for _, five in asked_of for text in five.values()]
    return {
        "n": len(texts),
        "kept": hits,
        "loops": sum(map(loops, texts)) / len(texts),
        "cut": sum(map(is_cut, texts)) / len(texts),
        "words": sum(len(text.split()) for text in texts) / len(texts),
    }


def drafts_of_answers(work: Path, answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The same of the drafts behind answers that have been given."""
    whose, ceiling = words_of_communities(work)
    return {"adapters": keeping(whose, [(row["country"], row["drafts"]) for row in answers]), **ceiling}


def drafts(work: Path, palette: str, count: int) -> dict[str, Any]:
    """Drafts on held-out questions, by each adapter and by the task base with the same prompt: how many are
    taken for their own community's by the words of the training answers, how many loop or break off."""
    rows, _ = held_out(work, count)
    whose, ceiling = words_of_communities(work)

    async def all_of(base: bool) -> list[str]:
        calls = (
            _draft(palette, "base" if base else key, row, key, SEED) for row in rows for key in COMMUNITIES
        )
        return await asyncio.gather(*calls)

    results: dict[str, Any] = {}
    for name, base in (("adapters", False), ("task base", True)):
        texts = iter(asyncio.run(all_of(base)))
        results[name] = keeping(
            whose, [(row["country"], {key: next(texts) for key in COMMUNITIES}) for row in rows]
        )
    return results | ceiling


def steps(work: Path, score: Scorer, count: int) -> dict[str, Any]:
    """A model on the graph's later steps, on held-out questions, given drafts and accounts of ours: the
    scores of our account and of our answer; and, where there are options (in an order drawn anew), whether
    the letter that it finds likeliest is the one that we think most people there would choose.
    """
    rows, answers = held_out(work, 999)
    scored: dict[str, list[Scored]] = {
        form: [score(step_prompt(form, row, answers, COMMUNITIES), [row[name]])[0] for row in rows[:count]]
        for form, name in (("regulate", "account"), ("decide", "answer"))
    }
    right, chance = [], []
    for row in [row for row in rows if row["options"]][:count]:
        question, shares = shown_options(row, random.Random(row["query_id"] + "d"))
        fields = {"account": row["account"], "country": find_country(row["country"]).in_text}
        chat = render("decide_option", question=row["query"], options=question.lettered(), **fields)
        logps = [logp for logp, _ in score(role_dicts(chat), question.labels)]
        right.append(question.labels[logps.index(max(logps))] == max(shares, key=lambda label: shares[label]))
        chance.append(1 / len(shares))
    return {"scored": scored, "right": right, "chance": sum(chance) / len(chance)}


async def full_answer(palette: str, country: str, question: str, options: Sequence[str]) -> dict[str, Any]:
    """The whole answer to one question, as it came."""
    answer = await aask(
        country, question, options=list(options), model=f"embedded:{palette}", draft_timeout_s=LONG_S,
        settings=get_settings(request_timeout_s=LONG_S),
    )  # fmt: skip
    print(country, question, "->", answer.answer, flush=True)
    return {
        "country": country,
        "question": question,
        "options": list(options),
        "drafts": {key: draft.text for key, draft in answer.drafts.items()},
        "account": answer.account,
        "answer": answer.answer,
        "distribution": answer.distribution,
    }


def answers_to(palette: str, questions: Sequence[tuple[str, str, tuple[str, ...]]]) -> list[dict[str, Any]]:
    """The answers to several questions, asked at once: their drafts share the engine's batches."""

    async def together() -> list[dict[str, Any]]:
        return await asyncio.gather(*(full_answer(palette, *question) for question in questions))

    return asyncio.run(together())


def seconds_alone(palette: str) -> dict[str, float]:
    """The weights' loading, and one question alone with the weights in memory: seconds on the clock, and of
    this process' processor time."""
    started = time.perf_counter()
    get_engine(palette)
    loaded = time.perf_counter()
    answers_to(palette, TWENTY[:1])
    before, began = time.process_time(), time.perf_counter()
    answers_to(palette, TWENTY[2:3])
    return {
        "loading": loaded - started,
        "question": time.perf_counter() - began,
        "question_processor": time.process_time() - before,
    }


def memory_mib() -> float:
    """The most that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# -- the page -----------------------------------------------------------------------------------


class Figures:
    """What was measured, kept in a file after each part, so that a stopped report goes on."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.parts: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}

    def measure(self, name: str, measuring: Callable[[], Any]) -> None:
        """Measure a part that is not there yet."""
        if name in self.parts:
            return
        started = time.perf_counter()
        self.parts[name] = measuring()
        self.parts.setdefault("seconds", {})[name] = round(time.perf_counter() - started, 1)
        write_whole(self.file, json.dumps(self.parts, ensure_ascii=False, indent=1))
        print(name, self.parts["seconds"][name], "s", flush=True)


def _scores_of(work: Path, name: str, load: Callable[[], Any], count: int) -> Any:
    return scores(work, name, load(), count)


def _steps_of(work: Path, load: Callable[[], Any]) -> Any:
    return steps(work, load(), STEP_QUESTIONS)


def _neutral_of(load: Callable[[], Any]) -> Any:
    return neutral(load())


def write_report(to: Path, work: Path, count: int, drafted: int, palette: str = "small") -> None:
    """Measure what is not in OUT/figures.json yet, and write the page: `count` questions scored under each
    model, `drafted` drafted on.
    """
    measure_models(work, count, models(work))
    measure_models(work, count, {"MoErges": lambda: moerges(palette)})
    figures = Figures(work / "figures.json")
    for number in range(0, len(TWENTY), 10):
        some = TWENTY[number : number + 10]
        figures.measure(f"answers from {number}", functools.partial(answers_to, palette, some))
    measure_drafts_of_answers(work)
    figures.measure(f"drafts on {drafted}", lambda: drafts(work, palette, drafted))
    figures.measure("alone", lambda: seconds_alone(palette))
    figures.measure("memory_mib", memory_mib)
    write_page(to, work)


def measure_drafts_of_answers(work: Path) -> None:
    """Of the answers that are there; what was measured on fewer goes."""
    figures = Figures(work / "figures.json")
    answers = [row for name, rows in figures.parts.items() if name.startswith("answers from") for row in rows]
    figures.measure(f"drafts of {len(answers)} answers", lambda: drafts_of_answers(work, answers))


def measure_models(work: Path, count: int, there: Mapping[str, Callable[[], Scorer]]) -> None:
    """Scores of held-out answers, of the graph's later steps and of the neutral paragraphs, a model after the
    other.
    """
    figures = Figures(work / "figures.json")
    for name, model in there.items():
        scored = functools.partial(_scores_of, work, name, model, count)
        figures.measure(f"scores on {count}: {name}", scored)
        figures.measure(f"steps: {name}", functools.partial(_steps_of, work, model))
        figures.measure(f"neutral: {name}", functools.partial(_neutral_of, model))


def measure_duplicates(work: Path, sources: Sequence[Path]) -> dict[str, Any]:
    """The comparison with these files, measured anew."""
    figures = Figures(work / "figures.json")
    figures.parts.pop("duplicates", None)
    figures.measure("duplicates", lambda: duplicates(work, sources))
    comparison: dict[str, Any] = figures.parts["duplicates"]
    return comparison


def write_page(to: Path, work: Path) -> None:
    """The page out of what has been measured so far."""
    parts = Figures(work / "figures.json").parts
    notes = json.loads((work / "notes.json").read_text(encoding="utf-8"))
    write_whole(to, page(parts, notes))
