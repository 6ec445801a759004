"""How fast a replay goes: by event time, by slates a second, not while it is held, and never further ahead of the
counting than allowed."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from sluice.errors import ConfigError, TransportError

__all__ = ["MAX_SPEED", "LagGate", "Pace", "Speed", "parse_speed"]

log = logging.getLogger(__name__)

HEARTBEAT_EVERY_S = 1.0
LOOK_S = 0.02
STILL_S = 10.0
MAX_BATCH = 256
LONGEST_BURST_S = 0.5


class Speed(NamedTuple):
    """At most one is not None; all None: as fast as it goes."""

    multiple: float | None = None
    """Event-time seconds a second"""
    slates_per_second: float | None = None
    seconds: float | None = None
    """For the whole replay"""

    def over(self, slates: int) -> Speed:
        """The same with `seconds` as a rate, for a replay of so many slates."""
        return self if self.seconds is None else Speed(slates_per_second=max(slates, 1) / self.seconds)


MAX_SPEED = Speed()


def parse_speed(text: str) -> Speed:
    """`max`, `60x` or `60×` (event time), `500/s` (slates), `20s` (for all of it). Raises ConfigError."""
    if text == "max":
        return Speed()
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(x|×|/s|s)", text.strip())
    if not found or float(found[1]) <= 0:
        raise ConfigError(
            f"--speed: {text!r}: allowed are max, 60x (60 times event time), 500/s (slates a second) "
            "or 20s (for all of it)"
        )
    value = float(found[1])
    match found[2]:
        case "/s":
            return Speed(slates_per_second=value)
        case "s":
            return Speed(seconds=value)
    return Speed(multiple=value)


class Pace:
    """Waits until things are due. `idle` is called once a second of waiting with the event time reached."""

    def __init__(
        self, speed: Speed, stop: threading.Event, idle: Callable[[int], None], *, most: int = MAX_BATCH,
        held: threading.Event | None = None,
    ) -> None:  # fmt: skip
        """`most`: slates that `batch` may name at most. `held`: nothing is due while it is set."""
        self._speed = speed
        self._stop = stop
        self._held = held or threading.Event()
        self._idle = idle
        self._most = most
        self._began_s = time.monotonic()
        self._first_ms: int | None = None
        self._slates = 0
        self._beat_s = self._began_s

    @property
    def by_event_time(self) -> bool:
        return self._speed.multiple is not None

    def batch(self) -> int:
        """Slates to route at once: few enough that the last one's allocation is not old when it is sent."""
        return min(self._most, self._by_speed())

    def _by_speed(self) -> int:
        rate = self._speed.slates_per_second
        if rate is not None:
            return max(1, min(MAX_BATCH, int(rate * LOOK_S)))
        return MAX_BATCH if self._speed.multiple is None else 1

    def slates(self, count: int) -> None:
        """Wait until `count` more slates are due by their rate."""
        self._while_held()
        rate = self._speed.slates_per_second
        if rate is not None:
            now_s = time.monotonic()
            # What stopped the replay for long (the lag, Redis) must not be followed by a burst.
            self._began_s = max(self._began_s, now_s - self._slates / rate - LONGEST_BURST_S)
            self._until(self._began_s + self._slates / rate, lambda: None)
        self._slates += count

    def event_time(self, at_ms: int, reached_ms: int) -> None:
        """Wait until `at_ms` is due by event time; `reached_ms` is the event time of what was sent last."""
        multiple = self._speed.multiple
        if multiple is None:
            return
        self._while_held()
        if self._first_ms is None:
            self._first_ms, self._began_s = at_ms, time.monotonic()
        first_ms = self._first_ms

        def now_ms() -> int:
            passed = first_ms + int((time.monotonic() - self._began_s) * 1000 * multiple)
            return max(reached_ms, min(at_ms, passed))

        self._until(self._began_s + (at_ms - first_ms) / 1000 / multiple, now_ms)

    def _while_held(self) -> None:
        began_s = time.monotonic()
        while self._held.is_set() and not self._stop.is_set():
            self._stop.wait(LOOK_S)
        self._began_s += time.monotonic() - began_s

    def _until(self, due_s: float, now_ms: Callable[[], int | None]) -> None:
        while not self._stop.is_set():
            now_s = time.monotonic()
            if now_s >= due_s:
                return
            if now_s - self._beat_s >= HEARTBEAT_EVERY_S:
                self._beat_s = now_s
                reached_ms = now_ms()
                if reached_ms is not None:
                    self._idle(reached_ms)
            self._stop.wait(min(due_s - now_s, HEARTBEAT_EVERY_S))


class LagGate:
    """Holds the replay while the counting is more than `limit` records behind."""

    def __init__(
        self,
        limit: int,
        stop: threading.Event,
        *,
        counted: Callable[[], Mapping[int, tuple[int, int]]],
        written: Callable[[], Mapping[int, tuple[int, int]]],
        poll: Callable[[], object],
        beat: Callable[[], None],
    ) -> None:
        """`counted`, `written`: partition → next offset of (impressions, clicks).

        While waiting, `poll` is called often (delivery reports move `written`), `beat` once a second.
        """
        self._limit = limit
        self._stop = stop
        self._counted = counted
        self._written = written
        self._poll = poll
        self._beat = beat
        self._last_counted: Mapping[int, tuple[int, int]] = {}
        self.waited_s = 0.0

    def lag(self) -> int:
        """Records written and not yet counted."""
        try:
            self._last_counted = self._counted()
        except TransportError as error:
            # Away is standing still: `wait` says so.
            log.debug("%s", error)
        counted = self._last_counted
        return sum(
            max(0, end - done)
            for partition, ends in self._written().items()
            for end, done in zip(ends, counted.get(partition, (0, 0)), strict=True)
        )

    def wait(self) -> None:
        """Return once the lag is within the limit, or the replay is stopped. Says so when the counting stands still."""
        lag = self.lag()
        began_s = moved_s = beat_s = time.monotonic()
        lowest, said = lag, False
        while lag > self._limit and not self._stop.is_set():
            self._stop.wait(LOOK_S)
            self._poll()
            lag = self.lag()
            now_s = time.monotonic()
            if now_s - beat_s >= HEARTBEAT_EVERY_S:
                beat_s = now_s
                self._beat()
            if lag < lowest:
                lowest, moved_s, said = lag, now_s, False
            elif now_s - moved_s >= STILL_S and not said:
                said = True
                log.warning(
                    "waiting: the counting has not moved for %.0f s and is %d records behind (--max-lag %d); "
                    "is `sluice process` running?",
                    now_s - moved_s, lag, self._limit,
                )  # fmt: skip
        self.waited_s += time.monotonic() - began_s
