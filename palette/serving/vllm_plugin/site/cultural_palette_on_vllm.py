"""For a vLLM in an environment of its own, which does not have this project: `palette serve` puts this
folder, and nothing else of ours, on its path. The package is then the one that this file lies in.
"""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

NAME = "cultural_palette"
PACKAGE = Path(__file__).absolute().parents[3]


def register() -> None:
    """Entry point of the group `vllm.general_plugins`, which vLLM calls first in each of its processes."""
    _find_package()
    from cultural_palette.serving.vllm_plugin import register as registered

    registered()


def endpoints() -> Any:
    """Entry point of the group `vllm.endpoint_plugins`."""
    _find_package()
    from cultural_palette.serving.vllm_plugin.endpoint import PaletteEndpoints

    return PaletteEndpoints()


def _find_package() -> None:
    """Make PACKAGE importable under our name, whether or not its folder is called so."""
    if NAME in sys.modules:
        return
    spec = spec_from_file_location(NAME, PACKAGE / "__init__.py", submodule_search_locations=[str(PACKAGE)])
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[NAME] = module
    spec.loader.exec_module(module)
