"""Router rows of a MoErges: what the base thinks at each community's prompts, and whether that tells them
apart.

    G(h) = softmax(h W_g)      (Cultural Palette, eq. 1; W_g: one row a community)

The row is the mean over the community's prompts of the base's state at the last token, brought to length 1.
Which state is a choice: the paper says self-attention output, MergeKit takes the residual stream, the router
itself is asked with the FFN's input. Rows that are nearly parallel blend everything alike; the report says
so, layer by layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from mergekit.moe.router import tokenize_prompts
from transformers import AutoModelForCausalLM, AutoTokenizer

from cultural_palette.countries import find_country
from cultural_palette.training.merge.checkpoint import Checkpoint, MergeError, dtype_of

# Where a row is read from.
PLACES = {
    "residual": "the residual stream entering the layer: mergekit-moe, gate_mode hidden",
    "attn_out": "the self-attention's output: Yuan et al. (Cultural Palette), section 4.1",
    "ffn_in": "the FFN's input after its norm: what the router is asked with",
}
PROMPT_SETS = {
    "names": ("{name}",),  # the community's bare name: the paper
    "adjectives": ("{name}", "{adjective}", "{adjective} culture", "{adjective} people"),
    "countries": ("{name}", "{country}"),
    "rich": ("{name}", "{adjective} culture", "life in {name}", "{country}", "In {country}, people"),
}
BATCH = 16  # prompts at a time
LONGEST_REASON = 300  # characters
LARGE = 3e9  # parameters; above, the base is read in bfloat16, as MergeKit does, to fit into memory
CONDITION_LIMIT = 5.0  # MergeKit's threshold for its warning
ALIKE, ONE_SIDED = (
    0.999,
    0.05,
)  # entropy (0..1) from which a gate blends everything alike, or below which it picks one
CHANCE_MARGIN = (
    1.1  # a gate that gives a community's own prompts less than this many times 1/n tells nobody apart
)


@dataclass(frozen=True)
class GateReport:
    """One layer's router, over the last tokens of all prompts, asked with the FFN's input.

    `entropy`: mean entropy of the gate, 0..1 (1: all alike). `own_share`: mean weight that a community's
    prompts give its own expert (chance: 1/n). `hit_rate`: how often that expert is the first, 0..1.
    `condition`: of the rows, 1 when orthogonal. `degenerate`: what is wrong, or None.
    """

    layer: int
    condition: float
    entropy: float
    own_share: float
    hit_rate: float
    degenerate: str | None


def map_prompts(cultural_map: Any, prompt_set: str = "names") -> dict[str, list[str]]:
    """Each community's prompts from a cultural map. `prompt_set`: a key of PROMPT_SETS."""
    if prompt_set not in PROMPT_SETS:
        raise MergeError(f"Unknown prompt set {prompt_set!r}. It is one of {', '.join(PROMPT_SETS)}.")
    prompts: dict[str, list[str]] = {}
    for community in cultural_map.communities:
        words = {"{name}": [community.name], "{adjective}": [community.adjective]}
        words["{country}"] = [find_country(iso3).name for iso3 in community.countries]
        rows: list[str] = []
        for template in PROMPT_SETS[prompt_set]:
            field = next(name for name in words if name in template)
            rows += [template.replace(field, word) for word in words[field]]
        prompts[community.key] = list(dict.fromkeys(rows))
    return prompts


def check_prompts(prompts: Mapping[str, Sequence[str]], keys: Sequence[str]) -> None:
    """Raise MergeError when a community has no prompts, or all have the same."""
    for key in keys:
        if not prompts.get(key) or not all(text.strip() for text in prompts[key]):
            raise MergeError(f"{key} has no prompts, or an empty one; its router row would mean nothing.")
    if len(keys) > 1 and len({tuple(prompts[key]) for key in keys}) == 1:
        raise MergeError("All communities have the same prompts: the router could not tell them apart.")


def read_states(
    base: Path, prompts: Mapping[str, Sequence[str]], dtype: str | None = None
) -> dict[str, dict[str, Any]]:
    """What the base holds at each prompt's last token: place -> community -> (prompts, layers, hidden),
    float32.

    Tokenised as mergekit-moe does: the begin token before the bare text, no chat template. `dtype` of the
    forward pass: float32 up to 3e9 parameters, else bfloat16, unless given. Raises MergeError for a base that
    can not be loaded.
    """
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(base)
        if dtype is None:
            dtype = "bfloat16" if Checkpoint(base).count() > LARGE else "float32"
        model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=dtype_of(dtype))
    except MergeError:
        raise
    except Exception as error:  # transformers is foreign code, and a config or tokenizer may hold anything
        reason = " ".join(str(error).split())[:LONGEST_REASON] or type(error).__name__
        raise MergeError(f"{base} can not be loaded: {reason}") from None
    tokenizer.padding_side = "left"
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.bos_token or tokenizer.eos_token
    model.eval()
    states: dict[str, dict[str, Any]] = {place: {} for place in PLACES}
    with torch.inference_mode():
        for key, texts in prompts.items():
            batches: dict[str, list[Any]] = {place: [] for place in PLACES}
            for start in range(0, len(texts), BATCH):
                batch = tokenize_prompts(list(texts[start : start + BATCH]), tokenizer)
                for place, layers in _last_token(model, batch).items():
                    batches[place].append(torch.stack(layers, 1).float())
            for place in PLACES:
                states[place][key] = torch.cat(batches[place])
    return states


def rows_from(states: Mapping[str, Any], *, against_others: bool = False) -> Any:
    """Router rows of length 1. (layers, communities, hidden)

    `states`: community -> (prompts, layers, hidden). `against_others`: the mean over the other communities'
    prompts is taken off first, which is what MergeKit does with negative prompts; what all share then tells
    nobody apart. Raises MergeError when a row has no length.
    """
    rows = []
    for key, own in states.items():
        row = own.mean(0)
        if against_others:
            row = row - torch.cat([states[other] for other in states if other != key]).mean(0)
        length = row.norm(dim=-1, keepdim=True)
        if not bool((length > 1e-8).all()):
            raise MergeError(f"{key}'s router row is zero: its prompts are read like all the others'.")
        rows.append(row / length)
    return torch.stack(rows, dim=1)


def examine(rows: Any, prompt_states: Mapping[str, Any]) -> list[GateReport]:
    """How each layer's gate tells the communities apart. `rows`: (layers, communities, hidden);
    `prompt_states`: the FFN's inputs at the prompts, community -> (prompts, layers, hidden).
    """
    count = rows.shape[1]
    reports = []
    for layer, weights in enumerate(rows.float()):
        gates = [torch.softmax(hidden[:, layer] @ weights.T, -1) for hidden in prompt_states.values()]
        everything = torch.cat(gates)
        entropy = -(everything * everything.clamp(min=1e-30).log()).sum(-1).mean() / torch.tensor(count).log()
        own = torch.stack([gate[:, index].mean() for index, gate in enumerate(gates)]).mean()
        hits = torch.cat([(gate.argmax(-1) == index).float() for index, gate in enumerate(gates)]).mean()
        condition = float(torch.linalg.cond(weights))
        figures = {
            "condition": condition,
            "entropy": float(entropy),
            "own_share": float(own),
            "hit_rate": float(hits),
        }
        fault = _fault(count, **figures)
        rounded = {name: round(value, 4) for name, value in figures.items()}
        reports.append(GateReport(layer=layer, degenerate=fault, **rounded))
    return reports


def summary(reports: Sequence[GateReport]) -> dict[str, Any]:
    """The layers' figures, their means, and which layers are degenerate."""
    count = len(reports)
    means = {
        name: round(sum(getattr(report, name) for report in reports) / count, 4)
        for name in ("condition", "entropy", "own_share", "hit_rate")
    }
    bad = [report.layer for report in reports if report.degenerate]
    return {"mean": means, "degenerate_layers": bad, "layers": [asdict(report) for report in reports]}


def compare(states: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What each choice of rows would have given on these prompts: mean figures, number of bad layers."""
    choices = []
    for place in states:
        for against_others in (False, True):
            choice: dict[str, Any] = {"rows": place, "against_others": against_others}
            try:
                reports = examine(rows_from(states[place], against_others=against_others), states["ffn_in"])
            except MergeError as error:
                choices.append(choice | {"error": str(error)})
                continue
            figures = summary(reports)
            choices.append(
                choice | figures["mean"] | {"degenerate_layers": len(figures["degenerate_layers"])}
            )
    return choices


def _fault(count: int, *, condition: float, entropy: float, own_share: float, hit_rate: float) -> str | None:
    if entropy > ALIKE:
        return "blends everything alike"
    if entropy < ONE_SIDED and hit_rate < 0.5:
        return "gives one expert everything, whatever the prompt"
    if own_share < CHANCE_MARGIN / count:
        return "does not prefer a community's own expert"
    if condition > CONDITION_LIMIT:
        return f"rows nearly parallel (condition {condition:.1f}, MergeKit warns above {CONDITION_LIMIT:g})"
    return None


def _last_token(model: Any, batch: Any) -> dict[str, list[Any]]:
    """One forward pass: place -> a (batch, hidden) for each layer."""
    states: dict[str, list[Any]] = {place: [] for place in PLACES}

    def keep(place: str, value: Any) -> None:
        states[place].append(value[:, -1, :])

    hooks = []
    for layer in model.model.layers:
        hooks += [
            layer.register_forward_pre_hook(
                lambda _, args, kwargs: keep("residual", args[0] if args else kwargs["hidden_states"]),
                with_kwargs=True,
            ),
            layer.self_attn.register_forward_hook(lambda _, args, out: keep("attn_out", out[0])),
            layer.mlp.register_forward_pre_hook(lambda _, args: keep("ffn_in", args[0])),
        ]
    try:
        model(**batch, logits_to_keep=1, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return states
