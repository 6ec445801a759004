"""Drift of a small model whose features and clicks moved by as much as is wanted."""

from __future__ import annotations

import numpy as np

from sluice.domain.drift import DriftOptions, DriftReport, Monitor, Outcomes, Rows, make_reference

HOUR = 3_600_000
COLUMNS = ("user_history", "user_like_rate", "item_quality", "genre=Drama")


def drift_report(shift: float, hours: int = 8) -> DriftReport:
    """Of `hours` windows of 60 users: `item_quality` higher by `shift` standard deviations, clicks rarer."""
    reference = make_reference(COLUMNS, *_shown(np.random.default_rng(1), 600, 0, 0.0), {"item_quality": 1.0})
    monitor = Monitor(reference, "films", "3", DriftOptions(window_ms=HOUR))
    for hour in range(hours):
        rows, outcomes = _shown(np.random.default_rng([2, hour]), 60, hour, shift)
        monitor.take(rows)
        monitor.take_outcomes(outcomes)
    return monitor.close_until(hours * HOUR)


def _shown(rng: np.random.Generator, users: int, hour: int, shift: float) -> tuple[Rows, Outcomes]:
    n = users * 5
    ids = [f"h{hour}u{number // 5}" for number in range(n)]
    quality = rng.normal(size=n)
    score = 1 / (1 + np.exp(-0.7 * quality))
    clicked = rng.random(n) < score * (1 - shift / 2)
    features = np.column_stack([
        rng.choice([0.0, 0.3, 0.6, 0.9], size=n), rng.random(n), quality + shift, rng.random(n) < 0.4,
    ])  # fmt: skip
    at_ms = hour * HOUR + rng.integers(0, HOUR, n)
    return Rows(ids, at_ms, features, score), Outcomes(ids, at_ms, features, score, clicked)
