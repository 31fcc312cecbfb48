"""What a reasoning model thinks before it answers is no part of its answer."""

from __future__ import annotations

import re

THINKING_OFF = {"chat_template_kwargs": {"enable_thinking": False, "thinking": False}}
"""Qwen3's and DeepSeek's name for the switch: a chat template takes the one that it knows."""
NAMES = r"(?:think|thinking|thoughts?|reasoning|seed:think)"
BEGIN = rf"<{NAMES}>|\[THINK\]|<\|channel\|?>(?:analysis|commentary|thought)(?:<\|message\|>)?"
END = rf"</{NAMES}>|\[/THINK\]|<channel\|>|<\|channel\|>final<\|message\|>"
TAG = re.compile(rf"(?P<begin>{BEGIN})|(?P<end>{END})", re.IGNORECASE)
FRAME = re.compile(r"<\|(?:start\|>assistant|end\|>|return\|>)")  # around gpt-oss' channels


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
        thinking, after = bool(tag["begin"]), tag.end()
    if not thinking:
        answer.append(text[after:])
    whole = "".join(answer)
    return (FRAME.sub("", whole) if after else whole).strip()
