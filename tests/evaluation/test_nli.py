"""S_semantic on a tiny DeBERTa with random weights: labels, batches, windows."""

from __future__ import annotations

from pathlib import Path

import pytest

from cultural_palette.errors import ModelError
from cultural_palette.evaluation.nli import Entailment, entailment_label, load_entailment

WORDS = (
    *("people", "greet", "elders", "first", "and", "share", "one", "dish", "at", "the", "table", "while"),
    *("guests", "wait", "outside", ".", "!", "?"),
)
GOLD = "People greet elders first. Guests wait outside."
CONTEXT = 24


def tiny_classifier(where: Path) -> Path:
    """A two-layer DebertaV2 classifier and a tokenizer of a few words, saved to the folder."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import DebertaV2Config, DebertaV2ForSequenceClassification, PreTrainedTokenizerFast

    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {word: place for place, word in enumerate([*specials, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    torch.manual_seed(3)
    config = DebertaV2Config(
        vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=CONTEXT, relative_attention=True, position_buckets=8,
        pos_att_type=["p2c", "c2p"], initializer_range=0.5, pad_token_id=0,
        id2label={0: "neutral", 1: "Entailment", 2: "contradiction"}, type_vocab_size=0,
    )  # fmt: skip
    DebertaV2ForSequenceClassification(config).save_pretrained(where)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    fast.save_pretrained(where)
    return where


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_classifier(tmp_path_factory.mktemp("nli"))


@pytest.fixture(scope="module")
def scorer(folder: Path) -> Entailment:
    return load_entailment(str(folder), device="cpu")


def test_the_label_is_read_from_the_model(scorer: Entailment) -> None:
    assert scorer.label == 1
    assert scorer.context == CONTEXT


@pytest.mark.parametrize(
    "labels",
    [{0: "LABEL_0", 1: "LABEL_1"}, {0: "not_entailment", 1: "neutral"}, {0: "entailment", 1: "ENTAILMENT"}],
)
def test_a_model_without_one_entailment_label_is_refused(labels: dict[int, str]) -> None:
    with pytest.raises(ModelError, match="'entailment'"):
        entailment_label(labels, "some/model")


def test_a_model_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="can not be loaded"):
        load_entailment(str(tmp_path / "nothing"))


def test_a_score_is_the_probability_of_entailment_and_has_a_direction(scorer: Entailment) -> None:
    import torch

    answer = "elders share one dish"
    batch = scorer.tokenizer(GOLD, answer, return_tensors="pt")
    with torch.inference_mode():
        logits = scorer.model(**batch).logits[0]
    expected = 100 * float(logits.softmax(-1)[1])
    assert scorer.score([(GOLD, answer)]) == pytest.approx([expected], abs=1e-4)
    assert scorer.score([(answer, GOLD)])[0] != pytest.approx(expected, abs=1e-3)


def test_batches_change_nothing(folder: Path, scorer: Entailment) -> None:
    texts = [
        "people",
        "elders share one dish",
        GOLD,
        "guests wait outside while people share the table .",
        "one !",
    ]
    pairs = [(gold, answer) for gold in texts for answer in texts]
    together = scorer.score(pairs)
    alone = [scorer.score([pair])[0] for pair in pairs]
    assert together == pytest.approx(alone, abs=1e-3)  # of 100: 1e-5 of 1
    small = load_entailment(str(folder), device="cpu", batch_size=3)
    assert together == pytest.approx(small.score(pairs), abs=1e-3)
    assert max(together) - min(together) > 1


def test_a_pair_beyond_the_context_is_read_in_windows(scorer: Entailment) -> None:
    # context 24 with 3 separators leaves 21: an answer window has 10 tokens at most, here 5 + 5 and 5
    one, two, three = "people share one dish .", "guests wait at table .", "elders greet people first !"
    answer = f"{one} {two} {three}"
    gold = " ".join(
        ["guests wait outside .", "people greet elders .", "people share one dish ."]
    )  # 13 tokens
    assert scorer._length(gold, answer) > CONTEXT
    windows = scorer._windows(gold, answer)
    assert [weight for weight, _ in windows] == [10, 5]
    assert [pairs[0][1] for _, pairs in windows] == [f"{one} {two}", three]
    # the gold answer has 21 - 10 = 11 tokens a window, in halves of 5: sentence by sentence, two at a time
    premises = [pair[0] for pair in windows[0][1]]
    assert premises == [
        "guests wait outside . people greet elders .",
        "people greet elders . people share one dish .",
    ]
    best = [max(scorer.probabilities(pairs)) for _, pairs in windows]
    assert scorer.score([(gold, answer)]) == pytest.approx(
        [100 * (10 * best[0] + 5 * best[1]) / 15], abs=1e-3
    )


def test_no_window_exceeds_the_context(scorer: Entailment) -> None:
    endless = " ".join(WORDS[:14] * 6)  # no full stop
    gold = f"{endless}. {GOLD} {endless}"
    for _, pairs in scorer._windows(gold, endless):
        assert all(scorer._length(*pair) <= CONTEXT for pair in pairs)
    pieces = scorer._cut(endless, 10)
    assert " ".join(pieces) == endless
    assert 0 <= scorer.score([(gold, endless)])[0] <= 100


def test_an_empty_answer_has_no_score(scorer: Entailment) -> None:
    with pytest.raises(ValueError, match="no score"):
        scorer.score([(GOLD, " ")])
