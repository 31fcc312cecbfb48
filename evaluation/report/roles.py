"""What each method is in a comparison: a baseline to beat, ours, an ablation of it, a control."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from cultural_palette.errors import UsageError

Role = Literal["baseline", "ours", "ablation", "control", "rival", "added"]
OURS = "cultural-palette"
# In the order of the paper's Table 1; controls, which the paper lacks, come last.
KNOWN: Mapping[str, tuple[str, Role]] = {
    "vanilla": ("Vanilla", "baseline"),
    "prompting": ("Prompting", "baseline"),
    "joint": ("Joint", "baseline"),
    "moe": ("MoE", "baseline"),
    "ties": ("TIES", "baseline"),
    "model_stock": ("Model Stock", "baseline"),
    "modular": ("Modular", "baseline"),  # the paper's row, which does not say its form
    "modular-overton": ("Modular (Overton)", "baseline"),
    "modular-steerable": ("Modular (steerable)", "baseline"),
    "modular-distributional": ("Modular (distributional)", "baseline"),
    "moerges": ("MoErges", "ours"),
    OURS: ("Cultural Palette", "ours"),
    "fitted-router": ("Cultural Palette (fitted rows)", "ours"),
    "without-moerges": ("without MoErges", "ablation"),
    "without-draft": ("without drafts", "ablation"),
    "without-self-regulation": ("without self-regulation", "ablation"),
    "own-draft": ("Own community's draft", "control"),
    "other-draft": ("Another community's draft", "control"),
    "moerges-fitted": ("MoErges (fitted rows)", "ours"),
    "moerges-uniform": ("MoErges (all alike)", "control"),
    "best-single-draft": ("Best single draft", "control"),
    "self-blend": ("Self-blend", "control"),
    "blend-uniform": ("Blend of all alike", "control"),
    "blend-own": ("Blend of the own community alone", "control"),
    "debate": ("Two-agent debate", "rival"),
    "personas": ("Personas and a judge", "rival"),
    "values-retrieval": ("Values retrieval", "rival"),
}
SINGLE = "single-draft:"
PLANNED_CONTROLS = ("best-single-draft", "self-blend")
HEADINGS: Mapping[Role, str] = {
    "baseline": "Baselines",
    "ours": "Ours",
    "ablation": "Ablations",
    "control": "Controls",
    "rival": "Rivals",
    "added": "Added",
}


@dataclass(frozen=True)
class Roles:
    """Methods in the order of the tables, with their role; `ours` is the one the case studies follow."""

    of: Mapping[str, Role]
    ours: str

    @property
    def baselines(self) -> tuple[str, ...]:
        """The methods one of which is the best baseline."""
        return tuple(method for method, role in self.of.items() if role == "baseline")

    @property
    def planned(self) -> tuple[str, ...]:
        """What ours is compared with, decided before the data: its ablations, the best single draft and
        the self-blend.
        """
        if self.of[self.ours] != "ours":
            return ()
        return tuple(m for m, role in self.of.items() if role == "ablation" or m in PLANNED_CONTROLS)


def assign_roles(
    methods: Sequence[str],
    *,
    baselines: Iterable[str] = (),
    ours: str | None = None,
    averages: Mapping[str, float] | None = None,
) -> Roles:
    """Roles of a run's methods. `baselines` replaces the built-in choice; `ours`: the method that counts.
    Without it that is the full method, else the one of the highest of `averages`.

    A method of a user's own is "added": it is tested, but it is no baseline unless named so.
    """
    named = tuple(baselines)
    for name in (*named, *((ours,) if ours else ())):
        if name not in methods:
            raise UsageError(f"The run has no method {name!r}; it has {', '.join(methods)}.")
    if ours in named:
        raise UsageError(f"{ours!r} can not be ours and a baseline.")

    def role(method: str) -> Role:
        if method == ours:
            return "ours"
        if method in named:
            return "baseline"
        usual = KNOWN[method][1] if method in KNOWN else "control" if method.startswith(SINGLE) else "added"
        return "added" if usual == "baseline" and named else usual

    order = list(KNOWN)
    ranks = list(HEADINGS)
    roles = {method: role(method) for method in methods}
    ordered = sorted(
        methods,
        key=lambda m: (ranks.index(roles[m]), order.index(m) if m in order else len(order), m),
    )
    followed = ours or (OURS if OURS in methods else _best(ordered, roles, averages or {}))
    return Roles({method: roles[method] for method in ordered}, followed)


def _best(ordered: Sequence[str], roles: Mapping[str, Role], averages: Mapping[str, float]) -> str:
    """The method with the highest average: of ours, else of those that are no baselines, else of all."""
    candidates = (
        [method for method in ordered if roles[method] == "ours"]
        or [method for method in ordered if roles[method] != "baseline"]
        or list(ordered)
    )
    return max(candidates, key=lambda method: averages.get(method, -1.0))


def title(method: str) -> str:
    """A method's name in tables; its key where it is not one of ours."""
    if method.startswith(SINGLE):
        return f"Single draft ({method.removeprefix(SINGLE)})"
    return KNOWN[method][0] if method in KNOWN else method
