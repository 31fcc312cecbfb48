"""Option-order effects: the same question read with its options in several orders, and averaged."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cultural_palette.distributions import Distribution
from cultural_palette.models.readout import Reading
from cultural_palette.option_orders import Order

METHODS = ("exact", "top_logprobs", "sampling")
"""The most faithful first."""


@dataclass(frozen=True)
class Averaged:
    """Readings of one question in several orders, put back into the question's own and averaged.

    `distribution` and `option_mass` are means over the readable orders. `spread`: standard deviation of each
    option's probability over them (0..0.5). `mode_agreement`: share of them with the average's likeliest
    option. `unreadable`: orders that were left out. `censored`: labels, in the question's own order, that
    some order could not see.
    """

    distribution: Distribution | None
    option_mass: float | None
    orders: int
    unreadable: int
    spread: tuple[float, ...] | None
    mode_agreement: float | None
    censored: tuple[str, ...]
    readings: tuple[Reading, ...] = field(repr=False)

    @classmethod
    def over(
        cls, readings: Sequence[Reading], orders: Sequence[Order], labels: Sequence[str], least_mass: float
    ) -> Averaged:
        """Average. `labels`: of the options, by place. A reading with less than `least_mass` on the options
        is unreadable.
        """
        read = [
            (_back(reading.distribution, order), reading.option_mass)
            for reading, order in zip(readings, orders, strict=True)
            if reading.distribution is not None
            and (reading.option_mass is None or reading.option_mass >= least_mass)
        ]
        hidden = {
            order[labels.index(label)]
            for reading, order in zip(readings, orders, strict=True)
            for label in reading.censored
        }
        censored = tuple(labels[option] for option in sorted(hidden))
        masses = [reading.option_mass for reading in readings if reading.option_mass is not None]
        lost = len(readings) - len(read)
        mass = math.fsum(masses) / len(masses) if masses else None
        if not read:
            return cls(None, mass, len(readings), lost, None, None, censored, tuple(readings))
        mean = Distribution.mix([distribution for distribution, _ in read])
        columns = zip(*(distribution.probabilities for distribution, _ in read), strict=True)
        read_masses = [m for _, m in read if m is not None]
        return cls(
            mean,
            math.fsum(read_masses) / len(read_masses) if read_masses else None,
            len(readings),
            lost,
            tuple(statistics.pstdev(column) for column in columns),
            sum(distribution.mode_index == mean.mode_index for distribution, _ in read) / len(read),
            censored,
            tuple(readings),
        )

    def as_reading(self) -> Reading:
        """The average in the place of a single reading; its method the least faithful one of all."""
        first = max(self.readings, key=lambda reading: METHODS.index(reading.method))
        samples = [reading.samples for reading in self.readings if reading.samples is not None]
        below = [r.censored_below for r in self.readings if r.censored_below is not None]
        return Reading(
            self.distribution,
            self.option_mass,
            first.method,
            unreadable=sum(reading.unreadable for reading in self.readings),
            samples=sum(samples) if samples else None,
            censored=self.censored,
            censored_below=max(below) if below else None,
            replies=tuple(reply for reading in self.readings for reply in reading.replies)[:5],
            usage=self.usage,
            blend=self.readings[0].blend,
        )

    @property
    def usage(self) -> dict[str, int]:
        """Tokens of all readings; empty when one did not say."""
        if not all(reading.usage for reading in self.readings):
            return {}
        keys = ("input_tokens", "output_tokens")
        return {key: sum(reading.usage[key] for reading in self.readings) for key in keys}

    def as_dict(self, options: Sequence[str]) -> Mapping[str, Any]:
        """How it was averaged, in plain values, for results."""
        return {
            "orders": self.orders,
            "unreadable": self.unreadable,
            "spread": dict(zip(options, self.spread, strict=True)) if self.spread else None,
            "mode_agreement": self.mode_agreement,
        }


def _back(distribution: Distribution, order: Order) -> Distribution:
    """Probabilities by place -> by option, in the question's own order."""
    shares = [0.0] * len(order)
    for place, option in enumerate(order):
        shares[option] = distribution.probabilities[place]
    return Distribution(tuple(shares))
