"""A canary that nobody plays: routed slates, counted, judged by the analyzer; the lifecycle follows what it says."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from event_logs import click, heartbeats, impression, write
from lives import ALIAS, NAME, PLAN, Stand

from analyzer.service import build as build_analyzer
from router import AssignmentRequest, carried
from router import build as build_router
from sluice.adapters import catalogue
from sluice.adapters.reader import TopicReader
from sluice.domain.allocation import parse_allocation_key
from sluice.domain.canary import Canary, CanaryStep
from sluice.domain.events import DecisionMade
from sluice.domain.lifecycle_events import CanaryAdvanced, GatePassed, LifecycleEvent, Promoted, RolledBack
from sluice.names import DECISIONS
from sluice.settings import Settings
from stream_processors.worker import CountingWorker
from training.lifecycle import Lifecycle
from training.lifecycle_journal import Journal
from training.lifecycle_plan import CANDIDATE, CONTROL

Wait = Callable[..., Any]
STEPS = tuple(CanaryStep(share=share, margin=0.15, shortest_s=60, longest_s=10**6) for share in (20, 50))
CANARY = msgspec.structs.replace(PLAN, unit="slate", canary=Canary(steps=STEPS))
WINDOW_MS, ROUND_MS, SLATES, MOST_ROUNDS = 2000, 60_000, 300, 25


@contextmanager
def on_a_thread(work: Callable[[], object], stop: Callable[[], None]) -> Iterator[None]:
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop()
        thread.join(60)
        assert not thread.is_alive()


def count(settings: Settings, stopping: threading.Event) -> None:
    worker = CountingWorker(settings, stopping=stopping.is_set)
    while not stopping.is_set():
        worker.process(worker.poll(1000, 0.05))
    worker.close()


class Traffic:
    """Slates of the release, three items each, that are clicked as their variant deserves."""

    def __init__(self, settings: Settings, rates: dict[str, float], wait_until: Wait) -> None:
        self._settings, self._rates, self._wait_until = settings, rates, wait_until
        self._router = build_router(settings)
        self._rng, self._number = random.Random(1), 0
        self._at_ms = time.time_ns() // 1_000_000 - 30 * 24 * 3_600_000
        self.shares: dict[int, int] = {}
        """Share of the candidate that a slate was drawn with → slates that it was shown in"""

    def round(self) -> None:
        """A minute; returns when a decision includes it."""
        impressions, clicks = [], []
        for _ in range(SLATES):
            self._number += 1
            self._at_ms += ROUND_MS // SLATES
            name, user = f"s{self._number}", f"u{self._number % 97}"
            (routed,) = self._router.assign([AssignmentRequest(user, {"slate": name}, self._at_ms)])
            (assignment,) = carried(routed)
            if assignment.variant == CANDIDATE:
                share = parse_allocation_key(assignment.allocation)[CANDIDATE]
                self.shares[share] = self.shares.get(share, 0) + 1
            for item in range(3):
                impressions.append((user, impression(f"{name}.{item}", user, self._at_ms, assignment), -1))
                if self._rng.random() < self._rates[assignment.variant]:
                    clicks.append((user, click(f"{name}.{item}", user, self._at_ms + 1000), -1))
        write(self._settings, impressions, clicks)
        self._at_ms += 2 * WINDOW_MS
        write(self._settings, heartbeats(self._at_ms), heartbeats(self._at_ms))
        self._wait_until(self._decided, 60, f"a decision on all of {self._number} slates")

    def _decided(self) -> bool:
        with TopicReader(self._settings, DECISIONS, from_start=True) as reader:
            found = [msgspec.json.decode(message.value() or b"", type=DecisionMade) for message in reader.rest()]
        return any(
            sum(cell.statistics.impressions for cell in one.evidence) == 3 * self._number
            and one.at_ms >= self._at_ms for one in found
        )  # fmt: skip

    def close(self) -> None:
        self._router.close()


@pytest.mark.parametrize(("rate", "ends"), [pytest.param(0.6, Promoted, marks=pytest.mark.slow), (0.3, RolledBack)])
def test_what_users_do_decides(
    make_stack: Callable[..., Settings], mlflow_store: Callable[[Path], str], tmp_path: Path, wait_until: Wait,
    rate: float, ends: type[LifecycleEvent],
) -> None:  # fmt: skip
    embedded = make_stack("embedded", window_ms=WINDOW_MS, lateness_ms=0)
    stand = Stand(replace(embedded, mlflow=mlflow_store(tmp_path)), tmp_path)
    settings, stopping = stand.settings, threading.Event()
    stand.trained()
    stand.judged(passed=True)
    analyzer = build_analyzer(settings, every_ms=20)
    with ExitStack() as running:
        journal = running.enter_context(Journal(settings, NAME, ALIAS))
        life = Lifecycle(settings, CANARY, journal, clock_ms=lambda: stand.at_ms)
        running.callback(life.close)
        assert isinstance(life.turn(), GatePassed)
        assert life.turn() is None  # the canary is published
        running.enter_context(on_a_thread(lambda: count(settings, stopping), stopping.set))
        running.enter_context(on_a_thread(analyzer.run, analyzer.stop))
        traffic = Traffic(settings, {CONTROL: 0.5, CANDIDATE: rate}, wait_until)
        running.callback(traffic.close)
        told: list[LifecycleEvent] = []
        for _ in range(MOST_ROUNDS):
            traffic.round()
            while (event := life.turn()) is not None:
                told.append(event)
            if told and isinstance(told[-1], ends):
                break
        assert isinstance(told[-1], ends), told
        assert life.turn() is None
    assert catalogue.load(settings)["films-2"].state.status == "stopped"
    reached = [event.share for event in told if isinstance(event, CanaryAdvanced)]
    if ends is Promoted:
        assert (stand.alias, reached) == ("2", [20, 50, 100])
        assert traffic.shares[20] > 0 < traffic.shares[50]
    else:
        assert (stand.alias, set(reached) - {20}) == ("1", set())
        assert traffic.shares.keys() == {20}  # who saw it saw it in the first step
        assert isinstance(told[-1], RolledBack)
        assert "next is worse than current in click" in " ".join(told[-1].reasons)
