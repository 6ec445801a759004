"""The replay: every slate of a log as a request to the router, its impressions and outcomes as events."""

from __future__ import annotations

import heapq
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from producers.candidates import CANDIDATE, LIKED_MILLI, Candidates, Shown
from producers.delays import Delay
from producers.draws import uniform
from producers.emitter import Emitter
from producers.faults import Faults, send_times
from producers.pacing import LagGate, Pace
from producers.rankings import RankingLog
from producers.releases import Releases, Turn
from producers.slates import MAX_SLATE, Slate, base36
from producers.totals import Accounting, Totals, result_of
from router import AssignmentRequest, Routed, Router, carried
from sluice.adapters.checkpoints import ReplayCheckpoint
from sluice.adapters.metrics import Reading
from sluice.domain.events import AssignmentMade, ImpressionShown, OutcomeObserved, encode
from sluice.errors import TransportError
from sluice.names import ASSIGNMENTS, CLICKS, IMPRESSIONS, RANKINGS, SHADOW

__all__ = ["OUTCOMES", "Plan", "Replay"]

log = logging.getLogger(__name__)

OUTCOMES = ("click", "rating")
CHECKPOINT_EVERY_S = 0.5
FLUSH_TIMEOUT_S = 60.0
_DELAY, _IMPRESSION, _OUTCOME = 10, 0, 1


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is replayed. Equal plans give equal ids, event times and send orders."""

    tag: str
    """Begins every id, so that slates and sessions of two replays are never taken for one another"""

    first: int
    """Index of the first slate"""
    stop: int
    """Index after the last slate"""
    seed: int
    delay: Delay
    outcomes: Sequence[str]
    liked_milli: int = LIKED_MILLI
    """A rating from here on is a click"""
    faults: Faults
    settle_ms: int | None
    """The final heartbeat lies this far beyond the last event; None: there is none"""


class Replay:
    """One run. `run` sends everything from the checkpoint on; all that is random is drawn by hash of what it is for.

    Records go out in order of their send time, which is their event time but for planted faults. A restart
    repeats records that were sent and not yet settled, in the same order: they are duplicates by id, or late.
    """

    def __init__(
        self,
        plan: Plan,
        candidates: Candidates,
        router: Router,
        emitter: Emitter,
        pace: Pace,
        *,
        stop: threading.Event,
        gate: LagGate | None = None,
        rankings: RankingLog | None = None,
        releases: Releases | None = None,
        save: Callable[[ReplayCheckpoint], None] = lambda _: None,
        progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        """`save` is called now and then with what a restart would need, `progress` with the next slate."""
        self._plan = plan
        self._candidates = candidates
        self._router = router
        self._emitter = emitter
        self._pace = pace
        self._stop = stop
        self._gate = gate
        self._rankings = rankings
        self._releases = releases
        self._save = save
        self._progress = progress
        # (send time, order of making, topic, key, value, slate)
        self._waiting: list[tuple[int, int, str, bytes, bytes, int]] = []
        self._made = 0
        self._open: dict[int, int] = {}
        """Slate → its records that wait to be sent"""
        self._began = self._next = plan.first
        self._reached_ms = 0
        self._settled_ms = 0
        """Event time that the run before had reached, where this one continues"""
        self._closed_s = time.monotonic()

    def run(self, resume: ReplayCheckpoint | None = None) -> tuple[Totals, bool]:
        """(totals, whether the replay came to its end). Stops early when `stop` is set.

        Raises TransportError when a record cannot be delivered or the assignments cannot be read.
        """
        plan = self._plan
        totals = Totals() if resume is None else msgspec.convert(resume.totals, Totals)
        self._accounting = Accounting(totals)
        self._began = self._next = plan.first if resume is None else resume.next_slate
        self._settled_ms = 0 if resume is None else resume.reached_ms
        while self._next < plan.stop and not self._stop.is_set():
            if self._gate is not None:
                self._gate.wait()
            if self._releases is not None:
                self._releases.follow()
            batch = self._candidates.block(self._next, min(plan.stop, self._next + self._pace.batch()))
            self._send_until(batch[0].at_ms)
            self._pace.slates(len(batch))
            if self._stop.is_set():
                break
            self._send_batch(batch)
            self._progress(self._next)
            self._checkpoint(every_s=CHECKPOINT_EVERY_S)
        return self._finish()

    def readings(self) -> Reading:
        """How far it is, on any thread."""
        done = self._next
        yield "sluice_replay_slates_total", (), done - self._began
        yield "sluice_replay_slates_left", (), self._plan.stop - done
        yield "sluice_replay_event_timestamp_seconds", (), self._reached_ms / 1000
        for topic, count in self._emitter.sent.items():
            yield "sluice_replay_records_total", (topic,), count

    def expose(self, exposures: Sequence[AssignmentMade]) -> None:
        """Write the exposure log. For the router."""
        for made in exposures:
            self._emitter.send(ASSIGNMENTS, made.user_id.encode(), encode(made))

    def beat(self, at_ms: int | None = None) -> None:
        """Heartbeats at the event time reached. Safe beside planted disorder, which stays within the lateness."""
        self._reached_ms = max(self._reached_ms, at_ms or 0)
        self._emitter.heartbeat(self._reached_ms)
        self._emitter.producer.poll(0)

    def _finish(self) -> tuple[Totals, bool]:
        plan = self._plan
        done = self._next >= plan.stop
        if done:
            self._send_until(None)
            done = not self._waiting
        self._emitter.flush(FLUSH_TIMEOUT_S)
        if done and plan.settle_ms is not None:
            self._emitter.heartbeat(self._furthest_ms() + plan.settle_ms)
            self._emitter.flush(FLUSH_TIMEOUT_S)
        self._checkpoint(every_s=0, finished=done)
        # What still waits was decided on, though not sent: it belongs to what a restart will send again.
        return self._accounting.settle(plan.stop if done else self._settled_before()), done

    def _settled_before(self) -> int:
        return min(self._open, default=self._next)

    def _furthest_ms(self) -> int:
        # Only for the end: a heartbeat there before everything is sent again would make the rest late.
        return max(self._reached_ms, self._settled_ms)

    def _checkpoint(self, *, every_s: float, finished: bool = False) -> None:
        now_s = time.monotonic()
        if now_s - self._closed_s >= every_s:
            self._closed_s = now_s
            self._emitter.close_epoch(self._settled_before(), self._furthest_ms())
        settled = self._emitter.settled()
        if settled is None:
            return
        totals = self._accounting.settle(settled.next_slate)
        try:
            self._save(
                ReplayCheckpoint(
                    next_slate=settled.next_slate,
                    totals=msgspec.to_builtins(totals),
                    reached_ms=settled.reached_ms,
                    offsets=self._emitter.offsets,
                    finished=finished,
                )
            )
        except TransportError as error:
            if finished:
                raise
            # An older checkpoint only means that more is sent twice after a kill.
            log.warning("%s", error)

    def _send_until(self, at_ms: int | None) -> None:
        """Send what is due up to event time `at_ms`, waiting for the pace; None: everything."""
        waiting, pace, paced = self._waiting, self._pace, self._pace.by_event_time
        while waiting and (at_ms is None or waiting[0][0] <= at_ms):
            due_ms = waiting[0][0]
            if paced:
                pace.event_time(due_ms, self._reached_ms)
                if self._stop.is_set():
                    return
            _, _, topic, key, value, slate = heapq.heappop(waiting)
            self._emitter.send(topic, key, value)
            if due_ms > self._reached_ms:
                self._reached_ms = due_ms
            left = self._open[slate] - 1
            if left:
                self._open[slate] = left
            else:
                del self._open[slate]
        if at_ms is not None:
            if paced:
                pace.event_time(at_ms, self._reached_ms)
            if at_ms > self._reached_ms:
                self._reached_ms = at_ms

    def _send_batch(self, batch: Sequence[Slate]) -> None:
        tag = self._plan.tag
        requests = [
            AssignmentRequest(
                s.user_id,
                {"user": s.user_id, "session": tag + s.session_id, "slate": tag + s.slate_id},
                s.at_ms,
                s.attributes,
            )
            for s in batch
        ]
        routed = self._router.assign(requests)
        outcomes, liked_milli = self._plan.outcomes, self._plan.liked_milli
        shown: list[Sequence[Shown]] = []
        by_variant = self._candidates.shown(batch)
        turns = self._releases.turns(requests, routed) if self._releases is not None else [None] * len(batch)
        for slate, answer, everything, turn in zip(batch, routed, by_variant, turns, strict=True):
            variant, outside = answer[0].variant, answer[0].outside or ""
            if turn is not None and turn.shown:
                everything = {**everything, variant: everything[CANDIDATE]}
            self._accounting.add(result_of(slate.number, variant, everything, outcomes, liked_milli, outside))
            shown.append(everything[variant])
        times = _Times(self._plan, batch, shown)
        row = 0
        for slate, answer, items, everything, turn in zip(batch, routed, shown, by_variant, turns, strict=True):
            self._send_until(slate.at_ms)
            if self._stop.is_set():
                return
            if turn is not None and turn.routed is not None:
                self._compare(slate, turn)
                answer = (*answer, turn.routed)
            if self._rankings is not None:
                key = slate.user_id.encode()
                for record in self._rankings.records(slate, tag + slate.slate_id, answer[0], everything, turn):
                    self._emitter.send(RANKINGS, key, record)
            self._send_slate(slate, answer, items, times, row)
            row += len(items)
            self._next = slate.number + 1

    def _compare(self, slate: Slate, turn: Turn) -> None:
        """Write what the shadow of a release would have shown, while it has one."""
        assert self._releases is not None
        record = self._releases.compared(slate, self._plan.tag + slate.slate_id, turn)
        if record is not None:
            self._emitter.send(SHADOW, slate.user_id.encode(), encode(record))

    def _send_slate(
        self, slate: Slate, answer: Sequence[Routed], items: Sequence[Shown], times: _Times, row: int
    ) -> None:
        index, slate_id, user_id, at_ms = slate.number, self._plan.tag + slate.slate_id, slate.user_id, slate.at_ms
        key = user_id.encode()
        assignments = carried(answer)
        clicks, ratings = "click" in self._plan.outcomes, "rating" in self._plan.outcomes
        liked_milli = self._plan.liked_milli
        later = []
        for position, (place, item_id, rating_milli) in enumerate(items):
            impression_id = f"{slate_id}.{base36(place)}"
            impression = encode(
                ImpressionShown(
                    impression_id=impression_id, user_id=user_id, item_id=item_id, at_ms=at_ms,
                    assignments=assignments, slate_id=slate_id, position=position,
                )
            )  # fmt: skip
            sent_ms, again_ms = times.impressions[row]
            if sent_ms == at_ms:
                self._emitter.send(IMPRESSIONS, key, impression)
            else:
                later.append((sent_ms, IMPRESSIONS, impression))
            if again_ms >= 0:
                later.append((again_ms, IMPRESSIONS, impression))
            outcome_ms = times.outcome_ms[row]
            if clicks and rating_milli >= liked_milli:
                click = OutcomeObserved(
                    click_id=f"{impression_id}c", impression_id=impression_id, user_id=user_id, at_ms=outcome_ms
                )
                later += [(ms, CLICKS, encode(click)) for ms in times.outcomes[row] if ms >= 0]
            if ratings:
                rating = OutcomeObserved(
                    click_id=f"{impression_id}r", impression_id=impression_id, user_id=user_id, at_ms=outcome_ms,
                    outcome="rating", value_milli=rating_milli,
                )  # fmt: skip
                later += [(ms, CLICKS, encode(rating)) for ms in times.outcomes[row] if ms >= 0]
            row += 1
        if later:
            self._open[index] = len(later)
            made = self._made
            for send_ms, topic, value in later:
                made += 1
                heapq.heappush(self._waiting, (send_ms, made, topic, key, value, index))
            self._made = made


class _Times:
    """Event and send times of every item shown in a batch, row by row."""

    def __init__(self, plan: Plan, batch: Sequence[Slate], shown: Sequence[Sequence[Shown]]) -> None:
        numbers, at = [], []
        for slate, items in zip(batch, shown, strict=True):
            for item in items:
                numbers.append(slate.number * MAX_SLATE + item.place)
                at.append(slate.at_ms)
        index, at_ms = np.array(numbers, dtype=np.int64), np.array(at, dtype=np.int64)
        outcome_ms = at_ms + plan.delay(uniform(plan.seed, _DELAY, index))
        self.outcome_ms: list[int] = outcome_ms.tolist()
        if plan.faults.any:
            self.impressions = _pairs(send_times(plan.faults, plan.seed, _IMPRESSION, index, at_ms))
            self.outcomes = _pairs(send_times(plan.faults, plan.seed, _OUTCOME, index, outcome_ms))
        else:
            self.impressions = [(ms, -1) for ms in at]
            self.outcomes = [(ms, -1) for ms in self.outcome_ms]


def _pairs(times: tuple[np.ndarray, np.ndarray]) -> list[tuple[int, int]]:
    return list(zip(times[0].tolist(), times[1].tolist(), strict=True))
