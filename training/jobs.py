"""Training jobs, one for each agent of each run: what they are, laid out, and their data checked.

OUT/run-1/africa/   adapter, rows.jsonl (the log), log.txt, manifest.json when finished
OUT/run-1/joint/
OUT/run-2/..        another seed
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cultural_palette.artifacts import RunFolder, write_whole
from cultural_palette.training.orpo_settings import OrpoSettings, TrainingError
from cultural_palette.training.preferences import Distances, Group, check_groups, read_groups, weighed
from cultural_palette.training.share_questions import (
    ShareQuestion,
    check_share_questions,
    joined,
    read_share_questions,
)

SPEC = "job.json"
JOINT = "joint"


@dataclass(frozen=True)
class Job:
    """One agent of one run. `agent`: a community, or "joint"; `run`: 1, 2, ..; `out`: the folder it fills.

    `distances`: between communities, which a preference by distance weighs rejected answers by.
    `data`: preference rows; `shares`: a file of survey questions; None for what the objective has no use for.
    `base_identity`: what `identity.base_identity` says of the base, where it is known already. `start`: the
    folder of a finished adapter whose weights it goes on from, with a learning rate and an order of its own.
    """

    agent: str
    run: int
    out: Path
    base: str
    data: Path | None
    communities: tuple[str, ...]
    settings: OrpoSettings
    base_identity: str | None = None
    shares: Path | None = None
    distances: Distances | None = None
    start: Path | None = None

    @property
    def name(self) -> str:
        """Such as "run-1/asia"."""
        return f"run-{self.run}/{self.agent}"

    @property
    def finished(self) -> bool:
        """Whether its manifest is there, which comes last."""
        return RunFolder(self.out).finished

    @property
    def inputs(self) -> list[Path]:
        """The files of preference rows that it reads, and that of survey questions."""
        files = []
        if self.data is not None:
            folder = self.data
            whole = folder.is_file()
            files = [folder] if whole else [folder / f"groups_{key}.jsonl" for key in self.communities]
        return [*files, *([self.shares] if self.shares else [])]

    def config(self) -> dict[str, Any]:
        """What it was told, paths as they were given; `identity.identity` is what must stay the same."""
        return {
            "agent": self.agent,
            "run": self.run,
            "base": self.base,
            "data": str(self.data) if self.data else None,
            "communities": list(self.communities),
            "settings": self.settings.as_config(),
            **({"shares": str(self.shares)} if self.shares else {}),
            **({"distances": self.distances} if self.distances else {}),
            **({"start": str(self.start)} if self.start else {}),
        }

    def lessons(self) -> tuple[list[Group], list[ShareQuestion]]:
        """Its preference groups and survey questions; the joint model's are every community's."""
        groups = groups_for(read_groups(self.data, self.communities), self.agent) if self.data else []
        if self.distances:
            groups = [weighed(group, self.distances) for group in groups]
        if not self.shares:
            return groups, []
        by_community = read_share_questions(self.shares, self.communities)
        joint = self.agent == JOINT
        return groups, joined(by_community) if joint else by_community[self.agent]

    def write(self) -> None:
        """Put the spec where `read_job` finds it."""
        spec = {**self.config(), "base_identity": self.base_identity}
        write_whole(self.out / SPEC, json.dumps(spec, indent=2) + "\n")


def read_job(out: Path) -> Job:
    """The job whose spec lies in `out`."""
    spec = json.loads((out / SPEC).read_text(encoding="utf-8"))
    settings = spec["settings"] | {name: tuple(spec["settings"][name]) for name in ("targets", "report_to")}
    return Job(
        agent=spec["agent"],
        run=spec["run"],
        out=out,
        base=spec["base"],
        data=Path(spec["data"]) if spec["data"] else None,
        communities=tuple(spec["communities"]),
        settings=OrpoSettings(**settings),
        base_identity=spec["base_identity"],
        shares=Path(spec["shares"]) if spec.get("shares") else None,
        distances=spec.get("distances"),
        start=Path(spec["start"]) if "start" in spec else None,
    )


def groups_for(groups: Mapping[str, Sequence[Group]], agent: str) -> list[Group]:
    """An agent's groups; the joint model's are every community's, in the map's order."""
    if agent == JOINT:
        return [group for own in groups.values() for group in own]
    return list(groups[agent])


def lay_out_jobs(
    base: str,
    data: Path | None,
    out: Path,
    communities: Sequence[str],
    settings: OrpoSettings,
    runs: int = 1,
    only: Sequence[str] = (),
    joint: bool = True,
    shares: Path | None = None,
    distances: Distances | None = None,
) -> list[Job]:
    """One job for each run and agent, run by run; run k has the seed `settings.seed + k - 1`.

    `only`: these agents ("joint" is one). Raises TrainingError for an agent that the map has not, and for
    data that the objective needs and has not got.
    """
    if settings.learns_texts and data is None:
        raise TrainingError(f"objective {settings.objective} needs --data, the communities' answers")
    if settings.learns_shares and shares is None:
        raise TrainingError(f"objective {settings.objective} needs --survey, what countries answered")
    agents = [*communities, JOINT] if joint else [*communities]
    if unknown := [name for name in only if name not in (*communities, JOINT)]:
        raise TrainingError(f"No agent {unknown[0]!r}: there are {', '.join((*communities, JOINT))}")
    if runs < 1:
        raise TrainingError(f"runs = {runs}: at least 1")
    return [
        Job(
            agent=agent,
            run=run,
            out=out / f"run-{run}" / agent,
            base=base,
            data=data if settings.learns_texts else None,
            shares=shares if settings.learns_shares else None,
            distances=distances if settings.by_distance else None,
            communities=tuple(communities),
            settings=replace(settings, seed=settings.seed + run - 1),
        )
        for run in range(1, runs + 1)
        for agent in (only or agents)
    ]


def check_data(jobs: Sequence[Job]) -> None:
    """Read the data once and refuse what would stop a job later."""
    agents = {job.agent for job in jobs}
    for job in jobs[:1]:
        for community, groups in (read_groups(job.data, job.communities) if job.data else {}).items():
            if agents & {community, JOINT}:
                check_groups(groups, f"{job.data}, {community}")
        if job.shares:
            for agent in agents:
                _, questions = replace(job, data=None, agent=agent).lessons()
                check_share_questions(questions, f"{job.shares}, {agent}")
