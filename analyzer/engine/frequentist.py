"""Tests at a planned sample size: rates of independent impressions, means, and ratios whose unit is the user.

Valid once, at the planned sample size; for looks at any time see `sequential`. Every variant is compared with the
control, and results are arrays (…, k): in the control's own place differences are 0, p-values 1 and the rest nan.

Library: numpy, scipy (normal, chi-square and Student's t distributions).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import chdtrc, ndtr, ndtri, stdtr, stdtrit

from analyzer.engine.moments import Floats, Moments, rate, variance

__all__ = [
    "ChiSquare",
    "Differences",
    "Proportions",
    "chi_square",
    "differences",
    "magnitude",
    "per_unit",
    "proportions",
    "ratios",
    "rejection_probability",
    "share_test",
    "welch",
]


MOST = 1e15
"""Counts up to here are whole in a double"""

LEAST = 1e-6
"""Of impressions, if any: less, as effective impressions, says nothing"""

_LARGEST = 1e100
"""Of a mean: squares must fit, too"""


class Proportions(NamedTuple):
    """Rates of independent impressions against the control's; arrays (…, k), see `proportions`."""

    difference: Floats
    """Rate minus the control's; nan where either has no impressions"""
    z: Floats
    """Difference over its standard error, variance pooled; nan where nothing or everything was clicked in both"""
    p: Floats
    """Two-sided p-value of z"""
    low: Floats
    """Newcombe's interval of the difference, inside [−1, 1] and never of length 0"""
    high: Floats
    cohens_h: Floats
    """2·arcsin√p − 2·arcsin√p_control"""
    lift: Floats
    """Rate over the control's, minus 1; nan when the control's is 0"""
    lift_low: Floats
    """Delta-method interval of the lift; nan where both rates are 0 or 1"""
    lift_high: Floats
    power: Floats
    """Of the z test if the true rates were those observed; a function of p alone, so no further evidence"""


class Differences(NamedTuple):
    """Means, or ratios of means, against the control's; arrays (…, k), see `differences`."""

    difference: Floats
    stderr: Floats
    statistic: Floats
    """Difference over its standard error; nan below two units, or when no unit differs from another"""
    degrees: Floats
    """Welch–Satterthwaite degrees of freedom"""
    p: Floats
    """Two-sided p-value, Student's t"""
    low: Floats
    """Interval of the difference"""
    high: Floats
    lift: Floats
    """Over the control's, minus 1; nan unless the control's is > 0"""
    lift_low: Floats
    """Delta-method interval of the lift, with the same quantile"""
    lift_high: Floats


class ChiSquare(NamedTuple):
    """Pearson's test, of equal rates or of shares; arrays (…)."""

    statistic: Floats
    """Rates: nan with fewer than two variants that have impressions, or when nothing or everything was clicked"""
    degrees: Floats
    """Variants (with impressions, for rates), minus 1"""
    p: Floats


def proportions(clicks: ArrayLike, impressions: ArrayLike, *, control: int = 0, alpha: float = 0.05) -> Proportions:
    """Two-proportion z test of every variant against variant `control`. One impression a unit, or independent ones.

    clicks, impressions: (…, k), k ≥ 2; fractional counts are allowed (effective impressions). z pools the variance,
    the intervals do not. Raises ValueError that names the argument when counts are negative, not finite, or clicks
    exceed impressions. Source: Newcombe 1998 (interval, method 10); Cohen 1988 (h); docs/statistics.md.
    """
    c, n = checked_counts(clicks, impressions)
    _check(c.shape[-1], control, alpha)
    own = np.arange(c.shape[-1]) == control
    r = divide(c, n)
    base, n0 = r[..., control, None], n[..., control, None]
    difference = r - base
    pooled = divide(c + c[..., control, None], n + n0)
    null = np.sqrt(pooled * (1 - pooled) * (divide(1, n) + divide(1, n0)))
    v = divide(r * (1 - r), n)
    z = divide(difference, null)
    quantile = _quantile(alpha)
    low, high = _wilson(c, n, quantile)
    low0, high0 = low[..., control, None], high[..., control, None]
    lift, half = _lift(r, v, control, quantile)
    h = 2 * np.arcsin(np.sqrt(r)) - 2 * np.arcsin(np.sqrt(base))
    power = rejection_probability(difference, null, np.sqrt(v + v[..., control, None]), alpha)
    return Proportions(
        *_own(own, 0.0, difference),
        *_own(own, np.nan, z),
        *_own(own, 1.0, 2 * ndtr(-np.abs(z))),
        *_own(
            own,
            0.0,
            difference - np.hypot(r - low, high0 - base),
            difference + np.hypot(high - r, base - low0),
            h,
            lift,
            lift - half,
            lift + half,
        ),
        *_own(own, np.nan, power),
    )


def chi_square(clicks: ArrayLike, impressions: ArrayLike) -> ChiSquare:
    """Are all rates equal? Pearson's chi-square of a 2 × k table, without continuity correction.

    clicks, impressions: (…, k), checked as in `proportions`; with two variants the statistic is z². Variants without
    impressions take no part. Source: Pearson 1900.
    """
    c, n = checked_counts(clicks, impressions)
    pooled = divide(c.sum(axis=-1), n.sum(axis=-1))[..., None]
    r = np.where(n > 0, divide(c, n), pooled)
    statistic = divide((n * (r - pooled) ** 2).sum(axis=-1), (pooled * (1 - pooled))[..., 0])
    degrees = np.maximum((n > 0).sum(axis=-1) - 1.0, 0.0)
    statistic = np.where(degrees > 0, statistic, np.nan)
    return ChiSquare(statistic, degrees, chdtrc(np.maximum(degrees, 1.0), statistic))


def share_test(units: ArrayLike, shares: ArrayLike) -> ChiSquare:
    """Do the units per variant match the shares they were drawn with? Pearson's goodness of fit, for fixed shares.

    units: (…, k) ≥ 0; shares: (…, k) > 0 in any unit. nan without units, or when one expects fewer than five
    (Cochran 1954). For shares that change see `sample_ratio`. Raises ValueError that names the argument.
    """
    o, share = np.asarray(units, dtype=np.float64), np.asarray(shares, dtype=np.float64)
    if o.ndim == 0 or share.ndim == 0 or o.shape[-1] != share.shape[-1] or o.shape[-1] < 2:
        raise ValueError(f"shares: one for each of at least two variants, got {share.shape} for {o.shape}")
    for name, values, least in (("units", o, o >= 0), ("shares", share, share > 0)):
        if not (least & (values <= MOST)).all():
            raise ValueError(f"{name}: must be ≥ 0 (shares > 0), up to {MOST:g}, got {values.tolist()}")
    expected = o.sum(axis=-1, keepdims=True) * share / share.sum(axis=-1, keepdims=True)
    enough = (expected >= 5).all(axis=-1)
    statistic = np.where(enough, ((o - expected) ** 2 / np.where(expected >= 5, expected, 5.0)).sum(axis=-1), np.nan)
    degrees = np.full(statistic.shape, o.shape[-1] - 1.0)
    return ChiSquare(statistic, degrees, chdtrc(degrees, statistic))


def welch(arms: Moments, *, control: int = 0, alpha: float = 0.05) -> Differences:
    """Mean outcome per *unit* (Σc / G) against the control's, unequal variances. arms: unweighted (…, k).

    Source: Welch 1947.
    """
    return ratios(per_unit(arms), control=control, alpha=alpha)


def ratios(arms: Moments, *, control: int = 0, alpha: float = 0.05) -> Differences:
    """Outcomes per *impression* (Σc / Σn) against the control's, with the variance of the units.

    arms: (…, k), weighted or not. Source: delta method, Deng, Knoblich, Lu 2018; the t quantile with Welch's degrees
    of freedom of the units, for few of them.
    """
    return differences(rate(arms), variance(arms), arms.units, control=control, alpha=alpha)


def differences(
    mean: ArrayLike, variance_of_mean: ArrayLike, units: ArrayLike, *, control: int = 0, alpha: float = 0.05
) -> Differences:
    """Independent estimates against the control's: Welch's t test of whatever has a mean and a variance of that mean.

    mean, variance_of_mean, units: (…, k), k ≥ 2; nan where an arm has no estimate, and then the results are nan.
    Raises ValueError when something is infinite, or negative that cannot be. Source: Welch 1947; lift: delta method of
    the ratio of two means.
    """
    m, v, g = np.broadcast_arrays(*(np.asarray(x, dtype=np.float64) for x in (mean, variance_of_mean, units)))
    _check(m.shape[-1] if m.ndim else 0, control, alpha)
    for name, values in (("mean", m), ("variance_of_mean", v), ("units", g)):
        if (np.abs(values) > _LARGEST).any() or (name != "mean" and (values < 0).any()):
            wanted = "finite (up to 1e100)" + ("" if name == "mean" else " and ≥ 0")
            raise ValueError(f"{name}: must be {wanted}, got {values.tolist()}")
    own = np.arange(m.shape[-1]) == control
    v = np.where(g > 1, v, np.nan)
    total = v + v[..., control, None]
    # As shares of the total, so that variances near the smallest double do not vanish when squared.
    mine, other = divide(v, total), divide(v[..., control, None], total)
    freedom = np.where(g > 1, g - 1, np.nan)
    degrees = divide(1.0, mine**2 / freedom + other**2 / freedom[..., control, None])
    stderr = np.sqrt(total)
    difference = m - m[..., control, None]
    statistic = divide(difference, stderr)
    quantile = np.asarray(stdtrit(degrees, 1 - alpha / 2))
    half = quantile * stderr
    lift, lift_half = _lift(m, v, control, quantile)
    return Differences(
        *_own(own, 0.0, difference),
        *_own(own, np.nan, stderr, statistic, degrees),
        *_own(own, 1.0, 2 * stdtr(degrees, -np.abs(statistic))),
        *_own(own, 0.0, difference - half, difference + half, lift, lift - lift_half, lift + lift_half),
    )


def per_unit(arms: Moments) -> Moments:
    """The same outcomes with every unit counting once: Σn and Σn² become G, Σnc becomes Σc. Unweighted sums only."""
    return arms._replace(n=arms.units, nn=arms.units, nc=arms.c)


def rejection_probability(effect: ArrayLike, null: ArrayLike, stderr: ArrayLike, alpha: float) -> Floats:
    """P(|estimate| > z·null) of a normal estimate with mean `effect` and standard error `stderr`: power of a z test.

    `null` is the standard error that the test uses (pooled, for rates). Both tails count. With `stderr` 0 it is 1 or 0.
    """
    d, s0, s1 = np.broadcast_arrays(*(np.asarray(x, dtype=np.float64) for x in (effect, null, stderr)))
    away = _quantile(alpha) * s0
    positive = s1 > 0
    safe = np.where(positive, s1, 1.0)
    chance = ndtr((d - away) / safe) + ndtr((-d - away) / safe)
    sure = np.where(np.isnan(d) | np.isnan(s0) | np.isnan(s1), np.nan, (np.abs(d) > away) * 1.0)
    return np.where(positive, chance, sure)


def magnitude(cohens_h: float) -> str:
    """The word for an effect: negligible below 0.2, small, medium from 0.5, large from 0.8. Source: Cohen 1988."""
    size = abs(cohens_h)
    if not size >= 0:
        return "unknown"
    words = ((0.2, "negligible"), (0.5, "small"), (0.8, "medium"))
    return next((word for limit, word in words if size < limit), "large")


def checked_counts(clicks: ArrayLike, impressions: ArrayLike) -> tuple[Floats, Floats]:
    """Both as float64 arrays of one shape (…, k). Raises ValueError that names the argument."""
    c, n = np.asarray(clicks, dtype=np.float64), np.asarray(impressions, dtype=np.float64)
    for name, values in (("clicks", c), ("impressions", n)):
        if values.ndim == 0 or values.shape[-1] < 2:
            raise ValueError(f"{name}: at least two variants are needed, got shape {values.shape}")
        if not ((values >= 0) & (values <= MOST)).all():
            raise ValueError(f"{name}: must lie in [0, {MOST:g}], got {values.tolist()}")
    if c.shape[-1] != n.shape[-1]:
        raise ValueError(f"clicks: {c.shape[-1]} variants, but impressions: {n.shape[-1]}")
    c, n = np.broadcast_arrays(c, n)
    if ((n > 0) & (n < LEAST)).any():
        raise ValueError(f"impressions: must be 0 or at least {LEAST:g}, got {n.tolist()}")
    if (c > n).any():
        raise ValueError(f"clicks: more than impressions, {c.tolist()} of {n.tolist()}")
    return c, n


def divide(above: ArrayLike, below: ArrayLike) -> Floats:
    """above / below; nan where below is 0 or nan, or so close to 0 that the result is no double."""
    a, b = np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
    known = (b < 0) | (b > 0)
    with np.errstate(over="ignore"):
        result = a / np.where(known, b, 1.0)
    return np.where(known & np.isfinite(result), result, np.nan)


def _own(own: NDArray[np.bool_], value: float, *arrays: Floats) -> list[Floats]:
    """Each with `value` in the control's place."""
    return [np.where(own, value, array) for array in arrays]


def _lift(mean: Floats, v: Floats, control: int, quantile: float | Floats) -> tuple[Floats, Floats]:
    """m/m₀ − 1 and its half-width q·√(V/m₀² + V₀m²/m₀⁴); nan unless m₀ > 0."""
    base = np.where(mean > 0, mean, np.nan)[..., control, None]
    # A control next to 0 makes a lift beyond what a double holds: as unknown as one of 0.
    with np.errstate(over="ignore", invalid="ignore"):
        times = mean / base
        half = quantile * np.sqrt(v + v[..., control, None] * times**2) / base
    known = np.isfinite(times) & np.isfinite(half)
    return np.where(known, times - 1, np.nan), np.where(known & (half > 0), half, np.nan)


def _wilson(c: Floats, n: Floats, quantile: float) -> tuple[Floats, Floats]:
    """Score interval of one rate. Source: Wilson 1927."""
    r = divide(c, n)
    z2 = quantile**2
    middle = (c + z2 / 2) / (n + z2)
    half = quantile * np.sqrt(n * r * (1 - r) + z2 / 4) / (n + z2)
    # At rates 0 and 1 the interval ends there; in doubles it may end just beside.
    return np.minimum(middle - half, r), np.maximum(middle + half, r)


def _quantile(alpha: float) -> float:
    return float(-ndtri(alpha / 2))


def _check(k: int, control: int, alpha: float) -> None:
    if k < 2:
        raise ValueError(f"variants: at least two are needed, got {k}")
    if not 0 <= control < k:
        raise ValueError(f"control: must be 0 to {k - 1}, got {control}")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha: must lie in (0, 1), got {alpha}")
