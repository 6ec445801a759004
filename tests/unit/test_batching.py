"""Micro-batching: who waits together is served together, in order, and errors reach the right ones."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from router.batching import Batcher, Overloaded


def test_what_arrives_while_a_batch_runs_makes_the_next_one() -> None:
    seen: list[list[int]] = []
    started, go_on = threading.Event(), threading.Event()

    def work(items: Sequence[int]) -> list[int | Exception]:
        seen.append(list(items))
        started.set()
        assert go_on.wait(10)
        return [10 * item for item in items]

    async def run() -> list[int]:
        first = asyncio.create_task(batcher.ask(1))
        await asyncio.to_thread(started.wait, 10)
        rest = [asyncio.create_task(batcher.ask(item)) for item in range(2, 7)]
        while len(batcher) < 5:
            await asyncio.sleep(0)
        go_on.set()
        return list(await asyncio.gather(first, *rest))

    batcher = Batcher(work, name="test", most=4)
    assert asyncio.run(run()) == [10, 20, 30, 40, 50, 60]
    assert seen == [[1], [2, 3, 4, 5], [6]]
    batcher.close()


def test_an_answer_may_be_an_exception_of_its_own() -> None:
    def work(items: Sequence[int]) -> list[int | Exception]:
        return [ValueError(str(item)) if item % 2 else item for item in items]

    async def run() -> list[int | BaseException]:
        return await asyncio.gather(*[batcher.ask(item) for item in range(4)], return_exceptions=True)

    batcher = Batcher(work, name="test")
    found = asyncio.run(run())
    assert [str(one) for one in found] == ["0", "1", "2", "3"]
    assert [isinstance(one, ValueError) for one in found] == [False, True, False, True]
    batcher.close()


def test_what_work_raises_reaches_everybody_and_the_next_batch_is_served() -> None:
    calls = iter([RuntimeError("once"), None])

    def work(items: Sequence[int]) -> Sequence[int]:
        error = next(calls)
        if error is not None:
            raise error
        return items

    async def run() -> None:
        for found in await asyncio.gather(batcher.ask(1), batcher.ask(2), return_exceptions=True):
            assert str(found) == "once"
        assert await batcher.ask(3) == 3

    batcher = Batcher(work, name="test")
    asyncio.run(run())
    batcher.close()


def test_too_many_that_wait_are_refused_and_the_others_served() -> None:
    go_on = threading.Event()

    def work(items: Sequence[int]) -> Sequence[int]:
        assert go_on.wait(10)
        return items

    async def run() -> list[int | BaseException]:
        tasks = [asyncio.create_task(batcher.ask(item)) for item in range(5)]
        await asyncio.sleep(0)
        go_on.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    batcher = Batcher(work, name="test", waiting=3)
    found = asyncio.run(run())
    assert found[:3] == [0, 1, 2]
    assert all(isinstance(one, Overloaded) for one in found[3:])
    batcher.close()


def test_whoever_gave_up_does_not_disturb_the_others() -> None:
    go_on = threading.Event()

    def work(items: Sequence[int]) -> Sequence[int]:
        assert go_on.wait(10)
        return items

    async def run() -> None:
        first, second = (asyncio.create_task(batcher.ask(item)) for item in (1, 2))
        await asyncio.sleep(0)
        first.cancel()
        go_on.set()
        assert await second == 2
        with pytest.raises(asyncio.CancelledError):
            await first

    batcher = Batcher(work, name="test")
    asyncio.run(run())
    batcher.close()
