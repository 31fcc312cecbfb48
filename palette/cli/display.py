"""How an answer looks: on a terminal drafts stream into coloured panels, elsewhere it is plain text.

A View follows one run: `token` while models write, `finished` when a node is done, `result` at the end.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.panel import Panel
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from cultural_palette.cli.text import echo, visible
from cultural_palette.cultural_map import Community, CulturalMap
from cultural_palette.models.thoughts import without_thoughts
from cultural_palette.questions import Question

WIDEST = 100  # columns; longer lines are hard to read
FRAMES_PER_SECOND = 12
EIGHTHS = " ▏▎▍▌▋▊▉█"
INTAKE, DRAFT = "intake", "draft_"


def make_console() -> Console:
    """Standard output, at most 100 columns wide. Rich honours NO_COLOR and TERM=dumb."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a terminal without UTF-8 shows "?", not a traceback
    console = Console(highlight=False, emoji=False, markup=False)
    console.width = min(console.width, WIDEST)
    return console


def open_view(country: str, question: Question, cultural_map: CulturalMap, stream: bool) -> View:
    """The view that fits standard output: panels that fill on a terminal, plain text elsewhere."""
    console = make_console()
    scene = Scene(console, country, question, cultural_map)
    if not stream:
        return TextView(scene, as_it_comes=False)
    return LiveView(scene) if scene.rich else TextView(scene, as_it_comes=True)


class View:
    """Shows nothing; the others say what they show."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def loading(self, models: Sequence[str]) -> None:
        """Weights are read into this process first."""

    def token(self, node: str, text: str) -> None:
        """A node's model wrote `text`."""

    def finished(self, node: str, update: Mapping[str, Any]) -> None:
        """A node is done and changed the state so."""

    def result(self, state: Mapping[str, Any]) -> None:
        """The run is over."""


class Scene:
    """What there is to draw, for a terminal (`rich`) or for plain text."""

    def __init__(self, console: Console, country: str, question: Question, cultural_map: CulturalMap) -> None:
        self.console = console
        self.country = country
        self.question = question
        self.map = cultural_map
        self.rich = console.is_terminal and not console.is_dumb_terminal
        self.ascii = not (console.encoding or "").lower().startswith("utf")
        self.start = time.perf_counter()
        self.reasons: set[str] = set()

    def header(self) -> RenderableType:
        """The country, the question and its options."""
        title = Text.assemble((visible(self.country), "bold"), "  ", visible(self.question.text))
        rows: list[RenderableType] = [title]
        if self.question.options:
            choices = Text("   ").join(
                Text.assemble((f"{label} ", "dim"), visible(option))
                for label, option in zip(self.question.labels, self.question.options, strict=True)
            )
            rows.append(choices)
        return Group(*rows, "")

    def draft(self, community: Community, draft: Mapping[str, Any]) -> RenderableType:
        """One finished draft, or why there is none."""
        text = draft["text"] if draft["error"] is None else draft["error"]
        return self.section(community.name, Text(visible(text)), community.colour, self.took(draft))

    def is_news(self, draft: Mapping[str, Any]) -> bool:
        """Whether a finished draft says what was not said yet: a server that is down is one fault, not five.
        What is degraded, or the error, names all whom it concerns.
        """
        reason = draft["error"]
        if reason is None:
            return True
        known = reason in self.reasons
        self.reasons.add(reason)
        return not known

    def took(self, draft: Mapping[str, Any]) -> str:
        """How long a draft took, and whether it came."""
        return (
            f"{draft['seconds']:.1f} s" if draft["error"] is None else f"no draft, {draft['seconds']:.1f} s"
        )

    def writing(self, community: Community, text: str, lines: int, note: str = "writing") -> RenderableType:
        """A draft under way: the end of what is written, in at most `lines` lines."""
        text = without_thoughts(text)
        body = Text(visible(text)) if text else Text("thinking ...", style="dim")
        wrapped = body.wrap(self.console, self.console.width - 4)
        tail = Text("\n").join(wrapped[-lines:])
        return self.section(community.name, tail, community.colour, note if text else "")

    def section(self, title: str, body: RenderableType, colour: str = "", note: str = "") -> RenderableType:
        """A titled block: a panel on a terminal, a heading and an indented body in plain text."""
        if not self.rich:
            heading = f"{title} ({note})" if note else title
            return Group(heading, Padding(body, (0, 0, 0, 2)), "")
        return Panel(
            body,
            box=box.ROUNDED,
            title=Text(title, style=f"bold {colour}"),
            title_align="left",
            subtitle=Text(note, style="dim") if note else None,
            subtitle_align="right",
            border_style=colour,
            padding=(0, 1),
            width=self.console.width,
        )

    def account(self, text: str) -> RenderableType:
        """The regulated account."""
        return self.section(f"{self.country}, distilled", Text(visible(text)))

    def decision(self, state: Mapping[str, Any]) -> Iterator[RenderableType]:
        """Answer, distribution, blend, notes, and what it cost."""
        answer = state.get("answer")
        if answer is None:
            shown = Text("no readable answer", style="bold red")
        else:
            shown = Text(visible(answer), style="bold" if state.get("options") else "")
        if distribution := state.get("distribution"):
            styles = {option: "bold" if option == answer else "" for option in distribution}
            spread = self.spread(state)
            moved = ["", spread] if spread else []
            body = Group(shown, "", self.bars(distribution, {}, styles), *moved)
            yield self.section("Decision", body, note=self.reading(state))
        else:
            yield self.section("Decision", shown)
        if blend := state.get("blend"):
            names = {c.key: c.name for c in self.map.communities}
            colours = {c.name: c.colour for c in self.map.communities}
            named = {names.get(key, key): weight for key, weight in blend.items()}
            yield self.section("Blend of communities", self.bars(named, colours, {}))
        for text in state.get("degraded") or ():
            yield Text.assemble(("Degraded  ", "bold red" if self.rich else ""), visible(text))
        for text in state.get("notes") or ():
            yield Text.assemble(("Note  ", "bold yellow" if self.rich else ""), visible(text))
        yield Text(self.cost(state), style="dim")

    def reading(self, state: Mapping[str, Any]) -> str:
        """How the distribution was read."""
        readout = state.get("readout") or {}
        mass, method = state.get("option_mass"), readout.get("method")
        orders = readout.get("permutations")
        mean = f"mean of {orders['orders'] - orders['unreadable']} orders of the options; " if orders else ""
        if method == "sampling":
            return f"{mean}from {readout.get('samples')} samples, {readout.get('unreadable', 0)} unreadable"
        return f"{mean}{100 * mass:.1f} % of the model's probability fell on them" if mass is not None else ""

    def spread(self, state: Mapping[str, Any]) -> RenderableType | None:
        """What the order of the options changed; None when there was one order."""
        orders = (state.get("readout") or {}).get("permutations") or {}
        if not orders.get("spread"):
            return None
        option, most = max(orders["spread"].items(), key=lambda item: item[1])
        plus_minus = "+-" if self.ascii else "±"
        summary = (
            f"Over the orders the same option leads in {100 * orders['mode_agreement']:.0f} %; "
            f"most moved: {visible(option)}, {plus_minus} {100 * most:.1f} points."
        )
        return Text(summary, style="dim")

    def bars(
        self, values: Mapping[str, float], colours: Mapping[str, str], styles: Mapping[str, str]
    ) -> RenderableType:
        """A row for each share (0..1): name, bar, percent. The longest bar is 100 %."""
        names = min(max(map(len, values)), 36)
        inner = self.console.width - (4 if self.rich else 2)
        room = max(inner - names - 12, 8)
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(width=names, overflow="fold")
        table.add_column(width=room, no_wrap=True)
        table.add_column(justify="right", width=7, no_wrap=True)
        for name, share in values.items():
            style = styles.get(name, "")
            table.add_row(
                Text(visible(name), style=style),
                Text(self.bar(share, room), style=colours.get(name, "cyan" if self.rich else "")),
                Text(f"{100 * share:.1f} %", style=style),
            )
        return table

    def bar(self, share: float, width: int) -> str:
        """A bar of `share` (0..1) of `width` columns, to an eighth of a column."""
        if self.ascii:
            return "#" * round(share * width)
        full, rest = divmod(round(share * width * 8), 8)
        return EIGHTHS[8] * full + (EIGHTHS[rest] if rest else "")

    def cost(self, state: Mapping[str, Any]) -> str:
        """Time, tokens, and the models that drafted."""
        usage = state.get("usage") or {}
        models = sorted({_family(draft["model"]) for draft in (state.get("drafts") or {}).values() if draft})
        parts = [f"{time.perf_counter() - self.start:.1f} s"]
        if usage.get("input_tokens") or usage.get("output_tokens"):
            parts.append(f"{usage['input_tokens']:,} tokens read, {usage['output_tokens']:,} written")
        if models:
            parts.append(", ".join(models) if len(models) <= 2 else f"{len(models)} models")
        return (" | " if self.ascii else " · ").join(parts)


class TextView(View):
    """Plain text: each part when it is done (`as_it_comes`), or all at the end."""

    def __init__(self, scene: Scene, *, as_it_comes: bool) -> None:
        self.scene, self.as_it_comes = scene, as_it_comes
        self.account: str | None = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and self.account:  # it came, though no answer did
            self._print(self.scene.account(self.account))

    def finished(self, node: str, update: Mapping[str, Any]) -> None:
        """Print the question once intake has taken it, then each draft."""
        if self.as_it_comes:
            if node == INTAKE:
                self._print(self.scene.header())
            self._print_drafts(dict(_drafts(node, update)))
            self.account = update.get("regulated") or self.account

    def loading(self, models: Sequence[str]) -> None:
        """Say so beside the answer."""
        if self.as_it_comes:
            echo(f"Reading {', '.join(models)} into memory ...", err=True)

    def result(self, state: Mapping[str, Any]) -> None:
        """Print what is still to be shown."""
        if not self.as_it_comes:
            self._print(self.scene.header())
            self._print_drafts(state.get("drafts") or {})
        self.account = None
        if account := _own_account(state):
            self._print(self.scene.account(account))
        for part in self.scene.decision(state):
            self._print(part)

    def _print_drafts(self, drafts: Mapping[str, Mapping[str, Any] | None]) -> None:
        for key, draft in drafts.items():
            if draft and self.scene.is_news(draft):
                self._print(self.scene.draft(self.scene.map.community(key), draft))

    def _print(self, part: RenderableType) -> None:
        console = self.scene.console
        if self.scene.rich:
            console.print(part)
            return
        with console.capture() as capture:
            console.print(part)
        for line in capture.get().splitlines():
            console.file.write(line.rstrip() + "\n")  # rich fills lines up with spaces
        console.file.flush()


class LiveView(View):
    """On a terminal: panels fill while the models write; what is done scrolls up and stays.

    While models write, panels show the end of each text so that all fit on the screen; done, all of it.
    """

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.written: dict[str, str] = {}
        self.drafts: dict[str, Mapping[str, Any]] = {}
        self.account = ""
        self.drafting = True
        self.is_loading = False
        self.live = Live(
            console=scene.console,
            refresh_per_second=FRAMES_PER_SECOND,
            transient=True,
            get_renderable=self._frame,
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.live.stop()
        if error is not None and self.account:  # it came, though no answer did
            self.scene.console.print(self.scene.account(self.account))

    def loading(self, models: Sequence[str]) -> None:
        """Say so in the panels, until the first token."""
        self.is_loading = True

    def token(self, node: str, text: str) -> None:
        """Let the text grow."""
        self.is_loading = False
        self.written[node] = self.written.get(node, "") + text

    def finished(self, node: str, update: Mapping[str, Any]) -> None:
        """Open when intake has taken the question; let all drafts stay once they are done."""
        if node == INTAKE:
            self.scene.console.print(self.scene.header())
            self.live.start()
        self.drafts.update(_drafts(node, update))
        if self.drafting and not node.startswith(DRAFT) and node != INTAKE:
            self.drafting = False
            for community in self.scene.map.communities:
                draft = self.drafts.get(community.key)
                if draft and self.scene.is_news(draft):
                    self.live.console.print(self.scene.draft(community, draft))
        if update.get("regulated"):
            self.account = update["regulated"]

    def result(self, state: Mapping[str, Any]) -> None:
        """Print the decision below."""
        self.live.stop()
        self.account = ""
        if account := _own_account(state):
            self.scene.console.print(self.scene.account(account))
        for part in self.scene.decision(state):
            self.scene.console.print(part)

    def _frame(self) -> RenderableType:
        if self.drafting:
            return Group(*self._panels())
        node, doing = ("decide", "deciding") if self.account else ("regulate", "distilling")
        text = self.written.get(node, "")
        if node == "regulate" and text:
            return self.scene.account(text)
        spinner = Spinner("dots", Text(f" {doing} ...", style="dim"))
        return Group(self.scene.account(self.account), spinner) if self.account else spinner

    def _panels(self) -> Iterator[RenderableType]:
        communities: Sequence[Community] = self.scene.map.communities
        lines = max(1, (self.scene.console.height - 1) // len(communities) - 2)
        for community in communities:
            if done := self.drafts.get(community.key):
                text = done["text"] or done["error"] or ""
                yield self.scene.writing(community, text, lines, self.scene.took(done))
            else:
                text = self.written.get(DRAFT + community.key, "")
                yield self.scene.writing(community, text, lines, "loading" if self.is_loading else "writing")


def map_view(cultural_map: CulturalMap, *, whole: bool) -> RenderableType:
    """A map: its communities with their colours; with `whole`, their countries too."""
    rows = Table.grid(padding=(0, 2, 0, 0))
    rows.add_column(no_wrap=True)
    rows.add_column(no_wrap=True)
    rows.add_column(justify="right", no_wrap=True)
    rows.add_column()
    for community in cultural_map.communities:
        countries = Text(" ".join(community.countries), style="dim") if whole else Text("")
        name = Text.assemble(("██ ", community.colour), community.name)
        rows.add_row(
            name, Text(community.key, style="dim"), f"{len(community.countries)} countries", countries
        )
    title = Text.assemble((cultural_map.key, "bold"), f"  {cultural_map.name}")
    source = [Text(cultural_map.source, style="dim")] if cultural_map.source else []
    return Group(title, *source, Padding(rows, (0, 0, 1, 2)))


def _own_account(state: Mapping[str, Any]) -> str | None:
    """The account, where it says something else than the answer itself."""
    account = state.get("regulated")
    return account if account and account != state.get("answer") else None


def _drafts(node: str, update: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """The finished drafts in a draft node's update."""
    return list(update.get("drafts", {}).items()) if node.startswith(DRAFT) else []


def _family(model: str) -> str:
    """A model as the last line names it: the embedded palette as one, others by their own name."""
    from cultural_palette.models import ModelRef

    return model.rpartition("/")[0] if ModelRef.parse(model).in_process else model
