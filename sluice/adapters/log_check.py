"""Whether a log still holds what was once acknowledged. Library: confluent-kafka."""

from __future__ import annotations

import time
from collections.abc import Mapping

from sluice.adapters.kafka import TopicPartition, consumer, partition_count
from sluice.settings import Settings

__all__ = ["log_reaches"]


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
