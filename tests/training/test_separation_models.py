from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from cultural_palette.cultural_map import load_map
from cultural_palette.errors import ArtifactError, UsageError
from cultural_palette.training.pentachromatic.separation.embeddings import SentenceEncoder
from cultural_palette.training.pentachromatic.separation.texts import GivenAnswer
from cultural_palette.training.pentachromatic.separation.topic_classifier import TopicClassifier
from cultural_palette.training.pentachromatic.separation.topics import homes_of, topics_of
from cultural_palette.training.pentachromatic.separation.vectors import (
    SHARD,
    encode_all,
    identity_of,
    model_folder,
)
from tests.conftest import ROOT
from tests.training.separation_models import IPTC_LABELS, answers, sentence_model, topic_model

TEXTS = [row["response"] for row in answers(6)]


class Counted:
    """An encoder that keeps what it was asked: its vectors are the texts' lengths."""

    identity = "counted"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, Sequence[int]]:
        self.asked += texts
        return np.array([[len(text), 1.0] for text in texts], dtype=np.float32), [
            len(t.split()) for t in texts
        ]


def test_every_text_is_computed_once_and_found_again(tmp_path: Path) -> None:
    first, second = Counted(), Counted()
    texts = ["a b", "longer text", "a b", "ä"]
    found = encode_all(texts, first, tmp_path)
    assert found.vectors[:, 0].tolist() == [3, 11, 3, 1]
    assert found.tokens.tolist() == [2, 2, 2, 1]
    assert first.asked == ["longer text", "a b", "ä"]  # longest first, equal ones once
    again = encode_all([*texts, "new"], second, tmp_path)
    assert second.asked == ["new"] and again.computed == 1
    assert again.vectors[:4].tolist() == found.vectors.tolist()


def test_a_killed_run_loses_one_shard_at_most(tmp_path: Path) -> None:
    code = f"""
import os, sys, numpy as np
from pathlib import Path
from cultural_palette.training.pentachromatic.separation.vectors import encode_all
class Dying:
    identity, calls = "counted", 0
    def encode(self, texts):
        self.calls += 1
        if self.calls == 3: os.kill(os.getpid(), 9)
        return np.array([[len(t), 1] for t in texts], dtype=np.float32), [1] * len(texts)
encode_all(["x" * n for n in range(1, {4 * SHARD})], Dying(), Path(sys.argv[1]))
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, env=dict(os.environ))
    assert done.returncode == -9
    rest = Counted()
    found = encode_all(["x" * n for n in range(1, 4 * SHARD)], rest, tmp_path)
    assert len(rest.asked) == 4 * SHARD - 1 - 2 * SHARD
    assert found.vectors[:, 0].tolist() == list(range(1, 4 * SHARD))


def test_a_broken_shard_is_named(tmp_path: Path) -> None:
    encode_all(["a"], Counted(), tmp_path)
    (shard,) = (tmp_path / "counted").glob("*.npz")
    shard.write_bytes(shard.read_bytes()[:40])
    with pytest.raises(ArtifactError, match=f"{shard.name}.*remove it"):
        encode_all(["a"], Counted(), tmp_path)


def test_a_vector_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    class Broken(Counted):
        def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, Sequence[int]]:
            return np.full((len(texts), 2), np.nan, dtype=np.float32), [1] * len(texts)

    with pytest.raises(ArtifactError, match="not finite"):
        encode_all(["a"], Broken(), tmp_path)


def test_a_sentence_model_by_path(tmp_path: Path) -> None:
    encoder = SentenceEncoder(str(sentence_model(tmp_path / "one", TEXTS)), device="cpu")
    long = " ".join(["food"] * 40)
    vectors, tokens = encoder.encode([TEXTS[0], long, TEXTS[0]])
    assert vectors.shape == (3, 32) and vectors.dtype == np.float32
    assert vectors[0] == pytest.approx(vectors[2], abs=1e-6)
    assert encoder.limit == 16 and tokens[1] == 42  # 40 words, [CLS] and [SEP]
    other = sentence_model(tmp_path / "two", TEXTS, seed=1)
    assert identity_of(other) != encoder.identity == identity_of(encoder.folder)


@pytest.mark.parametrize("name", ["./nowhere", "no-such-folder", "/nowhere/at/all"])
def test_a_model_that_is_not_there(name: str) -> None:
    with pytest.raises(UsageError, match="is no folder, and no hub name"):
        model_folder(name)


def test_a_hub_model_that_does_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def offline(*args: object, **more: object) -> str:
        raise OSError("no network here\nand more")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(UsageError, match=r"did not give it: no network here Download it"):
        model_folder("owner/name")


def test_a_folder_without_weights_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="has no weights"):
        identity_of(tmp_path)


def test_a_topic_classifier_by_path(tmp_path: Path) -> None:
    """Batches by length change nothing: each text alone gives the same probabilities."""
    queries = ["food", "faith and money in the year", "school " * 30, "work"]
    classifier = TopicClassifier(str(topic_model(tmp_path, queries)), device="cpu", batch=3)
    assert classifier.topics == IPTC_LABELS
    together, tokens = classifier.encode(queries)
    assert together.sum(1) == pytest.approx(np.ones(4), abs=1e-5)
    assert list(tokens) == [3, 8, 32, 3]
    alone = np.concatenate([classifier.encode([query])[0] for query in queries])
    assert together == pytest.approx(alone, abs=1e-5)


def test_a_long_query_is_cut_not_refused(tmp_path: Path) -> None:
    classifier = TopicClassifier(str(topic_model(tmp_path, ["school"])), device="cpu")
    _, tokens = classifier.encode(["school " * 600])
    assert list(tokens) == [602]


def test_a_model_without_topic_names_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"names no topics \(LABEL_0, ..\)"):
        TopicClassifier(str(topic_model(tmp_path, ["food"], labels=None)))


def test_topics_below_the_threshold_are_counted_apart() -> None:
    chances = np.array([[0.95, 0.05], [0.9, 0.1], [0.6, 0.4], [0.2, 0.8]], dtype=np.float32)
    # float32 0.9 is a little more than 0.9 here and counts as 0.9 either way: compared in float32.
    found = topics_of(["short"] * 3 + ["word " * 75], chances, ("politics", "sport"), 0.9)
    assert found.confident == {"politics": 2, "sport": 0}
    assert found.uncertain == {"politics": 1, "sport": 1}
    assert (found.short, found.queries) == (3, 4)


def test_birthplaces_keep_the_untold_and_the_placeless_apart() -> None:
    born = ["KEN", "KEN", "NZL", None, "USA", "ATA", "nowhere"]
    queries = [GivenAnswer(f"q{n}", "?", "asia", "x", iso3) for n, iso3 in enumerate(born)]
    homes = homes_of(queries, load_map("inglehart_welzel"))
    assert homes["african_islamic"] == 2 and homes["english_speaking"] == 2
    assert (homes["not_told"], homes["outside_map"]) == (1, 2)
    assert sum(homes.values()) == len(born)
    assert json.dumps(homes)
