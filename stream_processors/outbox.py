"""What the counting worker writes to Kafka: dead letters, which must arrive, and snapshots, which may be overtaken."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from sluice.adapters.kafka import KafkaError, KafkaException, Message, producer
from sluice.domain.events import DeadLetter, StatsPublished, encode
from sluice.errors import TransportError
from sluice.names import DEAD_LETTERS, MAX_LETTER_BYTES, VARIANT_STATS
from sluice.settings import Settings
from stream_processors.attribution import Rejected

__all__ = ["Outbox"]

log = logging.getLogger(__name__)


class Outbox:
    """One producer. Not thread-safe."""

    def __init__(self, settings: Settings, stopping: Callable[[], bool]) -> None:
        # A broker that is away is waited for, however long: an unsent dead letter must not stop the counting.
        self._producer = producer(settings, {"message.timeout.ms": 0, "message.max.bytes": MAX_LETTER_BYTES})
        self._stopping = stopping
        self._refused: list[str] = []
        self._too_large: set[int] = set()

    def bury(self, rejected: Sequence[tuple[int, Rejected]]) -> None:
        """Return once all of (partition, record) are on the broker: before the commit that counts them.

        Raises TransportError when the broker refuses one, or when the worker is stopped while it waits.
        """
        if not rejected:
            return
        for partition, one in rejected:
            letter = DeadLetter(
                topic=one.topic,
                partition=partition,
                offset=one.offset,
                reason=one.reason,
                detail=one.detail,
                key=one.key,
                value=one.value,
            )
            self._produce(DEAD_LETTERS, one.key, encode(letter))
        while self._producer.flush(1.0):
            if self._stopping():
                raise TransportError("stopped while dead letters were not on the broker yet")
        if self._refused:
            raise TransportError(f"dead letters were refused: {self._refused.pop()}")

    def publish(self, snapshot: StatsPublished) -> None:
        """Send it, or say once that it has grown too large: counting goes on, and Redis has the counters."""
        value = encode(snapshot)
        try:
            self._produce(VARIANT_STATS, str(snapshot.partition).encode(), value)
        except KafkaException as error:
            if snapshot.partition not in self._too_large:
                self._too_large.add(snapshot.partition)
                reason = error.args[0].str()
                size, cells = len(value), len(snapshot.cells)
                log.error("partition %d: snapshots of %d bytes, %d cells: %s", snapshot.partition, size, cells, reason)

    def serve(self) -> None:
        """Take delivery reports; call it often."""
        self._producer.poll(0)

    def close(self) -> None:
        self._producer.flush(5)

    def _produce(self, topic: str, key: bytes, value: bytes) -> None:
        while True:
            try:
                self._producer.produce(topic, value, key, on_delivery=self._delivered)
                return
            except BufferError:
                self._producer.poll(0.1)

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is None:
            return
        if message.topic() == DEAD_LETTERS:
            self._refused.append(error.str())
        else:
            log.warning("a snapshot was refused: %s", error.str())  # the next one says all that it said
