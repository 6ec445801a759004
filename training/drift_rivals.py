"""Detectors to compare with, on the same features: a Kolmogorov–Smirnov test of every window, and two of `river`.

Libraries: numpy, scipy, river (when it is used).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from sluice.domain.drift import Outcomes, Rows
from sluice.features.definition import Floats, Ints

__all__ = ["ADWIN_DELTAS", "PAGE_HINKLEY_THRESHOLDS", "adwin", "ks_windows", "page_hinkley", "streams"]

ADWIN_DELTAS = (1e-2, 1e-3, 1e-4, 1e-6, 1e-8, 1e-12, 1e-16, 1e-24, 1e-32, 1e-48, 1e-64, 1e-96)
"""From the most to the least easily alarmed, as the next"""
PAGE_HINKLEY_THRESHOLDS = (50.0, 75.0, 100.0, 150.0, 200.0, 300.0, 400.0, 600.0, 800.0, 1200.0, 1600.0)


def ks_windows(reference: NDArray[np.floating], seen: NDArray[np.floating], window: int, alpha: float) -> int | None:
    """reference (n, k), seen (m, k) in order of time. Rows seen at the first alarm of any feature in any window."""
    for end in range(window, len(seen) + 1, window):
        part = seen[end - window : end]
        pairs = zip(reference.T, part.T, strict=True)
        if any(stats.ks_2samp(one, two, method="asymp").pvalue <= alpha for one, two in pairs):
            return end
    return None


def streams(rows: Rows, outcomes: Outcomes, columns: Ints, mean: Floats, sd: Floats, shown: int) -> Floats:
    """(slates, k + 1) standardised features and click − score, means of the `shown` consecutive rows of each slate."""
    features = (rows.features[:, columns] - mean) / sd
    surprise = (outcomes.clicked - outcomes.score) / 0.45
    table = np.nan_to_num(np.column_stack([features, surprise]))
    return np.asarray(table.reshape(-1, shown, table.shape[1]).mean(axis=1))


def adwin(values: Floats, delta: float) -> int | None:
    """Slates at the first alarm of any stream (Bifet, Gavaldà 2007)."""
    from river.drift import ADWIN

    return _first(values, lambda: ADWIN(delta=delta))  # type: ignore[no-untyped-call]


def page_hinkley(values: Floats, threshold: float) -> int | None:
    """Slates at the first alarm of any stream (Page 1954)."""
    from river.drift import PageHinkley

    return _first(values, lambda: PageHinkley(delta=0.05, threshold=threshold))


def _first(values: Floats, make: Any) -> int | None:
    found = [row for row in (_alarm(column.tolist(), make()) for column in values.T) if row is not None]
    return min(found, default=None)


def _alarm(values: list[float], detector: Any) -> int | None:
    for row, value in enumerate(_updates(values, detector), 1):
        if value:
            return row
    return None


def _updates(values: list[float], detector: Any) -> Iterator[bool]:
    for value in values:
        detector.update(value)
        yield detector.drift_detected
