"""The decisions of one experiment over time, in compact columns of bounded length. Pure. Library: array.

At most `MAX_POINTS` points are kept: the first, the latest, every change of allocation or verdict, and of the rest
every n-th version, n doubling whenever the room is used up. Where changes alone would fill it, every other of them
goes, too. A point knows where its record stands in the topic, so the columns are also an index: what was left out lies
between two points and can be read from there.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from itertools import compress
from typing import Any, NamedTuple

from dashboard.records import VERDICTS, Recorded
from dashboard.views import ResultView, Series, VariantSeries

__all__ = ["MAX_POINTS", "SERIES_POINTS", "Place", "Timeline", "chosen"]

MAX_POINTS = 4096
"""About a megabyte for three variants"""
SERIES_POINTS = 600
"""Of one answer"""
MAX_NAMES = 64
"""Variants of an experiment over its whole life that get columns"""

_INTEGERS = ("version", "at_ms", "wall_ms", "offset", "allocation_version", "verdict", "change")
_NUMBERS = ("rate", "lower", "upper", "allocation", "p_best", "expected_loss", "impressions", "clicks")
_WHOLE = ("allocation", "impressions", "clicks")


class Place(NamedTuple):
    """Where a record stands in topic `decisions`, and when it was written."""

    partition: int
    offset: int
    wall_ms: int


class Timeline:
    """Versions only grow: a record whose version does not is another analyzer's and does not stand."""

    def __init__(self, max_points: int = MAX_POINTS) -> None:
        self._max = max_points
        self._stride = 1
        self._columns = {name: array("q") for name in _INTEGERS}
        self._variants: dict[str, dict[str, array[float]]] = {}
        self.decisions = 0
        """How many were offered and stand"""
        self.partition = 0
        """Of the topic; all records of one experiment have one key"""

    def __len__(self) -> int:
        return len(self._columns["version"])

    @property
    def first_version(self) -> int | None:
        return self._columns["version"][0] if len(self) else None

    @property
    def last_version(self) -> int | None:
        return self._columns["version"][-1] if len(self) else None

    def offer(self, recorded: Recorded, place: Place) -> bool:
        """Append a decision. False when it does not stand."""
        columns = self._columns
        before = self.last_version
        if before is not None and recorded.version <= before:
            return False
        verdict = VERDICTS.index(recorded.verdict)
        changed = before is None or (verdict, recorded.allocation_version) != (
            columns["verdict"][-1], columns["allocation_version"][-1],
        )  # fmt: skip
        self._drop_last_if_passed()
        row = (recorded.version, recorded.at_ms, place.wall_ms, place.offset, recorded.allocation_version, verdict)
        for column, value in zip(columns.values(), (*row, int(changed)), strict=True):
            column.append(value)
        self._append_variants(recorded)
        self.decisions += 1
        self.partition = place.partition
        if len(self) > self._max:
            self._thin()
        return True

    def bracket(self, first: int, last: int) -> tuple[int, int]:
        """Offsets (start, stop) between which all records of versions first…last lie, as far as there are such.

        Raises ValueError when there are no points.
        """
        if not len(self):
            raise ValueError("no decisions")
        versions, offsets = self._columns["version"], self._columns["offset"]
        start = offsets[max(0, bisect_right(versions, first) - 1)]
        return start, offsets[min(bisect_left(versions, last), len(versions) - 1)] + 1

    def series(
        self,
        *,
        after: int | None = None,
        until: int | None = None,
        true_rates: Mapping[str, float] | None = None,
        points: int = SERIES_POINTS,
    ) -> Series:
        """Columns of at most `points` decisions with after < version ≤ until. With true rates also the regret."""
        versions = self._columns["version"]
        start = 0 if after is None else bisect_right(versions, after)
        stop = len(versions) if until is None else bisect_right(versions, until)
        changes = self._columns["change"]
        rows = [start + row for row in chosen(versions[start:stop], [bool(c) for c in changes[start:stop]], points)]
        variants = {name: _variant(columns, rows) for name, columns in self._variants.items()}
        return Series(
            version=tuple(versions[row] for row in rows),
            at_ms=tuple(self._columns["at_ms"][row] for row in rows),
            wall_ms=tuple(self._columns["wall_ms"][row] for row in rows),
            verdict=tuple(VERDICTS[self._columns["verdict"][row]] for row in rows),
            allocation_version=tuple(self._columns["allocation_version"][row] for row in rows),
            variants=variants,
            regret=None if true_rates is None else _regret(variants, true_rates, len(rows)),
            decisions=self.decisions,
        )

    def rates(self, variant: str | None, points: int) -> tuple[float, ...]:
        """At most `points` (≥ 2) rates of a variant, the oldest first, evenly by version; unknown ones are left out."""
        versions = self._columns["version"]
        column = self._variants.get(variant or "", {}).get("rate")
        if column is None:
            return ()
        rows = _evenly(range(len(versions)), versions, points)
        return tuple(_six_digits(column[row]) for row in rows if math.isfinite(column[row]))

    def _drop_last_if_passed(self) -> None:
        """The latest point stays only as long as it is the latest, unless it counts otherwise."""
        columns = self._columns
        if len(self) > 1 and not columns["change"][-1] and columns["version"][-1] % self._stride:
            for column in columns.values():
                column.pop()
            for fields in self._variants.values():
                for numbers in fields.values():
                    numbers.pop()

    def _append_variants(self, recorded: Recorded) -> None:
        results = {result.variant: result for result in recorded.results}
        length = len(self)
        for name in recorded.variants:
            if name not in self._variants and len(self._variants) < MAX_NAMES:
                self._variants[name] = {field: array("d", [math.nan] * (length - 1)) for field in _NUMBERS}
        for name, columns in self._variants.items():
            totals = recorded.totals.get(name, (None, None))
            numbers = _numbers(results.get(name), recorded.allocation.get(name), *totals)
            for column, number in zip(columns.values(), numbers, strict=True):
                column.append(number)

    def _thin(self) -> None:
        """Leave at most half of the room used."""
        columns = self._columns
        versions, changes = columns["version"], columns["change"]
        last = len(versions) - 1
        while True:
            self._stride *= 2
            keep = [
                row in (0, last) or bool(changes[row]) or versions[row] % self._stride == 0 for row in range(last + 1)
            ]
            if sum(keep) <= self._max // 2:
                break
            if 2 * sum(bool(change) for change in changes) > self._max // 2:
                every = False
                for row in range(1, last):
                    if changes[row]:
                        every = not every
                        changes[row] = int(every)
        for name, column in columns.items():
            columns[name] = array("q", compress(column, keep))
        for fields in self._variants.values():
            for name, numbers in fields.items():
                fields[name] = array("d", compress(numbers, keep))


def chosen(versions: Sequence[int], changes: Sequence[bool], points: int) -> list[int]:
    """Rows to draw, ascending, at most `points` (≥ 2): first and last, all changes, else evenly by version.

    Where there are more changes than room, evenly many of those.
    """
    count = len(versions)
    if count <= points:
        return list(range(count))
    musts = sorted({0, count - 1, *compress(range(count), changes)})
    room = points - len(musts)
    if room < 0:
        return _evenly(musts, [versions[row] for row in musts], points)
    kept = set(musts)
    rest = [row for row in range(count) if row not in kept]
    return sorted(kept.union(_evenly(rest, [versions[row] for row in rest], room)))


def _evenly(rows: Sequence[int], versions: Sequence[int], points: int) -> list[int]:
    """At most `points` of the rows, near to evenly spaced versions, the first and the last among them."""
    if points < 2 or len(rows) <= points:
        return list(rows[:points])
    first, last = versions[0], versions[-1]
    wanted = (first + (last - first) * step / (points - 1) for step in range(points))
    return [rows[place] for place in sorted({bisect_left(versions, version) for version in wanted})]


def _numbers(
    result: ResultView | None, share: int | None, impressions: int | None, clicks: int | None
) -> tuple[float, ...]:
    """In the order of `_NUMBERS`; NaN for what is not known."""
    if result is None:
        return (*[math.nan] * 3, _float(share), *[math.nan] * 2, _float(impressions), _float(clicks))
    rate = result.rate if result.weighted_rate is None else result.weighted_rate
    lower, upper = result.sequence or (None, None)
    known = (rate, lower, upper, share, result.p_best, result.expected_loss, impressions, clicks)
    return tuple(map(_float, known))


def _float(number: float | None) -> float:
    try:
        return math.nan if number is None else float(number)
    except OverflowError:  # an integer that no counter reaches
        return math.nan


def _variant(columns: Mapping[str, Sequence[float]], rows: Sequence[int]) -> VariantSeries:
    # Six digits are more than a screen has pixels, and a third of the bytes.
    def taken(field: str) -> tuple[Any, ...]:
        kind = int if field in _WHOLE else _six_digits
        column = columns[field]
        return tuple(None if math.isnan(column[row]) else kind(column[row]) for row in rows)

    return VariantSeries(**{field: taken(field) for field in _NUMBERS})


def _six_digits(value: float) -> float:
    return float(f"{value:.6g}")


def _regret(
    variants: Mapping[str, VariantSeries], true_rates: Mapping[str, float], points: int
) -> tuple[float | None, ...]:
    """Σ impressions × (best true rate − own true rate); null where impressions or a true rate is not known."""
    best = max(true_rates.values(), default=0.0)
    lost: list[float | None] = []
    for row in range(points):
        sums = [
            None
            if columns.impressions[row] is None or name not in true_rates
            else (columns.impressions[row] or 0) * (best - true_rates[name])
            for name, columns in variants.items()
        ]
        known = [value for value in sums if value is not None]
        lost.append(_six_digits(sum(known)) if known and len(known) == len(sums) else None)
    return tuple(lost)
