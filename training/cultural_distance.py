"""How far communities' cultures lie apart, by Hofstede's dimensions: weights for what is not preferred.

    d(a, b)^2 = mean over the dimensions of (m_a - m_b)^2 / v

with m a community's mean over its countries' published scores and v the variance over all countries: Kogut
and Singh's (1988) index, between communities. The scores are those that the nano palette was made with.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from cultural_palette.cultural_map import CulturalMap
from cultural_palette.training.orpo_settings import TrainingError
from cultural_palette.training.preferences import Distances

SCORES = Path(__file__).parent / "nano" / "atlas" / "hofstede.csv"


def hofstede_distances(cultural_map: CulturalMap, scores: Path = SCORES) -> Distances:
    """Community -> every other -> distance (0 and more), means over the dimensions that both have.

    Raises TrainingError for a community none of whose countries has a score.
    """
    with scores.open(encoding="utf-8") as lines:
        rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    names = [name for name in rows[0] if name != "code"]
    of_country = {
        row["code"]: np.array([float(row[name]) if row[name] else np.nan for name in names]) for row in rows
    }
    variance = np.nanvar(np.array(list(of_country.values())), axis=0, ddof=1)
    means = {}
    for community in cultural_map.communities:
        known = [of_country[code] for code in community.countries if code in of_country]
        if not known:
            raise TrainingError(
                f"community {community.key!r} has no country with Hofstede's scores, which a preference by "
                "distance needs: take sigmoids or softmax"
            )
        means[community.key] = np.nanmean(np.array(known), axis=0)
    return {
        a: {b: float(np.sqrt(np.nanmean((means[a] - means[b]) ** 2 / variance))) for b in means if b != a}
        for a in means
    }
