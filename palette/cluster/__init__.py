"""Work that outgrows one machine: on Ray, with its files on a storage that every node sees.

Ray schedules and starts lost work again; nothing here does. What is ours is that no finished call is made
twice: replies are kept by their content, and each shard writes its own part, whole or not at all.
"""

from __future__ import annotations

from importlib.util import find_spec

from cultural_palette.errors import UsageError


def require_ray() -> None:
    """UsageError where Ray or fsspec is not installed."""
    for package in ("ray", "fsspec"):
        if find_spec(package) is None:
            raise UsageError(
                f"--on ray needs {package}, which is not installed: pip install 'cultural-palette[cluster]'"
            )
