"""`palette ui`: the page in a browser, on this machine."""

from __future__ import annotations

import click

from cultural_palette.cli.lookup import map_option
from cultural_palette.cli.refs import refs_of
from cultural_palette.cli.text import echo


@click.command()
@click.option(
    "--port", type=click.IntRange(1, 65535), help="Port on 127.0.0.1.  [default: 2024, or a free one]"
)
@click.option(
    "--open/--no-open", "open_page", default=True, show_default=True, help="Open the page in a browser."
)
@map_option
@click.option(
    "--model", metavar="REF", help="One model for every part, by prompt alone: 'openai:gpt-4o-mini'."
)
@click.option("--base-url", metavar="URL", help="OpenAI-compatible server of these models.")
@click.option(
    "--set",
    "parts",
    multiple=True,
    metavar="PART=REF",
    help="One part's model: 'africa=openai:africa@http://127.0.0.1:8000/v1', 'meta=...'; repeat.",
)
@click.option(
    "--survey",
    metavar="PATH",
    help="Survey shown beside the answers to its questions: a file or folder as 'palette evaluate' reads it.",
)
def ui(
    port: int | None,
    open_page: bool,
    map_name: str | None,
    model: str | None,
    base_url: str | None,
    parts: tuple[str, ...],
    survey: str | None,
) -> None:
    """Ask in a browser: a page of its own, with drafts as they come, on 127.0.0.1 only.

    Nothing is fetched from elsewhere but the models' replies. Ctrl+C stops it.
    """
    import json

    from cultural_palette.cli.ask import only_model
    from cultural_palette.cultural_map import load_map
    from cultural_palette.settings import get_settings
    from cultural_palette.ui.serve import serve_page

    models = refs_of("--set", parts, "PART=REF", "africa=openai:gpt-4o-mini") or None
    settings = get_settings(map=map_name, model=model, base_url=base_url, models=models)
    load_map(settings.map)  # a map that can not be read is said before the server starts
    if survey is not None:
        _show(survey)
    if base_url and not settings.model and not settings.models:
        model = only_model(settings)
    given = {
        "PALETTE_MAP": map_name,
        "PALETTE_MODEL": model,
        "PALETTE_BASE_URL": base_url,
        "PALETTE_MODELS": json.dumps(models) if models else None,
    }

    def ready(url: str) -> None:
        echo(f"Cultural Palette: {url}  (Ctrl+C stops it)")
        if open_page:
            click.launch(url)

    echo("Starting the server ...")
    serve_page(settings, port, {name: value for name, value in given.items() if value is not None}, ready)


def _show(path: str) -> None:
    """The survey at `path` beside the answers."""
    from cultural_palette.evaluation.surveys import load_survey
    from cultural_palette.ui.survey import ShownSurvey, Surveyed, show_survey

    survey = load_survey(path)
    answers = [
        Surveyed(
            item.question.text,
            item.country,
            dict(zip(item.question.options, item.gold.probabilities, strict=True)),
            item.label,
        )
        for item in survey.items
    ]
    show_survey(ShownSurvey(survey.name, answers))
