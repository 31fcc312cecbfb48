"""Shards as Ray tasks: connect, look at every node before any call is paid, run, and take what comes back.

Ray places the shards, and runs those again whose worker or node died. The only module that imports ray.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

import ray
from ray.exceptions import (
    GetTimeoutError,
    NodeDiedError,
    OutOfMemoryError,
    RayError,
    RaySystemError,
    RayTaskError,
    WorkerCrashedError,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cultural_palette.cluster.sources import sources_sha256
from cultural_palette.cluster.storage import Storage
from cultural_palette.errors import ArtifactError, PaletteError, UsageError
from cultural_palette.provenance import installed_versions, short_sha256

RAY = "ray"
NAMESPACE = "cultural-palette"
CONNECT_S, PROBE_S, CLAIM_S = 10.0, 120.0, 30.0
RETRIES = 3  # of a shard whose worker or node died; Ray's own default
LEAST_UNDER_WAY = 64
PACKAGES = ("cultural-palette", "langgraph", "langchain-core")
LOST = (WorkerCrashedError, NodeDiedError, OutOfMemoryError)

Shard = TypeVar("Shard")
Common = TypeVar("Common")
Outcome = TypeVar("Outcome")


class ClusterError(PaletteError):
    """The cluster can not be used, or lost a shard too often; says which and the way out."""


class NodeMismatch(UsageError):
    """A node that has other code, other packages or another storage than the driver."""


@dataclass(frozen=True)
class Needs:
    """What one shard occupies of its node, in Ray's units."""

    cpus: float = 1.0
    gpus: float = 0.0


@dataclass(frozen=True)
class Install:
    """What a node runs, as far as it shapes a row."""

    python: str
    sources: str
    versions: Mapping[str, str]

    @classmethod
    def here(cls, packages: Sequence[str]) -> Install:
        """Of this process."""
        return cls(".".join(map(str, sys.version_info[:2])), sources_sha256(), installed_versions(packages))

    def difference(self, other: Install) -> str | None:
        """How `other`, a worker's, differs from this one, the driver's; None when it does not."""
        if self.python != other.python:
            return f"Python {other.python}, the driver {self.python}"
        for name in self.versions | other.versions:
            ours, theirs = self.versions.get(name), other.versions.get(name)
            if ours != theirs:
                return f"{name} {theirs or 'not installed'}, the driver {ours or 'not installed'}"
        if self.sources != other.sources:
            return (
                f"other sources of cultural-palette ({other.sources[:12]}, the driver {self.sources[:12]}) "
                "under the same version"
            )
        return None


@dataclass(frozen=True)
class _Failed(Generic[Outcome]):
    """A shard that ended with an error which a person can mend; such errors are no work for Ray's retries."""

    error: PaletteError


@contextmanager
def connected(where: str) -> Iterator[Cluster]:
    """The cluster `where` says: "ray" (RAY_ADDRESS, one that runs on this machine, or one started here for
    this run), or "ray://HOST:PORT", the port of its Ray Client server. Raises UsageError or ClusterError.
    """
    address = _address(where)
    if address:
        _reach(address)
    ours = not ray.is_initialized()
    if ours:
        _connect(where, address)
    try:
        yield Cluster()
    finally:
        if ours:
            ray.shutdown()


class Cluster:
    """A cluster that this process is the driver of."""

    @property
    def nodes(self) -> list[str]:
        """Ids of the nodes alive that can run a task."""
        return [
            node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) > 0
        ]

    def total(self, resource: str) -> float:
        """How much of "CPU" or "GPU" the cluster has now."""
        return float(ray.cluster_resources().get(resource, 0.0))

    @contextmanager
    def claim(self, place: str) -> Iterator[None]:
        """Hold a place on a storage: a second driver on this cluster gets an ArtifactError. Ends with the
        driver, however that comes.
        """
        name = f"claim-{short_sha256(place)}"
        holder = _hold(name, place)
        try:
            yield
        finally:
            with suppress(RayError):
                ray.kill(holder)

    def check_nodes(
        self,
        storages: Sequence[Storage] = (),
        packages: Sequence[str] = PACKAGES,
        check: Callable[[], None] | None = None,
    ) -> None:
        """Ask every node whether it runs what the driver runs and reaches the storages; `check` is run there
        too. Raises before any work is done; NodeMismatch names the node.
        """
        nodes = self.nodes
        if not nodes:
            raise ClusterError("The cluster has no node with a CPU: nothing could run a shard.")
        for storage in storages:
            if storage.in_memory:
                raise UsageError(
                    f"{storage.url}: memory ends with its process; nodes need a storage that all see."
                )
            storage.probe()
        marks = [(storage, f".probe-{short_sha256(os.urandom(16))}") for storage in storages]
        for storage, mark in marks:
            storage.write(mark, b"driver")
        try:
            here = Install.here(packages)
            probes = {
                _probe.options(  # type: ignore[attr-defined]
                    scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)
                ).remote(here, marks, packages, check): node
                for node in nodes
            }
            for probe, node in probes.items():
                try:
                    outcome = ray.get(probe, timeout=PROBE_S)
                except GetTimeoutError:
                    raise ClusterError(
                        f"Node {_short(node)} did not answer within {PROBE_S:.0f} s."
                    ) from None
                except RayTaskError as error:
                    raise _unloadable(error, node) from error
                except RayError as error:
                    raise ClusterError(f"Node {_short(node)} can not run a task: {error}") from error
                if outcome is not None:
                    raise outcome.error
        finally:
            for storage, mark in marks:
                with suppress(ArtifactError):
                    storage.remove(mark)

    def run(
        self,
        work: Callable[[Common, Shard], Outcome],
        common: Common,
        shards: Iterator[Shard],
        took: Callable[[Shard, Outcome], None],
        needs: Needs = Needs(),
        packages: Sequence[str] = PACKAGES,
    ) -> None:
        """Run `work(common, shard)` for every shard, on some node, and hand each outcome to `took`.

        At most twice as many are handed to Ray as the cluster can run at once, so that memory does not grow
        with their number. The first error of a shard ends the run: the others are cancelled, what they kept
        stays. Raises it, or ClusterError for a shard that was lost too often.
        """
        task = ray.remote(_one).options(
            num_cpus=needs.cpus,
            num_gpus=needs.gpus,
            max_retries=RETRIES,
            retry_exceptions=False,
            name=work.__name__,
        )
        shared = ray.put((work, common, Install.here(packages), tuple(packages)))
        under_way: dict[Any, Shard] = {}
        try:
            while True:
                for shard in islice(shards, max(0, self._most_under_way(needs) - len(under_way))):
                    under_way[task.remote(shared, shard)] = shard
                if not under_way:
                    return
                (ended, *_), _ = ray.wait(list(under_way), num_returns=1)
                shard = under_way.pop(ended)
                took(shard, _outcome_of(ended))
        finally:
            for waiting in under_way:
                with suppress(RayError, ValueError):
                    ray.cancel(waiting)

    def _most_under_way(self, needs: Needs) -> int:
        slots = self.total("GPU") / needs.gpus if needs.gpus else self.total("CPU") / max(needs.cpus, 0.01)
        return max(LEAST_UNDER_WAY, 2 * int(slots))


def _one(shared: tuple[Any, Any, Install, Sequence[str]], shard: Any) -> Any:
    """A shard, on its worker. A node that came after the check is checked here, before any call."""
    work, common, driver, packages = shared
    try:
        _same_install(driver, packages)
        return work(common, shard)
    except PaletteError as error:
        return _Failed(_portable(error))


def _outcome_of(ended: Any) -> Any:
    try:
        outcome = ray.get(ended)
    except LOST as error:
        raise ClusterError(
            f"A shard was lost {RETRIES + 1} times, its worker or node died under it: {_first_line(error)} "
            "Was memory short? The same command goes on."
        ) from error
    except RaySystemError as error:
        raise ClusterError(f"Ray failed: {_first_line(error)} The same command goes on.") from error
    if isinstance(outcome, _Failed):
        raise outcome.error
    return outcome


@ray.remote(num_cpus=0, max_retries=0)
def _probe(
    driver: Install,
    marks: Sequence[tuple[Storage, str]],
    packages: Sequence[str],
    check: Callable[[], None] | None,
) -> _Failed[None] | None:
    try:
        _same_install(driver, packages)
        for storage, mark in marks:
            if storage.read(mark) != b"driver":
                raise NodeMismatch(
                    f"Node {_node()} does not see {storage.url}: it is a folder of the driver's machine "
                    "alone. Give a folder on a shared disk, or such as s3://BUCKET/FOLDER."
                )
            storage.probe()
        if check is not None:
            check()
    except PaletteError as error:
        return _Failed(_portable(error))
    return None


@ray.remote(num_cpus=0, max_restarts=0)
class _Claim:
    """Lives as long as its driver; its name is taken meanwhile."""

    def ready(self) -> None:
        """Says that it is there."""


def _hold(name: str, place: str) -> Any:
    """A claim of that name. One whose driver has just died is waited for."""
    deadline = time.monotonic() + CLAIM_S
    while True:
        try:
            claim = _Claim.options(name=name).remote()  # type: ignore[attr-defined]
            ray.get(claim.ready.remote())
            return claim
        except ValueError:  # the name is taken
            if time.monotonic() > deadline:
                raise ArtifactError(
                    f"{place} is in use by another run on this cluster: wait for it, or take another folder."
                ) from None
            time.sleep(0.5)


def _same_install(driver: Install, packages: Sequence[str]) -> None:
    if difference := driver.difference(Install.here(packages)):
        raise NodeMismatch(
            f"Node {_node()} has {difference}. Rows would depend on the node: install the same on every node."
        )


def _address(where: str) -> str | None:
    """The address Ray is given; None for one that is started here."""
    if where == RAY:
        return os.environ.get("RAY_ADDRESS") or None
    parts = urlsplit(where)
    try:
        whole = parts.scheme == RAY and parts.hostname and parts.port and not parts.path.strip("/")
    except ValueError:  # a port that is none
        whole = False
    if not whole:
        raise UsageError(f"--on {where!r}: expected 'ray', or 'ray://HOST:PORT', such as ray://head:10001.")
    return where


def _reach(address: str) -> None:
    """Ray itself tries for minutes, in several threads, before it says that nobody listens."""
    parts = urlsplit(address if "://" in address else f"//{address}")
    try:
        if parts.hostname is None or parts.port is None:  # "auto", "local": Ray's own words
            return
        socket.create_connection((parts.hostname, parts.port), CONNECT_S).close()
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"No Ray cluster answers at {address}: {error}. Is it running ('ray status' on its head), and is "
            "the port that of its Ray Client server (10001)?"
        ) from None


def _connect(where: str, address: str | None) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level="error")
    except Exception as error:  # Ray raises RuntimeError, ConnectionError and its own for these
        raise ClusterError(
            f"--on {where}: Ray can not be reached or refuses: {_first_line(error)}"
        ) from error


def _unloadable(error: RayTaskError, node: str) -> PaletteError:
    """A node that can not even load the task: most often without this package."""
    text = str(error)
    if "ModuleNotFoundError" in text or "ImportError" in text or "AttributeError" in text:
        return NodeMismatch(
            f"Node {_short(node)} can not load what the driver sends: {text.strip().splitlines()[-1]}. "
            "Install the same cultural-palette, with the same extras, on every node."
        )
    return ClusterError(f"Node {_short(node)} failed its check: {text.strip().splitlines()[-1]}")


def _portable(error: PaletteError) -> PaletteError:
    """The error without what can not travel: its cause and traceback."""
    words = str(error)
    for kind in type(error).__mro__:
        if issubclass(kind, PaletteError):
            with suppress(TypeError):
                return kind(words)
    return PaletteError(words)


def _node() -> str:
    return f"{_short(ray.get_runtime_context().get_node_id())} ({socket.gethostname()})"


def _short(node: str) -> str:
    return node[:8]


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
