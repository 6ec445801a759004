"""CUPED: what a unit did before the experiment explains part of what it did after, and that part is taken away.

The covariate is the same kind of ratio, over the time before a unit's first exposure: outcomes c₀ over impressions
n₀. A unit that is new has n₀ = c₀ = 0 and is left as it is. For a mean per unit instead of a ratio let n = n₀ = 1.

Library: numpy.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from analyzer.engine.frequentist import LEAST, MOST, Differences, differences, divide
from analyzer.engine.moments import Floats, Moments, moments, rate

__all__ = ["Adjusted", "CovariateMoments", "adjust", "adjusted_differences", "covariate_moments"]


class CovariateMoments(NamedTuple):
    """Sums over units of the metric, of the covariate, and of their products; (…, k). Those of disjoint units add."""

    metric: Moments
    """n, c of the experiment"""
    before: Moments
    """n₀, c₀ of the same units before it; `units` is not used"""
    cc: Floats
    """Σ w² c c₀"""
    cn: Floats
    """Σ w² c n₀"""
    nc: Floats
    """Σ w² n c₀"""
    nn: Floats
    """Σ w² n n₀"""

    def __add__(self, other: CovariateMoments) -> CovariateMoments:  # type: ignore[override]
        return CovariateMoments(
            self.metric + other.metric,
            self.before + other.before,
            *(mine + theirs for mine, theirs in zip(self[2:], other[2:], strict=True)),
        )


class Adjusted(NamedTuple):
    """Estimates with the covariate's part taken away; see `adjust`."""

    mean: Floats
    """(…, k) R − θ(R₀ − R₀ of all variants); nan without impressions"""
    variance: Floats
    """(…, k) of `mean`, clustered on the unit; nan below two units"""
    theta: Floats
    """(…) the coefficient; 0 where the covariate does not vary"""
    reduction: Floats
    """(…, k) share of the variance that was taken away; nan where there was none"""


def covariate_moments(
    n: ArrayLike, c: ArrayLike, n0: ArrayLike, c0: ArrayLike, arm: ArrayLike, k: int
) -> CovariateMoments:
    """From one row a unit: n, c, n0, c0 and its variant's index `arm`, each (G,). Returns arrays (k,).

    Raises ValueError when something is not finite, the lengths differ, or an index is not 0 to k − 1.
    """
    given = {"n": n, "c": c, "n0": n0, "c0": c0}
    parts = {name: np.asarray(values, dtype=np.float64) for name, values in given.items()}
    index = np.asarray(arm, dtype=np.int64)
    for name, values in parts.items():
        if values.shape != index.shape:
            raise ValueError(f"{name}: one number for each of {index.size} units, got shape {values.shape}")
        if not (np.abs(values) <= MOST).all():
            raise ValueError(f"{name}: must be finite (up to {MOST:g})")
        if name in ("n", "n0") and ((values < 0) | (values > 0) & (values < LEAST)).any():
            raise ValueError(f"{name}: impressions are 0 or at least {LEAST:g}")
    if (index < 0).any() or (index >= k).any():
        raise ValueError(f"arm: must be 0 to {k - 1}")

    def total(values: Floats) -> Floats:
        return np.bincount(index, values, minlength=k).astype(np.float64)

    n, c, n0, c0 = parts.values()
    g = total(np.ones_like(n))
    metric = moments(g, total(n), total(c), total(n * n), total(c * c), total(n * c))
    # Not checked by `moments`: the units without anything before the experiment are among G.
    before = Moments(g, total(n0), total(c0), total(n0 * n0), total(c0 * c0), total(n0 * c0))
    return CovariateMoments(metric, before, total(c * c0), total(c * n0), total(n * c0), total(n * n0))


def adjust(arms: CovariateMoments) -> Adjusted:
    """Take the covariate's part away, with one coefficient for all variants: θ = cov(l, l₀) / var(l₀).

    l = (c − Rn)/n̄ are the linearised ratios of the units, centred on the rate of all variants together. The estimate
    stays unbiased whatever θ is, as long as the covariate is from before the assignment. Source: Deng, Xu, Kohavi,
    Walker 2013; ratios: Deng, Knoblich, Lu 2018.
    """
    everyone = CovariateMoments(
        arms.metric.sum(-1), arms.before.sum(-1), *(part.sum(axis=-1) for part in arms[2:])
    )  # fmt: skip
    _, covariance, spread = _linearised(everyone)
    theta = divide(covariance, spread)
    theta = np.where(np.isfinite(theta), theta, 0.0)
    r, r0 = rate(arms.metric), np.where(arms.before.n > 0, divide(arms.before.c, arms.before.n), 0.0)
    center = np.where(everyone.before.n > 0, divide(everyone.before.c, everyone.before.n), 0.0)[..., None]
    # An arm whose units are all new has nothing that could be compared with the others' past.
    away = np.where(arms.before.n > 0, theta[..., None] * (r0 - center), 0.0)
    t = np.where(arms.before.n > 0, theta[..., None], 0.0)
    own, covariance, spread = _linearised(arms)
    g = np.where(arms.metric.units > 1, arms.metric.units, np.nan)
    scale = g / (g - 1)
    left = np.maximum(own - 2 * t * covariance + t * t * spread, 0.0)
    return Adjusted(r - away, scale * left, theta, 1 - divide(left, own))


def adjusted_differences(arms: CovariateMoments, *, control: int = 0, alpha: float = 0.05) -> Differences:
    """Every variant against the control after `adjust`. Source of the test: `frequentist.differences`."""
    found = adjust(arms)
    return differences(found.mean, found.variance, arms.metric.units, control=control, alpha=alpha)


def _linearised(sums: CovariateMoments) -> tuple[Floats, Floats, Floats]:
    """Σl², Σll₀ and Σl₀² with l = (c − Rn)/Σn and l₀ = (c₀ − R₀n₀)/Σn₀; 0 where the covariate has no impressions."""
    y, x = sums.metric, sums.before
    n, n0 = np.where(y.n > 0, y.n, np.nan), np.where(x.n > 0, x.n, 1.0)
    r, r0 = y.c / n, np.where(x.n > 0, x.c / n0, 0.0)
    own = np.maximum(y.cc - 2 * r * y.nc + r * r * y.nn, 0.0) / n**2
    cross = (sums.cc - r0 * sums.cn - r * sums.nc + r * r0 * sums.nn) / (n * n0)
    spread = np.maximum(x.cc - 2 * r0 * x.nc + r0 * r0 * x.nn, 0.0) / n0**2
    return own, cross, spread
