"""The circuit breaker, and assignments without their store."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from router import AssignmentRequest, MemoryAssignments, Router
from router.degrading import FAILURES, Breaker, GuardedClaims
from sluice.domain.assignment import Claim, StoredAssignment
from sluice.domain.experiment import Experiment, Variant
from sluice.errors import TransportError

LONG_S = 60.0


class Away:
    """A server that can be taken away."""

    def __init__(self) -> None:
        self.away = True
        self.probes = 0

    def __call__(self) -> str:
        if self.away:
            raise TransportError("refused")
        return "answer"

    def probe(self) -> None:
        self.probes += 1
        self()


def test_a_few_failures_open_it_and_nobody_is_asked_any_more() -> None:
    server = Away()
    breaker = Breaker("it", server.probe, probe_s=LONG_S)
    for _ in range(FAILURES):
        assert not breaker.open
        with pytest.raises(TransportError, match="refused"):
            breaker.call(server, LONG_S)
    assert breaker.open
    server.away = False
    with pytest.raises(TransportError, match="it is away"):
        breaker.call(server, LONG_S)
    breaker.close()


def test_an_answer_in_between_starts_the_count_anew() -> None:
    server = Away()
    breaker = Breaker("it", server.probe, probe_s=LONG_S)
    for _ in range(3):
        for _ in range(FAILURES - 1):
            with pytest.raises(TransportError):
                breaker.call(server, LONG_S)
        server.away = False
        assert breaker.call(server, LONG_S) == "answer"
        server.away = True
    assert not breaker.open


def test_a_slow_failure_opens_it_at_once() -> None:
    breaker = Breaker("it", Away().probe, probe_s=LONG_S)
    with pytest.raises(TransportError):
        breaker.call(Away(), slow_s=-1)  # whatever it took was too long
    assert breaker.open
    breaker.close()


def test_slow_answers_are_answers_but_count_as_failures() -> None:
    server = Away()
    server.away = False
    breaker = Breaker("it", server.probe, probe_s=LONG_S)
    for _ in range(FAILURES):
        assert breaker.call(server, slow_s=-1) == "answer"
    assert breaker.open
    breaker.close()


def test_a_probe_in_the_background_closes_it(wait_until: Callable[..., Any]) -> None:
    server = Away()
    breaker = Breaker("it", server.probe, probe_s=0.001)
    with pytest.raises(TransportError):
        breaker.call(server, slow_s=-1)
    wait_until(lambda: server.probes > 2, 5, "probes while it is away")
    assert breaker.open
    server.away = False
    wait_until(lambda: not breaker.open, 5, "the breaker closes")
    assert breaker.call(server, LONG_S) == "answer"


class FlakyStore(MemoryAssignments):
    """Memory that can be taken away."""

    away = False

    def claim(self, claims: Sequence[Claim]) -> list[tuple[StoredAssignment, bool]]:
        if self.away:
            raise TransportError("away")
        return super().claim(claims)


def test_without_the_store_units_are_drawn_as_with_it_and_say_so() -> None:
    experiment = Experiment(name="e", variants=(Variant(name="a"), Variant(name="b")))
    store, opened = FlakyStore(), threading.Event()
    claims = GuardedClaims(store, Breaker("store", opened.wait, probe_s=LONG_S))
    router = Router([experiment], claims, retry_s=0)
    requests = [AssignmentRequest(f"u{n}", {}, n) for n in range(200)]
    before = [answer[0].variant for answer in router.assign(requests)]
    assert not claims.degraded
    store.away = True
    again = router.assign(requests)
    assert claims.degraded
    assert [answer[0].variant for answer in again] == before
    assert not any(answer[0].sticky for answer in again)
    store.away = False
    assert all(answer[0].sticky for answer in router.assign(requests))
    assert not claims.degraded
