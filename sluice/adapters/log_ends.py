"""Where the logs end: what lag is measured against, and whether they still hold what was acknowledged once.

Library: confluent-kafka.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from sluice.adapters.kafka import KafkaException, TopicPartition, consumer, end_offsets, partition_count
from sluice.errors import TransportError
from sluice.settings import Settings

__all__ = ["LogEnds", "log_reaches"]


class LogEnds:
    """The next offsets of some topics. One connection, kept; not thread-safe. Use as a context manager."""

    def __init__(self, settings: Settings, topics: Sequence[str]) -> None:
        """Raises TransportError when a topic does not exist or the broker is away."""
        self._client = consumer(settings, overrides={"fetch.wait.max.ms": 20})
        try:
            self._partitions = {topic: range(partition_count(self._client, topic)) for topic in topics}
        except BaseException:
            self._client.close()
            raise

    def read(self) -> dict[int, tuple[int, ...]]:
        """Partition → next offset of each topic, in the order given; all must have equally many partitions.

        Raises TransportError when the broker is away.
        """
        try:
            ends = [end_offsets(self._client, topic, found) for topic, found in self._partitions.items()]
        except KafkaException as error:
            raise TransportError(f"cannot read where the logs end: {error.args[0].str()}") from error
        return {p: tuple(high for _, high in of_topic) for p, of_topic in _by_partition(ends).items()}

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> LogEnds:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _by_partition(ends: Sequence[dict[int, tuple[int, int]]]) -> dict[int, list[tuple[int, int]]]:
    return {p: [of_topic[p] for of_topic in ends] for p in ends[0]}


def log_reaches(settings: Settings, offsets: Mapping[str, Mapping[int, int]], *, timeout_s: float = 5.0) -> bool:
    """True when the records right before `offsets` (topic → partition → next offset) can be read.

    They are read and not looked up: Tansu answers the question where a log ends with the first offset of its
    last batch plus one. Raises TransportError when the broker is away.
    """
    client = consumer(settings, overrides={"auto.offset.reset": "error", "fetch.wait.max.ms": 50})
    try:
        wanted = {(topic, p): offset - 1 for topic, of in offsets.items() for p, offset in of.items() if offset > 0}
        counts = {topic: partition_count(client, topic) for topic, _ in wanted}
        if any(p >= counts[topic] for topic, p in wanted):
            return False
        client.assign([TopicPartition(topic, p, offset) for (topic, p), offset in wanted.items()])
        deadline = time.monotonic() + timeout_s
        while wanted and time.monotonic() < deadline:
            for message in client.consume(1000, 0.1):
                place = (str(message.topic()), int(message.partition() or 0))
                if message.error() is None:
                    wanted.pop(place, None)
                elif place in wanted:
                    return False
        return not wanted
    finally:
        client.close()
