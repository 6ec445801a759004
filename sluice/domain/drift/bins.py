"""Values become bins of the reference, and ranks among the values of the same age. Library: numpy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sluice.domain.drift.reference import FeatureReference
from sluice.domain.drift.samples import Ints

__all__ = ["FEW", "RANK_UNIT", "STRANGE", "Bins", "edges_of", "mid_ranks"]

FEW = 12
"""With at most so many values each has a bin of its own."""
_BINS = 20
RANK_UNIT = 1000
"""Ranks are whole thousandths, so that sums do not depend on their order."""
STRANGE = -1


def edges_of(column: NDArray[np.float32]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Edges of at most 20 bins with about equally many of the finite values, and the values where they are few."""
    known = column[np.isfinite(column)]
    values = np.unique(known)
    if len(values) <= FEW:
        return tuple(values[1:].tolist()), tuple(values.tolist())
    cuts = np.unique(np.quantile(known, np.linspace(0, 1, _BINS + 1)[1:-1], method="higher"))
    return tuple(cuts[cuts > values[0]].tolist()), ()


def mid_ranks(counts: Ints) -> Ints:
    """(ages, bins) → mean rank − ½ of a bin's values among those of its age, in thousandths; 0 for an empty age."""
    total = counts.sum(axis=1, keepdims=True)
    below = np.cumsum(counts, axis=1) - counts
    ranks = (below + counts / 2) / np.maximum(total, 1) - 0.5
    return np.asarray(np.rint(RANK_UNIT * ranks * (total > 0)), dtype=np.int64)


class Bins:
    """Bins of some features of a reference."""

    def __init__(self, features: Sequence[FeatureReference]) -> None:
        self._edges = [np.array(one.edges, dtype=np.float32) for one in features]
        self._values = [np.array(one.values, dtype=np.float32) for one in features]
        self.width = max((len(one.edges) + 1 for one in features), default=1)
        self.ages = len(features[0].counts) if features else 1
        self.reference = np.zeros((len(features), self.ages, self.width), dtype=np.int64)
        self.ranks = np.zeros_like(self.reference)
        for place, one in enumerate(features):
            counts = np.array(one.counts, dtype=np.int64)
            self.reference[place, :, : counts.shape[1]] = counts
            self.ranks[place, :, : counts.shape[1]] = mid_ranks(counts)

    def __len__(self) -> int:
        return len(self._edges)

    def codes(self, table: NDArray[np.floating]) -> Ints:
        """(m, k) values → (m, k) bins; STRANGE where a value is missing, or none of the few there were."""
        columns = table.astype(np.float32)
        codes = np.empty(columns.shape, dtype=np.int64)
        for place, (edges, values) in enumerate(zip(self._edges, self._values, strict=True)):
            column = columns[:, place]
            found = np.searchsorted(edges, column, side="right")
            strange = ~np.isfinite(column)
            if len(values):
                strange |= values[np.minimum(found, len(values) - 1)] != column
            codes[:, place] = np.where(strange, STRANGE, found)
        return codes

    def ranks_of(self, codes: Ints, ages: Ints) -> Ints:
        """(m, k) bins, (m,) ages → (m, k) ranks in thousandths, 0 where strange."""
        found = self.ranks[np.arange(len(self)), ages[:, None], np.maximum(codes, 0)]
        return np.asarray(np.where(codes == STRANGE, 0, found))

    def counts(self, codes: Ints, ages: Ints) -> Ints:
        """(k, ages, width) rows by bin; strange ones are left out."""
        k = len(self)
        flat = (np.arange(k) * self.ages + ages[:, None]) * self.width + codes
        size = k * self.ages * self.width
        return np.bincount(flat[codes != STRANGE], minlength=size).reshape(k, self.ages, self.width)
