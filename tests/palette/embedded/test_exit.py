"""A process that ends while the engine decodes ends with its own exit code, not with torch's abort."""

from __future__ import annotations

import subprocess
import sys

import pytest

START = """
import sys, threading
from cultural_palette.embedded.engine import Generation, get_engine
engine, begun = get_engine("nano"), threading.Event()
prompt = engine.encode([("user", "Tell a long story of tea.")])
for seed in range(16):
    engine.generate(Generation("africa", prompt, 2.0, 500, seed, lambda piece: begun.set()))
assert begun.wait(120)
"""
ENDS = {
    "a code": ("sys.exit(130)", 130),
    "an error": ("raise RuntimeError('boom')", 1),
    "its end": ("", 0),
}


@pytest.mark.parametrize("end", ENDS)
def test_the_exit_code_is_the_programs_own(end):
    line, code = ENDS[end]
    done = subprocess.run([sys.executable, "-c", START + line], capture_output=True, text=True, timeout=240)
    assert done.returncode == code, done.stderr[-500:]
    assert "terminate called" not in done.stderr
