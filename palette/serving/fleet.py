"""A palette's servers together: started, waited for, recognised again, stopped.

The folder holds `state.json` (see `state.py`), one log a server, and a lock for whoever starts or stops. The
servers do not depend on the command that started them, and any later command finds them by that file.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cultural_palette.artifacts import file_lock
from cultural_palette.serving.last_words import last_words
from cultural_palette.serving.manifest import ServingError
from cultural_palette.serving.plan import KEY_VARIABLE, ServerSpec, ServingPlan
from cultural_palette.serving.probe import ProbeResult, listed_models, port_is_free, probe
from cultural_palette.serving.processes import end, start
from cultural_palette.serving.state import Record, StateFile, timestamp

STATE, LOCK = "state.json", ".lock"
POLL_S = 0.5
GRACE_S = 30.0

State = Literal["up", "starting", "silent", "locked", "dead"]
Progress = Callable[[str, str], None]
"""Called with a server's name and what happened to it."""


@dataclass(frozen=True)
class Health:
    """A server now. "up" answers with its models; "starting" did not yet; "silent" did, and does not now;
    "locked" wants another key than ours; "dead" is gone.
    """

    name: str
    state: State
    pid: int
    url: str
    models: tuple[str, ...]
    uptime_s: float | None
    log: str
    asks_key: bool
    detail: str = ""


@dataclass
class Fleet:
    """The servers whose state lies in `folder`. `key`: what they ask for and are asked with; it is never
    written.
    """

    folder: Path
    key: str | None = field(default=None, repr=False)

    def up(
        self,
        plan: ServingPlan,
        command: Sequence[str],
        *,
        timeout_s: float = 1800.0,
        progress: Progress = lambda name, news: None,
        guarded: bool = False,
    ) -> list[str]:
        """Start what does not run yet, wait until everything answers; the names of what was started.

        `command`: what comes before `serve`. Running servers stay as they are. When one can not be started,
        those that this call started are ended again. `guarded`: they end with this process. Raises
        ServingError.
        """
        started: list[str] = []
        try:
            for server in plan.servers:
                if server.starts_after is not None:
                    self._wait(
                        [other for other in plan.servers if other.name == server.starts_after],
                        timeout_s,
                        progress,
                    )
                if self._start(plan, server, command, progress, guarded):
                    started.append(server.name)
            self._wait(plan.servers, timeout_s, progress)
        except BaseException:
            with self._locked():
                self._end([record for record in self.records() if record.name in started], GRACE_S)
            raise
        return started

    def status(self) -> list[Health]:
        """Every server that was started and not stopped."""
        return [self._health(record) for record in self.records()]

    def stop(self, grace_s: float = GRACE_S) -> list[str]:
        """End every server with all its processes, and forget them; their names."""
        with self._locked():
            records = self.records()
            self._end(records, grace_s)
        return [record.name for record in records]

    def records(self) -> list[Record]:
        """The servers as they were started. Raises ServingError when the file can not be read."""
        return list(self._state.records().values())

    # -- starting ---

    def _start(
        self,
        plan: ServingPlan,
        server: ServerSpec,
        command: Sequence[str],
        progress: Progress,
        guarded: bool,
    ) -> bool:
        """Start a server unless it runs; whether it had to be started."""
        with self._locked():
            full_command = (*command, *server.arguments())
            old = next((record for record in self.records() if record.name == server.name), None)
            if old is not None and old.process.alive:
                self._check_same(old, server, full_command)
                progress(server.name, "runs already")
                return False
            if old is not None:
                end([old.process], GRACE_S)  # what a killed server left behind
            self._check_port(server)
            self.folder.mkdir(parents=True, exist_ok=True)
            log = (self.folder / f"{server.name}.log").resolve()
            if log.exists():
                log.replace(log.with_suffix(".log.old"))
            try:
                process = start(full_command, self._environment(server), log, guarded=guarded)
            except OSError as error:
                raise ServingError(f"The server {server.name!r} can not be started: {error}.") from error
            record = Record(
                name=server.name, pid=process.pid, began=process.began, started=timestamp(), url=server.url,
                models=server.models, log=str(log), command=full_command,
                environment=dict(server.environment), asks_key=self.key is not None,
            )  # fmt: skip
            try:
                self._state.put(record, [planned.name for planned in plan.servers])
            except BaseException:  # nobody would know of it
                end([process], GRACE_S)
                raise
        progress(server.name, f"starts at {server.url}, process {process.pid}")
        return True

    def _check_same(self, old: Record, server: ServerSpec, full_command: tuple[str, ...]) -> None:
        mine = (full_command, dict(server.environment), self.key is not None)
        if mine != (old.command, dict(old.environment), old.asks_key):
            was = {*old.command, *(f"{name}={value}" for name, value in old.environment.items())}
            now = {*full_command, *(f"{name}={value}" for name, value in server.environment.items())}
            changed = (
                f"now {_shortened(was - now)}, wanted {_shortened(now - was)}"
                if was != now
                else "another key"
            )
            raise ServingError(
                f"The server {server.name!r} runs with other settings ({changed}). "
                "Stop it first ('palette serve stop'), or serve in another folder with --out."
            )

    def _check_port(self, server: ServerSpec) -> None:
        if port_is_free(server.host, server.port):
            return
        listed = listed_models(server.url, self.key)
        occupant = f"serves {', '.join(listed[:8]) or 'nothing'}" if isinstance(listed, list) else listed
        raise ServingError(
            f"Port {server.port} is taken: what listens there {occupant or 'does not speak HTTP'}. Stop it, "
            "or choose other ports with --port."
        )

    def _environment(self, server: ServerSpec) -> dict[str, str]:
        """Ours without our own settings and keys, the server's, and the key that it will ask for."""
        inherited = {
            name: value for name, value in os.environ.items()
            if not name.startswith(("PALETTE_", "OPENAI_")) and name != KEY_VARIABLE
        }  # fmt: skip
        variables = dict(server.environment)
        if "PYTHONPATH" in variables and "PYTHONPATH" in inherited:
            variables["PYTHONPATH"] += os.pathsep + inherited["PYTHONPATH"]
        return inherited | variables | ({KEY_VARIABLE: self.key} if self.key else {})

    # -- waiting ---

    def _wait(self, servers: Sequence[ServerSpec], timeout_s: float, progress: Progress) -> None:
        """Until all answer with their models. Raises ServingError: one died, is another or takes too long."""
        began = time.monotonic()
        waiting = {server.name for server in servers}
        while True:
            records = {record.name: record for record in self.records() if record.name in waiting}
            if gone := waiting - set(records):
                raise ServingError(f"The server {min(gone)!r} was stopped by another command meanwhile.")
            waiting -= {name for name, record in records.items() if self._answers(record, progress)}
            if not waiting:
                return
            if time.monotonic() - began > timeout_s:
                raise ServingError(
                    f"{' and '.join(sorted(waiting))} did not answer within {timeout_s:.0f} s (--timeout). "
                    f"See {', '.join(records[name].log for name in sorted(waiting))}."
                )
            time.sleep(POLL_S)

    def _answers(self, record: Record, progress: Progress) -> bool:
        """Whether a server is up now. Raises ServingError when it never will be."""
        health = self._health(record)
        if health.state == "dead":
            raise ServingError(last_words(record, self.key))
        if health.state == "locked":
            raise ServingError(
                f"The server {record.name!r} asks for another key: set PALETTE_API_KEY to the one it was "
                "started with, or stop it first ('palette serve stop')."
            )
        if health.detail:
            raise ServingError(
                f"What answers at {record.url} {health.detail}, and should serve {', '.join(record.models)}. "
                "Choose another port with --port."
            )
        if health.state != "up":
            return False
        if record.ready is None:
            with self._locked():
                self._state.mark_ready(record)
            progress(record.name, f"up after {record.age_s:.0f} s")
        return True

    def _health(self, record: Record) -> Health:
        probed = probe(record.url, record.models, self.key) if record.process.alive else None
        return Health(
            name=record.name, state=_state_of(record, probed), pid=record.pid, url=record.url,
            models=record.models, uptime_s=record.age_s if probed else None, log=record.log,
            asks_key=record.asks_key, detail=probed.detail if probed else "",
        )  # fmt: skip

    # -- the folder ---

    def _end(self, records: Sequence[Record], grace_s: float) -> None:
        end([record.process for record in records], grace_s)
        self._state.drop([record.name for record in records])

    @property
    def _state(self) -> StateFile:
        return StateFile(self.folder / STATE)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One command at a time starts or stops; the lock ends with the process, however that comes."""
        with file_lock(self.folder / LOCK):
            yield


def _state_of(record: Record, probed: ProbeResult | None) -> State:
    """`probed`: None when the process is gone."""
    if probed is None:
        return "dead"
    if probed.state == "ready":
        return "up"
    if probed.state == "locked":
        return "locked"
    return "silent" if record.ready else "starting"


def _shortened(parts: set[str]) -> str:
    return " ".join(sorted(parts))[:200] or "without"
