"""What `palette dataset measure` found, taken into a dataset's manifest and card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cultural_palette.artifacts import MANIFEST
from cultural_palette.errors import ArtifactError, PaletteError, UsageError
from cultural_palette.jsonl import read_object
from cultural_palette.shapes import of_shape
from cultural_palette.training.pentachromatic.build import ANSWERS, KIND, finish
from cultural_palette.training.pentachromatic.manifest import StoredDataset

REPORTS = ("separation", "topics", "leakage")


class DatasetLeaks(PaletteError):
    """The dataset holds questions of a survey that it may be evaluated on."""


def load_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a finished dataset folder; raises UsageError for anything else."""
    try:
        manifest = read_object(folder / MANIFEST)
    except OSError:
        raise UsageError(
            f"{folder} has no {MANIFEST}: that is no folder of `palette dataset build`."
        ) from None
    except ValueError as error:
        raise ArtifactError(f"{folder / MANIFEST}: {error}") from None
    if manifest.get("kind") != KIND:
        raise UsageError(f"{folder} is no dataset: its manifest is of another kind.")
    of_shape(manifest, StoredDataset, str(folder / MANIFEST), "Build the dataset again.")
    return manifest


def take_reports(folder: Path) -> dict[str, Any]:
    """Put the reports' figures into manifest and card; a report on other answers is refused."""
    manifest = load_manifest(folder)
    manifest["reports"] = {
        name: figures
        for name in REPORTS
        if (figures := _figures(folder / f"{name}.json", manifest)) is not None
    }
    finish(folder, manifest)
    return manifest


def refuse_a_leak(manifest: Mapping[str, Any]) -> None:
    """The gate: raises DatasetLeaks when the leakage report did not pass. No report: nothing to go by."""
    leakage = manifest["reports"].get("leakage")
    if leakage and leakage.get("passed") is False:
        raise DatasetLeaks(
            f"{leakage.get('queries_leaking', 'Some')} queries of this dataset hold questions of a survey. "
            "Build it again with --exclude (see `palette dataset measure leakage --write-exclusions`), "
            "or say --allow-leakage."
        )


def _figures(file: Path, manifest: Mapping[str, Any]) -> dict[str, Any] | None:
    """The report's plain figures; None when there is no report."""
    if not file.is_file():
        return None
    try:
        data = read_object(file)
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{file} can not be read: {error}. Measure again.") from None
    dataset = data.get("dataset")
    measured = dataset.get("sha256") if isinstance(dataset, dict) else data.get("sha256")
    if measured and measured != manifest["files"].get(ANSWERS, {}).get("sha256"):
        raise UsageError(f"{file} is about other answers than {ANSWERS}: measure this dataset again.")
    return {key: value for key, value in data.items() if isinstance(value, bool | int | float | str)}
