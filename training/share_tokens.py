"""Survey questions as tokens: the question once, then each country behind it, and where labels are read.

A country's tail is what its prompt has more than the others': its name, and the head of the reply. Behind it
stand the tokens that begin a label without being all of it (a lone space, for one), so that every
tokenisation of every label is read off one pass, as the exact readout of `palette ask` does.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from cultural_palette.models.tokens import spelling_tokens, tokenisations
from cultural_palette.training.orpo_settings import Layout
from cultural_palette.training.preferences import PreferenceRowError
from cultural_palette.training.sequences import TokenGroup, common_start, lay_out, prompt_ids
from cultural_palette.training.share_questions import Shown, share_prompt

Ids = tuple[int, ...]
ELSEWHERE = ("KEN", "DEU")
NO_LABEL = -1e30
"""The log-probability of a place without a label; finite, so that its gradient is zero and not undefined."""


@dataclass(frozen=True)
class Spellings:
    """How labels are tokenised. `of_labels`: each label's token sequences. `paths`: proper beginnings of
    labels that begin no longer one: all others lie on the way to one of them.
    """

    of_labels: tuple[tuple[Ids, ...], ...]
    paths: tuple[Ids, ...]

    @classmethod
    def of(cls, tokenizer: Any, labels: Sequence[str]) -> Spellings:
        """Raises PreferenceRowError for a label that the tokenizer can not spell."""
        vocabulary = _vocabulary(tokenizer)
        spelt = tuple(tuple(tokenisations(vocabulary, label)) for label in labels)
        if lost := [label for label, sequences in zip(labels, spelt, strict=True) if not sequences]:
            raise PreferenceRowError(f"the base's tokenizer has no token for the label {lost[0]!r}")
        begun = {ids[:cut] for sequences in spelt for ids in sequences for cut in range(len(ids))}
        paths = sorted(one for one in begun if not any(o != one and o[: len(one)] == one for o in begun))
        return cls(spelt, tuple(paths))

    def read_at(self, beginning: Ids) -> tuple[int, int]:
        """Which path goes through a beginning, and how many tokens of it come before the reading."""
        number = next(n for n, path in enumerate(self.paths) if path[: len(beginning)] == beginning)
        return number, len(beginning)


@functools.lru_cache(maxsize=4)
def _vocabulary(tokenizer: Any) -> dict[str, int]:
    return spelling_tokens(tokenizer)


@functools.lru_cache(maxsize=64)
def _spellings(tokenizer: Any, labels: tuple[str, ...]) -> Spellings:
    return Spellings.of(tokenizer, labels)


@dataclass(frozen=True)
class ShareTokens:
    """A question shown to C countries. `group`: the shared prompt; an "answer" for each country and path, the
    country's tail, the path, and one token that fills the place of what is predicted. `gold`: (C, options).
    """

    group: TokenGroup
    tails: tuple[int, ...]
    spellings: Spellings
    gold: tuple[tuple[float, ...], ...]

    @property
    def tokens_as_rows(self) -> int:
        """Positions computed when every country has its own copy of the question."""
        return self.group.tokens_as_rows

    @property
    def tokens_once(self) -> int:
        """Positions computed when the question is shared."""
        return self.group.tokens_once


def encode_shown(tokenizer: Any, shown: Shown, max_length: int) -> ShareTokens:
    """A question's tokens. Nothing is cut, for a question without all of its options is another one.

    Raises PreferenceRowError, with the row's place, for a prompt that the chat template refuses or that is
    longer than `max_length` with its label.
    """
    place = shown.original.place
    spellings = _spellings(tokenizer, shown.question.labels)

    def tokens_for(country: str) -> Ids:
        return tuple(prompt_ids(tokenizer, share_prompt(shown.question, country), place))

    prompts = [tokens_for(country) for country in shown.countries]
    # Against two more countries, so that a country asked alone is split off where it would be among others.
    others = [*prompts, *(tokens_for(country) for country in ELSEWHERE)]
    shared = min(common_start(others[-1], ids) for ids in others[:-1])
    longest = max(map(len, prompts)) + max(map(len, spellings.paths)) + 1
    if longest > max_length:
        raise PreferenceRowError(
            f"{place}: the question with a country and its label takes {longest} tokens, max_length is "
            f"{max_length}: raise it, or take the question out"
        )
    answers = tuple((*ids[shared:], *path, ids[-1]) for ids in prompts for path in spellings.paths)
    return ShareTokens(
        TokenGroup(prompts[0][:shared], answers),
        tuple(len(ids) - shared for ids in prompts),
        spellings,
        tuple(tuple(shown.gold(country)) for country in shown.countries),
    )


def lay_out_shares(shown: Sequence[ShareTokens], layout: Layout, pad_id: int) -> dict[str, torch.Tensor]:
    """A batch of questions as tensors; together R rows (a country's each), at most K options.

    What the model reads as `lay_out` gives it, and: `reads` (T), flat positions whose hidden state predicts a
    token of a label. A term is one token of one spelling: `term_read` (into T), `term_token`, `term_spelling`
    (S spellings in all, each the sum of its terms). `spelling_place` (S): where its sum goes in a table
    (R, K, M). `gold` (R, K), 0 past the last option; `shown_options` (R, K); `row_weights` (R): questions
    count alike, and a question's countries alike; `table`: R, K and M; `questions`: how many.
    """
    given = lay_out([one.group for one in shown], "rows" if layout == "rows" else "packed", pad_id)
    lengths = given["lengths"].tolist()
    of_answers = given["where"][given["owner"] < len(lengths)].tolist()
    starts, answer_starts = [], 0
    for length in lengths:
        starts.append(answer_starts)
        answer_starts += length
    most = max(len(one.spellings.of_labels) for one in shown)
    per_label = max(len(some) for one in shown for some in one.spellings.of_labels)
    reads: list[int] = []
    term_read: list[int] = []
    term_token: list[int] = []
    term_spelling: list[int] = []
    places: list[int] = []
    gold, options, weights = [], [], []
    answer = row = 0
    for one in shown:
        for tail, shares in zip(one.tails, one.gold, strict=True):
            read_of: dict[Ids, int] = {}
            for label, spelt in enumerate(one.spellings.of_labels):
                for variant, ids in enumerate(spelt):
                    for cut, token in enumerate(ids):
                        if ids[:cut] not in read_of:
                            path, after = one.spellings.read_at(ids[:cut])
                            read_of[ids[:cut]] = len(reads)
                            reads.append(of_answers[starts[answer + path] + tail + after])
                        term_read.append(read_of[ids[:cut]])
                        term_token.append(token)
                        term_spelling.append(len(places))
                    places.append((row * most + label) * per_label + variant)
            lacking = most - len(shares)
            gold.append([*shares, *[0.0] * lacking])
            options.append([True] * len(shares) + [False] * lacking)
            weights.append(1 / len(one.gold) / len(shown))
            answer += len(one.spellings.paths)
            row += 1
    inputs = {key: value for key, value in given.items() if key not in ("where", "targets", "owner")}
    return inputs | {
        "reads": torch.tensor(reads),
        "term_read": torch.tensor(term_read),
        "term_token": torch.tensor(term_token),
        "term_spelling": torch.tensor(term_spelling),
        "spelling_place": torch.tensor(places),
        "gold": torch.tensor(gold),
        "shown_options": torch.tensor(options),
        "row_weights": torch.tensor(weights),
        "table": torch.tensor([row, most, per_label]),
        "questions": torch.tensor(len(shown)),
    }


def label_logps(logps: torch.Tensor, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Log-probability of every label over all its tokenisations, NO_LABEL past a question's last option.

    `logps`: over the vocabulary, at each of `reads` (T, V) -> (R, K).
    """
    rows, options, per_label = batch["table"].tolist()
    terms = logps[batch["term_read"], batch["term_token"]]
    spellings = torch.zeros(len(batch["spelling_place"]), device=terms.device).index_add(
        0, batch["term_spelling"], terms
    )
    table = torch.full((rows * options * per_label,), NO_LABEL, device=terms.device)
    table = table.index_copy(0, batch["spelling_place"], spellings)
    return table.view(rows, options, per_label).logsumexp(-1)
