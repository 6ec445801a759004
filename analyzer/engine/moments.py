"""Sums over units as arrays: the common coin of the engine. All methods read `Moments`, over any number of experiments.

A unit i has n impressions and c outcomes (or a value in the place of c). Under a bandit it was drawn with propensity p,
and counts with weight w = 1/p (Hájek); without one w is the same for all and cancels everywhere.

Library: numpy.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Floats", "Moments", "effective_units", "inverse_propensity", "moments", "rate", "variance"]

Floats: TypeAlias = NDArray[np.float64]

LARGEST = 1e20
"""Of a first-order sum; of a second-order sum it is the square. Products of more would leave the range of doubles."""
SMALLEST = 1e-9
"""Impressions (forgotten ones may be fractions); less is 0"""


class Moments(NamedTuple):
    """Six arrays of one shape, (…, k): the last axis are variants, the others experiments, runs or allocations.

    First-order sums carry the weights of the units, second-order sums their squares. `Moments` of disjoint units add.
    """

    units: Floats
    """G, never weighted"""
    n: Floats
    """Σ w n"""
    c: Floats
    """Σ w c"""
    nn: Floats
    """Σ w² n²"""
    cc: Floats
    """Σ w² c²"""
    nc: Floats
    """Σ w² n c"""

    def __add__(self, other: Moments) -> Moments:  # type: ignore[override]
        return Moments(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))

    def sum(self, axis: int) -> Moments:
        """Over an axis of disjoint units, for example allocations."""
        return Moments(*(part.sum(axis=axis) for part in self))


def moments(
    units: ArrayLike, n: ArrayLike, c: ArrayLike, nn: ArrayLike | None = None, cc: ArrayLike | None = None,
    nc: ArrayLike | None = None,
) -> Moments:  # fmt: skip
    """Unweighted sums, broadcast to one shape and checked. Without squares: one impression a unit, independent clicks.

    Raises ValueError that names the argument when a sum is negative, not finite, beyond 1e20 (squares: 1e40), or cannot
    come from units (Cauchy's inequality). c may exceed n, or be negative: an outcome with a value.
    """
    given = {"units": units, "n": n, "c": c}
    given |= {"nn": n if nn is None else nn, "cc": c if cc is None else cc, "nc": c if nc is None else nc}
    parts = dict(
        zip(given, np.broadcast_arrays(*(np.asarray(v, dtype=np.float64) for v in given.values())), strict=True)
    )
    for name, values in parts.items():
        most = LARGEST ** len(name) if name != "units" else LARGEST
        if not (np.abs(values) <= most).all():
            raise ValueError(f"{name}: must be finite, at most {most:g}, got {values.tolist()}")
        if name not in ("c", "nc") and (values < 0).any():
            raise ValueError(f"{name}: must be ≥ 0, got {values.tolist()}")
        if name == "n" and ((values > 0) & (values < SMALLEST)).any():
            raise ValueError(f"n: must be 0 or at least {SMALLEST:g}, got {values.tolist()}")
    found = Moments(**parts)
    slack = 1 + 1e-9
    if ((found.n > 0) != (found.units > 0)).any() or (found.n**2 > found.units * found.nn * slack).any():
        raise ValueError("nn: no such units have these impressions: Σn² ≥ (Σn)²/G does not hold")
    if (found.c**2 > found.units * found.cc * slack).any():
        raise ValueError("cc: no such units have these outcomes: Σc² ≥ (Σc)²/G does not hold")
    if (found.nc**2 > found.nn * found.cc * slack).any():
        raise ValueError("nc: no such units have these impressions and outcomes: Σn²·Σc² ≥ (Σnc)² does not hold")
    return found


def inverse_propensity(cells: Moments, percent: ArrayLike) -> Moments:
    """Cells (…, a, k) of allocations a → weighted sums (…, k), each unit with 1 / its propensity.

    percent: (…, a, k), the shares of the allocations; ValueError unless they lie in (0, 100] wherever units are.
    Source: Hájek 1971; Horvitz, Thompson 1952.
    """
    share = np.asarray(percent, dtype=np.float64)
    given = (share >= 1e-6) & (share <= 100)
    if ((cells.units > 0) & ~given).any():
        raise ValueError("percent: a cell has units that its allocation gives no share in (0, 100]")
    w = np.where(given, 100.0 / np.where(given, share, 1.0), 0.0)
    first, second = (cells.n, cells.c), (cells.nn, cells.cc, cells.nc)
    return Moments(cells.units, *(w * part for part in first), *(w * w * part for part in second)).sum(axis=-2)


def rate(arms: Moments) -> Floats:
    """R = Σwc / Σwn, (…, k); nan without impressions.

    As R makes Σw(c − Rn) vanish, it is also the augmented estimate (AIPW) whose outcome model is the arm's own rate.
    """
    shown = arms.n > 0
    return np.where(shown, arms.c / np.where(shown, arms.n, 1.0), np.nan)


def variance(arms: Moments) -> Floats:
    """Of `rate`, clustered on the unit: G/(G−1) · Σw²(c − Rn)² / (Σwn)², (…, k); nan below two units.

    Source: delta method of a ratio (Deng, Knoblich, Lu 2018), in weighted form.
    """
    enough = (arms.units > 1) & (arms.n > 0)
    g = np.where(enough, arms.units, 2.0)
    n = np.where(arms.n > 0, arms.n, 1.0)
    return np.where(enough, g / (g - 1) * _residual_squares(arms, n) / (n * n), np.nan)


def _residual_squares(arms: Moments, n: Floats) -> Floats:
    """Σw²(c − Rn)² = Σw²c² − 2RΣw²nc + R²Σw²n², ≥ 0, with R = Σwc / n.

    Where outcomes are nearly in proportion to impressions (rates near 1, values far from 0) the three terms cancel, and
    doubles would lose every digit. So R and the products carry their rounding errors along, in a second double.
    Source: Dekker 1971 (exact product), Knuth 1969 (exact sum).
    """
    r = arms.c / n
    shown, lost = _product(r, n)
    r_rest = ((arms.c - shown) - lost) / n
    square, square_rest = _product(r, r)
    third, third_rest = _product(square, arms.nn)
    second, second_rest = _product(2 * r, arms.nc)
    total, total_rest = _sum(arms.cc, third)
    total, last_rest = _sum(total, -second)
    rest = total_rest + last_rest + third_rest - second_rest + square_rest * arms.nn
    return np.maximum(total + (rest + 2 * r_rest * (r * arms.nn - arms.nc)), 0.0)


def _product(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """a·b as a double and what rounding lost."""
    product = a * b
    (a_high, a_low), (b_high, b_low) = _halves(a), _halves(b)
    return product, ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low


def _halves(a: Floats) -> tuple[Floats, Floats]:
    wide = 134217729.0 * a  # 2^27 + 1
    high = wide - (wide - a)
    return high, a - high


def _sum(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """a + b as a double and what rounding lost."""
    total = a + b
    other = total - a
    return total, (a - (total - other)) + (b - other)


def effective_units(arms: Moments) -> Floats:
    """(Σwn)² / Σw²n², (…, k): as many units of equal size and weight would weigh as much; 0 without any (Kish 1965)."""
    some = arms.nn > 0
    return np.where(some, arms.n * arms.n / np.where(some, arms.nn, 1.0), 0.0)
