"""Sequential tests for independent units with one yes or no each: Wald's SPRT, mSPRT, and exact beta-binomial mixtures.

The verdict does not use them (`sequential` clusters and weighs); they serve plain counts, and they are exact where
`sequential` is a limit. All p-values are valid at all times at once; a smaller one of an earlier look may be kept.

Library: numpy, scipy (log gamma).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln

from analyzer.engine.moments import Floats
from analyzer.engine.sample_ratio import log_tilt_mixture
from analyzer.engine.sequential import Interval

__all__ = ["Sprt", "equal_rates_p", "msprt_p", "randomised_p", "rate_interval", "rate_p", "sprt"]

MOST_TRIALS = 1e13
"""Beyond it, sums of logarithms lose the digits that the result needs"""


class Sprt(NamedTuple):
    """Arrays of one shape."""

    log_ratio: Floats
    """ln of the likelihood under p1 over that under p0"""
    decision: NDArray[np.int8]
    """1: p1 accepted, −1: p0 accepted, 0: go on"""


def sprt(
    successes: ArrayLike, trials: ArrayLike, p0: float, p1: float, *, alpha: float = 0.05, beta: float = 0.2
) -> Sprt:
    """Wald's test of rate p0 against p1: accepts p1 above ln((1−β)/α), p0 below ln(β/(1−α)). The first decision counts.

    Both errors together are at most α + β; the single ones at most α/(1−β) and β/(1−α), because counts overshoot the
    bounds. Raises ValueError unless 0 < p0, p1 < 1, p0 ≠ p1, 0 < α, β and α + β < 1, and counts are possible.
    Source: Wald 1945.
    """
    if not (0 < p0 < 1 and 0 < p1 < 1 and p0 != p1):
        raise ValueError(f"p0, p1: must be different and lie between 0 and 1, got {p0} and {p1}")
    if not (alpha > 0 and beta > 0 and alpha + beta < 1):
        raise ValueError(f"alpha, beta: must be positive with a sum below 1, got {alpha} and {beta}")
    s, f = _counts(successes, trials)
    log_ratio = s * math.log(p1 / p0) + f * (math.log1p(-p1) - math.log1p(-p0))
    above, below = log_ratio >= math.log((1 - beta) / alpha), log_ratio <= math.log(beta / (1 - alpha))
    return Sprt(log_ratio, above.astype(np.int8) - below.astype(np.int8))


def msprt_p(difference: ArrayLike, variance: ArrayLike, *, tau: float) -> Floats:
    """Always-valid p-value of "no difference" for a normal estimate of this variance; 1 where that is 0 or nan.

    Mixture N(0, τ²) over the true difference: 1/p = √(V/(V+τ²))·exp(d²τ²/(2V(V+τ²))). With n users in each of two
    groups of rates x and y, V = (x(1−x) + y(1−y))/n. Raises ValueError when tau is not in [1e-12, 1e12].
    Source: Johari, Koomen, Pekelis, Walsh 2022 (there written for V = v/n).
    """
    if not 1e-12 <= tau <= 1e12:
        raise ValueError(f"tau: must lie between 1e-12 and 1e12, got {tau}")
    d, v = np.broadcast_arrays(np.asarray(difference, dtype=np.float64), np.asarray(variance, dtype=np.float64))
    known = (v > 0) & np.isfinite(d)
    d, u = np.where(known, d, 0.0) / tau, np.where(known, v, 1.0) / tau**2
    return np.asarray(np.exp(np.minimum(0.5 * np.log1p(1 / u) - d * d / (2 * u * (1 + u)), 0.0)))


def rate_p(successes: ArrayLike, trials: ArrayLike, p0: float) -> Floats:
    """Always-valid p-value of "the rate is p0", exact: likelihood at p0 over its mean under a uniform prior, at most 1.

    Raises ValueError unless 0 < p0 < 1 and counts are possible. Source: Robbins 1970; Howard et al. 2021.
    """
    if not 0 < p0 < 1:
        raise ValueError(f"p0: must lie between 0 and 1, got {p0}")
    s, f = _counts(successes, trials)
    return np.asarray(np.exp(np.minimum(_cost(s, f) - _divergence(s, f, np.full(s.shape, p0)), 0.0)))


def rate_interval(successes: ArrayLike, trials: ArrayLike, *, alpha: float = 0.05) -> Interval:
    """Confidence sequence of a rate, exact: all p0 with `rate_p` > alpha. [0, 1] without trials.

    In t = |logit p0 − logit p̂| the log likelihood falls by the convex s·t + n·ln(1 − p̂ + p̂·e^−t) on the left, and with
    failures for successes on the right; Newton's method from outside never crosses the end. Raises ValueError unless
    0 < alpha < 1 and counts are possible.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha: must lie between 0 and 1, got {alpha}")
    s, f = _counts(successes, trials)
    fall = _cost(s, f) - math.log(alpha)
    return Interval(_end(s, f, fall)[0], _end(f, s, fall)[1])


def equal_rates_p(successes: ArrayLike, trials: ArrayLike) -> Floats:
    """(…, k) counts of k groups → always-valid p-value (…) of "all rates are equal", exact, whatever filled the groups.

    1/p = mean likelihood under k independent uniform priors over the largest one of a common rate. For each common rate
    that ratio is a martingale, and the smallest of them is this one. Needs only counts; where the shares of the groups
    are known, `randomised_p` finds more. Raises ValueError unless counts are possible.
    Source: Wasserman, Ramdas, Balakrishnan 2020 (universal inference), with a mixture as numerator.
    """
    s, f = _counts(successes, trials)
    if s.ndim < 1:
        raise ValueError("successes: must have an axis of groups")
    all_s, all_f = s.sum(axis=-1, keepdims=True), f.sum(axis=-1, keepdims=True)
    common = np.where(all_s + all_f > 0, all_s / np.maximum(all_s + all_f, 1.0), 0.5)
    return np.asarray(np.exp(np.minimum((_cost(s, f) - _divergence(s, f, common)).sum(axis=-1), 0.0)))


def randomised_p(successes: ArrayLike, units: ArrayLike, percent: ArrayLike) -> Floats:
    """(…, a, k) of allocations and variants → always-valid p-value (…) of "no unit's outcome depends on it", exact.

    Then a unit's variant is as random given its outcome as before: units with the outcome must fall on the variants as
    the allocation says, and units without it too. Each of the two is tested as `sample_ratio_sequential` tests all
    units, half of the prior on "no tilt", and the ratios multiply. Rates may drift; but an outcome must be final when
    it is counted. Not to be used while the sample ratio itself is off. nan where nothing is left to chance.

    Raises ValueError as `sample_ratio_sequential` does, or when successes exceed units.
    Source: Lindon, Malek 2022 (for units with the outcome); docs/statistics.md.
    """
    s, n = np.broadcast_arrays(np.asarray(successes, dtype=np.float64), np.asarray(units, dtype=np.float64))
    if not (s <= n).all():
        raise ValueError("successes: must not exceed units")
    total = np.zeros(())
    for part in (s, n - s):
        total = total + np.logaddexp(log_tilt_mixture(part, percent), 0.0) - math.log(2)
    return np.asarray(np.exp(-np.maximum(total, 0.0)))


def _counts(successes: ArrayLike, trials: ArrayLike) -> tuple[Floats, Floats]:
    s, n = np.broadcast_arrays(np.asarray(successes, dtype=np.float64), np.asarray(trials, dtype=np.float64))
    if not ((n >= 0) & (n <= MOST_TRIALS)).all():
        raise ValueError(f"trials: must lie between 0 and {MOST_TRIALS:g}, got {n.tolist()}")
    if not ((s >= 0) & (s <= n)).all():
        raise ValueError(f"successes: must lie between 0 and trials, got {s.tolist()}")
    return s, n - s


def _cost(s: Floats, f: Floats) -> Floats:
    """ln of the largest likelihood over the mean one, ln(p̂^s (1−p̂)^f / B(s+1, f+1)) ≥ 0, without cancellation."""
    n = s + f
    inner = (s > 0) & (f > 0)
    s, f, m = np.where(inner, s, 1.0), np.where(inner, f, 1.0), np.where(inner, n, 2.0)
    at_top = _stirling(m) - _stirling(s) - _stirling(f) + 0.5 * np.log(m / (2 * math.pi * s * f))
    return np.log1p(n) + np.where(inner, at_top, 0.0)


def _stirling(x: Floats) -> Floats:
    """ln Γ(x+1) − (x+½)·ln x + x − ½·ln 2π, x ≥ 1. Source: Loader 2000."""
    small = np.minimum(x, 20.0)
    exact = gammaln(small + 1) - (small + 0.5) * np.log(small) + small - 0.5 * math.log(2 * math.pi)
    r = 1 / x
    series = r * (1 / 12 - r * r * (1 / 360 - r * r * (1 / 1260 - r * r / 1680)))
    return np.where(x < 20, exact, series)


def _divergence(s: Floats, f: Floats, p: Floats) -> Floats:
    """n·KL(p̂ ‖ p) ≥ 0: how far the log likelihood at p lies below its top; 0 without trials."""
    n = np.maximum(s + f, 1.0)
    top = s / n
    up = np.where(s > 0, (top - p) / np.where(p > 0, p, 1.0), 0.0)
    down = np.where(f > 0, (p - top) / np.where(p < 1, 1 - p, 1.0), 0.0)
    return np.maximum(s * np.log1p(up) + f * np.log1p(down), 0.0)


def _end(s: Floats, f: Floats, fall: Floats) -> tuple[Floats, Floats]:
    """The lower p0 at which the log likelihood lies `fall` below its top, and 1 − p0; 0 and 1 where s is 0."""
    n = s + f
    inner = (s > 0) & (f > 0)
    ss, ff, nn = np.where(inner, s, 1.0), np.where(inner, f, 1.0), np.where(inner, n, 2.0)
    t = np.sqrt(2 * fall * nn / (ss * ff)) + fall / ss
    share = ss / nn
    for _ in range(_NEWTON_STEPS):
        shrunk = np.expm1(-t)
        value = ss * t + nn * np.log1p(share * shrunk) - fall
        slope = ss - nn * share * (1 + shrunk) / (1 + share * shrunk)
        t = np.maximum(t - value / np.maximum(slope, 1e-300), 0.0)
    odds = ss / ff * np.exp(-t)
    edge = np.where(s > 0, fall / np.maximum(n, 1.0), np.inf)
    return np.where(inner, odds / (1 + odds), np.exp(-edge)), np.where(inner, 1 / (1 + odds), -np.expm1(-edge))


_NEWTON_STEPS = 12
