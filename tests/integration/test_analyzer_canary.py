"""A canary on a real broker: snapshots and commands in, decisions and allocations out, through a restart."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from analyzer.engine import recompute
from analyzer.service import Analyzer, build
from sluice.adapters import catalogue
from sluice.adapters.allocations import AllocationStore
from sluice.adapters.kafka import producer
from sluice.adapters.reader import TopicReader
from sluice.adapters.redis import connect
from sluice.domain.events import DecisionMade, StatsCell, StatsPublished, encode
from sluice.domain.experiment import load_experiments
from sluice.names import DECISIONS, VARIANT_STATS, Keys
from sluice.settings import Settings
from tests.support.canary_worlds import World, canary

Wait = Callable[..., Any]


def publish(settings: Settings, at_s: float, cells: tuple[StatsCell, ...], offset: int) -> None:
    at_ms = int(1000 * at_s)
    snapshot = StatsPublished(
        partition=0, impressions_offset=offset, clicks_offset=offset, window_ms=1000, lateness_ms=0, at_ms=at_ms,
        watermark_ms=at_ms, cells=cells, records={},
    )  # fmt: skip
    out = producer(settings)
    out.produce(VARIANT_STATS, key=b"0", value=encode(snapshot))
    assert out.flush(20) == 0


def records(settings: Settings) -> list[bytes]:
    with TopicReader(settings, DECISIONS, from_start=True) as reader:
        return [message.value() or b"" for message in reader.rest()]


def decisions(settings: Settings) -> list[DecisionMade]:
    return [msgspec.json.decode(record, type=DecisionMade) for record in records(settings)]


@contextmanager
def running(analyzer: Analyzer) -> Iterator[None]:
    thread = threading.Thread(target=analyzer.run)
    thread.start()
    try:
        assert analyzer.ready.wait(60)
        yield
    finally:
        analyzer.stop()
        thread.join(60)
        assert not thread.is_alive()


class Journey:
    """What is published, and the decision that must follow."""

    def __init__(self, settings: Settings, wait_until: Wait) -> None:
        self.settings, self._wait_until = settings, wait_until
        self.world, self._offset = World(), 0

    def add(self, at_s: float, share: int = 0, candidate: float = 0.5) -> None:
        if share:
            a = 2000 * (100 - share) // share
            self.world.add(share, (a, a // 2), (2000, round(2000 * candidate)))
        self._offset += 1
        publish(self.settings, at_s, self.world.cells, self._offset)

    def until(self, state: str, step: int) -> DecisionMade:
        def there() -> DecisionMade | None:
            last = max(decisions(self.settings), key=lambda one: one.version, default=None)
            place = last.canary.place if last is not None and last.canary is not None else None
            return last if place is not None and (place.state, place.step) == (state, step) else None

        found = self._wait_until(there, 20, f"{state} at step {step}")
        assert isinstance(found, DecisionMade)
        return found


def test_it_goes_on_through_a_restart_a_pause_and_quiet_hours(stack: Settings, wait_until: Wait) -> None:
    catalogue.apply(stack, [canary()])
    store = AllocationStore(connect(stack), Keys(stack.prefix))
    journey = Journey(stack, wait_until)
    with running(build(stack, every_ms=20)):
        journey.until("no-traffic", 1)
        journey.add(1, share=10)
        journey.until("running", 1)
        journey.add(10)
        journey.add(11)  # nothing new is counted: time alone is enough
        assert journey.until("no-traffic", 2).allocation == {"A": 70, "B": 30}
        journey.add(12, share=30)
        journey.until("running", 2)
    catalogue.change(stack, "e", "pause", by="anna", why="a look at the logs")
    with running(build(stack, every_ms=20)):
        paused = journey.until("paused", 2)
        assert paused.reasons[0] == "Paused by anna (a look at the logs) at step 2 of 3 (B 30 %)."
        journey.add(60)
        catalogue.change(stack, "e", "start", by="anna")
        resumed = journey.until("running", 2)
        assert resumed.canary is not None and resumed.canary.place.since_ms == 60_000
        journey.add(70)
        journey.until("no-traffic", 3)
        journey.add(71, share=50, candidate=0.4)
        last = journey.until("rolled-back", 3)
        assert (last.verdict, last.allocation) == ("rollback", {"A": 100, "B": 0})
        wait_until(lambda: store.get("e") == (last.allocation_version, last.allocation), 10, "the allocation in Redis")
    moves = [one.canary.move.because for one in decisions(stack) if one.canary is not None and one.canary.move]
    assert moves == ["begun", "evidence", "passed", "evidence", "pause", "start", "passed", "worse"]
    for record in records(stack):
        assert encode(recompute(msgspec.json.decode(record, type=DecisionMade))) == record


def test_a_stop_rolls_back_and_is_the_last_decision(stack: Settings, wait_until: Wait) -> None:
    catalogue.apply(stack, [canary()])
    journey = Journey(stack, wait_until)
    with running(build(stack, every_ms=20)):
        journey.add(1, share=10)
        journey.until("running", 1)
        catalogue.change(stack, "e", "stop", by="ben", why="wrong model")
        assert journey.until("rolled-back", 1).reasons[0].startswith("Stopped by ben (wrong model)")
        count = len(decisions(stack))
        journey.add(20, share=10)
        journey.add(21, share=10)
    assert len(decisions(stack)) == count


def test_sluice_experiment_says_where_it_stands(
    stack: Settings, wait_until: Wait, service_env: Callable[[Settings], dict[str, str]]
) -> None:
    catalogue.apply(stack, [canary()])

    def sluice(*arguments: str) -> str:
        command = [sys.executable, "-m", "sluice", "experiment", *arguments]
        return subprocess.run(
            command, env=service_env(stack), capture_output=True, text=True, timeout=120, check=True
        ).stdout

    (undecided,) = json.loads(sluice("list", "--json"))
    assert undecided["canary"] is None
    journey = Journey(stack, wait_until)
    with running(build(stack, every_ms=20)):
        journey.add(1, share=10)
        version = journey.until("running", 1).version
    shown = sluice("show", "e")
    assert f"# canary: running at step 1, 10 % (decision {version})\n" in shown
    assert load_experiments(shown, "shown")[0].canary == canary().canary
    assert "running, step 1  slate  canary" in sluice("list")
    (row,) = json.loads(sluice("list", "--json"))
    assert (row["canary"]["state"], row["canary"]["share"]) == ("running", 10)
    assert "step 1 of 3 (B 10 %)" in row["canary"]["reasons"][0]
