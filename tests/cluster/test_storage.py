"""Storage, shared calls and a run's parts, on a disk and in memory: whole or not at all, and once."""

from __future__ import annotations

import asyncio
import json
import pickle
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from cultural_palette.calls import Call, use_calls
from cultural_palette.cluster import require_ray
from cultural_palette.cluster.run_storage import RunStorage
from cultural_palette.cluster.shared_calls import SharedCalls
from cultural_palette.cluster.storage import Storage
from cultural_palette.errors import ArtifactError, UsageError

CALL = Call("draft", "openai:x", {"messages": [["user", "hello"]]})


@pytest.fixture(scope="module")
def s3() -> Iterator[None]:
    """An S3 of this machine with a bucket, for s3fs to find."""
    pytest.importorskip("s3fs")
    # Not among the tests' packages: beside s3fs it takes pip minutes to find versions that fit.
    moto = pytest.importorskip("moto.server", reason="an S3 on this machine: pip install 'moto[server]'")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"KEY": "x", "SECRET": "x", "ENDPOINT_URL": f"http://{host}:{port}"}.items():
            patch.setitem(fsspec.config.conf.setdefault("s3", {}), name.lower(), value)
        fsspec.filesystem("s3").mkdir("bucket")
        yield
        fsspec.filesystem("s3").clear_instance_cache()
    server.stop()


@pytest.fixture(params=["disk", "memory", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    if request.param == "disk":
        yield Storage(str(tmp_path / "run"))
        return
    if request.param == "s3":
        request.getfixturevalue("s3")
        yield Storage(f"s3://bucket/{tmp_path.name}/run")
        return
    made = Storage(f"memory://{tmp_path.name}/run")
    yield made
    memory = fsspec.filesystem("memory")
    if memory.exists(f"/{tmp_path.name}"):
        memory.rm(f"/{tmp_path.name}", recursive=True)


def test_objects_are_whole_and_created_once(storage: Storage) -> None:
    assert storage.read("a/b") is None and not storage.exists("a/b") and storage.names("a") == []
    assert storage.create("a/b", b"first") and not storage.create("a/b", b"second")
    assert storage.read("a/b") == b"first"
    storage.write("a/b", b"one\ntwo\n")
    assert list(storage.lines("a/b")) == [b"one\n", b"two\n"] and storage.names("a") == ["b"]
    again = pickle.loads(pickle.dumps(storage))
    assert again.read("a/b") == b"one\ntwo\n"
    storage.remove("a/b")
    storage.remove("a/b")
    storage.probe()
    assert storage.names("a") == [] and storage.names("") in ([], ["a"])


def test_an_uploaded_file_takes_the_place_of_the_old_one(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "new").write_bytes(b"new")
    storage.write("rows.jsonl", b"old")
    storage.upload(tmp_path / "new", "rows.jsonl")
    assert storage.read("rows.jsonl") == b"new" and storage.names("") == ["rows.jsonl"]


def test_a_call_is_made_once_by_all_who_share_the_storage(storage: Storage) -> None:
    made = []

    async def produce() -> dict[str, str]:
        made.append(1)
        await asyncio.sleep(0.01)
        return {"text": "half a pair: \ud800", "number": str(len(made))}

    async def twice() -> list[dict[str, str]]:
        with SharedCalls(storage) as calls, use_calls(calls):
            replies = await asyncio.gather(calls.once(CALL, produce), calls.once(CALL, produce))
            assert (calls.needed["draft"], calls.made["draft"], calls.saved["draft"]) == (2, 1, 1)
            return replies

    first = asyncio.run(twice())

    async def kept() -> dict[str, str]:
        with SharedCalls(storage) as calls:
            return await calls.once(CALL, produce)

    assert first[0] == first[1] == asyncio.run(kept()) and len(made) == 1


def test_a_failed_call_is_not_kept(storage: Storage) -> None:
    async def fail() -> dict[str, str]:
        raise ArtifactError("no")

    async def good() -> dict[str, str]:
        return {"text": "yes"}

    async def run() -> dict[str, str]:
        with SharedCalls(storage) as calls:
            with pytest.raises(ArtifactError):
                await calls.once(CALL, fail)
            return await calls.once(CALL, good)

    assert asyncio.run(run()) == {"text": "yes"}


def test_of_two_who_make_a_call_at_once_both_go_on_with_the_first_reply(storage: Storage) -> None:
    """A node given up for lost that is still at work: its rows and the other's must not differ."""

    async def run() -> list[str]:
        with SharedCalls(storage) as lost, SharedCalls(storage) as other:
            both = asyncio.Barrier(2)

            async def reply(text: str, seconds: float) -> dict[str, str]:
                await both.wait()  # neither has kept a reply yet
                await asyncio.sleep(seconds)
                return {"text": text}

            rows = await asyncio.gather(
                lost.once(CALL, lambda: reply("slow", 0.2)), other.once(CALL, lambda: reply("fast", 0.0))
            )
            return [row["text"] for row in rows]

    assert asyncio.run(run()) == ["fast", "fast"]


def test_a_run_is_merged_with_its_manifest_last(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunStorage(storage, {"kind": "x", "shard": 2})
    run.open()
    run.open()
    with pytest.raises(ArtifactError, match="was begun with another config: shard 2, now 3"):
        RunStorage(storage, {"kind": "x", "shard": 3}).open()
    run.write_part(1, [{"row": "ä"}])
    run.write_part(0, [{"row": 0}, {"row": 1}])
    assert run.parts() == {0, 1} and list(run.rows(0)) == [{"row": 0}, {"row": 1}]
    uploaded = []
    upload = storage.upload
    monkeypatch.setattr(
        Storage, "upload", lambda self, source, name: (uploaded.append(name), upload(source, name))
    )
    with run.merging({"kind": "x"}) as folder:
        for part in (0, 1):
            for row in run.rows(part):
                folder.append(row)
        assert not run.finished
        folder.finish({"done": True})
    assert run.finished and run.manifest == {"done": True}
    assert uploaded == ["rows.jsonl", "manifest.json"]
    rows = (storage.read("rows.jsonl") or b"").decode().splitlines()
    assert [json.loads(line)["row"] for line in rows] == [0, 1, "ä"]


def test_an_unfinished_merge_leaves_nothing(storage: Storage) -> None:
    run = RunStorage(storage, {})
    run.open()
    with pytest.raises(RuntimeError), run.merging({}) as folder:
        folder.append({"row": 0})
        raise RuntimeError("stopped")
    assert storage.names("") == ["config.json"]


def test_a_corrupt_part_or_call_is_named(storage: Storage) -> None:
    run = RunStorage(storage, {})
    storage.write("parts/000000.jsonl", b'{"row": 0}\n{"row"\n')
    with pytest.raises(ArtifactError, match=r"000000.jsonl:2: not JSON.*Remove that part"):
        list(run.rows(0))
    with SharedCalls(storage) as calls:
        key = calls.key(CALL)
        storage.write(f"{key[:2]}/{key}.json", b"{")
        with pytest.raises(ArtifactError, match=f"{key}.json: not JSON.*Remove it"):
            asyncio.run(calls.once(CALL, None))  # type: ignore[arg-type]


def test_places_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere://x.*Give a folder"):
        Storage("nowhere://x")
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="can not be written"):
        Storage(str(tmp_path / "file" / "run")).probe()


def test_an_s3_that_refuses(s3: None) -> None:
    with pytest.raises(ArtifactError, match=r"s3://elsewhere/run/.* can not be written: .*bucket"):
        Storage("s3://elsewhere/run").probe()


def test_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cultural_palette.cluster.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"needs ray, .*pip install 'cultural-palette\[cluster\]'"):
        require_ray()
