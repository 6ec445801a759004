"""Sums of what shadows said, from topic `shadow` into Redis: a function of the log. Library: confluent-kafka.

The sums of a partition and the offset they reach to are one hash, written by one call that checks the offset they were
continued from: after any kill the next one goes on there, and two at once cannot count a record twice. It runs beside
the counting and never disturbs it.
"""

from __future__ import annotations

import logging
import threading

from sluice.adapters.kafka import Consumer, KafkaException, Message, TopicPartition, consumer, end_offsets
from sluice.adapters.redis import connect
from sluice.adapters.shadow import ShadowStore
from sluice.domain.events import decode
from sluice.domain.shadow import ShadowCompared, ShadowKey, ShadowSums
from sluice.errors import Fenced, InvalidEvent, TransportError
from sluice.names import SHADOW, Keys
from sluice.settings import Settings

__all__ = ["ShadowCounter", "run_shadow"]

log = logging.getLogger(__name__)

BATCH = 10_000
POLL_S = 0.2
FIRST_WAIT_S, LONGEST_WAIT_S = 0.2, 10.0


def run_shadow(settings: Settings, stop: threading.Event) -> None:
    """Count until `stop` is set. Whatever fails is begun again from what Redis says."""
    wait_s = FIRST_WAIT_S
    while not stop.is_set():
        try:
            with ShadowCounter(settings) as counter:
                while not stop.is_set():
                    if counter.step():
                        wait_s = FIRST_WAIT_S
        except (TransportError, Fenced, KafkaException) as error:
            log.warning("shadows are not counted: %s; trying again in %g s", error, wait_s)
            stop.wait(wait_s)
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)


class ShadowCounter:
    """Counts the partitions that the consumer group gives it. One thread uses it, with `with`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client = connect(settings)
        self._store = ShadowStore(self._client, Keys(settings.prefix))
        self._next: dict[int, int] = {}
        self._sums: dict[int, dict[ShadowKey, ShadowSums]] = {}
        self._failed: Exception | None = None
        self._consumer = consumer(
            settings,
            group=f"{settings.prefix}shadow",
            overrides={"session.timeout.ms": 6000, "heartbeat.interval.ms": 1500},
        )
        self._consumer.subscribe([SHADOW], on_assign=self._assigned, on_revoke=self._revoked)

    def step(self) -> int:
        """Count and commit what has come; returns how many records.

        Raises Fenced when another one has counted a partition meanwhile, TransportError when Redis is away: then only
        a new counter knows what holds.
        """
        messages = self._consumer.consume(BATCH, POLL_S)
        if self._failed is not None:
            raise self._failed
        by_partition: dict[int, list[Message]] = {}
        for message in messages:
            partition, offset = message.partition(), message.offset()
            # What was fetched before the partition was given away is somebody else's.
            if message.error() is None and partition in self._next and (offset or 0) >= self._next[partition]:
                by_partition.setdefault(partition, []).append(message)
        for partition, records in by_partition.items():
            self._count(partition, records)
        return sum(map(len, by_partition.values()))

    def _count(self, partition: int, records: list[Message]) -> None:
        sums = self._sums[partition]
        changed = set()
        for message in records:
            try:
                record = decode(message.value(), ShadowCompared)
            except InvalidEvent as error:
                log.warning("topic %s[%d]: offset %s is skipped: %s", SHADOW, partition, message.offset(), error)
                continue
            assert isinstance(record, ShadowCompared)
            key = ShadowKey.of(record)
            sums.setdefault(key, ShadowSums()).take(record)
            changed.add(key)
        before, after = self._next[partition], (records[-1].offset() or 0) + 1
        self._store.commit(partition, before, after, {key: sums[key] for key in changed})
        self._next[partition] = after

    def _assigned(self, client: Consumer, places: list[TopicPartition]) -> None:
        # Called from within `consume`, which would swallow what is raised here.
        try:
            client.assign(self._take_up([place.partition for place in places]))
        except Exception as error:  # noqa: BLE001 - raised by `step`
            self._failed = error

    def _take_up(self, partitions: list[int]) -> list[TopicPartition]:
        """Where to read on."""
        self._next, self._sums = {}, {}
        client = consumer(self._settings)
        try:
            logs = end_offsets(client, SHADOW, partitions)
        finally:
            client.close()
        for partition, (low, high) in logs.items():
            offset, sums = self._store.load(partition)
            if offset > high:
                log.warning(
                    "topic %s[%d]: the log began anew: %d counted, it ends at %d", SHADOW, partition, offset, high
                )
                self._store.reset(partition)
                offset, sums = 0, {}
            elif sums and offset < low:
                log.warning("topic %s[%d]: offsets %d to %d are gone uncounted", SHADOW, partition, offset, low)
            self._next[partition], self._sums[partition] = offset, sums
        return [TopicPartition(SHADOW, p, max(self._next[p], low)) for p, (low, _) in logs.items()]

    def _revoked(self, _: Consumer, places: list[TopicPartition]) -> None:
        self._next, self._sums = {}, {}

    def __enter__(self) -> ShadowCounter:
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()
        self._client.close()
