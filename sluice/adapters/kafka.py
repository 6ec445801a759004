"""Kafka clients with the settings Sluice depends on. Library: confluent-kafka (librdkafka)."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from sluice.errors import ConfigError, TransportError
from sluice.names import TOPICS
from sluice.settings import Settings

__all__ = ["Consumer", "KafkaError", "KafkaException", "Message", "Producer", "TopicPartition"]
__all__ += ["cluster_id", "complain", "consumer", "end_offsets", "ensure_topics", "errors_told", "is_away"]
__all__ += ["missing_topics", "partition_count", "producer", "wait_for_broker"]

log = logging.getLogger(__name__)

C = TypeVar("C")

# One partitioner for everybody: librdkafka's own default would send a user elsewhere than Java clients
# and Faust do, and the two topics of a unit would no longer meet in one partition.
PARTITIONER = "murmur2_random"


_NO_LEADER_YET = (KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE)


class _Complaints:
    """Errors of this process' clients: all are counted, and told once each half minute however many complain."""

    EVERY_S = 30.0
    AWAY_S = 10.0
    """While no broker answers the clients say so at least so often: they try again every two seconds"""

    def __init__(self) -> None:
        self._last: dict[str, float] = {}
        self.counts: Counter[str] = Counter()
        self.down_at_s = -math.inf

    def __call__(self, error: KafkaError) -> None:
        self.counts[error.name()] += 1
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self.down_at_s = time.monotonic()
        if error.code() in (KafkaError._TRANSPORT, KafkaError._RESOLVE) and not error.fatal():
            return  # one connection of several; when it was the last, _ALL_BROKERS_DOWN follows
        now = time.monotonic()
        if now - self._last.get(error.name(), -self.EVERY_S) >= self.EVERY_S:
            self._last[error.name()] = now
            down = error.code() == KafkaError._ALL_BROKERS_DOWN
            log.warning("Kafka: %s; retrying", "no broker answers" if down else error.str())


complain = _Complaints()
"""What a client that has no callback of its own does with errors that need nobody to act"""


def errors_told() -> dict[str, int]:
    """Name of an error → how often the clients of this process told it."""
    return dict(complain.counts)


def is_away() -> bool:
    """Whether clients of this process have said within ten seconds that no broker answers."""
    return time.monotonic() - complain.down_at_s < complain.AWAY_S


def _common(settings: Settings) -> dict[str, Any]:
    return {
        "bootstrap.servers": settings.require_kafka(),
        # Without this librdkafka prints a line for every failed connection, twenty a second; see _Complaints.
        "log_level": 2,
        "reconnect.backoff.max.ms": 2000,
        **settings.kafka_config,
    }


def _made(client: Callable[[dict[str, Any]], C], config: dict[str, Any]) -> C:
    try:
        return client(config)
    except KafkaException as error:
        if error.args[0].code() == KafkaError._INVALID_ARG:
            raise ConfigError(f"SLUICE_KAFKA_CONFIG: {error.args[0].str()}") from error
        raise


def _admin(settings: Settings) -> AdminClient:
    return _made(AdminClient, _common(settings))


def producer(settings: Settings, overrides: Mapping[str, Any] | None = None) -> Producer:
    """Idempotent, acks=all; a record is either in the log once or reported as failed. Raises ConfigError."""
    return _made(
        Producer,
        {
            **_common(settings),
            "error_cb": complain,
            "partitioner": PARTITIONER,
            "enable.idempotence": True,
            "acks": "all",
            "linger.ms": 5,
            "compression.type": "lz4",
            "queue.buffering.max.messages": 200_000,
            **(overrides or {}),
        },
    )


def consumer(
    settings: Settings, *, group: str = "sluice-readers", overrides: Mapping[str, Any] | None = None
) -> Consumer:
    """Never commits offsets to the broker: where a reader stands is kept beside what it computed."""
    return _made(
        Consumer,
        {
            **_common(settings),
            "error_cb": complain,
            "group.id": group,
            "enable.auto.commit": False,
            "enable.partition.eof": False,
            "auto.offset.reset": "earliest",
            # By default a full queue of fetched records is left alone for a second, in which a fast reader
            # empties it and then waits.
            "fetch.queue.backoff.ms": 10,
            **(overrides or {}),
        },
    )


def wait_for_broker(settings: Settings, timeout_s: float = 15.0) -> None:
    """Return once the broker answers. Raises TransportError after `timeout_s`."""
    admin = _admin(settings)
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            admin.list_topics(timeout=min(2.0, timeout_s))
            return
        except KafkaException as error:
            if time.monotonic() >= deadline:
                raise TransportError(
                    f"no Kafka broker answers at {settings.kafka} within {timeout_s:g} s: {error.args[0].str()}"
                ) from error
            time.sleep(0.05)


def cluster_id(settings: Settings, timeout_s: float = 10.0) -> str:
    """The id of the cluster that answers. Raises TransportError when none does."""
    try:
        found: str | None = _admin(settings).list_topics(timeout=timeout_s).cluster_id
    except KafkaException as error:
        raise TransportError(f"no Kafka broker answers at {settings.kafka}: {error.args[0].str()}") from error
    return found or ""


def missing_topics(settings: Settings) -> list[str]:
    """Those of our topics that the broker does not have. Raises TransportError when it is away."""
    wait_for_broker(settings)
    existing = _admin(settings).list_topics(timeout=10).topics
    return [topic.name for topic in TOPICS if topic.name not in existing]


def ensure_topics(settings: Settings, extra: Mapping[str, str] | None = None, *, replication: int = 1) -> None:
    """Create the topics that are missing, with their partitions and retention; leave the others as they are.

    replication: copies of each topic that is created; -1 for the broker's default.
    Raises TransportError when the broker is away, or when `impressions` and `clicks` differ in partitions
    (a user's events would not meet).
    """
    admin = _admin(settings)
    wait_for_broker(settings)
    existing = admin.list_topics(timeout=10).topics
    missing = [
        NewTopic(
            topic.name,
            num_partitions=settings.partitions if topic.keyed_by_user else 1,
            replication_factor=replication,
            config={**topic.config, **(extra or {})},
        )
        for topic in TOPICS
        if topic.name not in existing
    ]
    for name, future in (admin.create_topics(missing) if missing else {}).items():
        try:
            future.result(30)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise TransportError(f"cannot create topic {name}: {error.args[0].str()}") from error
    counts = {topic.name: partition_count(admin, topic.name) for topic in TOPICS if topic.keyed_by_user}
    if len(set(counts.values())) != 1:
        raise TransportError(f"these topics must have equally many partitions: {counts}")


def partition_count(client: Any, topic: str, timeout_s: float = 10.0) -> int:
    """Partitions of `topic`. Raises TransportError when it does not exist or the broker is away."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            found = client.list_topics(topic, timeout=2).topics.get(topic)
            if found is not None and found.error is None and found.partitions:
                return len(found.partitions)
            problem = "it does not exist; `sluice infra up` or `sluice infra topics` creates it"
        except KafkaException as error:
            problem = error.args[0].str()
        if time.monotonic() >= deadline:
            raise TransportError(f"topic {topic}: {problem}")
        time.sleep(0.05)


def end_offsets(
    client: Consumer, topic: str, partitions: Iterable[int], timeout_s: float = 10.0
) -> dict[int, tuple[int, int]]:
    """Partition → (first, next) offset of the log. `client` is left without an assignment.

    Raises KafkaException when the broker is away, TransportError when it does not answer within `timeout_s`.
    """
    places = [TopicPartition(topic, p) for p in partitions]
    deadline = time.monotonic() + timeout_s
    marks = {place.partition: _marks(client, place, deadline) for place in places}
    # Asked for the end, Tansu 0.6 names the first offset of the last *batch*, plus one. The end that comes
    # with a fetch is right on every broker, so fetch the last record that the first answer speaks of.
    unsure = {p: high for p, (low, high) in marks.items() if high > low}
    client.assign([TopicPartition(topic, p, high - 1) for p, high in unsure.items()])
    while unsure:
        client.consume(1, 0.005)
        for place in places:
            p = place.partition
            end = client.get_watermark_offsets(place, cached=True)[1] if p in unsure else -1
            if end >= unsure.get(p, 0) > 0:
                marks[p] = (marks[p][0], end)
                del unsure[p]
        if unsure and time.monotonic() > deadline:
            raise TransportError(f"topic {topic}: no answer about the end of partitions {sorted(unsure)}")
    client.unassign()
    return marks


def _marks(client: Consumer, place: TopicPartition, deadline: float) -> tuple[int, int]:
    while True:
        try:
            return client.get_watermark_offsets(place, timeout=max(0.1, deadline - time.monotonic()))
        except KafkaException as error:
            # Shortly after a topic was made its partitions have no leader yet.
            if error.args[0].code() not in _NO_LEADER_YET or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
