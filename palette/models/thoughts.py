"""What a reasoning model thinks before it answers is no part of its answer."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal

THINKING_OFF = {"chat_template_kwargs": {"enable_thinking": False, "thinking": False}}
"""Qwen3's and DeepSeek's name for the switch: a chat template takes the one that it knows."""
NAMES = (
    r"(?:[a-z]{1,6}:)?(?:think(?:ing)?|thoughts?|reasoning|think_\w{1,8}|(?:thinking|thought)_process"
    r"|chain_of_thought|in(?:ner|ternal)_?monologue|scratchpad|reflection|analysis|antthinking)"
)
BEGIN = (
    rf"<\s{{0,2}}{NAMES}(?:\s[^<>/]{{0,20}})?>|\[THINK\]|◁think▷|<\|think\|>|<\|inner_prefix\|>"
    r"|<\|(?:begin_of_thought|start_thinking)\|>|<\|channel\|?>(?:analysis|commentary|thought)(?:<\|message\|>)?"
)
END = (
    rf"<\s{{0,2}}/\s{{0,2}}{NAMES}\s{{0,2}}>|\[/THINK\]|◁/think▷|<\|/think\|>|<\|inner_suffix\|>"
    r"|<\|end_(?:of_thought|thinking)\|>|<channel\|>|<\|channel\|>final<\|message\|>"
)
EMPTY = rf"<{NAMES}\s{{0,2}}/>"
TAG = re.compile(rf"(?P<begin>{BEGIN})|(?P<end>{END})|(?P<empty>{EMPTY})", re.IGNORECASE)
BEGIN_ONLY, END_ONLY = re.compile(BEGIN, re.IGNORECASE), re.compile(END, re.IGNORECASE)
MAY_BE_TAG = re.compile(r"[<\[◁](?:$|[\s/|a-z])", re.IGNORECASE)
LONGEST_TAG = 60  # characters
FRAME = re.compile(
    r"<\|(?:start\|>assistant|(?:end|return)\|>|(?:begin|end)_of_(?:solution|box)\|>"
    r"|(?:start|end)_response\|>)|</?answer>",
    re.IGNORECASE,
)
"""What stands around an answer that comes after thoughts."""


def without_thoughts(text: str) -> str:
    """The answer in a reply, without the space around it: empty where all of it is thought.

    Thoughts that never end go on to the reply's end. An end without a beginning ends what the prompt began,
    as DeepSeek-R1's template does, so that nothing before it is the answer.
    """
    answer: list[str] = []
    thinking, after = False, 0
    for tag in TAG.finditer(text):
        if tag["end"] and not thinking:
            answer.clear()
        elif not thinking:
            answer.append(text[after : tag.start()])
        thinking, after = bool(tag["begin"] or (thinking and tag["empty"])), tag.end()
    if not thinking:
        answer.append(text[after:])
    whole = "".join(answer)
    return (FRAME.sub("", whole) if after else whole).strip()


class AnswerPieces:
    """A reply piece by piece without the thoughts that it begins with: call it with each piece; `on_piece`
    gets those of the answer. Constant work a piece; `without_thoughts` of the whole has the last word.
    """

    def __init__(self, on_piece: Callable[[str], None]) -> None:
        self.on_piece = on_piece
        self._held = ""
        self._state: Literal["begins", "thinks", "answers"] = "begins"

    def __call__(self, piece: str) -> None:
        """Take the next piece."""
        if self._state == "answers":
            self.on_piece(piece)
            return
        self._held += piece
        if self._state == "thinks":
            if end := END_ONLY.search(self._held):
                self._held, self._state = self._held[end.end() :], "begins"
            else:
                self._held = self._held[-LONGEST_TAG:]
                return
        text = self._held.lstrip()
        if begin := BEGIN_ONLY.match(text):
            self._held, self._state = text[begin.end() :], "thinks"
            self("")
        elif text and (not MAY_BE_TAG.match(text) or len(text) >= LONGEST_TAG):
            self._state = "answers"
            self.on_piece(text)
