"""How a run's scores hold when what should not matter is another: the robustness certificate.

A condition is a run of the same methods on the same items, or some of them, that differs in the order of the
options, the wording of the instructions, the language of the questions, or the seed, and in nothing else; one
that differs in several of them bears all their names. Several runs in one folder are conditions of the seed
by themselves. A score is given with the range of its changes over the
conditions; two methods that stand the other way round in one of them have a ranking that flips, and are
marked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cultural_palette.errors import UsageError
from cultural_palette.evaluation.methods import BEST_SINGLE
from cultural_palette.evaluation.metrics import Floats
from cultural_palette.evaluation.report.analysis import ALPHA, comparable_scores
from cultural_palette.evaluation.report.load import Evaluation
from cultural_palette.evaluation.statistics import average, compare

CHOSEN_BY_ITEMS = frozenset({BEST_SINGLE})
"""Methods that choose by the run's other items: over fewer items they are another method."""
SET_BY_KIND = frozenset({"seed", "permutations", "base_url"})
"""Settings that KINDS holds, or `weights`."""
KINDS: Mapping[str, str] = {
    "orders": "orders of the options", "wording": "wording", "language": "language", "seed": "seed",
}  # fmt: skip


@dataclass(frozen=True)
class Condition:
    """Scores by method of each item (0..100, NaN where not answered, in the run's order of items): in the run
    itself (`before`), and in the condition (`after`), for the methods of both. `asked`: which items the
    condition is of.
    """

    name: str
    before: Mapping[str, Floats]
    after: Mapping[str, Floats]
    asked: NDArray[np.bool_]
    countries: Sequence[str]

    @property
    def items(self) -> int:
        """How many items it is of."""
        return int(self.asked.sum())

    def change(self, method: str) -> float | None:
        """What the condition adds to a method's average, over the items that it answered in both; None
        without any.
        """
        return self._mean(self.after[method] - self.before[method])

    def lost(self, method: str) -> int:
        """Items that the method answered in the run, and here no more."""
        gone = ~np.isnan(self.before[method]) & np.isnan(self.after[method])
        return int((gone & self.asked).sum())

    def turns(self, one: str, other: str) -> bool:
        """Whether two methods stand the other way round in it, on the items that both answered in both."""
        before, after = self.before[one] - self.before[other], self.after[one] - self.after[other]
        here, there = (np.where(np.isnan(before + after), np.nan, gap) for gap in (before, after))
        first, second = self._mean(here), self._mean(there)
        return first is not None and second is not None and first * second < 0

    def _mean(self, values: Floats) -> float | None:
        return average(values, self.countries)


@dataclass(frozen=True)
class Certificate:
    """`flips`: pairs (better, worse in the whole run) -> the conditions in which they stand the other way
    round. `significant`: those whose difference in the whole run is beyond chance (uncorrected, 5 %).
    `silent`: methods that answered nothing in the run itself.
    """

    conditions: tuple[Condition, ...]
    flips: Mapping[tuple[str, str], tuple[str, ...]]
    significant: frozenset[tuple[str, str]]
    silent: frozenset[str] = frozenset()

    @property
    def methods(self) -> tuple[str, ...]:
        """Those that any condition measured."""
        return tuple(dict.fromkeys(method for made in self.conditions for method in made.before))

    def changes(self, method: str) -> tuple[float, float] | None:
        """The lowest and the highest change of a method's average, 0 among them: that of the run itself. None
        for a method in no condition.
        """
        there = [made.change(method) for made in self.conditions if method in made.before]
        values = [change for change in there if change is not None]
        return (min(0.0, *values), max(0.0, *values)) if values else None

    def lost(self, method: str) -> int:
        """Answers that a method gave in the run and no more in a condition, over all of them."""
        return sum(made.lost(method) for made in self.conditions if method in made.before)

    def flipped(self, method: str) -> dict[str, bool]:
        """The methods whose order with this one flips -> whether they differ beyond chance in the run."""
        return {pair[pair[0] == method]: pair in self.significant for pair in self.flips if method in pair}


def certify(
    evaluation: Evaluation, others: Sequence[Evaluation], metric: str, *, permutations: int = 10_000
) -> Certificate | None:
    """The scores of a run's methods under every condition; None without any. Raises UsageError for a run of
    items that this one has not, of no method of its, or that differs in none of KINDS or in anything else.
    """
    scores = _placed(evaluation, evaluation, metric)
    conditions = list(_seeds(evaluation, scores, metric))
    for other in others:
        name = condition_of(evaluation, other)
        if any(made.name == name for made in conditions):
            name = f"{name} ({other.path.name})"
        conditions.append(_condition(name, evaluation, scores, _placed(other, evaluation, metric), other))
    if not conditions:
        return None
    countries = [item.country for item in evaluation.items]
    batteries = [item.battery for item in evaluation.items]
    whole = {method: average(table, countries) for method, table in scores.items()}
    methods = [
        m for m in dict.fromkeys(m for made in conditions for m in made.before) if whole[m] is not None
    ]
    ranked = sorted(methods, key=lambda method: -(whole[method] or 0.0))
    silent = frozenset(method for method, mean in whole.items() if mean is None)
    flips: dict[tuple[str, str], tuple[str, ...]] = {}
    significant = set()
    for place, better in enumerate(ranked):
        for worse in ranked[place + 1 :]:
            there = [made for made in conditions if {better, worse} <= made.before.keys()]
            turned = tuple(made.name for made in there if made.turns(better, worse))
            if not turned:
                continue
            flips[better, worse] = turned
            test = compare(
                scores[better], scores[worse], batteries, groups=countries, permutations=permutations
            )
            if test is not None and test.p < ALPHA:
                significant.add((better, worse))
    return Certificate(tuple(conditions), flips, frozenset(significant), silent)


def condition_of(first: Evaluation, other: Evaluation) -> str:
    """What is another in the second run, such as "wording 1"."""
    strange = {item.id for item in other.items} - {item.id for item in first.items}
    if strange:
        raise UsageError(
            f"{other.path} has {len(strange):,} items that {first.path} has not, such as {min(strange)}: a "
            "certificate is over the same items, or some of them."
        )
    if not set(first.methods) & set(other.methods):
        raise UsageError(
            f"{other.path} has none of the methods of {first.path}, which are {', '.join(first.methods)}."
        )
    a, b = _shaping(first.manifest), _shaping(other.manifest)
    differs = [kind for kind in KINDS if a[kind] != b[kind]]
    if not differs:
        raise UsageError(
            f"{other.path} differs from {first.path} in nothing: a condition differs in one of "
            f"{', '.join(KINDS.values())}, or in several."
        )
    if more := _differences(first.manifest, other.manifest, worded="wording" in differs):
        raise UsageError(
            f"{other.path} differs from {first.path} in {' and '.join(KINDS[kind] for kind in differs)}, but "
            f"in {', '.join(more)} too: what of a change comes from where can not be told. A condition is "
            f"the same run but for {', '.join(KINDS.values())}."
        )
    name = " and ".join(f"{KINDS[kind]} {b[kind]}" for kind in differs)
    return name if first.runs == other.runs else f"{name}, runs {other.runs}"


def _differences(a: Mapping[str, Any], b: Mapping[str, Any], *, worded: bool) -> list[str]:
    """What shapes predictions, is no condition, and is not the same in two manifests, such as "readout (auto,
    not verbal)". What only one of them says is not held against it. `worded`: their prompts differ by intent.
    """
    found = []
    for name, first, second in _fixed(a, b, worded):
        if first is not None and second is not None and _without_address(first) != _without_address(second):
            told = f"{name} ({first}, not {second})" if isinstance(first, str | int | float) else name
            found.append(told)
    return found


def _without_address(said: Any) -> Any:
    """A served model is the same at another address: "openai:moerges@http://127.0.0.1:8001/v1"."""
    return said.partition("@http")[0] if isinstance(said, str) else said


def _fixed(a: Mapping[str, Any], b: Mapping[str, Any], worded: bool) -> Iterator[tuple[str, Any, Any]]:
    """Each thing that two runs of a certificate share: its name, and what either says of it."""

    def part(manifest: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
        found: Any = manifest
        for name in names:
            found = (found or {}).get(name)
        return found or {}

    yield "the survey's file", part(a, "survey").get("sha256"), part(b, "survey").get("sha256")
    for key, name in (("options", "options kept"), ("max_options", "most options")):
        yield name, part(a, "survey", "selection").get(key), part(b, "survey", "selection").get(key)
    for key in sorted((part(a, "settings").keys() | part(b, "settings").keys()) - SET_BY_KIND):
        yield key, part(a, "settings").get(key), part(b, "settings").get(key)
    for key, name in (("map_sha256", "the map"), ("blend_checkpoint", "the blend's checkpoint")):
        yield name, a.get(key), b.get(key)
    several = [("weights", "the model of"), ("own_methods", "the method")]
    several += [] if worded else [("prompts", "the prompt")]
    for key, name in several:
        for one in sorted(part(a, key).keys() & part(b, key).keys()):
            yield f"{name} {one}", part(a, key)[one], part(b, key)[one]


def _placed(run: Evaluation, evaluation: Evaluation, metric: str) -> dict[str, Floats]:
    """Method -> its score in `run` of each item of `evaluation`, NaN where it has none. (item,)"""
    places = {item.id: place for place, item in enumerate(evaluation.items)}
    order = [places[item.id] for item in run.items]
    placed = {}
    for method in run.methods:
        placed[method] = np.full(len(places), np.nan)
        placed[method][order] = comparable_scores(run, method, metric).mean(axis=0)
    return placed


def _seeds(evaluation: Evaluation, scores: Mapping[str, Floats], metric: str) -> Iterator[Condition]:
    """Each run of a folder with several against the mean of all: their seeds differ, and nothing else."""
    if evaluation.runs == 1:
        return
    first = int(evaluation.manifest.get("seed") or 0)
    for run in range(evaluation.runs):
        alone = {m: evaluation.scores[metric][k, run] for k, m in enumerate(evaluation.methods)}
        yield _condition(f"{KINDS['seed']} {first + run} alone", evaluation, scores, alone, evaluation)


def _condition(
    name: str,
    evaluation: Evaluation,
    scores: Mapping[str, Floats],
    after: Mapping[str, Floats],
    other: Evaluation,
) -> Condition:
    asked = {item.id for item in other.items}
    whole = len(asked) == len(evaluation.items)
    methods = [
        method
        for method, table in scores.items()
        if method in after and not np.isnan(table).all() and (whole or method not in CHOSEN_BY_ITEMS)
    ]
    return Condition(
        name,
        {method: scores[method] for method in methods},
        {method: after[method] for method in methods},
        np.array([item.id in asked for item in evaluation.items]),
        [item.country for item in evaluation.items],
    )


def _shaping(manifest: Mapping[str, Any]) -> dict[str, Any]:
    settings = manifest.get("settings") or {}
    selection = (manifest.get("survey") or {}).get("selection") or {}
    return {
        "orders": settings.get("permutations"),
        "wording": manifest.get("wording", 0),
        "language": selection.get("language", "survey"),
        "seed": manifest.get("seed"),
    }
