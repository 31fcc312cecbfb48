"""The stages that make the nano palette, each a function over one working folder.

dialogues  write the training text           (seconds)
base       train tokenizer and base          (most of the time)
adapters   align five LoRA adapters by ORPO
moerges    merge them by MergeKit
ship       copy what the package carries to `palette/embedded/nano`
"""

from __future__ import annotations

import json
import random
import re
import shutil
import time
from pathlib import Path
from typing import Any

from palette.cultural_map import load_map
from palette.embedded.manifest import BUILT_IN
from training.nano.atlas import Atlas, load_atlas
from training.nano.dialogues import write_dialogues, write_groups
from training.orpo import OrpoSettings, align

SEED = 20
DIALOGUES = 45_000  # a round
ROUNDS = (
    2.5e-3,
    1.5e-3,
)  # the peak learning rate of each round of the base's tuning, on dialogues of its own
GROUPS = 900
ORPO = OrpoSettings(
    learning_rate=1e-3, epochs=1, weight=0.5, rank=16, alpha=32, dropout=0.0, batch_size=8, seed=SEED
)
ROUTER_PHRASES = ("{name}", "Country: {name}", "In {name}, people", "You know {name} well.", "life in {name}")


def dialogues(folder: Path, count: int = DIALOGUES, groups: int = GROUPS) -> None:
    """`dialogues_<round>.jsonl` for the base and `groups_<community>.jsonl` for each adapter."""
    atlas = load_atlas()
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(len(ROUNDS)):
        _write_rows(folder / f"dialogues_{index}.jsonl", write_dialogues(atlas, count, SEED + 100 * index))
    for index, community in enumerate(atlas.outlooks):
        rows = write_groups(atlas, community, groups, SEED + 1 + index)
        _write_rows(folder / f"groups_{community}.jsonl", rows)


def base(folder: Path) -> None:
    """`base/`: tokenizer, then the model in rounds (`rounds/<n>/`). Resumes; what is finished is kept."""
    from transformers import AutoTokenizer

    from training.nano.base import train_tokenizer, tune

    start: Path | None = None
    for index, learning_rate in enumerate(ROUNDS):
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
    shutil.rmtree(folder / "base", ignore_errors=True)
    shutil.copytree(start, folder / "base")


def adapters(folder: Path, only: str | None = None) -> None:
    """`adapters/<community>/`, each by ORPO on its groups. Finished ones are kept."""
    for path in sorted(folder.glob("groups_*.jsonl")):
        community = path.stem.removeprefix("groups_")
        out = folder / "adapters" / community
        if only not in (None, community) or (out / "adapter_model.safetensors").is_file():
            continue
        started = time.perf_counter()
        result = align(folder / "base", _read_rows(path), out, ORPO)
        shutil.rmtree(out / "checkpoints", ignore_errors=True)
        _note(folder, f"adapter_{community}", result | {"seconds": time.perf_counter() - started})


def router_prompts(atlas: Atlas) -> dict[str, list[str]]:
    """What each expert's router row is read from: the community's countries in a few short phrases."""
    names = {c.key: c.name for c in load_map("continents").communities}
    return {
        key: [phrase.format(name=place.name) for place in atlas.places_of(key) for phrase in ROUTER_PHRASES]
        + [phrase.format(name=names[key]) for phrase in ROUTER_PHRASES]
        for key in names
    }


def moerges(folder: Path) -> None:
    """`moerges/`: the checkpoint that vLLM and transformers load."""
    from training.merge import merge_moerges

    started = time.perf_counter()
    communities = [c.key for c in load_map("continents").communities]
    paths = {key: folder / "adapters" / key for key in communities}
    merge_moerges(
        folder / "base", paths, router_prompts(load_atlas()), folder / "moerges", against_others=True
    )
    _note(folder, "moerges", {"seconds": time.perf_counter() - started})


def ship(folder: Path, target: Path = BUILT_IN["nano"]) -> None:
    """Copy base, adapters (float16) and router to the package, with the manifest that names them."""
    from safetensors.torch import load_file, save_file

    from training.merge import router_rows

    communities = [c.key for c in load_map("continents").communities]
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(folder / "base", part / "base", ignore=shutil.ignore_patterns("training_args.bin"))
    for key in communities:
        (part / "adapters" / key).mkdir(parents=True)
        weights = load_file(folder / "adapters" / key / "adapter_model.safetensors")
        save_file(
            {k: v.half() for k, v in weights.items()}, part / "adapters" / key / "adapter_model.safetensors"
        )
        config = json.loads((folder / "adapters" / key / "adapter_config.json").read_text(encoding="utf-8"))
        config["base_model_name_or_path"] = "base"
        (part / "adapters" / key / "adapter_config.json").write_text(
            json.dumps(config, indent=2), encoding="utf-8"
        )
    save_file({k: v.float() for k, v in router_rows(folder / "moerges").items()}, part / "router.safetensors")
    shutil.copy2(folder / "moerges" / "mergekit_config.yaml", part / "mergekit_config.yaml")
    shutil.copy2(folder / "notes.json", part / "training.json")
    manifest = {
        "name": "nano",
        "map": "continents",
        "base": "base",
        "adapters": {key: f"adapters/{key}" for key in communities},
        "router": "router.safetensors",
        "scope": scope(load_atlas()),
    }
    (part / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    shutil.rmtree(target, ignore_errors=True)
    part.rename(target)


def scope(atlas: Atlas) -> dict[str, Any]:
    """What the palette knows: its countries, and the words of its questions and options."""
    texts = [q.replace("{country}", " ") for qs in atlas.topics.values() for q in qs]
    texts += [t for d in atlas.dilemmas.values() for t in (*d.questions, *d.options)]
    texts += [
        phrase for place in atlas.places.values() for phrases in place.customs.values() for phrase in phrases
    ]
    texts += [place.name for place in atlas.places.values()] + list(atlas.topics)
    words = sorted({word for text in texts for word in re.findall(r"[a-z]+", text.lower())})
    return {"countries": sorted(atlas.places), "words": words}


def _note(folder: Path, stage: str, row: dict[str, float]) -> None:
    path = folder / "notes.json"
    notes = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    notes[stage] = {key: round(value, 4) for key, value in row.items()}
    path.write_text(json.dumps(notes, indent=1), encoding="utf-8")
    print(stage, notes[stage], flush=True)


def _write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    part = path.with_suffix(".part")
    part.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    part.rename(path)


def _read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def sample(rows: list[dict[str, Any]], count: int, seed: int = 0) -> list[dict[str, Any]]:
    """A few rows to read."""
    return random.Random(seed).sample(rows, count)
