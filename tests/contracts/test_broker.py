"""What Sluice asks of a broker, run on each: whoever fails here cannot carry it."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType  # type: ignore[attr-defined]

from sluice.adapters.kafka import Message, TopicPartition, consumer, ensure_topics, missing_topics, producer
from sluice.adapters.reader import TopicReader, read_latest
from sluice.names import CLICKS, EXPERIMENTS, IMPRESSIONS, LIFECYCLE, TOPICS, VARIANT_STATS
from sluice.settings import Settings

# murmur2 of Java's clients. Hashes: Apache Kafka, clients/src/test/java/org/apache/kafka/common/utils/UtilsTest.java,
# testMurmur2. Partition = (hash & 0x7fffffff) % partitions: BuiltInPartitioner.partitionForKey of the same project.
MURMUR2 = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}

Wait = Callable[..., Any]


def send(settings: Settings, topic: str, records: list[tuple[bytes, bytes]]) -> dict[bytes, set[int]]:
    """Key → partitions it landed on. Fails when a record was not acknowledged."""
    landed: dict[bytes, set[int]] = defaultdict(set)

    def noted(error: object, message: Any) -> None:
        assert error is None, error
        landed[message.key()].add(message.partition())

    client = producer(settings)
    for key, value in records:
        client.produce(topic, value, key, on_delivery=noted)
    assert client.flush(30) == 0
    return landed


def read_all(settings: Settings, topic: str) -> list[Message]:
    with TopicReader(settings, topic, from_start=True) as reader:
        return [message for _ in iter(lambda: reader.caught_up, True) for message in reader.poll()]


def test_topics_have_their_partitions_and_settings(stack: Settings) -> None:
    admin = AdminClient({"bootstrap.servers": stack.kafka})
    found = admin.list_topics(timeout=60).topics
    resources = {topic.name: ConfigResource(ResourceType.TOPIC, topic.name) for topic in TOPICS}
    answers = admin.describe_configs(list(resources.values()))
    for topic in TOPICS:
        assert len(found[topic.name].partitions) == (stack.partitions if topic.keyed_by_user else 1), topic.name
        config = {entry.name: entry.value for entry in answers[resources[topic.name]].result(60).values()}
        assert config.items() >= topic.config.items(), topic.name


def test_topics_are_made_once(stack: Settings) -> None:
    send(stack, CLICKS, [(b"user", b"kept")])
    ensure_topics(stack)
    assert missing_topics(stack) == []
    with TopicReader(stack, CLICKS, from_start=True) as reader:
        assert sum(reader.ends.values()) == 1


def test_a_key_lands_where_java_clients_put_it(stack: Settings) -> None:
    for topic in (IMPRESSIONS, CLICKS):
        landed = send(stack, topic, [(key, b"{}") for key in MURMUR2])
        assert landed == {key: {(value & 0x7FFFFFFF) % stack.partitions} for key, value in MURMUR2.items()}


def test_records_of_a_key_are_read_once_and_in_order(stack: Settings) -> None:
    keys, each = [b"user-%d" % n for n in range(20)], 500
    send(stack, IMPRESSIONS, [(key, b"%d" % n) for n in range(each) for key in keys])
    read: dict[bytes | None, list[int]] = defaultdict(list)
    with TopicReader(stack, IMPRESSIONS, from_start=True) as reader:
        while not reader.caught_up:
            for message in reader.poll():
                read[message.key()].append(int(message.value() or b""))
    assert read == {key: list(range(each)) for key in keys}


def test_a_reader_from_now_sees_all_that_follows(stack: Settings, wait_until: Wait) -> None:
    send(stack, CLICKS, [(b"user", b"before")])
    seen: list[bytes | None] = []
    with TopicReader(stack, CLICKS, from_start=False) as reader:

        def ten_seen() -> bool:
            seen.extend(message.value() for message in reader.poll())
            return len(seen) >= 10

        assert reader.caught_up
        send(stack, CLICKS, [(b"user-%d" % n, b"after") for n in range(10)])
        wait_until(ten_seen, 10, "the records arrive")
    assert seen == [b"after"] * 10


def test_reading_starts_at_a_given_offset(stack: Settings, wait_until: Wait) -> None:
    send(stack, CLICKS, [(b"abc", b"%d" % n) for n in range(10)])
    partition = (MURMUR2[b"abc"] & 0x7FFFFFFF) % stack.partitions
    client = consumer(stack)
    client.assign([TopicPartition(CLICKS, partition, 6)])
    seen: list[bytes | None] = []

    def four_seen() -> bool:
        seen.extend(message.value() for message in client.consume(10, 0.1))
        return len(seen) >= 4

    wait_until(four_seen, 10, "four records are read")
    client.close()
    assert seen == [b"6", b"7", b"8", b"9"]


def test_the_latest_of_each_key(stack: Settings) -> None:
    assert read_latest(stack, EXPERIMENTS) == {}
    send(stack, EXPERIMENTS, [(b"one", b"1"), (b"two", b"1"), (b"one", b"2")])
    client = producer(stack)
    client.produce(EXPERIMENTS, None, b"two")
    assert client.flush(10) == 0
    assert read_latest(stack, EXPERIMENTS) == {b"one": b"2"}


def test_records_carry_the_time_they_were_written(stack: Settings) -> None:
    """Event time is bounded by this time plus a skew, so it must be now, whatever the events say."""
    before_ms = time.time() * 1000
    send(stack, VARIANT_STATS, [(b"0", b"{}")])
    (written_ms,) = (message.timestamp()[1] for message in read_all(stack, VARIANT_STATS))
    assert before_ms - 1000 <= written_ms <= time.time() * 1000 + 1000


def test_apache_kafka_overrides_the_time_of_a_producer(local: Settings) -> None:
    """Replayed events are decades old: with their time on the record, retention would delete them at once.

    Tansu keeps the producer's time, and deletes nothing.
    """
    client = producer(local)
    client.produce(LIFECYCLE, b"{}", b"0", timestamp=1)
    assert client.flush(10) == 0
    assert all(message.timestamp()[1] > 1_600_000_000_000 for message in read_all(local, LIFECYCLE))


def test_apache_kafka_makes_no_topic_by_accident(local: Settings) -> None:
    """It would have the wrong partitions and retention. Tansu makes one: there ours must exist before."""
    client = producer(local, {"message.timeout.ms": 1500})
    failed: list[object] = []
    client.produce("not-ours", b"{}", on_delivery=lambda error, _: failed.append(error))
    client.flush(10)
    assert failed and failed[0] is not None
    assert "not-ours" not in AdminClient({"bootstrap.servers": local.kafka}).list_topics(timeout=60).topics


@pytest.mark.slow
def test_a_group_hands_partitions_over(stack: Settings, wait_until: Wait) -> None:
    overrides = {"session.timeout.ms": 6000, "heartbeat.interval.ms": 500, "max.poll.interval.ms": 6000}
    held: dict[str, set[int]] = {"one": set(), "two": set()}
    stop = {name: threading.Event() for name in held}

    def member(name: str) -> None:
        client = consumer(stack, group="handover", overrides=overrides)

        def assigned(_: object, partitions: list[TopicPartition]) -> None:
            held[name] = {p.partition for p in partitions}

        client.subscribe([IMPRESSIONS], on_assign=assigned, on_revoke=lambda *_: held[name].clear())
        while not stop[name].is_set():
            client.consume(100, 0.05)
        client.close()
        held[name] = set()

    everything = set(range(stack.partitions))
    threads = {name: threading.Thread(target=member, args=(name,), daemon=True) for name in held}
    try:
        threads["one"].start()
        wait_until(lambda: held["one"] == everything, 30, "the only member holds every partition")
        threads["two"].start()
        wait_until(
            lambda: held["one"] and held["two"] and held["one"] | held["two"] == everything, 30, "both hold some"
        )
        assert not held["one"] & held["two"]
        stop["one"].set()
        wait_until(lambda: held["two"] == everything, 30, "the member that stays takes over")
    finally:
        for name, thread in threads.items():
            stop[name].set()
            if thread.ident is not None:
                thread.join(60)
