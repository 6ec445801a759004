"""The counting worker: a librdkafka consumer, the partitions it owns, and their commits. One thread uses it.

`poll` fetches a batch of records, `process` counts it and commits. Both run on the same thread, so a
rebalance never meets a batch half done; `stream_processors.app` drives them from Faust.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, TypeVar

from sluice.adapters.counters import CounterStore, PartitionUpdate
from sluice.adapters.kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
    complain,
    consumer,
)
from sluice.adapters.metrics import Metrics, Reading
from sluice.adapters.reader import read_range
from sluice.adapters.redis import RedisError, wait_for_redis
from sluice.domain.definitions import Definitions
from sluice.errors import Fenced, LogTruncated, TransportError
from sluice.names import CLICKS, IMPRESSIONS, Keys
from sluice.settings import Settings
from stream_processors.attribution import Rejected
from stream_processors.outbox import Outbox
from stream_processors.partition import PartitionCounter
from stream_processors.readings import Lags, counting_readings, end_of

__all__ = ["Batch", "CountingWorker", "definitions_of"]

log = logging.getLogger(__name__)
T = TypeVar("T")

SNAPSHOT_EVERY_S = 0.1
LAG_EVERY_S = 1.0
CLICKS_AT_ONCE = 1000
MAX_CLICKS_AHEAD = 100_000
MEMORY_RESUME = 0.9
"""Reading both topics goes on once this share of the memory limit is reached from above."""


def definitions_of(settings: Settings) -> Definitions:
    return Definitions(settings.window_ms, settings.lateness_ms, settings.skew_ms, settings.bucket_ms)


@dataclass(eq=False)
class Batch:
    """Records as they were fetched, and the generation of assignments they were fetched under."""

    messages: list[Message]
    generation: int
    number: int
    """Batches are processed in this order, each once: a lost one would leave a hole in the counts."""


@dataclass
class _Owned:
    counter: PartitionCounter
    generation: int
    snapshot_due: bool = True
    snapshot_at: float = 0.0
    clicks: deque[Message] = field(default_factory=deque)
    """Fetched clicks that are ahead of the impressions: read as soon as those have caught up"""
    paused: str = ""
    """The topic that is not read because memory is full; empty when both are read"""


@dataclass
class Totals:
    """What the worker did since it started, for its web page and the tests."""

    records: int = 0
    commits: int = 0
    fenced: int = 0
    rebuilt: int = 0
    dead_letters: int = 0
    stalled: list[str] = field(default_factory=list)


class CountingWorker:
    """Owns the partitions the consumer group gives it. Not thread-safe."""

    def __init__(
        self, settings: Settings, *, stopping: Callable[[], bool] = lambda: False, metrics: Metrics | None = None
    ) -> None:
        """Connects. Raises TransportError when the broker or Redis does not answer."""
        self.settings = settings
        self.definitions = definitions_of(settings)
        self.totals = Totals()
        self.assigned = False
        """True once it counts the partitions that it was given"""
        self._metrics = metrics or Metrics("process")
        self._lags: Lags = {}
        self._measured_s = 0.0
        self._stopping = stopping
        self._store = CounterStore(wait_for_redis(settings), Keys(settings.prefix))
        self._outbox = Outbox(settings, stopping)
        self._owned: dict[int, _Owned] = {}
        self._generation = 0
        self._commits_failed = 0
        self._fetched = self._processed = 0
        self._consumer: Consumer = consumer(
            settings,
            # Counters under another prefix are other counters: their workers must not share the partitions with ours.
            group=f"{settings.prefix}processors",
            overrides={
                # The same partition number of both topics must go to the same worker: range does that.
                "partition.assignment.strategy": "range",
                # A position that the log no longer holds is an error: going on elsewhere would leave a hole.
                "auto.offset.reset": "error",
                "session.timeout.ms": 6000,
                "heartbeat.interval.ms": 1500,
                "fetch.wait.max.ms": 20,
                "fetch.message.max.bytes": 4_000_000,
                "queued.max.messages.kbytes": 65_536,
            },
        )
        self._consumer.subscribe([IMPRESSIONS, CLICKS], on_assign=self._assigned, on_revoke=self._revoked)

    # -- assignment --------------------------------------------------------------------------------

    def _assigned(self, client: Consumer, places: list[TopicPartition]) -> None:
        partitions = sorted({place.partition for place in places})
        self._generation += 1
        self._owned = {}
        for partition in partitions:
            self._owned[partition] = self._load(partition)
        client.assign(self._places(partitions))
        self.assigned = True
        log.info("counting partitions %s", partitions, extra={"partitions": partitions})

    def _revoked(self, client: Consumer, places: list[TopicPartition]) -> None:
        # Everything processed is committed; what was fetched and not processed is read again by the next owner.
        partitions = sorted({place.partition for place in places})
        log.info("let go of partitions %s", partitions, extra={"partitions": partitions})
        self._owned, self.assigned = {}, False

    def _places(self, partitions: list[int]) -> list[TopicPartition]:
        return [
            TopicPartition(topic, partition, offset)
            for partition in partitions
            for topic, offset in zip((IMPRESSIONS, CLICKS), self._owned[partition].counter.offsets, strict=True)
        ]

    def _load(self, partition: int) -> _Owned:
        """A counter that stands where the store says, its open window rebuilt from the log."""
        return self._patiently(lambda: self._load_once(partition), f"loading partition {partition}")

    def _load_once(self, partition: int) -> _Owned:
        stored = self._store.read(partition)
        start = (0, 0)
        if stored is None or stored.definitions != self.definitions:
            if stored is not None:
                log.warning(
                    "partition %d was counted with %s, this worker counts with %s: counting again from the log",
                    partition, stored.definitions, self.definitions, extra={"partition": partition},
                )  # fmt: skip
            start = self._log_start(partition)
        counter = PartitionCounter(partition, self.definitions, stored, start=start)
        if counter.rebuild is not None:
            ranges = counter.rebuild
            for topic, read, (low, high) in (
                (IMPRESSIONS, counter.read_impressions, ranges[0]),
                (CLICKS, counter.read_clicks, ranges[1]),
            ):
                for messages in read_range(self.settings, topic, partition, low, high):
                    read(messages)
            counter.rebuilt(self._store)
            self.totals.rebuilt += 1
            (i0, i1), (c0, c1) = ranges
            log.info(
                "partition %d: rebuilt from impressions %d–%d, clicks %d–%d", partition, i0, i1, c0, c1,
                extra={"partition": partition, "offsets": {IMPRESSIONS: [i0, i1], CLICKS: [c0, c1]}},
            )  # fmt: skip
        return _Owned(counter, self._generation)

    def _log_start(self, partition: int) -> tuple[int, int]:
        """First offsets of the two logs. Raises LogTruncated when their beginning is gone."""
        starts = []
        for topic in (IMPRESSIONS, CLICKS):
            low, _ = self._consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=10)
            if low > 0 and not self.settings.accept_truncated:
                raise LogTruncated(
                    f"{topic}[{partition}]: the counts must start at offset 0, the log starts at {low}; "
                    "set SLUICE_ACCEPT_TRUNCATED=1 to count from there (the counts then say so)"
                )
            starts.append(low)
        return starts[0], starts[1]

    def _patiently(self, action: Callable[[], T], what: str) -> T:
        """Retry while the broker or Redis is away or moves on: one line when it starts, one when it ends."""
        wait_s, started = 0.1, 0.0
        while True:
            try:
                result = action()
            except (RedisError, KafkaException, TransportError, Fenced) as error:
                if self._stopping():
                    raise TransportError(f"{what}: {error}") from error
                if not started:
                    started = time.monotonic()
                    log.warning("%s: %s; trying again until it answers", what, error)
                self._sleep(wait_s)
                wait_s = min(2 * wait_s, 5.0)
            else:
                if started:
                    log.warning("%s: went on after %.1f s", what, time.monotonic() - started)
                return result

    def _sleep(self, seconds: float) -> None:
        """Sleep, or less when the worker is told to stop meanwhile."""
        until = time.monotonic() + seconds
        while not self._stopping() and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))

    def _reload(self, partition: int) -> None:
        """Drop all memory of a partition and take it up again from the store."""
        self._generation += 1
        self._resume(partition, self._owned[partition])
        self._owned[partition] = self._load(partition)
        for place in self._places([partition]):
            self._consumer.seek(place)

    # -- counting ----------------------------------------------------------------------------------

    def poll(self, max_records: int = 10_000, timeout_s: float = 0.1) -> Batch:
        """The next records, perhaps none. Partitions are given and taken inside this call."""
        messages = self._consumer.consume(max_records, timeout_s)
        if any(map(Message.error, messages)):
            for message in messages:
                error = message.error()
                if error is not None and error.code() == KafkaError._AUTO_OFFSET_RESET:
                    self._raise_truncated(message)
                elif error is not None:
                    complain(error)
            messages = [message for message in messages if message.error() is None]
        self._fetched += 1
        return Batch(messages, self._generation, self._fetched)

    def _raise_truncated(self, message: Message) -> None:
        topic, partition, offset = str(message.topic()), message.partition() or 0, message.offset()
        low, high = self._consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=10)
        raise LogTruncated(f"{topic}[{partition}]: offset {offset} is next, the log holds {low} to {high}")

    def process(self, batch: Batch) -> None:
        """Count a batch and commit every partition it moved."""
        self._processed += 1
        if batch.number != self._processed:
            raise TransportError(f"batch {self._processed} was lost on its way, {batch.number} came instead")
        moved: dict[int, _Owned] = {}
        for partition, run in groupby(batch.messages, Message.partition):
            assert partition is not None
            owned = self._owned.get(partition)
            if owned is None or batch.generation < owned.generation:
                continue  # fetched before the partition was let go or taken up again: it is read anew
            for topic, records in groupby(run, Message.topic):
                if topic == CLICKS:
                    owned.clicks.extend(records)
                elif fresh := _not_before(owned.counter.offsets[0], list(records)):
                    owned.counter.read_impressions(fresh)
                    moved[partition] = owned
        fetched = len(batch.messages)
        # Freed here, on the thread that made them: elsewhere their memory is fought over with the client's threads.
        batch.messages.clear()
        for partition, owned in self._owned.items():
            if owned.clicks and self._read_clicks(partition, owned, idle=not fetched):
                moved[partition] = owned
        self.totals.records += fetched
        if moved:
            self._commit(moved)
        self._bound_memory()
        self._publish()
        self._outbox.serve()
        self._measure()

    def _read_clicks(self, partition: int, owned: _Owned, *, idle: bool) -> bool:
        """Read fetched clicks, but not ahead of impressions that are known to be in the log; True if any.

        The counts do not depend on it. A click that is read before its impression is kept and joined later,
        which costs three times as much.
        """
        core, clicks = owned.counter.core, owned.clicks
        _, end = self._consumer.get_watermark_offsets(TopicPartition(IMPRESSIONS, partition), cached=True)
        free = idle or 0 <= end <= core.impressions_offset or owned.paused == IMPRESSIONS
        any_read = False
        while clicks and (
            free or len(clicks) > MAX_CLICKS_AHEAD or core.clicks_watermark <= core.impressions_watermark
        ):
            count = len(clicks) if free else min(len(clicks), CLICKS_AT_ONCE)
            fresh = _not_before(core.clicks_offset, [clicks.popleft() for _ in range(count)])
            if fresh:
                owned.counter.read_clicks(fresh)
                any_read = True
        return any_read

    def _commit(self, moved: dict[int, _Owned]) -> None:
        begun = time.perf_counter()
        updates: list[PartitionUpdate] = []
        rejected: list[tuple[int, Rejected]] = []
        try:
            for partition, owned in moved.items():
                try:
                    update, refused = owned.counter.prepare(self._store)
                except Fenced as reason:
                    self._fenced(partition, reason)
                    continue
                updates.append(update)
                rejected += [(partition, one) for one in refused]
            self._outbox.bury(rejected)
            self.totals.dead_letters += len(rejected)
            for _, one in rejected:
                self._metrics.count("sluice_dead_letters_total", one.topic, one.reason)
            answers = self._store.commit(updates)
        except RedisError as error:
            # Whether the call was carried out is unknown: what the store says counts, not this memory.
            if not self._commits_failed:
                log.warning(
                    "commit failed, partitions %s start again from the store: %s", sorted(moved), error,
                    extra={"partitions": sorted(moved)},
                )  # fmt: skip
            # A Redis that answers but takes no writes (out of memory, read-only) would be asked without end.
            self._sleep(min(0.1 * 2**self._commits_failed, 5.0))
            self._commits_failed += 1
            for partition in moved:
                self._reload(partition)
            return
        if self._commits_failed:
            log.warning("commits go on after %d refused ones", self._commits_failed)
            self._commits_failed = 0
        self._metrics.observe("sluice_commit_seconds", time.perf_counter() - begun)
        for update, answer in zip(updates, answers, strict=True):
            owned = moved[update.partition]
            if isinstance(answer, Fenced):
                self._fenced(update.partition, answer)
            else:
                owned.counter.committed(update)
                owned.snapshot_due = True
                self.totals.commits += 1

    def _fenced(self, partition: int, reason: Fenced) -> None:
        log.warning("fenced: %s", reason, extra={"partition": partition})
        self.totals.fenced += 1
        self._reload(partition)

    def _publish(self, *, force: bool = False) -> None:
        """A snapshot of every partition that moved, at most every SNAPSHOT_EVERY_S."""
        now = time.monotonic()
        for owned in self._owned.values():
            if owned.snapshot_due and (force or now - owned.snapshot_at >= SNAPSHOT_EVERY_S):
                self._outbox.publish(owned.counter.snapshot())
                owned.snapshot_due, owned.snapshot_at = False, now

    # -- memory ------------------------------------------------------------------------------------

    @property
    def held(self) -> int:
        """Open impressions and waiting clicks in memory."""
        return sum(owned.counter.held for owned in self._owned.values())

    def _bound_memory(self) -> None:
        """At the limit, read only the topic that is behind; its progress closes what is held."""
        held, limit = self.held, self.settings.max_held
        self.totals.stalled = []
        if held >= limit:
            for partition, owned in self._owned.items():
                if not owned.counter.held:
                    self._resume(partition, owned)
                    continue
                core = owned.counter.core
                behind_first = core.impressions_watermark <= core.clicks_watermark
                ahead, behind = (CLICKS, IMPRESSIONS) if behind_first else (IMPRESSIONS, CLICKS)
                self.totals.stalled.append(f"{behind}[{partition}]")
                if owned.paused != ahead:
                    self._resume(partition, owned)
                    self._consumer.pause([TopicPartition(ahead, partition)])
                    owned.paused = ahead
                    log.warning(
                        "memory limit of %d held records: reading only %s of partition %d; "
                        "if that topic is silent, a heartbeat on it moves this on",
                        limit, behind, partition, extra={"topic": behind, "partition": partition},
                    )  # fmt: skip
        elif held < limit * MEMORY_RESUME:
            for partition, owned in self._owned.items():
                self._resume(partition, owned)

    def _resume(self, partition: int, owned: _Owned) -> None:
        if owned.paused:
            self._consumer.resume([TopicPartition(owned.paused, partition)])
            owned.paused = ""

    # -- the rest ----------------------------------------------------------------------------------

    def _measure(self) -> None:
        """How far the logs are ahead, as the fetches told, once a second."""
        now = time.monotonic()
        if now - self._measured_s >= LAG_EVERY_S:
            self._measured_s = now
            ends = {
                (topic, partition): (end_of(self._consumer, topic, partition), offset)
                for partition, owned in self._owned.items()
                for topic, offset in zip((IMPRESSIONS, CLICKS), owned.counter.offsets, strict=True)
            }
            self._lags = {place: max(0, end - offset) for place, (end, offset) in ends.items() if end is not None}

    def readings(self) -> Reading:
        """What is told of the counting, on any thread."""
        yield from counting_readings(self.totals, self.settings.max_held, [*self._owned.items()], self._lags)

    def state(self) -> dict[str, Any]:
        """For the web page: what is owned, where it stands, what was done."""
        return {
            "partitions": {
                partition: {"offsets": owned.counter.offsets, "held": owned.counter.held, "paused": owned.paused}
                for partition, owned in self._owned.items()
            },
            **vars(self.totals),
        }

    def close(self) -> None:
        """Publish the last snapshots and leave the group. What was not committed is read again by the next."""
        try:
            self._publish(force=True)
            self._outbox.close()
        finally:
            self._consumer.close()


def _not_before(offset: int, records: list[Message]) -> list[Message]:
    """`records` from `offset` on: reading one twice would count it twice, whatever made the client bring it again."""
    first = records[0].offset()
    if first is not None and first >= offset:
        return records
    return [record for record in records if (record.offset() or 0) >= offset]
