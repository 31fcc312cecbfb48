"""The measurements that `palette dataset measure` makes: read, compute, write the files beside the data."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cultural_palette.artifacts import write_whole
from cultural_palette.cultural_map import CulturalMap
from cultural_palette.errors import UsageError
from cultural_palette.safe_text import guarded_cell, visible
from cultural_palette.training.pentachromatic.separation import leakage as leaks
from cultural_palette.training.pentachromatic.separation.surveys import read_survey
from cultural_palette.training.pentachromatic.separation.texts import (
    Answers,
    TextSet,
    labelled,
    without_names,
)
from cultural_palette.training.pentachromatic.separation.vectors import Progress, encode_all

FIGURES = "figures"
NUMBER = re.compile(r"-?\d+(\.\d+)?")


@dataclass(frozen=True)
class Places:
    """Where results go: JSON in `out`, figures in `out`/figures. `cache`: vectors that models computed."""

    out: Path
    cache: Path

    def figure(self, name: str) -> Path:
        """A file among the figures."""
        return self.out / FIGURES / name


def measure_separation(
    answers: Answers,
    second: TextSet | None,
    cultural_map: CulturalMap,
    places: Places,
    *,
    model: str,
    name: str = "ours",
    hide_names: bool = False,
    seed: int = 0,
    progress: Progress = lambda done, total: None,
) -> dict[str, Any]:
    """Figure 3 and its numbers: `separation.json`, `figures/separation.{png,svg}` and its points as CSV.

    `hide_names`: of countries and communities, before texts are embedded.
    """
    from cultural_palette.training.pentachromatic.separation.embeddings import SentenceEncoder
    from cultural_palette.training.pentachromatic.separation.figures import figure_3
    from cultural_palette.training.pentachromatic.separation.separation import report, separation

    sets = [labelled(answers, cultural_map, name), *([second] if second else [])]
    if len({text_set.name for text_set in sets}) < len(sets):
        raise UsageError(
            f"Both sets are called {name!r}: give one another name with --name or --beside-name."
        )
    if hide_names:
        sets = [without_names(text_set, cultural_map) for text_set in sets]
    encoder = SentenceEncoder(model)
    keys = [community.key for community in cultural_map.communities]
    separations, rows = [], []
    for text_set in sets:
        encoded = encode_all([text.text for text in text_set.texts], encoder, places.cache, progress)
        separations.append(
            separation(text_set.name, text_set.texts, encoded.vectors, communities=keys, seed=seed)
        )
        limit = encoder.limit
        rows.append(
            report(separations[-1])
            | {
                "sha256": text_set.sha256,
                "counts": dict(text_set.counts),
                "token_limit": limit,
                "different_texts": len({text.text for text in text_set.texts}),
                "texts_cut": int((encoded.tokens > limit).sum()) if limit else 0,
            }
        )
    files = figure_3(
        separations,
        [[text.label for text in text_set.texts] for text_set in sets],
        cultural_map,
        _short(model) + (", names of places hidden," if hide_names else ""),
        places.figure("separation"),
        seed=seed,
    )
    points = places.figure("separation_points.csv")
    _csv(points, ("set", "view", "id", "community", "x", "y"), _points(sets, separations))
    ours, probe = separations[0].as_is, separations[0].as_is.probe
    result: dict[str, Any] = {
        "model": _short(model),
        "map": cultural_map.key,
        "names_hidden": hide_names,
        "texts": len(ours.texts),
        "silhouette_cosine": ours.silhouette_cosine.value,
        "probe_balanced_accuracy": probe.balanced_accuracy.value if probe else None,
        "probe_chance": probe.balanced_chance if probe else None,
    }
    if (centred := separations[0].query_centred) is not None:
        result["silhouette_cosine_query_centred"] = centred.silhouette_cosine.value
        result["probe_balanced_accuracy_query_centred"] = (
            centred.probe.balanced_accuracy.value if centred.probe else None
        )
    result |= {
        "model_identity": encoder.identity,
        "seed": seed,
        "sets": rows,
        "files": [file.relative_to(places.out).as_posix() for file in (*files, points)],
    }
    _json(places.out / "separation.json", result)
    return result


def measure_topics(
    answers: Answers,
    cultural_map: CulturalMap,
    places: Places,
    *,
    model: str | None,
    threshold: float,
    progress: Progress = lambda done, total: None,
) -> dict[str, Any]:
    """Figure 8 and its counts: `topics.json`, `figures/topics.{png,svg}`, each query's topic as CSV.

    `model` None: where the queries' writers were born, only.
    """
    from cultural_palette.training.pentachromatic.separation.figures import figure_8
    from cultural_palette.training.pentachromatic.separation.topics import (
        ADVISED_WORDS,
        homes_of,
        topics_of,
    )

    queries = list(answers.queries().values())
    homes = homes_of(queries, cultural_map)
    result: dict[str, Any] = {"queries": len(queries), "map": cultural_map.key, "sha256": answers.sha256}
    topics, files = None, []
    caption = f"n = {len(queries):,} queries"
    if model is not None:
        from cultural_palette.training.pentachromatic.separation.topic_classifier import TopicClassifier

        classifier = TopicClassifier(model)
        texts = [answer.query for answer in queries]
        encoded = encode_all(texts, classifier, places.cache, progress)
        topics = topics_of(texts, encoded.vectors, classifier.topics, threshold)
        caption += (
            f"; {sum(topics.confident.values()):,} labelled with confidence {threshold:g} or more; "
            f"{topics.short:,} shorter than the {ADVISED_WORDS} words that the classifier is meant for.\n"
            f"Topics by {_short(model)}."
        )
        files.append(places.figure("topics.csv"))
        best = encoded.vectors.argmax(1)
        _csv(
            files[-1],
            ("query_id", "topic", "confidence"),
            (
                (answer.query_id, classifier.topics[index], f"{row[index]:.4f}")
                for answer, index, row in zip(queries, best, encoded.vectors, strict=True)
            ),
        )
        result |= {
            "model": _short(model),
            "model_identity": classifier.identity,
            "threshold": threshold,
            "confident": sum(topics.confident.values()),
            "uncertain": sum(topics.uncertain.values()),
            "short": topics.short,
            "topics": {
                name: {"confident": topics.confident[name], "uncertain": topics.uncertain[name]}
                for name in topics.topics
            },
        }
    files += figure_8(topics, homes, cultural_map, caption, places.figure("topics"))
    result |= {"born": homes, "files": [file.relative_to(places.out).as_posix() for file in files]}
    _json(places.out / "topics.json", result)
    return result


def measure_leakage(
    answers: Answers,
    surveys: Sequence[Path],
    out: Path,
    *,
    thresholds: leaks.Thresholds,
    column: str | None = None,
    exclusions: Path | None = None,
) -> dict[str, Any]:
    """The gate: `leakage.json`, every pair in `leakage_pairs.jsonl`, queries to leave out in `exclusions`."""
    read = [read_survey(path, column) for path in surveys]
    if len({survey.name for survey in read}) < len(read):
        raise UsageError(
            "Two surveys' files have the same name: rename one, so that the report can name them."
        )
    leakage = leaks.leakage(leaks.training_texts(answers), read, thresholds)
    result = leaks.report(leakage, {"file": answers.file.name, "sha256": answers.sha256})
    _jsonl(out / "leakage_pairs.jsonl", (pair.row() for pair in leakage.pairs))
    if exclusions is not None:
        _jsonl(exclusions, leaks.exclusions(leakage))
    _json(out / "leakage.json", result)
    return result


def _points(sets: Sequence[TextSet], separations: Sequence[Any]) -> Iterable[tuple[Any, ...]]:
    for text_set, figures in zip(sets, separations, strict=True):
        for name, view in (("as_is", figures.as_is), ("query_centred", figures.query_centred)):
            if view is not None:
                for index, (x, y) in zip(view.texts, view.points, strict=True):
                    text = text_set.texts[index]
                    yield text_set.name, name, text.id, text.label, f"{x:.5f}", f"{y:.5f}"


def _short(model: str) -> str:
    """A hub name as it is, a folder by its own name: results name no machine's paths."""
    path = Path(model)
    return path.resolve().name if path.is_dir() else model


def _csv(file: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Words and numbers; no word is a formula."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    for row in rows:
        writer.writerow([cell if NUMBER.fullmatch(cell) else guarded_cell(visible(cell)) for cell in row])
    write_whole(file, text.getvalue().encode("utf-8", "replace"))


def _json(file: Path, value: Mapping[str, Any]) -> None:
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=2) + "\n"
    write_whole(file, text.encode("utf-8", "replace"))


def _jsonl(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    lines = (json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    write_whole(file, "".join(lines).encode("utf-8", "replace"))
