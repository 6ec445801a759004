"""Comparisons that stay right however often somebody looks: asymptotic confidence sequences on weighted rates.

A value R₀ of a rate is rejected when (R − R₀)² > b²·V(R₀), where V(R₀) is the variance seen from R₀ and b the
boundary of a normal mixture. With the variance seen from R itself in its place (`half_width`) that is the usual
asymptotic confidence sequence, and both agree in the limit. But where few units carry the weight, the unit that moves
R also pulls the centre of the residuals along, V̂ comes out too small just when R is far off, and false alarms follow
(docs/statistics.md has both measured). Σw²(c − R₀n)² / (Σwn)², seen from R₀, does not: the terms w(c − R₀n) are
martingale differences whatever the allocation did, and this is their own quadratic variation, so that the sum is
self-normalised. What units of rate R₀ would do, but those of rate R did not, is added: clicks vary by R₀(1 − R₀).

Library: numpy. Sources: Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas 2024 (asymptotic confidence sequences); Robbins
1970 (normal mixture); Wilson 1927 (variance under the hypothesis); de la Peña, Klass, Lai 2004 (self-normalised
sums).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analyzer.engine.moments import Floats, Moments, effective_units, rate, variance

__all__ = [
    "LEAST_OUTCOMES",
    "LEAST_UNITS",
    "Contrasts",
    "Interval",
    "Lifts",
    "contrasts",
    "half_width",
    "lift_sequences",
    "rate_sequences",
    "ready",
]

LEAST_UNITS, LEAST_OUTCOMES = 20, 20
"""The gate: effective units of every variant, and its impressions with and without the outcome"""
PLANNED_EFFECT = 0.05
"""τ when the experiment plans no effect: where the interval is tightest, in absolute rate"""


LEAST_VALUES = 50
"""Measured: lognormal values (σ up to 2) under a bandit give more than 3.5 % false alarms below it"""


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
    """−inf while a variance is not known or 0 (units that all agree do not show how units differ), or units are few"""
    high: Floats
    p: Floats
    """Always-valid p-value of "no difference", Bonferroni over the variants; 1 while a variance is not known or 0"""


class Lifts(NamedTuple):
    """Rate over the control's rate, minus 1; arrays (…, k). The control's own entries are 0."""

    low: Floats
    """−inf and inf as long as the control's rate may be 0"""
    estimate: Floats
    """nan where the control's rate is 0 or unknown"""
    high: Floats


class _Seen(NamedTuple):
    """Rates and their variance as seen from rate + x: at + slope·x + curve·x²; (…, k)."""

    rate: Floats
    at: Floats
    slope: Floats
    curve: Floats


def half_width(variance: ArrayLike, alpha: float, tau: float = PLANNED_EFFECT) -> Floats:
    """Of the confidence sequence at level 1 − alpha, for an estimate of this variance: √(V(1+V/τ²)·ln((1+τ²/V)/α²)).

    Infinite where the variance is nan; 0 where it is 0. The clock is V, not the number of units. `contrasts` and
    `rate_sequences` come to this with many units and are wider with few. Raises ValueError when alpha is not in
    (0, 1) or tau not in [1e-12, 1e12]. Source: Waudby-Smith et al. 2024.
    """
    _check(alpha, tau)
    v = np.asarray(variance, dtype=np.float64)
    known = v > 0
    safe = np.where(known, v, 1.0)
    return np.where(known, np.sqrt(safe * _boundary(safe / tau**2, alpha)), np.where(v == 0, 0.0, np.inf))


def rate_sequences(
    arms: Moments, *, alpha: float = 0.05, tau: float = PLANNED_EFFECT, values: bool = False
) -> Interval:
    """arms: weighted (…, k). For each variant an interval that holds its rate at all times at once, 1 − alpha each.

    Not cut off at 0 and 1. values: as `contrasts`; the mean of a heavy tail is held less often (docs/statistics.md),
    since nothing counted tells of values too rare to have come. Raises ValueError as `half_width` does.
    """
    _check(alpha, tau)
    known, seen = _seen(arms, values)
    low, high = _ends(seen.at, seen.slope, seen.curve, _boundary(seen.at / tau**2, alpha))
    return Interval(np.where(known, seen.rate + low, -np.inf), np.where(known, seen.rate + high, np.inf))


def contrasts(
    arms: Moments, control: int, *, alpha: float = 0.05, tau: float = PLANNED_EFFECT, values: bool = False
) -> Contrasts:
    """arms: weighted (…, k). Differences to variant `control`, valid at all times at once; α/(k−1) each.

    A hypothetical difference moves both rates, each by its part of the variance. values: c are values, which may have a
    heavy tail. A variant that has met no large one yet has a mean and a variance that are too small, and a bandit then
    starves it; so its variance is at least what the spread of the others says, in proportion to the means.
    Raises ValueError as `half_width`.
    """
    _check(alpha, tau)
    r, v = rate(arms), variance(arms)
    own = np.arange(r.shape[-1]) == control
    others = max(r.shape[-1] - 1, 1)
    known, seen = _seen(arms, values)
    base = _Seen(*(part[..., control, None] for part in seen))
    known = known & known[..., control, None] & ~own
    total = seen.at + base.at
    part, base_part = seen.at / total, -base.at / total
    slope = seen.slope * part + base.slope * base_part
    curve = seen.curve * part**2 + base.curve * base_part**2
    u = total / tau**2
    low, high = _ends(total, slope, curve, _boundary(u, alpha / others))
    d = seen.rate - base.rate
    # As seen from 0; never more than as seen from far away, where the interval has its ends.
    z2 = np.minimum(d * d / np.maximum(total - slope * d + curve * d * d, 1e-300), 1 / curve)
    log_p = 0.5 * np.log1p(1 / u) - z2 / (2 * (1 + u)) + math.log(others)
    return Contrasts(
        np.where(own, 0.0, r - r[..., control, None]),
        np.where(own, 0.0, v + v[..., control, None]),
        np.where(own, 0.0, np.where(known, d + low, -np.inf)),
        np.where(own, 0.0, np.where(known, d + high, np.inf)),
        np.where(known, np.exp(np.minimum(log_p, 0.0)), 1.0),
    )


def lift_sequences(
    arms: Moments, control: int, *, alpha: float = 0.05, tau: float = PLANNED_EFFECT, values: bool = False
) -> Lifts:
    """arms: weighted (…, k). Relative differences to variant `control`, valid at all times at once; α/(k−1) each.

    All ratios ρ for which "R − ρ·R₀ = 0" is not rejected, each by a sequence of its own with clock V + ρ²V₀ and
    τ²(1+ρ²)/2. At ρ = 1 that is the test of `contrasts`; with very few units the ratios may come in pieces, and the
    piece around the estimate is widened up to 0 unless `contrasts` rejects it. Raises ValueError as `half_width`.
    Source: Fieller 1954 (inversion).
    """
    _check(alpha, tau)
    r = rate(arms)
    own = np.arange(r.shape[-1]) == control
    r0 = r[..., control, None]
    estimate = np.where(r0 != 0, (r - r0) / np.where(r0 != 0, r0, 1.0), np.nan)
    known, seen = _seen(arms, values)
    base = _Seen(*(part[..., control, None] for part in seen))
    known = known & known[..., control, None] & (np.hypot(seen.rate, base.rate) > 0) & ~own
    # What is not known gets an easy problem, or it would keep the others waiting.
    easy = (1.0, (tau / 100) ** 2, 0.0, 0.0)
    seen, base = (_Seen(*(np.where(known, part, e) for part, e in zip(of, easy, strict=True))) for of in (seen, base))
    low, high = _angles(seen, base, alpha / max(r.shape[-1] - 1, 1), tau)
    from_below, from_above = known & (low > -np.pi / 2), known & (high < np.pi / 2)
    low = np.where(from_below, np.tan(np.where(from_below, low, 0.0)) - 1, -np.inf)
    high = np.where(from_above, np.tan(np.where(from_above, high, 0.0)) - 1, np.inf)
    open_ = contrasts(arms, control, alpha=alpha, tau=tau, values=values).p > alpha
    low, high = np.where(open_, np.minimum(low, 0.0), low), np.where(open_, np.maximum(high, 0.0), high)
    return Lifts(np.where(own, 0.0, low), np.where(own, 0.0, estimate), np.where(own, 0.0, high))


def ready(
    raw: Moments,
    weighted: Moments,
    *,
    least_units: float = LEAST_UNITS,
    least_outcomes: float = LEAST_OUTCOMES,
    values: bool = False,
) -> NDArray[np.bool_]:
    """Whether a variant has enough for the normal limit: effective units, outcomes and impressions without, (…, k).

    raw.c counts outcomes. They count as much as units do: by the part of effective units that unequal weights leave.

    values: weighted.c sums their values. These may have a heavy tail, which sums of squares show only as few large
    units: the values then must weigh as much as `LEAST_VALUES` equal ones, (Σwv)² / Σw²v², instead of impressions
    without an outcome. Values of both signs that cancel do not get there.
    """
    effective, unweighted = effective_units(weighted), effective_units(raw)
    left = np.minimum(effective / np.where(unweighted > 0, unweighted, 1.0), 1.0)
    enough = (effective >= least_units) & (raw.c * left >= least_outcomes)
    if values:
        return enough & (weighted.c * weighted.c >= LEAST_VALUES * weighted.cc)
    return enough & ((raw.n - raw.c) * left >= least_outcomes)


def _seen(arms: Moments, values: bool) -> tuple[NDArray[np.bool_], _Seen]:
    """Whether a variance is known, and the variances; harmless numbers where not. Rounding of weighted sums is none."""
    r, v = rate(arms), variance(arms)
    known = v * arms.n * arms.n > _ROUNDING * arms.cc
    r, v = np.where(known, r, 1.0), np.where(known, v, 1.0)
    n = np.where(known, arms.n, 1.0)
    slope = np.where(known, -2 * (arms.nc - r * arms.nn) / n / n, 0.0)
    curve = np.where(known, arms.nn / n / n, 1.0)
    if values:
        spread, square = np.where(known, v / curve, 0.0), np.maximum(r * r, 1e-200)
        of_others = spread[..., None, :] * np.minimum(square[..., :, None] / square[..., None, :], 1.0)
        v = np.maximum(v, of_others.max(axis=-1) * curve)
    else:
        # Clicks of a rate R₀ vary by R₀(1 − R₀), not by what they do at R; its square in x is covered by `curve`.
        within = known & (r > 0) & (r < 1)
        slope += np.where(within, v * (1 - 2 * r) / np.where(within, r * (1 - r), 1.0), 0.0)
    return known, _Seen(r, v, slope, curve)


def _boundary(u: Floats, alpha: float) -> Floats:
    """b² of the normal mixture at the clock u = V/τ²."""
    return np.asarray((1 + u) * (np.log1p(1 / u) - 2 * math.log(alpha)))


def _ends(at: Floats, slope: Floats, curve: Floats, b2: Floats) -> Interval:
    """The ends of {x: x² ≤ b²(at + slope·x + curve·x²)}; infinite where b²·curve ≥ 1."""
    lead = 1 - b2 * curve
    finite = lead > 0
    lead = np.where(finite, lead, 1.0)
    half = b2 * slope / 2
    root = np.sqrt(half * half + lead * b2 * at)
    return Interval(np.where(finite, (half - root) / lead, -np.inf), np.where(finite, (half + root) / lead, np.inf))


def _angles(seen: _Seen, base: _Seen, alpha: float, tau: float) -> tuple[Floats, Floats]:
    """The ends, around φ̂, of the ratios ρ = tan φ that are not rejected; infinite where none lies within a right angle.

    At φ̂ ± a the contrast R·cos φ − R₀·sin φ is ∓|(R₀, R)|·sin a; where it equals b·√V is found by the secant method.
    """
    middle = np.arctan2(seen.rate, base.rate)
    size = np.hypot(seen.rate, base.rate)
    side = np.array([-1.0, 1.0]).reshape(2, *[1] * middle.ndim)

    def over(a: Floats) -> Floats:
        phi = middle + side * a
        q, s = np.cos(phi), np.sin(phi)
        off = size * np.sin(a)
        total = q * q * seen.at + s * s * base.at
        x, x0 = side * off * q * seen.at / total, -side * off * s * base.at / total
        own = q * q * (seen.at + x * (seen.slope + x * seen.curve))
        own += s * s * (base.at + x0 * (base.slope + x0 * base.curve))
        return np.asarray(off - np.sqrt(np.maximum(own, 0.0) * _boundary(2 * total / tau**2, alpha)))

    before = np.zeros((2, *middle.shape))
    short = over(before)
    a = np.arcsin(np.minimum(-short / size, 1.0))
    for _ in range(_MOST_STEPS):
        now = over(a)
        # Who has arrived stays: what one experiment gets must not depend on how long others take.
        far = np.abs(now) > _CLOSE * size
        if not far.any():
            break
        rise = (now - short) / np.where(a != before, a - before, 1.0)
        rise = np.where(np.abs(rise) > 1e-3 * size, rise, size)
        before, short, a = a, now, np.where(far, np.clip(a - now / rise, 0.0, np.pi / 2), a)
    found = np.abs(over(a)) <= 1e-8 * size
    low, high = np.where(found, middle + side * a, side * np.inf)
    return low, high


_ROUNDING = 1e-14
_MOST_STEPS = 12
_CLOSE = 1e-10


def _check(alpha: float, tau: float) -> None:
    if not 0 < alpha < 1:
        raise ValueError(f"alpha: must lie between 0 and 1, got {alpha}")
    if not 1e-12 <= tau <= 1e12:
        raise ValueError(f"tau: must lie between 1e-12 and 1e12, got {tau}")
