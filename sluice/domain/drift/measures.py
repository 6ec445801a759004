"""How far two distributions over the same bins are apart. Libraries: numpy, scipy.

p-values here are of one look at independent rows, which rows of a user are not: they describe, and decide nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import stats

from sluice.domain.drift.samples import Floats, Ints

__all__ = ["Distance", "distance", "expected_counts"]

_HALF = 0.5
"""Added to counts, so that empty bins leave PSI finite"""


class Distance(NamedTuple):
    """Each is nan when one side is empty."""

    psi: float
    """Population stability index; about 0.1 is called small, 0.25 large"""
    ks: float
    """Largest difference of the distribution functions, at the edges of the bins"""
    ks_p_value: float
    chi2: float
    """Cramér's V of bins against before and after, 0 to 1"""
    chi2_p_value: float
    js: float
    """Jensen–Shannon distance with base 2, 0 to 1"""


def expected_counts(reference: Ints, seen: Ints) -> Floats:
    """reference, seen (ages, bins) → (bins,) rows of the reference, weighed as if their ages were those seen.

    Ages the reference does not know are left out.
    """
    total = reference.sum(axis=1)
    mix = np.where(total > 0, seen.sum(axis=1), 0)
    if not mix.sum():
        return np.zeros(reference.shape[1])
    return np.asarray((mix / mix.sum()) @ (reference / np.maximum(total, 1)[:, None]) * total.sum())


def distance(reference: Floats, seen: Ints) -> Distance:
    """reference (bins,), seen (bins,): counts over the same bins."""
    n, m = float(reference.sum()), float(seen.sum())
    if not n or not m:
        return Distance(*[float("nan")] * 6)
    used = (reference + seen) > 0
    before, after = reference[used], seen[used].astype(np.float64)
    p = (before + _HALF) / (n + _HALF * len(before))
    q = (after + _HALF) / (m + _HALF * len(after))
    ks = float(np.abs(np.cumsum(before) / n - np.cumsum(after) / m).max())
    chi2, chi2_p = 0.0, 1.0
    if len(before) > 1:
        found = stats.chi2_contingency(np.stack([before, after]), correction=False)
        chi2, chi2_p = float(np.sqrt(found.statistic / (n + m))), float(found.pvalue)
    return Distance(
        psi=float(((q - p) * np.log(q / p)).sum()),
        ks=ks,
        ks_p_value=float(stats.kstwo.sf(ks, max(round(n * m / (n + m)), 1))),
        chi2=chi2,
        chi2_p_value=chi2_p,
        js=_jensen_shannon(before / n, after / m),
    )


def _jensen_shannon(one: Floats, two: Floats) -> float:
    # SciPy's own gives nan where rounding leaves a square below zero.
    middle = (one + two) / 2
    return float(np.sqrt(max(stats.entropy(one, middle, base=2) + stats.entropy(two, middle, base=2), 0.0) / 2))
