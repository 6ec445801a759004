"""The curve of a posterior, for drawing. Pure. Libraries: numpy, scipy (special functions)."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import betaincinv, betaln, xlog1py, xlogy

from dashboard.views import Density, ResultView

__all__ = ["POINTS", "posterior"]

POINTS = 120
TAIL = 5e-4
"""Of the probability, on each side, that is not drawn"""
Z95 = 1.959963984540054
REACH = 3.2905267314919255
"""Standard deviations on each side of a normal curve that leave out as much"""


def posterior(result: ResultView) -> Density | None:
    """Density of the rate, as it stands in the record: Beta(alpha, beta), or the normal of a value's central interval.

    None where the record tells neither. x ascends; y ≥ 0 and finite.
    """
    if result.alpha is not None and result.beta is not None:
        return _beta(result.alpha, result.beta)
    if result.interval is not None and result.alpha is None and result.beta is None:
        return _normal(*result.interval)
    return None


def _beta(alpha: float, beta: float) -> Density | None:
    if not (alpha > 0 and beta > 0):
        return None
    ends = betaincinv(alpha, beta, [TAIL, 1 - TAIL])
    low, high = float(ends[0]), float(ends[1])
    # Inside (0, 1): with a parameter below 1 the density has no bound at the end.
    low, high = max(low, 1e-9), min(high, 1 - 1e-9)
    if not low < high:
        return None
    x = np.linspace(low, high, POINTS)
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is no curve
        return _curve(x, np.exp(xlogy(alpha - 1, x) + xlog1py(beta - 1, -x) - betaln(alpha, beta)))


def _normal(low: float, high: float) -> Density | None:
    middle, deviation = (low + high) / 2, (high - low) / (2 * Z95)
    if not (math.isfinite(middle) and math.isfinite(deviation) and deviation > 0):
        return None
    z = np.linspace(-REACH, REACH, POINTS)
    return _curve(middle + deviation * z, np.exp(-z * z / 2) / (deviation * math.sqrt(2 * math.pi)))


def _curve(x: np.ndarray, y: np.ndarray) -> Density | None:
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return None
    return Density(x=tuple(x.tolist()), y=tuple(y.tolist()))
