"""What an evaluation runs: survey, methods, models, settings, and how often. All that shapes a prediction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cultural_palette.cultural_map import CulturalMap
from cultural_palette.errors import SettingsError
from cultural_palette.evaluation.methods import BEST_SINGLE, Method, source_sha256
from cultural_palette.evaluation.surveys import Survey, nothing_left
from cultural_palette.fitted_blends import file_of, is_fitted
from cultural_palette.models import ModelRef, resolve_parts
from cultural_palette.moerges.modes import FITTED
from cultural_palette.prompts import WORDINGS, names, worded
from cultural_palette.prompts.own import own_texts
from cultural_palette.provenance import model_sha256, short_sha256
from cultural_palette.settings import Settings, use_settings

KIND = "survey-evaluation"
ORDERS = 2
"""The survey's own order, and the reverse."""
NOT_IN_CONFIG = {
    *("api_key", "retries", "draft_timeout_s", "request_timeout_s", "cache_dir"),
    *("allowed_addresses", "allowed_origins", "most_request_bytes", "server_key", "checkpoints"),
    *("map", "model", "models", "blend", "blend_checkpoint", "fitted_blends", "prompts"),
}
"""Settings that shape no prediction, keys among them, and paths, whose content stands elsewhere."""
UNCHECKED = ("models",)
"""What a config tells by name, and holds by content under another key."""
LARGEST_SEED = 2**31


@dataclass(frozen=True)
class Plan:
    """What is run. Run r draws with seed `settings.seed` + r. `models_of`: models beside the palette's own,
    by the name under which a method needs them. `left_out`: methods that could not be run, with the reason.
    `orders`: of the options that every decision is the mean over, so that a liking for a place is no opinion.
    `wording`: of the instructions; 0 is ours (`prompts.use_wording`). `together`: replies of an embedded
    palette share batches (`models.replies_together`).
    """

    survey: Survey
    methods: tuple[Method, ...]
    cultural_map: CulturalMap
    settings: Settings
    runs: int = 1
    models_of: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    orders: int = ORDERS
    wording: int = 0
    together: bool = False

    def __post_init__(self) -> None:
        if self.wording not in WORDINGS:
            raise SettingsError(f"Wording {self.wording}: expected one of {', '.join(map(str, WORDINGS))}.")
        if self.wording and self.settings.prompt_order != "paper":
            raise SettingsError(
                "Another wording has the paper's prompt order only: leave --prompt-order out."
            )
        if self.orders < 1:
            raise SettingsError(f"{self.orders} orders of the options: expected 1 or more.")
        if self.runs < 1:
            raise SettingsError(f"{self.runs} runs: expected 1 or more.")
        if not self.survey.items:
            raise SettingsError(nothing_left(self.survey))
        if self.settings.seed + self.runs > LARGEST_SEED:
            raise SettingsError(f"Seed {self.settings.seed} leaves no room for {self.runs} runs.")

    @property
    def predicting(self) -> tuple[Method, ...]:
        """The methods that call models; the others are derived from their rows."""
        return tuple(method for method in self.methods if method.name != BEST_SINGLE)

    @property
    def models(self) -> dict[str, str]:
        """Part -> model, those of single methods among them."""
        settings = self.settings
        parts = resolve_parts(self.cultural_map, settings.models, settings.model)
        agents = {key: str(ref) for key, ref in parts.agents.items()}
        return {**agents, "meta": str(parts.meta), "base": str(parts.base), **self.models_of}

    def settings_of(self, run: int) -> Settings:
        """The settings of one run: its seed, its orders of the options, and time enough for every reply."""
        patience_s = max(ModelRef.parse(ref).runs_on.patience_s for ref in self.models.values())
        longest = {
            name: max(patience_s, getattr(self.settings, name))
            for name in ("draft_timeout_s", "request_timeout_s")
        }
        return self.settings.model_copy(update={**self._shaping(run), **longest})

    def _shaping(self, run: int) -> dict[str, int]:
        return {"seed": self.settings.seed + run, "permutations": self.orders}

    def _blend(self) -> str | None:
        """The settings' blend; one that stands in a file by that one's content, by whatever path."""
        blend = self.settings.blend
        if blend is None or not is_fitted(blend):
            return blend
        meta = ModelRef.parse(self.models["meta"])
        with use_settings(self.settings):
            file = file_of(blend, meta.palette_folder)
        return FITTED + short_sha256(file.read_bytes())

    @staticmethod
    def _own_prompts(folder: str) -> dict[str, str]:
        return {name: short_sha256(text) for name, text in own_texts(Path(folder)).items()}

    def config(self) -> dict[str, Any]:
        """Everything that shapes a prediction: a folder, begun or finished, is taken with the same only, but
        for `UNCHECKED`.
        """
        return {
            "kind": KIND,
            "survey": {"sha256": self.survey.sha256, "selection": self.survey.selection.as_dict()},
            "methods": [method.name for method in self.methods],
            "own_methods": {m.name: source_sha256(m.path) for m in self.methods if m.path},
            "models": self.models,
            "weights": {part: ModelRef.parse(ref).content for part, ref in self.models.items()},
            "blend_checkpoint": _content(self.settings.blend_checkpoint),
            "map": self.cultural_map.key,
            "map_sha256": self.cultural_map.sha256,
            "runs": self.runs,
            "settings": {
                **self.settings.model_copy(update=self._shaping(0)).model_dump(
                    mode="json", exclude=NOT_IN_CONFIG
                ),
                "blend": self._blend(),
            },
            "prompts": {
                name: short_sha256(worded(name, self.wording))
                for name in (*names(), *names("baselines"), *names("rivals"), *names("prefix"))
            },
            **({"own_prompts": self._own_prompts(own)} if (own := self.settings.prompts) else {}),
            **({"wording": self.wording} if self.wording else {}),
            **({"together": True} if self.together else {}),
        }


def _content(checkpoint: str | None) -> str | None:
    """What a checkpoint is, by whatever path: of a folder its files, else the name."""
    return model_sha256(Path(checkpoint)) if checkpoint and Path(checkpoint).is_dir() else checkpoint
