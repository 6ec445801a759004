"""`sluice verify`: recount the log up to the stored offsets in one plain pass and compare every integer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct

from sluice.adapters.counters import CounterStore, PartitionCounts
from sluice.adapters.log_ends import LogEnds
from sluice.adapters.reader import TopicReader, read_range
from sluice.adapters.redis import connect
from sluice.domain.definitions import RULES
from sluice.domain.events import DelayCohorts, StatsPublished
from sluice.errors import SluiceError
from sluice.names import CLICKS, IMPRESSIONS, VARIANT_STATS, Keys
from sluice.settings import Settings
from stream_processors.cohorts import MAX_OUTCOMES
from stream_processors.recount import Delays, LogRecord, Recount, recount

__all__ = ["Difference", "PartitionCheck", "verify", "verify_partition"]


SNAPSHOTS_READ = 200
"""Of each partition of `variant-stats`, to find the last one of every partition that is counted"""


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
    told = _last_snapshots(settings)
    checks = [verify_partition(settings, store, partition, told.get(partition)) for partition in sorted(ends)]
    return [
        msgspec.structs.replace(
            check,
            not_counted=max(0, ends[check.partition][0] - check.impressions_offset)
            + max(0, ends[check.partition][1] - check.clicks_offset),
        )
        for check in checks
    ]


def verify_partition(
    settings: Settings, store: CounterStore, partition: int, told: StatsPublished | None = None
) -> PartitionCheck:
    """`told`: the last snapshot of the partition, whose cohorts are compared at its own offsets."""
    counts, buckets = store.read_all(partition)
    if counts is None:
        return PartitionCheck(partition, 0, 0, 0, ())
    if counts.definitions.rules != RULES:
        raise SluiceError(
            f"partition {partition} was counted by another version of Sluice (rules {counts.definitions.rules}, here "
            f"{RULES}): start `sluice process` of this version, it counts again from the log"
        )
    offsets = counts.impressions_offset, counts.clicks_offset
    result = _recounted(settings, counts, offsets)
    stored, wanted = _stored(counts, buckets), _wanted(result)
    if told is not None and told.delays is not None and _same_rules(told, counts):
        at = told.impressions_offset, told.clicks_offset
        stored |= _told_delays(told.delays)
        wanted |= _wanted_delays((result if at == offsets else _recounted(settings, counts, at)).delays, told.delays)
    differences = tuple(
        Difference(name, stored.get(name, 0), wanted.get(name, 0))
        for name in sorted(stored.keys() | wanted.keys())
        if stored.get(name, 0) != wanted.get(name, 0)
    )
    return PartitionCheck(
        partition, counts.impressions_offset, counts.clicks_offset, len(stored.keys() | wanted.keys()), differences
    )


def _last_snapshots(settings: Settings) -> dict[int, StatsPublished]:
    """Partition → its snapshot among the newest records of `variant-stats`."""
    found: dict[int, StatsPublished] = {}
    with TopicReader(settings, VARIANT_STATS, from_start=False, last=SNAPSHOTS_READ) as reader:
        for message in reader.rest():
            try:
                snapshot = msgspec.json.decode(message.value() or b"", type=StatsPublished)
            except msgspec.MsgspecError:
                continue  # whoever wrote it, it is no snapshot
            found[snapshot.partition] = snapshot
    return found


def _same_rules(told: StatsPublished, counts: PartitionCounts) -> bool:
    """A snapshot is compared unless it is of other counts: by other definitions, or of before the store was emptied."""
    return (
        (told.window_ms, told.lateness_ms) == (counts.window_ms, counts.lateness_ms)
        and counts.impressions_start <= told.impressions_offset <= counts.impressions_offset
        and counts.clicks_start <= told.clicks_offset <= counts.clicks_offset
    )


def _recounted(settings: Settings, counts: PartitionCounts, offsets: tuple[int, int]) -> Recount:
    return recount(
        _log(settings, IMPRESSIONS, counts.partition, counts.impressions_start, offsets[0]),
        _log(settings, CLICKS, counts.partition, counts.clicks_start, offsets[1]),
        counts.definitions,
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


def _told_delays(delays: DelayCohorts) -> dict[str, int]:
    """Every integer of the cohorts by one flat name, without zeros."""
    flat = {}
    for one in delays.variants:
        label = f"delays {one.experiment} {one.variant}"
        flat[f"{label} ahead"] = one.ahead
        for place, count in enumerate(one.impressions):
            flat[f"{label} {delays.start_ms + place * delays.cohort_ms} n"] = count
        for name, cohorts in one.outcomes.items():
            for place, bins in enumerate(cohorts):
                start = delays.start_ms + place * delays.cohort_ms
                flat |= {f"{label} {start} {name} bin {at}": count for at, count in enumerate(bins)}
    return {name: count for name, count in flat.items() if count}


def _wanted_delays(recounted: dict[tuple[str, str], Delays], told: DelayCohorts) -> dict[str, int]:
    """The same of a recount, as far as there was room for it in what was told."""
    listed = {(one.experiment, one.variant): one.outcomes for one in told.variants}
    flat = {}
    for pair, one in recounted.items():
        outcomes = listed.get(pair, {})
        if pair not in listed and told.left_out:
            continue
        label = f"delays {' '.join(pair)}"
        flat[f"{label} ahead"] = one.ahead
        flat |= {f"{label} {start} n": count for start, count in one.impressions.items()}
        for name, bins in one.outcomes.items():
            if name in outcomes or len(outcomes) < MAX_OUTCOMES:
                flat |= {f"{label} {start} {name} bin {at}": count for (start, at), count in bins.items()}
    return {name: count for name, count in flat.items() if count}


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
