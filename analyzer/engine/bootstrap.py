"""A bootstrap of a stream: every unit counts Poisson(1) times in each replicate, as a hash of the unit says.

The weights are a function of the unit alone. So sums grow event by event, in any order; those of partitions add; and a
restart gives the same integers. For metrics with tails so heavy that the normal limit of `frequentist.ratios` is far.

Library: numpy, hashlib (BLAKE2b).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from hashlib import blake2b
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analyzer.engine.frequentist import divide
from analyzer.engine.moments import Floats

__all__ = [
    "BootstrapInterval",
    "Replicates",
    "difference_interval",
    "ratio_interval",
    "replicate_weights",
    "replicates",
    "unit_keys",
]

Integers: TypeAlias = NDArray[np.int64]

_CHUNK = 4096
_WORD_STEP = np.uint64(0x9E3779B97F4A7C15)
_LARGEST = 2**62


class Replicates(NamedTuple):
    """Sums over units in B replicates; (…, B + 1), whole numbers. Those of the same salt add.

    Place 0 holds the plain sums, where every unit counts once.
    """

    n: Integers
    c: Integers

    def __add__(self, other: Replicates) -> Replicates:  # type: ignore[override]
        for mine, theirs in zip(self, other, strict=True):
            _check_size(float(np.abs(mine).max(initial=0)) + float(np.abs(theirs).max(initial=0)))
        return Replicates(self.n + other.n, self.c + other.c)


class BootstrapInterval(NamedTuple):
    """Arrays (…), or (…, k) for differences."""

    estimate: Floats
    stderr: Floats
    """Standard deviation over the replicates"""
    low: Floats
    """Percentile interval; nan when some replicate has no impressions (too few units)"""
    high: Floats


def unit_keys(units: Iterable[str], salt: str) -> NDArray[np.uint64]:
    """One 64-bit key a unit. A salt an experiment: else the same units are lucky in all of them."""
    start = blake2b(salt.encode() + b"\xff", digest_size=8)

    def key(unit: str) -> int:
        digest = start.copy()
        digest.update(unit.encode())
        return int.from_bytes(digest.digest(), "big")

    return np.fromiter((key(unit) for unit in units), dtype=np.uint64)


def replicate_weights(keys: ArrayLike, count: int) -> NDArray[np.uint8]:
    """keys (u,) uint64 → (u, count) independent weights, Poisson(1) to within 2⁻¹⁶, the same for ever.

    Sources: Oza, Russell 2001; Chamandy, Muralidharan, Najmi, Naidu 2012 (Poisson bootstrap of streams); Steele,
    Lea, Flood 2014 (SplitMix64, which spreads the key over the replicates).
    """
    k = np.asarray(keys, dtype=np.uint64)[:, None]
    # Sixteen bits a weight, four of them a word.
    words = k + np.arange(1, (count + 3) // 4 + 1, dtype=np.uint64) * _WORD_STEP
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    words ^= words >> np.uint64(31)
    weights: NDArray[np.uint8] = _WEIGHT[words.astype("<u8").view("<u2")[:, :count]]
    return weights


def replicates(keys: ArrayLike, n: ArrayLike, c: ArrayLike, count: int = 1000) -> Replicates:
    """Sums of these units, or of what was added to them. n, c: (u,) whole numbers (values in thousandths).

    A unit may come in any number of pieces: the pieces of its n and c add. For a mean per unit let n be 1 at the
    unit's first piece, and 0 later. Raises ValueError when lengths differ, numbers are not whole, or sums exceed 2⁶².
    """
    k = np.asarray(keys, dtype=np.uint64)
    if count < 1:
        raise ValueError(f"count: at least one replicate, got {count}")
    columns = np.stack([_whole(name, values, k.size) for name, values in (("n", n), ("c", c))])
    total = np.zeros((2, count + 1), dtype=np.int64)
    _check_size(np.abs(columns.astype(np.float64)).sum(axis=1).max(initial=0) * float(_WEIGHT[-1]))
    for start in range(0, k.size, _CHUNK):
        part = columns[:, start : start + _CHUNK]
        weights = replicate_weights(k[start : start + _CHUNK], count)
        total[:, 0] += part.sum(axis=1)
        total[:, 1:] += _product(part, weights)
    return Replicates(*total)


def ratio_interval(sums: Replicates, *, alpha: float = 0.05) -> BootstrapInterval:
    """Of Σc / Σn: (…, B + 1) → arrays (…). Source: percentile interval, Efron 1979."""
    return _interval(divide(sums.c, sums.n), alpha)


def difference_interval(
    arms: Replicates, *, control: int = 0, alpha: float = 0.05, relative: bool = False
) -> BootstrapInterval:
    """Of Σc / Σn against the control's: (…, k, B + 1) → (…, k); `relative` gives the lift (nan if the control's is 0).

    The units of two variants are different ones, so their weights are independent.
    """
    r = divide(arms.c, arms.n)
    base = r[..., control, None, :]
    return _interval(divide(r, base) - 1 if relative else r - base, alpha)


def _interval(values: Floats, alpha: float) -> BootstrapInterval:
    if not 0 < alpha < 1:
        raise ValueError(f"alpha: must lie in (0, 1), got {alpha}")
    drawn = values[..., 1:]
    low, high = np.quantile(drawn, [alpha / 2, 1 - alpha / 2], axis=-1)
    stderr = drawn.std(axis=-1, ddof=1) if drawn.shape[-1] > 1 else np.full(drawn.shape[:-1], np.nan)
    return BootstrapInterval(values[..., 0], stderr, low, high)


def _product(values: Integers, weights: NDArray[np.uint8]) -> Integers:
    """values (2, u) @ weights (u, B), exact. In doubles where no partial sum can reach 2⁵³: four times as fast."""
    if np.abs(values.astype(np.float64)).max(initial=0) * float(_WEIGHT[-1]) * values.shape[1] < 2**53:
        return np.rint(values.astype(np.float64) @ weights.astype(np.float64)).astype(np.int64)
    return values @ weights.astype(np.int64)


def _whole(name: str, values: ArrayLike, size: int) -> Integers:
    array = np.asarray(values)
    if array.shape != (size,):
        raise ValueError(f"{name}: one number for each of {size} units, got shape {array.shape}")
    if array.dtype.kind in "iub":
        # An unsigned number above 2⁶³ would wrap around; as a double it is caught.
        _check_size(np.abs(array.astype(np.float64)).max(initial=0))
        return array.astype(np.int64)
    if not (np.isfinite(array).all() and (array == np.rint(array)).all()):
        raise ValueError(f"{name}: whole numbers are needed (scale values, for example to thousandths)")
    _check_size(np.abs(array).max(initial=0))
    return array.astype(np.int64)


def _check_size(size: float) -> None:
    if size > _LARGEST:
        raise ValueError("n, c: sums beyond 2^62 do not fit; use a coarser scale")


def _poisson_table() -> NDArray[np.uint8]:
    """Sixteen random bits → a Poisson(1) draw, by inversion."""
    below = np.cumsum([math.exp(-1) / math.factorial(w) for w in range(16)])
    return np.searchsorted(below, (np.arange(65536) + 0.5) / 65536).astype(np.uint8)


_WEIGHT = _poisson_table()
