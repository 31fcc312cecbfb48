"""Token sequences from chat rows, and three ways to lay a group of answers to one prompt before the model.

    rows         every answer behind its own copy of the prompt
                 runs everywhere
    packed       the prompt once, the answers behind it under a block mask
                 flex attention on a GPU, a dense mask on the CPU
    prompt_once  the prompt's keys and values computed once, then every answer
                 not with gradient checkpointing

All three give the same log-probabilities; they differ in how often the prompt is computed.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from cultural_palette.training.orpo_settings import Layout, TrainingError
from cultural_palette.training.preferences import Group, PreferenceRowError

PROBE = "PALETTE"
IGNORED = -100
LONGEST_REASON = 300  # characters
NOT_A_TOKEN = -1  # the segment of padding; the prompt is 0, the answers 1, 2, ..


@dataclass(frozen=True)
class TokenGroup:
    """One prompt's tokens, then each answer's with its end token; the chosen answer first.

    `prompt_cut`: tokens taken off the prompt; `answers_cut`: answers that lost their end. `weights`: of the
    rejected answers, empty for equal ones.
    """

    prompt: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]
    prompt_cut: int = 0
    answers_cut: int = 0
    weights: tuple[float, ...] = ()

    @property
    def tokens_as_rows(self) -> int:
        """Positions computed when every answer has its own copy of the prompt."""
        return sum(len(self.prompt) + len(answer) - 1 for answer in self.answers)

    @property
    def tokens_once(self) -> int:
        """Positions computed when the prompt is shared."""
        return len(self.prompt) + sum(len(answer) - 1 for answer in self.answers)


@functools.lru_cache(maxsize=8)
def end_token(tokenizer: Any, template: str) -> int:
    """The token that closes an assistant's turn in the chat template, such as `<|eot_id|>`; else the eos.

    Raises TrainingError for a template that can not be rendered, or leaves out what user or assistant say.
    """
    chat = [{"role": "user", "content": "Q" + PROBE}, {"role": "assistant", "content": PROBE}]
    try:
        text = tokenizer.apply_chat_template(chat, tokenize=False)
    except Exception as error:  # a template is foreign code
        raise TrainingError(f"the base's chat template can not be rendered: {first_line(error)}") from None
    if text.count(PROBE) < 2:
        raise TrainingError(
            f"the base's chat template leaves out what user or assistant say: of {chat} it makes "
            f"{text[:200]!r}"
        )
    tail = text.rpartition(PROBE)[2]
    special = {*tokenizer.all_special_ids, *getattr(tokenizer, "added_tokens_decoder", {})}
    ids = tokenizer(tail, add_special_tokens=False)["input_ids"]
    token = next((token for token in ids if token in special), tokenizer.eos_token_id)
    if not isinstance(token, int):
        raise TrainingError(
            "the base's chat template closes a reply with no special token, and its tokenizer has no "
            "eos_token: an answer would have no end"
        )
    return token


def encode(
    tokenizer: Any, prompt: Sequence[Mapping[str, str]], response: str, max_length: int
) -> dict[str, list[int]]:
    """One sequence through the chat template, with exactly one end token; cut as `encode_group` says.

    `labels` are IGNORED over the prompt. Raises PreferenceRowError for a response without a token.
    """
    alone = Group(prompt=[dict(message) for message in prompt], chosen=response, rejected=[])
    group = encode_group(tokenizer, alone, max_length)
    answer = group.answers[0]
    return {
        "input_ids": [*group.prompt, *answer],
        "labels": [*([IGNORED] * len(group.prompt)), *answer],
    }


def encode_group(tokenizer: Any, group: Group, max_length: int) -> TokenGroup:
    """A group's prompt and answers, each prompt with its answer at most `max_length` tokens.

    The prompt may have what the longest answer leaves, and half of `max_length` in any case: a longer one
    loses the beginning of its last message, never the template's frame (start token, system message, earlier
    turns, role headers). An answer that does not fit behind it loses its end, and its end token.

    Raises PreferenceRowError, with the row's place, for a prompt that the template refuses or whose frame
    does not fit, and for an answer without a token of its own.
    """
    prompt, place = group["prompt"], group.get("place", "row")
    end = end_token(tokenizer, str(tokenizer.chat_template))
    head = prompt_ids(tokenizer, prompt, place)
    answers = []
    for text in (group["chosen"], *group["rejected"]):
        ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
        while ids and ids[-1] == end:
            ids.pop()
        if not ids:
            raise PreferenceRowError(
                f"{place}: the answer {text!r} to {prompt[-1]['content'][:80]!r} has no token but the end "
                "token; take the row out"
            )
        answers.append([*ids, end])
    room = max(max_length // 2, max_length - max(map(len, answers)))
    whole = len(head)
    if whole > room:
        head = _cut_prompt(tokenizer, prompt, head, room, place)
    room = max_length - len(head)
    return TokenGroup(
        tuple(head),
        tuple(tuple(answer[:room]) for answer in answers),
        prompt_cut=whole - len(head),
        answers_cut=sum(len(answer) > room for answer in answers),
        weights=tuple(group.get("weights", ())),
    )


def prompt_ids(tokenizer: Any, prompt: Sequence[Mapping[str, str]], place: str) -> list[int]:
    """A prompt through the chat template, up to where the reply begins. Raises PreferenceRowError, with the
    row's place, for one that the template refuses, or of which it leaves out a system or user message.
    """
    roles = tuple(message["role"] for message in prompt)
    try:
        ids = tokenizer.apply_chat_template(
            prompt, add_generation_prompt=True, tokenize=True, return_dict=False
        )
    except Exception as error:  # a template is foreign code
        raise PreferenceRowError(
            f"{place}: the base's chat template refuses this prompt ({', '.join(roles)}): {first_line(error)}"
        ) from None
    if lost := _left_out(tokenizer, str(tokenizer.chat_template), roles):
        raise PreferenceRowError(
            f"{place}: the base's chat template leaves the {lost} message out of this prompt "
            f"({', '.join(roles)}): put its words into a user's message"
        )
    return list(ids)


@functools.lru_cache(maxsize=256)
def _left_out(tokenizer: Any, template: str, roles: tuple[str, ...]) -> str | None:
    """The first role whose words the template does not render; an assistant's it may shorten."""
    chat = [{"role": role, "content": f"{PROBE}{number}END"} for number, role in enumerate(roles)]
    text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    heard = ((role, f"{PROBE}{number}END") for number, role in enumerate(roles) if role != "assistant")
    return next((role for role, words in heard if words not in text), None)


def first_line(error: Exception) -> str:
    """What a foreign error says, in one line."""
    return " ".join(str(error).split())[:LONGEST_REASON] or type(error).__name__


def _cut_prompt(
    tokenizer: Any, prompt: Sequence[Mapping[str, str]], ids: list[int], room: int, place: str
) -> list[int]:
    """`ids` without the first tokens of the last message, so that `room` tokens hold it."""
    empty = prompt_ids(tokenizer, [*prompt[:-1], {**prompt[-1], "content": ""}], place)
    before = common_start(ids, empty)
    after = min(common_start(ids[::-1], empty[::-1]), len(empty) - before)
    if before + after >= room:
        raise PreferenceRowError(
            f"{place}: the prompt is cut to {room} tokens, and what stands around its last message takes "
            f"{before + after}: raise max_length, or take the row out"
        )
    return [*ids[:before], *ids[len(ids) - (room - before) :]]


def common_start(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens are the same from the beginning on."""
    return next(
        (n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )


def pad(sequences: Sequence[Mapping[str, list[int]]], pad_id: int) -> dict[str, torch.Tensor]:
    """Right-padded tensors (B, L): input_ids, labels, attention_mask."""
    longest = max(len(s["input_ids"]) for s in sequences)
    fill = {"input_ids": pad_id, "labels": IGNORED}
    batch = {
        key: torch.tensor([s[key] + [value] * (longest - len(s[key])) for s in sequences])
        for key, value in fill.items()
    }
    lengths = torch.tensor([len(s["input_ids"]) for s in sequences])
    batch["attention_mask"] = (torch.arange(longest)[None] < lengths[:, None]).long()
    return batch


def lay_out(groups: Sequence[TokenGroup], layout: Layout, pad_id: int) -> dict[str, torch.Tensor]:
    """A batch of groups as tensors; G groups of K answers each make N = G K answers, numbered group by group.

    Common to the layouts, over the T tokens to be predicted: `where` (T), the flat position whose hidden
    state predicts the token; `targets` (T), the token; `owner` (T), the answer it belongs to, or N + g for a
    token of the prompt of group g. `lengths` (N) and `prompt_lengths` (G), the predicted tokens of each.
    The last token of an answer predicts nothing and is left out.
    """
    build = {"rows": _rows, "packed": _packed, "prompt_once": _prompt_once}[layout]
    return build(groups, pad_id)


def _predictions(
    groups: Sequence[TokenGroup],
    starts: Sequence[Sequence[int]],
    heads: Sequence[int],
    firsts: Sequence[Sequence[int]],
) -> dict[str, torch.Tensor]:
    """What `lay_out` promises of every layout, from the flat positions of a layout.

    `starts[g][k]`: of answer k's first token; `firsts[g][k]`: of the token that predicts it; `heads[g]`: of
    the prompt's first token.
    """
    where: list[int] = []
    targets: list[int] = []
    owner: list[int] = []
    count = sum(len(group.answers) for group in groups)
    answer_number = 0
    for number, group in enumerate(groups):
        where += range(heads[number], heads[number] + len(group.prompt) - 1)
        targets += group.prompt[1:]
        owner += [count + number] * (len(group.prompt) - 1)
        for answer, start, first in zip(group.answers, starts[number], firsts[number], strict=True):
            where += [first, *range(start, start + len(answer) - 1)]
            targets += answer
            owner += [answer_number] * len(answer)
            answer_number += 1
    return {
        "where": torch.tensor(where),
        "targets": torch.tensor(targets),
        "owner": torch.tensor(owner),
        "lengths": torch.tensor([len(answer) for group in groups for answer in group.answers]),
        "prompt_lengths": torch.tensor([len(group.prompt) - 1 for group in groups]),
    }


def _rows(groups: Sequence[TokenGroup], pad_id: int) -> dict[str, torch.Tensor]:
    sequences = [[*group.prompt, *answer[:-1]] for group in groups for answer in group.answers]
    ids, mask = _padded(sequences, pad_id)
    width, number = ids.shape[1], 0
    heads, starts, firsts = [], [], []
    for group in groups:
        heads.append(number * width)
        own = [(number + k) * width + len(group.prompt) for k in range(len(group.answers))]
        starts.append(own)
        firsts.append([start - 1 for start in own])
        number += len(group.answers)
    return {"input_ids": ids, "attention_mask": mask} | _predictions(groups, starts, heads, firsts)


def _packed(groups: Sequence[TokenGroup], pad_id: int) -> dict[str, torch.Tensor]:
    sequences, positions, segments, heads, starts, firsts = [], [], [], [], [], []
    for group in groups:
        ids, places, parts, own = [*group.prompt], [*range(len(group.prompt))], [0] * len(group.prompt), []
        for number, answer in enumerate(group.answers, 1):
            own.append(len(ids))
            ids += answer[:-1]
            places += range(len(group.prompt), len(group.prompt) + len(answer) - 1)
            parts += [number] * (len(answer) - 1)
        sequences.append(ids)
        positions.append(places)
        segments.append(parts)
        starts.append(own)
    ids_, _ = _padded(sequences, pad_id)
    width = ids_.shape[1]
    for number, group in enumerate(groups):
        heads.append(number * width)
        firsts.append([number * width + len(group.prompt) - 1] * len(group.answers))
        starts[number] = [number * width + start for start in starts[number]]
    filled = [parts + [NOT_A_TOKEN] * (width - len(parts)) for parts in segments]
    return {
        "input_ids": ids_,
        "position_ids": _padded(positions, 0)[0],
        "segments": torch.tensor(filled),
    } | _predictions(groups, starts, heads, firsts)


def _prompt_once(groups: Sequence[TokenGroup], pad_id: int) -> dict[str, torch.Tensor]:
    answers = [list(answer[:-1]) or [pad_id] for group in groups for answer in group.answers]
    ids, mask = _padded(answers, pad_id)
    longest, width = max(len(group.prompt) for group in groups), ids.shape[1]
    prompts = torch.full((len(groups), longest), pad_id)
    prompt_mask = torch.zeros((len(groups), longest), dtype=torch.long)
    for number, group in enumerate(groups):  # on the left, so that every prompt ends where the answers begin
        prompts[number, longest - len(group.prompt) :] = torch.tensor(group.prompt)
        prompt_mask[number, longest - len(group.prompt) :] = 1
    before = len(groups) * longest
    heads, starts, firsts, number = [], [], [], 0
    for index, group in enumerate(groups):
        heads.append((index + 1) * longest - len(group.prompt))
        firsts.append([(index + 1) * longest - 1] * len(group.answers))
        starts.append([before + (number + k) * width for k in range(len(group.answers))])
        number += len(group.answers)
    return {
        "prompt_ids": prompts,
        "prompt_mask": prompt_mask,
        "input_ids": ids,
        "attention_mask": mask,
    } | _predictions(groups, starts, heads, firsts)


def _padded(sequences: Sequence[Sequence[int]], fill: int) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(len(ids) for ids in sequences)
    ids = torch.tensor([[*s, *([fill] * (longest - len(s)))] for s in sequences])
    mask = torch.tensor([[1] * len(s) + [0] * (longest - len(s)) for s in sequences])
    return ids, mask
