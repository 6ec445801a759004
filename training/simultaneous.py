"""Figures with intervals that hold all together. Libraries: numpy, scipy.

Users are the units. Every figure comes with its influence function, user by user; variances are sums of squares of
these, and the correlations between figures give the critical value of the largest of them (single-step max-t).
Sources: Hothorn, Bretz, Westfall 2008 (max-t); DeLong, DeLong, Clarke-Pearson 1988 and Obuchowski 1997 (placements).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr
from scipy.stats import rankdata, t

from sluice.features.definition import Floats, Ints

__all__ = ["Estimated", "Interval", "area", "ratio", "simultaneous"]

_DRAWS = 20_000
SHOWN = 0.0005
"""Smaller figures are shown as 0.000"""


class Interval(NamedTuple):
    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """By more than is shown: on tiny data an interval can be as narrow as rounding errors."""
        return (self.low > 0 or self.high < 0) and max(abs(self.low), abs(self.high)) >= SHOWN


@dataclass(frozen=True, eq=False)
class Estimated:
    """A figure and what each user contributes to its error."""

    value: float
    influence: Floats
    """(u,) sums to 0"""
    users: int
    """Who have a part in it"""

    def __sub__(self, other: Estimated) -> Estimated:
        return Estimated(
            self.value - other.value, self.influence - other.influence, min(self.users, other.users)
        )  # fmt: skip


def ratio(top: Floats, bottom: Floats, user: Ints, users: int) -> Estimated:
    """Σ top / Σ bottom over rows. top, bottom, user: (m,); codes of users lie in 0 … users − 1.

    Raises ValueError when Σ bottom is 0.
    """
    above, below = np.bincount(user, top, users), np.bincount(user, bottom, users)
    total = float(below.sum())
    if total == 0:
        raise ValueError("bottom: sums to 0")
    value = float(above.sum()) / total
    return Estimated(value, (above - value * below) / total, int((below > 0).sum()))


def area(liked: NDArray[np.bool_], score: Floats, user: Ints, users: int) -> Estimated:
    """AUC of m rows. Raises ValueError when a class is missing."""
    positives, negatives = int(liked.sum()), int((~liked).sum())
    if min(positives, negatives) == 0:
        raise ValueError("liked: one class only")
    ranks = rankdata(score)
    above = (ranks[liked] - rankdata(score[liked])) / negatives
    below = 1 - (ranks[~liked] - rankdata(score[~liked])) / positives
    value = float(above.mean())
    influence = (
        np.bincount(user[liked], above - value, users) / positives
        + np.bincount(user[~liked], below - value, users) / negatives
    )
    return Estimated(value, influence, len(np.unique(user)))


def simultaneous(estimates: Sequence[Estimated], *, seed: int = 0, level: float = 0.95) -> list[Interval]:
    """Intervals that hold all together with probability `level`, whatever the correlations.

    The critical value of the normal maximum is taken over to Student's t with one degree of freedom less than users,
    because a sum over few users is not normal.
    """
    if not estimates:
        return []
    influence = np.stack([one.influence for one in estimates])
    users = np.array([max(one.users, 2) for one in estimates])
    error = np.sqrt((influence**2).sum(axis=1) * users / (users - 1))
    # A figure without error, such as a difference of equal rankings, takes no part.
    scaled = influence / np.maximum(np.linalg.norm(influence, axis=1, keepdims=True), 1e-300)
    draws = np.random.default_rng(seed).multivariate_normal(
        np.zeros(len(scaled)), scaled @ scaled.T, size=_DRAWS, method="eigh", check_valid="ignore"
    )
    largest = float(np.quantile(np.abs(draws).max(axis=1), level))
    width = t.isf(ndtr(-largest), users - 1) * error
    return [
        Interval(one.value, one.value - float(half), one.value + float(half))
        for one, half in zip(estimates, width, strict=True)
    ]
