"""GlobalOpinionQA's own CSV (Durmus et al. 2023): columns question, selections, options, source.

`selections` is the printed form of a Python defaultdict, country label -> shares; `options` that of a list.
A row that can not be read is set aside with its line; a quote that never closes costs its own line only.
"""

from __future__ import annotations

import ast
import csv
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from cultural_palette.evaluation.survey_formats import (
    Answer,
    Aside,
    SurveyError,
    option_text,
    read_text,
    shares_of,
)

HUB_ID, HUB_FILE = "Anthropic/llm_global_opinions", "data/global_opinions.csv"
COLUMNS = ("question", "selections", "options", "source")


def read(path: Path) -> Iterator[Answer | Aside]:
    """Every country's answer to every question."""
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    lines = [line + "\n" for line in read_text(path).split("\n")]  # not splitlines: U+2028 is text here
    try:
        header = next(csv.reader(lines[:1]), [])
    except csv.Error as error:
        raise SurveyError(f"{path}:1: not CSV ({error})") from None
    if missing := [name for name in COLUMNS if name not in header]:
        raise SurveyError(
            f"{path}:1: no column {missing[0]!r}; GlobalOpinionQA has {', '.join(COLUMNS)}, here are "
            f"{', '.join(header)[:200] or 'none'}."
        )
    start = 1
    while start < len(lines):
        end = _end_of_record(lines, start)
        where = f"{path.name}:{start + 1}"
        try:
            fields = next(csv.reader(lines[start:end]), [])
        except csv.Error as error:
            yield Aside(where, "corrupt row", f"not CSV ({error})")
            start += 1
            continue
        answers = _row(dict(zip(header, fields, strict=False)), where) if len(fields) == len(header) else None
        if isinstance(answers, list):
            yield from answers
        elif fields:
            yield Aside(where, "corrupt row", answers or f"{len(fields)} fields for {len(header)} columns")
            end = start + 1  # what an open quote swallowed is read again, line by line
        start = end


def _end_of_record(lines: list[str], start: int) -> int:
    """The line after a record's last one: quotes pair up, but for one that never closes."""
    quotes = 0
    for end in range(start, len(lines)):
        quotes += lines[end].count('"')
        if quotes % 2 == 0:
            return end + 1
    return start + 1


def _row(fields: Mapping[str, str], where: str) -> list[Answer | Aside] | str:
    """The row's answers; or what is wrong with the row."""
    options, selections = _list_of(fields["options"]), _dict_of(fields["selections"])
    if not isinstance(options, list) or not options:
        return "options are no list"
    if not isinstance(selections, dict) or not selections:
        return "selections are no dictionary of countries"
    texts = [option_text(option) for option in options]
    if None in texts:
        return "an option is neither text nor number"
    named = tuple(text for text in texts if text is not None)
    numbers = any(not isinstance(option, str) or _is_number(option) for option in options)
    notes = (
        *(("number options",) if numbers else ()),
        *(("about 'our country'",) if "our country" in fields["question"].casefold() else ()),
    )
    answers: list[Answer | Aside] = []
    for label, values in selections.items():
        shares = shares_of(values, named)
        if isinstance(shares, str) or not isinstance(label, str):
            answers.append(Aside(where, "corrupt country row", f"{label}: {shares}"))
        else:
            answers.append(
                Answer(fields["question"], named, label, shares, fields["source"], where, notes=notes)
            )
    return answers


def _dict_of(text: str) -> Any:
    return _literal(text[text.find("{") : text.rfind("}") + 1])


def _list_of(text: str) -> Any:
    return _literal(text.strip())


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(_Numbers().visit(ast.parse(text, mode="eval")))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # all that a text can do to it
        return None


NOT_NUMBERS = ("nan", "inf", "infinity")
MISSING = ("null", "none", "na")
NUMPY = ("array", "float16", "float32", "float64", "int8", "int16", "int32", "int64")


class _Numbers(ast.NodeTransformer):
    """What programs print that is no literal: nan and its kin, null, numpy's numbers. One country's costs
    that country's row, not the question.
    """

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return _constant(node.id) or node

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        return _constant(node.attr) or node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        name = getattr(node.func, "attr", None) or getattr(node.func, "id", None)
        if name in NUMPY and node.args:
            return cast("ast.AST", self.visit(node.args[0]))
        return ast.Constant(ast.unparse(node))  # a text, which is no share


def _constant(name: str) -> ast.Constant | None:
    if name.lower() in NOT_NUMBERS:
        return ast.Constant(float(name.lower()))
    return ast.Constant(None) if name.lower() in MISSING else None


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).lstrip("-").isdigit()


def download(revision: str | None = None) -> tuple[Path, str]:
    """The file from the hub, downloaded once, and the commit it is from. CC-BY-NC-SA-4.0."""
    from huggingface_hub import hf_hub_download

    try:
        path = Path(hf_hub_download(HUB_ID, HUB_FILE, repo_type="dataset", revision=revision))
    except (OSError, ValueError) as error:  # the hub's own errors are OSErrors and ValueErrors
        reason = str(error).strip().splitlines()[0]
        raise SurveyError(
            f"The hub did not give {HUB_ID}: {reason}. Give the path of its {Path(HUB_FILE).name}."
        ) from None
    parts = path.parts
    commit = parts[parts.index("snapshots") + 1] if "snapshots" in parts else revision or "main"
    return path, commit
