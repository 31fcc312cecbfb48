"""Train or test, by query: near-same queries go together, and new queries never move old ones."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256

from cultural_palette.errors import UsageError

TRAIN, TEST = "train", "test"
SPLITS = (TRAIN, TEST)
# Jaccard index of letter 4-grams from which two queries count as near-same: one word more in a short
# question, another spelling, other punctuation; not another topic in the same phrase.
NEAR = 0.75
GRAM = 4
PERMUTATIONS = 128


@dataclass(frozen=True)
class Splits:
    """Each query's split. `leaders`: a query to the earlier near-same one whose split it takes."""

    of: Mapping[str, str]
    leaders: Mapping[str, str]
    test_share: float
    seed: int


def normalised(query: str) -> str:
    """Letters and digits only, of one case and one Unicode form, single spaces."""
    words = re.findall(r"\w+", unicodedata.normalize("NFKC", query).casefold())
    return " ".join(words) or query.strip()


def side(query_id: str, test_share: float, seed: int) -> str:
    """The split that a query's id and the seed give, whatever else is in the dataset."""
    digest = sha256(f"{seed}\0{query_id}".encode()).digest()
    return TEST if int.from_bytes(digest[:8], "big") < test_share * 2**64 else TRAIN


def assign(queries: Iterable[tuple[str, str]], test_share: float = 0.1, seed: int = 0) -> Splits:
    """The split of every (id, text). A query near an earlier one takes that one's split, so a query that
    comes later changes nothing before it."""
    from datasketch import MinHash, MinHashLSH

    if not 0 <= test_share < 1:
        raise UsageError(f"test share {test_share}: expected 0 or more, and less than 1")
    split_of: dict[str, str] = {}
    leaders: dict[str, str] = {}
    exact: dict[str, str] = {}
    texts: dict[str, str] = {}
    blank = MinHash(num_perm=PERMUTATIONS, seed=1)
    near = MinHashLSH(threshold=NEAR - 0.15, num_perm=PERMUTATIONS)
    for query_id, query in queries:
        text = normalised(query)
        leader = exact.get(text)
        if leader is None:
            grams = _grams(text)
            sketch = blank.copy()
            sketch.update_batch([gram.encode() for gram in grams])
            close = {other: _jaccard(grams, _grams(texts[other])) for other in near.query(sketch)}
            leader = max(
                (other for other in close if close[other] >= NEAR), key=close.__getitem__, default=None
            )
            if leader is None:
                near.insert(query_id, sketch)
                texts[query_id] = text
        exact.setdefault(text, leader or query_id)
        if leader is not None and leader != query_id:
            leaders[query_id] = leader
        split_of[query_id] = side(leader or query_id, test_share, seed)
    return Splits(split_of, leaders, test_share, seed)


def _grams(text: str) -> frozenset[str]:
    padded = f" {text} "
    return frozenset(padded[i : i + GRAM] for i in range(max(1, len(padded) - GRAM + 1)))


def _jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    return len(one & other) / len(one | other)
