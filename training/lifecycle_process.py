"""`sluice lifecycle run`: turn after turn, as the only one that leads this life, watched by metrics.

Libraries: msgspec, prometheus-client (through sluice.adapters).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import get_args

from msgspec.structs import asdict

from sluice.adapters.kafka import KafkaException
from sluice.adapters.lease import Lease
from sluice.adapters.lives import LifeBoard
from sluice.adapters.metrics import Metrics, Reading
from sluice.domain.lifecycle import Stage, waits_for_approval
from sluice.domain.lifecycle_events import LifecycleEvent
from sluice.domain.lifecycle_waits import Waits, WaitsTold
from sluice.errors import Conflict, SluiceError, TransportError
from training.lifecycle import Lifecycle
from training.lifecycle_journal import Journal
from training.lifecycle_plan import Plan

__all__ = ["Notes", "Process"]

log = logging.getLogger(__name__)

EVERY_S, LONGEST_WAIT_S = 1.0, 30.0
NOTED_EVERY_S = 10.0
OUTCOMES = ("promoted", "gate-refused", "shadow-judged", "rolled-back", "abandoned", "aborted")


class Notes:
    """What a life waits for, noted where `sluice lifecycle status` finds it."""

    def __init__(self, board: LifeBoard) -> None:
        self._board = board
        self._last: Waits | None = None
        self._at_s = 0.0

    def __call__(self, waits: Waits) -> None:
        now_s = time.monotonic()
        if waits == self._last and now_s < self._at_s + NOTED_EVERY_S:
            return
        self._last, self._at_s = waits, now_s
        with suppress(TransportError):  # no step waits for it
            self._board.put(WaitsTold(at_ms=time.time_ns() // 1_000_000, **asdict(waits)))


class Process:
    """Leads one life while it holds the lease; stands by while another process does."""

    def __init__(
        self, plan: Plan, journal: Journal, life: Lifecycle, lease: Lease, metrics: Metrics, notes: Notes,
        tell: Callable[[LifecycleEvent], None],
    ) -> None:  # fmt: skip
        self._plan, self._journal, self._life, self._lease = plan, journal, life, lease
        self._metrics, self._notes, self._tell = metrics, notes, tell
        self._said = ""
        self.ready = False
        """Whether it leads and its last step did not fail, or stands by and could take over"""
        self.leads = False

    def once(self) -> None:
        """Do what is due until it must wait. Raises what stops it, and Conflict while another process leads."""
        if not self._lease.take():
            raise Conflict(f"{self._plan.serving}: another `sluice lifecycle run` leads it")
        self.ready = self.leads = True
        while (event := self._life.turn()) is not None:
            self._tell(event)

    def run(self, stop: threading.Event) -> None:
        """Until `stop` is set. What fails is due again: the version in force serves on."""
        wait_s = EVERY_S
        while not stop.is_set():
            try:
                event = self._turn()
                self.ready, wait_s = True, EVERY_S
            except (SluiceError, KafkaException) as error:
                self.ready = False
                if self.leads:
                    self._notes(Waits(reason="failure", words=str(error)))
                self._metrics.count("sluice_lifecycle_failures_total", self._plan.model, self._plan.alias)
                self._say("%s: it is tried until it works", str(error))
                stop.wait(wait_s)
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)
                continue
            if event is not None:
                self._tell(event)
            else:
                stop.wait(EVERY_S)

    def _turn(self) -> LifecycleEvent | None:
        self.leads = self._lease.take()
        if not self.leads:
            self._journal.poll()  # what is told of the life shall not grow old
            self._say("another `sluice lifecycle run` leads %s: standing by", self._plan.serving)
            return None
        event = self._life.turn()
        self._said = ""
        return event

    def readings(self) -> Reading:
        """For `/metrics`, on any thread: of what the topic said when it was last read."""
        state, life = self._journal.state, (self._plan.model, self._plan.alias)
        run = state.running
        if state.in_force:
            yield "sluice_lifecycle_version", (*life, state.in_force), 1
        yield "sluice_lifecycle_leads", life, self.leads
        stage = "ended" if run is None else run.stage
        for name in get_args(Stage):
            yield "sluice_lifecycle_stage", (*life, name), name == stage
        yield "sluice_lifecycle_canary_share", life, (run.share if run is not None else 0) / 100
        for outcome in OUTCOMES:
            yield "sluice_lifecycle_attempts_total", (*life, outcome), state.outcomes.get(outcome, 0)
        yield "sluice_lifecycle_reversals_total", life, state.reversals
        yield "sluice_lifecycle_waits_for_approval", life, waits_for_approval(state, self._plan.policy)
        yield "sluice_lifecycle_paused", life, state.paused is not None

    def _say(self, text: str, about: str) -> None:
        """Once, however often it happens in a row."""
        if about != self._said:
            log.warning(text, about)
        self._said = about
