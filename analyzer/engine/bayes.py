"""Beta posteriors compared by quadrature: P(best), expected loss, intervals of the rates. No Monte Carlo.

In u = logit(x) the density of Beta(a, b) is `exp(−D(u))` up to a constant, with the convex drop
`D(u) = (a+b)·log(1+eᵘ) − a·u − …` from its top at log(a/b): smooth for every a, b > 0, also where the
density in x is infinite at 0 or 1. Break points stand about where D = z²/2 for every z of `HEIGHTS`.

Library: numpy, scipy (quantiles of Beta). Source of the idea: docs/statistics.md.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betaincinv, expit

from analyzer.engine.moments import Floats
from analyzer.engine.quadrature import HEIGHTS, POSITIONS, Comparison, chunks, compare_densities, join, segments

__all__ = ["Comparison", "beta_parameters", "break_points", "compare", "credible_intervals", "drop"]

LEAST, MOST = 0.02, 1e13
"""Allowed parameters; below, the logit of a rate leaves what a double can hold"""

_SIDES: Floats = np.array([[-1.0], [1.0]])


def compare(alpha: ArrayLike, beta: ArrayLike) -> Comparison:
    """P(best) and expected loss of independent Beta(alpha, beta) arms.

    alpha, beta: (…, k) with k ≥ 1, in [0.02, 1e13]. Absolute error of both below 1e-9 where all parameters are 0.5 or
    more (measured: 1e-10), below 1e-6 from 0.1 on, 2e-4 from 0.02 on. An experiment's result does not depend on the
    other experiments. Raises ValueError that names the parameter outside.
    """
    a, b = beta_parameters(alpha, beta)
    *lead, k = a.shape
    a, b = a.reshape(-1, k), b.reshape(-1, k)
    return join([_compare(a[part], b[part]) for part in chunks(len(a), k)], tuple(lead), k)


def credible_intervals(alpha: ArrayLike, beta: ArrayLike, level: float = 0.95) -> Floats:
    """Central intervals of Beta(alpha, beta): (…, k) each → (…, k, 2). Raises ValueError as `compare` does."""
    a, b = beta_parameters(alpha, beta)
    tail = (1.0 - level) / 2.0
    ends = [betaincinv(a, b, tail), 1.0 - betaincinv(b, a, tail)]
    return np.asarray(np.stack(ends, axis=-1), dtype=np.float64)


def beta_parameters(alpha: ArrayLike, beta: ArrayLike) -> tuple[Floats, Floats]:
    """Both as float64 arrays of one shape (…, k). Raises ValueError that names the one that is impossible."""
    a, b = np.asarray(alpha, dtype=np.float64), np.asarray(beta, dtype=np.float64)
    if a.shape != b.shape:
        a, b = np.broadcast_arrays(a, b)
    for name, values in (("alpha", a), ("beta", b)):
        if values.ndim == 0 or values.shape[-1] == 0:
            raise ValueError(f"{name}: at least one arm is needed, got shape {values.shape}")
        if values.size and not (values.min() >= LEAST and values.max() <= MOST):
            raise ValueError(f"{name}: parameters must lie in [{LEAST}, {MOST:g}], got {values.tolist()}")
    return a, b


def break_points(a: Floats, b: Floats, heights: Floats) -> Floats:
    """(…) each → (…, 2 · heights), unsorted: where the density of logit Beta(a, b) lies about z²/2 below its top.

    In log, the drop begins as a parabola and ends as a line. The distances of both are added, so a point stands a
    little further out than asked, and exactly there for large a and b.
    """
    both = np.stack([a, b], axis=-1)[..., None]
    share = both / (a + b)[..., None, None]
    distance = heights / np.sqrt(both * (1.0 - share)) + heights * heights / 2.0 / both
    points = np.log(a / b)[..., None, None] + _SIDES * distance
    return points.reshape(*a.shape, 2 * heights.size)


def drop(u: Floats, a: Floats, b: Floats) -> Floats:
    """D(u) ≥ 0: how far the log density at u lies below its top. Without cancellation near the top or far from it."""
    away = u - np.log(a / b)
    left = away < 0
    np.abs(away, out=away)
    total = a + b
    share = np.where(left, a, b) / total
    near = share * np.expm1(-away)
    # Where 1 + near is about 0 it is the sum of two small numbers instead.
    rest = np.where(near > -0.5, np.log1p(near), np.log(np.where(left, b, a) / total + share * np.exp(-away)))
    return np.asarray(total * (away * share + rest), dtype=np.float64)


def _compare(a: Floats, b: Floats) -> Comparison:
    """(e, k) each."""
    middle, half = segments(break_points(a, b, HEIGHTS).reshape(len(a), 2 * HEIGHTS.size * a.shape[1]))
    # From the middle of a segment on, the change of log(1+eᵘ) is computed once for all arms, on the side where
    # it does not cancel: with s = ±1 away from 0 and p = expit(−|middle|) ≤ 1/2 it is log(1 + p·(e^{s·δ} − 1)).
    left = middle <= 0
    step = half[..., None] * POSITIONS
    x = expit(middle[..., None] + step)
    step *= np.where(left, 1.0, -1.0)[..., None]
    rise = np.expm1(step)
    rise *= expit(-np.abs(middle))[..., None]
    np.log1p(rise, out=rise)
    a, b = a[..., None], b[..., None]
    density = np.where(left[:, None, :], a, b)[..., None] * step[:, None]
    density -= (a + b)[..., None] * rise[:, None]
    density -= drop(middle[:, None, :], a, b)[..., None]
    np.exp(density, out=density)
    return compare_densities(density, half, x, (a / (a + b))[..., 0])
