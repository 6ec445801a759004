"""Event time goes on while nobody hands anything in. Library: confluent-kafka, by the adapter.

Counting and features wait for the watermark of every partition of both topics. Where traffic is thin some partition is
silent: without heartbeats its impressions stay open, and no slate ends anywhere.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable

from sluice.adapters.kafka import KafkaException, partition_count, producer
from sluice.domain.events import Heartbeat, encode
from sluice.errors import TransportError
from sluice.names import CLICKS, IMPRESSIONS
from sluice.settings import Settings

__all__ = ["Heartbeats", "Pulse"]

log = logging.getLogger(__name__)

EVERY_S = 1.0
BEHIND_MS = 2000
"""So old may be what is still on its way to the broker, beyond the lateness that events are allowed"""
LAST_MS = 10_000
"""So long heartbeats go on when everything is settled: one that is lost matters nothing"""


class Pulse:
    """Which event time it is. Pure: the clock (milliseconds) is an argument.

    It is the clock's only where events carry the clock's times: beside a log of last year that is handed in, a
    heartbeat of today would make all that is still to come late.
    """

    def __init__(self, settings: Settings) -> None:
        self._lateness_ms, self._skew_ms = settings.lateness_ms, settings.skew_ms
        self._settled_ms = settings.skew_ms + settings.window_ms + 2 * settings.lateness_ms + BEHIND_MS + LAST_MS
        self._live_ms: int | None = None

    def saw(self, times: Iterable[int], now_ms: int) -> None:
        """Events of these times were taken in."""
        if any(now_ms - self._lateness_ms <= at_ms <= now_ms + self._skew_ms for at_ms in times):
            self._live_ms = now_ms

    def at(self, now_ms: int) -> int | None:
        """Event time of a heartbeat now; None: there must be none, or nothing waits for one any more."""
        if self._live_ms is None or now_ms - self._live_ms > self._settled_ms:
            return None
        return now_ms - BEHIND_MS


class Heartbeats:
    """Sends a heartbeat every second to all partitions of `impressions` and `clicks`, while `Pulse` has one."""

    def __init__(self, settings: Settings, away: Callable[[], bool]) -> None:
        """away: what was taken in waits for the broker: a heartbeat must not overtake it."""
        self._pulse = Pulse(settings)
        self._away = away
        self._producer = producer(settings, {"message.timeout.ms": 1500})
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="router-heartbeats", daemon=True)
        self._thread.start()

    def saw(self, times: Iterable[int]) -> None:
        """Events of these times were taken in. From any thread."""
        self._pulse.saw(times, _now_ms())

    def close(self) -> None:
        self._stop.set()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._stop.wait(EVERY_S):
            at_ms = self._pulse.at(_now_ms())
            try:
                if at_ms is not None and not self._away():
                    self._send(encode(Heartbeat(at_ms=at_ms)))
                self._producer.poll(0)
            except (TransportError, KafkaException, BufferError) as error:
                log.debug("no heartbeat: %s", error)  # whoever hands events in says that the broker is away

    def _send(self, value: bytes) -> None:
        for topic in (IMPRESSIONS, CLICKS):
            for partition in range(partition_count(self._producer, topic, timeout_s=1)):
                self._producer.produce(topic, value, b"", partition)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
