"""`sluice verify`: recount the log up to the stored offsets in one plain pass and compare every integer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct

from sluice.adapters.counters import CounterStore, PartitionCounts
from sluice.adapters.log_ends import LogEnds
from sluice.adapters.reader import read_range
from sluice.adapters.redis import connect
from sluice.domain.definitions import RULES
from sluice.errors import SluiceError
from sluice.names import CLICKS, IMPRESSIONS, Keys
from sluice.settings import Settings
from stream_processors.recount import LogRecord, Recount, recount

__all__ = ["Difference", "PartitionCheck", "verify", "verify_partition"]


class Difference(Struct, frozen=True):
    """One number that is not what the log says."""

    name: str
    stored: Any
    recounted: Any


class PartitionCheck(Struct, frozen=True):
    """The comparison of one partition, at the offsets that its counters included when they were read."""

    partition: int
    impressions_offset: int
    clicks_offset: int
    numbers: int
    """Integers compared"""
    differences: tuple[Difference, ...]
    not_counted: int = 0
    """Records of both topics beyond these offsets when the comparison began"""


def verify(settings: Settings) -> list[PartitionCheck]:
    """Compare every partition of the topic; one that was never counted is compared with an empty log.

    Safe at any time, also while workers count. Raises LogTruncated when the log does not reach back to
    where the counts begin.
    """
    store = CounterStore(connect(settings), Keys(settings.prefix))
    with LogEnds(settings, (IMPRESSIONS, CLICKS)) as logs:
        ends = logs.read()
    checks = [verify_partition(settings, store, partition) for partition in sorted(ends)]
    return [
        msgspec.structs.replace(
            check,
            not_counted=max(0, ends[check.partition][0] - check.impressions_offset)
            + max(0, ends[check.partition][1] - check.clicks_offset),
        )
        for check in checks
    ]


def verify_partition(settings: Settings, store: CounterStore, partition: int) -> PartitionCheck:
    counts, buckets = store.read_all(partition)
    if counts is None:
        return PartitionCheck(partition, 0, 0, 0, ())
    if counts.definitions.rules != RULES:
        raise SluiceError(
            f"partition {partition} was counted by another version of Sluice (rules {counts.definitions.rules}, here "
            f"{RULES}): start `sluice process` of this version, it counts again from the log"
        )
    result = recount(
        _log(settings, IMPRESSIONS, partition, counts.impressions_start, counts.impressions_offset),
        _log(settings, CLICKS, partition, counts.clicks_start, counts.clicks_offset),
        counts.definitions,
    )
    stored, wanted = _stored(counts, buckets), _wanted(result)
    differences = tuple(
        Difference(name, stored.get(name, 0), wanted.get(name, 0))
        for name in sorted(stored.keys() | wanted.keys())
        if stored.get(name, 0) != wanted.get(name, 0)
    )
    return PartitionCheck(
        partition, counts.impressions_offset, counts.clicks_offset, len(stored.keys() | wanted.keys()), differences
    )


def _log(settings: Settings, topic: str, partition: int, start: int, stop: int) -> Iterator[LogRecord]:
    for messages in read_range(settings, topic, partition, start, stop):
        for message in messages:
            kind, broker_ms = message.timestamp()
            yield message.offset() or 0, message.value(), broker_ms if kind else None


def _stored(counts: PartitionCounts, buckets: dict[str, tuple[int, ...]]) -> dict[str, int]:
    """Every integer of the store by one flat name."""
    flat = {f"records {name}": count for name, count in counts.records.items()}
    flat["waiting"] = counts.waiting
    for cell in counts.cells:
        key, sums = (cell.experiment, cell.variant, cell.allocation), cell.statistics
        flat |= _cell_names(key, (sums.units, sums.impressions, sums.impressions_squared))
        for outcome, values in sums.outcomes.items():
            flat |= _outcome_names(key, outcome, msgspec.structs.astuple(values))
    for pair in counts.moved:
        flat |= _moved_names((pair.experiment, pair.variant), (pair.units, pair.impressions))
    for field, (n, *rest) in buckets.items():
        flat[f"bucket {field} n"] = n
        for outcome, c, v in zip(counts.outcomes, rest[::2], rest[1::2], strict=False):
            flat[f"bucket {field} {outcome} c"], flat[f"bucket {field} {outcome} v"] = c, v
    return flat


def _wanted(result: Recount) -> dict[str, int]:
    flat = {f"records {name}": count for name, count in result.records.items()}
    flat["waiting"] = result.waiting
    for key, numbers in result.cells.items():
        flat |= _cell_names(key, numbers)
    for (key, outcome), values in result.outcomes.items():
        flat |= _outcome_names(key, outcome, values)
    for pair, (units, impressions) in result.moved.items():
        flat |= _moved_names(pair, (units, impressions))
    for bucket, outcomes in result.buckets.items():
        field = msgspec.json.encode(bucket).decode()
        for outcome, (c, v) in outcomes.items():
            if outcome:
                flat[f"bucket {field} {outcome} c"], flat[f"bucket {field} {outcome} v"] = c, v
            else:
                flat[f"bucket {field} n"] = c
    return flat


def _cell_names(key: tuple[str, str, str], numbers: tuple[int, ...]) -> dict[str, int]:
    label = " ".join(key)
    return {f"{label} {name}": number for name, number in zip(("units", "Σn", "Σn²"), numbers, strict=True)}


def _moved_names(pair: tuple[str, str], numbers: tuple[int, int]) -> dict[str, int]:
    label = " ".join(pair)
    return {f"{label} moved {name}": number for name, number in zip(("units", "impressions"), numbers, strict=True)}


def _outcome_names(key: tuple[str, str, str], outcome: str, numbers: tuple[Any, ...]) -> dict[str, int]:
    label = " ".join((*key, outcome))
    names = ("Σc", "Σc²", "Σnc", "Σv", "Σv²", "Σnv")
    return {f"{label} {name}": number for name, number in zip(names, numbers, strict=True)}
