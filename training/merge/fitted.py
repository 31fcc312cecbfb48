"""A palette's two routers, and which of them it goes by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cultural_palette.moerges.fitting import FitReport, fit_router
from cultural_palette.moerges.prompts import RouterPrompt
from cultural_palette.moerges.router import FITTED, PAPER, Router


def with_fitted(
    model: Any, paper: Router, prompts: Sequence[RouterPrompt], communities: Sequence[str], *, seed: int = 0
) -> tuple[dict[str, Router], FitReport]:
    """`paper` and `fitted` rows by name, and how the fitted ones came about.

    `model`: the base; `prompts`: about the map's countries, see `moerges.prompts.router_prompts`. What the
    palette's manifest should say under "blend" is the report's `best()`: the router that is right most often
    on countries set aside. Raises RouterError: a community of fewer than 3 countries.
    """
    fitted, report = fit_router(model, prompts, communities, rivals={PAPER: paper}, seed=seed)
    return {PAPER: paper, FITTED: fitted}, report
