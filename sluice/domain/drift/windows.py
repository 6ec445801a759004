"""Tumbling windows of event time, as whole numbers that add in any order. Library: numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, NamedTuple, Protocol, TypeVar

import numpy as np

from sluice.domain.drift.samples import Ints

__all__ = ["CellSums", "OpenWindows", "no_sums"]


class CellSums(NamedTuple):
    """Sums over the rows of each cell of users."""

    cells: Ints
    """(c,) ascending"""
    rows: Ints
    """(c,)"""
    sums: Ints
    """(c, measures)"""

    @classmethod
    def of(cls, cells: Ints, measures: Ints) -> CellSums:
        """cells (m,), measures (m, k): one row each."""
        return cls(*_by_cell(cells, np.ones(len(cells), dtype=np.int64), measures))

    def __add__(self, other: CellSums) -> CellSums:  # type: ignore[override]
        return CellSums(*_by_cell(*(np.concatenate(pair) for pair in zip(self, other, strict=True))))


def no_sums(measures: int) -> CellSums:
    """Of no rows"""
    return CellSums(*(np.zeros(shape, dtype=np.int64) for shape in (0, 0, (0, measures))))


def _by_cell(cells: Ints, rows: Ints, sums: Ints) -> tuple[Ints, Ints, Ints]:
    if not len(cells):
        return cells, rows, sums
    order = np.argsort(cells, kind="stable")
    found, first = np.unique(cells[order], return_index=True)
    return found, np.add.reduceat(rows[order], first), np.add.reduceat(sums[order], first, axis=0)


class _Adds(Protocol):
    def __add__(self: T, other: T, /) -> T: ...


T = TypeVar("T", bound=_Adds)


class OpenWindows(Generic[T]):
    """Sums of the windows that are not closed yet."""

    def __init__(self, window_ms: int) -> None:
        self.window_ms = window_ms
        self.closed_ms: int | None = None
        """Windows that end at or before are closed; null before the first"""
        self.late = 0
        """Rows that came after their window was closed"""
        self.open: dict[int, T] = {}
        """By begin, which is inclusive; the end is not"""

    def add(self, at_ms: Ints, sums: Callable[[Ints], T]) -> None:
        """at_ms (m,): of rows. sums: of the rows at these indices."""
        start = at_ms - at_ms % self.window_ms
        if self.closed_ms is not None:
            self.late += int((start < self.closed_ms).sum())
        for begin in np.unique(start).tolist():
            if self.closed_ms is None or begin >= self.closed_ms:
                self._put(begin, sums(np.flatnonzero(start == begin)))

    def merge(self, other: OpenWindows[T]) -> None:
        """What other partitions saw."""
        self.late += other.late
        for begin, sums in other.open.items():
            self._put(begin, sums)

    def close_until(self, at_ms: int) -> list[tuple[int, T]]:
        """(begin, sums) of the windows that end at or before `at_ms`, oldest first."""
        until = at_ms - at_ms % self.window_ms
        if self.closed_ms is None or until > self.closed_ms:
            self.closed_ms = until
        return [(begin, self.open.pop(begin)) for begin in sorted(self.open) if begin < until]

    def _put(self, begin: int, sums: T) -> None:
        self.open[begin] = self.open[begin] + sums if begin in self.open else sums
