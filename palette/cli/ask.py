"""`palette ask`: a country and a question go in; drafts, account, decision and blend come out."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, cast

import click

from cultural_palette.cli.knob_flags import knob_options
from cultural_palette.cli.lookup import map_option
from cultural_palette.cli.refs import SAMPLING_FORM, refs_of, sampling_of
from cultural_palette.cli.text import echo, echo_json
from cultural_palette.errors import ModelError, QuestionError, SettingsError, UsageError
from cultural_palette.knobs import SAMPLING

if TYPE_CHECKING:
    from cultural_palette.cli.display import View
    from cultural_palette.cli.local_servers import Search
    from cultural_palette.nodes.state import PaletteInput
    from cultural_palette.settings import Settings

MOST_BYTES = 1_000_000  # of standard input; a question may be far shorter
SHOWN = (
    "country", "query", "options", "drafts", "regulated", "answer", "distribution", "option_mass", "blend",
    "degraded", "usage", "notes", "readout", "blend_layers", "determinism",
)  # fmt: skip


@click.command()
@click.argument("question", required=False)
@click.option("-c", "--country", required=True, help="ISO code or name, in any survey's spelling.")
@click.option(
    "-o",
    "--option",
    "options",
    multiple=True,
    metavar="TEXT",
    help="An answer to choose from; repeat, 2 to 40. None: free.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output, nothing else.")
@click.option(
    "--stream/--no-stream", default=True, help="Show drafts as they arrive, or everything at the end."
)
@click.option(
    "--variant",
    default="palette",
    show_default=True,
    metavar="NAME",
    help="The method, an ablation, a baseline or a control: 'palette graph --list' tells all.",
)
@map_option
@click.option(
    "--base-url",
    metavar="URL",
    help="OpenAI-compatible server; its only model plays every part unless --model names one.",
)
@click.option(
    "--set",
    "parts",
    multiple=True,
    metavar="PART=REF",
    help="One part's model: 'africa=openai:africa@http://127.0.0.1:8000/v1', 'meta=...'; repeat.",
)
@click.option(
    "--sampling",
    "sampling",
    multiple=True,
    metavar=SAMPLING_FORM,
    help=f"How drafts ('draft') and all other replies ('meta') are drawn: {', '.join(SAMPLING)}; repeat.",
)
@knob_options
def ask(
    question: str | None,
    country: str,
    options: tuple[str, ...],
    as_json: bool,
    stream: bool,
    variant: str,
    map_name: str | None,
    base_url: str | None,
    parts: tuple[str, ...],
    sampling: tuple[str, ...],
    **knobs: Any,
) -> None:
    """Ask QUESTION as people in a country would answer it.

    Without QUESTION, or with '-', it is read from standard input.

    \b
    palette ask --country KEN "What do people eat at a wedding?"
    palette ask -c NZL -o Freedom -o Equality "Which matters more to people?"
    """
    from cultural_palette.collector import collector_paused
    from cultural_palette.countries import find_country
    from cultural_palette.cultural_map import load_map
    from cultural_palette.models import make_ready, resolve_parts
    from cultural_palette.questions import Question
    from cultural_palette.settings import get_settings, use_settings

    to_ask = Question(_text(question), options)
    place = find_country(country)
    settings = get_settings(
        map=map_name,
        base_url=base_url,
        models=refs_of("--set", parts, "PART=REF", "africa=openai:gpt-4o-mini") or None,
        sampling=sampling_of(sampling) or None,
        **knobs,
    )
    if base_url and not settings.model and not settings.models:
        settings = settings.model_copy(update={"model": only_model(settings)})
    cultural_map = load_map(settings.map)
    with use_settings(settings):
        make_ready(
            resolve_parts(cultural_map, settings.models, settings.model),
            lambda line: echo(f"{line} ..", err=True),
        )
    search = None
    if not as_json and not settings.model and not settings.models:
        from cultural_palette.cli.local_servers import Search

        search = Search()

    import asyncio

    with use_settings(settings):
        view = _view(as_json, stream, place.name, to_ask, cultural_map)
        inputs: PaletteInput = {"country": place.iso3, "query": to_ask.text, "options": list(to_ask.options)}
        try:
            with view, collector_paused():
                result = asyncio.run(_run(variant, cultural_map, inputs, view))
                view.result(result)
        finally:
            _tell_of(search)
    if as_json:
        echo_json({key: result.get(key) for key in SHOWN})
    if result.get("answer") is None:
        raise ModelError(
            f"No readable answer: {' '.join(result.get('degraded') or ['the model gave none.'])}"
        )


async def _run(variant: str, cultural_map: Any, inputs: PaletteInput, view: View) -> dict[str, Any]:
    """Stream one run of the graph into the view; the final state. Closes the HTTP client of this loop."""
    from cultural_palette.graph.variants import build_variant
    from cultural_palette.models import close_clients

    result: dict[str, Any] = {}
    graph = build_variant(variant, cultural_map)
    try:
        async for part in graph.astream(inputs, stream_mode=["messages", "updates", "values", "custom"]):
            mode, chunk = cast(tuple[str, Any], part)
            if mode == "messages":
                message, metadata = chunk
                view.token(metadata["langgraph_node"], message.text)
            elif mode == "custom":
                if chunk["type"] == "models_loading":
                    view.loading(chunk["models"])
            elif mode == "updates":
                for node, update in chunk.items():
                    view.finished(node, update or {})
            else:
                result = chunk
    finally:
        await close_clients()
    return result


def _tell_of(search: Search | None) -> None:
    """Larger models that run on this machine already, and the flag that asks them."""
    if search is not None:
        from cultural_palette.cli.local_servers import in_words

        for server in search.servers():
            echo(in_words(server), err=True)


def _text(question: str | None) -> str:
    """The question as given, or from standard input."""
    if question is None and sys.stdin.isatty():
        raise UsageError("No question: give one as an argument, or pipe it in.")
    if question is not None and question != "-":
        return question
    raw = sys.stdin.buffer.read(MOST_BYTES + 1)
    if len(raw) > MOST_BYTES:
        raise QuestionError(
            f"Standard input has more than {MOST_BYTES:,} bytes; a question is a few sentences."
        )
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise QuestionError(
            f"Standard input is not UTF-8: byte 0x{raw[error.start]:02x} at position {error.start}. "
            "Convert it first, for example with 'iconv -f latin1 -t utf-8'."
        ) from None


def only_model(settings: Settings) -> str:
    """The one model that the server of --base-url has; with several, the person has to say which."""
    from cultural_palette.cli.server import served_models

    assert settings.base_url is not None
    names = served_models(settings.base_url, settings)
    if len(names) == 1:
        return f"openai:{names[0]}"
    raise SettingsError(
        f"{settings.base_url} serves {len(names)} models. Name one with --model: "
        + ", ".join(f"'openai:{name}'" for name in names[:20])
        if names
        else f"{settings.base_url} serves no model."
    )


def _view(as_json: bool, stream: bool, country: str, question: Any, cultural_map: Any) -> View:
    if as_json:
        from cultural_palette.cli.display import View

        return View()
    from cultural_palette.cli.display import open_view

    return open_view(country, question, cultural_map, stream)
