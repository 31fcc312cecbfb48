"""What scores without a model, beside every method: from a run's floors.json, or without it from its rows."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cultural_palette.errors import ArtifactError
from cultural_palette.evaluation.floors import FLOORS, MODE, REFERENCES, UNIFORM
from cultural_palette.evaluation.metrics import ALIGNMENTS, Floats, alignment_table
from cultural_palette.jsonl import read_object

FILE = "floors.json"
ROUNDING = 1e-6


@dataclass(frozen=True)
class Floor:
    """What needs no model. `reference`: it knows the survey's answers to the very question, so a method need
    not stand above it. `scores`: alignment -> value of each item (0..100), NaN where it has none. `whole`:
    alignment -> mean over the whole selection, where questions were drawn from it.
    """

    key: str
    title: str
    reference: bool
    scores: Mapping[str, Floats]
    whole: Mapping[str, float] | None = None


def floors_of(path: Path, items: Sequence[str], sizes: Sequence[int], gold: Floats) -> tuple[Floor, ...]:
    """The floors of a run folder's items, in that order; floors first, references after. `sizes`: of the
    items' options. `gold`: (item, option).

    Without floors.json, uniform and the best one-hot, which need nothing but the rows. Raises ArtifactError
    for a file that can not be read as floors.
    """
    file = path / FILE
    if not os.path.lexists(file):
        return _from_rows(np.asarray(sizes), gold)
    try:
        table: Mapping[str, Any] = read_object(file)
        floors = [_floor(key, entry, items) for key, entry in table.items()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(
            f"{file} can not be read as floors: {error!r}. Run the evaluation again."
        ) from None
    return tuple(sorted(floors, key=lambda floor: floor.reference))


def _floor(key: str, entry: Mapping[str, Any], items: Sequence[str]) -> Floor:
    scores = {
        metric: np.array([_value(entry["per_item"].get(item), metric) for item in items])
        for metric in ALIGNMENTS
    }
    title = str(entry.get("title", FLOORS.get(key, key)))
    return Floor(key, title, key in REFERENCES, scores, entry.get("whole"))


def _from_rows(sizes: NDArray[np.int64], gold: Floats) -> tuple[Floor, ...]:
    places = np.arange(gold.shape[1])
    uniform = np.where(places < sizes[:, None], 1 / sizes[:, None], 0.0)
    one_hot = (places == gold.argmax(axis=1)[:, None]).astype(np.float64)
    return (
        Floor(UNIFORM, FLOORS[UNIFORM], False, alignment_table(gold, uniform)),
        Floor(MODE, FLOORS[MODE], True, alignment_table(gold, one_hot)),
    )


def _value(row: Mapping[str, float] | None, metric: str) -> float:
    if row is None:
        return float("nan")
    if not -ROUNDING <= (value := row[metric]) <= 100 + ROUNDING:
        raise ValueError(f"{metric} is {value!r}, expected 0 to 100")
    return float(value)
