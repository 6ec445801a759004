"""Did the units arrive as the allocations promised? If not, something loses or repeats them, and no estimate holds.

Library: numpy, scipy.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from scipy.special import chdtrc

from sluice.domain.allocation import parse_allocation_key
from sluice.domain.events import StatsCell
from sluice.errors import InvalidEvent

__all__ = ["LEAST_EXPECTED", "sample_ratio"]

LEAST_EXPECTED = 5
"""Expected units of a variant below which a chi-square is no approximation (Cochran 1954)."""


def sample_ratio(cells: Iterable[StatsCell]) -> float | None:
    """p-value of the units per variant, given how many units each allocation drew. None while there are too few.

    With T_a units under allocation a of shares p_a: expected Σ_a T_a·p_a, covariance
    Σ_a T_a·(diag p_a − p_a p_aᵀ), and the statistic (O − E)ᵀ C⁺ (O − E) is chi-square with rank(C) degrees. With one
    allocation that is Pearson's test. A unit of a variant to which its allocation gives 0 % makes it 0.

    Only cells whose allocation sums to 100 % take part. Source: Fabijan et al. 2019; docs/statistics.md.
    """
    observed: dict[str, int] = {}
    drawn: dict[str, int] = {}
    shares: dict[str, dict[str, int]] = {}
    for cell in cells:
        key = cell.allocation
        if key not in shares:
            shares[key] = _shares(key)
        if shares[key]:
            drawn[key] = drawn.get(key, 0) + cell.statistics.units
            observed[cell.variant] = observed.get(cell.variant, 0) + cell.statistics.units
            if cell.statistics.units and not shares[key].get(cell.variant):
                return 0.0
    names = sorted({name for key in drawn for name, share in shares[key].items() if share})
    if len(names) < 2:
        return None
    p = np.array([[shares[key].get(name, 0) / 100 for name in names] for key in sorted(drawn)])
    t = np.array([drawn[key] for key in sorted(drawn)], dtype=np.float64)
    expected = t @ p
    if expected.min() < LEAST_EXPECTED:
        return None
    covariance = np.diag(expected) - (p * t[:, None]).T @ p
    values, vectors = np.linalg.eigh(covariance)
    kept = values > values[-1] * 1e-9
    if not kept.any():
        return None
    away = (np.array([observed.get(name, 0) for name in names]) - expected) @ vectors[:, kept]
    return float(chdtrc(int(kept.sum()), float(np.sum(away * away / values[kept]))))


def _shares(key: str) -> dict[str, int]:
    try:
        shares = parse_allocation_key(key)
    except InvalidEvent:
        return {}
    fair = sum(shares.values()) == 100 and min(shares.values()) >= 0
    return shares if fair else {}
