"""Redis that is slow or away costs no request its answer: a circuit breaker in front of the sticky assignments."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from sluice.domain.assignment import AssignmentClaims, Claim, StoredAssignment
from sluice.errors import TransportError

__all__ = ["Breaker", "GuardedClaims"]

log = logging.getLogger(__name__)

R = TypeVar("R")

FAILURES = 3
"""In a row open the circuit"""
SLOW_S = 0.03
"""A call that took longer and failed opens it at once; one that succeeded so late counts as a failure"""
SLOW_CLAIM_S = 50e-6
"""What each claim of a batch may add to that"""
PROBE_S = 0.25


class Breaker:
    """Closed until calls fail, then open until a probe in the background succeeds: no request pays for finding out.

    `probe` must raise TransportError while the other side is away. Safe to use from several threads.
    """

    def __init__(self, name: str, probe: Callable[[], object], *, probe_s: float = PROBE_S) -> None:
        self._name = name
        self._probe = probe
        self._probe_s = probe_s
        self._failures = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._prober: threading.Thread | None = None

    @property
    def open(self) -> bool:
        return self._prober is not None

    def call(self, action: Callable[[], R], slow_s: float = SLOW_S) -> R:
        """What `action` returns. Raises TransportError when it does, and at once while the circuit is open."""
        if self._prober is not None:
            raise TransportError(f"{self._name} is away")
        begun = time.monotonic()
        try:
            result = action()
        except TransportError as error:
            self._failed(time.monotonic() - begun > slow_s, str(error))
            raise
        took_s = time.monotonic() - begun
        if took_s > slow_s:
            self._failed(False, f"an answer took {1000 * took_s:.0f} ms")
        else:
            self._failures = 0
        return result

    def close(self) -> None:
        """Stop probing."""
        self._stop.set()
        if self._prober is not None:
            self._prober.join(10)

    def _failed(self, at_once: bool, reason: str) -> None:
        with self._lock:
            self._failures += 1
            if self._prober is not None or not (at_once or self._failures >= FAILURES) or self._stop.is_set():
                return
            log.warning("%s: %s; going on without it", self._name, reason)
            self._prober = threading.Thread(target=self._until_back, name=f"probe-{self._name}", daemon=True)
            self._prober.start()

    def _until_back(self) -> None:
        while not self._stop.wait(self._probe_s):
            try:
                self._probe()
            except TransportError:
                continue
            log.warning("%s is back", self._name)
            with self._lock:
                self._failures = 0
                self._prober = None
            return


class GuardedClaims:
    """Sticky assignments while the store answers; else what was drawn stands, and `degraded` says so.

    What a unit draws depends on nothing but the unit, the salt and the allocation: without the store it is still the
    same every time while the allocation stands. For one assigning thread.
    """

    def __init__(self, store: AssignmentClaims, breaker: Breaker) -> None:
        self._store = store
        self._breaker = breaker
        self.degraded = False
        """Of the latest call"""

    def claim(self, claims: Sequence[Claim]) -> list[tuple[StoredAssignment, bool]]:
        """As the store answers, or what each claim wants."""
        self.degraded = False
        try:
            return self._breaker.call(lambda: self._store.claim(claims), SLOW_S + SLOW_CLAIM_S * len(claims))
        except TransportError:
            self.degraded = True
            return [(claim.wanted, True) for claim in claims]

    def replace(self, claims: Sequence[tuple[Claim, StoredAssignment]]) -> list[tuple[StoredAssignment, bool]]:
        """As the store answers, or what each claim wants."""
        try:
            return self._breaker.call(lambda: self._store.replace(claims), SLOW_S + SLOW_CLAIM_S * len(claims))
        except TransportError:
            self.degraded = True
            return [(claim.wanted, True) for claim, _ in claims]
