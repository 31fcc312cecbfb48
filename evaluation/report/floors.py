"""What scores without a model, beside every method: from a run's floors.json, or without it from its rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cultural_palette.errors import ArtifactError
from cultural_palette.evaluation.floors import FLOORS, MODE, OTHERS, UNIFORM
from cultural_palette.evaluation.metrics import ALIGNMENTS
from cultural_palette.evaluation.report.scores import alignment_table
from cultural_palette.jsonl import read_object

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FILE = "floors.json"
CEILINGS = (OTHERS, MODE)
"""They know the survey's answers to the very question; a method need not stand above them."""


@dataclass(frozen=True)
class Floor:
    """What needs no model. `scores`: alignment -> value of each item (0..100), NaN where it has none."""

    key: str
    title: str
    ceiling: bool
    scores: Mapping[str, NDArray[np.float64]]


def floors_of(
    path: Path, items: Sequence[str], sizes: Sequence[int], gold: NDArray[np.float64]
) -> tuple[Floor, ...]:
    """The floors of a run folder's items, in that order; floors first, ceilings after. `sizes`: of the items'
    options. `gold`: (item, option).

    Without floors.json, uniform and the best one-hot, which need nothing but the rows. Raises ArtifactError
    for a file that can not be read as floors.
    """
    import numpy as np

    file = path / FILE
    if not file.exists():
        return _from_rows(np.asarray(sizes), gold)
    try:
        table: Mapping[str, Any] = read_object(file)
        found = [
            Floor(
                key,
                str(entry.get("title", FLOORS.get(key, key))),
                key in CEILINGS,
                {
                    metric: np.array([_value(entry["per_item"].get(item), metric) for item in items])
                    for metric in ALIGNMENTS
                },
            )
            for key, entry in table.items()
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(
            f"{file} can not be read as floors: {error!r}. Run the evaluation again."
        ) from None
    return tuple(sorted(found, key=lambda floor: floor.ceiling))


def _from_rows(sizes: NDArray[np.int64], gold: NDArray[np.float64]) -> tuple[Floor, ...]:
    import numpy as np

    places = np.arange(gold.shape[1])
    uniform = np.where(places < sizes[:, None], 1 / sizes[:, None], 0.0)
    one_hot = (places == gold.argmax(axis=1)[:, None]).astype(np.float64)
    return (
        Floor(UNIFORM, FLOORS[UNIFORM], False, alignment_table(gold, uniform)),
        Floor(MODE, FLOORS[MODE], True, alignment_table(gold, one_hot)),
    )


def _value(row: Mapping[str, float] | None, metric: str) -> float:
    return float("nan") if row is None else float(row[metric])
