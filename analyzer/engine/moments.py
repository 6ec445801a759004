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

    Raises ValueError that names the argument when a sum is negative, not finite, or cannot come from units (c may
    exceed n: an outcome with a value). Reason of the squares' bounds: Cauchy's inequality.
    """
    given = {"units": units, "n": n, "c": c}
    given |= {"nn": n if nn is None else nn, "cc": c if cc is None else cc, "nc": c if nc is None else nc}
    parts = dict(
        zip(given, np.broadcast_arrays(*(np.asarray(v, dtype=np.float64) for v in given.values())), strict=True)
    )
    for name, values in parts.items():
        if not np.isfinite(values).all():
            raise ValueError(f"{name}: must be finite, got {values.tolist()}")
        if name not in ("c", "nc") and (values < 0).any():
            raise ValueError(f"{name}: must be ≥ 0, got {values.tolist()}")
    slack = 1 + 1e-9
    if ((parts["n"] > 0) != (parts["units"] > 0)).any() or (
        parts["n"] ** 2 > parts["units"] * parts["nn"] * slack
    ).any():
        raise ValueError("nn: no such units have these impressions: Σn² ≥ (Σn)²/G does not hold")
    if (parts["c"] ** 2 > parts["units"] * parts["cc"] * slack).any():
        raise ValueError("cc: no such units have these outcomes: Σc² ≥ (Σc)²/G does not hold")
    return Moments(**parts)


def inverse_propensity(cells: Moments, percent: ArrayLike) -> Moments:
    """Cells (…, a, k) of allocations a → weighted sums (…, k), each unit with 1 / its propensity.

    percent: (…, a, k), the shares of the allocations, > 0 wherever units are (ValueError otherwise).
    Source: Hájek 1971; Horvitz, Thompson 1952.
    """
    share = np.asarray(percent, dtype=np.float64)
    if ((cells.units > 0) & ~(share > 0)).any():
        raise ValueError("percent: a cell has units that its allocation gives no share")
    w = np.where(share > 0, 100.0 / np.where(share > 0, share, 1.0), 0.0)
    first, second = (cells.n, cells.c), (cells.nn, cells.cc, cells.nc)
    return Moments(cells.units, *(w * part for part in first), *(w * w * part for part in second)).sum(axis=-2)


def rate(arms: Moments) -> Floats:
    """R = Σwc / Σwn, (…, k); nan without impressions."""
    shown = arms.n > 0
    return np.where(shown, arms.c / np.where(shown, arms.n, 1.0), np.nan)


def variance(arms: Moments) -> Floats:
    """Of `rate`, clustered on the unit: G/(G−1) · Σw²(c − Rn)² / (Σwn)², (…, k); nan below two units.

    Source: delta method of a ratio (Deng, Knoblich, Lu 2018), in weighted form.
    """
    enough = arms.units > 1
    r = rate(arms)
    squares = np.maximum(arms.cc - 2 * r * arms.nc + r * r * arms.nn, 0.0)
    g = np.where(enough, arms.units, 2.0)
    n = np.where(arms.n > 0, arms.n, 1.0)
    return np.where(enough, g / (g - 1) * squares / (n * n), np.nan)


def effective_units(arms: Moments) -> Floats:
    """(Σwn)² / Σw²n², (…, k): as many units of equal size and weight would weigh as much; 0 without any (Kish 1965)."""
    some = arms.nn > 0
    return np.where(some, arms.n * arms.n / np.where(some, arms.nn, 1.0), 0.0)
