"""Shares as an objective: loss and gradients against a plain reference, masses against the exact readout."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from cultural_palette.distributions import Distribution  # noqa: E402
from cultural_palette.models.tokens import spelling_tokens, tokenisations  # noqa: E402
from cultural_palette.questions import Question  # noqa: E402
from cultural_palette.training.grouped_trainer import Collator  # noqa: E402
from cultural_palette.training.logps import share_logps  # noqa: E402
from cultural_palette.training.orpo_settings import Layout  # noqa: E402
from cultural_palette.training.share_questions import (  # noqa: E402
    ShareQuestion,
    Shown,
    share_prompt,
    shown_questions,
)
from cultural_palette.training.share_tokens import encode_shown, lay_out_shares  # noqa: E402
from cultural_palette.training.shares import shares_loss  # noqa: E402

MASS_WEIGHT = 0.3


def asked(number: int, options: int, countries: tuple[str, ...]) -> ShareQuestion:
    texts = tuple(f"word {'abcdefgh'[k]}" for k in range(options))
    shares = {
        code: Distribution.from_counts([1 + (k + place) % options for k in range(options)])
        for place, code in enumerate(countries)
    }
    return ShareQuestion(f"q{number}", f"b{number}", Question(f"hello day {number}", texts), shares)


QUESTIONS = [asked(0, 2, ("KEN", "DEU", "JPN")), asked(1, 4, ("NZL",)), asked(2, 3, ("BRA", "THA"))]


def plainly(tokenizer: Any, model: Any, shown: Shown, country: str) -> Any:
    """Log-probability of every label by one pass a beginning, nothing shared. (options)"""
    prompt = tokenizer.apply_chat_template(
        share_prompt(shown.question, country), add_generation_prompt=True, return_dict=False
    )
    vocabulary = spelling_tokens(tokenizer)
    found = []
    for label in shown.question.labels:
        ways = []
        for ids in tokenisations(vocabulary, label):
            logps = model(input_ids=torch.tensor([[*prompt, *ids]])).logits[0].log_softmax(-1)
            ways.append(sum(logps[len(prompt) - 1 + n, token] for n, token in enumerate(ids)))
        found.append(torch.logsumexp(torch.stack(ways), 0))
    return torch.stack(found)


@pytest.mark.parametrize("layout", ["packed", "rows", "prompt_once"])
def test_loss_and_gradients_are_those_of_a_plain_reference(tiny: Any, layout: Layout) -> None:
    tokenizer, model, _ = tiny
    shown = list(shown_questions(QUESTIONS, 2, 0, 0))
    batch = lay_out_shares([encode_shown(tokenizer, one, 256) for one in shown], layout, 0)
    model.zero_grad()
    loss, measures = shares_loss(share_logps(model, batch), batch["gold"], batch["row_weights"], MASS_WEIGHT)
    loss.backward()
    ours = {name: weight.grad.clone() for name, weight in model.named_parameters()}

    model.zero_grad()
    of_questions, kls, masses = [], [], []
    for one in shown:
        losses = []
        for country in one.countries:
            logps = plainly(tokenizer, model, one, country)
            mass = logps.exp().sum()
            gold = torch.tensor(one.gold(country))
            shares = logps.exp() / mass
            losses.append(-(gold * shares.log()).sum() - MASS_WEIGHT * mass.log())
            kls.append(float((gold * (gold / shares).log()).sum()) / len(one.countries))
            masses.append(float(mass) / len(one.countries))
        of_questions.append(torch.stack(losses).mean())
    expected = torch.stack(of_questions).mean()
    expected.backward()
    assert float(loss) == pytest.approx(float(expected), abs=1e-5)
    assert float(measures["kl"]) == pytest.approx(sum(kls) / len(shown), abs=1e-5)
    assert float(measures["mass"]) == pytest.approx(sum(masses) / len(shown), abs=1e-6)
    for name, weight in model.named_parameters():
        torch.testing.assert_close(ours[name], weight.grad, atol=1e-6, rtol=1e-4, msg=name)
    model.zero_grad()


def test_the_loss_by_hand() -> None:
    """p = (3/4, 1/4), q = (1/2, 1/2), mass 1/2: log 2 - 0.1 log(1/2); KL = log 2 - H(p)."""
    logps = torch.tensor([[math.log(0.25), math.log(0.25), -1e30]])
    loss, measures = shares_loss(logps, torch.tensor([[0.75, 0.25, 0.0]]), torch.ones(1), 0.1)
    assert float(loss) == pytest.approx(1.1 * math.log(2), abs=1e-6)
    entropy = -0.75 * math.log(0.75) - 0.25 * math.log(0.25)
    assert float(measures["kl"]) == pytest.approx(math.log(2) - entropy, abs=1e-6)
    assert float(measures["mass"]) == pytest.approx(0.5, abs=1e-6)


def test_the_question_is_computed_once_for_all_its_countries(tiny: Any) -> None:
    one = next(shown_questions([QUESTIONS[0]], 1, 0, 0))
    tokens = encode_shown(tiny[0], one, 256)
    alone = [encode_shown(tiny[0], Shown(one.original, one.order, (c,)), 256) for c in one.countries]
    assert len({each.group.prompt for each in (tokens, *alone)}) == 1  # split in the same place
    assert tokens.tokens_once < sum(each.tokens_once for each in alone)
    assert tokens.tokens_as_rows == sum(each.tokens_as_rows for each in alone)


def test_orders_and_countries_are_balanced_over_a_pass() -> None:
    questions = [asked(n, 4, ("KEN", "DEU", "JPN", "NZL")) for n in range(8)]
    once = list(shown_questions(questions, 1, 2, 0))
    assert Counter(one.order for one in once) == {(0, 1, 2, 3): 4, (3, 2, 1, 0): 4}
    assert all(len(one.countries) == 2 for one in once) and len({one.countries for one in once}) > 1
    latin = [one for one in shown_questions(questions[:1], 4, 0, 0)]
    assert sorted(zip(*(one.order for one in latin), strict=True)) and all(
        sorted(column) == [0, 1, 2, 3] for column in zip(*(one.order for one in latin), strict=True)
    )
    reverse = latin[1]
    assert reverse.gold("KEN") == [
        reverse.original.shares["KEN"].probabilities[option] for option in reverse.order
    ]


def test_a_batch_may_hold_groups_and_questions(tiny: Any) -> None:
    from cultural_palette.training.sequences import encode_group

    group = {"prompt": [{"role": "user", "content": "hello"}], "chosen": "good day", "rejected": ["bad"]}
    shown = next(shown_questions(QUESTIONS, 1, 0, 0))
    rows = [{"group": encode_group(tiny[0], group, 64)}, {"shown": encode_shown(tiny[0], shown, 256)}]
    laid = Collator("prompt_once", 0)(rows)
    assert len(laid["lengths"]) == 2 and int(laid["shares"]["questions"]) == 1


def test_label_masses_are_those_of_the_exact_readout_of_nano() -> None:
    """The embedded engine's `option_logprobs`, which `palette ask` reads distributions off."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from cultural_palette.embedded.engine import get_engine

    engine = get_engine("nano")
    base = engine.manifest.base
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    shown = list(shown_questions(QUESTIONS, 2, 0, 0))
    batch = lay_out_shares([encode_shown(tokenizer, one, 512) for one in shown], "packed", 0)
    with torch.no_grad():
        ours = share_logps(model, batch)
    row = 0
    for one in shown:
        for country in one.countries:
            messages = [(m["role"], m["content"]) for m in share_prompt(one.question, country)]
            labels = one.question.labels
            reading = engine.option_logprobs("base", engine.encode(messages), labels).result()
            torch.testing.assert_close(
                ours[row, : len(labels)], torch.tensor(reading.logprobs), atol=2e-4, rtol=1e-4
            )
            row += 1


def test_a_long_question_is_refused_and_not_cut(tiny: Any, tmp_path: Path) -> None:
    from cultural_palette.training.preferences import PreferenceRowError

    shown = next(shown_questions(QUESTIONS, 1, 0, 0))
    with pytest.raises(PreferenceRowError, match="max_length is 40: raise it"):
        encode_shown(tiny[0], shown, 40)
