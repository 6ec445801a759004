"""`sluice lifecycle run`: turn after turn, as the only one that leads this life, watched by metrics.

Libraries: prometheus-client (through sluice.adapters).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import get_args

from sluice.adapters.kafka import KafkaException
from sluice.adapters.lease import Lease
from sluice.adapters.metrics import Metrics, Reading
from sluice.domain.lifecycle import Stage, waits_for_approval
from sluice.domain.lifecycle_events import LifecycleEvent
from sluice.errors import Conflict, SluiceError
from training.lifecycle import Lifecycle
from training.lifecycle_journal import Journal
from training.lifecycle_plan import Plan

__all__ = ["Process"]

log = logging.getLogger(__name__)

EVERY_S, LONGEST_WAIT_S = 1.0, 30.0
OUTCOMES = ("promoted", "gate-refused", "shadow-judged", "rolled-back", "abandoned", "aborted")


class Process:
    """Leads one life while it holds the lease; stands by while another process does."""

    def __init__(
        self, plan: Plan, journal: Journal, life: Lifecycle, lease: Lease, metrics: Metrics,
        tell: Callable[[LifecycleEvent], None],
    ) -> None:  # fmt: skip
        self._plan, self._journal, self._life, self._lease = plan, journal, life, lease
        self._metrics, self._tell = metrics, tell
        self._said = ""
        self.ready = False
        """Whether this process leads, and its last step did not fail"""

    def once(self) -> None:
        """Do what is due until it must wait. Raises what stops it, and Conflict while another process leads."""
        if not self._lease.take():
            raise Conflict(f"{self._plan.serving}: another `sluice lifecycle run` leads it")
        self.ready = True
        while (event := self._life.turn()) is not None:
            self._tell(event)

    def run(self, stop: threading.Event) -> None:
        """Until `stop` is set. What fails is due again: the version in force serves on."""
        wait_s = EVERY_S
        while not stop.is_set():
            try:
                self.ready = self._lease.take()
                if not self.ready:
                    self._say("another `sluice lifecycle run` leads %s: standing by", self._plan.serving)
                event = self._life.turn() if self.ready else None
                if self.ready:
                    self._said, wait_s = "", EVERY_S
            except (SluiceError, KafkaException) as error:
                self.ready = False
                self._metrics.count("sluice_lifecycle_failures_total", self._plan.model, self._plan.alias)
                self._say("%s: it is tried until it works", str(error))
                stop.wait(wait_s)
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)
                continue
            if event is not None:
                self._tell(event)
            else:
                stop.wait(EVERY_S)

    def readings(self) -> Reading:
        """For `/metrics`, on any thread: of what the topic said when it was last read."""
        state, life = self._journal.state, (self._plan.model, self._plan.alias)
        run = state.running
        if state.in_force:
            yield "sluice_lifecycle_version", (*life, state.in_force), 1
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
