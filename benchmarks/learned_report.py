"""The tables of docs/results-learned.md, out of readings on disk."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.learned_data import HELD_OUT, JOINT, MOERGES, VANILLA, Data, back, readings_of
from cultural_palette.cultural_map import load_map
from cultural_palette.distributions import Distribution
from cultural_palette.evaluation.blend_fit import FEWEST, AnsweredQuestion, blended, fit_blend
from cultural_palette.evaluation.calibrate import NONE, Calibration, PlaceReading, calibrate
from cultural_palette.evaluation.metrics import alignment_table
from cultural_palette.evaluation.statistics import clustered_interval, compare, holm
from cultural_palette.provenance import short_sha256

METRIC = "jsdist_e"
BLEND_QUESTIONS = 30
START, END = "<!-- results: begin -->", "<!-- results: end -->"
Floats = NDArray[np.float64]
Key = tuple[str, str]
"""A question's id and a country."""
Answers = Mapping[Key, Distribution]
Rows = list[dict[str, Any]]

NAMES = {
    "uniform": "floor: uniform",
    "per_size": "floor: mean per number of options",
    "others": "reference: the question's mean in the other countries",
    "vanilla": "vanilla",
    "vanilla_calibrated": "vanilla, calibrated",
    "joint": "joint agent",
    "joint_calibrated": "joint agent, calibrated",
    "own": "own community's agent",
    "mean": "mean of five agents",
    "mean_of_others": "mean of the other four agents",
    "moerges_uniform": "MoErges, uniform blend",
    "moerges_paper": "MoErges, the paper's router",
    "moerges_fitted": "MoErges, fitted router",
    "fitted": f"five agents, blend fitted on {BLEND_QUESTIONS} questions",
}
CONTRASTS = (
    ("joint", "per_size"),
    ("joint", "vanilla_calibrated"),
    ("mean", "per_size"),
    ("moerges_uniform", "mean"),
    ("moerges_paper", "moerges_uniform"),
    ("moerges_fitted", "moerges_uniform"),
    ("own", "mean_of_others"),
    ("own", "mean"),
    ("fitted", "mean"),
    ("joint", "mean"),
)


@dataclass(frozen=True)
class Item:
    """A country's answer to a test question. `home`: its community."""

    key: Key
    battery: str
    home: str
    gold: Distribution


def results(data: Data, out: Path) -> dict[str, Any]:
    """Everything that the tables say, as JSON."""
    home = {c: m.key for m in load_map("continents").communities for c in m.countries}
    items = [
        Item((one.id, country), one.battery, home[country], gold)
        for one in data.test
        for country, gold in one.shares.items()
    ]
    runs = _runs(data, out, [m.key for m in load_map("continents").communities])
    methods = _methods(data, items, runs)
    scores = {name: _scores(items, answers) for name, answers in methods.items()}
    groups = {
        "all": [True] * len(items),
        "held out": [one.key[1] in HELD_OUT for one in items],
        "trained on": [one.key[1] not in HELD_OUT for one in items],
    }
    gains = {name: _gains(items, answers) for name, answers in methods.items()}
    table: dict[str, Any] = {}
    for name in methods:
        table[name] = {"runs": len(methods[name])}
        for group, chosen in groups.items():
            table[name][group] = _interval(scores[name][:, chosen], items, chosen)
        table[name]["gain"] = _interval(gains[name], items, [True] * len(items))
    return {
        "split": data.split.as_manifest(),
        "survey_sha256": data.survey.sha256,
        "test": {
            "items": len(items),
            "questions": len(data.test),
            "batteries": len({one.battery for one in data.test}),
            "held_out_items": sum(groups["held out"]),
        },
        "calibration": {
            "questions": len(data.calibration),
            "items": sum(len(one.shares) for one in data.calibration),
        },
        "drawn": data.drawn(),
        "methods": table,
        "contrasts": {
            group: _contrasts(scores, items, chosen)
            for group, chosen in groups.items()
            if group != "trained on"
        },
        "blends": [run["blends"] for run in runs if run.get("blends")],
        "calibrations": [run["calibrations"] for run in runs],
    }


def _runs(data: Data, out: Path, communities: Sequence[str]) -> list[dict[str, Any]]:
    """For each run that has a model read: method -> answers, blends, calibrations."""
    vanilla = readings_of(out, VANILLA)
    if vanilla is None:
        raise SystemExit("the base is not read yet: python -m benchmarks.learned score")
    runs: list[dict[str, Any]] = []
    for number in range(1, 1 + len(list((out / "scores").glob("run-*")))):
        read = {
            name: rows
            for name in (JOINT, *MOERGES.values(), *communities)
            if (rows := readings_of(out, f"run-{number}/{name}"))
        }
        if read:
            runs.append(_run(data, vanilla, read, communities))
    return runs or [_run(data, vanilla, {}, communities)]


def _run(
    data: Data,
    vanilla: list[dict[str, Any]],
    read: Mapping[str, list[dict[str, Any]]],
    communities: Sequence[str],
) -> dict[str, Any]:
    calibration_ids = {one.id for one in data.calibration}
    run: dict[str, Any] = {"answers": {}, "blends": {}, "calibrations": {}}
    answers: dict[str, Answers] = run["answers"]
    answers |= {f"moerges_{by}": _answers(read[it], NONE) for by, it in MOERGES.items() if it in read}
    for name, rows in (("vanilla", vanilla), ("joint", read.get(JOINT))):
        if rows is None:
            continue
        answers[name] = _answers(rows, NONE)
        fitted = calibrate(
            [
                PlaceReading(tuple(row["logps"]), tuple(row["gold"]))
                for row in rows
                if row["question"] in calibration_ids and row["country"] not in HELD_OUT
            ]
        )
        answers[f"{name}_calibrated"] = _answers(rows, fitted)
        run["calibrations"][name] = fitted.as_dict()
    if all(key in read for key in communities):
        agents = {key: _answers(read[key], NONE) for key in communities}
        home = {c: m.key for m in load_map("continents").communities for c in m.countries}
        keys = list(next(iter(agents.values())))
        answers["own"] = {key: agents[home[key[1]]][key] for key in keys}
        answers["mean"] = {key: Distribution.mix([agents[c][key] for c in communities]) for key in keys}
        answers["mean_of_others"] = {
            key: Distribution.mix([agents[c][key] for c in communities if c != home[key[1]]]) for key in keys
        }
        answers["fitted"] = dict(answers["mean"])
        for country in sorted({key[1] for key in keys}):
            questions = [one for one in data.calibration if country in one.shares][:BLEND_QUESTIONS]
            if len(questions) < FEWEST:
                continue
            blend = fit_blend(
                [
                    AnsweredQuestion(
                        one.battery, one.shares[country], {c: agents[c][one.id, country] for c in communities}
                    )
                    for one in questions
                ]
            )
            run["blends"][country] = blend.as_dict()
            for key in keys:
                if key[1] == country:
                    answers["fitted"][key] = blended(  # type: ignore[index]
                        blend.weights, {c: agents[c][key] for c in communities}
                    )
    return run


def _answers(rows: Sequence[Mapping[str, Any]], calibration: Calibration) -> dict[Key, Distribution]:
    """Means over the orders, in the questions' own."""
    by_key: defaultdict[Key, list[Distribution]] = defaultdict(list)
    for row in rows:
        shown = calibration.apply(row["logps"])
        by_key[row["question"], row["country"]].append(back(shown, row["order"]))
    return {key: Distribution.mix(some) for key, some in by_key.items()}


def _methods(
    data: Data, items: Sequence[Item], runs: Sequence[Mapping[str, Any]]
) -> dict[str, list[Answers]]:
    """Method -> its answers in every run that has them; floors have one run."""
    habits: defaultdict[int, list[Distribution]] = defaultdict(list)
    for item in data.split.train:
        habits[len(item.gold)].append(item.gold)
    means = {size: Distribution.mix(some) for size, some in habits.items()}
    of_question: defaultdict[str, dict[str, Distribution]] = defaultdict(dict)
    for item in data.split.test:
        of_question[item.question.id][item.country] = item.gold
    sizes = {one.key: len(one.gold) for one in items}
    methods: dict[str, list[Answers]] = {
        "uniform": [{key: Distribution.uniform(size) for key, size in sizes.items()}],
        "per_size": [{key: means[size] for key, size in sizes.items()}],
        "others": [
            {
                key: Distribution.mix([gold for code, gold in of_question[key[0]].items() if code != key[1]])
                for key in sizes
            }
        ],
    }
    for name in NAMES:
        answers = [run["answers"][name] for run in runs if name in run["answers"]]
        if name.startswith("vanilla"):
            answers = answers[:1]
        if answers:
            methods[name] = answers
    return {name: methods[name] for name in NAMES if name in methods}


def _scores(items: Sequence[Item], runs: Sequence[Answers]) -> Floats:
    """(run, item), 0..100."""
    return np.array([[_score(item.gold, answers[item.key]) for item in items] for answers in runs])


def _score(gold: Distribution, predicted: Distribution) -> float:
    return float(alignment_table(gold.probabilities, predicted.probabilities)[METRIC])


def _gains(items: Sequence[Item], runs: Sequence[Answers]) -> Floats:
    """What being asked for the right country gains, as `evaluation.report.discrimination` has it. (run,
    item)
    """
    others: defaultdict[str, list[Item]] = defaultdict(list)
    for item in items:
        others[item.key[0]].append(item)

    def gain(item: Item, answers: Answers) -> float:
        elsewhere = [_score(item.gold, answers[o.key]) for o in others[item.key[0]] if o is not item]
        return _score(item.gold, answers[item.key]) - float(np.mean(elsewhere))

    return np.array([[gain(item, answers) for item in items] for answers in runs])


def _interval(values: Floats, items: Sequence[Item], chosen: Sequence[bool]) -> dict[str, Any]:
    own = [item for item, wanted in zip(items, chosen, strict=True) if wanted]
    interval = clustered_interval(
        values, [item.battery for item in own], groups=[item.key[1] for item in own], permutations=2000
    )
    return {"mean": interval.mean, "low": interval.low, "high": interval.high, "n": interval.n}


def _contrasts(
    scores: Mapping[str, Floats], items: Sequence[Item], chosen: Sequence[bool]
) -> list[dict[str, Any]]:
    own = [item for item, wanted in zip(items, chosen, strict=True) if wanted]
    rows = []
    for a, b in CONTRASTS:
        if a not in scores or b not in scores:
            continue
        first, second = scores[a][:, chosen], scores[b][:, chosen]
        if len(first) != len(second) and 1 not in (len(first), len(second)):
            shared = min(len(first), len(second))
            first, second = first[:shared], second[:shared]
        comparison = compare(
            first,
            second,
            [item.battery for item in own],
            groups=[item.key[1] for item in own],
            permutations=2000,
        )
        assert comparison is not None
        interval = comparison.difference
        rows.append(
            {
                "a": a,
                "b": b,
                "mean": interval.mean,
                "low": interval.low,
                "high": interval.high,
                "p": comparison.p,
            }
        )
    for row, adjusted in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = adjusted
    return rows


def tables(summary: Mapping[str, Any]) -> str:
    """Markdown."""
    lines = [
        *_method_table(summary),
        "",
        *_contrast_tables(summary),
        *_blend_tables(summary),
        *_split_lines(summary),
    ]
    return "\n".join(lines) + "\n"


def _method_table(summary: Mapping[str, Any]) -> list[str]:
    test = summary["test"]
    lines = [
        "1 - JS distance (base e), 0 to 100;",
        f"{test['items']} test items ({test['held_out_items']} of countries held out),",
        f"{test['questions']} questions of {test['batteries']} batteries; means over countries' means,",
        "95 % intervals over batteries and seeds. Gain: for being asked for the right country.",
        "",
        "| method | seeds | all countries | held out | trained on | gain |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in summary["methods"].items():
        cells = [_words(row[group]) for group in ("all", "held out", "trained on", "gain")]
        seeds = "" if name in ("uniform", "per_size", "others") else str(row["runs"])
        lines.append(f"| {NAMES[name]} | {seeds} | {' | '.join(cells)} |")
    return lines


def _contrast_tables(summary: Mapping[str, Any]) -> list[str]:
    lines = []
    for group, rows in summary["contrasts"].items():
        lines += [
            f"Planned contrasts, {'all countries' if group == 'all' else 'countries held out'} (p by Holm):",
            "",
            "| contrast | difference | p |",
            "|---|---|---|",
            *(
                f"| {NAMES[row['a']]} - {NAMES[row['b']]} | {_words(row, sign=True)} | {row['p_holm']:.3f} |"
                for row in rows
            ),
            "",
        ]
    return lines


def _blend_tables(summary: Mapping[str, Any]) -> list[str]:
    if not summary["blends"]:
        return []
    blends = summary["blends"][0]
    keys = list(next(iter(blends.values()))["weights"])
    lines = [
        "Fitted blends of the first seed, weights with 95 % intervals (KL: cross-validated, fitted against",
        "equal weights):",
        "",
        f"| country | questions | {' | '.join(keys)} | KL |",
        f"|---|---|{'---|' * len(keys)}---|",
    ]
    for country, one in blends.items():
        cells = [f"{one['weights'][k]:.2f} [{one['low'][k]:.2f}, {one['high'][k]:.2f}]" for k in keys]
        losses = one["cross_validated_kl"]
        lines.append(
            f"| {country} | {one['questions']} | {' | '.join(cells)} | {losses['fitted']:.3f} against "
            f"{losses['uniform']:.3f} |"
        )
    return [*lines, ""]


def _split_lines(summary: Mapping[str, Any]) -> list[str]:
    """Hashes of the parts' item ids, and of the questions drawn, by which a split is told again."""
    lines = [
        f"Survey file, SHA-256: `{summary['survey_sha256']}`.",
        "",
        "| part | questions | items | batteries | ids |",
    ]
    lines.append("|---|---|---|---|---|")
    for part in ("train", "calibration", "test"):
        row = summary["split"][part]
        lines.append(
            f"| {part} | {row['questions']:,} | {row['items']:,} | {row['batteries']} | `{row['sha256']}` |"
        )
    for part, ids in summary["drawn"].items():
        digest = short_sha256("\n".join(sorted(ids)))
        lines.append(f"| {part}, drawn | {len(ids)} |  |  | `{digest}` |")
    return lines


def _words(row: Mapping[str, Any], sign: bool = False) -> str:
    mean = f"{row['mean']:+.2f}" if sign else f"{row['mean']:.2f}"
    if row["low"] is None:
        return mean
    ends = f"{row['low']:+.2f}, {row['high']:+.2f}" if sign else f"{row['low']:.2f}, {row['high']:.2f}"
    return f"{mean} [{ends}]"


def write_page(page: Path, text: str) -> None:
    """Put the tables between the page's markers."""
    whole = page.read_text(encoding="utf-8")
    before, _, rest = whole.partition(START)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{START}\n{text}{END}{after}", encoding="utf-8")
