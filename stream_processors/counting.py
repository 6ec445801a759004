"""Exact counting of one partition: running totals and the sums over them. Pure: no I/O, no clock.

During a batch only rows and stints (`stream_processors.rows`) collect increments; `settle` then moves each touched
total on once and takes its old squares out of its cell and the new ones in, so a batch costs by its distinct
units, not by its events.

Rows of slates live in memory only: they close with the attribution window and are rebuilt from the log.
Users, sessions and time buckets live in the store; they are loaded when touched and dropped when idle.

Library: msgspec.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from sys import getrefcount

import msgspec

from sluice.domain.definitions import DELAY_BINS, MAX_CELLS, MAX_PAIRS, OTHER
from sluice.domain.events import Assignment, MovedUnits, StatsCell
from sluice.errors import Fenced
from stream_processors.cohorts import Cohorts
from stream_processors.rows import (
    Cell,
    CellKey,
    Cohort,
    Pair,
    Row,
    Rows,
    Stint,
    Unit,
    added,
    move,
    numbers,
    parse_unit,
    several,
    stored_unit,
)

__all__ = ["Counting"]

_encode = msgspec.json.Encoder().encode
_NOTHING = (0,)
_COMMON_TOTALS = 10_000


class Counting:
    """The rows and cells of one partition."""

    def __init__(self, cells: Iterable[StatsCell], moved: Iterable[MovedUnits], outcome_names: Sequence[str]) -> None:
        self.cells: dict[CellKey, Cell] = {}
        self.pairs: set[Pair] = set()
        self.slates: dict[str, Row] = {}
        self.units: dict[str, Unit] = {}
        self.buckets: dict[tuple[str, str, int], Row] = {}
        self.touched: list[Row | Stint] = []
        self.changed: set[Cell] = set()
        self.moved: dict[Pair, list[int]] = {(m.experiment, m.variant): [m.units, m.impressions] for m in moved}
        """(experiment, variant) → units and impressions that it was shown to and that count elsewhere or nowhere"""
        self.changed_moved: set[Pair] = set()
        self.cohorts = Cohorts()
        self._touched_buckets: list[Row] = []
        # Slates are many and their totals few: equal ones share one tuple.
        self._common: dict[tuple[int, ...], tuple[int, ...]] = {}
        for stats in cells:
            cell = self._add((stats.experiment, stats.variant, stats.allocation))
            sums = stats.statistics
            cell.units, cell.impressions = sums.units, sums.impressions
            cell.impressions_squared = sums.impressions_squared
            cell.outcomes = [list(msgspec.structs.astuple(sums.outcome(name))) for name in outcome_names]

    def _add(self, key: CellKey) -> Cell:
        cell = self.cells[key] = Cell(key, key[:2], len(self.cells), _encode(key).decode())
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
        if emitting:
            # Stored even if nothing comes to count in it: which names were met, and in what order, must be known.
            cell = self._add(key)
            self.changed.add(cell)
            return cell
        # Every cell of an open impression is in the store already; another one met while rebuilding belongs
        # to a record from before the low-water, which is released unseen.
        return Cell(key, key[:2], -1, "", named=False)

    def rows(
        self,
        assignments: Sequence[Assignment],
        user: str,
        at_ms: int,
        start: int,
        cohort_start: int,
        emitting: bool,
        new_slates: list[str],
    ) -> Rows:
        """The rows that impressions under `assignments` count in, to be called in the order of the log.

        `start`: of their time bucket, `cohort_start`: of their cohort. Keys of new slates are appended to `new_slates`.
        """
        rows: list[Row | Stint] = []
        for made in assignments:
            place = (made.experiment, made.variant, made.allocation)
            cell = self.cells.get(place) or self._cell(place, emitting)
            bucket = cell.bucket if cell.bucket_start == start else self._bucket(cell, start)
            cohort = cell.cohort if cell.cohort_start == cohort_start else self._cohort(cell, cohort_start)
            if made.unit_kind == "slate":
                # The length keeps ("ab", "c") and ("a", "bc") apart.
                key = f"{cell.index}:{at_ms}:{len(user)}:{user}{made.unit}"
                row = self.slates.get(key)
                if row is None:
                    row = self.slates[key] = Row(key, cell, _NOTHING, bucket, cohort)
                    new_slates.append(key)
                rows.append(row)
            else:
                assert bucket is not None and cohort is not None
                key = _encode((made.experiment, user, made.unit)).decode()
                unit = self.units.get(key)
                if unit is None:
                    unit = self.units[key] = Unit(key)
                if unit.cell is None and emitting:
                    unit.cell = cell  # unless the store knows an earlier one
                rows.append(Stint(unit, cell, bucket, cohort))
        return rows[0] if len(rows) == 1 else tuple(rows)

    def _bucket(self, cell: Cell, start: int) -> Row:
        place = (*cell.key[:2], start)
        row = self.buckets.get(place)
        if row is None:
            row = self.buckets[place] = Row(_encode(place).decode(), None, None)
        cell.bucket_start, cell.bucket = start, row
        return row

    def _cohort(self, cell: Cell, start: int) -> Cohort:
        cell.cohort_start, cell.cohort = start, self.cohorts.of(cell.pair, start)
        return cell.cohort

    def add_impressions(self, rows: Rows, count: int) -> None:
        for row in (rows,) if type(rows) is Row else several(rows):
            delta = row.delta
            if delta is None:
                row.delta = [count]
                self.touched.append(row)
            else:
                delta[0] += count

    def add_outcome(self, rows: Rows, index: int, delay_bin: int) -> None:
        """Count an outcome without a value."""
        if type(rows) is tuple:
            for row in rows:
                self.add_outcome(row, index, delay_bin)
            return
        one: Row | Stint = rows  # type: ignore[assignment]
        place, key = 2 * index + 1, DELAY_BINS * index + delay_bin
        delta = one.delta
        if delta is None:
            delta = one.delta = [0] * (place + 2)
            self.touched.append(one)
        elif len(delta) <= place:
            delta += (0,) * (place + 2 - len(delta))
        delta[place] += 1
        if type(one) is Row:
            one.cohort.delays[key] += 1  # type: ignore[union-attr]
        elif type(one) is Stint:
            if one.delays is None:
                one.delays = [key]
            else:
                one.delays.append(key)

    def add_value(self, rows: Rows, index: int, value: int) -> None:
        """Count an outcome with a value, in thousandths."""
        place = 2 * index + 1
        for row in (rows,) if type(rows) is Row else several(rows):
            delta = row.delta
            if delta is None:
                delta = row.delta = [0] * (place + 2)
                self.touched.append(row)
            elif len(delta) <= place:
                delta += (0,) * (place + 2 - len(delta))
            delta[place] += 1
            delta[place + 1] += value

    def to_load(self) -> tuple[list[Unit], list[Row]]:
        """Touched (units, buckets) whose totals the store must give, through `load`, before `settle`."""
        units: dict[Unit, None] = {}
        buckets: dict[Row, None] = {}
        for row in self.touched:
            bucket = row.bucket
            if bucket is not None and bucket.total is None:
                buckets[bucket] = None
            if type(row) is Stint and row.unit.total is None:
                units[row.unit] = None
        return list(units), list(buckets)

    def load(self, units: Sequence[Unit], buckets: Sequence[Row], texts: Sequence[str | None]) -> None:
        """What the store holds of the rows that `to_load` named: of the units, then of the buckets.

        While rebuilding: of units only, and only of those that it has.

        Raises Fenced when a unit is missing that was counted: somebody else has changed the store.
        """
        for unit, text in zip(units, texts, strict=False):
            if text is not None:
                key, unit.moved, unit.total = parse_unit(text)
                unit.cell = self.cells.get(key)
            elif unit.cell is not None:
                unit.total = _NOTHING
            if unit.cell is None:
                raise Fenced(f"the store does not agree with the counts about unit {unit.key}: {text}")
        for bucket, text in zip(buckets, texts[len(units) :], strict=True):
            bucket.total = tuple(map(int, text.split(","))) if text else _NOTHING

    def settle(self, emitting: bool) -> tuple[dict[str, str], dict[str, str]]:
        """Apply the batch, after `to_load` and `load`. Returns what the store must hold: units, buckets (field → text).

        Not emitting (while rebuilding), the store and the cells hold these increments already: only the rows of
        slates and the cohorts move.
        """
        stints = self._settle_slates(emitting)
        units = self._settle_stints(stints, emitting)
        buckets: dict[str, str] = {}
        for row in self._touched_buckets:
            delta, row.delta = row.delta, None
            if emitting:
                assert delta is not None and row.total is not None, "to_load() names the rows to load first"
                row.total = tuple(added(row.total, delta))
                buckets[row.key] = numbers(row.total)
        self._touched_buckets.clear()
        return units, buckets

    def _settle_slates(self, emitting: bool) -> list[Stint]:
        """Move the touched slates on. Returns the touched stints."""
        changed, common, touched_buckets = self.changed, self._common, self._touched_buckets
        stints: list[Stint] = []
        for row in self.touched:
            if type(row) is not Row:
                assert type(row) is Stint
                stints.append(row)
                continue
            delta, old, cell, bucket, cohort = row.delta, row.total, row.cell, row.bucket, row.cohort
            row.delta = None
            assert delta is not None and old is not None and bucket is not None and cohort is not None
            cohort.impressions += delta[0]
            total = bucket.delta
            if total is None:
                bucket.delta = delta.copy()
                touched_buckets.append(bucket)
            elif len(total) == 1 == len(delta):
                total[0] += delta[0]
            else:
                bucket.delta = added(total, delta)
            # A slate that is new in this batch is the common case, and nothing needs to be added.
            new = tuple(delta) if old is _NOTHING else tuple(added(old, delta))
            row.total = new = common.get(new, new)
            if len(common) < _COMMON_TOTALS:
                common[new] = new
            if emitting:
                assert cell is not None
                move(cell, old, new)
                changed.add(cell)
        self.touched.clear()
        return stints

    def _settle_stints(self, stints: Sequence[Stint], emitting: bool) -> dict[str, str]:
        touched: dict[Unit, None] = {}
        for stint in stints:
            unit, cell, delta, bucket = stint.unit, stint.cell, stint.delta, stint.bucket
            delays, stint.delta, stint.delays = stint.delays, None, None
            first = unit.cell
            if first is None and not emitting:
                continue  # of a record from before the low-water: the store has never heard of its unit
            assert delta is not None and first is not None and unit.total is not None, "to_load() names what to load"
            is_evidence = cell is first or cell.pair == first.pair
            if is_evidence:
                cohort = stint.cohort
                cohort.impressions += delta[0]
                for key in delays or ():
                    cohort.delays[key] += 1
            if not emitting:
                continue
            touched[unit] = None
            if is_evidence:
                unit.delta = delta if unit.delta is None else added(unit.delta, delta)
                if bucket.delta is None:
                    bucket.delta = delta.copy()
                    self._touched_buckets.append(bucket)
                else:
                    bucket.delta = added(bucket.delta, delta)
            elif delta[0]:
                self._move(unit, cell.pair, delta[0])
        texts = {}
        for unit in touched:
            if unit.delta is not None:
                assert unit.cell is not None and unit.total is not None
                new = tuple(added(unit.total, unit.delta))
                move(unit.cell, unit.total, new)
                self.changed.add(unit.cell)
                unit.total, unit.delta = new, None
            texts[unit.key] = stored_unit(unit)
        return texts

    def _move(self, unit: Unit, pair: Pair, impressions: int) -> None:
        """`unit` was shown `impressions` of a variant that is not its first: they are no evidence."""
        sums = self.moved.setdefault(pair, [0, 0])
        if pair not in unit.moved:
            unit.moved += (pair,)
            sums[0] += 1
        sums[1] += impressions
        self.changed_moved.add(pair)

    def forget_idle(self, keep: int = 100_000) -> None:
        """Drop what the store holds and no open impression needs, once there is more than `keep` of it.

        A held one must stay: one loaded anew beside it would know nothing of its increments.
        """
        # Two references are this loop's and the call's, one is the dictionary's.
        if len(self.units) > keep:
            for name in [name for name, unit in self.units.items() if getrefcount(unit) <= 3]:
                del self.units[name]
        if len(self.buckets) > keep:
            for place in [place for place, row in self.buckets.items() if getrefcount(row) <= 3]:
                del self.buckets[place]
