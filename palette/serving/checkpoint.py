"""A MoErges that is kept in parts, written once as a checkpoint that vLLM loads.

The weights are the embedded engine's own, so that a served palette and an embedded one are the same model.
A palette that blends by rows with biases is written with its `paper` rows: a Mixtral has no place for biases.
Only the names differ: transformers fuses the experts, vLLM wants them apart, as `palette merge` writes them.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cultural_palette.artifacts import claim
from cultural_palette.embedded.manifest import Manifest, read_manifest
from cultural_palette.errors import ArtifactError, ModelError
from cultural_palette.provenance import hash_file

TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja",
    "generation_config.json",
)  # fmt: skip


def moerges_checkpoint(name_or_path: str, cache: Path) -> Path:
    """The folder `cache/moerges-<content>` for an embedded palette; written unless it is there.

    The name follows the parts' content: other weights, another folder. Raises ModelError: without the
    packages of the extra "embedded", and when a part is missing.
    """
    manifest = read_manifest(name_or_path)
    out = cache / f"moerges-{_digest(manifest)}"
    if out.is_dir():
        return out
    try:
        with claim(out, wait=True) as place:
            if not out.is_dir():  # another process was quicker with the same folder
                with place.whole_folder() as part:
                    _write(name_or_path, manifest, part)
    except (ArtifactError, OSError) as error:
        raise ModelError(f"{out} can not be written: {error}") from error
    return out


def vllm_names(state: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """A MixtralForCausalLM's tensors under the names of the Mixtral checkpoints: w1 gate, w2 down, w3 up."""
    for name, tensor in state.items():
        layer, fused, rest = name.partition(".mlp.")
        if not fused:
            yield name, tensor
        elif rest == "gate.weight":
            yield f"{layer}.block_sparse_moe.gate.weight", tensor
        elif rest == "experts.gate_up_proj":
            for index, expert in enumerate(tensor):
                gate, up = expert.chunk(2)
                yield f"{layer}.block_sparse_moe.experts.{index}.w1.weight", gate.clone()
                yield f"{layer}.block_sparse_moe.experts.{index}.w3.weight", up.clone()
        elif rest == "experts.down_proj":
            for index, expert in enumerate(tensor):
                yield f"{layer}.block_sparse_moe.experts.{index}.w2.weight", expert.clone()
        else:
            raise ModelError(f"A MoErges has no place for {name}; is this version of transformers supported?")


def _write(name_or_path: str, manifest: Manifest, folder: Path) -> None:
    from safetensors.torch import save_file

    from cultural_palette.embedded.engine import get_engine
    from cultural_palette.moerges.dense import router_without_biases, written_out

    colours = get_engine(name_or_path).colours
    model = written_out(colours, router_without_biases(colours, manifest.blend))
    tied = model.config.tie_word_embeddings
    tensors = {
        name: tensor
        for name, tensor in vllm_names(model.state_dict())
        if not (tied and name == "lm_head.weight")
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    model.config.architectures = ["MixtralForCausalLM"]
    model.config.save_pretrained(folder)
    for name in TOKENIZER:
        if (manifest.base / name).is_file():
            shutil.copy2(manifest.base / name, folder / name)


def _digest(manifest: Manifest) -> str:
    """Twelve hex digits over everything that the MoErges is made of."""
    digest = hashlib.sha256()
    parts = [*manifest.base.glob("*"), manifest.router]
    for adapter in manifest.adapters.values():
        parts += sorted(adapter.glob("adapter_*"))
    for file in sorted(parts):
        if file.is_file():
            digest.update(f"{file.name} {file.stat().st_size} ".encode())
            hash_file(digest, file)
    digest.update(" ".join((*manifest.communities, manifest.blend)).encode())
    return digest.hexdigest()[:12]
