"""The counting as metrics: read from what the worker keeps anyway, by whoever asks.

Kafka's client is asked by the thread that owns it alone (`end_of`): while another thread is in `consume`, a call may
wait for good.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from sluice.adapters.kafka import Consumer, TopicPartition
from sluice.adapters.metrics import Reading
from sluice.names import CLICKS, IMPRESSIONS
from stream_processors.low_water import NEVER
from stream_processors.partition import PartitionCounter

__all__ = ["Lags", "counting_readings", "end_of", "lag_readings"]

Lags = dict[tuple[str, int], int]
"""(topic, partition) → records of the log that are not worked off yet"""


class Worked(Protocol):
    """What a worker did since it started."""

    @property
    def records(self) -> int: ...
    @property
    def commits(self) -> int: ...
    @property
    def fenced(self) -> int: ...
    @property
    def rebuilt(self) -> int: ...


class Owned(Protocol):
    """One partition of a worker."""

    @property
    def counter(self) -> PartitionCounter: ...
    @property
    def paused(self) -> str: ...


def counting_readings(worked: Worked, max_held: int, owned: Sequence[tuple[int, Owned]], lags: Lags) -> Reading:
    """What a worker did, holds and has still to read."""
    yield from lag_readings("processors", lags)
    yield "sluice_counting_records_total", (), worked.records
    yield "sluice_commits_total", (), worked.commits
    yield "sluice_commits_fenced_total", (), worked.fenced
    yield "sluice_partitions_rebuilt_total", (), worked.rebuilt
    yield "sluice_partitions_owned", (), len(owned)
    yield "sluice_held_limit", (), max_held
    for partition, one in owned:
        yield from _partition(str(partition), one)


def _partition(partition: str, one: Owned) -> Reading:
    core = one.counter.core
    for name, count in dict(core.records).items():
        topic, _, outcome = name.partition(".")
        yield "sluice_records_total", (topic, partition, outcome), count
    yield "sluice_open_impressions", (partition,), core.open_count
    yield "sluice_waiting_clicks", (partition,), core.waiting_count
    for topic, watermark in ((IMPRESSIONS, core.impressions_watermark), (CLICKS, core.clicks_watermark)):
        yield "sluice_reading_paused", (topic, partition), one.paused == topic
        if watermark != NEVER:
            yield "sluice_watermark_timestamp_seconds", (topic, partition), watermark / 1000


def end_of(client: Consumer, topic: str, partition: int) -> int | None:
    """Where the log ends by the last answer to a fetch; None before the first one."""
    _, end = client.get_watermark_offsets(TopicPartition(topic, partition), cached=True)
    return end if end >= 0 else None


def lag_readings(group: str, lags: Lags) -> Reading:
    """The lags of a group of readers."""
    for (topic, partition), lag in dict(lags).items():
        yield "sluice_consumer_lag_records", (group, topic, str(partition)), lag
