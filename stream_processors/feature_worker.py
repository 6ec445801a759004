"""`sluice features`: a process that reads both topics whole and keeps the features in Redis. Library: confluent-kafka.

One at a time: items belong to all partitions. A second keeper takes over, and the first one ends.
"""

from __future__ import annotations

import logging
import threading
import time

from sluice.adapters.features import FeatureKeeping, FeatureStore
from sluice.adapters.kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
    consumer,
    end_offsets,
    partition_count,
)
from sluice.adapters.metrics import Reading
from sluice.adapters.redis import wait_for_redis
from sluice.errors import InvalidEvent, LogTruncated, TransportError
from sluice.names import Keys
from sluice.settings import Settings
from stream_processors.feature_keeper import TOPICS, FeatureKeeper
from stream_processors.readings import Lags, end_of, lag_readings
from stream_processors.worker import definitions_of

__all__ = ["FeatureWorker"]

log = logging.getLogger(__name__)

BATCH = 10_000
POLL_S = 0.05
FIRST_WAIT_S, LONGEST_WAIT_S = 0.1, 5.0
MAX_OPEN = 50_000
"""Slates held before those topic partitions wait whose slates cannot end yet: about 150 MB"""
RESUME = 0.9


class FeatureWorker:
    """Owns a consumer of both topics. One thread uses it."""

    def __init__(self, settings: Settings) -> None:
        """Connects. Raises TransportError when the broker or Redis does not answer."""
        keys, self._client = Keys(settings.prefix), wait_for_redis(settings)
        self._keeping = FeatureKeeping(self._client, keys)
        self._settings, self._definitions = settings, definitions_of(settings)
        self._keeper = FeatureKeeper(
            FeatureStore(self._client, keys), self._keeping, self._definitions, lambda: time.time_ns() // 1_000_000
        )
        self._consumer: Consumer = consumer(
            settings,
            overrides={
                # What the log no longer holds is missing in the features: that is said, or accepted by setting.
                "auto.offset.reset": "error",
                "fetch.wait.max.ms": 20,
            },
        )
        self._paused: set[tuple[int, int]] = set()
        self._lags: Lags = {}
        self.keeping = False
        """True while the states are ours and nothing is away"""

    def reset(self) -> None:
        """Forget all states, so that `run` begins with the log's beginning. Raises TransportError."""
        self._keeping.reset()

    def run(self, stop: threading.Event) -> None:
        """Keep the features until `stop` is set. Servers that go away are waited for.

        Raises Fenced when another keeper has taken over, LogTruncated when the log does not reach back far enough,
        ConfigError when the states are those of another version of the features.
        """
        wait_s, failed_s = FIRST_WAIT_S, 0.0
        while not stop.is_set():
            try:
                if self._take_up(stop):
                    if failed_s:
                        log.warning("features: went on after %.1f s", time.monotonic() - failed_s)
                    wait_s, failed_s, self.keeping = FIRST_WAIT_S, 0.0, True
                    while not stop.is_set():
                        self._step()
            except (TransportError, KafkaException, InvalidEvent) as error:
                self.keeping = False
                if not failed_s:
                    failed_s = time.monotonic()
                    log.warning("features stay as they are: %s; trying again until it works", error)
                stop.wait(wait_s)
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    def readings(self) -> Reading:
        """What is told of the keeping, on any thread."""
        yield from lag_readings("features", self._lags)
        yield "sluice_features_open_slates", (), self._keeper.joiner.open
        progress = self._keeper.progress
        if progress is None:
            return
        yield "sluice_features_slates_total", (), progress.slates
        yield "sluice_features_progress_timestamp_seconds", (), progress.at_ms / 1000
        if progress.applied_ms >= 0:
            yield "sluice_features_applied_timestamp_seconds", (), progress.applied_ms / 1000

    def close(self) -> None:
        self._consumer.close()
        self._client.close()

    def _take_up(self, stop: threading.Event) -> bool:
        told = False
        while not self._keeper.take_up(self._firsts()):
            if not told:
                log.warning("features wait for a catalogue of the items: `sluice register --features all` writes it")
                told = True
            if stop.wait(1.0):
                return False
        # Looked up after the states are ours: the keeper before may have read on until then.
        joiner, logs = self._keeper.joiner, self._logs()
        for place, (low, high) in logs.items():
            if not low <= joiner.offset(*place) <= high:
                self._truncated(place, joiner.offset(*place), low, high)
                joiner.skip_to(*place, low)
        self._consumer.assign([TopicPartition(TOPICS[t], p, joiner.offset(t, p)) for t, p in logs])
        self._paused = set()
        offsets = {f"{TOPICS[t]}[{p}]": joiner.offset(t, p) for t, p in logs}
        log.info("keeping features, reading from %s", offsets, extra={"offsets": offsets})
        return True

    def _firsts(self) -> list[tuple[int, int]]:
        """First offsets of both topics, by partition."""
        logs = self._logs()
        return [(logs[0, p][0], logs[1, p][0]) for p in range(len(logs) // len(TOPICS))]

    def _logs(self) -> dict[tuple[int, int], tuple[int, int]]:
        """(topic, partition) → (first, next) offset of the log, looked up: not every broker refuses other offsets."""
        counts = [partition_count(self._consumer, topic) for topic in TOPICS]
        if counts[0] != counts[1]:
            raise TransportError(f"topics {' and '.join(TOPICS)} must have equally many partitions, not {counts}")
        return {
            (number, p): marks
            for number, topic in enumerate(TOPICS)
            for p, marks in end_offsets(self._consumer, topic, range(counts[0])).items()
        }

    def _truncated(self, place: tuple[int, int], offset: int, low: int, high: int) -> None:
        text = (
            f"{TOPICS[place[0]]}[{place[1]}]: offset {offset} is next for the features, the log holds {low} to {high}"
        )
        if not self._settings.accept_truncated:
            raise LogTruncated(
                f"{text}; go on with what is there by SLUICE_ACCEPT_TRUNCATED=1, or begin anew with "
                "`sluice features --rebuild`"
            )
        extra = {"topic": TOPICS[place[0]], "partition": place[1], "offsets": [offset, low]}
        log.warning("%s; going on from %d", text, low, extra=extra)

    def _step(self) -> None:
        messages = self._consumer.consume(BATCH, POLL_S)
        logs: dict[tuple[int, int], list[Message]] = {}
        for message in messages:
            self._check(message)
            if message.error() is None:
                logs.setdefault((TOPICS.index(str(message.topic())), message.partition() or 0), []).append(message)
        for (topic, partition), records in logs.items():
            after = self._keeper.joiner.offset(topic, partition)
            self._keeper.read(topic, partition, [record for record in records if (record.offset() or 0) >= after])
        while self._keeper.learn(self._lag()):
            pass
        self._bound_memory()

    def _check(self, message: Message) -> None:
        error = message.error()
        if error is None:
            return
        if error.code() == KafkaError._AUTO_OFFSET_RESET:
            # Overtaken by retention while reading: taking up again says so, or goes on behind the gap.
            raise TransportError(f"{message.topic()}[{message.partition()}]: {error.str()}")
        if error.fatal() or error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
            raise TransportError(f"topic {message.topic()}: {error.str()}")

    def _lag(self) -> int:
        joiner = self._keeper.joiner
        for topic, p in joiner.places():
            end = end_of(self._consumer, TOPICS[topic], p)
            if end is not None:
                self._lags[TOPICS[topic], p] = max(0, end - joiner.offset(topic, p))
        return sum(self._lags.values())

    def _bound_memory(self) -> None:
        """With many slates open, read on only where it can end some of them."""
        joiner = self._keeper.joiner
        ahead = set()
        if joiner.open >= MAX_OPEN * (RESUME if self._paused else 1):
            reach = self._definitions.window_ms + self._definitions.lateness_ms
            ahead = {place for place in joiner.places() if joiner.ahead(*place) > reach}
        self._consumer.pause([TopicPartition(TOPICS[t], p) for t, p in ahead - self._paused])
        self._consumer.resume([TopicPartition(TOPICS[t], p) for t, p in self._paused - ahead])
        self._paused = ahead
