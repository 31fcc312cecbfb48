"""Option readings that share a beginning: read once, to the same bits as when read anew."""

from collections.abc import Iterator

import pytest
import torch

from cultural_palette.embedded import stems
from cultural_palette.embedded.engine import Engine, get_engine
from cultural_palette.embedded.stems import Stem, Stems, stem_length

OPTIONS = ["A. Yes", "B. No", "C. It depends"]


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = get_engine("nano")
    engine._stems = Stems()
    yield engine
    engine._stems = Stems()


def prompt(engine: Engine, options: list[str]) -> list[int]:
    text = "Country: Kenya\nQuestion: Do people greet elders first?\nOptions:\n" + "\n".join(options)
    return engine.encode([("system", "Reply with its letter only."), ("user", text)])


def reversed_texts() -> list[str]:
    return [
        f"{own[0]}. {other.partition('. ')[2]}" for own, other in zip(OPTIONS, OPTIONS[::-1], strict=True)
    ]


@pytest.mark.parametrize("part", ["base", "africa", "meta", "meta[africa=0.3,asia=0.7]"])
def test_a_reading_has_the_same_bits_whatever_was_read_before(engine: Engine, part: str) -> None:
    own, turned = prompt(engine, OPTIONS), prompt(engine, reversed_texts())
    fresh = engine.option_logprobs(part, turned, "ABC").result(60)
    engine._stems = Stems()
    engine.option_logprobs(part, own, "ABC").result(60)
    again = [engine.option_logprobs(part, turned, "ABC").result(60) for _ in range(2)]
    assert again == [fresh, fresh]
    assert len(engine._stems._kept) == 1


def test_orders_of_one_question_share_all_before_their_options(engine: Engine) -> None:
    own, turned = prompt(engine, OPTIONS), prompt(engine, reversed_texts())
    labels = engine.vocabulary["A"], engine.vocabulary.get(" A", -1)
    cut = stem_length(own, labels, engine._ends_line)
    assert cut == stem_length(turned, labels, engine._ends_line)
    assert own[:cut] == turned[:cut] and own[cut:] != turned[cut:]
    assert engine.tokenizer.decode(own[:cut]).endswith("Options:\n")


def test_a_part_goes_on_from_its_own_stem_alone(engine: Engine) -> None:
    ids = prompt(engine, OPTIONS)
    before = engine.option_logprobs("asia", ids, "ABC").result(60)
    engine._stems = Stems()
    engine.option_logprobs("africa", ids, "ABC").result(60)
    assert engine.option_logprobs("asia", ids, "ABC").result(60) == before


def test_the_blend_of_a_reading_counts_every_token_of_the_prompt_once(engine: Engine) -> None:
    ids = prompt(engine, OPTIONS)
    reading = engine.option_logprobs("meta", ids, ["A", "AB"]).result(60)  # with a second row that goes on
    whole = engine.blend(ids).result(60)
    assert reading.blend is not None
    torch.testing.assert_close(torch.tensor(reading.blend), torch.tensor(whole), atol=1e-6, rtol=0)


def test_a_prompt_of_one_token_can_be_read(engine: Engine) -> None:
    reading = engine.option_logprobs("meta", [engine.vocabulary["A"]], "AB").result(60)
    assert len(reading.logprobs) == 2 and max(reading.logprobs) < 0


def test_the_stem_ends_at_the_last_line_that_begins_with_the_first_label() -> None:
    line, a, b = 0, 1, 2
    assert stem_length([7, line, a, 7, line, a, 7, line, b, 7], [a], {line}.__contains__) == 5
    assert stem_length([7, a, 7, 7], [a], {line}.__contains__) == 3  # no such line: all but the last


def test_stems_used_longest_ago_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    class Layer:
        keys = values = torch.zeros(1, 1, 4, 1)  # 16 bytes

    class Cache:
        layers = (Layer(),)

    stem = Stem(Cache(), {})
    monkeypatch.setattr(stems, "MOST_BYTES", 2 * stem.bytes)
    kept = Stems()
    for ids in ([1], [2]):
        kept.keep("base", ids, stem)
    assert kept.get("base", [1]) is stem
    kept.keep("base", [3], stem)
    assert kept.get("base", [2]) is None and kept.get("base", [1]) is stem and kept.get("base", [3]) is stem
    monkeypatch.setattr(stems, "MOST_BYTES", 0)
    kept.keep("base", [4], stem)
    assert list(kept._kept) == [("base", (4,))]
