"""Records out to Kafka, none lost silently, and what the broker has acknowledged of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sluice.adapters.kafka import KafkaError, Message, Producer
from sluice.domain.events import Heartbeat, encode
from sluice.errors import TransportError
from sluice.names import ASSIGNMENTS, CLICKS, IMPRESSIONS, RANKINGS, SHADOW

__all__ = ["Emitter", "Epoch"]

POLL_EVERY = 256
FULL_WAIT_S = 0.1
_TOPICS = (IMPRESSIONS, CLICKS, ASSIGNMENTS, RANKINGS, SHADOW)


@dataclass
class Epoch:
    """Records sent between two moments. It is settled once closed and acknowledged to the last."""

    next_slate: int = 0
    """When it was closed, everything of the slates before had been sent."""
    reached_ms: int = 0
    """When it was closed, nothing sent had a later event time."""
    sent: int = 0
    acknowledged: int = 0
    closed: bool = False


@dataclass
class Emitter:
    """Sends through one idempotent producer. Not thread-safe; delivery reports arrive while it sends."""

    producer: Producer
    partitions: int
    offsets: dict[str, dict[int, int]] = field(default_factory=lambda: {topic: {} for topic in _TOPICS})
    """Topic → partition → next offset after the last acknowledged record."""
    sent: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_TOPICS, 0))

    def __post_init__(self) -> None:
        self._epochs: deque[Epoch] = deque([Epoch()])
        self._since_poll = 0
        self._failure: str | None = None
        self._reports = self._make_reports()

    def send(self, topic: str, key: bytes, value: bytes, partition: int = -1, *, told: int = 1) -> None:
        """Queue one record; waits while the queue is full. Raises TransportError when an earlier one failed.

        told: records that it counts for in `sent`.
        """
        while True:
            try:
                self.producer.produce(topic, value, key, partition, self._reports[topic])
                break
            except BufferError:
                self.producer.poll(FULL_WAIT_S)
                self.check()
        self._epochs[-1].sent += 1
        self.sent[topic] += told
        self._since_poll += 1
        if self._since_poll >= POLL_EVERY:
            self._since_poll = 0
            self.producer.poll(0)
            self.check()

    def heartbeat(self, at_ms: int) -> None:
        """Move both topics' watermarks to `at_ms` on every partition."""
        value = encode(Heartbeat(at_ms=at_ms))
        for topic in (IMPRESSIONS, CLICKS):
            for partition in range(self.partitions):
                self.send(topic, b"", value, partition, told=0)

    def close_epoch(self, next_slate: int, reached_ms: int) -> None:
        """Start a new epoch, everything of the slates before `next_slate` and up to `reached_ms` being sent."""
        epoch = self._epochs[-1]
        epoch.next_slate, epoch.reached_ms, epoch.closed = next_slate, reached_ms, True
        self._epochs.append(Epoch())
        self._reports = self._make_reports()

    def settled(self) -> Epoch | None:
        """The latest epoch that is settled together with all before it, if that is news."""
        self.producer.poll(0)
        self.check()
        settled = None
        while self._epochs[0].closed and self._epochs[0].acknowledged == self._epochs[0].sent:
            settled = self._epochs.popleft()
        return settled

    def flush(self, timeout_s: float) -> None:
        """Return once everything is acknowledged. Raises TransportError when something is not."""
        missing = self.producer.flush(timeout_s)
        self.check()
        if missing:
            raise TransportError(f"{missing} records were not acknowledged within {timeout_s:g} s")

    def check(self) -> None:
        """Raises TransportError when a record could not be delivered."""
        if self._failure is not None:
            raise TransportError(f"a record could not be delivered: {self._failure}")

    def _make_reports(self) -> dict[str, Callable[[KafkaError | None, Message], None]]:
        epoch = self._epochs[-1]
        return {topic: self._report(epoch, offsets) for topic, offsets in self.offsets.items()}

    def _report(self, epoch: Epoch, offsets: dict[int, int]) -> Callable[[KafkaError | None, Any], None]:
        def delivered(error: KafkaError | None, message: Any) -> None:
            if error is None:
                # Within a partition reports arrive in the order of the log. A record that was in the log already when
                # it was sent again, after the answer was lost, is reported without its offset.
                partition, offset = message.partition(), message.offset()
                offsets[partition] = offsets.get(partition, 0) + 1 if offset is None else offset + 1
                epoch.acknowledged += 1
            else:
                self._failure = error.str()

        return delivered
