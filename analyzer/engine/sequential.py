"""Comparisons that stay right however often somebody looks: asymptotic confidence sequences on weighted rates.

Library: numpy.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analyzer.engine.moments import Floats, Moments, effective_units, rate, variance

__all__ = ["Contrasts", "Interval", "Lifts", "contrasts", "half_width", "lift_sequences", "rate_sequences", "ready"]

PLANNED_EFFECT = 0.05
"""τ when the experiment plans no effect: where the interval is tightest, in absolute rate"""


class Interval(NamedTuple):
    """Arrays of one shape; −inf and inf where nothing is known."""

    low: Floats
    high: Floats


class Contrasts(NamedTuple):
    """Every variant against the control; arrays (…, k). The control's own entries are 0, and its p is 1."""

    difference: Floats
    """Rate minus the control's rate; nan while one of the two has no impressions"""
    variance: Floats
    """Of the difference, clustered on the unit; nan while one of the two has less than two units"""
    low: Floats
    """−inf while a variance is not known or 0 (units that all agree do not show how units differ)"""
    high: Floats
    p: Floats
    """Always-valid p-value of "no difference", Bonferroni over the variants; 1 while a variance is not known or 0"""


class Lifts(NamedTuple):
    """Rate over the control's rate, minus 1; arrays (…, k). The control's own entries are 0."""

    low: Floats
    """−inf as long as the control's rate may be 0"""
    estimate: Floats
    """nan where the control's rate is 0 or unknown"""
    high: Floats


def half_width(variance: ArrayLike, alpha: float, tau: float = PLANNED_EFFECT) -> Floats:
    """Of the confidence sequence at level 1 − alpha, for an estimate of this variance: √(V(1+V/τ²)·ln((1+τ²/V)/α²)).

    Infinite where the variance is nan; 0 where it is 0. Raises ValueError when alpha is not in (0, 1) or tau not
    positive and finite. Source: Robbins 1970 (normal mixture); Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas 2024
    (asymptotic confidence sequences). The clock is V, not the units.
    """
    _check(alpha, tau)
    v = np.asarray(variance, dtype=np.float64)
    known = v > 0
    u = np.where(known, v, 1.0) / tau**2
    width = tau * np.sqrt(u * (1 + u) * (np.log1p(1 / u) - 2 * math.log(alpha)))
    return np.where(known, width, np.where(v == 0, 0.0, np.inf))


def rate_sequences(arms: Moments, *, alpha: float = 0.05, tau: float = PLANNED_EFFECT) -> Interval:
    """arms: weighted (…, k). For each variant an interval that holds its rate at all times at once, 1 − alpha each.

    Not cut off at 0 and 1 (the same formula serves values). Raises ValueError as `half_width` does.
    """
    r, v = rate(arms), variance(arms)
    known = v > 0
    width = half_width(np.where(known, v, np.nan), alpha, tau)
    middle = np.where(known, r, 0.0)
    return Interval(middle - width, middle + width)


def contrasts(arms: Moments, control: int, *, alpha: float = 0.05, tau: float = PLANNED_EFFECT) -> Contrasts:
    """arms: weighted (…, k). Differences to variant `control`, valid at all times at once; α/(k−1) each.

    Raises ValueError as `half_width` does.
    """
    r, v = rate(arms), variance(arms)
    others = max(r.shape[-1] - 1, 1)
    own = np.arange(r.shape[-1]) == control
    difference = np.where(own, 0.0, r - r[..., control, None])
    total = np.where(own, 0.0, v + v[..., control, None])
    known = (v > 0) & (v[..., control, None] > 0) & ~own
    width = np.where(own, 0.0, half_width(np.where(known, total, np.nan), alpha / others, tau))
    middle = np.where(known, difference, 0.0)
    u = np.where(known, total, 1.0) / tau**2
    log_p = 0.5 * np.log1p(1 / u) - (middle / tau) ** 2 / (2 * u * (1 + u)) + math.log(others)
    p = np.where(known, np.exp(np.minimum(log_p, 0.0)), 1.0)
    return Contrasts(difference, total, middle - width, middle + width, p)


def lift_sequences(arms: Moments, control: int, *, alpha: float = 0.05, tau: float = PLANNED_EFFECT) -> Lifts:
    """arms: weighted (…, k). Relative differences to variant `control`, valid at all times at once; α/(k−1) each.

    All ratios ρ for which "R − ρ·R₀ = 0" is not rejected, each by a sequence of its own with clock V + ρ²V₀ and
    τ² (1+ρ²)/2, so the interval leaves out 0 exactly when that of `contrasts` does. In polar form ρ = tan φ the
    condition is |(R₀, R)|·|sin(φ − φ̂)| ≤ half-width, solved by Newton's method. Raises ValueError as `half_width` does.
    Source: Fieller 1954 (inversion).
    """
    _check(alpha, tau)
    r, v = rate(arms), variance(arms)
    r0, v0 = r[..., control, None], v[..., control, None]
    others = max(r.shape[-1] - 1, 1)
    own = np.arange(r.shape[-1]) == control
    size = np.hypot(r, r0)
    estimate = np.where(r0 != 0, (r - r0) / np.where(r0 != 0, r0, 1.0), np.nan)
    known = (v > 0) & (v0 > 0) & (size > 0) & ~own
    r, r0, v, v0, size = (np.where(known, part, 1.0) for part in (r, r0, v, v0, size))
    # Both variances on the scale of τ²(1+ρ²)/2.
    ends = _angles(np.arctan2(r, r0), 2 * v / tau**2, 2 * v0 / tau**2, size / tau * math.sqrt(2), alpha / others)
    finite = known & (ends[0] > -np.pi / 2) & (ends[1] < np.pi / 2)
    low, high = (np.tan(np.where(finite, end, 0.0)) - 1 for end in ends)
    return Lifts(
        np.where(own, 0.0, np.where(finite, low, -np.inf)),
        np.where(own, 0.0, estimate),
        np.where(own, 0.0, np.where(finite, high, np.inf)),
    )


def ready(raw: Moments, weighted: Moments, *, least_units: float = 30, least_outcomes: float = 20) -> NDArray[np.bool_]:
    """Whether a variant has enough for the normal limit: effective units, outcomes and impressions without, (…, k)."""
    return (
        (effective_units(weighted) >= least_units)
        & (raw.c >= least_outcomes)
        & (raw.n - raw.c >= least_outcomes)
    )  # fmt: skip


def _angles(middle: Floats, v: Floats, v0: Floats, size: Floats, alpha: float) -> tuple[Floats, Floats]:
    """The ends of {φ: size·|sin(φ − middle)| ≤ h(u)}, u = v cos²φ + v0 sin²φ, h the half-width at τ = 1.

    −inf or inf where an end is more than a right angle away, that is, where there is none.
    """
    side = np.array([-1.0, 1.0]).reshape(2, *[1] * middle.ndim)
    away = np.zeros((2, *middle.shape))
    log_alpha = -2 * math.log(alpha)
    for _ in range(_NEWTON_STEPS):
        phi = middle + side * away
        u = v * np.cos(phi) ** 2 + v0 * np.sin(phi) ** 2
        mixture = np.log1p(1 / u) + log_alpha
        h = np.sqrt(u * (1 + u) * mixture)
        h_slope = ((1 + 2 * u) * mixture - 1) / (2 * h) * side * (v0 - v) * np.sin(2 * phi)
        over = size * np.sin(away) - h
        slope = np.maximum(size * np.cos(away) - h_slope, 1e-3 * size)
        away = np.clip(away - over / slope, 0.0, np.pi / 2)
    found = np.abs(over) <= 1e-9 * size
    low, high = np.where(found, middle + side * away, side * np.inf)
    return low, high


_NEWTON_STEPS = 12


def _check(alpha: float, tau: float) -> None:
    if not 0 < alpha < 1:
        raise ValueError(f"alpha: must lie between 0 and 1, got {alpha}")
    if not 0 < tau < math.inf:
        raise ValueError(f"tau: must be positive and finite, got {tau}")
