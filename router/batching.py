"""Natural micro-batching: while a thread works on one batch, what arrives makes the next. Library: asyncio.

The event loop never waits for what the thread waits for, and nobody waits for a batch to fill.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Generic, TypeVar

from sluice.errors import TransportError

__all__ = ["Batcher", "Overloaded"]

A = TypeVar("A")
B = TypeVar("B")


class Overloaded(TransportError):
    """More requests wait than can be served soon: answer 503, so that the caller comes back later."""


class Batcher(Generic[A, B]):
    """`await batcher.ask(item)`: `work` gets all waiting items at once, in one thread, in order of arrival.

    `work` answers one result or exception an item; what it raises goes to every item of its batch. Belongs to the event
    loop that asks first. Close it to end its thread.
    """

    def __init__(
        self, work: Callable[[Sequence[A]], Sequence[B | Exception]], *, name: str, most: int = 512, waiting: int = 4096
    ) -> None:
        """most: items of one batch. waiting: beyond so many, `ask` raises Overloaded."""
        self._work = work
        self._most = most
        self._limit = waiting
        self._waiting: list[tuple[A, asyncio.Future[B]]] = []
        self._busy = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._batches: SimpleQueue[list[tuple[A, asyncio.Future[B]]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """Items that wait for the running batch to end"""
        return len(self._waiting)

    async def ask(self, item: A) -> B:
        """The result for `item`. Raises what the work answered or raised for it, and Overloaded."""
        if len(self._waiting) >= self._limit:
            raise Overloaded(f"{self._limit} requests are waiting")
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        future: asyncio.Future[B] = self._loop.create_future()
        self._waiting.append((item, future))
        if not self._busy:
            self._busy = True
            # Not at once: requests that were read from their sockets in the same turn of the loop belong together.
            self._loop.call_soon(self._next)
        return await future

    def close(self) -> None:
        """End the thread after what it is working on; items that wait are never answered."""
        self._batches.put(None)
        self._thread.join(10)

    def _next(self) -> None:
        batch, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
        if batch:
            self._batches.put(batch)
        else:
            self._busy = False

    def _run(self) -> None:
        while (batch := self._batches.get()) is not None:
            answers: Sequence[B | Exception]
            try:
                answers = self._work([item for item, _ in batch])
            except Exception as error:  # noqa: BLE001 - it reaches whoever asked
                answers = [error] * len(batch)
            loop = self._loop
            assert loop is not None
            try:
                loop.call_soon_threadsafe(self._answered, batch, answers)
            except RuntimeError:
                return  # the loop was closed while we worked

    def _answered(self, batch: list[tuple[A, asyncio.Future[B]]], answers: Sequence[B | Exception]) -> None:
        self._next()
        for (_, future), answer in zip(batch, answers, strict=True):
            if future.done():
                continue  # whoever asked has gone
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)
