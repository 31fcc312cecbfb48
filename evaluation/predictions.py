"""What a method says of an item, the row it becomes, and the file in which a finished run holds all rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cultural_palette.artifacts import ROWS, whole_file
from cultural_palette.distributions import Distribution
from cultural_palette.evaluation.surveys import SurveyItem
from cultural_palette.jsonl import parse_object

PREDICTIONS = "predictions.jsonl"
BY_THE_CLOCK = ("seconds", "calls")
"""Fields of a row that differ between two runs of the same predictions."""
Row = dict[str, Any]


@dataclass(frozen=True)
class Prediction:
    """A method's word on an item. `distribution`: over the options in the item's order; None when the reply
    could not be read. `readout`: how it was read ("exact", "top_logprobs", "sampling", "none"). `drafts`:
    community (or sample) -> text, None for one that failed. `blend`: community -> weight (0..1).
    """

    distribution: Distribution | None
    answer: str | None = None
    option_mass: float | None = None
    readout: str = "none"
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
        return cls(
            distribution=Distribution(tuple(shares[o] for o in item.question.options)) if shares else None,
            answer=result.get("answer"),
            option_mass=result.get("option_mass"),
            readout=(result.get("readout") or {}).get("method", "none"),
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
    calls: Mapping[str, Any] | None = None,
) -> Row:
    """The row of a prediction; of `error` alone when the method failed. Only "ok" rows are ever scored."""
    said = prediction or Prediction(None)
    status = "failed" if prediction is None else "ok" if prediction.distribution else "unreadable"
    told = bool(said.drafts) or said.regulated is not None
    return {
        "method": method,
        "run": run,
        "item": item.id,
        "question_id": item.question.id,
        "country": item.country,
        "question": item.question.text,
        "options": list(item.question.options),
        "gold": list(item.gold.probabilities),
        "status": status,
        "error": error,
        "predicted": list(said.distribution.probabilities) if said.distribution else None,
        "answer": said.answer,
        "option_mass": said.option_mass,
        "readout": said.readout,
        "blend": dict(said.blend) if said.blend else None,
        "stages": {"drafts": dict(said.drafts), "regulated": said.regulated} if told else None,
        "degraded": list(said.degraded),
        "usage": dict(said.usage),
        "seconds": round(seconds, 3),
        "calls": dict(calls or {}),
    }


def key_of(row: Mapping[str, Any]) -> tuple[str, int, str]:
    """What a row is about: method, run, item."""
    return row["method"], row["run"], row["item"]


def write_predictions(
    folder: Path, methods: Sequence[str], items: Sequence[SurveyItem], count: Callable[[Row], None]
) -> str:
    """Write the folder's rows by method, run and item, without what the clock says; return its SHA-256.
    `count` is shown each row.

    An interrupted run that went on writes the same bytes as one that was never disturbed. Rows are read
    twice, and never all held.
    """
    places = {name: place for place, name in enumerate(methods)}
    numbers = {item.id: number for number, item in enumerate(items)}
    digest = hashlib.sha256()
    with (folder / ROWS).open("rb") as journal, whole_file(folder / PREDICTIONS) as file:
        where: list[tuple[int, int, int, int]] = []
        start = 0
        for line in journal:
            row = parse_object(line, half_pairs=True)
            count(row)
            where.append((places[row["method"]], row["run"], numbers[row["item"]], start))
            start += len(line)
        for *_, start in sorted(where):
            journal.seek(start)
            row = parse_object(journal.readline(), half_pairs=True)
            kept = {key: value for key, value in row.items() if key not in BY_THE_CLOCK}
            data = json.dumps(kept, ensure_ascii=True, allow_nan=False).encode() + b"\n"
            digest.update(data)
            file.write(data)
    return digest.hexdigest()
