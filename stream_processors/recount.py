"""The definition of every counter, as one plain pass over the two logs of a partition. Pure.

Written from docs/counting.md without the worker's code, so that `sluice verify` and the tests compare two
independent answers. Clear rather than fast: nothing is forgotten, nothing is incremental.

Library: msgspec.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated

import msgspec

from sluice.domain.definitions import MAX_CELLS, MAX_OUTCOMES, MAX_PAIRS, OTHER, Definitions
from sluice.domain.events import MAX_EVENT_BYTES, Assignment, Heartbeat, ImpressionShown, OutcomeObserved

__all__ = ["LogRecord", "Recount", "recount"]

LogRecord = tuple[int, bytes | None, int | None]
"""(offset, value, the broker's timestamp in ms or None when it gives none)"""

Cell = tuple[str, str, str]
_FOREVER_AGO = float("-inf")
_ASSIGNMENTS = Annotated[tuple[Assignment, ...], msgspec.Meta(max_length=32)]


class _AnyAssignments(ImpressionShown, frozen=True, kw_only=True, tag_field="type", tag="impression", gc=False):
    assignments: msgspec.Raw  # type: ignore[assignment]


@dataclass
class _Window:
    """A counted impression: the clicks that may count for it lie in [first, first + window]."""

    first: int
    last: int
    parts: list[tuple[Cell, tuple[object, ...], int]]
    """(cell, unit, bucket) for every assignment that is evidence"""
    delays: list[tuple[str, int]] = field(default_factory=list)
    """(outcome, delay in ms) of every counted outcome without a value"""
    seen: set[object] = field(default_factory=set)


@dataclass
class Delays:
    """The cohorts of one (experiment, variant), from lateness + two windows before the smaller watermark on."""

    impressions: Counter[int] = field(default_factory=Counter)
    """By start of their cohort"""
    ahead: int = 0
    outcomes: dict[str, Counter[tuple[int, int]]] = field(default_factory=lambda: defaultdict(Counter))
    """Name → by (start of the impression's cohort, delay bin)"""


@dataclass
class Recount:
    """All counters of one partition; the names follow `sluice.adapters.counters`."""

    records: Counter[str] = field(default_factory=Counter)
    cells: dict[Cell, tuple[int, int, int]] = field(default_factory=dict)
    """Cell → (units, Σn, Σn²)"""
    outcomes: dict[tuple[Cell, str], tuple[int, int, int, int, int, int]] = field(default_factory=dict)
    """(cell, outcome) → (Σc, Σc², Σnc, Σv, Σv², Σnv)"""
    buckets: dict[tuple[str, str, int], dict[str, tuple[int, int]]] = field(default_factory=dict)
    """(experiment, variant, start) → {"": (n, 0), outcome: (c, v)}"""
    delays: dict[tuple[str, str], Delays] = field(default_factory=dict)
    """(experiment, variant) → what its cohorts hold; empty before both topics had an event"""
    waiting: int = 0
    moved: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    """(experiment, variant) → (units, impressions) that it was shown to and that belong to another variant"""
    outcome_names: list[str] = field(default_factory=list)
    rejected: set[tuple[str, int, str]] = field(default_factory=set)
    """(topic, offset, reason) of every record that belongs to the dead letters"""


def recount(impressions: Iterable[LogRecord], clicks: Iterable[LogRecord], definitions: Definitions) -> Recount:
    """F(impressions, clicks): what the counters must be once exactly these records have been read."""
    result = Recount()
    units: dict[Cell, dict[tuple[object, ...], Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    windows, watermark = _windows(impressions, definitions, result, units)
    other = _clicks(clicks, definitions, result, units, windows, watermark)
    _delays(windows, min(watermark, other), definitions, result)
    for cell, members in units.items():
        ns = [unit["n"] for unit in members.values()]
        result.cells[cell] = (len(ns), sum(ns), sum(n * n for n in ns))
        for name in result.outcome_names:
            triples = [(unit["n"], unit[f"c:{name}"], unit[f"v:{name}"]) for unit in members.values()]
            if any(c for _, c, _ in triples):
                result.outcomes[cell, name] = (
                    sum(c for _, c, _ in triples),
                    sum(c * c for _, c, _ in triples),
                    sum(n * c for n, c, _ in triples),
                    sum(v for _, _, v in triples),
                    sum(v * v for _, _, v in triples),
                    sum(n * v for n, _, v in triples),
                )
    return result


def _windows(
    impressions: Iterable[LogRecord],
    definitions: Definitions,
    result: Recount,
    units: dict[Cell, dict[tuple[object, ...], Counter[str]]],
) -> tuple[dict[str, list[_Window]], float]:
    watermark = _FOREVER_AGO
    windows: dict[str, list[_Window]] = defaultdict(list)
    first_cells: dict[tuple[str, str, str], Cell] = {}
    movers: dict[tuple[str, str], list[tuple[str, str, str]]] = defaultdict(list)
    for offset, value, broker_ms in impressions:
        event = _parsed(value, broker_ms, definitions, ImpressionShown)
        if event is None:
            result.records["impressions.malformed"] += 1
            result.rejected.add(("impressions", offset, "malformed"))
            continue
        watermark = max(watermark, event.at_ms)
        if isinstance(event, Heartbeat):
            result.records["impressions.heartbeat"] += 1
            continue
        assert isinstance(event, ImpressionShown)
        if event.at_ms < watermark - definitions.lateness_ms:
            result.records["impressions.late"] += 1
            result.rejected.add(("impressions", offset, "late"))
            continue
        of_id = windows[event.impression_id]
        if of_id and of_id[-1].last >= watermark - definitions.lateness_ms - definitions.window_ms:
            result.records["impressions.duplicate"] += 1
            of_id[-1].last = max(of_id[-1].last, event.at_ms)
            continue
        result.records["impressions.counted"] += 1
        start = event.at_ms // definitions.bucket_ms * definitions.bucket_ms
        window = _Window(event.at_ms, event.at_ms, [])
        for made in event.assignments:
            cell = _cell((made.experiment, made.variant, made.allocation), units)
            members = units[cell]  # from here on the cell is named, whether or not anything counts in it
            if made.unit_kind == "slate":
                unit: tuple[object, ...] = (event.user_id, made.unit, event.at_ms)
            else:
                unit = name = (made.experiment, event.user_id, made.unit)
                first = first_cells.setdefault(name, cell)
                if first[:2] != cell[:2]:
                    movers[cell[0], cell[1]].append(name)
                    continue
                cell, members = first, units[first]
            window.parts.append((cell, unit, start))
            members[unit]["n"] += 1
            bucket = result.buckets.setdefault((cell[0], cell[1], start), {})
            bucket[""] = (bucket.get("", (0, 0))[0] + 1, 0)
        of_id.append(window)
    for pair, names in movers.items():
        result.moved[pair] = (len(set(names)), len(names))
    return windows, watermark


def _clicks(
    clicks: Iterable[LogRecord],
    definitions: Definitions,
    result: Recount,
    units: dict[Cell, dict[tuple[object, ...], Counter[str]]],
    windows: dict[str, list[_Window]],
    impressions_watermark: float,
) -> float:
    watermark = _FOREVER_AGO
    for offset, value, broker_ms in clicks:
        event = _parsed(value, broker_ms, definitions, OutcomeObserved)
        if event is None:
            result.records["clicks.malformed"] += 1
            result.rejected.add(("clicks", offset, "malformed"))
            continue
        watermark = max(watermark, event.at_ms)
        if isinstance(event, Heartbeat):
            result.records["clicks.heartbeat"] += 1
            continue
        assert isinstance(event, OutcomeObserved)
        if event.at_ms < watermark - definitions.lateness_ms:
            result.records["clicks.late"] += 1
            result.rejected.add(("clicks", offset, "late"))
            continue
        name = event.outcome
        if name not in result.outcome_names:
            if len(result.outcome_names) >= MAX_OUTCOMES:
                name = OTHER
            if name not in result.outcome_names:
                result.outcome_names.append(name)
        eligible = [
            window
            for window in windows.get(event.impression_id, [])
            if 0 <= event.at_ms - window.first <= definitions.window_ms
        ]
        if not eligible:
            if impressions_watermark - definitions.lateness_ms > event.at_ms:
                result.records["clicks.unmatched"] += 1
                result.rejected.add(("clicks", offset, "unmatched"))
            else:
                result.waiting += 1
            continue
        (window,) = eligible
        identity = name if event.value_milli is None else (name, event.click_id)
        if identity in window.seen:
            result.records["clicks.duplicate"] += 1
            continue
        window.seen.add(identity)
        result.records["clicks.counted"] += 1
        if event.value_milli is None:
            window.delays.append((name, event.at_ms - window.first))
        for cell, unit, start in window.parts:
            units[cell][unit][f"c:{name}"] += 1
            units[cell][unit][f"v:{name}"] += event.value_milli or 0
            bucket = result.buckets[cell[0], cell[1], start]
            c, v = bucket.get(name, (0, 0))
            bucket[name] = (c + 1, v + (event.value_milli or 0))
    return watermark


def _delays(windows: dict[str, list[_Window]], watermark: float, definitions: Definitions, result: Recount) -> None:
    if watermark == _FOREVER_AGO:
        return
    window = definitions.window_ms
    width = max(1, math.ceil(window / 16))
    newest = watermark // width * width
    oldest = max(watermark - definitions.lateness_ms - 2 * window, newest - 64 * width)
    for one in (one for of_id in windows.values() for one in of_id):
        start = one.first // width * width
        if start < oldest:
            continue
        for cell, _, _ in one.parts:
            delays = result.delays.setdefault(cell[:2], Delays())
            if start > newest:
                delays.ahead += 1
            else:
                delays.impressions[start] += 1
            for name, delay in one.delays:
                delays.outcomes[name][start, min(delay // width, 15)] += 1


def _cell(key: Cell, named: dict[Cell, dict[tuple[object, ...], Counter[str]]]) -> Cell:
    if key in named:
        return key
    pairs = {cell[:2] for cell in named}
    if key[:2] not in pairs and len(pairs) >= MAX_PAIRS:
        return (OTHER, OTHER, OTHER)
    if len(named) >= MAX_CELLS:
        return (key[0], key[1], OTHER)
    return key


def _parsed(
    value: bytes | None, broker_ms: int | None, definitions: Definitions, kind: type[ImpressionShown | OutcomeObserved]
) -> ImpressionShown | OutcomeObserved | Heartbeat | None:
    """The event, or None when the record is malformed."""
    if value is None or len(value) > MAX_EVENT_BYTES:
        return None
    try:
        if kind is ImpressionShown:
            # Where JSON names the assignments twice, the last list counts and the others are not looked at.
            event = msgspec.json.decode(value, type=_AnyAssignments | Heartbeat)
            if isinstance(event, _AnyAssignments):
                made = msgspec.json.decode(event.assignments, type=_ASSIGNMENTS)
                event = msgspec.structs.replace(event, assignments=made)
        else:
            event = msgspec.json.decode(value, type=kind | Heartbeat)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    if broker_ms is not None and event.at_ms > broker_ms + definitions.skew_ms:
        return None
    if isinstance(event, ImpressionShown):
        names = [made.experiment for made in event.assignments]
        if len(set(names)) < len(names):
            return None
    return event
