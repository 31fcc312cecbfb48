"""Temperature and places' worth, found again from readings that were made with them."""

from __future__ import annotations

import numpy as np
import pytest

from cultural_palette.evaluation.calibrate import NONE, PlaceReading, calibrate

WORTH = np.array([0.8, -0.1, -0.7])


def made(count: int, temperature: float, worth: np.ndarray, seed: int = 0) -> list[PlaceReading]:
    rng = np.random.default_rng(seed)
    readings = []
    for _ in range(count):
        logps = rng.normal(0, 2, len(worth)) - 5.0
        moved = np.exp(logps / temperature + worth)
        readings.append(PlaceReading(tuple(logps), tuple(moved / moved.sum())))
    return readings


def test_what_was_put_in_is_found_again() -> None:
    found = calibrate([*made(400, 2.5, WORTH), *made(300, 2.5, np.array([0.5, -0.5]), 1)])
    assert found.temperature == pytest.approx(2.5, rel=0.02)
    assert found.places[3] == pytest.approx(WORTH, abs=0.03)
    assert found.places[2] == pytest.approx([0.5, -0.5], abs=0.03)
    reading = made(1, 2.5, WORTH, 7)[0]
    assert found.apply(reading.logps).probabilities == pytest.approx(reading.gold, abs=0.02)


def test_a_constant_in_the_readings_changes_nothing() -> None:
    readings = made(50, 0.7, WORTH)
    shifted = [PlaceReading(tuple(np.array(one.logps) + 3.0), one.gold) for one in readings]
    assert calibrate(shifted).temperature == pytest.approx(calibrate(readings).temperature, rel=1e-4)


def test_a_size_that_was_not_fitted_keeps_its_places() -> None:
    found = calibrate(made(50, 1.0, WORTH))
    assert found.apply((0.0, 0.0, 0.0, 0.0)).probabilities == pytest.approx([0.25] * 4)
    assert NONE.apply((np.log(0.9), np.log(0.1))).probabilities == pytest.approx([0.9, 0.1])


def test_an_impossible_label_is_no_infinity() -> None:
    found = calibrate([*made(50, 1.0, WORTH), PlaceReading((-1.0, -2.0, -np.inf), (0.5, 0.3, 0.2))])
    assert np.isfinite(found.temperature) and all(np.isfinite(found.places[3]))
    with pytest.raises(ValueError, match="no reading"):
        calibrate([])
