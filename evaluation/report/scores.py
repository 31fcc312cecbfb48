"""The four alignments of many rows at once; `evaluation.metrics` says what they are, a test they agree."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


def alignment_table(gold: Floats, predicted: Floats) -> dict[str, Floats]:
    """Alignment -> values 0..100. (..., item) for `gold` (item, option) and `predicted` (..., item, option),
    both 0 past an item's last option.
    """
    import numpy as np

    middle = (gold + predicted) / 2
    nats = np.maximum((_relative(gold, middle) + _relative(predicted, middle)) / 2, 0)
    bits = np.minimum(nats / np.log(2), 1)
    nats = np.minimum(nats, np.log(2))
    return {
        "jsd_e": 100 * (1 - nats),
        "jsd_2": 100 * (1 - bits),
        "jsdist_2": 100 * (1 - np.sqrt(bits)),
        "jsdist_e": 100 * (1 - np.sqrt(nats)),
    }


def _relative(p: Floats, middle: Floats) -> Floats:
    """Kullback-Leibler divergence of `p` from `middle` in nats, with 0 log 0 = 0. (..., item)"""
    import numpy as np

    shape = np.broadcast_shapes(p.shape, middle.shape)
    ratio = np.divide(p, middle, out=np.ones(shape), where=(p > 0) & (middle > 0))
    total: Floats = (p * np.log(ratio, out=ratio)).sum(axis=-1)
    return total
