"""The blend of a dense MoErges on a server: its router weights, from one prefill in transformers on the same
weights.

A server with our plug-in tells the blend itself (see `vllm.py`). Any other tells which experts it used, and
with all of them in use that says nothing. So where the MoErges lies on this machine too (the setting
`blend_checkpoint`), the router is read here: the same prompt, the same weights, one pass without a reply.
Only the router is asked, yet its input in a layer comes out of the layers below, so the whole model is
loaded, once a process, on the CPU.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from langchain_core.messages import BaseMessage

from cultural_palette.embedded.manifest import BUILT_IN
from cultural_palette.errors import ModelError
from cultural_palette.messages import role_pairs
from cultural_palette.models.protocol import Blend
from cultural_palette.settings import current_settings
from cultural_palette.yaml_files import YamlFault, read_yaml

NOT_AVAILABLE = (
    "The blend is not available for a served model: set blend_checkpoint to the folder of its MoErges (or to "
    "an embedded palette, such as 'nano'), or serve it with 'palette serve up', whose one server tells it."
)


async def checkpoint_blend(messages: Sequence[BaseMessage], communities: Sequence[str]) -> Blend | None:
    """The blend of the MoErges that the setting `blend_checkpoint` names; None where it names none."""
    checkpoint = current_settings().blend_checkpoint
    return None if checkpoint is None else await served_blend(checkpoint, messages, communities)


async def served_blend(checkpoint: str, messages: Sequence[BaseMessage], communities: Sequence[str]) -> Blend:
    """Router weights over the prompt, as the embedded engine gives them.

    `checkpoint`: a MoErges folder, or an embedded palette by name or folder. `communities`: the experts in
    their order, for a folder that does not say. Raises ModelError: no such folder, no router in it.
    """
    if _is_palette(checkpoint):
        from cultural_palette.models.embedded import palette_blend

        return await palette_blend(checkpoint, messages)
    pairs = tuple(role_pairs(messages))
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(_thread(), _read, checkpoint, pairs, tuple(communities))


@functools.cache
def _thread() -> ThreadPoolExecutor:
    """One at a time: a prefill has all the cores already."""
    return ThreadPoolExecutor(1, thread_name_prefix="blend")


@functools.cache
def _is_palette(checkpoint: str) -> bool:
    return checkpoint in BUILT_IN or (Path(checkpoint) / "manifest.json").is_file()


def _read(checkpoint: str, pairs: tuple[tuple[str, str], ...], communities: tuple[str, ...]) -> Blend:
    import torch

    from cultural_palette.moerges.dense import router_weights

    model, tokenizer, named = _loaded(checkpoint)
    keys = named or communities
    chat = [{"role": role, "content": text} for role, text in pairs]
    ids = torch.tensor(
        [tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=True, return_dict=False)]
    )
    layers: list[list[float]] = router_weights(model, {"input_ids": ids}, torch.ones_like(ids)).tolist()
    if len(layers[0]) != len(keys):
        raise ModelError(
            f"{checkpoint} has {len(layers[0])} experts, and there are {len(keys)} communities "
            f"({', '.join(keys)}): blend_checkpoint names another model's MoErges."
        )
    return Blend.over(keys, layers)


@functools.cache
def _loaded(checkpoint: str) -> tuple[Any, Any, tuple[str, ...]]:
    """Model, tokenizer, and the experts' names where `palette merge` left them."""
    folder = Path(checkpoint)
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"blend_checkpoint names {checkpoint!r}, which is no model folder: it has no config.json."
        )
    try:
        import torch
        import transformers

        from cultural_palette.embedded.quiet import hide_progress_bars
    except ImportError as error:
        raise ModelError(
            f"Reading the blend needs {error.name}, which is not installed: "
            "pip install 'cultural-palette[embedded]'"
        ) from error
    hide_progress_bars()
    try:
        with torch.device("cpu"):
            model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise ModelError(f"blend_checkpoint {checkpoint!r} can not be loaded: {error}") from error
    if not all(hasattr(getattr(layer, "mlp", None), "gate") for layer in model.model.layers):
        raise ModelError(f"blend_checkpoint {checkpoint!r} has no router: it is no MoErges.")
    return model.train(False), tokenizer, _experts(folder)


def _experts(folder: Path) -> tuple[str, ...]:
    recipe = folder / "mergekit_config.yaml"
    if not recipe.is_file():
        return ()
    try:
        return tuple(str(expert["source_model"]) for expert in read_yaml(recipe)["experts"])
    except (OSError, YamlFault, KeyError, TypeError) as error:
        raise ModelError(f"{recipe} does not say its experts: {error!r}. Merge it again.") from None
