"""A table once, written as Markdown, LaTeX (booktabs) or HTML."""

from __future__ import annotations

import html
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from cultural_palette.evaluation.report.analysis import Mark
from cultural_palette.safe_text import visible

LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{",
        "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
        ">": r"\textgreater{}", "|": r"\textbar{}", "–": "--", "−": "$-$",
    }
)  # fmt: skip
MARKDOWN = str.maketrans({"|": r"\|", "\n": " ", "*": r"\*", "<": r"\<", "`": r"\`"})


@dataclass(frozen=True)
class Cell:
    """`number` is what the page sorts by; `hint` is shown beside the pointer."""

    text: str
    number: float | None = None
    mark: Mark | None = None
    hint: str = ""


@dataclass(frozen=True)
class Column:
    """`over`: a heading shared with neighbours that have the same; `colour`: "#rrggbb" of that heading."""

    label: str
    over: str = ""
    colour: str = ""
    hint: str = ""


@dataclass(frozen=True)
class Line:
    """One row. `quiet`: another's numbers, such as the paper's."""

    name: str
    cells: tuple[Cell, ...]
    quiet: bool = False


@dataclass(frozen=True)
class Section:
    """Rows under one heading, "" for none."""

    heading: str
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Table:
    """`key` names its files; `caption` and `notes` are plain text."""

    key: str
    caption: str
    columns: tuple[Column, ...]
    sections: tuple[Section, ...]
    notes: tuple[str, ...] = ()
    first: str = "Method"

    def __post_init__(self) -> None:
        for line in self.lines:
            if len(line.cells) != len(self.columns):
                raise ValueError(
                    f"table {self.key}, row {line.name}: {len(line.cells)} cells, {len(self.columns)} columns"
                )

    @property
    def lines(self) -> tuple[Line, ...]:
        """Every row, in order."""
        return tuple(line for section in self.sections for line in section.lines)

    @property
    def spans(self) -> tuple[tuple[str, str, int], ...]:
        """Shared headings with their colour and width; none when no column has one."""
        runs = itertools.groupby(self.columns, key=lambda column: (column.over, column.colour))
        spans = tuple((over, colour, len(list(columns))) for (over, colour), columns in runs)
        return spans if any(over for over, _, _ in spans) else ()


def number(value: float | None, *, digits: int = 2, signed: bool = False) -> Cell:
    """A number, a dash where there is none."""
    if value is None:
        return Cell("–")
    text = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    return Cell(text.replace("-", "−"), value)


def to_markdown(table: Table) -> str:
    """A pipe table: best in bold, second in italics; shared headings stand in the columns' own."""
    heads = [
        f"{c.over}: {c.label}" if c.over and c.over != before else c.label for c, before in _before(table)
    ]
    rows = ["| " + " | ".join(_md(head) for head in [table.first, *heads]) + " |"]
    rows.append("|---|" + "---:|" * len(table.columns))
    for section in table.sections:
        if section.heading and section.lines:
            rows.append(f"| **{_md(section.heading)}** |" + " |" * len(table.columns))
        for line in section.lines:
            name = f"*{_md(line.name)}*" if line.quiet else _md(line.name)
            rows.append("| " + " | ".join([name, *(_md_cell(cell) for cell in line.cells)]) + " |")
    notes = [f"- {_md(note)}" for note in table.notes]
    return "\n".join([f"**{_md(table.caption)}**", "", *rows, "", *notes]).rstrip() + "\n"


def to_latex(table: Table) -> str:
    """A booktabs `table*` as wide as the text; best in bold, second underlined."""
    rows = [r"\begin{table*}[t]", r"\centering", rf"\caption{{{_tex(table.caption)}}}"]
    rows += [rf"\label{{tab:{table.key}}}", r"\resizebox{\textwidth}{!}{%"]
    rows += [rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}", r"\toprule"]
    if table.spans:
        over = [rf"\multicolumn{{{width}}}{{c}}{{{_tex(name)}}}" for name, _, width in table.spans]
        rows.append(" & ".join(["", *over]) + r" \\")
        rows.append("".join(_rules(table)))
    rows.append(" & ".join(_tex(text) for text in [table.first, *(c.label for c in table.columns)]) + r" \\")
    for section in table.sections:
        if not section.lines:
            continue
        rows.append(r"\midrule")
        if section.heading:
            rows.append(
                rf"\multicolumn{{{len(table.columns) + 1}}}{{l}}{{\emph{{{_tex(section.heading)}}}}} \\"
            )
        for line in section.lines:
            name = rf"\quad \textit{{{_tex(line.name)}}}" if line.quiet else _tex(line.name)
            rows.append(" & ".join([name, *(_tex_cell(cell) for cell in line.cells)]) + r" \\")
    rows += [r"\bottomrule", r"\end{tabular}}", r"\begin{flushleft}\footnotesize"]
    rows += [_tex(note) + r"\\" for note in table.notes]
    return "\n".join([*rows, r"\end{flushleft}", r"\end{table*}"]) + "\n"


def to_html(table: Table) -> str:
    """A table whose columns sort when their heading is pressed; notes below."""
    parts = [f'<figure class="table" id="{_esc(table.key)}"><figcaption>{_esc(table.caption)}</figcaption>']
    parts.append('<div class="scroll"><table class="sortable"><thead>')
    if table.spans:
        over = "".join(
            f'<th colspan="{width}" scope="colgroup"{_edge(colour)}>{_esc(name)}</th>'
            for name, colour, width in table.spans
        )
        parts.append(f'<tr class="over"><td></td>{over}</tr>')
    heads = "".join(
        f'<th scope="col" class="n"{_hint(c.hint)}><button>{_esc(c.label)}</button></th>'
        for c in table.columns
    )
    parts.append(f'<tr><th scope="col"><button>{_esc(table.first)}</button></th>{heads}</tr></thead><tbody>')
    for section in table.sections:
        if section.heading and section.lines:
            width = len(table.columns) + 1
            parts.append(f'<tr class="section"><th colspan="{width}">{_esc(section.heading)}</th></tr>')
        for line in section.lines:
            cells = "".join(_html_cell(cell) for cell in line.cells)
            quiet = ' class="quiet"' if line.quiet else ""
            parts.append(f'<tr{quiet}><th scope="row">{_esc(line.name)}</th>{cells}</tr>')
    notes = "".join(f"<li>{_esc(note)}</li>" for note in table.notes)
    parts.append(
        "</tbody></table></div>" + (f'<ul class="notes">{notes}</ul>' if notes else "") + "</figure>"
    )
    return "".join(parts)


def _before(table: Table) -> Iterator[tuple[Column, str]]:
    before = ""
    for column in table.columns:
        yield column, before
        before = column.over


def _rules(table: Table) -> Iterator[str]:
    start = 2
    for name, _, width in table.spans:
        if name:
            yield rf"\cmidrule(lr){{{start}-{start + width - 1}}}"
        start += width


def _md(text: str) -> str:
    return visible(text).translate(MARKDOWN)


def _md_cell(cell: Cell) -> str:
    marks = {"best": "**", "second": "*", None: ""}[cell.mark]
    return f"{marks}{_md(cell.text)}{marks}"


def _tex(text: str) -> str:
    return visible(text).translate(LATEX)


def _tex_cell(cell: Cell) -> str:
    command = {"best": r"\textbf{%s}", "second": r"\underline{%s}", None: "%s"}[cell.mark]
    return command % _tex(cell.text)


def _html_cell(cell: Cell) -> str:
    value = "" if cell.number is None else f' data-n="{cell.number!r}"'
    mark = f" {cell.mark}" if cell.mark else ""
    return f'<td class="n{mark}"{value}{_hint(cell.hint)}>{_esc(cell.text)}</td>'


def _hint(text: str) -> str:
    return f' title="{_esc(text)}"' if text else ""


def _edge(colour: str) -> str:
    return f' style="border-bottom-color:{_esc(colour)}"' if colour else ""


def _esc(text: str) -> str:
    return html.escape(visible(text))
