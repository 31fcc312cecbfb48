"""The forms in which answers are exported, each one readable function: a query in, rows out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

Row = dict[str, Any]


def preferences(query: str, answers: Mapping[str, str], community: str) -> list[Row]:
    """A row for each other community's answer; TRL's conversational format with an explicit prompt."""
    return [
        {"prompt": [_user(query)], "chosen": [_assistant(answers[community])], "rejected": [_assistant(text)]}
        for text in _others(answers, community)
    ]


def groups(query: str, answers: Mapping[str, str], community: str) -> list[Row]:
    """One row: the community's answer chosen, every other one rejected, in the map's order. What
    `palette train` reads."""
    return [{"prompt": [_user(query)], "chosen": answers[community], "rejected": _others(answers, community)}]


def published(query: str, answers: Mapping[str, str], community: str) -> list[Row]:
    """The columns of the paper's authors, a row for each rejected answer."""
    return [
        {"query": query, "response": answers[community], "rejected_response": text}
        for text in _others(answers, community)
    ]


@dataclass(frozen=True)
class Form:
    """`rows`: (query, answers by community, community) to rows; `file`: name of a community's file;
    `columns`: name to "messages", "text" or "texts"."""

    rows: Callable[[str, Mapping[str, str], str], list[Row]]
    file: str
    columns: Mapping[str, str]
    about: str

    def schema(self) -> pa.Schema:
        """The Parquet schema, the same for every file of the form, empty ones too."""
        import pyarrow as pa

        messages = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
        types = {"messages": messages, "text": pa.string(), "texts": pa.list_(pa.string())}
        return pa.schema([(name, types[kind]) for name, kind in self.columns.items()])


FORMS = {
    "preferences": Form(
        preferences,
        "{}",
        {"prompt": "messages", "chosen": "messages", "rejected": "messages"},
        "pairs in TRL's conversational format, one for each other community",
    ),
    "groups": Form(
        groups,
        "groups_{}",
        {"prompt": "messages", "chosen": "text", "rejected": "texts"},
        "one row a query: the community's answer chosen, all others rejected; for `palette train`",
    ),
    "published": Form(
        published,
        "{}",
        {"query": "text", "response": "text", "rejected_response": "text"},
        "pairs in the columns of the paper's authors",
    ),
}


def _others(answers: Mapping[str, str], community: str) -> list[str]:
    return [text for key, text in answers.items() if key != community]


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def _assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}
