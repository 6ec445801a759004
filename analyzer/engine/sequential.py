"""Comparisons that stay right however often somebody looks: asymptotic confidence sequences on weighted rates.

Library: numpy.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analyzer.engine.moments import Floats, Moments, effective_units, rate, variance

__all__ = ["Contrasts", "contrasts", "half_width", "ready"]

PLANNED_EFFECT = 0.05
"""τ when the experiment plans no effect: where the interval is tightest, in absolute rate"""


class Contrasts(NamedTuple):
    """Every variant against the control; arrays (…, k). The control's own entries are 0, and its p is 1."""

    difference: Floats
    """Rate minus the control's rate"""
    variance: Floats
    """Of the difference, clustered on the unit"""
    low: Floats
    high: Floats
    p: Floats
    """Always-valid p-value of "no difference", Bonferroni over the variants"""


def half_width(variance: ArrayLike, alpha: float, tau: float = PLANNED_EFFECT) -> Floats:
    """Of the confidence sequence at level 1 − alpha, for an estimate of this variance: √(V(1+V/τ²)·ln((1+τ²/V)/α²)).

    nan and infinity where the variance is nan; 0 where it is 0. Source: Robbins 1970 (normal mixture);
    Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas 2024 (asymptotic confidence sequences). The clock is V, not the units.
    """
    v = np.asarray(variance, dtype=np.float64)
    known = v > 0
    safe = np.where(known, v, 1.0)
    width = np.sqrt(safe * (1 + safe / tau**2) * (np.log1p(tau**2 / safe) - 2 * math.log(alpha)))
    return np.where(known, width, np.where(v == 0, 0.0, np.inf))


def contrasts(arms: Moments, control: int, *, alpha: float = 0.05, tau: float = PLANNED_EFFECT) -> Contrasts:
    """arms: weighted (…, k). Differences to variant `control`, valid at all times at once; α/(k−1) each."""
    r, v = rate(arms), variance(arms)
    others = max(r.shape[-1] - 1, 1)
    own = np.arange(r.shape[-1]) == control
    difference = np.where(own, 0.0, r - r[..., control, None])
    total = np.where(own, 0.0, v + v[..., control, None])
    width = half_width(total, alpha / others, tau)
    known = total > 0
    safe = np.where(known, total, 1.0)
    log_p = 0.5 * np.log1p(tau**2 / safe) - difference**2 * tau**2 / (2 * safe * (safe + tau**2)) + math.log(others)
    p = np.where(known, np.exp(np.minimum(log_p, 0.0)), 1.0)
    return Contrasts(difference, total, difference - width, difference + width, p)


def ready(raw: Moments, weighted: Moments, *, least_units: float = 30, least_outcomes: float = 20) -> NDArray[np.bool_]:
    """Whether a variant has enough for the normal limit: effective units, outcomes and impressions without, (…, k)."""
    return (
        (effective_units(weighted) >= least_units)
        & (raw.c >= least_outcomes)
        & (raw.n - raw.c >= least_outcomes)
    )  # fmt: skip
