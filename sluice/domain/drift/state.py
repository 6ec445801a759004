"""What a monitor remembers, as bytes. Library: msgspec.

Arrays are written as numbers with their type and shape; reading them runs no code.
"""

from __future__ import annotations

import zlib
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta, Struct

from sluice.domain.drift.monitor import Alarm, DriftOptions, Monitor, Recent, Seen, Track
from sluice.domain.drift.reference import Reference
from sluice.domain.drift.windows import CellSums
from sluice.errors import ConfigError

__all__ = ["dump_monitor", "restore_monitor"]

FORMAT = 1
MAX_BYTES = 1 << 30
_EVIDENCE = ("windows", "games", "waiting", "numbers", "begins", "begins_ms", "wealth", "seen", "best")


class _Array(Struct, frozen=True, array_like=True):
    kind: Literal["<i4", "<i8", "<f8"]
    shape: tuple[Annotated[int, Meta(ge=0)], ...]
    data: bytes


class _Windows(Struct, frozen=True, array_like=True):
    closed_ms: int | None
    late: int
    open: dict[int, list[_Array]]


class _Track(Struct, frozen=True, array_like=True):
    evidence: list[int | _Array]
    alarms: dict[int, tuple[int, int]]
    recent: list[tuple[int, int, _Array, _Array]]


class _State(Struct, frozen=True, array_like=True):
    format: int
    model: str
    version: str
    reference: int
    """Checksum"""
    options: DriftOptions
    rows: _Windows
    outcomes: _Windows
    row_track: _Track
    outcome_track: _Track


def dump_monitor(monitor: Monitor) -> bytes:
    """All that `monitor` knows, its reference aside."""
    rows = {begin: [*seen.sums, seen.counts] for begin, seen in monitor.rows.open.items()}
    outcomes = {begin: list(sums) for begin, sums in monitor.outcomes.open.items()}
    state = _State(
        FORMAT, monitor.model, monitor.version, _checksum(monitor.reference), monitor.options,
        _windows(monitor.rows, rows), _windows(monitor.outcomes, outcomes), _track(monitor.row_track),
        _track(monitor.outcome_track),
    )  # fmt: skip
    return zlib.compress(msgspec.msgpack.encode(state), 1)


def restore_monitor(reference: Reference, data: bytes) -> Monitor:
    """The monitor that was dumped. Raises ConfigError when `data` are not of one with this reference."""
    try:
        plain = zlib.decompressobj().decompress(data, MAX_BYTES)
        state = msgspec.msgpack.decode(plain, type=_State)
    except (zlib.error, msgspec.DecodeError, RecursionError) as error:
        raise ConfigError(f"state of a drift monitor: {error}") from error
    if (state.format, state.reference) != (FORMAT, _checksum(reference)):
        raise ConfigError("state of a drift monitor: of another reference or another program: begin anew")
    monitor = Monitor(reference, state.model, state.version, state.options)
    try:
        _fill(monitor, state)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"state of a drift monitor: {error}") from error
    return monitor


def _fill(monitor: Monitor, state: _State) -> None:
    for windows, kept in ((monitor.rows, state.rows), (monitor.outcomes, state.outcomes)):
        windows.closed_ms, windows.late = kept.closed_ms, kept.late
    for begin, arrays in state.rows.open.items():
        cells, rows, sums, counts = map(_read, arrays)
        monitor.rows.open[begin] = Seen(CellSums(cells, rows, sums), counts)
    for begin, arrays in state.outcomes.open.items():
        cells, rows, sums = map(_read, arrays)
        monitor.outcomes.open[begin] = CellSums(cells, rows, sums)
    for track, found in ((monitor.row_track, state.row_track), (monitor.outcome_track, state.outcome_track)):
        for name, value in zip(_EVIDENCE, found.evidence, strict=True):
            setattr(track.evidence, name, _read(value) if isinstance(value, _Array) else value)
        track.alarms = {group: Alarm(*alarm) for group, alarm in found.alarms.items()}
        track.recent = [Recent(begin, rows, _read(cells), _read(totals)) for begin, rows, cells, totals in found.recent]


def _windows(windows: Any, arrays: dict[int, list[Any]]) -> _Windows:
    written = {begin: [_array(one) for one in some] for begin, some in arrays.items()}
    return _Windows(windows.closed_ms, windows.late, written)


def _track(track: Track) -> _Track:
    values = [getattr(track.evidence, name) for name in _EVIDENCE]
    return _Track(
        [value if isinstance(value, int) else _array(value) for value in values],
        {group: (alarm.since_ms, alarm.began_ms) for group, alarm in track.alarms.items()},
        [(one.begin_ms, one.rows, _array(one.cells), _array(one.totals)) for one in track.recent],
    )


def _array(values: np.ndarray[Any, Any]) -> _Array:
    kind = {("i", 4): "<i4", ("i", 8): "<i8", ("f", 8): "<f8"}[values.dtype.kind, values.dtype.itemsize]
    return _Array(kind, values.shape, values.astype(kind).tobytes())  # type: ignore[arg-type]


def _read(one: _Array) -> np.ndarray[Any, Any]:
    return np.frombuffer(one.data, dtype=one.kind).reshape(one.shape).copy()


def _checksum(reference: Reference) -> int:
    return zlib.crc32(msgspec.json.encode(reference))
