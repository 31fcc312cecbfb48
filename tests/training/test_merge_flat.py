"""TIES and Model Stock against the papers in float64 numpy, and against MergeKit's own run, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

np = pytest.importorskip("numpy")
torch = pytest.importorskip("torch")
pytest.importorskip("mergekit")

from cultural_palette.training.merge import FlatSettings, MergeError, merge_adapter, merge_flat  # noqa: E402
from cultural_palette.training.merge.checkpoint import Checkpoint  # noqa: E402
from cultural_palette.training.merge.flat import angle, trim  # noqa: E402
from tests.training.merge_models import FFN, KEYS, make_adapter, make_base  # noqa: E402


class Case(NamedTuple):
    base: Path
    adapters: dict[str, Path]
    models: dict[str, Path]


@pytest.fixture(scope="module")
def case(tiny: tuple[Any, Any, Path], tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("flat")
    base = make_base("llama", folder / "base", tiny[2])
    adapters = {key: make_adapter(base, folder / key, seed) for seed, key in enumerate(KEYS)}
    for key, adapter in adapters.items():
        merge_adapter(base, adapter, folder / "models" / key)
    return Case(base, adapters, {key: folder / "models" / key for key in KEYS})


def arrays(folder: Path) -> dict[str, Any]:
    found = Checkpoint(folder)
    return {name: found.tensor(name).double().numpy() for name in found.files}


def ties(base: Any, members: list[Any], density: float, scale: float) -> Any:
    """Yadav et al. 2023, algorithm 1: trim, elect signs by summed mass, mean over those that agree."""
    trimmed = []
    for member in members:
        change = member - base
        kept = int(density * change.size)
        smallest = np.sort(np.abs(change).ravel())[-kept]
        trimmed.append(np.where(np.abs(change) >= smallest, change, 0))
    sign = np.where(np.sum(trimmed, 0) >= 0, 1, -1)
    agree = [np.sign(change) == sign for change in trimmed]
    total = sum(np.where(yes, change, 0) for yes, change in zip(agree, trimmed, strict=True))
    return base + scale * total / np.maximum(np.sum(agree, 0), 1)


def model_stock(base: Any, members: list[Any]) -> Any:
    """Jang et al. 2024: t = n cos / (1 + (n - 1) cos) of the way from the base to the mean."""
    changes = [(member - base).ravel() for member in members]
    count = len(changes)
    cosine = np.mean([
        a @ b / (np.linalg.norm(a) * np.linalg.norm(b))
        for i, a in enumerate(changes) for b in changes[i + 1 :]
    ])  # fmt: skip
    t = count * cosine / (1 + (count - 1) * cosine)
    return t * np.mean(members, 0) + (1 - t) * base


@pytest.mark.parametrize("inputs", ["adapters", "models"])
def test_ties_is_the_paper_s(case: Case, tmp_path: Path, inputs: str) -> None:
    merge_flat(
        "ties",
        case.base,
        getattr(case, inputs),
        tmp_path / "out",
        settings=FlatSettings(density=0.3, scale=0.8),
    )
    base, out = arrays(case.base), arrays(tmp_path / "out")
    members = [arrays(path) for path in case.models.values()]
    for name in base:
        if name.endswith(tuple(f"{part}.weight" for part in FFN)):
            expected = ties(base[name], [each[name] for each in members], 0.3, 0.8)
            assert np.abs(out[name] - base[name]).max() > 1e-3
            assert np.abs(out[name] - expected).max() < 1e-6, name
        else:
            assert (out[name] == base[name]).all(), name


def test_model_stock_is_the_paper_s(case: Case, tmp_path: Path) -> None:
    related = {key: case.models[key] for key in KEYS[:3]}
    merge_flat("model_stock", case.base, related, tmp_path / "out")
    base, out = arrays(case.base), arrays(tmp_path / "out")
    members = [arrays(path) for path in related.values()]
    report = json.loads((tmp_path / "out" / "merge_report.json").read_text())
    for name in base:
        expected = (
            model_stock(base[name], [each[name] for each in members]) if ".mlp." in name else base[name]
        )
        assert np.abs(out[name] - expected).max() < 1e-6, name
    assert set(report["model_stock"]["tensors"]) == {name for name in base if ".mlp." in name}
    assert (
        abs(report["model_stock"]["mean"]["t"]) < 0.5
    )  # random changes are nearly orthogonal: close to the base


def test_the_angle_shows_its_arithmetic() -> None:
    base = torch.zeros(2)
    # cos of (1,0), (0,1) = 0: stay at the base; of two equal changes = 1: t = 2 * 1 / (1 + 1) = 1, their mean
    assert angle(base, [torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])]) == (0.0, 0.0)
    assert angle(base, [torch.tensor([3.0, 0.0])] * 2) == (1.0, 1.0)
    # cos = 0.6: t = 1.2 / 1.6 = 0.75
    assert angle(base, [torch.tensor([1.0, 0.0]), torch.tensor([0.6, 0.8])]) == pytest.approx((0.6, 0.75))
    assert angle(base, [torch.tensor([1.0, 0.0]), base]) == (0.0, 0.0)  # no change: no direction


@pytest.mark.parametrize("method", ["ties", "model_stock"])
def test_mergekit_s_own_run_gives_the_same_bits(case: Case, tmp_path: Path, method: str) -> None:
    """mergekit-yaml over whole models, from the configuration kept beside the result."""
    import yaml
    from mergekit.config import MergeConfiguration
    from mergekit.merge import MergeOptions, run_merge

    merge_flat(method, case.base, case.models, tmp_path / "ours")
    recipe = yaml.safe_load((tmp_path / "ours" / "mergekit_config.yaml").read_text())
    recipe["base_model"] = str(case.base)
    for model in recipe["models"]:
        model["model"] = str(case.models[model["model"]])
    options = MergeOptions(copy_tokenizer=False, quiet=True, device="cpu")
    options.apply_global_options()
    run_merge(MergeConfiguration.model_validate(recipe), str(tmp_path / "theirs"), options)
    ours, theirs = arrays(tmp_path / "ours"), arrays(tmp_path / "theirs")
    assert set(ours) == set(theirs)
    assert all((ours[name] == theirs[name]).all() for name in ours)


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("ties", FlatSettings(density=1)),
        ("ties", FlatSettings(density=0.3, scale=0.7)),
        ("model_stock", FlatSettings()),
        ("model_stock", FlatSettings(filter_wise=True)),
    ],
)
def test_a_large_tensor_by_rows_is_the_same(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, settings: FlatSettings
) -> None:
    """TIES to the bit; Model Stock up to the order of its sums."""
    merge_flat(method, case.base, case.adapters, tmp_path / "whole", settings=settings)
    monkeypatch.setattr("cultural_palette.training.merge.flat.PART_BYTES", 10_000)
    monkeypatch.setattr("cultural_palette.training.merge.flat.ANGLE_VALUES", 1000)
    merge_flat(method, case.base, case.adapters, tmp_path / "rows", settings=settings)
    whole, rows = arrays(tmp_path / "whole"), arrays(tmp_path / "rows")
    apart = max(np.abs(whole[name] - rows[name]).max() for name in whole)
    assert apart == 0 if method == "ties" else apart < 1e-6


@pytest.mark.parametrize("density", [0.001, 0.2, 0.5, 0.99])
def test_trimming_keeps_what_mergekit_keeps(density: float) -> None:
    """To the bit. Of values equal at the edge, as changes of bfloat16 models are, as many and as large."""
    from mergekit.sparsify import SparsificationMethod, sparsify

    change = torch.randn(90, 70, generator=torch.Generator().manual_seed(3))
    theirs = sparsify(change, density=density, method=SparsificationMethod.magnitude)
    assert torch.equal(trim(change, density), theirs)
    for equal in ((change * 4).round() / 4, torch.zeros(5, 5)):
        theirs = sparsify(equal, density=density, method=SparsificationMethod.magnitude)
        ours = trim(equal, density)
        assert torch.equal(ours.abs().flatten().sort().values, theirs.abs().flatten().sort().values)
        assert torch.equal(ours, torch.where(ours != 0, equal, 0))


def test_several_shards_are_the_same_and_load(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merge_flat("ties", case.base, case.adapters, tmp_path / "one")
    monkeypatch.setattr("cultural_palette.training.merge.checkpoint.SHARD_BYTES", 60_000)
    monkeypatch.setattr("cultural_palette.training.merge.checks.WHOLE_BYTES", 0)
    merge_flat("ties", case.base, case.adapters, tmp_path / "many")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 2
    one, many = arrays(tmp_path / "one"), arrays(tmp_path / "many")
    assert set(one) == set(many) and all((one[name] == many[name]).all() for name in one)
    report = json.loads((tmp_path / "many" / "merge_report.json").read_text())
    assert report["checks"]["transformers"] == "first layer loaded"


def test_an_adapter_is_merged_as_peft_does(case: Case, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    adapter = make_adapter(
        case.base, tmp_path / "adapter", 7, [*FFN, "q_proj"], use_rslora=True,
        rank_pattern={"up_proj": 2}, alpha_pattern={r"layers\.1\.mlp\.down_proj": 32},
    )  # fmt: skip
    merge_adapter(case.base, adapter, tmp_path / "ours")
    plain = AutoModelForCausalLM.from_pretrained(case.base, dtype=torch.float32)
    theirs = PeftModel.from_pretrained(plain, adapter).merge_and_unload().state_dict()
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", dtype=torch.float32).state_dict()
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-7) for name in theirs)
    assert (tmp_path / "ours" / "tokenizer.json").is_file()


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [("density", 0, "density 0"), ("density", 2, "density 2"), ("weight", 0, "weight 0")],
)
def test_settings_refuse_nonsense(field: str, value: float, said: str) -> None:
    with pytest.raises(MergeError, match=said):
        FlatSettings(**{field: value})


def test_unknown_method_and_a_single_member(case: Case, tmp_path: Path) -> None:
    with pytest.raises(MergeError, match=r"Unknown method 'soup'. It is one of ties, model_stock, moerges"):
        merge_flat("soup", case.base, case.adapters, tmp_path / "out")
    with pytest.raises(MergeError, match="1 communities: ties needs at least 2"):
        merge_flat("ties", case.base, {"asia": case.adapters["asia"]}, tmp_path / "out")
    assert not list(tmp_path.iterdir())
