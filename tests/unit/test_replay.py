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
from producers.pacing import MAX_SPEED, Pace
from producers.replay import Plan, Replay
from producers.synthetic import SyntheticSlates, parse_synthetic
from router import MemoryAssignments, Router
from sluice.adapters.checkpoints import ReplayCheckpoint
from sluice.domain.experiment import Experiment, Variant

EXPERIMENT = Experiment(name="e", unit="slate", variants=(Variant(name="a"), Variant(name="b")))
SETTLE_MS = 5000


class Delivered:
    """A record that the broker has acknowledged."""

    def partition(self) -> int:
        return 0

    def offset(self) -> int:
        return 0


class BrokerInMemory:
    """Keeps the records and acknowledges each at once."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []

    def produce(self, topic: str, value: bytes, key: bytes, partition: int, on_delivery: Callable[..., None]) -> None:
        self.records.append(msgspec.json.decode(value))
        on_delivery(None, Delivered())

    def poll(self, timeout_s: float) -> int:
        return 0

    def flush(self, timeout_s: float) -> int:
        return 0


def run(resume: ReplayCheckpoint | None = None) -> tuple[list[dict[str, Any]], list[ReplayCheckpoint]]:
    """The records a replay without clicks writes, and its checkpoints."""
    candidates = SyntheticSlates(parse_synthetic("synthetic:slates=5,a=0,b=0"), ["a", "b"], k=2, seed=1)
    plan = Plan(
        tag="", first=0, stop=5, seed=1, delay=parse_delay("none"), outcomes=("click",), faults=Faults(),
        settle_ms=SETTLE_MS,
    )  # fmt: skip
    broker, stop, saved = BrokerInMemory(), threading.Event(), list[ReplayCheckpoint]()
    with Router([EXPERIMENT], MemoryAssignments()) as router:
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
