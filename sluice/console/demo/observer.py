"""What the demo sees from outside: counters in Redis, ends of the logs, decisions. It asks no service."""

from __future__ import annotations

import time
from collections import deque

from msgspec import Struct
from msgspec.structs import replace

from sluice.adapters.log_ends import LogEnds
from sluice.domain.events import DecisionMade
from sluice.domain.experiment import Experiment
from sluice.domain.statistics import CellStatistics
from sluice.live import ExperimentCounts, LiveCounters
from sluice.names import CLICKS, IMPRESSIONS
from sluice.settings import Settings
from sluice.subscription import subscribe

__all__ = ["Observer", "Seen", "includes"]

RATE_OVER_S = 2.0


class Seen(Struct, frozen=True, kw_only=True):
    """One look."""

    counts: ExperimentCounts
    decision: DecisionMade | None
    decisions: tuple[DecisionMade, ...]
    """Those made since the look before"""
    produced: int
    """Records in the logs of `impressions` and `clicks`."""
    counted: int
    """Records of them that the counters include."""
    per_second: float
    """Records counted a second, over the last two seconds."""

    @property
    def lag(self) -> int:
        return max(0, self.produced - self.counted)


class Observer:
    """Looks at a running system. Use as a context manager. Raises TransportError when servers are away."""

    def __init__(self, settings: Settings, experiment: Experiment) -> None:
        self._name = experiment.name
        self._ends = LogEnds(settings, (IMPRESSIONS, CLICKS))
        self._live = LiveCounters(settings, known={experiment.name: experiment})
        self._decisions = subscribe("decisions", experiment=experiment.name, from_start=True, settings=settings)
        self._latest: DecisionMade | None = None
        self._history: deque[tuple[float, int]] = deque()

    def look(self) -> Seen:
        decisions = tuple(self._decisions.poll())
        self._latest = decisions[-1] if decisions else self._latest
        ends = self._ends.read()
        snapshot = self._live.snapshot()
        counted = sum(sum(snapshot.offsets.get(p, (0, 0))) for p in ends)
        return Seen(
            counts=snapshot.experiments[self._name],
            decision=self._latest,
            decisions=decisions,
            produced=sum(sum(of_partition) for of_partition in ends.values()),
            counted=counted,
            per_second=self._rate(time.monotonic(), counted),
        )

    def _rate(self, now_s: float, counted: int) -> float:
        self._history.append((now_s, counted))
        while now_s - self._history[0][0] > RATE_OVER_S:
            self._history.popleft()
        (then_s, before), passed = self._history[0], now_s - self._history[0][0]
        return (counted - before) / passed if passed > 0 and then_s < now_s else 0.0

    def close(self) -> None:
        self._decisions.close()
        self._live.close()
        self._ends.close()

    def __enter__(self) -> Observer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def includes(decision: DecisionMade | None, counts: ExperimentCounts, primary: str) -> bool:
    """Whether the decision rests on exactly these counts, of impressions and of the `primary` outcome.

    The evidence is compared, not the offsets: records that change no sum (heartbeats) need no new decision.
    """
    return decision is not None and {
        (cell.variant, cell.allocation): _sums(cell.statistics, primary) for cell in decision.evidence
    } == {
        (variant.variant, allocation): _sums(statistics, primary)
        for variant in counts.variants.values()
        for allocation, statistics in variant.cells.items()
    }


def _sums(statistics: CellStatistics, outcome: str) -> CellStatistics:
    return replace(statistics, outcomes={outcome: statistics.outcome(outcome)})
