"""The providers' batch files: requests out, results in, until nothing is left to ask."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cultural_palette.artifacts import RunFolder
from cultural_palette.errors import UsageError
from cultural_palette.training.synthesis import batch
from cultural_palette.training.synthesis.batch import ENDPOINT, RequestsFile, ResultsFiles
from tests.training.test_synthesis_run import GOOD, honest, rows_of, run, spec


def write(out: Path) -> list[dict[str, Any]]:
    requests = RequestsFile(out / "batch")
    run(out, None, spec(2), answering=requests)
    return [json.loads(line) for file in requests.close() for line in file.read_text().splitlines()]


def read(out: Path, *files: Path) -> tuple[ResultsFiles, Any]:
    results = ResultsFiles(files)
    return results, run(out, None, spec(2), answering=results)


def result(request: dict[str, Any], text: str | None = None) -> dict[str, Any]:
    body = {
        "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"content": text or honest(request["body"])}}
        ],
        "usage": {"prompt_tokens": 10, "completion_tokens": 3},
    }
    response = {"status_code": 200, "request_id": "r", "body": body}
    return {"id": "b", "custom_id": request["custom_id"], "response": response, "error": None}


def results_file(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_round_after_round_to_the_end(tmp_path):
    out = tmp_path / "x"
    for number in range(1, 5):  # respond, feedback, aggregate, validate
        requests = write(out)
        assert len(requests) == 10
        assert not RunFolder(out).finished
        file = results_file(tmp_path / f"results-{number}.jsonl", [result(each) for each in requests])
        results, outcome = read(out, file)
        assert results.counts["used"] == 10
        assert outcome.finished == (number == 4)
    assert {row["status"] for row in rows_of(out).values()} == {"ok"}
    assert [file.name for file in sorted((out / "batch").iterdir())] == [
        f"requests-{number:03}-001.jsonl" for number in range(1, 5)
    ]
    assert RunFolder(out).manifest["tokens"] == {"input": 400, "output": 120, "replies_without_count": 0}


def test_a_request_is_what_the_provider_takes(tmp_path):
    first = write(tmp_path / "x")[0]
    assert (first["method"], first["url"]) == ("POST", ENDPOINT)
    assert len(first["custom_id"]) == 64
    assert set(first["body"]) == {"model", "messages", "temperature", "max_completion_tokens", "seed"}
    assert [message["role"] for message in first["body"]["messages"]] == ["system", "user"]
    again = write(tmp_path / "x")
    assert {each["custom_id"] for each in again} >= {first["custom_id"]}  # nothing came: the same requests


def test_errors_duplicates_and_torn_lines(tmp_path):
    out = tmp_path / "x"
    requests = write(out)
    rows = [result(each) for each in requests[:6]]
    rows.append(result(requests[0], "another text"))
    failed = {"custom_id": requests[6]["custom_id"], "response": None, "error": {"code": "batch_expired"}}
    busy = {
        "custom_id": requests[7]["custom_id"],
        "response": {"status_code": 500, "body": {}},
        "error": None,
    }
    refused = {
        "custom_id": requests[8]["custom_id"],
        "response": {"status_code": 400, "body": {"error": {"message": "content policy"}}},
        "error": None,
    }
    unknown = result({**requests[9], "custom_id": "f" * 64})
    file = results_file(tmp_path / "r.jsonl", [*rows, failed, busy, refused, unknown, '{"custom_id": '])
    results, outcome = read(out, file)
    assert results.counts == {"read": 12, "errors": 2, "duplicates": 1, "unreadable": 1, "used": 7}
    assert "batch_expired" in results.faults[0] and f"{file}:8" in results.faults[0]
    assert not outcome.finished
    (set_aside,) = rows_of(out).values()  # the refused one is final
    assert set_aside["status"] == "set_aside" and "content policy" in set_aside["error"]

    left = {each["custom_id"] for each in write(out)}
    assert {requests[n]["custom_id"] for n in (6, 7, 9)} <= left  # asked again
    assert not {requests[n]["custom_id"] for n in range(6)} & left
    assert len(left) == 9  # six go on to their next step


def test_the_first_good_duplicate_counts(tmp_path):
    requests = write(tmp_path / "x")
    bad = {"custom_id": requests[0]["custom_id"], "response": None, "error": {"code": "x"}}
    file = results_file(tmp_path / "r.jsonl", [bad, result(requests[0]), result(requests[0], "late")])
    results, _ = read(tmp_path / "x", file)
    assert results.counts["errors"] == 0 and results.counts["duplicates"] == 1
    second = [each["body"]["messages"][1]["content"] for each in write(tmp_path / "x")]
    assert any(f"Answer: {GOOD}" in text for text in second)


def test_files_are_parted_as_the_provider_takes_them(tmp_path, monkeypatch):
    monkeypatch.setattr(batch, "MOST_REQUESTS", 4)
    assert len(write(tmp_path / "x")) == 10
    sizes = [len(f.read_text().splitlines()) for f in sorted((tmp_path / "x" / "batch").glob("*.jsonl"))]
    assert sizes == [4, 4, 2]


def test_no_such_results(tmp_path):
    with pytest.raises(UsageError, match="No results file"):
        ResultsFiles((tmp_path / "nothing.jsonl",))
