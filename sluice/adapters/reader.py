"""Reading a whole topic by direct assignment: no consumer group, so every reader sees every record."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from sluice.adapters.kafka import KafkaError, Message, TopicPartition, consumer, end_offsets, partition_count
from sluice.errors import LogTruncated, TransportError
from sluice.settings import Settings

__all__ = ["TopicReader", "read_latest", "read_range"]


class TopicReader:
    """All partitions of one topic, from the start or from now on. Use as a context manager.

    Not thread-safe. Reading starts at construction: with `from_start=False`, records written after the
    constructor returned are seen, all of them, and before them the `last` ones of each partition.
    """

    def __init__(
        self, settings: Settings, topic: str, *, from_start: bool, last: int = 0, timeout_s: float = 15.0
    ) -> None:
        self.topic = topic
        self._consumer = consumer(settings, overrides={"fetch.wait.max.ms": 50})
        try:
            count = partition_count(self._consumer, topic, timeout_s)
            marks = end_offsets(self._consumer, topic, range(count)).items()
        except BaseException:
            self._consumer.close()
            raise
        self._next = {p: low if from_start else max(low, high - last) for p, (low, high) in marks}
        self.whole = all(self._next[p] == low for p, (low, _) in marks)
        """Whether reading starts with the first record that the log still holds."""
        self.ends = {p: high for p, (_, high) in marks}
        """Partition → next offset of the log when the reader was made."""
        self._consumer.assign([TopicPartition(topic, p, offset) for p, offset in self._next.items()])

    def poll(self, timeout_s: float = 0.2, max_records: int = 10_000) -> list[Message]:
        """The records that arrived, perhaps none. Raises TransportError for what cannot heal by waiting."""
        records = []
        # `consume` waits until it has as many as it was asked for: ask for one, then for what is there besides.
        messages = self._consumer.consume(1, timeout_s)
        if messages and max_records > 1:
            messages += self._consumer.consume(max_records - 1, 0)
        for message in messages:
            error = message.error()
            if error is None:
                partition, offset = message.partition(), message.offset()
                assert partition is not None and offset is not None
                self._next[partition] = offset + 1
                records.append(message)
            elif error.fatal() or error.code() in (
                KafkaError.TOPIC_AUTHORIZATION_FAILED,
                KafkaError.UNKNOWN_TOPIC_OR_PART,
            ):
                raise TransportError(f"topic {self.topic}: {error.str()}")
        return records

    @property
    def caught_up(self) -> bool:
        """True once everything that was in the topic at construction has been returned."""
        return all(self.reached(p, end) for p, end in self.ends.items())

    def reached(self, partition: int, offset: int) -> bool:
        """True once every record of the partition before `offset` has been returned."""
        return self._position(partition) >= offset

    def rest(self, idle_s: float = 30.0) -> Iterator[Message]:
        """What the topic held at construction and `poll` has not returned. Then `caught_up` is true.

        Records written since may follow. Raises TransportError when nothing arrives for `idle_s`.
        """
        deadline = time.monotonic() + idle_s
        while not self.caught_up:
            for message in self.poll(0.1):
                yield message
                deadline = time.monotonic() + idle_s
            if time.monotonic() > deadline:
                raise TransportError(f"topic {self.topic}: no record for {idle_s:g} s before its end was reached")

    def _position(self, partition: int) -> int:
        # Compaction leaves gaps, so the last record's offset may never reach the end: the client's position does.
        (place,) = self._consumer.position([TopicPartition(self.topic, partition)])
        return max(self._next[partition], place.offset)

    def close(self) -> None:
        self._consumer.close()

    def __enter__(self) -> TopicReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_latest(
    settings: Settings, topic: str, accept: Callable[[bytes, bytes], bool] = lambda key, value: True
) -> dict[bytes, bytes]:
    """Key → latest value of a compacted topic as it stands now; deleted keys are left out.

    A record that `accept` refuses is passed over: the one before it still stands. Raises TransportError when the
    broker is away.
    """
    latest: dict[bytes, bytes] = {}
    with TopicReader(settings, topic, from_start=True) as reader:
        for message in reader.rest():
            key, value = message.key() or b"", message.value()
            if value is None:
                latest.pop(key, None)
            elif accept(key, value):
                latest[key] = value
    return latest


def read_range(
    settings: Settings, topic: str, partition: int, start: int, stop: int, *, idle_s: float = 30.0
) -> Iterator[list[Message]]:
    """The records of one partition with start ≤ offset < stop, in batches, in order.

    Raises LogTruncated, with the numbers, when the log does not hold all of the range, and TransportError
    when nothing arrives for `idle_s`.
    """
    if start >= stop:
        return
    # Enough to keep a fast reader busy; by default one that reads slowly first makes the broker send it 64 MB.
    client = consumer(settings, overrides={"fetch.wait.max.ms": 50, "queued.max.messages.kbytes": 8192})
    try:
        low, high = end_offsets(client, topic, [partition])[partition]
        if start < low or stop > high:
            raise LogTruncated(
                f"{topic}[{partition}]: offsets {start} to {stop} are needed, the log holds {low} to {high}"
            )
        client.assign([TopicPartition(topic, partition, start)])
        deadline = time.monotonic() + idle_s
        while True:
            batch = [message for message in client.consume(10_000, 0.1) if message.error() is None]
            # The end may fall into a gap (compaction, transactions), where no record ever reaches it.
            (place,) = client.position([TopicPartition(topic, partition)])
            wanted = [message for message in batch if (message.offset() or 0) < stop]
            if wanted:
                deadline = time.monotonic() + idle_s
                yield wanted
            if len(wanted) < len(batch) or place.offset >= stop:
                return
            if time.monotonic() > deadline:
                raise TransportError(f"{topic}[{partition}]: no record for {idle_s:g} s at offset {place.offset}")
    finally:
        client.close()
