"""The latest decisions, for those who ask and those who listen. Library: asyncio, over the topic's reader."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections import deque
from typing import NamedTuple

import msgspec

from sluice.adapters.kafka import KafkaException, Message
from sluice.adapters.reader import TopicReader
from sluice.domain.events import Name
from sluice.errors import TransportError
from sluice.names import DECISIONS
from sluice.settings import Settings

__all__ = ["KEPT", "DecisionBoard", "Posted"]

log = logging.getLogger(__name__)

KEPT = 1000
"""Latest records of the topic that are kept to answer with, also of those before the start"""
KEPT_BYTES = 64 * 1024 * 1024
"""Of them all; the oldest go first"""
LONGEST_WAIT_S = 5.0


class Posted(NamedTuple):
    """A decision as it stands on the topic."""

    offset: int
    experiment: str
    version: int
    record: bytes


class _Head(msgspec.Struct, frozen=True, tag_field="type", tag="decision"):
    experiment: Name
    version: int


_head = msgspec.json.Decoder(_Head).decode


class DecisionBoard:
    """Follows topic `decisions` in a thread of its own; a broker that goes away is retried."""

    def __init__(self, settings: Settings) -> None:
        """Raises TransportError when the broker is away."""
        self._settings = settings
        self._recent: deque[Posted] = deque(maxlen=KEPT)
        self._bytes = 0
        self._latest: dict[str, Posted] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed = asyncio.Event()
        self._stop = threading.Event()
        reader = TopicReader(settings, DECISIONS, from_start=False, last=KEPT)
        self._thread = threading.Thread(target=self._run, args=(reader,), name="router-board", daemon=True)
        self._thread.start()

    @property
    def latest(self) -> dict[str, Posted]:
        """Experiment → its decision of the highest version"""
        return dict(self._latest)

    def after(self, offset: int) -> list[Posted]:
        """What is kept of the decisions beyond `offset`, in order; −1 for all."""
        return [posted for posted in tuple(self._recent) if posted.offset > offset]

    @property
    def end(self) -> int:
        """Offset of the newest decision, −1 when there is none"""
        recent = tuple(self._recent)
        return recent[-1].offset if recent else -1

    async def change(self, timeout_s: float) -> None:
        """Return when there may be something new, or after `timeout_s`. Belongs to the loop that calls it first."""
        self._loop = self._loop or asyncio.get_running_loop()
        try:
            await asyncio.wait_for(self._changed.wait(), timeout_s)
        except TimeoutError:
            return

    def wake(self) -> None:
        """Let everybody who waits for a change look. From any thread."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._notify)

    def close(self) -> None:
        self._stop.set()
        self._thread.join(10)

    def _run(self, reader: TopicReader | None) -> None:
        wait_s = 0.1
        while not self._stop.is_set():
            try:
                if reader is None:
                    reader = TopicReader(self._settings, DECISIONS, from_start=False, last=KEPT)
                for message in reader.poll(0.2):
                    self._post(message)
                wait_s = 0.1
            except (TransportError, KafkaException) as error:
                log.warning("decisions: %s", error)
                if reader is not None:
                    reader.close()
                    reader = None
                self._stop.wait(wait_s)
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)
        if reader is not None:
            reader.close()

    def _post(self, message: Message) -> None:
        record = message.value() or b""
        try:
            head = _head(record)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            log.warning("topic %s: skipped a record: %s", DECISIONS, error)
            return
        before = self._latest.get(head.experiment)
        if before is not None and head.version <= before.version:
            return  # of two analyzers that decided at once, the later record does not stand
        posted = Posted(message.offset() or 0, head.experiment, head.version, record)
        self._latest[head.experiment] = posted
        if len(self._recent) == KEPT:
            self._bytes -= len(self._recent[0].record)
        self._recent.append(posted)
        self._bytes += len(record)
        while self._bytes > KEPT_BYTES:
            self._bytes -= len(self._recent.popleft().record)
        self.wake()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
