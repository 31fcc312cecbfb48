"""The atlas: what we wrote about how people live, and the questions asked of it.

One YAML file a community (`atlas/africa.yaml`, ...), Hofstede's published scores (`atlas/hofstede.csv`) and
the questions (`questions.yaml`). Everything the nano palette knows comes from here.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from cultural_palette.errors import PaletteError

HERE = Path(__file__).parent
TOPICS = (
    "food",
    "greeting",
    "festival",
    "belief",
    "family",
    "elders",
    "work",
    "time",
    "freedom",
    "equality",
    "death",
)
DIMENSIONS = ("pdi", "idv", "mas", "uai", "lto", "ivr")
PHRASES_A_TOPIC = 2


class AtlasError(PaletteError):
    """The atlas' own text does not keep its form; names file and field."""


@dataclass(frozen=True)
class Place:
    """One country of the atlas: two verb phrases a topic, each to follow "people"."""

    iso3: str
    name: str
    adjective: str
    community: str
    customs: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Dilemma:
    """A survey-like question. `options`: text -> {"const": a, dimension: weight}; see `questions.yaml`."""

    key: str
    topic: str
    questions: tuple[str, ...]
    options: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Atlas:
    """Places by ISO code, outlooks by community and topic, Hofstede's scores (0..120; None: unpublished)."""

    places: Mapping[str, Place]
    outlooks: Mapping[str, Mapping[str, tuple[str, ...]]]
    hofstede: Mapping[str, Mapping[str, float | None]]
    topics: Mapping[str, tuple[str, ...]]
    dilemmas: Mapping[str, Dilemma]

    def places_of(self, community: str) -> list[Place]:
        """The community's countries, in the order of its file."""
        return [place for place in self.places.values() if place.community == community]

    @cached_property
    def world_mean(self) -> dict[str, float]:
        """Mean of the published scores, by dimension."""
        return self._mean(self.hofstede)

    def community_mean(self, community: str) -> dict[str, float]:
        """Mean score by dimension; the world's where fewer than four of its countries are published."""
        rows = {p.iso3: self.hofstede[p.iso3] for p in self.places_of(community) if p.iso3 in self.hofstede}
        return self._mean(rows, least=4, otherwise=self.world_mean)

    def scores(self, iso3: str, community: str) -> dict[str, float]:
        """A country's scores; its community's mean stands in for what was never published."""
        mean, own = self.community_mean(community), self.hofstede.get(iso3, {})
        return {d: mean[d] if (value := own.get(d)) is None else value for d in DIMENSIONS}

    @staticmethod
    def _mean(
        rows: Mapping[str, Mapping[str, float | None]],
        least: int = 1,
        otherwise: Mapping[str, float] | None = None,
    ) -> dict[str, float]:
        mean: dict[str, float] = {}
        for dimension in DIMENSIONS:
            known = [v for row in rows.values() if (v := row[dimension]) is not None]
            mean[dimension] = sum(known) / len(known) if len(known) >= least else (otherwise or {})[dimension]
        return mean


def preferences(dilemma: Dilemma, scores: Mapping[str, float]) -> dict[str, float]:
    """Probability of each option under the dilemma's log-weights: ours, from `scores`; no survey's result."""
    logits = {
        option: weights.get("const", 0.0)
        + sum(weights.get(d, 0.0) * (scores[d] - 50) / 25 for d in DIMENSIONS)
        for option, weights in dilemma.options.items()
    }
    top = max(logits.values())
    weights = {option: math.exp(logit - top) for option, logit in logits.items()}
    total = sum(weights.values())
    return {option: weight / total for option, weight in weights.items()}


def load_atlas(folder: Path = HERE / "atlas", questions: Path = HERE / "questions.yaml") -> Atlas:
    """Read and check the whole atlas."""
    places: dict[str, Place] = {}
    outlooks: dict[str, dict[str, tuple[str, ...]]] = {}
    for path in sorted(folder.glob("*.yaml")):
        raw: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
        community = raw["community"]
        if set(raw["outlook"]) != set(TOPICS):
            raise AtlasError(
                f"{path.name}: outlook has {sorted(raw['outlook'])}, expected the topics {TOPICS}"
            )
        outlooks[community] = {topic: tuple(raw["outlook"][topic]) for topic in TOPICS}
        for iso3, row in raw["countries"].items():
            for topic in TOPICS:
                if len(row.get(topic, ())) != PHRASES_A_TOPIC:
                    raise AtlasError(
                        f"{path.name}: {iso3}.{topic} needs {PHRASES_A_TOPIC} phrases, has {row.get(topic)}"
                    )
            if iso3 in places:
                raise AtlasError(f"{path.name}: {iso3} stands in {places[iso3].community} too")
            customs = {topic: tuple(row[topic]) for topic in TOPICS}
            places[iso3] = Place(iso3, row["name"], row["adjective"], community, customs)
    raw_questions = yaml.safe_load(questions.read_text(encoding="utf-8"))
    dilemmas = {
        key: Dilemma(key, row["topic"], tuple(row["questions"]), row["options"])
        for key, row in raw_questions["dilemmas"].items()
    }
    topics = {topic: tuple(raw_questions["topics"][topic]) for topic in TOPICS}
    return Atlas(places, outlooks, _read_hofstede(folder / "hofstede.csv"), topics, dilemmas)


def _read_hofstede(path: Path) -> dict[str, dict[str, float | None]]:
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return {
        row["code"]: {d: float(row[d]) if row[d] else None for d in DIMENSIONS}
        for row in csv.DictReader(lines)
    }
