"""What a method predicts for an item, and the row it becomes: one schema, for the writer and every reader.

`rows.jsonl` holds a run's rows in the order in which they came. `PredictionsDigest` names what they say,
whatever their order.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypedDict, TypeGuard

from cultural_palette.artifacts import ROWS, RunFolder
from cultural_palette.distributions import TOLERANCE, Distribution
from cultural_palette.errors import ArtifactError
from cultural_palette.evaluation.surveys import SurveyItem

OK_STATUS, UNREADABLE_STATUS, FAILED_STATUS = STATUSES = ("ok", "unreadable", "failed")
BY_THE_CLOCK = ("seconds", "calls")
"""Fields of a row that differ between two runs of the same predictions."""


class Stages(TypedDict):
    """What a graph wrote on its way: drafts by community (None: failed), and the regulated account."""

    drafts: dict[str, str | None]
    regulated: str | None


class Row(TypedDict):
    """One method's prediction of one item in one run. `orders`: orders of the options it is the mean over;
    `order_spread`: the largest standard deviation of an option's probability over them (0..0.5).
    """

    method: str
    run: int
    item: str
    question_id: str
    battery: str
    survey: str
    country: str
    question: str
    options: list[str]
    ordered: bool | None
    topic: str | None
    population: dict[str, Any] | None
    respondents: float | None
    labelled: bool | None
    gold: list[float]
    status: str
    error: str | None
    predicted: list[float] | None
    answer: str | None
    option_mass: float | None
    readout: str
    orders: int
    order_spread: float | None
    blend: dict[str, float] | None
    stages: Stages | None
    degraded: list[str]
    usage: dict[str, Any]
    seconds: float
    calls: dict[str, dict[str, int]]


_NOTHING, _TEXT, _NUMBER = type(None), (str,), (int, float)
_KINDS: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(("method", "item", "question_id", "battery", "survey", "country", "question"), _TEXT),
    **dict.fromkeys(("status", "readout"), _TEXT),
    **dict.fromkeys(("run", "orders"), (int,)),
    **dict.fromkeys(("options", "gold", "degraded"), (list,)),
    **dict.fromkeys(("error", "answer", "topic"), (str, _NOTHING)),
    **dict.fromkeys(("option_mass", "order_spread", "respondents"), (*_NUMBER, _NOTHING)),
    **dict.fromkeys(("blend", "stages", "population"), (dict, _NOTHING)),
    **dict.fromkeys(("usage", "calls"), (dict,)),
    **dict.fromkeys(("ordered", "labelled"), (bool, _NOTHING)),
    "predicted": (list, _NOTHING),
    "seconds": _NUMBER,
}


LATER = ("topic", "respondents", "population", "labelled")
"""Fields that rows of earlier versions lack."""


@dataclass(frozen=True)
class Prediction:
    """A method's prediction of an item. `distribution`: over the options in the item's order; None when the
    reply could not be read. `readout`: how it was read ("exact", "top_logprobs", "sampling", "none").
    `drafts`: community (or sample) -> text, None for one that failed. `blend`: community -> weight (0..1).
    `orders`, `order_spread`: as in `Row`.
    """

    distribution: Distribution | None
    answer: str | None = None
    option_mass: float | None = None
    readout: str = "none"
    orders: int = 1
    order_spread: float | None = None
    blend: Mapping[str, float] | None = None
    drafts: Mapping[str, str | None] = field(default_factory=dict)
    regulated: str | None = None
    degraded: tuple[str, ...] = ()
    usage: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of_graph(cls, result: Mapping[str, Any], item: SurveyItem) -> Prediction:
        """What a graph of `graph.build` ended with."""
        shares: Mapping[str, float] | None = result.get("distribution")
        drafts = result.get("drafts") or {}
        readout = result.get("readout") or {}
        orders = readout.get("permutations") or {}
        return cls(
            distribution=Distribution(tuple(shares[o] for o in item.text_and_options[1])) if shares else None,
            answer=result.get("answer"),
            option_mass=result.get("option_mass"),
            readout=readout.get("method", "none"),
            orders=orders.get("orders", 1),
            order_spread=max(orders["spread"].values()) if orders.get("spread") else None,
            blend=result.get("blend"),
            drafts={key: draft and draft["text"] for key, draft in drafts.items()},
            regulated=result.get("regulated"),
            degraded=tuple(result.get("degraded") or ()),
            usage={key: (result.get("usage") or {}).get(key, 0) for key in ("input_tokens", "output_tokens")},
        )


def row_of(
    method: str,
    run: int,
    item: SurveyItem,
    prediction: Prediction | None,
    *,
    error: str | None = None,
    seconds: float = 0.0,
    calls: Mapping[str, dict[str, int]] | None = None,
) -> Row:
    """The row of a prediction; of `error` alone when the method failed. Only "ok" rows are ever scored."""
    made = prediction or Prediction(None)
    status = FAILED_STATUS if prediction is None else OK_STATUS if made.distribution else UNREADABLE_STATUS
    staged = bool(made.drafts) or made.regulated is not None
    return {
        "method": method,
        "run": run,
        "item": item.id,
        "question_id": item.question.id,
        "battery": item.question.battery,
        "survey": item.question.survey,
        "country": item.country,
        "question": item.question.text,
        "options": list(item.question.options),
        "ordered": item.question.ordered,
        "topic": item.question.topic,
        "population": item.population.as_dict() or None,
        "respondents": item.respondents,
        "labelled": item.labelled or None,
        "gold": list(item.gold.probabilities),
        "status": status,
        "error": error,
        "predicted": list(made.distribution.probabilities) if made.distribution else None,
        "answer": made.answer,
        "option_mass": made.option_mass,
        "readout": made.readout,
        "orders": made.orders,
        "order_spread": made.order_spread,
        "blend": dict(made.blend) if made.blend else None,
        "stages": {"drafts": dict(made.drafts), "regulated": made.regulated} if staged else None,
        "degraded": list(made.degraded),
        "usage": dict(made.usage),
        "seconds": round(seconds, 3),
        "calls": dict(calls or {}),
    }


def rows_of(folder: RunFolder) -> Iterator[Row]:
    """A run's rows in the order in which they came. Raises ArtifactError for one that can not be right."""
    for number, row in enumerate(folder.rows(), 1):
        if not _is_row(row):
            where = f"{folder.path / ROWS}:{number}"
            raise ArtifactError(f"{where}: {fault_of(row)}. Mend that line, or run the evaluation again.")
        yield row


def _is_row(row: Mapping[str, Any]) -> TypeGuard[Row]:
    return fault_of(row) is None


def key_of(row: Mapping[str, Any]) -> tuple[str, int, str]:
    """What a row is about: method, run, item."""
    return row["method"], row["run"], row["item"]


def fault_of(row: Mapping[str, Any]) -> str | None:
    """Why something read from a file can not be a `Row`; None when it is one."""
    for name, kinds in _KINDS.items():
        if name not in row and name not in LATER:
            return f"{name} is missing"
        value = row.get(name)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            return f"{name} is {_short(value)}, expected {kinds[0].__name__}"
    if row["status"] not in STATUSES:
        return f"status {row['status']!r}, expected one of {', '.join(STATUSES)}"
    of_everyone = f"{row['question_id']}/{row['country']}"
    if row["item"].partition("~")[0] != of_everyone or ("~" in row["item"]) != bool(row.get("population")):
        return f"item {row['item']!r} is not {of_everyone}"
    options = row["options"]
    if not options or not all(isinstance(option, str) for option in options):
        return f"options are {_short(options)}, expected texts"
    if fault := _fault_of_shares("gold", row["gold"], len(options)):
        return fault
    return _fault_of_shares("predicted", row["predicted"], len(options)) if row["status"] == "ok" else None


def _fault_of_shares(name: str, values: Any, size: int) -> str | None:
    if not isinstance(values, list) or len(values) != size:
        return f"{name} is {_short(values)}, expected {size} numbers, one an option"
    for value in values:
        if not isinstance(value, _NUMBER) or not -TOLERANCE <= value <= 1 + TOLERANCE:
            return f"{name} has {_short(value)}, expected numbers from 0 to 1"
    if abs(math.fsum(values) - 1) > TOLERANCE:
        return f"{name} sums to {math.fsum(values):.6g}, expected 1"
    return None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


class PredictionsDigest:
    """Names the predictions of a run: a SHA-256 of its rows without what the clock says, by method, run and
    item. An interrupted run that went on has the same as one that was never disturbed.
    """

    def __init__(self) -> None:
        self._rows: dict[tuple[str, int, str], bytes] = {}

    def take(self, row: Mapping[str, Any]) -> None:
        """Add a row."""
        shown = {name: value for name, value in row.items() if name not in BY_THE_CLOCK}
        text = json.dumps(shown, ensure_ascii=True, allow_nan=False, sort_keys=True)
        self._rows[key_of(row)] = hashlib.sha256(text.encode()).digest()

    def hexdigest(self) -> str:
        """Of the rows so far."""
        return hashlib.sha256(b"".join(self._rows[key] for key in sorted(self._rows))).hexdigest()
