"""The stages that make the nano palette, each a function over one working folder.

dialogues  write the training text           (seconds)
base       train tokenizer and base          (most of the time)
agents     align five LoRA adapters and the joint one by ORPO, as `palette train` does
merges     MoErges, TIES, Model Stock, as `palette merge` does
router     fit router rows, beside the paper's
ship       copy what the package carries to `palette/embedded/nano`
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from cultural_palette.artifacts import whole_folder, write_whole
from cultural_palette.cultural_map import load_map
from cultural_palette.embedded.manifest import BUILT_IN
from cultural_palette.errors import ArtifactError
from cultural_palette.jsonl import read_rows, refuse
from cultural_palette.moerges.router import PAPER, load_routers, save_routers
from cultural_palette.training.config import load_config
from cultural_palette.training.jobs import lay_out_jobs
from cultural_palette.training.launch import run_jobs
from cultural_palette.training.merge import merge_flat, merge_moerges, router_rows
from cultural_palette.training.merge.fitted import with_fitted
from cultural_palette.training.nano.atlas import Atlas, load_atlas
from cultural_palette.training.nano.base import train_tokenizer, tune
from cultural_palette.training.nano.dialogues import (
    MIX,
    MIX_DECIDING,
    MIX_READING,
    write_dialogues,
    write_groups,
)
from cultural_palette.training.nano.router_prompts import atlas_rows

SEED = 20
ROUNDS = (  # of the base's tuning: dialogues, their mix, share with options in order, peak learning rate
    (45_000, MIX, 0.0, 2.5e-3),
    (22_000, MIX_READING, 0.0, 1.5e-3),
    (14_000, MIX_DECIDING, 0.9, 1.2e-3),
)
GROUPS = 900
CONFIG = Path(__file__).parents[1] / "configs" / "nano.yaml"
COMMUNITIES = tuple(community.key for community in load_map("continents").communities)
ROUTER_ROWS = "ffn_in"  # what the router sees at run time; docs/nano.md compares the choices
ROUTER_PROMPTS = 5  # about each country, for the fitted rows
ROUTER_PHRASES = ("{name}", "Country: {name}", "In {name}, people", "You know {name} well.", "life in {name}")


def dialogues(folder: Path, share: float = 1.0) -> None:
    """`dialogues_<round>.jsonl` for the base and `groups_<community>.jsonl` for each adapter.

    `share`: of the full recipe's size, for a quick try.
    """
    atlas = load_atlas()
    folder.mkdir(parents=True, exist_ok=True)
    for index, (count, mix, in_order, _) in enumerate(ROUNDS):
        size, seed = round(share * count), SEED + 100 * index
        rows = write_dialogues(atlas, size, seed, mix, in_order=in_order)
        _write_rows(folder / f"dialogues_{index}.jsonl", rows)
    for index, community in enumerate(atlas.outlooks):
        rows = write_groups(atlas, community, round(share * GROUPS), SEED + 1 + index)
        _write_rows(folder / f"groups_{community}.jsonl", rows)


def base(folder: Path) -> None:
    """`base/`: tokenizer, then the model in rounds (`rounds/<n>/`). Resumes; what is finished is kept."""
    start: Path | None = None
    for index, (_, _, _, learning_rate) in enumerate(ROUNDS):
        out = folder / "rounds" / str(index)
        if not (out / "model.safetensors").is_file():
            rows = _read_rows(folder / f"dialogues_{index}.jsonl")
            if start is None:
                texts = (message["content"] for row in rows[:20_000] for message in row["messages"])
                tokenizer = train_tokenizer(texts, out)
            else:
                tokenizer = AutoTokenizer.from_pretrained(start)
            started = time.perf_counter()
            result = tune(rows, tokenizer, out, start=start, seed=SEED + index, learning_rate=learning_rate)
            _note(
                folder,
                f"base_{index}",
                result | {"seconds": time.perf_counter() - started, "dialogues": len(rows)},
            )
        start = out
    assert start is not None
    with whole_folder(folder / "base") as part:
        shutil.copytree(start, part, dirs_exist_ok=True)


def agents(folder: Path, only: Sequence[str] = ()) -> None:
    """`agents/run-1/<community>/` and `joint`, by the jobs of `palette train`. Finished ones are kept."""
    jobs = lay_out_jobs(
        str(folder / "base"), folder, folder / "agents", COMMUNITIES, load_config(CONFIG).orpo, only=only
    )
    started = time.perf_counter()
    run_jobs(jobs, lambda line: print(line, flush=True))
    for job in jobs:
        measures = json.loads((job.out / "manifest.json").read_text(encoding="utf-8"))["measures"]
        _note(folder, f"agent_{job.agent}", measures)
    _note(folder, "agents", {"seconds": time.perf_counter() - started})


def agent_folder(folder: Path, agent: str) -> Path:
    """Where the stage `agents` put an adapter."""
    return folder / "agents" / "run-1" / agent


def router_prompts(atlas: Atlas) -> dict[str, list[str]]:
    """What each expert's router row is read from: the community's countries in a few short phrases."""
    names = {c.key: c.name for c in load_map("continents").communities}
    return {
        key: [phrase.format(name=place.name) for place in atlas.places_of(key) for phrase in ROUTER_PHRASES]
        + [phrase.format(name=names[key]) for phrase in ROUTER_PHRASES]
        for key in names
    }


def merges(folder: Path) -> None:
    """`moerges/`, a checkpoint for vLLM and transformers; to compare with it, `ties/` and `model_stock/`."""
    started = time.perf_counter()
    paths = {key: agent_folder(folder, key) for key in COMMUNITIES}
    merge_moerges(
        folder / "base",
        paths,
        router_prompts(load_atlas()),
        folder / "moerges",
        rows=ROUTER_ROWS,
        against_others=True,
    )
    for method in ("ties", "model_stock"):
        merge_flat(method, folder / "base", paths, folder / method, dtype="float32")
    _note(folder, "merges", {"seconds": time.perf_counter() - started})


def router(folder: Path) -> None:
    """`router.safetensors`, the merge's rows as `paper` and fitted ones, and how they came about."""
    started = time.perf_counter()
    rows = {name: tensor.float().contiguous() for name, tensor in router_rows(folder / "moerges").items()}
    save_file(rows, folder / "router.safetensors")
    fit_rows(folder / "base", folder / "router.safetensors", folder / "router.safetensors")
    _note(folder, "router", {"seconds": time.perf_counter() - started})


def fit_rows(base: Path, paper: Path, out: Path) -> None:
    """The paper's rows of the file `paper` and fitted ones into the file `out`, and beside it, as JSON, the
    fit's report and the blend to go by.

    Fitted on prompts about all countries of the atlas, with questions of training.
    """
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).train(False)
    atlas, continents = load_atlas(), load_map("continents")
    tokenizer = AutoTokenizer.from_pretrained(base)
    prompts = atlas_rows(
        tokenizer, continents, atlas, list(atlas.places), ROUTER_PROMPTS, SEED, heldout=False
    )
    routers, report = with_fitted(model, load_routers(paper)[PAPER], prompts, COMMUNITIES, seed=SEED)
    save_routers(out, routers, COMMUNITIES)
    write_whole(out.with_suffix(".json"), json.dumps({"blend": report.best(), **asdict(report)}, indent=1))


def ship(folder: Path, target: Path = BUILT_IN["nano"]) -> None:
    """Copy base, adapters (float16) and router to the package, with the manifest that names them."""
    with whole_folder(target) as part:
        shutil.copytree(folder / "base", part / "base", ignore=shutil.ignore_patterns("training_args.bin"))
        for key in COMMUNITIES:
            source, copy = agent_folder(folder, key), part / "adapters" / key
            copy.mkdir(parents=True)
            weights = load_file(source / "adapter_model.safetensors")
            save_file({k: v.half() for k, v in weights.items()}, copy / "adapter_model.safetensors")
            config = json.loads((source / "adapter_config.json").read_text(encoding="utf-8"))
            config["base_model_name_or_path"] = "base"
            (copy / "adapter_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
        for name in ("router.safetensors", "router.json"):
            shutil.copy2(folder / name, part / name)
        shutil.copy2(folder / "moerges" / "mergekit_config.yaml", part / "mergekit_config.yaml")
        shutil.copy2(folder / "notes.json", part / "training.json")
        manifest = {
            "name": "nano",
            "map": "continents",
            "base": "base",
            "adapters": {key: f"adapters/{key}" for key in COMMUNITIES},
            "router": "router.safetensors",
            "blend": json.loads((folder / "router.json").read_text(encoding="utf-8"))["blend"],
            "scope": scope(load_atlas()),
        }
        (part / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def scope(atlas: Atlas) -> dict[str, Any]:
    """What the palette knows: its countries, and the words of its questions and options."""
    texts = [q.replace("{country}", " ") for qs in atlas.topics.values() for q in qs]
    texts += [t for d in atlas.dilemmas.values() for t in (*d.questions, *d.options)]
    texts += [
        phrase for place in atlas.places.values() for phrases in place.customs.values() for phrase in phrases
    ]
    texts += [place.name for place in atlas.places.values()] + list(atlas.topics)
    words = sorted({word for text in texts for word in re.findall(r"[a-z]+", text.lower())})
    options = [list(dilemma.options) for dilemma in atlas.dilemmas.values()]
    return {"countries": sorted(atlas.places), "words": words, "options": options}


def _note(folder: Path, stage: str, row: dict[str, float]) -> None:
    path = folder / "notes.json"
    notes = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    notes[stage] = {key: round(value, 4) for key, value in row.items()}
    write_whole(path, json.dumps(notes, indent=1))
    print(stage, notes[stage], flush=True)


def _write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    write_whole(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _read_rows(path: Path) -> list[dict[str, Any]]:
    return [row for row, _ in read_rows(path, refuse(ArtifactError))]
