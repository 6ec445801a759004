"""A monitor that first learns what is normal from what its version itself shows. Pure. Library: numpy.

For a version whose training says nothing of what it will choose (it was trained on what others had chosen), and for a
part of the traffic that differs from the whole by design. Until the closed part of the log holds enough users nothing
is said; what was shown by then makes the reference, and what is shown from then on is compared with it. When that is
depends on the rows alone, so neither their order nor how they come in batches matters.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from msgspec.structs import replace

from sluice.domain.drift.make import LEAST_USERS, make_reference
from sluice.domain.drift.monitor import DriftOptions, Monitor
from sluice.domain.drift.reference import Reference
from sluice.domain.drift.report import DriftReport, SettlingSeen
from sluice.domain.drift.samples import CELLS, Bools, Ints, Outcomes, Rows, cells_of

__all__ = ["MAX_ROWS", "SettlingMonitor", "monitor_of"]

MAX_ROWS = 100_000
"""Of a reference, about 50 MB with 45 features. So many rows of too few users are forgotten, and it begins anew"""
_NEVER = np.iinfo(np.int64).max

T = TypeVar("T", Rows, Outcomes)


class SettlingMonitor:
    """Used like `Monitor`. `reference` is that of the training: columns, and how important each is."""

    def __init__(self, reference: Reference, model: str, version: str, options: DriftOptions | None = None) -> None:
        self._first = Monitor(reference, model, version, options)
        self._monitor: Monitor | None = None
        self._rows: list[Rows] = []
        self._outcomes: list[Outcomes] = []
        self._cells: list[Ints] = []
        """Users of the outcomes"""
        self._from_ms = 0
        """What was shown before is forgotten, or part of the reference"""
        self._settled_ms: int | None = None
        self._known_ms = 0

    def take(self, rows: Rows) -> None:
        """As of `Monitor`."""
        self._first.check_columns(rows)
        rows = _some(rows, rows.at_ms >= self._from_ms)
        if self._monitor is not None:
            self._monitor.take(rows)
        else:
            self._rows.append(rows)

    def take_outcomes(self, outcomes: Outcomes) -> None:
        """As of `Monitor`."""
        self._first.check_columns(outcomes)
        outcomes = _some(outcomes, outcomes.at_ms >= self._from_ms)
        if self._monitor is not None:
            self._monitor.take_outcomes(outcomes)
        else:
            self._outcomes.append(outcomes)
            self._cells.append(cells_of(outcomes.user))

    def close_until(self, at_ms: int, outcomes_ms: int | None = None) -> DriftReport:
        """As of `Monitor`."""
        known_ms = at_ms if outcomes_ms is None else outcomes_ms
        self._known_ms = max(known_ms, self._known_ms)
        while self._monitor is None and (end_ms := self._end(self._known_ms)) is not None:
            if self._users_before(end_ms) >= LEAST_USERS:
                self._settle(end_ms)
            else:
                self._forget(end_ms)
        if self._monitor is not None:
            self._monitor.close_until(at_ms, outcomes_ms)
        return self.report()

    def report(self) -> DriftReport:
        """As of `Monitor`; while it settles it says how far that is, and of drift nothing."""
        if self._monitor is not None:
            return replace(self._monitor.report(), settled_ms=self._settled_ms)
        at_ms = self._outcomes_at()
        seen = SettlingSeen(
            users=self._users_before(self._known_ms), needed=self._first.options.settle_users,
            rows=int((at_ms < self._known_ms).sum()), since_ms=int(at_ms.min(initial=self._known_ms)),
        )  # fmt: skip
        return replace(self._first.report(), settling=seen)

    def _end(self, known_ms: int) -> int | None:
        """Where the reference ends; None while outcomes before that may be missing.

        That is the end of the first window in which there are enough users, or before the row that is one too many.
        """
        at_ms, window_ms = self._outcomes_at(), self._first.options.window_ms
        first_ms = self._first_seen()
        ends = []
        if len(first_ms) >= (needed := self._first.options.settle_users):
            enough_ms = int(first_ms[needed - 1])
            ends.append(enough_ms - enough_ms % window_ms + window_ms)
        if len(at_ms) > MAX_ROWS:
            ends.append(max(int(np.partition(at_ms, MAX_ROWS)[MAX_ROWS]), int(at_ms.min()) + 1))
        end_ms = min(ends, default=None)
        return end_ms if end_ms is not None and end_ms <= known_ms else None

    def _settle(self, end_ms: int) -> None:
        first = self._first
        rows, outcomes = _joined(self._rows), _joined(self._outcomes)
        reference = make_reference(
            first.reference.columns, _in_order(_some(rows, rows.at_ms < end_ms)),
            _in_order(_some(outcomes, outcomes.at_ms < end_ms)),
            {one.name: one.importance for one in first.reference.features},
        )  # fmt: skip
        self._monitor = Monitor(reference, first.model, first.version, first.options)
        self._settled_ms = end_ms
        # A window is watched whole or not at all.
        self._from_ms = -(-end_ms // first.options.window_ms) * first.options.window_ms
        self._rows, self._outcomes, self._cells = [], [], []
        self.take(rows)
        self.take_outcomes(outcomes)

    def _forget(self, end_ms: int) -> None:
        self._from_ms = end_ms
        rows, outcomes = self._rows, self._outcomes
        self._rows, self._outcomes, self._cells = [], [], []
        for one in rows:
            self.take(one)
        for other in outcomes:
            self.take_outcomes(other)

    def _outcomes_at(self) -> Ints:
        return np.concatenate([np.zeros(0, dtype=np.int64), *(one.at_ms for one in self._outcomes)])

    def _first_seen(self) -> Ints:
        """When each user was shown something first, ascending."""
        first_ms = np.full(CELLS, _NEVER)
        for cells, outcomes in zip(self._cells, self._outcomes, strict=True):
            np.minimum.at(first_ms, cells, outcomes.at_ms)
        return np.sort(first_ms[first_ms < _NEVER])

    def _users_before(self, end_ms: int) -> int:
        return int(np.searchsorted(self._first_seen(), end_ms))


def monitor_of(
    reference: Reference, model: str, version: str, options: DriftOptions | None = None, *, of_part: bool = False
) -> Monitor | SettlingMonitor:
    """The one that fits a version with this reference. of_part: of traffic that differs from the whole by design."""
    settles = of_part or reference.shown_by == "others"
    return (SettlingMonitor if settles else Monitor)(reference, model, version, options)


def _some(table: T, chosen: Bools) -> T:
    places = np.flatnonzero(chosen)
    return _at(table, places) if len(places) < len(chosen) else table


def _joined(tables: list[T]) -> T:
    columns: list[Any] = [[user for table in tables for user in table.user]]
    columns += [np.concatenate(parts) for parts in zip(*(table[1:] for table in tables), strict=True)]
    return type(tables[0])(*columns)


def _in_order(table: T) -> T:
    """By time and user; what follows only makes the order of rows a function of the rows."""
    rest: list[Any] = [np.asarray(column) for column in table[3:]]
    return _at(table, np.lexsort((*table.features.T, *rest, np.array(table.user, dtype=str), table.at_ms)))


def _at(table: T, places: Ints) -> T:
    columns: list[Any] = [[table.user[place] for place in places.tolist()]]
    columns += [np.asarray(column)[places] for column in table[1:]]
    return type(table)(*columns)
