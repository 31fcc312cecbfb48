"""Beside a result's weights: the figures in `merge_report.json`, the model card in `README.md`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cultural_palette.artifacts import write_whole
from cultural_palette.provenance import installed_versions
from cultural_palette.safe_text import as_code, without_html
from cultural_palette.training.merge.checkpoint import Checkpoint
from cultural_palette.training.merge.members import Member, fingerprint

REPORT, CARD = "merge_report.json", "README.md"
PACKAGES = ("cultural-palette", "mergekit", "torch", "transformers", "peft", "safetensors")
TITLES = {
    "ties": "TIES merge of the communities' models (Yadav et al. 2023)",
    "model_stock": "Model Stock of the communities' models (Jang et al. 2024)",
    "moerges": "Cultural MoErges: the communities' FFNs as experts, all active (Cultural Palette, eq. 1)",
}


def write(
    folder: Path,
    method: str,
    base: Checkpoint,
    members: Sequence[Member],
    *,
    moved: dict[str, Any],
    **figures: Any,
) -> dict[str, Any]:
    """Report and card into the result's folder; the report."""
    rows = {member.key: fingerprint(member) | moved[member.key] for member in members}
    report = {
        "method": method, "base": base.folder.name, "architecture": base.model_type, "members": rows,
        **figures, "versions": installed_versions(PACKAGES),
    }  # fmt: skip
    text = json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False)
    write_whole(folder / REPORT, text + "\n")
    write_whole(folder / CARD, card(report))
    return report


def card(report: dict[str, Any]) -> str:
    """The model card, in the hub's Markdown."""
    lines = [
        "---", "library_name: transformers", "pipeline_tag: text-generation",
        "tags: [cultural-palette, merge, mergekit]", "---", "", f"# {TITLES[report['method']]}", "",
        f"Base: {as_code(report['base'])} ({report['architecture']}). MergeKit's configuration is in",
        f"`mergekit_config.yaml`. Made by `palette merge --method {report['method']}`; all figures are in",
        "`merge_report.json`.", "",
        "| community | input | tensors changed | relative change |", "|---|---|---|---|",
    ]  # fmt: skip
    lines += [
        f"| {key} | {row['kind']} {as_code(row['folder'])} | {row['changed']} of {row['tensors']} "
        f"| {row['relative_change']:.2e} |"
        for key, row in report["members"].items()
    ]
    lines += ["", *_about(report), ""]
    front, body = lines[:5], lines[5:]
    return "\n".join([*front, without_html("\n".join(body))])


def _about(report: dict[str, Any]) -> list[str]:
    if report["method"] == "moerges":
        router = report["router"]
        mean, bad = router["mean"], router["degenerate_layers"]
        state = f"degenerate in layers {', '.join(map(str, bad))}" if bad else "no layer is degenerate"
        centred = "centred against the other communities" if router["against_others"] else "not centred"
        return [
            f"Every token goes to all {len(report['members'])} experts. "
            f"Router rows: `{router['rows']}`, {centred}.",
            f"Over the prompts: gate entropy {mean['entropy']:.3f} (1: all alike), own expert's share "
            f"{mean['own_share']:.3f}, rows' condition {mean['condition']:.1f}; {state}.",
        ]
    if report["method"] == "model_stock":
        mean = report["model_stock"]["mean"]
        return [
            f"Mean cosine between the changes {mean['cosine']:.4f}, mean t {mean['t']:.4f} (0: the base)."
        ]
    return [f"The result differs from the base by {report['result']['relative_change']:.2e} (relative)."]
