"""The resolver: raw impressions get their assignments, or become dead letters; offsets follow the output."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import msgspec

from router import AssignmentRequest, build
from sluice.adapters import catalogue
from sluice.adapters.kafka import producer
from sluice.adapters.reader import TopicReader
from sluice.domain.events import DeadLetter, Heartbeat, ImpressionShown, RawImpressionShown, encode
from sluice.domain.experiment import Experiment, Variant
from sluice.names import DEAD_LETTERS, IMPRESSIONS, RAW_IMPRESSIONS
from sluice.settings import Settings
from stream_processors.resolver import run_resolver

VARIANTS = (Variant(name="a"), Variant(name="b"))
BY_USER = Experiment(name="by-user", variants=VARIANTS)
BY_SLATE = Experiment(name="by-slate", variants=VARIANTS, unit="slate")


@contextmanager
def resolving(settings: Settings) -> Iterator[Future[dict[str, int]]]:
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run_resolver, settings, stop)
        try:
            yield running
        finally:
            stop.set()
            running.result(60)


def raw(number: int, user: str, slate: str = "") -> RawImpressionShown:
    return RawImpressionShown(
        impression_id=f"i{number}", user_id=user, item_id="x", at_ms=1000 + number, slate_id=slate, position=number
    )


def send(settings: Settings, records: list[tuple[str, bytes]], partition: int = -1) -> None:
    out = producer(settings)
    for key, value in records:
        out.produce(RAW_IMPRESSIONS, value, key, partition)
    assert out.flush(10) == 0


def read(reader: TopicReader, into: list[Any]) -> int:
    into += reader.poll(0.05)
    return len(into)


def test_impressions_are_resolved_and_the_rest_is_buried(
    make_stack: Callable[..., Settings], wait_until: Callable[..., Any]
) -> None:
    settings = make_stack("embedded")
    catalogue.apply(settings, [BY_USER, BY_SLATE])
    with build(settings, [BY_USER, BY_SLATE]) as router:
        assigned = {n: router.assign([AssignmentRequest(f"u{n}", {"slate": f"s{n}"}, 0)])[0] for n in range(20)}
    records = [(f"u{n}", encode(raw(n, f"u{n}", f"s{n}"))) for n in range(20)]
    records += [("u3", encode(raw(100, "u3", "unknown slate"))), ("nobody", encode(raw(101, "nobody", "none")))]
    records += [("u1", b"{not json"), ("u1", b'{"type":"impression","user_id":7}')]
    with (
        TopicReader(settings, IMPRESSIONS, from_start=True) as impressions,
        TopicReader(settings, DEAD_LETTERS, from_start=True) as dead,
    ):
        out: list[Any] = []
        buried: list[Any] = []
        with resolving(settings) as running:
            send(settings, records)
            send(settings, [("", encode(Heartbeat(at_ms=77)))], partition=2)
            wait_until(lambda: read(impressions, out) >= 22 and read(dead, buried) >= 3, 30, "resolved impressions")
        assert running.result() == {"resolved": 21, "unassigned": 1, "malformed": 2}

        # Started again, it goes on behind what it has done.
        with resolving(settings):
            send(settings, [("u5", encode(raw(200, "u5", "s5")))])
            wait_until(lambda: read(impressions, out) >= 23, 30, "the impression after the restart")
        assert read(impressions, out) == 23

    found = {}
    for message in out:
        event = msgspec.json.decode(message.value(), type=ImpressionShown | Heartbeat)
        if isinstance(event, Heartbeat):
            assert (event.at_ms, message.partition()) == (77, 2)
        else:
            assert message.key() == event.user_id.encode()
            found[event.impression_id] = event
    for n in range(20):
        event = found[f"i{n}"]
        assert set(event.assignments) == {routed.assignment for routed in assigned[n]}
        assert (event.at_ms, event.position, event.slate_id) == (1000 + n, n, f"s{n}")
    assert [a.experiment for a in found["i100"].assignments] == ["by-user"]
    assert "i200" in found

    letters = [msgspec.json.decode(message.value(), type=DeadLetter) for message in buried]
    assert sorted(letter.reason for letter in letters) == ["malformed", "malformed", "unassigned"]
    originals = {value for _, value in records}
    assert all(letter.value in originals and letter.topic == RAW_IMPRESSIONS for letter in letters)
    (unassigned,) = (letter for letter in letters if letter.reason == "unassigned")
    assert unassigned.key == b"nobody"
    assert "by-user: nobody" in unassigned.detail
