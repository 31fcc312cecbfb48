"""The Triton kernel, run by Triton's interpreter in vLLM's environment, against the plain form."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

import cultural_palette
from cultural_palette.serving.vllm_plugin.config import KEY, PluginConfig

SCRIPT = Path(__file__).with_name("fused_in_triton.py")


def test_the_kernel_is_the_plain_sum(vllm_python: Path) -> None:
    ours = str(Path(cultural_palette.__file__).parents[1])
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": ours, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [str(vllm_python), str(SCRIPT)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    differences = json.loads(done.stdout.splitlines()[-1])
    assert len(differences) == 3 and max(differences.values()) < 2e-6, differences


@pytest.mark.parametrize("fused", [False, True])
def test_it_is_asked_for_by_name(fused: bool) -> None:
    config = PluginConfig("nano", {"africa": "a"}, "router", "fitted", fused)
    assert ("fused" in config.as_flag()[KEY]) is fused and PluginConfig.of(config.as_flag()) == config
