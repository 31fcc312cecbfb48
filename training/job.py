"""One training job: its spec, its folder, its manifest. Run in a process of its own, so that it may have a
GPU, or several through `accelerate launch`, and so that its memory goes when it ends.

    python -m cultural_palette.training.job OUT/run-1/asia
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cultural_palette.artifacts import RunFolder, write_whole
from cultural_palette.provenance import file_sha256, installed_versions
from cultural_palette.training.orpo import OrpoSettings, align
from cultural_palette.training.preferences import Row, read_groups

SPEC = "job.json"
JOINT = "joint"
PACKAGES = ("cultural-palette", "torch", "transformers", "peft", "accelerate", "trl")  # decide the numbers


@dataclass(frozen=True)
class Job:
    """One agent of one run. `agent`: a community, or "joint"; `run`: 1, 2, ..; `out`: the folder that it
    fills."""

    agent: str
    run: int
    out: Path
    base: str
    data: Path
    communities: tuple[str, ...]
    settings: OrpoSettings

    @property
    def name(self) -> str:
        """Such as "run-1/asia"."""
        return f"run-{self.run}/{self.agent}"

    @property
    def finished(self) -> bool:
        """Whether its manifest is there, which comes last."""
        return RunFolder(self.out).finished

    def config(self) -> dict[str, Any]:
        """What must stay the same when the job goes on."""
        return {
            "agent": self.agent,
            "run": self.run,
            "base": self.base,
            "data": str(self.data),
            "communities": list(self.communities),
            "settings": asdict(self.settings),
        }

    def write(self) -> None:
        """Put the spec where `read_job` finds it."""
        write_whole(self.out / SPEC, json.dumps(self.config(), indent=2) + "\n")


def read_job(out: Path) -> Job:
    """The job whose spec lies in `out`."""
    spec = json.loads((out / SPEC).read_text(encoding="utf-8"))
    settings = spec["settings"] | {name: tuple(spec["settings"][name]) for name in ("targets", "report_to")}
    return Job(
        agent=spec["agent"],
        run=spec["run"],
        out=out,
        base=spec["base"],
        data=Path(spec["data"]),
        communities=tuple(spec["communities"]),
        settings=OrpoSettings(**settings),
    )


def rows_of(groups: Mapping[str, Sequence[Row]], agent: str) -> list[Row]:
    """An agent's groups; the joint model's are every community's, in the map's order."""
    return [row for rows in groups.values() for row in rows] if agent == JOINT else list(groups[agent])


def run_job(job: Job) -> dict[str, Any]:
    """Train the agent, or go on with it, and write its manifest; what is finished is left as it is.

    `rows.jsonl` has every logged row; after a kill, the rows since the last checkpoint come twice, the later
    ones count. Raises ArtifactError when another process works in the folder or the config has changed.
    """
    import os

    if job.finished:
        return RunFolder(job.out).manifest
    groups = read_groups(job.data, job.communities)
    rows = rows_of(groups, job.agent)
    started = time.perf_counter()
    if int(os.environ.get("RANK", "0")):  # another process of the same job keeps the folder
        align(job.base, rows, job.out, job.settings)
        return {}
    with RunFolder(job.out, job.config()) as folder:
        measures = align(job.base, rows, job.out, job.settings, report=folder.append)
        manifest = {
            **job.config(),
            "groups": len(rows),
            "measures": measures,
            "seconds": round(time.perf_counter() - started, 1),
            "inputs": {path.name: file_sha256(path) for path in inputs(job)},
            "versions": installed_versions(PACKAGES),
            "files": saved(job.out),
        }
        folder.finish(manifest)
    return manifest


def inputs(job: Job) -> list[Path]:
    """The files that the job read."""
    return [job.data] if job.data.is_file() else [job.data / f"groups_{key}.jsonl" for key in job.communities]


def saved(out: Path) -> dict[str, str]:
    """SHA-256 of the weights and configs that the job made."""
    return {
        path.name: file_sha256(path)
        for path in sorted(out.iterdir())
        if path.suffix in (".safetensors", ".bin")
    }


def main() -> None:
    """Run the job of the folder on the command line; exit as `palette` does."""
    import sys

    from cultural_palette.errors import PaletteError

    try:
        run_job(read_job(Path(sys.argv[1])))
    except PaletteError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
