"""The ORPO loss against a hand-written reference and against TRL's, and one adapter trained for real."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from peft import get_peft_model_state_dict, load_peft_weights  # noqa: E402

from cultural_palette.training.align import align  # noqa: E402
from cultural_palette.training.orpo import log_odds, orpo_loss  # noqa: E402
from cultural_palette.training.orpo_settings import OrpoSettings, TrainingError  # noqa: E402
from cultural_palette.training.preferences import Group, PreferenceRowError  # noqa: E402
from cultural_palette.training.sequences import IGNORED, encode, encode_group  # noqa: E402
from cultural_palette.training.trainers import load_model  # noqa: E402


def test_log_odds_is_the_log_of_p_over_one_minus_p() -> None:
    for p in (1e-6, 0.1, 0.5, 0.9, 0.999):
        got = log_odds(torch.tensor([math.log(p)], dtype=torch.float64))
        assert got.item() == pytest.approx(math.log(p / (1 - p)), abs=1e-6)


@pytest.mark.parametrize("logp", [0.0, -1e-9, -1e-4, -0.6931, -0.7, -50.0, -700.0])
def test_log_odds_and_its_gradient_are_finite_at_both_ends(logp: float) -> None:
    x = torch.tensor([logp], requires_grad=True)
    odds = log_odds(x)
    odds.sum().backward()
    assert torch.isfinite(odds).all() and torch.isfinite(x.grad).all()


def test_loss_by_hand() -> None:
    # one group, one rejected: mean log p -1 and -2 over 4 and 2 tokens
    loss, measures = orpo_loss(torch.tensor([[-4.0, -4.0]]), torch.tensor([[4, 2]]), weight=0.1)
    odds = [math.log(math.exp(x) / (1 - math.exp(x))) for x in (-1.0, -2.0)]
    contrast = math.log(1 + math.exp(-(odds[0] - odds[1])))
    assert loss.item() == pytest.approx(1.0 + 0.1 * contrast, abs=1e-6)
    assert measures["accuracy"].item() == 1


def test_odds_are_not_the_ratio_of_probabilities() -> None:
    """Eq. 6 prints the ratio; on likely responses the two differ by far."""
    sums, lengths = torch.tensor([[-1.0, -1.5]]), torch.tensor([[1, 1]])
    loss, _ = orpo_loss(sums, lengths, weight=1.0)
    ratio = 1.0 + math.log(1 + math.exp(-(-1.0 + 1.5)))
    assert abs(loss.item() - ratio) > 0.05


def test_four_rejected_are_the_mean_of_trls_four_pairs() -> None:
    orpo = pytest.importorskip("trl.experimental.orpo")
    chosen = torch.tensor([-1.1], requires_grad=True)
    rejected = torch.tensor([-0.4, -1.3, -2.0, -0.9], requires_grad=True)
    trainer = orpo.ORPOTrainer.__new__(orpo.ORPOTrainer)
    trainer.beta, trainer.accelerator = 0.1, SimpleNamespace(device=torch.device("cpu"))
    theirs = -torch.stack([trainer.odds_ratio_loss(chosen, r[None])[0] for r in rejected]).mean()
    theirs.backward()
    ours_chosen, ours_rejected = (
        chosen.detach().clone().requires_grad_(),
        rejected.detach().clone().requires_grad_(),
    )
    sums = torch.cat([ours_chosen, ours_rejected])[None]
    loss, _ = orpo_loss(sums, torch.ones_like(sums), weight=0.1)
    nll = -ours_chosen.sum()
    (loss - nll).backward()
    assert (loss - nll).item() == pytest.approx(theirs.item(), abs=1e-6)
    assert torch.allclose(ours_chosen.grad, chosen.grad, atol=1e-6)
    assert torch.allclose(ours_rejected.grad, rejected.grad, atol=1e-6)


def plain_orpo(logps: list[list[float]], lengths: list[list[int]], weight: float) -> float:
    """ORPO as its paper has it, in plain numbers and without TRL, which may drop it: nll + weight * L_OR."""
    nll = -sum(group[0] for group in logps) / sum(group[0] for group in lengths)
    terms = []
    for sums, counts in zip(logps, lengths, strict=True):
        ps = [math.exp(total / count) for total, count in zip(sums, counts, strict=True)]
        odds = [p / (1 - p) for p in ps]
        terms += [-math.log(1 / (1 + math.exp(-math.log(odds[0] / other)))) for other in odds[1:]]
    return nll + weight * sum(terms) / len(terms)


SUMS, LENGTHS = [[-4.0, -4.0, -9.0], [-2.5, -6.0, -1.0]], [[4, 2, 5], [3, 4, 2]]


def test_the_loss_is_the_papers() -> None:
    loss, _ = orpo_loss(torch.tensor(SUMS), torch.tensor(LENGTHS), weight=0.3)
    assert loss.item() == pytest.approx(plain_orpo(SUMS, LENGTHS, 0.3), abs=1e-6)


def test_softmax_is_the_chosen_answers_share_of_the_groups_odds() -> None:
    weights = [[0.5, 1.5], [1.2, 0.8]]
    given = torch.tensor(SUMS, requires_grad=True)
    loss, _ = orpo_loss(
        given, torch.tensor(LENGTHS), 1.0, softmax=True, rejected_weights=torch.tensor(weights)
    )
    loss.backward()
    nll = -sum(group[0] for group in SUMS) / sum(group[0] for group in LENGTHS)
    terms = []
    for sums, counts, own in zip(SUMS, LENGTHS, weights, strict=True):
        ps = [math.exp(total / count) for total, count in zip(sums, counts, strict=True)]
        odds = [p / (1 - p) for p in ps]
        terms.append(-math.log(odds[0] / (odds[0] + sum(w * o for w, o in zip(own, odds[1:], strict=True)))))
    assert loss.item() == pytest.approx(nll + sum(terms) / 2, abs=1e-6)
    assert torch.isfinite(given.grad).all() and (given.grad[:, 0] < 0).all() and (given.grad[:, 1:] > 0).all()


def test_with_one_rejected_answer_softmax_and_sigmoid_are_the_same() -> None:
    pair, lengths = torch.tensor([[-4.0, -6.0]]), torch.tensor([[4, 3]])
    assert orpo_loss(pair, lengths, 0.5)[0].item() == pytest.approx(
        orpo_loss(pair, lengths, 0.5, softmax=True)[0].item(), abs=1e-6
    )


def test_weights_of_a_far_culture_count_more() -> None:
    sums, lengths = torch.tensor(SUMS, requires_grad=True), torch.tensor(LENGTHS)
    weights = torch.tensor([[0.5, 1.5], [1.2, 0.8]])
    loss, _ = orpo_loss(sums, lengths, 1.0, rejected_weights=weights)
    equal, _ = orpo_loss(sums, lengths, 1.0, rejected_weights=torch.ones(2, 2))
    assert equal.item() == pytest.approx(orpo_loss(sums, lengths, 1.0)[0].item(), abs=1e-6)
    (plain,) = torch.autograd.grad(equal, sums)
    (weighed,) = torch.autograd.grad(loss, sums)
    assert weighed[0, 2] / plain[0, 2] == pytest.approx(1.5, abs=1e-5)
    assert weighed[1, 2] / plain[1, 2] == pytest.approx(0.8, abs=1e-5)


def test_distances_between_communities_are_kogut_and_singhs(tmp_path: Path) -> None:
    from cultural_palette.cultural_map import load_map
    from cultural_palette.training.cultural_distance import hofstede_distances
    from cultural_palette.training.orpo_settings import TrainingError
    from cultural_palette.training.preferences import PreferenceRowError, groups_of, weighed

    scores = tmp_path / "scores.csv"
    # north: means 10 and 0; south: 30 and 4; the variances over three countries are 700 / 3 and 16 / 3
    scores.write_text("# made up\ncode,pdi,idv\nNOR,0,0\nSWE,20,0\nCHL,30,4\n")
    poles = tmp_path / "poles.yaml"
    poles.write_text(
        'name: Poles\ncommunities:\n  north: {name: North, colour: "#111111", countries: [NOR, SWE]}\n'
        '  south: {name: South, colour: "#222222", countries: [CHL]}\n'
    )
    found = hofstede_distances(load_map(poles), scores)
    expected = math.sqrt((400 / (700 / 3) + 16 / (16 / 3)) / 2)
    assert found["north"]["south"] == pytest.approx(expected) == found["south"]["north"]
    scores.write_text("code,pdi\nNOR,0\nSWE,20\n")
    with pytest.raises(TrainingError, match="'south' has no country with Hofstede's scores"):
        hofstede_distances(load_map(poles), scores)

    continents = hofstede_distances(load_map("continents"))
    keys = list(continents)
    group = groups_of({"prompt": "hello", "responses": dict.fromkeys(keys, "a")}, keys)["asia"]
    weights = weighed(group, continents)["weights"]
    assert sum(weights) == pytest.approx(4)
    far = max(continents["asia"], key=lambda key: continents["asia"][key])
    assert max(weights) == weights[group["rejected_of"].index(far)]
    del group["rejected_of"]
    with pytest.raises(PreferenceRowError, match="whose the rejected answers are"):
        weighed(group, continents)


def test_a_long_prompt_is_cut_from_the_left_and_the_answer_stays(tiny: tuple[Any, Any, Path]) -> None:
    tokenizer, _, _ = tiny
    row = encode(tokenizer, [{"role": "user", "content": "word " * 200}], "yes indeed", 32)
    assert len(row["input_ids"]) == 32
    kept = [token for token in row["labels"] if token != IGNORED]
    assert tokenizer.decode(kept) == "yes indeed<|end|>"
    assert row["input_ids"].count(tokenizer.eos_token_id) == 2  # the user's turn and the answer, none doubled


def test_one_long_answer_leaves_the_prompt_and_the_other_answers_whole(tiny: tuple[Any, Any, Path]) -> None:
    """900 words rejected: its own end is cut, to the half of max_length that is its at most."""
    tokenizer, _, _ = tiny
    prompt = [{"role": "user", "content": "good day a b c d"}]
    group = Group(prompt=prompt, chosen="yes indeed", rejected=["word " * 900])
    alone = encode_group(tokenizer, Group(prompt=prompt, chosen="yes indeed", rejected=["b"]), 128)
    tokens = encode_group(tokenizer, group, 128)
    assert tokens.prompt == alone.prompt and tokens.answers[0] == alone.answers[0]
    assert len(tokens.prompt) + len(tokens.answers[1]) == 128
    assert tokens.answers[1][-1] != tokenizer.eos_token_id  # it does not end here
    assert (tokens.prompt_cut, tokens.answers_cut) == (0, 1)
    assert (alone.prompt_cut, alone.answers_cut) == (0, 0)


def test_a_cut_prompt_keeps_its_frame_and_the_end_of_its_last_message(tiny: tuple[Any, Any, Path]) -> None:
    tokenizer, _, _ = tiny
    turns = [
        {"role": "system", "content": "yes"},
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "good day"},
    ]
    prompt = [*turns, {"role": "user", "content": "a b c d " * 100 + "word night"}]
    tokens = encode_group(tokenizer, Group(prompt=prompt, chosen="word " * 20, rejected=["b"]), 64)
    text = tokenizer.decode(tokens.prompt)
    assert text.startswith("<|system|>yes<|end|><|user|>hello<|end|><|assistant|>good day<|end|><|user|>")
    assert text.endswith("word night<|end|><|assistant|>") and tokens.prompt_cut > 100
    assert len(tokens.prompt) + len(tokens.answers[0]) == 64 and tokens.answers_cut == 0
    row = Group(prompt=prompt, chosen="b", rejected=["b"], place="answers.jsonl:7")
    with pytest.raises(PreferenceRowError, match=r"jsonl:7: the prompt is cut to .* raise max_length"):
        encode_group(tokenizer, row, 12)


def test_a_template_that_ends_a_turn_by_itself_gets_no_second_end(tiny: tuple[Any, Any, Path]) -> None:
    """ChatML closes with <|im_end|> and a line break, whatever the tokenizer's eos is."""
    from copy import deepcopy

    tokenizer = deepcopy(tiny[0])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    prompt, end = [{"role": "user", "content": "hello"}], tokenizer.convert_tokens_to_ids("<|im_end|>")
    for text in ("yes", "yes<|im_end|>"):
        kept = [token for token in encode(tokenizer, prompt, text, 64)["labels"] if token != IGNORED]
        assert kept[-1] == end and kept.count(end) == 1 and tokenizer.eos_token_id not in kept


def test_an_empty_answer_and_a_missing_community_are_refused(
    tiny: tuple[Any, Any, Path], tmp_path: Path
) -> None:
    tokenizer, _, base = tiny
    for only_end in ("", tokenizer.eos_token, tokenizer.eos_token * 2):
        with pytest.raises(PreferenceRowError, match="no token but the end token"):
            encode(tokenizer, [{"role": "user", "content": "hello"}], only_end, 32)
    prompt = [{"role": "user", "content": "hello"}]
    blank = Group(prompt=prompt, chosen="a", rejected=["b", " "])
    with pytest.raises(PreferenceRowError, match=r"row 0: empty response \(' '\)"):
        align(base, [blank], tmp_path / "adapter", OrpoSettings())
    rows = [
        Group(prompt=prompt, chosen="a", rejected=["b", "c"]),
        Group(prompt=prompt, chosen="a", rejected=["b"]),
    ]
    with pytest.raises(PreferenceRowError, match="row 1 has 1 rejected answers, row 0 has 2"):
        align(base, rows, tmp_path / "adapter", OrpoSettings())


def test_an_adapter_learns_to_prefer_its_own(tiny: tuple[Any, Any, Path], tmp_path: Path) -> None:
    tokenizer, _, base = tiny
    prompt = [{"role": "user", "content": "hello"}]
    rows = [{"prompt": prompt, "chosen": "good day", "rejected": ["bad night", "b c d"]}] * 32
    settings = OrpoSettings(learning_rate=5e-3, epochs=4, weight=0.5, rank=4, dropout=0.0, batch_size=8)
    before_training = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    measures = align(base, rows, tmp_path / "adapter", settings)
    assert measures  # logged at least once
    after_training = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    assert before_training[:2] == after_training[:2] and torch.equal(before_training[2], after_training[2])
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from cultural_palette.training.logps import group_logps
    from cultural_palette.training.sequences import lay_out

    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    batch = lay_out([encode_group(tokenizer, rows[0], 64)], "rows", tokenizer.pad_token_id)
    with torch.no_grad():
        before = group_logps(plain, batch)["answers"]
        after = group_logps(PeftModel.from_pretrained(plain, tmp_path / "adapter").get_base_model(), batch)[
            "answers"
        ]
    assert after[0] > before[0] + 1
    assert after[0] - after[1] > before[0] - before[1]


def test_a_job_begins_with_the_adapter_that_it_goes_on_from(
    tiny: tuple[Any, Any, Path], tmp_path: Path
) -> None:
    base, settings = tiny[2], OrpoSettings(epochs=1, rank=4, dropout=0.0, batch_size=2, learning_rate=5e-3)
    group = Group(prompt=[{"role": "user", "content": "hello"}], chosen="good day", rejected=["bad night"])
    align(base, [group] * 4, tmp_path / "first", settings)
    first = load_peft_weights(str(tmp_path / "first"))
    fresh, begun = load_model(base, settings), load_model(base, settings, tmp_path / "first")
    assert not all(torch.equal(value, first[key]) for key, value in get_peft_model_state_dict(fresh).items())
    assert all(torch.equal(value, first[key]) for key, value in get_peft_model_state_dict(begun).items())
    with pytest.raises(TrainingError, match="other modules or another rank"):
        load_model(base, replace(settings, rank=2), tmp_path / "first")
    with pytest.raises(TrainingError, match="no adapter to go on from"):
        load_model(base, settings, tmp_path / "nowhere")
