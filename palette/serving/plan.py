"""A palette's servers, laid out: names, addresses, flags, environment. Nothing is started here.

One server plays every part from one copy of the base, by our plug-in (`vllm_plugin/`). A dense palette takes
two: the base with its adapters, and the mixture written out.

Why each flag is there stands beside it; docs/serving.md tells it at length.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from cultural_palette.knobs import SamplingRole
from cultural_palette.models import BASE, META, PROVIDERS, ModelRef
from cultural_palette.models.references import OPENAI
from cultural_palette.serving.devices import Device
from cultural_palette.serving.manifest import (
    ManifestError,
    ServedPalette,
    ServingError,
    Source,
    content_digest,
    lora_rank,
    lora_targets,
    read_json,
)  # fmt: skip
from cultural_palette.serving.placing import (
    LORA,
    MOERGES,
    PALETTE,
    check_knobs,
    place_on_cores,
    place_on_gpus,
    server_knobs,
)
from cultural_palette.serving.vllm_plugin import ARCHITECTURE, PLUGIN
from cultural_palette.serving.vllm_plugin.config import CONTENT, PluginConfig

PORTS = {PALETTE: 8000, LORA: 8000, MOERGES: 8001}
SITE = Path(__file__).parent.resolve() / "vllm_plugin" / "site"
"""On the path of a vLLM that plays MoErges; see `vllm_plugin/site`."""
LOCAL_VARIABLES = ("CUDA_VISIBLE_DEVICES", "PYTHONPATH", CONTENT)
"""Variables that mean something to this machine and its folders alone."""
DEFAULT_MAX_MODEL_LEN = 8192
"""Tokens that a request may have, where the model reads more: five drafts of 1,024 and what surrounds them.
"""
KEY_VARIABLE = "VLLM_API_KEY"
WILDCARD_HOSTS = ("0.0.0.0", "::")


@dataclass(frozen=True)
class ServerSpec:
    """One vLLM server. `models`: names it serves; `flags`: all but the model and its adapters; `router`: the
    file whose router `blend` mixes them to MoErges here, None for a server that does not; `starts_after`: a
    server that has to be up before this one starts; `names` and `content`: see `content_names.py`. The
    environment holds no key.
    """

    name: str
    model: Source
    models: tuple[str, ...]
    adapters: Mapping[str, Source]
    host: str
    port: int
    flags: tuple[str, ...]
    environment: Mapping[str, str]
    gpus: tuple[str, ...] = ()
    starts_after: str | None = None
    palette: str = ""
    router: Path | None = None
    blend: str = ""
    names: Mapping[str, str] = field(default_factory=dict)
    content: str = ""
    fused: bool = False

    @property
    def url(self) -> str:
        """Where this machine reaches it."""
        return f"http://{'127.0.0.1' if self.host in WILDCARD_HOSTS else self.host}:{self.port}"

    def arguments(self, location: Callable[[Source], str] = str) -> list[str]:
        """What follows `vllm`. `location`: where a source lies for the process that will read it."""
        loras = [f"{self.names.get(name, name)}={location(source)}" for name, source in self.adapters.items()]
        configured: list[str] = []
        if self.router is not None:
            folders = {name: location(source) for name, source in self.adapters.items()}
            config = PluginConfig(self.palette, folders, location(self.router), self.blend, self.fused)
            configured = ["--additional-config", json.dumps(config.as_flag(), separators=(",", ":"))]
        lora_modules = ["--lora-modules", *loras] if loras else []
        return ["serve", location(self.model), *self.flags, *configured, *lora_modules]


@dataclass(frozen=True)
class ServingPlan:
    """A palette's servers, in the order in which they start. `sampling`: as the palette's clients draw.
    `prompts`: the folder of the words in which they ask.
    """

    palette: str
    cultural_map: str
    device: Device
    servers: tuple[ServerSpec, ...]
    max_model_len: int
    sampling: Mapping[SamplingRole, Mapping[str, Any]] = field(default_factory=dict)
    prompts: Path | None = None

    @property
    def max_tokens(self) -> int:
        """Longest reply with which all communities' drafts still fit into one prompt with its own reply."""
        drafts = len(self.servers[0].adapters)
        return max(16, min(PROVIDERS[OPENAI].max_tokens, (self.max_model_len - 256) // (drafts + 1)))

    def refs(self, host: str | None = None) -> dict[str, str]:
        """Part -> model as the settings write it. `host`: the name under which clients reach this machine, or
        the whole address where they reach one server's replicas, without /v1.
        """
        refs: dict[str, str] = {}
        for server in self.servers:
            url = server.url if not host else host if "://" in host else f"http://{host}:{server.port}"
            own_names = {name: own for own, name in server.names.items()}
            for model in server.models:
                own_name = own_names.get(model, model)
                part = META if own_name == MOERGES else own_name
                refs[part] = str(ModelRef(OPENAI, model, f"{url}/v1"))
        return {part: refs[part] for part in sorted(refs, key=lambda part: (part in (META, BASE), part))}

    def settings(self, host: str | None = None, *, key: bool = False) -> str:
        """palette.toml for a client of these servers; without the key, which has no place in a file."""
        lines = [
            f"# Written by palette serve up: the palette {self.palette!r}, served by vLLM.",
            *(
                ["# The servers ask for a key: set PALETTE_API_KEY to the one they were started with."]
                if key
                else []
            ),
            f"map = {json.dumps(self.cultural_map)}",
            *([] if self.sampling else [f"max_tokens = {self.max_tokens}"]),
            *([f"prompts = {json.dumps(str(self.prompts))}"] if self.prompts else []),
            *self._blend(),
            *self._sampling(),
            "",
            "[models]",
            *(f"{part} = {json.dumps(ref)}" for part, ref in self.refs(host).items()),
        ]
        return "\n".join(lines) + "\n"

    def _sampling(self) -> Iterator[str]:
        """The palette's own way of drawing its replies, for each role; none longer than the window allows."""
        for role in get_args(SamplingRole) if self.sampling else ():
            shape = {"max_tokens": self.max_tokens, **self.sampling.get(role, {})}
            shape["max_tokens"] = min(shape["max_tokens"], self.max_tokens)
            yield from ("", f"[sampling.{role}]", *(f"{name} = {value}" for name, value in shape.items()))

    def _blend(self) -> list[str]:
        """How to get the blend as well of a dense MoErges, which its server does not tell: a line to take in
        by hand, for its price.
        """
        moerges = self.servers[-1].model
        if self.servers[-1].router is not None or not isinstance(moerges, Path):
            return []
        return [
            "# With this the client reads the blend itself; it loads the whole MoErges for that:",
            f"# blend_checkpoint = {json.dumps(str(moerges))}",
        ]


def plan_servers(
    palette: ServedPalette,
    device: Device,
    *,
    ports: Mapping[str, int] | None = None,
    asks_key: bool = False,
    open_to_all: bool = False,
) -> ServingPlan:
    """Lay out the servers of `palette` on `device`: one, or two for a dense one.

    A dense palette's `moerges` has to be there (see `checkpoint.py`). `ports` win over the manifest's.
    `open_to_all`: other machines may reach servers that ask for no key. Raises ManifestError and
    ServingError: adapters that vLLM does not serve, GPUs that are not there or too small, a port used twice,
    an open address without a key.
    """
    knobs = palette.knobs
    assert not palette.dense or palette.moerges is not None, "write the checkpoint first"
    if not asks_key and not open_to_all and knobs.host not in ("127.0.0.1", "localhost", "::1"):
        raise ServingError(
            f"The address {knobs.host} is open to other machines, and the servers would ask for no key: set "
            "PALETTE_API_KEY, or say --no-key if your network keeps others out."
        )
    check_knobs(palette)
    sources = _sources(palette)
    max_model_len = _max_model_len(palette, sources.values())
    chosen = {
        name: (ports or {}).get(name) or server_knobs(palette, name).port or PORTS[name] for name in sources
    }
    if len(set(chosen.values())) < len(chosen):
        raise ManifestError(f"Both servers would take port {chosen[LORA]}: give each its own.")
    if device.kind == "cuda":
        placements = place_on_gpus(palette, device, sources)
    else:
        placements = place_on_cores(palette, device, max_model_len, tuple(sources))
    servers = []
    for name, model in sources.items():
        placement = placements[name]
        adapters = {} if name == MOERGES else palette.adapters
        flags = [
            *("--host", knobs.host, "--port", str(chosen[name])),
            # Of the one server, whatever names no adapter is the MoErges; the base has a name of its own.
            *("--served-model-name", BASE if name == LORA else MOERGES),
            *placement.flags,
            *("--max-model-len", str(max_model_len)),
            # vLLM's own sampling defaults, not those that a model's author wrote into generation_config.json.
            *("--generation-config", "vllm"),
            # Prompts that begin alike share the work of their beginning.
            "--enable-prefix-caching",
            *("--structured-outputs-config", '{"backend":"xgrammar","disable_any_whitespace":true}'),
            "--disable-uvicorn-access-log",
            *(("--max-num-seqs", str(knobs.max_num_seqs)) if knobs.max_num_seqs else ()),
            *(_plugin_flags() if name == PALETTE else ()),
            # The base, and blends beside the palette's own, bear names of adapters that change nothing.
            *(
                _lora_flags(palette, len(adapters) + (1 + knobs.blends) * (name == PALETTE))
                if adapters
                else ()
            ),
            *server_knobs(palette, name).extra,
        ]
        served = {PALETTE: (MOERGES, *adapters, BASE), LORA: (BASE, *adapters), MOERGES: (MOERGES,)}
        servers.append(
            ServerSpec(
                name=name, model=model, models=served[name], adapters=adapters, host=knobs.host,
                port=chosen[name], flags=tuple(flags),
                environment={**_environment(palette, sources.values()), **placement.environment},
                gpus=placement.gpus, palette=palette.name,
                router=palette.router if name == PALETTE else None, blend=palette.blend,
                fused=knobs.fused,
            )
        )  # fmt: skip
    if palette.dense and set(placements[LORA].gpus) & set(placements[MOERGES].gpus):
        # vLLM measures free memory while it starts; two that start at once on one GPU mislead each other.
        servers[1] = replace(servers[1], starts_after=LORA)
    return ServingPlan(
        palette.name,
        palette.cultural_map,
        device,
        tuple(servers),
        max_model_len,
        palette.sampling,
        palette.prompts,
    )


def _sources(palette: ServedPalette) -> dict[str, Source]:
    """Server -> the model it loads."""
    if not palette.dense:
        return {PALETTE: palette.base}
    assert palette.moerges is not None
    return {LORA: palette.base, MOERGES: palette.moerges}


def shell(server: ServerSpec, command: Sequence[str], *, asks_key: bool) -> str:
    """The server's command for a POSIX shell, a flag a line; the key stays a variable."""
    variables = [f"{name}={shlex.quote(value)}" for name, value in server.environment.items()]
    if asks_key:
        variables.append(f'{KEY_VARIABLE}="$PALETTE_API_KEY"')
    lines: list[list[str]] = [[*variables, *(shlex.quote(part) for part in command)]]
    for argument in server.arguments():
        if argument.startswith("--"):
            lines.append([argument])
        else:
            lines[-1].append(shlex.quote(argument))
    return " \\\n    ".join(" ".join(line) for line in lines)


def _plugin_flags() -> Iterator[str]:
    """The base's weights as they are, in our model. A vLLM without our plug-in knows no such architecture and
    does not start.
    """
    yield from ("--hf-overrides", json.dumps({"architectures": [ARCHITECTURE]}, separators=(",", ":")))
    yield from ("--worker-extension-cls", "cultural_palette.serving.vllm_plugin.worker.PaletteWorker")


def _lora_flags(palette: ServedPalette, adapters: int) -> Iterator[str]:
    """Every adapter in memory at once, and one slot more: on the CPU, vLLM 0.32 gives rows without an adapter
    in a batch with an adapter's the weights of the last slot, so that one has to stay empty.
    """
    slots = str(adapters + 1)
    yield from ("--enable-lora", "--max-loras", slots, "--max-cpu-loras", slots)
    yield from ("--max-lora-rank", str(lora_rank(palette)))
    if targets := lora_targets(palette):
        # Layers that no adapter changes then cost nothing extra.
        yield from ("--lora-target-modules", *targets)


def _environment(palette: ServedPalette, models: Iterable[Source]) -> dict[str, str]:
    """No call leaves the machine for statistics; none at all when every model is on this disk. One server
    gets our plug-in, and a digest of what it serves: with other content it is another server.
    """
    environment = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    if all(isinstance(source, Path) for source in (*models, *palette.adapters.values())):
        environment["HF_HUB_OFFLINE"] = "1"
    if not palette.dense:
        environment |= {"VLLM_PLUGINS": PLUGIN, "PYTHONPATH": str(SITE), CONTENT: content_digest(palette)}
    return environment


def _max_model_len(palette: ServedPalette, models: Iterable[Source]) -> int:
    """Tokens of the longest request: the palette's knob, else what all models read, up to
    DEFAULT_MAX_MODEL_LEN.
    """
    known = []
    for source in models:
        if isinstance(source, Path):
            config: dict[str, Any] = read_json(source, "config.json")
            if limit := config.get("max_position_embeddings"):
                if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
                    raise ManifestError(
                        f"{source / 'config.json'}: max_position_embeddings is {limit!r}; expected a whole "
                        "number from 1."
                    )
                known.append(limit)
    wanted = palette.knobs.max_model_len
    if wanted is None:
        return min([DEFAULT_MAX_MODEL_LEN, *known])
    if known and wanted > min(known):
        raise ManifestError(
            f"max_model_len {wanted:,} is more than the {min(known):,} tokens that the model reads."
        )
    return wanted
