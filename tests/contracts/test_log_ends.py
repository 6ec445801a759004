"""Where a log ends, to the record, on each broker: lag, `verify` and every reader that stops rest on it."""

from __future__ import annotations

import pytest

from sluice.adapters.kafka import consumer, end_offsets, producer
from sluice.adapters.log_ends import LogEnds
from sluice.adapters.reader import TopicReader
from sluice.errors import TransportError
from sluice.names import CLICKS, DECISIONS, IMPRESSIONS
from sluice.settings import Settings


def send_batch(settings: Settings, topic: str, count: int, partition: int = 0) -> None:
    """One batch: all records wait in the client until it is told to send."""
    out = producer(settings, {"linger.ms": 60_000, "batch.num.messages": 10_000})
    for number in range(count):
        out.produce(topic, value=b"%d" % number, partition=partition)
    assert out.flush(20) == 0


def test_the_end_counts_every_record_of_the_last_batch(stack: Settings) -> None:
    client = consumer(stack)
    assert end_offsets(client, CLICKS, range(stack.partitions)) == dict.fromkeys(range(stack.partitions), (0, 0))
    total = 0
    for size in (42, 1, 7):
        send_batch(stack, CLICKS, size, partition=1)
        total += size
        assert end_offsets(client, CLICKS, range(stack.partitions))[1] == (0, total)
    client.close()


def test_ends_asked_again_move_on(stack: Settings) -> None:
    with LogEnds(stack, (IMPRESSIONS, CLICKS)) as ends:
        assert ends.read()[0] == (0, 0)
        send_batch(stack, IMPRESSIONS, 5)
        assert ends.read()[0] == (5, 0)
        send_batch(stack, CLICKS, 3)
        send_batch(stack, IMPRESSIONS, 2)
        assert ends.read()[0] == (7, 3)


def test_a_reader_of_the_last_records_sees_these_and_no_others(stack: Settings) -> None:
    send_batch(stack, DECISIONS, 40)
    with TopicReader(stack, DECISIONS, from_start=False, last=2) as reader:
        assert not reader.whole
        assert [message.value() for message in reader.rest()] == [b"38", b"39"]
        assert reader.caught_up


def test_a_reader_does_not_wait_for_ever_for_what_never_comes(stack: Settings) -> None:
    send_batch(stack, DECISIONS, 3)
    with TopicReader(stack, DECISIONS, from_start=True) as reader:
        reader.ends[0] += 1
        seen = []
        with pytest.raises(TransportError, match=r"decisions: no record for 2 s"):
            for message in reader.rest(idle_s=2):
                seen.append(message.value())
    assert seen == [b"0", b"1", b"2"]


def test_a_reader_from_now_on_sees_nothing_older(stack: Settings) -> None:
    send_batch(stack, DECISIONS, 40)
    seen = []
    with TopicReader(stack, DECISIONS, from_start=False) as reader:
        assert reader.caught_up
        send_batch(stack, DECISIONS, 1)
        while not seen:
            seen = [message.offset() for message in reader.poll(0.1)]
    assert seen == [40]
