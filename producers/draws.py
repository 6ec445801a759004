"""Random draws that depend on a seed and on what they are for, never on how many were made before.

A replay that is killed and resumed draws the same again. Library: numpy.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["hashed", "uniform"]

_GAMMA = 0x9E3779B97F4A7C15
_MASK = 2**64 - 1


def hashed(seed: int, purpose: int, index: NDArray[np.int64]) -> NDArray[np.uint64]:
    """64 well-mixed bits for each index. Source: the finalizer of SplitMix64 (Steele, Lea, Flood 2014), twice."""
    start = np.uint64((seed * _GAMMA + (purpose + 1) * 0xD1342543DE82EF95) & _MASK)
    return _mix(_mix(index.astype(np.uint64) * np.uint64(_GAMMA) + start))


def uniform(seed: int, purpose: int, index: NDArray[np.int64]) -> NDArray[np.float64]:
    """A draw from (0, 1) for each index: 53 bits, neither 0 nor 1."""
    return ((hashed(seed, purpose, index) >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def _mix(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
