"""Exact counting of one partition: running totals and the sums over them. Pure: no I/O, no clock.

A *row* is a running total that cannot be computed from sums: a unit of randomisation within a cell, or a
time bucket of a variant. A *cell* holds the sums over its units. During a batch only rows collect
increments; `settle` then moves each touched row on once and takes its old squares out of its cell and the
new ones in, so a batch costs by its distinct units, not by its events.

Rows of slates live in memory only: they close with the attribution window and are rebuilt from the log.
Rows of users, sessions and buckets live in the store; they are loaded when touched and dropped when idle.

Library: msgspec (small structs without garbage-collector headers).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import add
from sys import getrefcount
from typing import TypeAlias

import msgspec
from msgspec import Struct

from sluice.domain.definitions import MAX_CELLS, MAX_PAIRS, OTHER
from sluice.domain.events import Assignment, StatsCell

__all__ = ["Cell", "Counting", "Row", "Rows"]

_encode = msgspec.json.Encoder().encode
_NOTHING = (0,)
_COMMON_TOTALS = 10_000
CellKey = tuple[str, str, str]


class Cell(Struct, gc=False, eq=False):
    """Sums over the units of one (experiment, variant, allocation)."""

    key: CellKey
    index: int
    named: bool = True
    """False for a stand-in met while rebuilding: nothing of it is ever published."""
    units: int = 0
    impressions: int = 0
    impressions_squared: int = 0
    outcomes: list[list[int]] = msgspec.field(default_factory=list)
    """Outcome index → [Σc, Σc², Σnc, Σv, Σv², Σnv]"""
    bucket_start: int = -1
    bucket: Row | None = None
    """The time bucket that was last used, to find it without a look-up"""


class Row(Struct, gc=False, eq=False):
    """A running total (n, c₀, v₀, c₁, v₁, …) and what the current batch adds to it."""

    key: str
    cell: Cell | None
    total: tuple[int, ...] | None
    """None until loaded from the store"""
    bucket: Row | None = None
    """Where a slate's increments also belong: all of them fall into one time bucket. Rows of the store have none"""
    delta: list[int] | None = None


Rows: TypeAlias = Row | tuple[Row, ...]
"""One row alone needs no tuple around it: open impressions are many"""


class Counting:
    """The rows and cells of one partition."""

    def __init__(self, cells: Iterable[StatsCell], outcome_names: Sequence[str]) -> None:
        self.cells: dict[CellKey, Cell] = {}
        self.pairs: set[tuple[str, str]] = set()
        self.slates: dict[str, Row] = {}
        self.units: dict[str, Row] = {}
        self.buckets: dict[tuple[str, str, int], Row] = {}
        self.touched: list[Row] = []
        self.changed: set[Cell] = set()
        # Slates are many and their totals few: equal ones share one tuple.
        self._common: dict[tuple[int, ...], tuple[int, ...]] = {}
        for stats in cells:
            cell = self._add((stats.experiment, stats.variant, stats.allocation))
            sums = stats.statistics
            cell.units, cell.impressions = sums.units, sums.impressions
            cell.impressions_squared = sums.impressions_squared
            cell.outcomes = [list(msgspec.structs.astuple(sums.outcome(name))) for name in outcome_names]

    def _add(self, key: CellKey) -> Cell:
        cell = self.cells[key] = Cell(key, len(self.cells))
        self.pairs.add(key[:2])
        return cell

    def _cell(self, key: CellKey, emitting: bool) -> Cell:
        """The cell of a `key` that is not named yet: a new one, or the one it overflows into."""
        pair = key[:2]
        if pair not in self.pairs and len(self.pairs) >= MAX_PAIRS:
            key = (OTHER, OTHER, OTHER)
        elif len(self.cells) >= MAX_CELLS:
            key = (*pair, OTHER)
        found = self.cells.get(key)
        if found is not None:
            return found
        # Every cell of an open impression is in the store already; another one met while rebuilding belongs
        # to a record from before the low-water, which is released unseen.
        return self._add(key) if emitting else Cell(key, -1, named=False)

    def rows(
        self,
        assignments: Sequence[Assignment],
        user: str,
        at_ms: int,
        start: int,
        emitting: bool,
        new_slates: list[str],
    ) -> Rows:
        """The rows that an impression under `assignments` counts in.

        `start`: of its time bucket. Keys of slates that are new are appended to `new_slates`.
        """
        rows = []
        for made in assignments:
            place = (made.experiment, made.variant, made.allocation)
            cell = self.cells.get(place) or self._cell(place, emitting)
            bucket = cell.bucket if cell.bucket_start == start else self._bucket(cell, start)
            if made.unit_kind == "slate":
                # The length keeps ("ab", "c") and ("a", "bc") apart.
                key = f"{cell.index}:{at_ms}:{len(user)}:{user}{made.unit}"
                row = self.slates.get(key)
                if row is None:
                    row = self.slates[key] = Row(key, cell, _NOTHING, bucket)
                    new_slates.append(key)
                rows.append(row)
            else:
                assert bucket is not None
                key = _encode((*cell.key, user, made.unit)).decode()
                row = self.units.get(key)
                if row is None:
                    row = self.units[key] = Row(key, cell, None)
                rows += (row, bucket)
        return rows[0] if len(rows) == 1 else tuple(rows)

    def _bucket(self, cell: Cell, start: int) -> Row:
        place = (*cell.key[:2], start)
        row = self.buckets.get(place)
        if row is None:
            row = self.buckets[place] = Row(_encode(place).decode(), None, None)
        cell.bucket_start, cell.bucket = start, row
        return row

    def add_impressions(self, rows: Rows, count: int) -> None:
        for row in (rows,) if isinstance(rows, Row) else rows:
            delta = row.delta
            if delta is None:
                row.delta = [count]
                self.touched.append(row)
            else:
                delta[0] += count

    def add_outcome(self, rows: Rows, index: int, value: int) -> None:
        place = 2 * index + 1
        for row in (rows,) if isinstance(rows, Row) else rows:
            delta = row.delta
            if delta is None:
                delta = row.delta = [0] * (place + 2)
                self.touched.append(row)
            elif len(delta) <= place:
                delta += (0,) * (place + 2 - len(delta))
            delta[place] += 1
            if value:
                delta[place + 1] += value

    def to_load(self) -> tuple[list[Row], list[Row]]:
        """Touched (units, buckets) whose totals the store must give before `settle`."""
        touched = self.touched
        for row in touched:  # grows while it is walked: buckets are appended
            bucket = row.bucket
            if bucket is not None:
                more = row.delta
                assert more is not None
                delta = bucket.delta
                if delta is None:
                    bucket.delta = more.copy()
                    touched.append(bucket)
                elif len(delta) == 1 == len(more):
                    delta[0] += more[0]
                else:
                    bucket.delta = _added(delta, more)
        missing = [row for row in touched if row.total is None]
        return [row for row in missing if row.cell is not None], [row for row in missing if row.cell is None]

    def settle(self, emitting: bool) -> tuple[dict[str, str], dict[str, str]]:
        """Apply the batch, after `to_load`. Returns the new totals of stored rows: units, buckets (field → text).

        Not emitting (while rebuilding), the store's rows and the cells hold these increments already: only
        the rows of slates move.
        """
        units: dict[str, str] = {}
        buckets: dict[str, str] = {}
        changed, common = self.changed, self._common
        for row in self.touched:
            delta, old, cell = row.delta, row.total, row.cell
            row.delta = None
            assert delta is not None
            if row.bucket is None:
                if not emitting:
                    continue
                assert old is not None, "to_load() names the rows to load first"
                row.total = new = tuple(_added(old, delta))
                if cell is None:
                    buckets[row.key] = ",".join(map(str, new))
                    continue
                units[row.key] = ",".join(map(str, new))
            else:
                assert old is not None
                # A slate that is new in this batch is the common case, and nothing needs to be added.
                new = tuple(delta) if old is _NOTHING else tuple(_added(old, delta))
                row.total = new = common.get(new, new)
                if len(common) < _COMMON_TOTALS:
                    common[new] = new
            if emitting:
                assert cell is not None
                _move(cell, old, new)
                changed.add(cell)
        self.touched.clear()
        return units, buckets

    def forget_idle(self, keep: int = 100_000) -> None:
        """Drop stored rows that no open impression holds, once there are more than `keep`.

        A held row must stay: one loaded anew beside it would know nothing of its increments.
        """
        # Two references are this loop's and the call's, one is the dictionary's.
        if len(self.units) > keep:
            for name in [name for name, row in self.units.items() if getrefcount(row) <= 3]:
                del self.units[name]
        if len(self.buckets) > keep:
            for place in [place for place, row in self.buckets.items() if getrefcount(row) <= 3]:
                del self.buckets[place]


def _added(old: Sequence[int], delta: Sequence[int]) -> list[int]:
    """Element by element; the shorter one counts as zeros beyond its end."""
    if len(old) < len(delta):
        old, delta = delta, old
    new = list(map(add, old, delta))
    new += old[len(delta) :]
    return new


def _move(cell: Cell, old: tuple[int, ...], new: tuple[int, ...]) -> None:
    """Take a unit's old total out of the sums of its cell and put the new one in."""
    n0, n1 = old[0], new[0]
    if n1 != n0:
        if not n0:
            cell.units += 1
        cell.impressions += n1 - n0
        cell.impressions_squared += n1 * n1 - n0 * n0
    known = len(old)
    for place in range(1, len(new), 2):
        c1 = new[place]
        if not c1:
            continue
        v1 = new[place + 1]
        if place < known:
            c0, v0 = old[place], old[place + 1]
        else:
            c0 = v0 = 0
        index = place >> 1
        while len(cell.outcomes) <= index:
            cell.outcomes.append([0, 0, 0, 0, 0, 0])
        sums = cell.outcomes[index]
        if c1 != c0:
            sums[0] += c1 - c0
            sums[1] += c1 * c1 - c0 * c0
        sums[2] += n1 * c1 - n0 * c0
        if v1 or v0:
            sums[3] += v1 - v0
            sums[4] += v1 * v1 - v0 * v0
            sums[5] += n1 * v1 - n0 * v0
