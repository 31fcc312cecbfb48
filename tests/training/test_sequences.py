"""What max_length cuts, by template and by lengths: the template's frame stays, the words at the end of the
question stay, and whatever is lost is counted; a template that loses a message by itself is refused.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("torch")

from cultural_palette.training.orpo_settings import TrainingError
from cultural_palette.training.preferences import Group, PreferenceRowError
from cultural_palette.training.sequences import (
    common_start,
    encode_group,
    end_token,
    prompt_ids,
)

TURN = "{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}"
ASK = "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
TEMPLATES = {
    "turns": "{% for m in messages %}" + TURN + "{% endfor %}" + ASK,
    "a beginning": "{{ 'hello ' }}{% for m in messages %}" + TURN + "{% endfor %}" + ASK,
    "trimmed words": "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] | trim + '<|end|>' }}"
    "{% endfor %}" + ASK,
    "a line before the reply": "{% for m in messages %}" + TURN + "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'good day <|assistant|>' }}{% endif %}",
    "the system in the user's turn": "{% if messages[0]['role'] == 'system' %}"
    "{% set first = messages[0]['content'] + ' ' %}{% set messages = messages[1:] %}{% else %}"
    "{% set first = '' %}{% endif %}{% for m in messages %}"
    "{{ '<|' + m['role'] + '|>' + (first if loop.first else '') + m['content'] + '<|end|>' }}{% endfor %}"
    + ASK,
}


@pytest.fixture(params=TEMPLATES.values(), ids=TEMPLATES.keys())
def tokenizer(request: pytest.FixtureRequest, tiny: tuple[Any, Any, Any]) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny[2])
    tokenizer.chat_template = request.param
    return tokenizer


def words(count: int) -> str:
    return " ".join(["hello", "bad", "night", "word"][number % 4] for number in range(count))


ROLES = (
    ("user",), ("system", "user"), ("user", "assistant", "user"), ("system", "user", "assistant", "user"),
)  # fmt: skip


def test_every_cut_keeps_the_frame_and_is_counted(tokenizer: Any) -> None:
    """Any lengths of messages and answers, any max_length: refused by its place, or whole as promised."""

    @settings(
        max_examples=150, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(
        st.sampled_from(ROLES), st.lists(st.integers(1, 60), min_size=4, max_size=4), st.integers(1, 80),
        st.lists(st.integers(1, 80), min_size=1, max_size=4), st.integers(8, 96),
    )  # fmt: skip
    def tried(
        roles: tuple[str, ...], lengths: list[int], chosen: int, rejected: list[int], max_length: int
    ) -> None:
        prompt = [{"role": role, "content": words(n)} for role, n in zip(roles, lengths, strict=False)]
        group = Group(prompt=prompt, chosen=words(chosen), rejected=[words(n) for n in rejected], place="f:7")
        try:
            tokens = encode_group(tokenizer, group, max_length)
        except PreferenceRowError as error:
            assert "f:7" in str(error) and "raise max_length" in str(error)
            return
        whole = prompt_ids(tokenizer, prompt, "f:7")
        frame = prompt_ids(tokenizer, [*prompt[:-1], {**prompt[-1], "content": ""}], "f:7")
        before = common_start(frame, whole)
        after = common_start(frame[::-1], whole[::-1])
        assert len(tokens.prompt) + tokens.prompt_cut == len(whole)
        assert tokens.prompt[:before] == tuple(whole[:before])
        assert tokens.prompt[-after - 1 :] == tuple(whole[-after - 1 :])  # and a word before the frame's end
        assert all(len(tokens.prompt) + len(answer) <= max_length for answer in tokens.answers)
        assert all(tokens.answers) and len(tokens.answers) == 1 + len(rejected)
        end = end_token(tokenizer, str(tokenizer.chat_template))
        assert tokens.answers_cut == sum(answer[-1] != end for answer in tokens.answers)
        if tokens.prompt_cut:  # as long as a prompt keeps half the room, no longer answer takes it
            assert len(tokens.prompt) >= max_length // 2

    tried()


@pytest.mark.parametrize(
    ("template", "lost"),
    [
        (
            "{% for m in messages %}{% if m['role'] != 'system' %}" + TURN + "{% endif %}{% endfor %}" + ASK,
            "system",
        ),
        ("{% for m in messages[-1:] %}" + TURN + "{% endfor %}" + ASK, "system"),
        (
            "{% for m in messages %}{% if m['role'] != 'user' or loop.last or messages | length == 2 %}"
            + TURN + "{% endif %}{% endfor %}" + ASK,
            "user",
        ),
    ],
    ids=["no system message", "the last turn alone", "the last question alone"],
)  # fmt: skip
def test_a_template_that_loses_a_message_is_told_by_the_row(
    tiny: tuple[Any, Any, Any], template: str, lost: str
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny[2])
    tokenizer.chat_template = template
    roles = ("system", "user", "assistant", "user")
    prompt = [{"role": role, "content": words(2)} for role in roles]
    group = Group(prompt=prompt, chosen="yes", rejected=["word"], place="rows.jsonl:9")
    with pytest.raises((PreferenceRowError, TrainingError), match="leaves") as told:
        encode_group(tokenizer, group, 64)
    assert f"rows.jsonl:9: the base's chat template leaves the {lost} message out" in str(told.value) or (
        "leaves out what user or assistant say" in str(told.value)
    )


@pytest.mark.parametrize("answer", ["<|end|>", "<|end|><|end|>", " <|end|> ".strip()])
def test_an_answer_of_end_tokens_only_is_told_by_the_row(tiny: tuple[Any, Any, Any], answer: str) -> None:
    group = Group(prompt=[{"role": "user", "content": "a"}], chosen="yes", rejected=[answer], place="f:3")
    with pytest.raises(PreferenceRowError, match=r"f:3: the answer .* has no token but the end token"):
        encode_group(tiny[0], group, 64)
