"""Why a server died, as far as its log and its exit code tell, and the way out where it is known."""

from __future__ import annotations

import os
import re
from pathlib import Path

from cultural_palette.serving.processes import exit_code
from cultural_palette.serving.state import Record

TAIL_LINES, TAIL_BYTES = 15, 200_000
# What vLLM's errors mean. The first pattern that matches counts.
REMEDIES = (
    (
        r"MoErgesForCausalLM'?\] (are not supported|failed to be inspected)",
        "This vLLM did not load our plug-in, without which it knows no MoErges: start it with "
        "'palette serve up', and leave VLLM_PLUGINS and PYTHONPATH as they are printed.",
    ),
    (r"torchvision::nms", "A CUDA build of torchvision is in vLLM's environment; 'make vllm' leaves it out."),
    (r"[Aa]ddress already in use", "Another program took the port meanwhile: choose another with --port."),
    (
        r"No available memory for the cache|Free memory on device|[Oo]ut of memory|KV cache.*needed",
        "Not enough memory: a smaller max_model_len, another memory_share, or a GPU for each server.",
    ),
    (
        r"GatedRepo|401 Client Error|restricted",
        "The model is gated: ask for access on the hub and set HF_TOKEN.",
    ),
    (
        r"LocalEntryNotFound|couldn't connect to|outgoing traffic has been disabled",
        "The model is not on this disk, and the hub does not answer: download it first.",
    ),
    (r"unrecognized arguments|invalid choice", "This vLLM does not know a flag; 0.32 knows all of them."),
    (r"is greater than max_lora_rank|LoRA rank", "Set serving.max_lora_rank, the adapters' largest rank."),
)
EXIT_HINTS = {
    -4: "The processor lacks an instruction: start the CPU build through 'palette serve' only.",
    -9: "It was killed from outside, which mostly means that the machine ran out of memory.",
    -15: "It was asked to stop.",
}


def last_words(record: Record, key: str | None = None) -> str:
    """The first error in the log, the way out, and the log's end; `key` is struck out of it."""
    text = _tail(Path(record.log))
    if key:
        text = text.replace(key, "***")
    code = exit_code(record.process)
    hint = EXIT_HINTS.get(code or 0) or next(
        (remedy for pattern, remedy in REMEDIES if re.search(pattern, text)), ""
    )
    causes = re.findall(r"^.*?((?:\w+\.)*\w*(?:Error|Exception): .+)$", text, flags=re.MULTILINE)
    lines = [
        f"The server {record.name!r} ended while it started"
        + (f" (exit code {code})." if code is not None else "."),
        *([f"First error: {causes[0]}"] if causes else []),
        *([f"-> {hint}"] if hint else []),
        f"The end of {record.log}:",
        *(f"  {line}" for line in text.splitlines()[-TAIL_LINES:]),
    ]
    return "\n".join(lines)


def _tail(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
            return file.read().decode("utf-8", errors="replace")
    except OSError as error:
        return f"(no log: {error})"
