"""Do the communities' answers differ? Silhouettes and a linear probe, with the topic and without it.

Every figure comes twice. `as_is`: on the embeddings, where what a query is about outweighs who answers.
`query_centred`: after each query's mean embedding is taken off its answers, so that only what sets the
communities apart within a query is left; over queries that two communities answered at least.

Silhouette (Rousseeuw 1987) compares a text's mean distance to its own community with that to the nearest
other: 1 far apart, 0 alike, below 0 mixed up. Its interval resamples queries, the silhouettes as they are.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn import config_context
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import silhouette_samples
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cultural_palette.training.pentachromatic.separation.statistics import (
    RESAMPLES,
    Estimate,
    Floats,
    by_class,
    over_queries,
    pooled,
    totals,
)
from cultural_palette.training.pentachromatic.separation.texts import Labelled, NothingToMeasure

FOLDS = 5
MOST_STEPS = 1000


@dataclass(frozen=True)
class Probe:
    """A logistic regression on queries that it has not seen. `confusion`: rows true, columns predicted.

    `chance`: of always naming the largest community; `balanced_chance`: 1 / communities.
    """

    accuracy: Estimate
    chance: float
    balanced_accuracy: Estimate
    balanced_chance: float
    folds: tuple[float, ...]
    confusion: tuple[tuple[int, ...], ...]
    converged: bool


@dataclass(frozen=True)
class View:
    """The figures of one view, and its points in the plane of its first two principal components.

    `points`: (N, 2), in the order of `texts`, which are indices into the set; `explained`: their shares of
    the variance, 0..1.
    """

    silhouette_cosine: Estimate
    silhouette_cosine_2d: Estimate
    silhouette_euclidean_2d: Estimate
    probe: Probe | None
    explained: tuple[float, float]
    counts: Mapping[str, int]
    points: Floats = field(repr=False, compare=False)
    texts: npt.NDArray[np.int64] = field(repr=False, compare=False)


@dataclass(frozen=True)
class Separation:
    """One set's figures. `query_centred` is None when no query has answers of two communities."""

    name: str
    communities: tuple[str, ...]
    as_is: View
    query_centred: View | None


def separation(
    name: str,
    texts: Sequence[Labelled],
    vectors: npt.NDArray[np.float32],
    *,
    communities: Sequence[str],
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Separation:
    """All figures of a set. `vectors`: (N, D); `communities`: the map's; those without a text are left out.

    Raises NothingToMeasure when there are fewer than two communities.
    """
    counts = Counter(text.label for text in texts)
    there = tuple(key for key in communities if counts[key])
    if len(there) < 2:
        raise NothingToMeasure(
            f"{name} has texts of {', '.join(there) or 'no community'} only; two communities are needed."
        )
    queries = np.array([text.query for text in texts])
    labels = np.array([text.label for text in texts])
    whole = unit(vectors)
    within, centred = query_centred(whole, queries, labels)
    return Separation(
        name,
        there,
        _view(whole, queries, labels, np.arange(len(texts)), seed, resamples),
        _view(unit(centred), queries[within], labels[within], within, seed, resamples)
        if len(set(labels[within].tolist())) > 1
        else None,
    )


def unit(vectors: npt.ArrayLike) -> Floats:
    """Each row at length 1; a row of zeros stays. (N, D)"""
    rows = np.asarray(vectors, dtype=np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(lengths > 1e-12, lengths, 1.0) * (lengths > 1e-12))


def query_centred(
    vectors: Floats, queries: npt.NDArray[np.str_], labels: npt.NDArray[np.str_]
) -> tuple[npt.NDArray[np.int64], Floats]:
    """Rows less their query's mean, for queries with two communities or more: (indices, (M, D))."""
    names, query = np.unique(queries, return_inverse=True)
    pairs = np.unique(np.stack([query, np.unique(labels, return_inverse=True)[1]]), axis=1)
    comparable = np.bincount(pairs[0], minlength=len(names)) > 1
    means = np.zeros((len(names), vectors.shape[1]))
    np.add.at(means, query, vectors)
    means /= np.bincount(query)[:, None]
    indices = np.flatnonzero(comparable[query])
    return indices, vectors[indices] - means[query[indices]]


def cosine_silhouettes(units: Floats, labels: npt.NDArray[np.str_]) -> Floats:
    """Each text's silhouette in cosine distance, (N,); 0 for a community's only text.

    Exact, and linear in the texts: the mean cosine distance of a unit vector x to n others is 1 - x . (their
    sum) / n.
    """
    names, own = np.unique(labels, return_inverse=True)
    sizes = np.bincount(own).astype(np.float64)
    sums = np.zeros((len(names), units.shape[1]))
    np.add.at(sums, own, units)
    products = units @ sums.T
    here = np.arange(len(units))
    norms = (units**2).sum(1)
    alone = sizes[own] == 1
    inside = 1 - (products[here, own] - norms) / np.where(alone, 1.0, sizes[own] - 1)
    outside = 1 - products / sizes
    outside[here, own] = np.inf
    nearest = outside.min(1)
    larger = np.maximum(inside, nearest)
    silhouettes = np.where(larger > 1e-12, (nearest - inside) / np.where(larger > 1e-12, larger, 1.0), 0.0)
    return np.where(alone, 0.0, silhouettes)


def probe(
    vectors: Floats,
    queries: npt.NDArray[np.str_],
    labels: npt.NDArray[np.str_],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Probe | None:
    """Logistic regression on standardised vectors, out of fold; a query is never in train and test.

    None with fewer than two queries, or when a fold would train on one community only.
    """
    folds = min(FOLDS, len(np.unique(queries)))
    if folds < 2:
        return None
    predicted = np.empty(len(labels), dtype=labels.dtype)
    accuracies, converged = [], True
    for train, test in GroupKFold(folds).split(vectors, labels, queries):
        if len(np.unique(labels[train])) < 2:
            return None
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=MOST_STEPS, tol=1e-3))
        with warnings.catch_warnings():  # said in `converged`
            warnings.simplefilter("ignore")
            model.fit(vectors[train].astype(np.float32), labels[train])
        converged &= bool((model[-1].n_iter_ < MOST_STEPS).all())
        predicted[test] = model.predict(vectors[test].astype(np.float32))
        accuracies.append(float((predicted[test] == labels[test]).mean()))
    names = np.unique(labels)
    right = totals((predicted == labels).astype(np.float64), queries.tolist(), labels.tolist())
    return Probe(
        accuracy=over_queries(*right, pooled, seed=seed, resamples=resamples),
        chance=float(max(Counter(labels.tolist()).values()) / len(labels)),
        balanced_accuracy=over_queries(*right, by_class, seed=seed, resamples=resamples),
        balanced_chance=1 / len(names),
        folds=tuple(accuracies),
        confusion=tuple(
            tuple(int(((labels == true) & (predicted == guess)).sum()) for guess in names) for true in names
        ),
        converged=converged,
    )


def plane(vectors: Floats) -> tuple[Floats, tuple[float, float]]:
    """First two principal components, (N, 2), and their shares of the variance; zeros if nothing varies."""
    if vectors.shape[1] < 2 or len(vectors) < 2 or float(vectors.var(0).sum()) < 1e-12:
        return np.zeros((len(vectors), 2)), (0.0, 0.0)
    pca = PCA(n_components=2, svd_solver="full" if len(vectors) < 2000 else "covariance_eigh")
    points = np.asarray(pca.fit_transform(vectors), dtype=np.float64)
    first, second = (float(share) for share in pca.explained_variance_ratio_)
    return points, (first, second)


def report(result: Separation) -> dict[str, Any]:
    """A set's figures for JSON, without the points."""
    return {
        "name": result.name,
        "communities": list(result.communities),
        "as_is": _row(result.as_is, result.communities),
        "query_centred": _row(result.query_centred, result.communities) if result.query_centred else None,
    }


def _view(
    units: Floats,
    queries: npt.NDArray[np.str_],
    labels: npt.NDArray[np.str_],
    indices: npt.NDArray[np.int64],
    seed: int,
    resamples: int,
) -> View:
    points, explained = plane(units)

    def mean(silhouettes: Floats) -> Estimate:
        return over_queries(*totals(silhouettes, queries.tolist()), pooled, seed=seed, resamples=resamples)

    return View(
        silhouette_cosine=mean(cosine_silhouettes(units, labels)),
        silhouette_cosine_2d=mean(cosine_silhouettes(unit(points), labels)),
        silhouette_euclidean_2d=mean(_euclidean_silhouettes(points, labels)),
        probe=probe(units, queries, labels, seed=seed, resamples=resamples),
        explained=explained,
        counts=Counter(labels.tolist()),
        points=points,
        texts=indices,
    )


def _euclidean_silhouettes(points: Floats, labels: npt.NDArray[np.str_]) -> Floats:
    if not 2 <= len(np.unique(labels)) < len(points) or not points.any():
        return np.zeros(len(points))
    with config_context(working_memory=128):  # MiB of distances at a time
        return np.asarray(silhouette_samples(points, labels), dtype=np.float64)


def _row(view: View, communities: Sequence[str]) -> dict[str, Any]:
    probe = view.probe
    return {
        "texts": len(view.texts),
        "queries": view.silhouette_cosine.queries,
        "texts_by_community": {key: view.counts[key] for key in communities if view.counts.get(key)},
        "silhouette_cosine": view.silhouette_cosine.row(),
        "silhouette_cosine_2d": view.silhouette_cosine_2d.row(),
        "silhouette_euclidean_2d": view.silhouette_euclidean_2d.row(),
        "explained_variance_2d": list(view.explained),
        "probe": None
        if probe is None
        else {
            "accuracy": probe.accuracy.row(),
            "chance": probe.chance,
            "balanced_accuracy": probe.balanced_accuracy.row(),
            "balanced_chance": probe.balanced_chance,
            "folds": list(probe.folds),
            "confusion": {
                "communities": sorted(key for key in communities if view.counts.get(key)),
                "rows_true_columns_predicted": [list(row) for row in probe.confusion],
            },
            "converged": probe.converged,
        },
    }
