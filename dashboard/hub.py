"""Server-sent events: each is encoded once and handed to every viewer whom it concerns. Libraries: msgspec, asyncio.

A viewer who reads slowly holds at most `QUEUE` events. Of those that replace one another (counters, status, entries of
the list) only the newest waits; where decisions overflow, all that waits gives way to one `reload`. Nobody waits for
anybody else.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator

import msgspec
from msgspec import Struct

from sluice.errors import SluiceError

__all__ = ["MAX_VIEWERS", "PING_S", "QUEUE", "REMEMBERED", "Event", "Hub", "TooManyViewers", "Viewer"]

MAX_VIEWERS = 200
QUEUE = 64
REMEMBERED = 256
"""Events that a viewer who comes back may still get"""
PING_S = 15.0
_RETRY_MS = 1000
_PING = b": ping\n\n"


class TooManyViewers(SluiceError):
    """Try again later."""


class Event(Struct, frozen=True, kw_only=True):
    """One event, ready to be sent."""

    sequence: int
    experiment: str | None
    """Whose viewers get it; None: all"""
    subject: str
    """The newest of one subject says all that those before it said; empty: this one is needed for itself"""
    data: bytes


class Viewer:
    """One connection: what waits to be sent to it."""

    def __init__(self, experiment: str | None) -> None:
        self.experiment = experiment
        self.lost = 0
        """Events that gave way to others"""
        self._waiting: deque[Event] = deque()
        self._wake = asyncio.Event()
        self._closed = False

    def __len__(self) -> int:
        return len(self._waiting)

    def concerned(self, event: Event) -> bool:
        return event.experiment is None or event.experiment == self.experiment

    def offer(self, event: Event, reload: Event) -> None:
        """Add to what waits; without room `reload` takes the place of all."""
        if event.subject:
            older = next((other for other in self._waiting if other.subject == event.subject), None)
            if older is not None:
                self._waiting.remove(older)
                self.lost += 1
        if len(self._waiting) >= QUEUE:
            self.lost += len(self._waiting)
            self._waiting.clear()
            self._waiting.append(reload)
        self._waiting.append(event)
        self._wake.set()

    def close(self) -> None:
        """End the stream after what waits."""
        self._closed = True
        self._wake.set()

    async def stream(self) -> AsyncIterator[bytes]:
        """Bytes to send, with a comment whenever nothing happened for `PING_S`."""
        while True:
            while self._waiting:
                yield self._waiting.popleft().data
            if self._closed:
                return
            self._wake.clear()
            try:
                await asyncio.wait_for(self._wake.wait(), PING_S)
            except TimeoutError:
                yield _PING


class Hub:
    """All viewers. Belongs to the event loop."""

    def __init__(self, server: str) -> None:
        """server: another text after every start; begins the id of every event."""
        self._server = server
        self._sequence = 0
        self._viewers: set[Viewer] = set()
        self._remembered: deque[Event] = deque(maxlen=REMEMBERED)
        self._newest: dict[str, Event] = {}
        self._passed: dict[str, int] = {}
        """Experiment → sequence at which something of it was not made an event, since nobody looked"""
        self._closed = False
        self._lost = 0
        """Events that gave way at viewers who have left"""

    @property
    def lost(self) -> int:
        """Events that gave way at viewers who were too slow for them, since the start."""
        return self._lost + sum(viewer.lost for viewer in list(self._viewers))  # other threads ask, too

    @property
    def viewers(self) -> int:
        return len(self._viewers)

    def watched(self) -> set[str]:
        """Experiments that somebody looks at."""
        return {viewer.experiment for viewer in self._viewers if viewer.experiment is not None}

    def publish(self, kind: str, body: object, *, experiment: str | None = None, subject: str = "") -> None:
        """Encode once, hand to all whom it concerns. `experiment`, `subject`: as of `Event`."""
        event = self._event(kind, body, experiment, subject)
        if subject:
            self._newest[subject] = event
        else:
            self._remembered.append(event)
        for viewer in self._viewers:
            if viewer.concerned(event):
                viewer.offer(event, self._reload(viewer.experiment))

    def passed_over(self, experiment: str) -> None:
        """Something happened that no event was made of: whoever comes back must reload."""
        self._sequence += 1
        self._passed[experiment] = self._sequence

    def forget(self, subject: str) -> None:
        self._newest.pop(subject, None)

    def join(self, experiment: str | None, last_id: str, now_ms: int) -> Viewer:
        """A viewer who last got `last_id` (empty: nothing). Raises TooManyViewers."""
        if len(self._viewers) >= MAX_VIEWERS:
            raise TooManyViewers(f"{MAX_VIEWERS} viewers look already; close a page that nobody reads")
        viewer = Viewer(experiment)
        after = self._resumable(experiment, last_id)
        hello = {"server": self._server, "now_ms": now_ms, "resumed": after is not None}
        missed = [] if after is None else [*self._remembered, *self._newest.values()]
        events = [self._event("hello", hello, None, "", retry=True)]
        events += sorted((e for e in missed if e.sequence > (after or 0)), key=lambda event: event.sequence)
        for event in events:
            if viewer.concerned(event):
                viewer.offer(event, self._reload(experiment))
        self._viewers.add(viewer)
        if self._closed:
            viewer.close()
        return viewer

    def leave(self, viewer: Viewer) -> None:
        if viewer in self._viewers:
            self._viewers.remove(viewer)
            self._lost += viewer.lost

    def close(self) -> None:
        """Let all streams end."""
        self._closed = True
        for viewer in self._viewers:
            viewer.close()

    def _resumable(self, experiment: str | None, last_id: str) -> int | None:
        """The sequence to go on after; None when something since then is not remembered any more."""
        server, _, number = last_id.rpartition("-")
        if server != self._server or not (number.isascii() and number.isdigit() and len(number) < 18):
            return None
        after = int(number)
        full = len(self._remembered) == REMEMBERED
        if after > self._sequence or (full and after < self._remembered[0].sequence - 1):
            return None
        return after if after >= self._passed.get(experiment or "", 0) else None

    def _event(self, kind: str, body: object, experiment: str | None, subject: str, *, retry: bool = False) -> Event:
        self._sequence += 1
        text = b"id: %s-%d\nevent: %s\ndata: %s\n\n" % (
            self._server.encode(), self._sequence, kind.encode(), msgspec.json.encode(body),
        )  # fmt: skip
        if retry:
            text = b"retry: %d\n%s" % (_RETRY_MS, text)
        return Event(sequence=self._sequence, experiment=experiment, subject=subject, data=text)

    def _reload(self, experiment: str | None) -> Event:
        data = b"id: %s-%d\nevent: reload\ndata: %s\n\n" % (
            self._server.encode(), self._sequence, msgspec.json.encode({"experiment": experiment}),
        )  # fmt: skip
        return Event(sequence=self._sequence, experiment=experiment, subject="", data=data)
