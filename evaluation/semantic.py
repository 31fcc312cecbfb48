"""The semantic task: held-out queries of the dataset, each method's answer against the community's gold
answer.

Figure 4 of the paper. A long gold answer entails more than a short one, whatever it says, so a score means
something only beside what wrong answers get: `floors.json` holds, for every gold answer, the score of another
community's gold answer to the same query and of the community's own to another query, each cut to the gold
answer's length, and the gold answer's score against itself, the most that can be had. A method's gain over
the floors is free of the gold answer's length. Every answer is also held against the other communities' gold
answers to its query: what is left of its score is what it says of its own community.

Every method answers the same prompt, which tells it the community, but for "vanilla", which is asked the bare
query; they differ in the model that answers: the base model ("prompting"), one trained on all communities
("joint"), a merge, the community's own agent, or, as a control, the next community's. All draw alike.
Queries are what is resampled for intervals: one query is asked for every community.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, Protocol

from typing_extensions import TypedDict

from cultural_palette.artifacts import ROWS, RunFolder, write_whole
from cultural_palette.calls import CallStore, use_calls
from cultural_palette.cultural_map import CulturalMap
from cultural_palette.errors import ModelError, UsageError
from cultural_palette.evaluation.statistics import grouped_intervals
from cultural_palette.jsonl import read_rows, refuse
from cultural_palette.models import ModelRef, Sampling, ask, close_clients, replies_together
from cultural_palette.place_names import hide_names
from cultural_palette.prompts import render, template_of
from cultural_palette.provenance import file_sha256, installed_versions, short_sha256
from cultural_palette.shapes import of_shape

KIND = "semantic-evaluation"
UNCHECKED = ("dataset", "models", "nli")
"""What a config tells by name, and holds by content under another key."""
OWN_AGENT, OTHER_AGENT = "own-draft", "other-draft"
METHODS = (
    "vanilla",
    *("prompting", "joint", "ties", "model_stock", "moerges"),  # Figure 4's, in its order
    *(OWN_AGENT, OTHER_AGENT),
)
HIDDEN = "that place"  # stands for a hidden name
TOGETHER = 32  # answers asked at once, then scored at once: what a kill can cost
PROMPT, BARE = "semantic/answer", "semantic/bare"
ANSWERS = "answers.jsonl"
ITEMS_FILE = "items.txt"
FLOORS_FILE = "floors.json"
FLOORS = {
    "other-community": "another community's gold answer",
    "other-query": "its gold answer to another query",
}
REFERENCES = {"itself": "the gold answer itself"}
Floors = dict[str, dict[str, float]]
PACKAGES = ("cultural-palette", "langchain-openai", "torch", "transformers")


class Scorer(Protocol):
    """What scores answers, 0..100: `evaluation.nli.Entailment`, or a test's own."""

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """One score for each (gold answer, model's answer)."""

    def as_manifest(self) -> dict[str, Any]:
        """What it is, for the manifest."""


@dataclass(frozen=True)
class NamesHidden:
    """A scorer that sees no name of a country or community in either text: what is left is not that an answer
    names the right places.
    """

    scorer: Scorer
    cultural_map: CulturalMap

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """The scorer's own, of the texts without names."""
        hidden = [(self._without(gold), self._without(answer)) for gold, answer in pairs]
        return self.scorer.score(hidden)

    def _without(self, text: str) -> str:
        return hide_names(text, self.cultural_map, HIDDEN)

    def as_manifest(self) -> dict[str, Any]:
        """The scorer's own, and that names are hidden."""
        return {**self.scorer.as_manifest(), "names_hidden": HIDDEN}


@dataclass(frozen=True)
class GoldAnswer:
    """One held-out query with the answer that a community's dataset holds for it."""

    query_id: str
    query: str
    community: str
    text: str

    def __post_init__(self) -> None:
        for name in ("query_id", "query", "community", "text"):
            if not getattr(self, name).strip():
                raise ValueError(f"a gold answer needs a {name}")

    @property
    def id(self) -> str:
        """`QUERY/COMMUNITY`."""
        return f"{self.query_id}/{self.community}"


@dataclass(frozen=True)
class GoldAnswers:
    """The held-out answers of a dataset. `counts`: rows read, and left out by reason."""

    name: str
    sha256: str
    answers: tuple[GoldAnswer, ...]
    counts: Mapping[str, int]


@dataclass(frozen=True)
class SemanticPlan:
    """What is run: gold answers, a model for each method (one for each community where they differ), and how
    answers are drawn. `together`: replies of an embedded palette share batches (`models.replies_together`).
    """

    gold: GoldAnswers
    cultural_map: CulturalMap
    models: Mapping[str, ModelRef | Mapping[str, ModelRef]]
    sampling: Sampling
    together: bool = False

    def model_of(self, method: str, community: str) -> ModelRef:
        """Who answers for a community."""
        model = self.models[method]
        return model if isinstance(model, ModelRef) else model[community]

    def each_model(self, tell: Callable[[ModelRef], str]) -> dict[str, str]:
        """What `tell` says of each method's model; "africa=..., america=..." where they differ."""
        return {
            method: tell(model)
            if isinstance(model, ModelRef)
            else ", ".join(f"{community}={tell(ref)}" for community, ref in model.items())
            for method, model in self.models.items()
        }

    def config(self) -> dict[str, Any]:
        """Everything that shapes an answer; a folder goes on, and is taken as finished, with the same only,
        but for `UNCHECKED`.
        """
        return {
            "kind": KIND,
            "dataset": {"name": self.gold.name, "sha256": self.gold.sha256, "items": len(self.gold.answers)},
            "dataset_sha256": self.gold.sha256,
            "answers": short_sha256(json.dumps([answer.id for answer in self.gold.answers])),
            "map": self.cultural_map.key,
            "map_sha256": self.cultural_map.sha256,
            "weights": self.each_model(lambda ref: ref.content),
            "models": self.each_model(str),
            "sampling": self.sampling.as_request(),
            "prompt": short_sha256("\n".join(map(template_of, sorted({*map(prompt_of, self.models)})))),
            **({"together": True} if self.together else {}),
        }


def prompt_of(method: str) -> str:
    """What a method is asked."""
    return BARE if method == "vanilla" else PROMPT


def load_gold(
    path: Path, cultural_map: CulturalMap, queries: int | None = None, items: Sequence[str] | None = None
) -> GoldAnswers:
    """The held-out answers of a dataset folder (or its `answers.jsonl`), or of JSONL {query, community,
    response}.

    Rows with a "split" count when it is "test", those with a "status" when it is "ok". `queries`: the first
    so many; `items`: these alone, by id. Communities that the map lacks are counted and left out. Raises
    UsageError when nothing is left, or one of `items` is not there.
    """
    file = path / ANSWERS if path.is_dir() else path
    if not file.is_file():
        raise UsageError(f"No {file}: give a dataset folder, its {ANSWERS}, or JSONL of your own.")
    counts = Counter[str]()
    gold: dict[str, GoldAnswer] = {}
    keys = {community.key for community in cultural_map.communities}
    for row, place in read_rows(file, refuse(UsageError, ". Mend that line, or take it out.")):
        counts["rows"] += 1
        answer = _gold(row, place)
        if isinstance(answer, str):
            counts[answer] += 1
        elif answer.community not in keys:
            counts["other community"] += 1
        elif answer.id in gold:
            counts["twice"] += 1
        else:
            gold[answer.id] = answer
    if lacking := [key for key in items or () if key not in gold]:
        raise UsageError(
            f"{file} has no held-out answer {lacking[0]!r} ({len(lacking)} of {len(items or ())} items are "
            "not there). Was the list made of this dataset?"
        )
    chosen = [gold[key] for key in items] if items else [*gold.values()]
    wanted = set(islice(dict.fromkeys(answer.query_id for answer in chosen), queries))
    answers = tuple(answer for answer in chosen if answer.query_id in wanted)
    if not answers:
        reasons = ", ".join(f"{count} {reason}" for reason, count in counts.items())
        raise UsageError(
            f"{file} has no held-out answer ({reasons or 'it is empty'}). "
            f"Communities: {', '.join(sorted(keys))}."
        )
    counts["answers"] = len(answers)
    return GoldAnswers(path.resolve().name, file_sha256(file), answers, dict(counts))


def _gold(row: Mapping[str, Any], where: str) -> GoldAnswer | str:
    """The answer of a row; or why the row is left out."""
    if row.get("split", "test") != "test":
        return "not held out"
    if row.get("status", "ok") != "ok" or not row.get("response"):
        return "without an answer"
    query = row.get("query")
    if not isinstance(query, str) or not isinstance(row.get("community"), str):
        raise UsageError(f"{where}: expected query, community and response.")
    key = row.get("query_id") or short_sha256(query.strip(), 12)
    try:
        return GoldAnswer(str(key), query, row["community"], str(row["response"]))
    except ValueError:
        return "empty"


async def evaluate_semantic(
    plan: SemanticPlan, scorer: Scorer, out: str | Path, tell: Any = None, calls: Path | None = None
) -> dict[str, Any]:
    """Run the plan into the folder `out`, and return its manifest. What is there already is not asked again.

    Rows: {"method", "item", "query_id", "community", "query", "gold", "status" ("ok", "failed"), "error",
    "answer", "s_semantic" (0..100, None when failed), "s_elsewhere" (mean S_semantic of the same answer under
    the other communities' gold answers to the query; None where there is none), "usage", "seconds"}. `tell`:
    called with (done, all). `calls`: a folder of kept calls, for other runs to share.
    """
    metric = scorer.as_manifest()
    content = {key: metric[key] for key in metric if key != "model" or not metric.get("revision")}
    folder = RunFolder(out, {**plan.config(), "nli": metric, "metric": content}, UNCHECKED)
    if folder.finished:
        return folder.same_manifest()
    run = short_sha256(str(folder.path.resolve())) if calls else ""  # its own store moves with the folder
    with folder, CallStore(calls or folder.path / "calls", run=run) as store:
        write_whole(folder.path / ITEMS_FILE, items_text(plan.gold))
        done = {(row["method"], row["item"]) for row in _rows_of(folder)}
        jobs = list(_jobs(plan, done))
        try:
            for start in range(0, len(jobs), TOGETHER):
                some = jobs[start : start + TOGETHER]
                with use_calls(store), replies_together(plan.together):
                    rows = await asyncio.gather(*(_answered(plan, method, gold) for method, gold in some))
                answered = [row for row in rows if row["answer"] is not None]
                await asyncio.to_thread(_score, answered, plan.gold, scorer)
                for row in rows:
                    folder.append(row)
                if tell is not None:
                    tell(len(done) + start + len(some), len(done) + len(jobs))
        finally:
            await close_clients()
        floors = await asyncio.to_thread(_score_floors, plan.gold, scorer)
        text = json.dumps(floors, ensure_ascii=False, allow_nan=False, indent=2)
        write_whole(folder.path / FLOORS_FILE, text + "\n")
        rows = list(_rows_of(folder))
        asked = store.calls_made().total()  # of every sitting; each row needs one
        counts = {"needed": len(rows), "asked": asked, "saved": len(rows) - asked}
        manifest = _manifest(plan, scorer, rows, floors, counts)
        folder.finish(manifest)
    return manifest


def items_text(gold: GoldAnswers) -> str:
    """The items, an id a line, as `--items` reads them again."""
    head = f"# {gold.name}, file {gold.sha256[:16]}: {len(gold.answers):,} held-out answers"
    return "\n".join([head, *(answer.id for answer in gold.answers)]) + "\n"


def _jobs(plan: SemanticPlan, done: Collection[tuple[str, str]]) -> Iterator[tuple[str, GoldAnswer]]:
    """What is still to be answered: of some gold answers all methods, one after the other, so that replies of
    one model share batches and a run that is cut off has answered the same by every method.
    """
    answers = plan.gold.answers
    for start in range(0, len(answers), TOGETHER):
        for method in plan.models:
            for answer in answers[start : start + TOGETHER]:
                if (method, answer.id) not in done:
                    yield method, answer


def _score(rows: Sequence[dict[str, Any]], gold: GoldAnswers, scorer: Scorer) -> None:
    """Fill in "s_semantic" and "s_elsewhere" of rows with an answer."""
    by_query: defaultdict[str, list[GoldAnswer]] = defaultdict(list)
    for answer in gold.answers:
        by_query[answer.query_id].append(answer)
    pairs: dict[tuple[str, str], float] = {}
    elsewhere: list[list[tuple[str, str]]] = []
    for row in rows:
        others = [answer for answer in by_query[row["query_id"]] if answer.community != row["community"]]
        elsewhere.append([(other.text, row["answer"]) for other in others])
        pairs[row["gold"], row["answer"]] = 0.0
        pairs.update((pair, 0.0) for pair in elsewhere[-1])
    pairs = dict(zip(pairs, scorer.score(list(pairs)), strict=True))
    for row, away in zip(rows, elsewhere, strict=True):
        row["s_semantic"] = pairs[row["gold"], row["answer"]]
        row["s_elsewhere"] = fmean(pairs[pair] for pair in away) if away else None


class _StoredRow(TypedDict):
    """What a run that goes on reads of the rows that are there."""

    method: str
    item: str
    query_id: str
    community: str
    query: str
    gold: str
    status: Literal["ok", "failed"]
    s_semantic: float | None


def _rows_of(folder: RunFolder) -> Iterator[dict[str, Any]]:
    """A run's rows; ArtifactError for one that can not be right."""
    for number, row in enumerate(folder.rows(), 1):
        of_shape(row, _StoredRow, f"{folder.path / ROWS}:{number}", "Mend that line, or take it out.")
        yield row


def floor_pairs(gold: GoldAnswers) -> Iterator[tuple[str, GoldAnswer, str]]:
    """(floor, gold answer, a wrong answer to hold against it), where there is one: for each gold answer the
    next community's to the same query, and its own community's to the next query; cut to its length.
    """
    by_query: defaultdict[str, list[GoldAnswer]] = defaultdict(list)
    by_community: defaultdict[str, list[GoldAnswer]] = defaultdict(list)
    for answer in gold.answers:
        by_query[answer.query_id].append(answer)
        by_community[answer.community].append(answer)
    for answer in gold.answers:
        groups = (by_query[answer.query_id], by_community[answer.community])
        for floor, group in zip(FLOORS, groups, strict=True):
            if len(group) > 1:
                other = group[(group.index(answer) + 1) % len(group)]
                yield floor, answer, " ".join(other.text.split()[: len(answer.text.split())])


def _score_floors(gold: GoldAnswers, scorer: Scorer) -> Floors:
    """Floor, and reference, -> item -> S_semantic, 0..100."""
    floors: Floors = {name: {} for name in (*FLOORS, *REFERENCES)}
    pairs = [*floor_pairs(gold), *(("itself", answer, answer.text) for answer in gold.answers)]
    for start in range(0, len(pairs), TOGETHER):
        some = pairs[start : start + TOGETHER]
        scores = scorer.score([(answer.text, wrong) for _, answer, wrong in some])
        for (floor, answer, _), value in zip(some, scores, strict=True):
            floors[floor][answer.id] = value
    return floors


async def _answered(plan: SemanticPlan, method: str, gold: GoldAnswer) -> dict[str, Any]:
    """One method's row for one query and community, unscored. A model that fails is a row that says why."""
    community = plan.cultural_map.community(gold.community)
    row: dict[str, Any] = {
        "method": method, "item": gold.id, "query_id": gold.query_id, "community": gold.community,
        "query": gold.query, "gold": gold.text, "status": "ok", "error": None, "answer": None,
        "s_semantic": None, "s_elsewhere": None, "usage": None, "seconds": 0.0,
    }  # fmt: skip
    prompt = prompt_of(method)
    named = {} if prompt == BARE else {"community": community.name}
    messages = render(prompt, **named, question=gold.query)
    model = plan.model_of(method, gold.community)
    try:
        reply = await ask(model, plan.sampling, messages, timeout_s=model.runs_on.patience_s)
    except ModelError as error:
        return row | {"status": "failed", "error": str(error)}
    return row | {"answer": reply.text, "usage": reply.usage, "seconds": round(reply.seconds, 3)}


def _manifest(
    plan: SemanticPlan,
    scorer: Scorer,
    rows: Sequence[Mapping[str, Any]],
    floors: Floors,
    calls: Mapping[str, int],
) -> dict[str, Any]:
    outcomes = {method: Counter({"ok": 0, "failed": 0}) for method in plan.models}
    for row in rows:
        outcomes[row["method"]][row["status"]] += 1
    return {
        **plan.config(),
        "counts": dict(plan.gold.counts),
        "nli": scorer.as_manifest(),
        "methods": list(plan.models),
        "communities": [
            {"key": community.key, "name": community.name, "colour": community.colour}
            for community in plan.cultural_map.communities
        ],
        "items": len(plan.gold.answers),
        "calls": dict(calls),
        "outcomes": {method: dict(counts) for method, counts in outcomes.items()},
        "scores": {method: dict(_scores(rows, method)) for method in plan.models},
        "floors": {
            name: dict(_averages((answer, floors[name].get(answer.id)) for answer in plan.gold.answers))
            for name in (*FLOORS, *REFERENCES)
        },
        "versions": installed_versions(PACKAGES),
    }


def _scores(rows: Sequence[Mapping[str, Any]], method: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each community's mean S_semantic with its interval over queries; then "all", their mean."""
    own = [row for row in rows if row["method"] == method]
    yield from _averages(
        (GoldAnswer(row["query_id"], row["query"], row["community"], row["gold"]), row["s_semantic"])
        for row in own
    )


def _averages(
    scored: Iterable[tuple[GoldAnswer, float | None]],
) -> Iterator[tuple[str, dict[str, Any]]]:
    there = [(gold, value) for gold, value in scored if value is not None]
    if not there:
        return
    whole, by_community = grouped_intervals(
        [value for _, value in there],
        [gold.query_id for gold, _ in there],
        [gold.community for gold, _ in there],
    )
    for name, interval in (*by_community.items(), ("all", whole)):
        yield name, {
            "mean": interval.mean, "low": interval.low, "high": interval.high,
            "n": interval.n, "clusters": interval.clusters,
        }  # fmt: skip
