"""The script of docs/the-whole-way.md, run as it stands there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytest.importorskip("mergekit")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_from_questions_to_a_table(tmp_path: Path) -> None:
    out = tmp_path / "way"
    command = [sys.executable, str(ROOT / "examples" / "the_whole_way.py"), str(out)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=850)
    assert done.returncode == 0, done.stderr[-3000:]
    members = json.loads((out / "palette" / "merge_report.json").read_text())["members"]
    assert len(members) == 5 and all(row["relative_change"] > 0 for row in members.values())
    rows = [json.loads(line) for line in (out / "table" / "rows.jsonl").read_text().splitlines()]
    assert len(rows) == 8 and {row["method"] for row in rows} == {"vanilla", "cultural-palette"}
    assert all(row["status"] != "failed" for row in rows)
    assert (out / "table" / "report" / "report.html").is_file()
    page = (ROOT / "docs" / "the-whole-way.md").read_text(encoding="utf-8")
    shown = [line[2:].split()[1:3] for line in done.stdout.splitlines() if line.startswith("$ palette ")]
    assert all(f"palette {first}" in page for first, *_ in shown)
