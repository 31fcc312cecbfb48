"""Synthesis runs made up by code: n queries, five communities, with whatever is to go wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cultural_palette.artifacts import RunFolder

COMMUNITIES = ("africa", "america", "asia", "europe", "oceania")
Row = dict[str, Any]
TOPICS = ("Who greets first", "What to eat", "Lend a cousin money", "A large moon", "May a friend disagree")


def question(n: int) -> str:
    """A query that is near no other one."""
    words = " ".join(
        f"{word}{n * k % 999_983:x}" for k, word in ((7_919, "river"), (31_337, "stone"), (999_331, "lamp"))
    )
    return f"{TOPICS[n % len(TOPICS)]}, {words} {n}?"


def row(n: int, community: str, **changes: Any) -> Row:
    """One row as the synthesis writes it."""
    response = f"In {community}, they say of question {n}: patience, and then bread."
    return {
        "query_id": f"p{n:05d}",
        "query": question(n),
        "community": community,
        "status": "ok",
        "response": response,
        "steps": {
            "respond": f"First thought of {community} on {n}.",
            "feedback": "Say more.",
            "aggregate": response,
        },
        "rounds": 1,
        "validation": {"passed": True, "findings": []},
        "teacher": "openai:made-up",
        "prompts": {"respond": "0123456789abcdef", "feedback": "fedcba9876543210"},
        "usage": {"input_tokens": 10, "output_tokens": 20},
        "error": None,
        "source": {
            "dataset": "prism",
            "conversation_id": f"c{n}",
            "user_id": "user1",
            "birth_country": "KEN",
            "community": "africa",
        },
    } | changes


def set_aside(n: int, community: str) -> Row:
    """A row that validation let not through."""
    finding = {"kind": "stereotype", "detail": "It speaks of all as one.", "quote": "they say"}
    return row(n, community, status="set_aside", validation={"passed": False, "findings": [finding]})


def write_run(
    path: Path,
    queries: int = 4,
    change: Callable[[int, str], Row | None] = row,
    manifest: Mapping[str, Any] | None = None,
    finish: bool = True,
) -> Path:
    """A run folder of `queries` x 5 rows; `change` gives each row, None to leave it out."""
    with RunFolder(path) as folder:
        for n in range(queries):
            for community in COMMUNITIES:
                if (made := change(n, community)) is not None:
                    folder.append(made)
        if finish:
            folder.finish(
                {"map": "continents", "communities": list(COMMUNITIES), "seed": 3} | dict(manifest or {})
            )
    return path
