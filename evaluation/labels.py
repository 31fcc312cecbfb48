"""What an option's label means: an opinion or none (don't know, refused, missing), and whether labels make
a scale.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

# Every part of a label must be one of these: "DK/Refused", "Missing; Not available", "No answer/ refused",
# but not "Don't know anyone (VOL)".
NO_OPINION = re.compile(
    r"(don'?t know|don't -9:-2|do not know|dk|no answer|na|refused|refuse to answer|refusal|unsure|not sure"
    r"|(other )?missing|unknown|not available|not applicable( for other reasons)?|not asked( in survey)?"
    r"|multiple answers.*|no response|can'?t say|can not say|cannot say|can'?t choose|prefer not to say"
    r"|can'?t (rate|judge|decide)|can not (rate|judge|decide)|(it'?s )?hard to say|(it'?s )?difficult to say"
    r"|no opinion|undecided|(have )?never heard of( (him|her|it|them|this))?"
    r"|(have not|haven'?t) heard enough( (about|of) .*)?)"
)  # the release's slips: a code in the place of "know"
# A column of totals, of which shares were made as of options: "Total                  N=".
TOTAL = re.compile(r"total( n)?( ?=.*)?")
REMARK = re.compile(r"\s*\((vol\.?|volunteered|do not read|don'?t read|do not read out)\)\s*$")
# Steps of the scales that surveys use, from much to little; a scale's labels share its words otherwise.
LADDERS = (
    ("completely", "mostly", "somewhat", "not very", "not at all"),
    ("very", "fairly", "moderately", "somewhat", "small", "not too", "not so", "not at all"),
    ("very", "rather", "quite", "not very", "not at all"),
    ("strongly agree", "agree", "neither agree nor disagree", "disagree", "strongly disagree"),
    ("agree strongly", "agree", "neither agree nor disagree", "disagree", "disagree strongly"),
    ("completely agree", "mostly agree", "mostly disagree", "completely disagree"),
    ("strongly approve", "approve", "disapprove", "strongly disapprove"),
    ("strongly favor", "favor", "oppose", "strongly oppose"),
    ("very favorable", "somewhat favorable", "somewhat unfavorable", "very unfavorable"),
    ("very favorable", "mostly favorable", "mostly unfavorable", "very unfavorable"),
    ("very satisfied", "somewhat satisfied", "somewhat dissatisfied", "very dissatisfied"),
    ("very positive", "somewhat positive", "somewhat negative", "very negative"),
    ("excellent", "very good", "good", "only fair", "fair", "poor", "very poor"),
    ("very good", "somewhat good", "fairly good", "good", "bad", "fairly bad", "somewhat bad", "very bad"),
    ("always", "usually", "often", "frequently", "sometimes", "occasionally", "rarely", "hardly ever",
     "never"),
    ("often be justified", "sometimes be justified", "rarely be justified", "never be justified"),
    ("daily", "weekly", "monthly", "less than monthly", "never"),
    ("great deal", "lot", "quite a lot", "fair amount", "some", "only a little", "little",
     "not too much", "not very much", "not much", "very little", "none", "none at all", "not at all",
     "nothing at all"),
    ("major threat", "minor threat", "not a threat"),
    ("increase", "stay the same", "decrease"), ("increased", "stayed the same", "decreased"),
    ("more", "the same", "less"), ("better", "the same", "worse"),
    ("improve", "remain the same", "worsen"),
    ("most", "many", "some", "just some", "few", "very few", "none"),
    ("all of them", "most of them", "few of them", "none of them"), ("most", "some", "only a few", "none"),
    ("too much", "about the right amount", "too little"),
)  # fmt: skip


@lru_cache(maxsize=4096)
def has_opinion(option: str) -> bool:
    """Whether an option is an opinion; False for don't know, no answer, refused and missing."""
    text = REMARK.sub("", _folded(option))
    parts = [stripped for part in re.split(r"[/;,]|\bor\b", text) if (stripped := part.strip(" ."))]
    no_opinion = bool(parts) and all(NO_OPINION.fullmatch(part) for part in parts)
    return text != "n/a" and not no_opinion and not is_total(option)


def is_total(option: str) -> bool:
    """Whether a label is that of a column of totals, which is no option at all."""
    return TOTAL.fullmatch(_folded(option)) is not None


def is_scale(options: Sequence[str]) -> bool:
    """Whether the options (those with an opinion, 3 at least) are steps of one scale, in order.

    The rule: half of them or more begin with numbers that count up or down by one from place to place
    ("Never", "2", "3", ..., "Always"), or all stand on one of the LADDERS, each step below the last or each
    above it. A label stands on a step when it is the step, or begins with it and goes on with words that the
    scale's other labels share ("Very important", "Rather important").
    """
    return _is_scale(tuple(options))


@lru_cache(maxsize=4096)
def _is_scale(options: tuple[str, ...]) -> bool:
    labels = [REMARK.sub("", _folded(option)) for option in options if has_opinion(option)]
    if len(labels) < 3:
        return False
    matches = [(place, re.match(r"(-?\d+)\b", label)) for place, label in enumerate(labels)]
    numbers = {place: int(number[1]) for place, number in matches if number}
    if 2 * len(numbers) >= len(labels):
        rising, falling = ({n - sign * place for place, n in numbers.items()} for sign in (1, -1))
        return len(rising) == 1 or len(falling) == 1
    return any(_monotone(steps) for ladder in LADDERS if (steps := _steps(labels, ladder)))


def _steps(labels: Sequence[str], ladder: Sequence[str]) -> list[int] | None:
    """Each label's place on the ladder; None when one has none, or when they speak of different things."""
    places: list[int] = []
    rests: list[str] = []
    for label in labels:
        label = re.sub(r"^not (an? )?(.+) at all$", r"not at all \2", label)
        plain = re.sub(r"^(a|an|the) ", "", label)
        fits = [
            (len(step), place, text)
            for place, step in enumerate(ladder)
            for text in (label, plain)
            if text == step or text.startswith(step + " ")
        ]
        if not fits:
            return None
        length, place, text = max(fits)
        places.append(place)
        rests.append(text[length:].strip())
    topics = {frozenset(rest.split()) for rest in rests if rest}
    shared = frozenset.intersection(*topics) if topics else frozenset()
    return places if len(topics) <= 1 or shared else None


def _monotone(steps: Sequence[int]) -> bool:
    pairs = list(pairwise(steps))
    return all(a < b for a, b in pairs) or all(a > b for a, b in pairs)


def _folded(option: str) -> str:
    return " ".join(option.replace("\u2019", "'").casefold().split())
