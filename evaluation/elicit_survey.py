"""Every readout on the same questions of a survey, in the same orders: scores, calibrated too, and costs.

Rows are kept as they come; a stopped run goes on. Temperature and place prior of each readout are fitted on
batteries that no score is read off.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import TypedDict

from cultural_palette.artifacts import ROWS, RunFolder
from cultural_palette.distributions import Distribution
from cultural_palette.embedded.engine import get_engine
from cultural_palette.errors import ArtifactError
from cultural_palette.evaluation.calibrate import NONE, Calibration, PlaceReading, calibrate
from cultural_palette.evaluation.elicitation import READOUTS, Elicitor
from cultural_palette.evaluation.metrics import alignments
from cultural_palette.evaluation.statistics import clustered_interval
from cultural_palette.evaluation.surveys import SurveyItem
from cultural_palette.models import ModelRef
from cultural_palette.option_orders import in_order, orders_of
from cultural_palette.prompts import template_of
from cultural_palette.provenance import short_sha256
from cultural_palette.questions import Question
from cultural_palette.shapes import of_shape

METRIC = "jsdist_e"
UNCHECKED = ("palette",)
MEND_LINE = "Mend that line, or take it out."


@dataclass(frozen=True)
class ElicitPlan:
    """`palette`, `part`: such as "nano" and "base". `test`, `fitting`: items of different batteries."""

    palette: str
    part: str
    prompt: str
    test: Sequence[SurveyItem]
    fitting: Sequence[SurveyItem]
    readouts: Sequence[str] = tuple(READOUTS)
    orders: int = 2
    seed: int = 0

    def config(self) -> dict[str, Any]:
        """What a run that goes on, or is finished, must share, but for `UNCHECKED`. Readouts may be added."""
        asked = [[item.question.text, *item.question.options] for item in (*self.test, *self.fitting)]
        return {
            "palette": self.palette,
            "weights": ModelRef("embedded", f"{self.palette}/{self.part}").content,
            "part": self.part,
            "prompt": self.prompt,
            "prompt_sha256": short_sha256(template_of(self.prompt)),
            "questions_sha256": short_sha256(json.dumps(asked)),
            "test": [item.id for item in self.test],
            "fitting": [item.id for item in self.fitting],
            "orders": self.orders,
            "seed": self.seed,
        }


def elicit_survey(plan: ElicitPlan, out: Path, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """Read what is not read yet, and return the table: `summarise` of each readout."""
    folder = RunFolder(out, plan.config(), UNCHECKED)
    if not folder.finished:
        _read_all(plan, folder, tell)
    there = folder.same_manifest().get("readouts")
    if lacking := [name for name in plan.readouts if not isinstance(there, list) or name not in there]:
        raise ArtifactError(f"{out} is finished, without {', '.join(lacking)}: take another folder.")
    rows = [row for row in _rows_of(plan, folder) if row["readout"] in plan.readouts]
    return [summarise(plan, name, [row for row in rows if row["readout"] == name]) for name in plan.readouts]


def _read_all(plan: ElicitPlan, folder: RunFolder, tell: Callable[[str], None]) -> None:
    with folder:
        done = {(row["item"], tuple(row["order"]), row["readout"]) for row in _rows_of(plan, folder)}
        elicitor = Elicitor(get_engine(plan.palette), plan.part, plan.prompt, plan.seed)
        items = [*plan.test, *plan.fitting]
        for number, item in enumerate(items, 1):
            question = Question(item.question.text, item.question.options)
            for order in orders_of(len(question.options), plan.orders, plan.seed):
                for name in plan.readouts:
                    if (item.id, order, name) not in done:
                        reading = elicitor.elicit(name, in_order(question, order), item.country)
                        folder.append(
                            {
                                "item": item.id,
                                "order": list(order),
                                "readout": name,
                                "weights": reading.weights,
                                "tokens": reading.tokens,
                                "seconds": round(reading.seconds, 4),
                            }
                        )
            tell(f"{number} of {len(items)} items")
        folder.finish(plan.config() | {"readouts": list(plan.readouts)})


class _StoredRow(TypedDict):
    item: str
    order: list[int]
    readout: str
    weights: list[float] | None
    tokens: int
    seconds: float


def _rows_of(plan: ElicitPlan, folder: RunFolder) -> Iterator[dict[str, Any]]:
    """A run's rows; ArtifactError for one that can not be right."""
    places = {item.id: list(range(len(item.question.options))) for item in (*plan.test, *plan.fitting)}
    for number, row in enumerate(folder.rows(), 1):
        where = f"{folder.path / ROWS}:{number}"
        of_shape(row, _StoredRow, where, MEND_LINE)
        order, weights = row["order"], row["weights"]
        if sorted(order) != places.get(row["item"]) or (weights is not None and len(weights) != len(order)):
            raise ArtifactError(f"{where}: order and weights are no reading of that item. {MEND_LINE}")
        yield row


def summarise(plan: ElicitPlan, name: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A readout's line: score as it is and calibrated (with intervals over batteries, None without a
    reading), items that gave one, cost an item, and what was fitted.
    """
    golds = {item.id: item.gold.probabilities for item in (*plan.test, *plan.fitting)}
    fitting = {item.id for item in plan.fitting}
    readings = [
        PlaceReading(tuple(row["weights"]), tuple(golds[row["item"]][k] for k in row["order"]))
        for row in rows
        if row["item"] in fitting and row["weights"] is not None
    ]
    fitted = calibrate(readings) if readings else NONE
    test = [row for row in rows if row["item"] not in fitting]
    count = max(1, len({row["item"] for row in test}))
    return {
        "readout": name,
        "items": count,
        "read": len({row["item"] for row in test if row["weights"] is not None}),
        "plain": _score(plan.test, test, NONE),
        "calibrated": _score(plan.test, test, fitted) if readings else None,
        "calibration": fitted.as_dict() if readings else None,
        "tokens": sum(row["tokens"] for row in test) / count,
        "seconds": sum(row["seconds"] for row in test) / count,
    }


def _score(
    items: Sequence[SurveyItem], rows: Sequence[Mapping[str, Any]], calibration: Calibration
) -> dict[str, Any] | None:
    """1 - JS distance of the mean over orders, of the items that were read."""
    by_item: defaultdict[str, list[Distribution]] = defaultdict(list)
    for row in rows:
        if row["weights"] is not None:
            shown = calibration.apply(row["weights"]).probabilities
            by_place = dict(zip(row["order"], shown, strict=True))
            by_item[row["item"]].append(Distribution(tuple(by_place[k] for k in range(len(shown)))))
    read = [item for item in items if item.id in by_item]
    if not read:
        return None
    scores = [alignments(item.gold, Distribution.mix(by_item[item.id]))[METRIC] for item in read]
    batteries = [item.question.battery for item in read]
    interval = clustered_interval(np.array(scores), batteries, permutations=2000)
    return {"mean": interval.mean, "low": interval.low, "high": interval.high, "n": interval.n}


def best_readout(table: Sequence[Mapping[str, Any]], key: str) -> str | None:
    """The readout that scores highest among those that read every item; None when none did."""
    whole = [row for row in table if row[key] is not None and row["read"] == row["items"]]
    return max(whole, key=lambda row: row[key]["mean"])["readout"] if whole else None
