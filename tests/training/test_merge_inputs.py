"""Bad input and bad luck: every refusal names the thing and the way out, and no part of a result stays."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from cultural_palette.artifacts import claim
from cultural_palette.cli import main

torch = pytest.importorskip("torch")
pytest.importorskip("mergekit")

from cultural_palette.moerges.adapters import read_adapter  # noqa: E402
from cultural_palette.moerges.peft_settings import AdapterError  # noqa: E402
from cultural_palette.training.merge import MergeError, merge_flat, merge_moerges  # noqa: E402
from cultural_palette.training.merge.members import model_name  # noqa: E402
from tests.training.merge_models import FFN, change_config, make_adapter, make_base  # noqa: E402

PROMPTS = {"north": ["north"], "south": ["south"]}


@pytest.fixture(scope="module")
def originals(tiny: tuple[Any, Any, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    base = make_base("llama", folder / "base", tiny[2])
    for seed, key in enumerate(PROMPTS):
        make_adapter(base, folder / key, seed)
    return folder


@pytest.fixture
def here(originals: Path, tmp_path: Path) -> Path:
    """Base and two adapters, for a test to spoil."""
    shutil.copytree(originals, tmp_path / "in")
    return tmp_path / "in"


def merges(here: Path, **options: Any) -> None:
    merge_moerges(here / "base", {key: here / key for key in PROMPTS}, PROMPTS, here / "out", **options)


def flat(here: Path, **options: Any) -> None:
    merge_flat("ties", here / "base", {key: here / key for key in PROMPTS}, here / "out", **options)


def nothing_stays(here: Path) -> None:
    assert sorted(path.name for path in here.iterdir()) == ["base", "north", "south"]


@pytest.mark.parametrize("merge", [merges, flat])
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda h: change_config(h / "north", "adapter_config.json", base_model_name_or_path="org/other"),
         "was trained on 'other', and the base is 'base'.*--any-base"),
        (lambda h: change_config(h / "north", "adapter_config.json", use_dora=True),
         "use_dora = True.*merge_and_unload"),
        (lambda h: change_config(h / "north", "adapter_config.json", peft_type="IA3"),
         "peft_type = 'IA3': only LoRA"),
        (lambda h: change_config(h / "north", "adapter_config.json", init_lora_weights="pissa"),
         "init_lora_weights = 'pissa'.*plain LoRA"),
        (lambda h: change_config(h / "north", "adapter_config.json", alora_invocation_tokens=[3]),
         "alora_invocation_tokens = .3.*invocation"),
        (lambda h: change_config(h / "north", "adapter_config.json", use_tomorrow=True),
         "use_tomorrow = True: a setting of PEFT that is not known here"),
        (lambda h: change_config(h / "north", "adapter_config.json", r=16),
         "rank 4 in adapter_model.safetensors and 16 in adapter_config.json"),
        (lambda h: change_config(h / "north", "adapter_config.json", lora_alpha=[8]),
         r"lora_alpha of .* is \[8\] in adapter_config.json"),
        (lambda h: change_config(h / "north", "adapter_config.json", use_rslora="false"),
         "use_rslora = 'false': it is true or false"),
        (lambda h: change_config(h / "north", "adapter_config.json", base_model_name_or_path=["base"]),
         r"base_model_name_or_path is \['base'\]"),
        (lambda h: (h / "north" / "adapter_model.safetensors").rename(h / "north" / "adapter_model.bin"),
         "pickle file"),
        (lambda h: change_config(h / "base", quantization_config={"quant_method": "fp8"}),
         r"base is quantised \(fp8\)"),
        (lambda h: (h / "north" / "adapter_model.safetensors").write_bytes(b"short"),
         "can not be read.*complete"),
        (lambda h: shutil.rmtree(h / "north"), "neither adapter_config.json nor config.json"),
        (lambda h: (h / "base" / "config.json").write_text("{"), "config.json can not be read"),
        (lambda h: (h / "base" / "model.safetensors").unlink(), "has no model.safetensors"),
        (lambda h: shutil.rmtree(h / "base"), "No folder .*base"),
    ],
)  # fmt: skip
def test_spoilt_inputs(
    here: Path, merge: Callable[..., None], spoil: Callable[[Path], Any], said: str
) -> None:
    spoil(here)
    with pytest.raises(MergeError, match=said):
        merge(here)
    assert not list(here.glob("out*"))


def test_an_adapter_for_a_base_of_another_shape(here: Path, tiny: tuple[Any, Any, Path]) -> None:
    """Under the right name, its shapes give it away."""
    other = make_base("mistral", here.parent / "other" / "base", tiny[2])
    shutil.rmtree(here / "north")
    make_adapter(other, here / "north", 0)
    change = torch.zeros(4, 32)
    from safetensors.torch import load_file, save_file

    file = here / "north" / "adapter_model.safetensors"
    weights = load_file(file)
    name = next(key for key in weights if "up_proj.lora_A" in key)
    save_file(weights | {name: change}, file)
    with pytest.raises(
        MergeError, match=r"is for another base: its .*up_proj.weight is \(96, 32\), .* \(96, 64\)"
    ):
        merges(here)
    nothing_stays(here)


def test_any_base_takes_the_word_for_it(here: Path) -> None:
    change_config(here / "north", "adapter_config.json", base_model_name_or_path="org/other")
    merges(here, any_base=True)
    assert (here / "out" / "merge_report.json").is_file()


def test_an_unknown_architecture(here: Path) -> None:
    change_config(here / "base", model_type="gpt2")
    with pytest.raises(MergeError, match=r"'gpt2' model; MoErges knows Llama 3.x \(llama\), Mistral"):
        merges(here)
    nothing_stays(here)


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("llama", {"attention_bias": True}, "attention has biases"),
        ("qwen2", {"use_sliding_window": True}, "sliding"),
    ],
)
def test_what_a_mixture_can_not_hold(
    here: Path, tiny: tuple[Any, Any, Path], name: str, changes: dict[str, Any], said: str
) -> None:
    shutil.rmtree(here / "base")
    make_base(name, here / "base", tiny[2])
    change_config(here / "base", **changes)
    with pytest.raises(MergeError, match=said):
        merges(here)


def test_mixed_tokenizers(here: Path) -> None:
    tokenizer = json.loads((here / "base" / "tokenizer.json").read_text())
    tokenizer["added_tokens"][0]["content"] = "<other>"
    (here / "south" / "tokenizer.json").write_text(json.dumps(tokenizer))
    for merge in (merges, flat):
        with pytest.raises(
            MergeError, match=r"south has another tokenizer than the base .*special tokens differ"
        ):
            merge(here)
    nothing_stays(here)


def test_an_adapter_on_attention_only_would_be_lost(here: Path) -> None:
    shutil.rmtree(here / "north")
    make_adapter(here / "base", here / "north", 0, ["q_proj", "v_proj"])
    with pytest.raises(
        MergeError, match=r"north changes no FFN projection .* It changes 4 others, which stay out"
    ):
        merges(here)
    flat(here)  # TIES takes every tensor


def test_what_attention_loses_is_counted(here: Path) -> None:
    shutil.rmtree(here / "north")
    make_adapter(here / "base", here / "north", 0, [*FFN, "q_proj"])
    merges(here)
    report = json.loads((here / "out" / "merge_report.json").read_text())
    assert [report["members"][key]["left_out"] for key in PROMPTS] == [2, 0]


def test_a_moerges_takes_the_ffn_and_counts_what_else_there_is(here: Path) -> None:
    """lm_head by LoRA or whole: no part of an FFN, so it stays out; TIES wants all of it."""
    shutil.rmtree(here / "north")
    make_adapter(here / "base", here / "north", 0, FFN, modules_to_save=["lm_head"])
    shutil.rmtree(here / "south")
    make_adapter(here / "base", here / "south", 1, [*FFN, "lm_head"])
    merges(here)
    report = json.loads((here / "out" / "merge_report.json").read_text())
    assert report["members"]["north"]["left_out"] == 1 and report["members"]["south"]["left_out"] >= 1


def test_an_ffn_trained_whole_comes_into_the_dense_moerges_and_no_other(here: Path) -> None:
    """What `modules_to_save` trains of the FFN is the expert's own tensor; no low-rank change equals it."""
    from safetensors.torch import load_file, save_file

    shutil.rmtree(here / "north")
    make_adapter(here / "base", here / "north", 0, ["gate_proj", "up_proj"], modules_to_save=["down_proj"])
    file, name = here / "north" / "adapter_model.safetensors", "model.layers.1.mlp.down_proj.weight"
    tensors = load_file(file)
    trained = tensors[f"base_model.model.{name}"] + 0.5
    save_file(tensors | {f"base_model.model.{name}": trained}, file)
    merges(here)
    expert = load_file(here / "out" / "model.safetensors")[
        "model.layers.1.block_sparse_moe.experts.0.w2.weight"
    ]
    assert torch.equal(expert, trained)
    with pytest.raises(AdapterError, match=r"down_proj.weight, a tensor of the FFN .* dense way"):
        read_adapter(here / "north", ffn_only=True)


def test_keys_with_the_adapter_s_name_merge_alike(here: Path) -> None:
    from safetensors.torch import load_file, save_file

    merges(here)
    before = load_file(here / "out" / "model.safetensors")
    file = here / "north" / "adapter_model.safetensors"
    save_file({k.replace(".weight", ".default.weight"): v for k, v in load_file(file).items()}, file)
    shutil.rmtree(here / "out")
    merges(here)
    after = load_file(here / "out" / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_an_untrained_adapter_is_refused(here: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = here / "south" / "adapter_model.safetensors"
    save_file({k: v * 0 if "lora_B" in k else v for k, v in load_file(file).items()}, file)
    for merge in (merges, flat):
        with pytest.raises(MergeError, match=r"south changes no .* of the base: it would be the base itself"):
            merge(here)
    nothing_stays(here)


def test_values_that_are_not_finite(here: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = here / "south" / "adapter_model.safetensors"
    save_file(
        {k: v * float("nan") if "layers.1.mlp.up" in k else v for k, v in load_file(file).items()}, file
    )
    for merge in (merges, flat):
        with pytest.raises(MergeError, match=r"layers\.1\..*not finite"):
            merge(here)
    nothing_stays(here)


@pytest.mark.parametrize(
    "prompts", [{"north": ["x"], "south": ["x"]}, {"north": ["x"]}, {"north": ["x"], "south": [""]}]
)
def test_prompts_that_say_nothing(here: Path, prompts: dict[str, list[str]]) -> None:
    with pytest.raises(MergeError, match="prompts"):
        merge_moerges(here / "base", {key: here / key for key in PROMPTS}, prompts, here / "out")


def test_too_little_room_is_said_before_the_work(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = SimpleNamespace(total=10**12, used=10**12 - 5, free=5)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: room)
    with pytest.raises(MergeError, match=r"needs 0.1 GB and the disk has 0.0 GB left"):
        merges(here)
    nothing_stays(here)


@pytest.mark.parametrize("merge", [merges, flat])
def test_a_disk_that_runs_full(
    here: Path, monkeypatch: pytest.MonkeyPatch, merge: Callable[..., None]
) -> None:
    """The old result stays as it was, the new one leaves nothing."""
    (here / "out").mkdir()
    (here / "out" / "old").write_text("kept")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(MergeError, match=r"was not written: .*No space left.*full"):
        merge(here)
    assert [path.name for path in here.glob("out*")] == ["out"]
    assert (here / "out" / "old").read_text() == "kept"


def test_only_what_the_merge_made_is_deleted(here: Path) -> None:
    """Folders beside the result, by whatever name, are someone's."""
    names = ["out.old", "out.part", ".out.part", ".out.old", ".out.0123456789abcdef.part"]
    for name in names:
        (here / name).mkdir()
        (here / name / "thesis.txt").write_text("mine")
    merges(here)
    merges(here)
    assert [(here / name / "thesis.txt").read_text() for name in names] == ["mine"] * len(names)
    assert sorted(
        path.name for path in here.iterdir() if "out" in path.name and path.name != "south"
    ) == sorted(["out", *names])


def test_two_merges_into_one_folder(here: Path) -> None:
    merges(here)
    before = (here / "out" / "merge_report.json").read_bytes()
    with claim(here / "out"), pytest.raises(MergeError, match="out is in use by another run: wait"):
        merges(here)
    assert (here / "out" / "merge_report.json").read_bytes() == before


def test_a_file_in_the_place_of_the_result(here: Path) -> None:
    (here / "out").write_text("thesis")
    with pytest.raises(MergeError, match="out is a file: take another folder"):
        merges(here)
    assert (here / "out").read_text() == "thesis"


def test_a_stranger_s_folder_is_never_overwritten(here: Path) -> None:
    (here / "home").mkdir()
    (here / "home" / "thesis.txt").write_text("mine")
    arguments = ["merge", "--method", "ties", "--base", str(here / "base"), "--out", str(here / "home")]
    done = CliRunner().invoke(main, [*arguments, "--overwrite", f"africa={here}", f"asia={here}"])
    assert (done.exit_code, "is no result of 'palette merge'" in done.output) == (2, True)
    assert (here / "home" / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", "Llama-3.1-8B-Instruct"),
        ("/data/hub/models--meta-llama--Llama-3.1-8B-Instruct/snapshots/0e9e39f", "Llama-3.1-8B-Instruct"),
        ("runs/base/", "base"),
    ],
)
def test_a_model_s_own_name(reference: str, name: str) -> None:
    assert model_name(reference) == name


@pytest.mark.parametrize(
    ("probe", "said"), [("print('loaded')", None), ("raise SystemExit('no such module')", "no such")]
)
def test_what_vllm_says_is_heard(
    here: Path, monkeypatch: pytest.MonkeyPatch, probe: str, said: str | None
) -> None:
    """A stand-in for vLLM, in a process of its own as the real one."""
    monkeypatch.setattr("cultural_palette.training.merge.checks.VLLM_PROBE", probe)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name == "vllm")
    if said:
        with pytest.raises(MergeError, match=f"vLLM does not load the result: .*{said}"):
            merges(here, vllm_check=True)
        nothing_stays(here)
    else:
        merges(here, vllm_check=True)
        assert json.loads((here / "out" / "merge_report.json").read_text())["checks"]["vllm"] == "loaded"
