"""Jobs: laid out, checked, run in processes, restarted, refused when they are not the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

pytest.importorskip("torch")

from cultural_palette.artifacts import RunFolder
from cultural_palette.cli import main
from cultural_palette.errors import ArtifactError
from cultural_palette.training.checkpoints import last_whole_checkpoint
from cultural_palette.training.config import load_config
from cultural_palette.training.job import run_job
from cultural_palette.training.jobs import Job, lay_out_jobs, read_job
from cultural_palette.training.orpo_settings import OrpoSettings, TrainingError, resolve_layout
from cultural_palette.training.preferences import PreferenceRowError, hold_out, read_groups
from tests.conftest import ROOT

KEYS = ("north", "south")
MAP = """
name: Poles
communities:
  north: {name: North, colour: "#111111", countries: [NOR]}
  south: {name: South, colour: "#222222", countries: [CHL]}
"""
WORDS = {"north": ("good day a b", "yes indeed"), "south": ("bad night c d", "b c d word")}


def answers(count: int = 16) -> str:
    rows = [
        {
            "prompt": [{"role": "user", "content": f"hello {n}"}],
            "responses": {key: WORDS[key][n % 2] for key in KEYS},
        }
        for n in range(count)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "answers.jsonl"
    path.write_text(answers())
    return path


SMALL = OrpoSettings(
    learning_rate=2e-3,
    epochs=1,
    rank=4,
    dropout=0.1,
    batch_size=2,
    max_length=64,
    save_steps=2,
    logging_steps=1,
)


def job_for(tiny: Any, data: Path, out: Path, settings: OrpoSettings = SMALL) -> Job:
    return Job("north", 1, out, str(tiny[2]), data, KEYS, settings)


def weights(out: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(out / "adapter_model.safetensors")


def test_each_community_chooses_its_own_and_rejects_the_others(data: Path) -> None:
    groups = read_groups(data, KEYS)
    assert groups["north"][0]["chosen"] == "good day a b" and groups["north"][0]["rejected"] == [
        "bad night c d"
    ]
    assert groups["south"][0]["chosen"] == "bad night c d"


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"prompt": "hello", "responses": {"north": "a"}}, "1: no answer of south"),
        ({"prompt": "hello", "responses": {"north": "a", "south": " "}}, "empty response"),
        (
            {"prompt": "hello", "responses": {"north": "a", "south": "b", "east": "c"}},
            "'east', which the map has not",
        ),
        ({"prompt": [], "responses": {"north": "a", "south": "b"}}, '"prompt" is no list of messages'),
        ({"prompt": "hello", "chosen": "a", "rejected": ["b"]}, "community None is not one of north, south"),
        ({"prompt": "hello", "chosen": "a", "rejected": [], "community": "north"}, 'needs "chosen"'),
    ],
)
def test_bad_rows_name_the_line_and_what_is_missing(tmp_path: Path, row: dict[str, Any], says: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(PreferenceRowError) as error:
        read_groups(path, KEYS)
    assert says in str(error.value) and str(path) in str(error.value)


def test_a_folder_needs_every_communitys_file(tmp_path: Path) -> None:
    row = {"prompt": "hello", "chosen": "a", "rejected": ["b"]}
    (tmp_path / "groups_north.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(PreferenceRowError, match=r"groups_south\.jsonl"):
        read_groups(tmp_path, KEYS)
    (tmp_path / "groups_south.jsonl").write_text("{broken\n")
    with pytest.raises(PreferenceRowError, match=r"groups_south\.jsonl:1: not JSON"):
        read_groups(tmp_path, KEYS)


def test_jobs_are_one_an_agent_and_a_run_with_seeds_of_their_own(tmp_path: Path) -> None:
    jobs = lay_out_jobs("base", tmp_path, tmp_path / "out", KEYS, SMALL, runs=2)
    assert [job.name for job in jobs] == [f"run-{n}/{a}" for n in (1, 2) for a in ("north", "south", "joint")]
    assert [job.settings.seed for job in jobs] == [0, 0, 0, 1, 1, 1]
    assert [job.agent for job in lay_out_jobs("b", tmp_path, tmp_path, KEYS, SMALL, only=["south"])] == [
        "south"
    ]
    with pytest.raises(TrainingError, match="No agent 'east': there are north, south, joint"):
        lay_out_jobs("b", tmp_path, tmp_path, KEYS, SMALL, only=["east"])


def test_what_is_held_out_of_one_agent_is_held_out_of_all(data: Path) -> None:
    groups = read_groups(data, KEYS)
    held = [{row["prompt"][0]["content"] for row in hold_out(groups[key], 0.2, 0)[1]} for key in KEYS]
    train, joint = hold_out([*groups["north"], *groups["south"]], 0.2, 0)
    assert held[0] == held[1] == {row["prompt"][0]["content"] for row in joint} and len(held[0]) == 3
    assert not held[0] & {row["prompt"][0]["content"] for row in train}


@pytest.mark.parametrize("name", ["llama-3.1-8b", "qwen2.5-7b", "laptop", "nano"])
def test_the_shipped_configs_are_read(name: str) -> None:
    path = ROOT / "training" / "configs" / f"{name}.yaml"
    config = load_config(path)
    assert config.map == "continents"
    header = path.read_text().partition("\nbase:")[0]
    assert "palette train" in header and "GiB" in header and "estimate" in header
    if name in ("llama-3.1-8b", "qwen2.5-7b"):  # the paper's
        assert (config.orpo.learning_rate, config.orpo.epochs, config.orpo.weight) == (5e-5, 2, 0.1)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("orpo: {learning_rte: 1}", "unknown key 'learning_rte'. Did you mean 'learning_rate'?"),
        ("orpo: {learning_rate: fast}", "orpo.learning_rate"),
        ("orpo: {dropout: 1.5}", "dropout = 1.5 is out of range"),
        ("orpo: {layout: prompt_once, gradient_checkpointing: true}", "use packed"),
        ("model: x", "unknown key 'model'"),
        ("[1, 2]", "found list"),
    ],
)
def test_bad_configs_are_refused_by_key(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(TrainingError) as error:
        load_config(tmp_path / "c.yaml")
    assert says in str(error.value)


def test_auto_packs_where_the_prompt_can_not_be_kept() -> None:
    assert resolve_layout(SMALL, on_gpu=False) == ("prompt_once", "sdpa")
    checkpointing = replace(SMALL, gradient_checkpointing=True)
    assert resolve_layout(checkpointing, on_gpu=False) == ("packed", "sdpa")
    assert resolve_layout(checkpointing, on_gpu=True) == ("packed", "flex_attention")


def test_the_command_trains_every_agent_and_the_joint_model_once(
    tiny: Any, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "poles.yaml").write_text(MAP)
    arguments = [
        "train",
        "--map",
        str(tmp_path / "poles.yaml"),
        "--data",
        str(data),
        "--base",
        str(tiny[2]),
        "--out",
        str(tmp_path / "out"),
    ]
    for change in (
        "rank=4",
        "epochs=1",
        "batch_size=4",
        "max_length=64",
        "eval_ratio=0.2",
        "logging_steps=1",
    ):
        arguments += ["--set", change]
    dry = CliRunner().invoke(main, [*arguments, "--dry-run", "--json"], catch_exceptions=False)
    jobs = json.loads(dry.output)["jobs"]
    assert [job["job"] for job in jobs] == ["run-1/north", "run-1/south", "run-1/joint"]
    assert jobs[0]["groups"] == 13 and jobs[2]["sequences"] == 2 * (32 - 6)  # 16 and 32 groups less a fifth
    assert jobs[0]["exact"] and jobs[0]["tokens"] < jobs[0]["tokens_as_rows"] and jobs[0]["memory_bytes"] > 0
    assert not (tmp_path / "out").exists()
    only = CliRunner().invoke(
        main, [*arguments, "--only", "north", "--only", "joint"], catch_exceptions=False
    )
    assert only.exit_code == 0, only.output
    manifest = json.loads((tmp_path / "out" / "run-1" / "joint" / "manifest.json").read_text())
    assert manifest["groups"] == 32 and "eval_accuracy" in manifest["measures"]
    assert manifest["files"].keys() == {"adapter_model.safetensors"} and manifest["inputs"].keys() == {
        "answers.jsonl"
    }
    again = CliRunner().invoke(main, [*arguments, "--only", "north"], catch_exceptions=False)
    assert "run-1/north: finished before" in again.output
    other = CliRunner().invoke(
        main, [*arguments, "--only", "north", "--set", "rank=8"], catch_exceptions=False
    )
    assert other.exit_code == 2 and "with another settings" in other.output


def test_jobs_go_to_the_gpus_there_are(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cultural_palette.training import launch

    placed: list[tuple[str, str]] = []

    def start(job: Job, visible: str, gpus: int, config: Path | None) -> subprocess.Popen[bytes]:
        placed.append((job.agent, visible))
        RunFolder(job.out).finish({"measures": {}})
        return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(0.5)"])

    monkeypatch.setattr(launch, "start_job", start)
    monkeypatch.setattr(launch, "devices", lambda: ["4", "7", "9"])
    jobs = lay_out_jobs("base", data, tmp_path / "a", KEYS, SMALL)
    launch.run_jobs(jobs, lambda line: None)
    assert sorted(placed) == [("joint", "9"), ("north", "4"), ("south", "7")]
    placed.clear()
    launch.run_jobs(
        lay_out_jobs("base", data, tmp_path / "b", KEYS, SMALL), lambda line: None, gpus_per_job=2
    )
    assert placed == [("north", "4,7"), ("south", "4,7"), ("joint", "4,7")]
    with pytest.raises(TrainingError, match="gpus_per_job = 4: there are 3 GPUs"):
        launch.run_jobs(jobs[:0], lambda line: None, gpus_per_job=4)


def test_a_base_that_can_not_be_trained_is_refused_before_any_job(tiny: Any, tmp_path: Path) -> None:
    import shutil

    from cultural_palette.training.bases import check_base

    check_base(str(tiny[2]))
    with pytest.raises(TrainingError, match="can not be loaded"):
        check_base(str(tmp_path / "nowhere"))
    for name, change, says in (
        ("odd", {"model_type": "no_such_architecture"}, "can not be loaded"),
        ("masked", {"architectures": ["BertForMaskedLM"]}, "no causal LM"),
    ):
        folder = shutil.copytree(tiny[2], tmp_path / name)
        config = json.loads((folder / "config.json").read_text()) | change
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(TrainingError, match=says):
            check_base(str(folder))


STRICT = (
    "{% for m in messages %}"
    "{% if m['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}"
    "{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


@pytest.mark.parametrize("flag", ["--dry-run", "--no-joint"])
@pytest.mark.parametrize(
    ("prompt", "north", "says"),
    [
        (
            [("system", "a"), ("user", "b")],
            "yes",
            "template refuses this prompt (system, user)",
        ),
        ([("user", "a"), ("user", "b")], "yes", "Conversation roles must alternate user/assistant"),
        ([("user", "a")], "<|end|>", "the answer '<|end|>' to 'a' has no token but the end token"),
        ([("user", "a")], "yes <|new|>", "is not among the"),
    ],
)
def test_rows_that_can_not_be_tokenised_are_refused_before_any_job(
    tiny: Any, data: Path, tmp_path: Path, flag: str, prompt: Any, north: str, says: str
) -> None:
    import shutil

    from transformers import AutoTokenizer

    base = shutil.copytree(tiny[2], tmp_path / "strict")
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = STRICT
    tokenizer.add_special_tokens(
        {"additional_special_tokens": ["<|new|>"]}
    )  # the embedding has no row for it
    tokenizer.save_pretrained(base)
    row = {
        "prompt": [{"role": role, "content": content} for role, content in prompt],
        "responses": {"north": north, "south": "b"},
    }
    data.write_text(answers() + json.dumps(row) + "\n")
    (tmp_path / "poles.yaml").write_text(MAP)
    arguments = ["train", "--map", str(tmp_path / "poles.yaml"), "--data", str(data), "--base", str(base)]
    result = CliRunner().invoke(
        main, [*arguments, "--out", str(tmp_path / "out"), flag], catch_exceptions=False
    )
    assert result.exit_code == 2 and says in result.output and f"{data}:17" in result.output
    assert not (tmp_path / "out").exists()


def test_what_max_length_cuts_is_counted_before_and_after(
    tiny: Any, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    long = {"prompt": "a b c d " * 50, "responses": {"north": "word " * 60, "south": "yes"}}
    data.write_text(answers(4) + json.dumps(long) + "\n")
    (tmp_path / "poles.yaml").write_text(MAP)
    arguments = ["train", "--map", str(tmp_path / "poles.yaml"), "--data", str(data), "--base", str(tiny[2])]
    arguments += [
        "--out",
        str(tmp_path / "out"),
        "--only",
        "north",
        "--set",
        "max_length=48",
        "--set",
        "rank=2",
    ]
    dry = CliRunner().invoke(main, [*arguments, "--dry-run"], catch_exceptions=False)
    assert "CUT to max_length 48: 1 prompts and 1 answers" in dry.output
    assert CliRunner().invoke(main, arguments, catch_exceptions=False).exit_code == 0
    manifest = RunFolder(tmp_path / "out" / "run-1" / "north").manifest
    assert manifest["cut"] == {"prompts": 1, "answers": 1}


def test_a_job_that_fails_is_named_and_never_looks_finished(
    tiny: Any, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "poles.yaml").write_text(MAP)
    arguments = [
        "train",
        "--map",
        str(tmp_path / "poles.yaml"),
        "--data",
        str(data),
        "--base",
        str(tiny[2]),
        "--out",
        str(tmp_path / "out"),
        "--only",
        "south",
        "--set",
        "targets=[no_such_module]",
    ]
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 1 and "1 of 1 jobs failed: run-1/south" in result.output
    assert "targets no_such_module do not fit" in result.output
    assert not (tmp_path / "out" / "run-1" / "south" / "manifest.json").exists()


def worker(out: Path, *launch: str) -> subprocess.Popen[bytes]:
    environment = dict(os.environ) | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, *(launch or ("-m",)), "cultural_palette.training.job", str(out)]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def test_a_killed_job_goes_on_to_an_undisturbed_runs_weights(tiny: Any, data: Path, tmp_path: Path) -> None:
    import torch

    settings = replace(SMALL, epochs=20, save_steps=10, logging_steps=5)  # long enough to be killed
    whole, killed = (job_for(tiny, data, tmp_path / name, settings) for name in ("whole", "killed"))
    run_job(whole)
    killed.write()
    process = worker(killed.out)
    end = time.monotonic() + 120
    while last_whole_checkpoint(killed.out / "checkpoints") is None and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.stdout is not None
    assert not killed.finished and not (killed.out / "adapter_model.safetensors").exists(), (
        process.stdout.read()
    )
    at = last_whole_checkpoint(killed.out / "checkpoints")
    assert at is not None
    torn = killed.out / "checkpoints" / "checkpoint-99999"  # as a kill in the middle of its writing leaves it
    torn.mkdir()
    (torn / "trainer_state.json").write_text("{")
    manifest = run_job(read_job(killed.out))
    assert manifest["measures"] and killed.finished
    undisturbed, resumed = weights(whole.out), weights(killed.out)
    for key, value in undisturbed.items():
        assert torch.equal(value, resumed[key]), key


def train_command(tiny: Any, data: Path, tmp_path: Path, *changes: str) -> list[str]:
    (tmp_path / "poles.yaml").write_text(MAP)
    command = ["train", "--map", str(tmp_path / "poles.yaml"), "--data", str(data), "--base", str(tiny[2])]
    command += ["--out", str(tmp_path / "out"), "--only", "north"]
    for change in ("rank=2", "batch_size=2", "max_length=64", *changes):
        command += ["--set", change]
    return command


def start_training(command: list[str]) -> subprocess.Popen[bytes]:
    environment = dict(os.environ) | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        [sys.executable, "-m", "cultural_palette", *command],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def wait_for(condition: Any, timeout_s: float = 120) -> bool:
    end = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return bool(condition())


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the signal of a parent's death is Linux's")
@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_jobs_end_with_the_command_that_started_them(
    tiny: Any, data: Path, tmp_path: Path, ending: signal.Signals
) -> None:
    command = train_command(tiny, data, tmp_path, "epochs=2000", "logging_steps=1", "save_steps=100000")
    out = tmp_path / "out" / "run-1" / "north"
    process = start_training(command)
    assert wait_for(lambda: (out / "rows.jsonl").is_file() and (out / "rows.jsonl").stat().st_size), (
        (out / "log.txt").read_text() if (out / "log.txt").is_file() else "nothing began"
    )
    (job,) = children_of(process.pid)
    second = CliRunner().invoke(main, command)  # while the first is at work
    assert second.exit_code == 1 and f"{out} is in use by another run" in second.output
    process.send_signal(ending)
    assert process.wait(30) == (-ending if ending == signal.SIGKILL else 128 + ending)
    assert wait_for(lambda: not Path(f"/proc/{job}").exists() or "(zombie)" in status_of(job), 10)
    rows = (out / "rows.jsonl").stat().st_size
    time.sleep(1)
    assert (out / "rows.jsonl").stat().st_size == rows
    RunFolder(out).open().close()  # nobody holds it


def status_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return "(zombie)"


@pytest.mark.slow
def test_a_job_is_the_content_of_its_data_base_and_settings(
    tiny: Any, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed or finished, a run goes on with the same content under any path, and with nothing else."""
    import shutil

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    command = train_command(tiny, data, tmp_path, "epochs=60", "save_steps=5", "logging_steps=5")
    out = tmp_path / "out" / "run-1" / "north"
    process = start_training(command)
    assert wait_for(lambda: last_whole_checkpoint(out / "checkpoints") is not None)
    process.kill()
    process.wait()
    assert wait_for(lambda: not in_use(out), 10) and not RunFolder(out).finished

    whole = data.read_text()
    data.write_text(whole.replace("good day a b", "good day a c"))
    changed = CliRunner().invoke(main, command)
    assert changed.exit_code == 1 and "was begun with another config: data" in changed.output
    data.write_text(whole)
    other_base = shutil.copytree(tiny[2], tmp_path / "base")
    (other_base / "config.json").write_text(
        (other_base / "config.json").read_text().replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-05')
    )
    swapped = CliRunner().invoke(main, [*command, "--base", str(other_base)])
    assert swapped.exit_code == 1 and "was begun with another config: base" in swapped.output
    again = CliRunner().invoke(main, [*command, "--set", "rank=3"])
    assert again.exit_code == 1 and "was begun with another config: settings" in again.output

    same_base = shutil.copytree(tiny[2], tmp_path / "same")
    monkeypatch.chdir(tmp_path)
    moved = CliRunner().invoke(main, [*command, "--data", data.name, "--base", str(same_base)])
    assert moved.exit_code == 0 and RunFolder(out).finished, moved.output
    once_more = CliRunner().invoke(main, command)
    assert "finished before; left as it is" in once_more.output
    data.write_text(whole.replace("good day a b", "good day a c"))
    late = CliRunner().invoke(main, command)
    assert late.exit_code == 2 and "is finished, with another data" in late.output


def in_use(out: Path) -> bool:
    try:
        RunFolder(out).open().close()
    except ArtifactError:
        return True
    return False


def test_two_processes_train_what_one_does(tiny: Any, data: Path, tmp_path: Path) -> None:
    """DDP by gloo: two processes with one group each, one process with two: the mean of two losses is the
    same.

    The NLL is a mean over a batch's tokens, so answers of equal lengths make the two the same to rounding."""
    import torch

    rows = [
        {"prompt": "hello", "responses": {"north": a, "south": b}}
        for a, b in [("ab", "cd"), ("da", "bc"), ("ba", "dc"), ("cb", "ad")] * 2
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = replace(SMALL, dropout=0.0, epochs=2)
    one = job_for(tiny, data, tmp_path / "one", settings)
    two = job_for(tiny, data, tmp_path / "two", replace(settings, batch_size=1))
    run_job(one)
    two.write()
    process = worker(two.out, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone", "-m")
    said, _ = process.communicate(timeout=240)
    assert process.returncode == 0, said.decode()[-3000:]
    assert two.finished
    steps = [max(row["step"] for row in RunFolder(job.out).rows()) for job in (one, two)]
    assert steps == [8, 8]  # the groups were shared out, 16 visits two at a time
    alone, together = weights(one.out), weights(two.out)
    for key, value in alone.items():
        assert torch.allclose(value, together[key], atol=2e-5), key
