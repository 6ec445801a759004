"""Events for many viewers: each gets what concerns it, a slow one never much, one that comes back what it missed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import pytest

from dashboard.hub import MAX_VIEWERS, QUEUE, REMEMBERED, Hub, TooManyViewers, Viewer


async def told(viewer: Viewer) -> list[tuple[str, str, Any]]:
    """(id, kind, body) of all that waits; ends the stream."""
    viewer.close()
    found = []
    async for data in viewer.stream():
        fields = dict(line.split(": ", 1) for line in data.decode().strip().splitlines())
        found.append((fields["id"], fields["event"], msgspec.json.decode(fields["data"])))
    return found


def within_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        asyncio.run(test())

    run.__name__ = test.__name__
    return run


def kinds(events: list[tuple[str, str, Any]]) -> list[str]:
    return [kind for _, kind, _ in events]


@within_loop
async def test_a_viewer_gets_what_concerns_it() -> None:
    hub = Hub("s")
    one, other, general = hub.join("demo", "", 5), hub.join("other", "", 5), hub.join(None, "", 5)
    hub.publish("decision", {"n": 1}, experiment="demo")
    hub.publish("status", {}, subject="status")
    assert kinds(await told(one)) == ["hello", "decision", "status"]
    assert kinds(await told(other)) == kinds(await told(general)) == ["hello", "status"]
    assert hub.watched() == {"demo", "other"}


@within_loop
async def test_all_viewers_share_the_bytes_of_an_event() -> None:
    hub = Hub("s")
    viewers = [hub.join("demo", "", 0) for _ in range(50)]
    hub.publish("decision", {"n": 1}, experiment="demo")
    assert len({id(viewer._waiting[-1]) for viewer in viewers}) == 1


@within_loop
async def test_a_slow_viewer_has_the_newest_counters_alone() -> None:
    hub = Hub("s")
    viewer = hub.join("demo", "", 0)
    for n in range(1000):
        hub.publish("counters", {"n": n}, experiment="demo", subject="counters:demo")
    assert [(kind, body.get("n")) for _, kind, body in await told(viewer)] == [("hello", None), ("counters", 999)]


@within_loop
async def test_a_slow_viewer_that_misses_decisions_reloads() -> None:
    hub = Hub("s")
    viewer = hub.join("demo", "", 0)
    for n in range(10 * QUEUE):
        hub.publish("decision", {"n": n}, experiment="demo")
        assert len(viewer) <= QUEUE
    events = await told(viewer)
    assert kinds(events)[0] == "reload" and set(kinds(events)[1:]) == {"decision"}
    assert events[-1][2] == {"n": 10 * QUEUE - 1}


@within_loop
async def test_who_comes_back_gets_what_was_missed() -> None:
    hub = Hub("s")
    viewer = hub.join("demo", "", 0)
    hub.publish("decision", {"n": 1}, experiment="demo")
    last = (await told(viewer))[-1][0]
    hub.leave(viewer)
    hub.publish("decision", {"n": 2}, experiment="demo")
    hub.publish("counters", {"n": 3}, experiment="demo", subject="counters:demo")
    hub.publish("decision", {"n": 9}, experiment="other")
    events = await told(hub.join("demo", last, 0))
    assert events[0][2]["resumed"] is True
    assert [(kind, body["n"]) for _, kind, body in events[1:]] == [("decision", 2), ("counters", 3)]


@within_loop
async def test_who_cannot_be_told_all_is_told_to_reload() -> None:
    hub = Hub("s")
    viewer = hub.join("demo", "", 0)
    last = (await told(viewer))[-1][0]
    hub.leave(viewer)
    hub.passed_over("demo")
    again = await told(hub.join("demo", last, 0))
    assert (kinds(again), again[0][2]["resumed"]) == (["hello"], False)
    assert (await told(hub.join("other", last, 0)))[0][2]["resumed"] is True
    for n in range(REMEMBERED + 1):
        hub.publish("decision", {"n": n}, experiment="demo")
    assert (await told(hub.join("other", last, 0)))[0][2]["resumed"] is False


@pytest.mark.parametrize("last", ["", "s-", "s-x", "s-99", "t-1", "s-²", "-1", "s-" + "9" * 90])
def test_an_id_that_is_none_of_ours_resumes_nothing(last: str) -> None:
    async def test() -> None:
        assert (await told(Hub("s").join("demo", last, 0)))[0][2]["resumed"] is False

    asyncio.run(test())


@within_loop
async def test_there_is_room_for_so_many() -> None:
    hub = Hub("s")
    viewers = [hub.join(None, "", 0) for _ in range(MAX_VIEWERS)]
    with pytest.raises(TooManyViewers):
        hub.join(None, "", 0)
    hub.leave(viewers[0])
    hub.join(None, "", 0)


@within_loop
async def test_streams_end_with_the_hub() -> None:
    hub = Hub("s")
    viewer = hub.join(None, "", 0)
    stream = viewer.stream()
    assert b"hello" in await anext(stream)
    waiting = asyncio.ensure_future(anext(stream, None))
    await asyncio.sleep(0)
    hub.close()
    assert await waiting is None
    assert [data async for data in hub.join(None, "", 0).stream()]  # hello, and the end
