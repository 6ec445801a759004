"""What increments are collected in, and the arithmetic of running totals. Pure.

A *cell* holds sums over its units. A *row* is a running total that cannot be computed from sums: a slate, or a time
bucket of a variant. A *unit* is the running total of a user or session, and a *stint* is what one of them was
shown at one moment: it counts only if the unit has not moved, which is known once the unit is loaded.

Library: msgspec (small structs without garbage-collector headers).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from operator import add
from typing import TypeAlias

import msgspec
from msgspec import Struct

__all__ = [
    "Cell",
    "CellKey",
    "Cohort",
    "Pair",
    "Row",
    "Rows",
    "Stint",
    "Unit",
    "added",
    "move",
    "numbers",
    "parse_unit",
]
__all__ += ["several", "stored_unit"]

CellKey: TypeAlias = tuple[str, str, str]
"""(experiment, variant, allocation)"""
Pair: TypeAlias = tuple[str, str]
"""(experiment, variant)"""

_encode = msgspec.json.Encoder().encode
_decode_places = msgspec.json.Decoder(list[tuple[str, ...]]).decode


class Cell(Struct, gc=False, eq=False):
    """Sums over the units of one (experiment, variant, allocation)."""

    key: CellKey
    pair: Pair
    index: int
    text: str
    """`key` as JSON"""
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
    cohort_start: int = -1
    cohort: Cohort | None = None


class Cohort(Struct, gc=False, eq=False):
    """Impressions of one (experiment, variant) within a 16th of the window, and what followed them."""

    impressions: int = 0
    delays: defaultdict[int, int] = msgspec.field(default_factory=lambda: defaultdict(int))
    """16 · outcome index + delay bin → outcomes without a value"""


class Row(Struct, gc=False, eq=False):
    """The running total (n, c₀, v₀, c₁, v₁, …) of a slate or a time bucket, and what the current batch adds to it."""

    key: str
    cell: Cell | None
    """None for a time bucket"""
    total: tuple[int, ...] | None
    """None until loaded from the store"""
    bucket: Row | None = None
    """Where a slate's increments also belong: all of them fall into one time bucket"""
    cohort: Cohort | None = None
    """And into one cohort"""
    delta: list[int] | None = None


class Unit(Struct, gc=False, eq=False):
    """The running total of a user or session in one experiment, whatever variants it was shown."""

    key: str
    cell: Cell | None = None
    """Of its first impression: everything of it that counts, counts there. None while only the store knows it"""
    total: tuple[int, ...] | None = None
    """None until loaded from the store, which may know another first cell than this batch does"""
    moved: tuple[Pair, ...] = ()
    """Other variants that it was shown"""
    delta: list[int] | None = None


class Stint(Struct, gc=False, eq=False):
    """A unit's impressions of one moment and what followed them in the current batch."""

    unit: Unit
    cell: Cell
    """As assigned then, which need not be where the unit counts"""
    bucket: Row
    cohort: Cohort
    delta: list[int] | None = None
    delays: list[int] | None = None
    """Keys in `Cohort.delays`, one an outcome"""


Rows: TypeAlias = Row | Stint | tuple[Row | Stint, ...]
"""One alone needs no tuple around it: open impressions are many"""


def several(rows: Rows) -> tuple[Row | Stint, ...]:
    return rows if isinstance(rows, tuple) else (rows,)


def added(old: Sequence[int], delta: Sequence[int]) -> list[int]:
    """Element by element; the shorter one counts as zeros beyond its end."""
    if len(old) < len(delta):
        old, delta = delta, old
    new = list(map(add, old, delta))
    new += old[len(delta) :]
    return new


def move(cell: Cell, old: tuple[int, ...], new: tuple[int, ...]) -> None:
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


def numbers(total: Sequence[int]) -> str:
    """A running total as the store holds it."""
    return ",".join(map(str, total))


def stored_unit(unit: Unit) -> str:
    """A unit as the store holds it: `[first cell, variants it moved to …];n,c₀,v₀,…`."""
    assert unit.cell is not None and unit.total is not None
    moved = "".join(f",{_encode(pair).decode()}" for pair in unit.moved) if unit.moved else ""
    return f"[{unit.cell.text}{moved}];{numbers(unit.total)}"


def parse_unit(text: str) -> tuple[CellKey, tuple[Pair, ...], tuple[int, ...]]:
    """The first cell, the variants it moved to and the total that `stored_unit` wrote."""
    places, _, total = text.rpartition(";")
    (experiment, variant, allocation), *moved = _decode_places(places)
    pairs = tuple((name, other) for name, other in moved)
    return (experiment, variant, allocation), pairs, tuple(map(int, total.split(",")))
