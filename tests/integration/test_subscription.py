"""Subscriptions on the embedded broker: typed events, filters, malformed records, sync and async."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

import sluice
from sluice.adapters import catalogue
from sluice.adapters.kafka import producer
from sluice.domain.events import Assignment, DecisionMade, Heartbeat, ImpressionShown, OutcomeObserved, encode
from sluice.domain.experiment import Experiment, Variant
from sluice.domain.lifecycle_events import Promoted
from sluice.domain.status import State
from sluice.settings import Settings


@pytest.fixture
def settings(make_stack: Callable[..., Settings]) -> Settings:
    return make_stack("embedded")


def decision(experiment: str, version: int) -> DecisionMade:
    return DecisionMade(
        experiment=experiment,
        version=version,
        at_ms=1000 * version,
        offsets={"0": (1, 2)},
        config_hash="0123456789abcdef",
        config={"name": experiment},
        seed=7,
        evidence=(),
        results=(),
        sample_ratio_p=None,
        allocation={"a": 50, "b": 50},
        allocation_version=1,
        verdict="continue",
        reasons=("too early",),
    )


def send(settings: Settings, topic: str, *values: bytes | None, key: bytes = b"k") -> None:
    out = producer(settings)
    for value in values:
        out.produce(topic, key=key, value=value)
    assert out.flush(10) == 0


def test_decisions_from_the_start_in_order_as_typed_events(settings: Settings) -> None:
    sent = [decision("e", version) for version in range(1, 6)]
    send(settings, "decisions", *map(encode, sent))
    with sluice.subscribe("decisions", from_start=True, follow=False, settings=settings) as events:
        assert list(events) == sent


def test_without_from_start_only_what_is_written_after(settings: Settings) -> None:
    send(settings, "decisions", encode(decision("e", 1)))
    with sluice.subscribe("decisions", settings=settings) as events:
        send(settings, "decisions", encode(decision("e", 2)))
        assert next(events).version == 2


def test_two_subscribers_see_everything(settings: Settings) -> None:
    send(settings, "decisions", *(encode(decision("e", version)) for version in range(3)))
    for _ in range(2):
        with sluice.subscribe("decisions", from_start=True, follow=False, settings=settings) as events:
            assert [event.version for event in events] == [0, 1, 2]


def test_a_decision_that_does_not_stand_is_left_out(settings: Settings) -> None:
    versions = [(1, "a"), (2, "a"), (2, "a"), (1, "b"), (1, "a"), (3, "a")]
    send(settings, "decisions", *(encode(decision(name, version)) for version, name in versions))
    with sluice.subscribe("decisions", from_start=True, follow=False, settings=settings) as events:
        assert [(event.version, event.experiment) for event in events] == [(1, "a"), (2, "a"), (1, "b"), (3, "a")]


def test_only_one_experiment(settings: Settings) -> None:
    send(settings, "decisions", *(encode(decision(name, version)) for version, name in enumerate("aba")))
    with sluice.subscribe("decisions", experiment="a", from_start=True, follow=False, settings=settings) as events:
        assert [event.experiment for event in events] == ["a", "a"]


def test_an_impression_belongs_to_each_of_its_experiments_and_heartbeats_are_left_out(settings: Settings) -> None:
    shown = ImpressionShown(
        impression_id="i", user_id="u", item_id="x", at_ms=5,
        assignments=(Assignment("a", "v", "v=100", "u"), Assignment("b", "w", "w=100", "u")),
    )  # fmt: skip
    other = ImpressionShown(impression_id="j", user_id="u", item_id="x", at_ms=5, assignments=())
    send(settings, "impressions", encode(Heartbeat(at_ms=1)), encode(shown), encode(other))
    for name, expected in (("a", [shown]), ("b", [shown]), ("c", []), (None, [shown, other])):
        with sluice.subscribe(
            "impressions", experiment=name, from_start=True, follow=False, settings=settings
        ) as events:
            assert list(events) == expected


def test_malformed_records_are_skipped_counted_and_reported(settings: Settings) -> None:
    click = OutcomeObserved(click_id="c", impression_id="i", user_id="u", at_ms=5)
    bad = [b"", b"{", b"[]", b'{"type":"outcome"}', b"\xff\xfe", b"[" * 100_000, None, b'{"type":"decision"}']
    send(settings, "clicks", *bad, encode(click))
    found: list[sluice.Malformed] = []
    with sluice.subscribe(
        "clicks", from_start=True, follow=False, settings=settings, on_malformed=found.append
    ) as events:
        assert list(events) == [click]
        assert events.skipped == len(bad)
    assert [record.offset for record in found] == list(range(len(bad)))
    assert {record.topic for record in found} == {"clicks"}
    assert all(record.reason for record in found)
    assert found[3].reason.startswith("Object missing required field")


def test_without_a_callback_each_malformed_record_is_one_log_line(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    send(settings, "decisions", b"{", b"}")
    with sluice.subscribe("decisions", from_start=True, follow=False, settings=settings) as events:
        assert list(events) == []
    lines = [record.getMessage() for record in caplog.records if record.name == "sluice.subscription"]
    assert len(lines) == 2
    assert lines[0].startswith("topic decisions [0] 0: skipped: ")


def test_experiments_are_validated_and_deletions_are_no_event(settings: Settings) -> None:
    good = Experiment(name="good", variants=(Variant(name="a"), Variant(name="b")))
    (applied,) = catalogue.apply(settings, [good])
    paused = catalogue.change(settings, "good", "pause", by="ann")
    out = producer(settings)
    lost = msgspec.structs.replace(paused, state=State(status="stopped", revision=2))
    out.produce("experiments", key="good", value=msgspec.json.encode(lost))
    out.produce("experiments", key="x", value=b'{"name":"x","variants":[{"name":"a"},{"name":"a"}]}')
    out.produce("experiments", key="x", value=None)
    assert out.flush(10) == 0
    with sluice.subscribe("experiments", from_start=True, follow=False, settings=settings) as events:
        assert list(events) == [applied, paused]
        assert events.skipped == 1


def test_lifecycle_records_are_typed(settings: Settings) -> None:
    promoted = Promoted(id="i", model="m", alias="a", at_ms=5, attempt="r", version="2", before="1")
    send(settings, "lifecycle", encode(promoted), b'{"type":"promoted","model":"m"}')
    with sluice.subscribe("lifecycle", from_start=True, follow=False, settings=settings) as events:
        assert list(events) == [promoted]
        assert events.skipped == 1


@pytest.mark.parametrize(
    ("topic", "experiment", "words"),
    [
        ("decision", None, "'decision': allowed are decisions, "),
        ("clicks", "e", "clicks: its records name no experiment"),
    ],
)
def test_wrong_use_is_a_config_error(topic: str, experiment: str | None, words: str) -> None:
    for function in (sluice.subscribe, sluice.subscribe_async):
        with pytest.raises(sluice.ConfigError, match=words):
            function(topic, experiment=experiment, settings=Settings(kafka="127.0.0.1:9"))


def test_close_from_another_thread_ends_a_waiting_iteration(settings: Settings) -> None:
    events = sluice.subscribe("decisions", settings=settings)
    seen: list[Any] = []
    reading = threading.Thread(target=lambda: seen.extend(events))
    reading.start()
    events.close()
    reading.join(60)
    assert not reading.is_alive()
    assert seen == []
    events.close()
    assert list(events) == []


def test_async_iteration_gives_the_same(settings: Settings) -> None:
    sent = [decision("e", version) for version in range(50)]
    send(settings, "decisions", *map(encode, sent))

    async def read() -> list[DecisionMade]:
        async with sluice.subscribe_async("decisions", from_start=True, follow=False, settings=settings) as events:
            return [event async for event in events]

    assert asyncio.run(read()) == sent


def test_async_sees_what_is_written_after_it_was_entered(settings: Settings) -> None:
    async def read() -> DecisionMade:
        async with sluice.subscribe_async("decisions", settings=settings) as events:
            await asyncio.to_thread(send, settings, "decisions", encode(decision("e", 9)))
            return await asyncio.wait_for(anext(events), 20)

    assert asyncio.run(read()).version == 9


def test_a_cancelled_wait_loses_no_event(settings: Settings) -> None:
    count = 200

    async def read() -> list[int]:
        found: list[int] = []
        async with sluice.subscribe_async("decisions", settings=settings) as events:
            sending = asyncio.create_task(
                asyncio.to_thread(send, settings, "decisions", *(encode(decision("e", v)) for v in range(count)))
            )
            while len(found) < count:
                try:
                    # Shorter than one read of the broker, so that most waits are cancelled while the thread reads.
                    found.append((await asyncio.wait_for(anext(events), 0.005)).version)
                except TimeoutError:
                    continue
            await sending
        return found

    assert asyncio.run(read()) == list(range(count))


def test_aclose_ends_a_wait_in_another_task_and_the_thread(settings: Settings) -> None:
    before = set(threading.enumerate())

    async def read() -> list[DecisionMade]:
        events = sluice.subscribe_async("decisions", settings=settings)
        entered = asyncio.Event()

        async def collect() -> list[DecisionMade]:
            async with events:
                entered.set()
                return [event async for event in events]

        task = asyncio.create_task(collect())
        await entered.wait()
        await events.aclose()
        return await asyncio.wait_for(task, 20)

    assert asyncio.run(read()) == []
    for thread in set(threading.enumerate()) - before:
        thread.join(60)
        assert not thread.is_alive(), thread.name


def test_an_async_subscription_without_a_broker_fails_on_entry() -> None:
    async def read() -> None:
        async with sluice.subscribe_async("decisions", settings=Settings()):
            pass

    with pytest.raises(sluice.ConfigError, match="no broker"):
        asyncio.run(read())
