"""Many p-values at once: adjusted so that they may be read as if there were one. Vectorised over the leading axes.

Library: numpy.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from analyzer.engine.moments import Floats

__all__ = ["benjamini_hochberg", "holm"]


def holm(p: ArrayLike) -> Floats:
    """Adjusted p-values (…, m) of the m tests of the last axis; nan is no test and stays nan.

    Those ≤ α are wrong together with probability at most α, however the tests depend. Raises ValueError when a
    p-value is outside [0, 1]. Source: Holm 1979.
    """
    ordered, back, tests = _ordered(p)
    rank = np.arange(ordered.shape[-1])
    return _restore(np.maximum.accumulate(ordered * np.maximum(tests - rank, 1), axis=-1), back)


def benjamini_hochberg(p: ArrayLike) -> Floats:
    """Adjusted p-values (…, m): of those ≤ q, an expected share of at most q is wrong. nan is no test and stays nan.

    Holds for independent or positively dependent tests. Raises ValueError as `holm` does.
    Source: Benjamini, Hochberg 1995.
    """
    ordered, back, tests = _ordered(p)
    # The factor first: the largest has exactly 1, and no value falls below itself by rounding.
    scaled = ordered * (tests / (np.arange(ordered.shape[-1]) + 1))
    # nan stands last; as infinity it takes part in no minimum.
    scaled = np.where(np.isnan(ordered), np.inf, scaled)
    least = np.minimum.accumulate(scaled[..., ::-1], axis=-1)[..., ::-1]
    return _restore(np.where(np.isnan(ordered), np.nan, least), back)


def _ordered(p: ArrayLike) -> tuple[Floats, np.ndarray[tuple[int, ...], np.dtype[np.intp]], Floats]:
    """Sorted values with nan last, the places to go back to, and the number of tests (…, 1)."""
    values = np.asarray(p, dtype=np.float64)
    if values.ndim == 0:
        raise ValueError("p: needs an axis of tests, got one number")
    if ((values < 0) | (values > 1)).any():
        raise ValueError(f"p: must lie in [0, 1], got {values.tolist()}")
    order = np.argsort(values, axis=-1)
    tests = (~np.isnan(values)).sum(axis=-1, keepdims=True).astype(np.float64)
    return np.take_along_axis(values, order, axis=-1), np.argsort(order, axis=-1), tests


def _restore(adjusted: Floats, back: np.ndarray[tuple[int, ...], np.dtype[np.intp]]) -> Floats:
    return np.take_along_axis(np.minimum(adjusted, 1.0), back, axis=-1)
