"""Valid adapters that are no plain low-rank changes to layers: taken where only the FFN counts, else refused
by the part or setting that is in the way, with the way out. None of them "is for another base".
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("mergekit")

from safetensors.torch import load_file, save_file  # noqa: E402

from cultural_palette.cultural_map import load_map  # noqa: E402
from cultural_palette.errors import PaletteError  # noqa: E402
from cultural_palette.training.merge import merge_flat, merge_moerges  # noqa: E402
from cultural_palette.training.merge.palette_folder import write_palette  # noqa: E402
from tests.training.merge_models import FFN, make_adapter, make_base  # noqa: E402

PROMPTS = {"africa": ["Africa"], "asia": ["Asia"]}
CONTINENTS = load_map("continents")


@pytest.fixture(scope="module", params=["llama", "qwen3"], ids=["untied", "tied"])
def here(
    request: pytest.FixtureRequest, tiny: tuple[Any, Any, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A base (its head apart, or tied to its embedding) and a plain adapter of Asia's."""
    folder = tmp_path_factory.mktemp("valid")
    make_adapter(make_base(request.param, folder / "base", tiny[2]), folder / "asia", 1)
    return folder


def _pickled(base: Path, out: Path) -> None:
    make_adapter(base, out, 0)
    torch.save(load_file(out / "adapter_model.safetensors"), out / "adapter_model.bin")
    (out / "adapter_model.safetensors").unlink()


def _named(base: Path, out: Path) -> None:
    make_adapter(base, out, 0)
    file = out / "adapter_model.safetensors"
    save_file({k.replace(".weight", ".default.weight"): v for k, v in load_file(file).items()}, file)


Make = Callable[[Path, Path], Any]
WITHOUT_FFN = "train on gate_proj, up_proj and down_proj"
# kind: (how it is made, what a flat merge says or None, what a MoErges written out says or None)
KINDS: dict[str, tuple[Make, str | None, str | None]] = {
    "plain": (lambda b, o: make_adapter(b, o, 0), None, None),
    "keys with the adapter's name": (_named, None, None),
    "lm_head by LoRA": (lambda b, o: make_adapter(b, o, 0, [*FFN, "lm_head"]), "lm_head", None),
    "lm_head whole": (lambda b, o: make_adapter(b, o, 0, modules_to_save=["lm_head"]), "lm_head", None),
    "the embedding by LoRA": (
        lambda b, o: make_adapter(b, o, 0, [*FFN, "embed_tokens"]), "embed_tokens", None),
    "the embedding whole": (
        lambda b, o: make_adapter(b, o, 0, modules_to_save=["embed_tokens"]), "embed_tokens", None),
    "some tokens' rows": (
        lambda b, o: make_adapter(b, o, 0, trainable_token_indices=[1, 2]), "trainable_token_indices", None),
    "copied layers": (
        lambda b, o: make_adapter(b, o, 0, layer_replication=[(0, 2), (0, 2)]), "layer_replication",
        "layer_replication"),
    "a pickle": (_pickled, "pickle", "pickle"),
    "attention alone": (lambda b, o: make_adapter(b, o, 0, ["q_proj"]), None, "changes no FFN projection"),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_valid_adapter_is_taken_or_refused_by_what_is_in_the_way(
    here: Path, kind: str, tmp_path: Path
) -> None:
    make, flat, dense = KINDS[kind]
    palette = None if kind in ("plain", "keys with the adapter's name", "attention alone") else flat
    folder = tmp_path / "africa"
    make(here / "base", folder)
    members = {"africa": folder, "asia": here / "asia"}
    tied = json.loads((here / "base" / "config.json").read_text())["tie_word_embeddings"]
    whole = kind in ("lm_head whole", "the embedding whole", "lm_head by LoRA")
    flat = None if whole and not tied else flat
    _expect(lambda: merge_flat("ties", here / "base", members, tmp_path / "ties"), flat)
    _expect(lambda: merge_moerges(here / "base", members, PROMPTS, tmp_path / "dense"), dense)
    _expect(
        lambda: write_palette(
            here / "base", members, CONTINENTS, PROMPTS, tmp_path / "palette", map_name="continents",
            per_country=1,
        ),
        palette,
        "--dense" if dense is None else "",
    )  # fmt: skip


def _expect(call: Callable[[], Any], refused: str | None, way_out: str = "") -> None:
    if refused is None:
        call()
        return
    with pytest.raises(PaletteError) as error:
        call()
    said = str(error.value)
    assert refused in said and way_out in said and "another base" not in said, said


def test_a_full_model_without_computed_frequencies_is_no_other_base(here: Path, tmp_path: Path) -> None:
    """Older checkpoints hold `rotary_emb.inv_freq`; newer ones do not. Either may be the base."""
    older = Path(shutil.copytree(here / "base", tmp_path / "older"))
    tensors = load_file(older / "model.safetensors")
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    moved = {key: value + 0.01 if "up_proj" in key else value for key, value in tensors.items()}
    save_file(moved | {name: torch.ones(16)}, older / "model.safetensors", metadata={"format": "pt"})
    merge_flat("ties", here / "base", {"a": older, "asia": here / "asia"}, tmp_path / "one", any_base=True)
    merge_flat("ties", older, {"a": here / "base", "asia": here / "asia"}, tmp_path / "two", any_base=True)
