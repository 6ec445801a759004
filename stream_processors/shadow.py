"""Sums of what shadows said, from topic `shadow` into Redis: a function of the log. Library: confluent-kafka.

The sums of a partition and the offset they reach to are one hash, written by one call that checks the offset they were
continued from: after any kill the next one goes on there, and two at once cannot count a record twice. It runs beside
the counting and never disturbs it.
"""

from __future__ import annotations

import logging
import threading
import time

from sluice.adapters.kafka import Consumer, KafkaException, Message, TopicPartition, consumer, end_offsets
from sluice.adapters.logs import Seldom
from sluice.adapters.redis import connect
from sluice.adapters.shadow import ShadowStore
from sluice.domain.events import decode
from sluice.domain.shadow import ShadowCompared, ShadowKey, ShadowSums
from sluice.errors import Fenced, InvalidEvent, TransportError
from sluice.names import SHADOW, Keys
from sluice.settings import Settings
from stream_processors.readings import Lags, end_of

__all__ = ["ShadowCounter", "run_shadow"]

log = logging.getLogger(__name__)

BATCH = 10_000
POLL_S = 0.2
FIRST_WAIT_S, LONGEST_WAIT_S = 0.2, 10.0


def run_shadow(settings: Settings, stop: threading.Event, lags: Lags) -> None:
    """Count until `stop` is set; `lags` is kept up to date. Whatever fails is begun again from what Redis says."""
    wait_s, failed_s = FIRST_WAIT_S, 0.0
    while not stop.is_set():
        try:
            with ShadowCounter(settings) as counter:
                while not stop.is_set():
                    counter.step()
                    _replace(lags, counter.lags())
                    if failed_s and lags:
                        log.warning("shadows: went on after %.1f s", time.monotonic() - failed_s)
                        wait_s, failed_s = FIRST_WAIT_S, 0.0
        except (TransportError, Fenced, KafkaException) as error:
            if not failed_s:
                failed_s = time.monotonic()
                log.warning("shadows are not counted: %s; trying again until it works", error)
            stop.wait(wait_s)
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)


def _replace(lags: Lags, now: Lags) -> None:
    lags.update(now)
    for place in lags.keys() - now.keys():
        del lags[place]


class ShadowCounter:
    """Counts the partitions that the consumer group gives it. One thread uses it, with `with`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client = connect(settings)
        self._store = ShadowStore(self._client, Keys(settings.prefix))
        self._next: dict[int, int] = {}
        self._sums: dict[int, dict[ShadowKey, ShadowSums]] = {}
        self._failed: Exception | None = None
        self._seldom = Seldom()
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

    def lags(self) -> Lags:
        """Of the partitions that it counts, as far as fetches have told where their logs end."""
        ends = {partition: end_of(self._consumer, SHADOW, partition) for partition in self._next}
        return {(SHADOW, p): max(0, end - self._next[p]) for p, end in ends.items() if end is not None}

    def _count(self, partition: int, records: list[Message]) -> None:
        sums = self._sums[partition]
        changed = set()
        for message in records:
            try:
                record = decode(message.value(), ShadowCompared)
            except InvalidEvent as error:
                if (more := self._seldom(partition)) is not None:
                    log.warning(
                        "topic %s[%d]: offset %s is skipped: %s%s", SHADOW, partition, message.offset(), error, more,
                        extra={"topic": SHADOW, "partition": partition, "offset": message.offset()},
                    )  # fmt: skip
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
