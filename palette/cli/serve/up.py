"""`palette serve up`: start what is not running, wait, print the client's settings; or show the commands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from cultural_palette.cli.serve.folder import HOME, folder_option, open_fleet
from cultural_palette.cli.text import echo
from cultural_palette.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from cultural_palette.serving.devices import Device
    from cultural_palette.serving.fleet import Fleet
    from cultural_palette.serving.manifest import ServedPalette
    from cultural_palette.serving.plan import ServingPlan

SETTINGS_HEADER = "# Written by palette serve up"
WATCH_INTERVAL_S = 2.0
FORMATS = ("shell", "compose", "settings", "kubernetes", "ray-serve")
REPLICATED = ("kubernetes", "ray-serve")
DTYPES = ("auto", "float32", "bfloat16", "float16")


@click.command()
@click.argument("palette", default="nano")
@folder_option
@click.option("--device", type=click.Choice(("auto", "cuda", "cpu")), default="auto", show_default=True)
@click.option(
    "--python", metavar="FILE", help="The Python that has vLLM.  [default: this one, ./.venv-vllm, or vllm's]"
)
@click.option(
    "--host", metavar="ADDRESS", help="Where the servers listen.  [default: the palette's, 127.0.0.1]"
)
@click.option(
    "--port", type=click.IntRange(0, 65_534), metavar="N",
    help="With --dense the second server gets the next. 0: a free one.  [default: the palette's, 8000]",
)  # fmt: skip
@click.option("--dense", is_flag=True, help="Two servers, with the mixture written out.")
@click.option(
    "--advertise",
    metavar="HOST",
    help="The name by which clients reach this machine, or the address of several replicas (http://...).",
)
@click.option(
    "--dtype", type=click.Choice(DTYPES), help="[default: the palette's; auto on GPUs, float32 on the CPU]"
)
@click.option(
    "--max-model-len",
    type=click.IntRange(64),
    metavar="TOKENS",
    help="[default: what the model reads, up to 8192]",
)
@click.option(
    "--blends",
    type=click.IntRange(0, 256),
    metavar="N",
    help="Blends beside the palette's own that clients may ask for, as long as the server lives: each "
    "country's of --blend fitted:FILE is one.  [default: the palette's, 4]",
)
@click.option("--no-key", is_flag=True, help="Ask clients for no key, even on an open address.")
@click.option(
    "--write",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the client's settings there.",
)
@click.option("--foreground", is_flag=True, help="Stay; when this command ends, so do the servers.")
@click.option(
    "--timeout",
    type=click.FloatRange(1),
    default=1800.0,
    show_default=True,
    metavar="SECONDS",
    help="For the start.",
)
@click.option("--print", "only_print", is_flag=True, help="Show what would be run, and start nothing.")
@click.option(
    "--format",
    "print_format",
    type=click.Choice(FORMATS),
    default="shell",
    show_default=True,
    help="For --print.",
)
@click.option(
    "--gpus",
    type=click.IntRange(1),
    metavar="N",
    help="For --print: lay out for a machine with so many GPUs.",
)
@click.option(
    "--gpu-memory", type=click.FloatRange(1), metavar="GIB", help="For --print: memory of each of them."
)
@click.option(
    "--replicas",
    type=(int, int),
    metavar="LEAST MOST",
    help="For --format kubernetes and ray-serve.  [default: 1 4]",
)
@click.option(
    "--content-names", is_flag=True,
    help="For --print: name agents and MoErges by content; kubernetes and ray-serve always do.",
)  # fmt: skip
def up(
    palette: str, out: Path | None, device: Literal["auto", "cuda", "cpu"], python: str | None,
    host: str | None, port: int | None, dense: bool, advertise: str | None, dtype: str | None,
    max_model_len: int | None, blends: int | None, no_key: bool, write: Path | None, foreground: bool,
    timeout: float, only_print: bool, print_format: str, gpus: int | None, gpu_memory: float | None,
    replicas: tuple[int, int] | None, content_names: bool,
) -> None:  # fmt: skip
    """Start what of PALETTE's servers does not run yet, and wait until it answers.

    PALETTE: nano, a folder with a manifest.json, or a YAML or JSON file (see docs/serving.md). The servers go
    on when this command ends, unless with --foreground. Standard output gets the client's settings, nothing
    else. The servers ask for PALETTE_API_KEY where that is set.

    \b
    palette serve up                                   # nano, on whatever there is
    palette serve up palette.yaml --write palette.toml
    palette serve up palette.yaml --print --gpus 2 --gpu-memory 80
    """
    from dataclasses import replace

    from cultural_palette.embedded.prepare import prepare_part
    from cultural_palette.serving.content_names import name_by_content
    from cultural_palette.serving.manifest import check_folders, read_palette
    from cultural_palette.settings import get_settings

    if (gpus or gpu_memory) and not only_print:
        raise UsageError("--gpus and --gpu-memory describe another machine: they go with --print.")
    if (replicas or content_names) and not only_print:
        raise UsageError("--replicas and --content-names are for several servers: they go with --print.")
    settings = get_settings()
    served = read_palette(palette, dense=dense)
    overrides = {
        "host": host, "dtype": dtype, "max_model_len": max_model_len, "blends": blends, "python": python,
    }  # fmt: skip
    knobs = served.knobs.model_copy(
        update={name: value for name, value in overrides.items() if value is not None}
    )
    served = replace(served, knobs=knobs)
    if not only_print:
        if served.parts is not None:
            prepare_part(served.parts, lambda line: echo(line, err=True))
        check_folders(served)
    folder = out or HOME / served.name
    fleet = open_fleet(folder, settings, no_key=no_key)
    target = _device(device, print_format if only_print else "", gpus, gpu_memory, knobs.python)
    plan = _plan(served, target, fleet, port, no_key)
    if only_print:
        if content_names or print_format in REPLICATED:
            plan = name_by_content(plan, served)
        _print(plan, served, print_format, advertise, fleet.key is not None, replicas)
        return
    if write is not None:
        _check_writable(write)
    _up(fleet, plan, served, timeout, lambda: _ready(plan, fleet, advertise, write, foreground), foreground)


def _up(
    fleet: Fleet,
    plan: ServingPlan,
    palette: ServedPalette,
    timeout: float,
    ready: Callable[[], None],
    foreground: bool,
) -> None:
    """Start, wait, and with `foreground` stay. SIGTERM, and the terminal's end, are as good as Ctrl-C: what
    was started is ended.
    """
    import signal

    from cultural_palette.serving.install import find_vllm

    vllm = find_vllm(palette.knobs.python)
    if vllm.cpu != (plan.device.kind == "cpu"):
        raise UsageError(
            f"{vllm.python} has {vllm.distribution} {vllm.version}, which does not run on {plan.device}: "
            "name another Python with --python, or another --device."
        )

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            signal.signal(number, interrupt)
    echo(f"{palette.name} on {plan.device}, vLLM {vllm.version}; logs in {fleet.folder}", err=True)
    fleet.up(plan, vllm.command, timeout_s=timeout, progress=_progress, guarded=foreground)
    try:
        ready()
        if foreground:
            _stay(fleet)
    finally:
        if foreground:
            fleet.stop()


def _stay(fleet: Fleet) -> None:
    """Until interrupted, or a server dies: then the other is to end too, so that a supervisor starts both."""
    import time

    from cultural_palette.serving.manifest import ServingError

    while True:
        time.sleep(WATCH_INTERVAL_S)
        healths = fleet.status()
        if not healths:
            raise ServingError("The servers were stopped by another command.")
        if dead := [health for health in healths if health.state == "dead"]:
            raise ServingError(
                f"The server {dead[0].name!r} died; see {dead[0].log}. What else ran was stopped."
            )


def _ready(
    plan: ServingPlan, fleet: Fleet, advertise: str | None, write: Path | None, foreground: bool
) -> None:
    from cultural_palette.artifacts import write_whole

    text = plan.settings(advertise, key=fleet.key is not None)
    if write is None:
        click.echo(text, nl=False)
    else:
        write_whole(write, text)
        echo(f"Settings written to {write}: 'palette ask' in that folder asks these servers.", err=True)
    end = "Ctrl-C" if foreground else "'palette serve stop'"
    echo(f"'palette serve status' shows the servers, {end} ends them.", err=True)


def _progress(name: str, news: str) -> None:
    echo(f"  {name:<8} {news}", err=True)


def _print(
    plan: ServingPlan, palette: ServedPalette, print_format: str, advertise: str | None, asks_key: bool,
    replicas: tuple[int, int] | None,
) -> None:  # fmt: skip
    if print_format == "settings":
        click.echo(plan.settings(advertise, key=asks_key), nl=False)
        return
    if print_format == "compose":
        import sys

        from cultural_palette.serving.compose import command_line, compose_file

        arguments = ["palette", *sys.argv[1:]]
        click.echo(compose_file(plan, command_line(arguments), Path.cwd()), nl=False)
        return
    if print_format in REPLICATED:
        _print_replicas(plan, print_format, advertise, replicas)
        return
    from cultural_palette.serving.install import LAUNCHER, find_vllm
    from cultural_palette.serving.manifest import ServingError
    from cultural_palette.serving.plan import shell

    try:
        vllm = find_vllm(palette.knobs.python)
        command = vllm.command if vllm.cpu == (plan.device.kind == "cpu") else None
    except ServingError:
        command = None
    if command is None:  # not installed here: as it is where it is
        command = ("vllm",) if plan.device.kind == "cuda" else ("python", str(LAUNCHER))
    for server in plan.servers:
        wait = f", once {server.starts_after} answers" if server.starts_after else ""
        echo(f"# {server.name}: {', '.join(server.models)} at {server.url}{wait}")
        click.echo(shell(server, command, asks_key=asks_key))


def _print_replicas(
    plan: ServingPlan, print_format: str, advertise: str | None, counts: tuple[int, int] | None
) -> None:
    import sys

    from cultural_palette.serving.compose import command_line
    from cultural_palette.serving.kubernetes import Replicas, kubernetes_manifests
    from cultural_palette.serving.ray_serve_config import ray_serve_config

    replicas = Replicas(*counts) if counts else Replicas()
    command = command_line(["palette", *sys.argv[1:]])
    if print_format == "kubernetes":
        click.echo(kubernetes_manifests(plan, command, replicas), nl=False)
    else:
        click.echo(ray_serve_config(plan, command, replicas, advertise), nl=False)


def _device(
    wanted: Literal["auto", "cuda", "cpu"],
    print_format: str,
    gpus: int | None,
    gpu_memory: float | None,
    python: str | None,
) -> Device:
    """What to lay out for: the GPUs described, else what is here and what the vLLM here can use."""
    from cultural_palette.serving.devices import described_gpus, find_device

    if gpus or gpu_memory:
        return described_gpus(gpus or 1, gpu_memory)
    if print_format == "compose":
        return find_device("cuda")
    if wanted == "auto":
        from cultural_palette.serving.install import find_vllm
        from cultural_palette.serving.manifest import ServingError

        try:
            return find_device("cpu" if find_vllm(python).cpu else "auto")
        except ServingError:
            if not print_format:
                raise
    return find_device(wanted)


def _plan(
    palette: ServedPalette, device: Device, fleet: Fleet, port: int | None, no_key: bool
) -> ServingPlan:
    from dataclasses import replace

    from cultural_palette.serving.checkpoint import moerges_checkpoint
    from cultural_palette.serving.placing import LORA, MOERGES, PALETTE
    from cultural_palette.serving.plan import plan_servers
    from cultural_palette.serving.probe import free_ports

    if palette.dense and palette.parts is not None:
        written = moerges_checkpoint(palette.parts, fleet.folder.resolve())
        palette = replace(palette, moerges=written, parts=None)
    ports: dict[str, int] = {}
    if port == 0:
        known = {record.name: int(record.url.rpartition(":")[2]) for record in fleet.records()}
        lora, moerges = free_ports(2)
        ports = {PALETTE: lora, LORA: lora, MOERGES: moerges} | known
    elif port is not None:
        ports = {PALETTE: port, LORA: port, MOERGES: port + 1}
    return plan_servers(palette, device, ports=ports, asks_key=fleet.key is not None, open_to_all=no_key)


def _check_writable(file: Path) -> None:
    """Refuse to write over settings that a person wrote."""
    if file.is_file() and not file.read_text(encoding="utf-8", errors="replace").startswith(SETTINGS_HEADER):
        raise UsageError(
            f"{file} is there and was not written by palette serve: take another file, or move it."
        )
