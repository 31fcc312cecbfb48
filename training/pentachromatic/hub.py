"""A dataset folder to the hub, in one commit: the files as they were built and hashed, and their card.

`datasets.push_to_hub` would write the Parquet files anew and make a commit for each config, so the hub would
show half a dataset for a while, and not the files that the manifest's hashes are of. `load_dataset` reads the
configs from the card's front matter.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cultural_palette.artifacts import MANIFEST
from cultural_palette.errors import ArtifactError, PaletteError, UsageError
from cultural_palette.training.pentachromatic.card import CARD, configs
from cultural_palette.training.pentachromatic.reports import load_manifest, refuse_a_leak, take_reports
from cultural_palette.training.pentachromatic.streams import facts

MEASURED = ("separation.json", "topics.json", "figures/*.png", "figures/*.svg")
REPO = re.compile(r"[\w.-]+/[\w.-]+")


def check_files(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Refuse a folder whose files are not those that the manifest hashed."""
    for path, recorded in manifest["files"].items():
        file = folder / path
        if not file.is_file():
            raise ArtifactError(f"{file} is gone. Build the dataset again.")
        if facts(file).sha256 != recorded["sha256"]:
            raise ArtifactError(f"{file} is not as it was built. Build the dataset again.")


def push_to_hub(
    folder: Path,
    repo: str,
    *,
    private: bool = False,
    message: str | None = None,
    allow_leakage: bool = False,
) -> str:
    """Check every file, take the reports into the card, send all; returns the address.

    Stays here: JSONL where there is Parquet, and `leakage.json`, which quotes surveys under licences of their
    own. Raises DatasetLeaks when that report did not pass. The token is the hub client's own business
    (`hf auth login`, HF_TOKEN).
    """
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    if not REPO.fullmatch(repo):
        raise UsageError(f"--repo {repo!r}: expected user/name")
    check_files(folder, load_manifest(folder))
    manifest = take_reports(folder)
    if not allow_leakage:
        refuse_a_leak(manifest)
    named = {file["path"] for config in configs(manifest) for file in config["data_files"]}
    api = HfApi()
    try:
        api.create_repo(repo, repo_type="dataset", private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo,
            repo_type="dataset",
            folder_path=folder,
            allow_patterns=sorted({CARD, MANIFEST, *MEASURED} | named),
            commit_message=message or f"{manifest['counts']['answers']:,} answers",
        )
    except (HfHubHTTPError, LocalTokenNotFoundError, OSError, httpx.HTTPError) as error:
        reasons = str(error).strip().splitlines()
        raise PaletteError(
            f"The hub did not take {repo}: {reasons[0] if reasons else type(error).__name__}"
        ) from error
    return str(getattr(commit, "commit_url", "") or f"https://huggingface.co/datasets/{repo}")
