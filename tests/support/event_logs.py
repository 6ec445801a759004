"""Logs of impressions and clicks for tests of the counting service: made by seed, written to a broker, read back."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from sluice.adapters.kafka import producer
from sluice.adapters.reader import TopicReader
from sluice.domain.definitions import Definitions
from sluice.domain.events import (
    MAX_EVENT_BYTES,
    Assignment,
    DeadLetter,
    Heartbeat,
    ImpressionShown,
    OutcomeObserved,
    StatsPublished,
    encode,
)
from sluice.names import CLICKS, DEAD_LETTERS, IMPRESSIONS, VARIANT_STATS
from sluice.settings import Settings
from stream_processors.recount import Recount, recount
from stream_processors.verify import verify

WritableLog = list[tuple[str, bytes | None, int]]
"""(key, value, partition or −1) in the order of writing"""
PARTITIONS = 4


def impression(number: int | str, user: str, at_ms: int, *assignments: Assignment) -> bytes:
    made = assignments or (Assignment("e", "a", "a=50,b=50", user, 0.5),)
    return encode(ImpressionShown(impression_id=f"i{number}", user_id=user, item_id="x", at_ms=at_ms, assignments=made))


def click(number: int | str, user: str, at_ms: int, outcome: str = "click", value: int | None = None) -> bytes:
    """A click on the impression of the same number."""
    return encode(
        OutcomeObserved(
            click_id=f"c{number}", impression_id=f"i{number}", user_id=user, at_ms=at_ms, outcome=outcome,
            value_milli=value,
        )
    )  # fmt: skip


def heartbeats(at_ms: int) -> WritableLog:
    """One on every partition."""
    return [("", encode(Heartbeat(at_ms=at_ms)), partition) for partition in range(PARTITIONS)]


BROKEN = (
    None,
    b"",
    b"{",
    b'{"type":"impression","at_ms":"soon"}',
    b'{"type":"heartbeat","at_ms":-1}',
    b'{"type":"heartbeat","at_ms":9999999999999999}',
    b"\xff" * 20,
    b" " * (MAX_EVENT_BYTES + 1),
)


def random_logs(seed: int, events: int, definitions: Definitions) -> tuple[WritableLog, WritableLog]:
    """About `events` records: disorder, duplicates, late, malformed, heartbeats, ids that come back, values."""
    rng = random.Random(seed)
    slack, window = definitions.lateness_ms, definitions.window_ms
    span = 40 * (slack + window)
    users = [f"u{n}" for n in range(max(20, events // 200))]
    impressions: list[tuple[float, str, bytes | None, int]] = []
    clicks: list[tuple[float, str, bytes | None, int]] = []

    def put(log: list[tuple[float, str, bytes | None, int]], at: int, user: str, value: bytes | None) -> None:
        """Somewhere within the lateness; one in fifty beyond it, one in twenty twice."""
        for _ in range(1 + (rng.random() < 0.05)):
            delay = 3 * slack if rng.random() < 0.02 else 0
            log.append((at + delay + rng.random() * slack, user, value, -1))

    number = 0
    while number < events * 6 // 10:
        at, user = rng.randrange(span), rng.choice(users)
        shared = f"s{rng.randrange(10)}"
        variant, share = rng.choice("ab"), rng.choice(("a=50,b=50", "a=70,b=30"))
        made = [
            (Assignment("by-slate", variant, share, shared, 0.5, "slate"),),
            (Assignment("by-user", variant, share, user, 0.5),),
            (
                Assignment("by-slate", variant, share, shared, 0.7, "slate"),
                Assignment("by-user", "a", "", user, 1.0),
                Assignment("by-session", rng.choice("xyz"), "", f"{user}/{shared}", 0.3, "session"),
            ),
            (),
        ][rng.choices(range(4), (4, 3, 3, 0.2))[0]]
        for _ in range(rng.choice((1, 3))):
            number += 1
            name = str(number) if rng.random() < 0.97 else str(rng.randrange(1, number + 1))  # an id comes back
            put(impressions, at, user, impression(name, user, at, *made))
            for _ in range(rng.choice((0, 0, 0, 1, 1, 2))):
                delay = rng.randrange(window + 1) if rng.random() < 0.9 else rng.randrange(-slack, 2 * window)
                outcome, value = rng.choice(
                    (("click", None), ("click", None), ("buy", rng.randrange(10**6)), ("rate", -3))
                )
                put(clicks, max(0, at + delay), user, click(name, user, max(0, at + delay), outcome, value))
    for log in (impressions, clicks):
        for _ in range(events // 200):
            log.append((rng.random() * span, rng.choice(users), rng.choice(BROKEN), -1))
            at = rng.randrange(span)
            log.append((at, "", encode(Heartbeat(at_ms=at)), rng.randrange(PARTITIONS)))
        log.sort(key=lambda entry: entry[0])
    return [entry[1:] for entry in impressions], [entry[1:] for entry in clicks]


def write(settings: Settings, impressions: Sequence[Any] = (), clicks: Sequence[Any] = ()) -> None:
    """Append both logs, interleaved; everything is acknowledged on return."""
    client = producer(settings)
    failed: list[Any] = []
    for place in range(max(len(impressions), len(clicks))):
        for topic, log in ((IMPRESSIONS, impressions), (CLICKS, clicks)):
            if place < len(log):
                key, value, partition = log[place]
                client.produce(
                    topic, value, key, partition, on_delivery=lambda error, _: failed.append(error) if error else None
                )
        if place % 1000 == 0:
            client.poll(0)
    assert client.flush(30) == 0
    assert not failed


def both_logs(settings: Settings) -> dict[str, dict[int, list[Any]]]:
    """Topic → partition → its messages, as they stand now."""
    found: dict[str, dict[int, list[Any]]] = {}
    for topic in (IMPRESSIONS, CLICKS):
        found[topic] = defaultdict(list)
        with TopicReader(settings, topic, from_start=True) as reader:
            while not reader.caught_up:
                for message in reader.poll(0.05):
                    found[topic][message.partition() or 0].append(message)
    return found


def ends(logs: dict[str, dict[int, list[Any]]]) -> dict[int, tuple[int, int]]:
    """Partition → next offsets of both topics."""
    return {
        p: tuple(log[p][-1].offset() + 1 if log[p] else 0 for log in (logs[IMPRESSIONS], logs[CLICKS]))  # type: ignore[misc]
        for p in range(PARTITIONS)
    }


def recounted(logs: dict[str, dict[int, list[Any]]], definitions: Definitions) -> dict[int, Recount]:
    """Partition → what its counters must be at the end of the logs."""

    def rows(messages: Iterable[Any]) -> list[tuple[int, bytes | None, int | None]]:
        return [(m.offset(), m.value(), m.timestamp()[1] if m.timestamp()[0] else None) for m in messages]

    return {p: recount(rows(logs[IMPRESSIONS][p]), rows(logs[CLICKS][p]), definitions) for p in range(PARTITIONS)}


def assert_exact(settings: Settings) -> int:
    """`sluice verify`; returns how many integers were compared."""
    checks = verify(settings)
    for check in checks:
        assert not check.differences, (check.partition, check.differences[:10])
    return sum(check.numbers for check in checks)


def dead_letters(settings: Settings) -> list[DeadLetter]:
    with TopicReader(settings, DEAD_LETTERS, from_start=True) as reader:
        messages = [message for _ in iter(lambda: reader.caught_up, True) for message in reader.poll(0.05)]
    return [msgspec.json.decode(message.value(), type=DeadLetter) for message in messages]


def assert_dead_letters(settings: Settings, definitions: Definitions) -> int:
    """The set of dead letters is exactly what the logs say, each with its original bytes; copies are allowed."""
    logs = both_logs(settings)
    letters = dead_letters(settings)
    wanted = {
        (topic, partition, offset, reason)
        for partition, result in recounted(logs, definitions).items()
        for topic, offset, reason in result.rejected
    }
    assert {(letter.topic, letter.partition, letter.offset, letter.reason) for letter in letters} == wanted
    originals = {
        (topic, partition, message.offset()): message
        for topic, partitions in logs.items()
        for partition, messages in partitions.items()
        for message in messages
    }
    for letter in letters:
        original = originals[letter.topic, letter.partition, letter.offset]
        assert letter.value == (original.value() or b"")
        assert letter.key == (original.key() or b"")
        assert letter.detail
    return len(wanted)


def snapshots(settings: Settings) -> dict[int, StatsPublished]:
    """The last snapshot of each partition on `variant-stats`."""
    with TopicReader(settings, VARIANT_STATS, from_start=True) as reader:
        messages = [message for _ in iter(lambda: reader.caught_up, True) for message in reader.poll(0.05)]
    found = [msgspec.json.decode(message.value(), type=StatsPublished) for message in messages]
    return {snapshot.partition: snapshot for snapshot in found}
