"""Where the logs end, asked again and again: what lag is measured against. Library: confluent-kafka."""

from __future__ import annotations

from collections.abc import Sequence

from sluice.adapters.kafka import KafkaException, consumer, end_offsets, partition_count
from sluice.errors import TransportError
from sluice.settings import Settings

__all__ = ["LogEnds"]


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
