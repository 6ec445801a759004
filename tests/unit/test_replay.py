"""The replay with a broker in memory: what a run that continues another one still owes the log."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, cast

import msgspec
import pytest

from producers.delays import parse_delay
from producers.emitter import Emitter
from producers.faults import Faults
from producers.pacing import MAX_SPEED, Pace, Speed
from producers.replay import Plan, Replay
from producers.synthetic import SyntheticSlates, parse_synthetic
from router import MemoryAssignments, Router
from sluice.adapters.checkpoints import ReplayCheckpoint
from sluice.domain.experiment import Experiment, Variant
from sluice.domain.status import State
from sluice.names import IMPRESSIONS

EXPERIMENT = Experiment(name="e", unit="slate", variants=(Variant(name="a"), Variant(name="b")))
SETTLE_MS = 5000


class Delivered:
    """A record that the broker has acknowledged, at an offset that it may not tell."""

    def __init__(self, offset: int | None = 0) -> None:
        self._offset = offset

    def partition(self) -> int:
        return 0

    def offset(self) -> int | None:
        return self._offset


class BrokerInMemory:
    """Keeps the records and acknowledges each at once, unless it is told to hold that back."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self.holds_back = False
        self._held: list[Callable[..., None]] = []

    def produce(self, topic: str, value: bytes, key: bytes, partition: int, on_delivery: Callable[..., None]) -> None:
        self.records.append(msgspec.json.decode(value))
        self._held.append(on_delivery)
        if not self.holds_back:
            self.acknowledge(len(self._held))

    def acknowledge(self, count: int, *, offset: int | None = 0) -> None:
        """Of those held back the first `count`."""
        for delivered in self._held[:count]:
            delivered(None, Delivered(offset))
        del self._held[:count]

    def poll(self, timeout_s: float) -> int:
        return 0

    def flush(self, timeout_s: float) -> int:
        return 0


def run(
    resume: ReplayCheckpoint | None = None, experiment: Experiment = EXPERIMENT
) -> tuple[list[dict[str, Any]], list[ReplayCheckpoint]]:
    """The records a replay without clicks writes, and its checkpoints."""
    candidates = SyntheticSlates(parse_synthetic("synthetic:slates=5,users=3,a=0,b=0"), ["a", "b"], k=2, seed=1)
    plan = Plan(
        tag="", first=0, stop=5, seed=1, delay=parse_delay("none"), outcomes=("click",), faults=Faults(),
        settle_ms=SETTLE_MS,
    )  # fmt: skip
    broker, stop, saved = BrokerInMemory(), threading.Event(), list[ReplayCheckpoint]()
    with Router([experiment], MemoryAssignments()) as router:
        emitter = Emitter(cast(Any, broker), 1)
        Replay(
            plan, candidates, router, emitter, Pace(MAX_SPEED, stop, lambda _: None), stop=stop, save=saved.append
        ).run(resume)
    return broker.records, saved


def test_the_final_heartbeat_is_the_same_when_a_restart_has_nothing_left_to_send(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("producers.replay.CHECKPOINT_EVERY_S", 0.0)
    records, saved = run()
    assert [checkpoint.finished for checkpoint in saved] == [False, True]
    assert saved[0].next_slate == 5
    last_ms = max(record["at_ms"] for record in records if record["type"] == "impression")
    assert records[-1] == {"type": "heartbeat", "at_ms": last_ms + SETTLE_MS, "v": 1}
    # Killed between the two checkpoints: everything is sent, but nothing says that the windows are over.
    again, _ = run(saved[0])
    assert again == records[-2:]


def test_segments_ride_on_the_impressions() -> None:
    plain, _ = run()
    records, _ = run(experiment=msgspec.structs.replace(EXPERIMENT, segments=("history", "unknown")))
    met: set[str] = set()
    for before, record in zip(plain, records, strict=True):
        if record["type"] == "impression":
            (own,) = before["assignments"]
            history = "returning" if record["user_id"] in met else "new"
            assert record["assignments"] == [own, [f"e@history={history}", *own[1:]]]
            if record["position"] == 1:
                met.add(record["user_id"])
        else:
            assert record == before
    assert len(met) < 5  # somebody came back


def test_a_record_sent_again_may_be_acknowledged_without_its_offset() -> None:
    broker = BrokerInMemory()
    broker.holds_back = True
    emitter = Emitter(cast(Any, broker), 1)
    for _ in range(3):
        emitter.send(IMPRESSIONS, b"u", b"{}")
    broker.acknowledge(1, offset=41)
    broker.acknowledge(1, offset=None)  # the log had it, and the answer was lost
    assert emitter.offsets[IMPRESSIONS] == {0: 43}
    broker.acknowledge(1, offset=50)
    assert emitter.offsets[IMPRESSIONS] == {0: 51}


def test_an_epoch_is_settled_only_with_every_record_acknowledged() -> None:
    broker = BrokerInMemory()
    broker.holds_back = True
    emitter = Emitter(cast(Any, broker), 1)
    for next_slate in (1, 2):
        for _ in range(2):
            emitter.send(IMPRESSIONS, b"u", b"{}")
        emitter.close_epoch(next_slate, reached_ms=10 * next_slate)
    # sent:         1 1 | 2 2
    # acknowledged: x
    broker.acknowledge(1)
    assert emitter.settled() is None
    #               x x | x
    broker.acknowledge(2)
    settled = emitter.settled()
    assert settled is not None
    assert (settled.next_slate, settled.reached_ms) == (1, 10)
    assert emitter.settled() is None
    broker.acknowledge(1)
    settled = emitter.settled()
    assert settled is not None
    assert (settled.next_slate, settled.reached_ms) == (2, 20)


def test_a_replay_that_was_held_up_does_not_make_up_for_it_in_a_burst(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 0.0

    class Clock(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            nonlocal now_s
            now_s += timeout or 0.0
            return False

    monkeypatch.setattr("producers.pacing.time.monotonic", lambda: now_s)
    pace = Pace(Speed(slates_per_second=10), Clock(), lambda _: None)
    for _ in range(10):
        pace.slates(1)
    assert now_s == pytest.approx(0.9)
    now_s += 60  # the counting was behind
    for _ in range(10):
        pace.slates(1)
    # Half a second's worth at once, the others again at their rate.
    assert now_s == pytest.approx(60.9 + 0.4, abs=0.11)


def test_slates_outside_the_experiment_are_shown_and_no_evidence() -> None:
    paused = msgspec.structs.replace(EXPERIMENT, control="b", state=State(status="paused"))
    records, saved = run(experiment=paused)
    impressions = [record for record in records if record["type"] == "impression"]
    assert len(impressions) == 10
    assert all(record["assignments"] == [] for record in impressions)
    assert saved[-1].totals["outside"] == {"paused": 5}
    assert saved[-1].totals["impressions"] == {"b": 10}
