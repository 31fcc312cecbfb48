"""The run: every method on every item of a survey, any number of times, into one folder that can be resumed.

`rows.jsonl` holds the predictions, in the order in which they came. When all are there, `floors.json` holds
the floors, and `manifest.json`, last, how it was made, with a hash that names the predictions.
"""

from __future__ import annotations

import asyncio
import json
import platform
import time
from collections import Counter
from pathlib import Path
from typing import Any

from cultural_palette.artifacts import ROWS, RunFolder, write_whole
from cultural_palette.calls import Call, Calls, CallStore, Json, Produce, use_calls
from cultural_palette.errors import ArtifactError, PaletteError, SettingsError
from cultural_palette.evaluation.best_single import best_single_rows
from cultural_palette.evaluation.floors import floors_of
from cultural_palette.evaluation.methods import BEST_SINGLE, Predict, predictor
from cultural_palette.evaluation.plan import UNCHECKED, Plan
from cultural_palette.evaluation.predictions import PredictionsDigest, key_of, row_of, rows_of
from cultural_palette.evaluation.progress import Progress
from cultural_palette.evaluation.surveys import SurveyItem
from cultural_palette.models import close_clients, replies_together
from cultural_palette.prompts import use_wording
from cultural_palette.provenance import installed_versions, short_sha256
from cultural_palette.settings import use_settings

FLOORS = "floors.json"
PACKAGES = (
    "cultural-palette",
    "langgraph",
    "langchain-core",
    "langchain-openai",
    "torch",
    "transformers",
    "peft",
)


class RowCalls:
    """A call store as one row sees it: counts the calls that the row needed, and those that it made."""

    def __init__(self, store: Calls) -> None:
        self.store = store
        self.needed: Counter[str] = Counter()
        self.made: Counter[str] = Counter()

    async def once(self, call: Call, produce: Produce) -> Json:
        """As the store's own."""
        self.needed[call.kind] += 1

        async def counted() -> Json:
            self.made[call.kind] += 1
            return await produce()

        return await self.store.once(call, counted)

    def as_dict(self) -> dict[str, dict[str, int]]:
        """Counts by kind, for the row."""
        return {"needed": dict(self.needed), "asked": dict(self.made)}


async def evaluate(
    plan: Plan,
    out: str | Path,
    *,
    calls: str | Path | None = None,
    concurrency: int = 4,
    retry_failed: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Run the plan into the folder `out` and return its manifest. What is there already is not asked again;
    a finished folder is returned as it is.

    `calls`: the folder of the call store, `out/calls` without one; runs and processes may share it.
    `concurrency`: items under way at once, each with all its methods. `retry_failed`: ask failed rows again.
    Failures are rows, counted and never scored; a fault of the run itself (settings, disk) ends it.
    """
    folder = RunFolder(out, plan.config(), UNCHECKED)
    if folder.finished and not retry_failed:
        return folder.same_manifest()
    with folder:
        if retry_failed:
            _drop_failed(folder)
        done = {key_of(row) for row in rows_of(folder)}
        total = plan.runs * len(plan.survey.items) * len(plan.methods)
        progress = Progress(total, len(done), quiet=quiet)
        started = time.perf_counter()
        run = short_sha256(str(folder.path.resolve())) if calls else ""  # its own store moves with the folder
        with CallStore(calls or folder.path / "calls", run=run) as store:
            try:
                await predict_all(plan, folder, store, done, concurrency, progress)
            finally:
                await close_clients()
            calls_made = store.calls_made()
        derive(plan, folder, done, progress)
        progress.close()
        return finish(plan, folder, time.perf_counter() - started, calls_made)


async def predict_all(
    plan: Plan,
    folder: RunFolder,
    store: Calls,
    done: set[tuple[str, int, str]],
    concurrency: int,
    progress: Progress,
) -> None:
    """Item by item, run by run: the methods of one item ask for the same drafts at the same time."""
    predict = {
        method.name: predictor(method, plan.cultural_map, plan.models_of, plan.survey)
        for method in plan.predicting
    }
    own = {method.name for method in plan.predicting if method.path}
    jobs = (
        (run, item, missing)
        for run in range(plan.runs)
        for item in plan.survey.items
        if (missing := [name for name in predict if (name, run, item.id) not in done])
    )

    async def work() -> None:
        for run, item, missing in jobs:  # one iterator, shared by all workers
            async with asyncio.TaskGroup() as group:
                for name in missing:
                    group.create_task(one(name, run, item))

    async def one(name: str, run: int, item: SurveyItem) -> None:
        counted = RowCalls(store)
        start = time.perf_counter()
        with (
            use_settings(plan.settings_of(run)), use_calls(counted), use_wording(plan.wording),
            replies_together(plan.together),
        ):  # fmt: skip
            prediction, error = await _predicted(predict[name], item, foreign=name in own)
        seconds = time.perf_counter() - start
        row = row_of(name, run, item, prediction, error=error, seconds=seconds, calls=counted.as_dict())
        folder.append(row)
        if error and progress.outcomes["failed"] == 0:
            progress.note(f"First failure: {name} on {item.id}: {error}")
        progress.advance(row["status"])

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(work())
    except BaseExceptionGroup as errors:
        raise _first(errors) from None


async def _predicted(predict: Predict, item: SurveyItem, foreign: bool) -> tuple[Any, str | None]:
    """A prediction, or why there is none. What would fail every row alike is not one row's failure."""
    try:
        return await predict(item), None
    except (ArtifactError, SettingsError):
        raise
    except PaletteError as error:
        return None, str(error)
    except Exception as error:
        if not foreign:
            raise
        return None, f"{type(error).__name__}: {error}"


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def derive(plan: Plan, folder: RunFolder, done: set[tuple[str, int, str]], progress: Progress) -> None:
    """The rows of the method that calls no model."""
    if plan.predicting == plan.methods:
        return
    items = {item.id: item for item in plan.survey.items}
    for run in range(plan.runs):
        if all((BEST_SINGLE, run, item) in done for item in items):
            continue
        for row in best_single_rows(rows_of(folder), items, run):
            if key_of(row) not in done:
                folder.append(row)
                progress.advance(row["status"])


def finish(plan: Plan, folder: RunFolder, seconds: float, stored: Counter[str]) -> dict[str, Any]:
    """Write what is made of all rows, the manifest last, and return it. `seconds`: of this sitting; `stored`:
    calls by kind that the call store knows this run made, those of lost rows too.
    """
    methods = [method.name for method in plan.methods]
    outcomes = {name: Counter({"ok": 0, "unreadable": 0, "failed": 0}) for name in methods}
    needed: Counter[str] = Counter()
    made: Counter[str] = Counter()
    digest = PredictionsDigest()
    for row in rows_of(folder):
        outcomes[row["method"]][row["status"]] += 1
        needed.update(row["calls"].get("needed", {}))
        made.update(row["calls"].get("asked", {}))
        digest.take(row)
    made |= stored  # a call that failed and was made again counts in the rows only
    floors = json.dumps(floors_of(plan.survey), ensure_ascii=False, allow_nan=False, indent=2)
    write_whole(folder.path / FLOORS, floors + "\n")
    kinds = sorted(needed | made)
    manifest = {
        **{key: value for key, value in plan.config().items() if key not in ("survey", "methods")},
        "survey": plan.survey.as_manifest(),
        "methods": methods,
        "sources": {method.name: method.source for method in plan.methods},
        "left_out": dict(plan.left_out),
        "countries": list(plan.survey.countries),
        "seed": plan.settings.seed,
        "items": len(plan.survey.items),
        "calls": {
            "needed": needed.total(),
            "asked": made.total(),
            "saved": needed.total() - made.total(),
            "by_kind": {
                kind: {"needed": needed[kind], "asked": made[kind], "saved": needed[kind] - made[kind]}
                for kind in kinds
            },
        },
        "outcomes": {name: dict(counts) for name, counts in outcomes.items()},
        "predictions_sha256": digest.hexdigest(),
        "seconds": round(seconds, 1),
        "versions": {"python": platform.python_version(), **installed_versions(PACKAGES)},
    }
    folder.finish(manifest)
    return manifest


def _drop_failed(folder: RunFolder) -> None:
    """Take failed rows, and what was derived, out of the journal, and the manifest with them. The folder's
    lock is held.
    """
    rows = [row for row in rows_of(folder) if row["status"] != "failed" and row["method"] != BEST_SINGLE]
    (folder.path / "manifest.json").unlink(missing_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    folder.close()
    write_whole(folder.path / ROWS, text.encode("utf-8", "backslashreplace"))
    folder.open()
