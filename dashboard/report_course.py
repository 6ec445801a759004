"""The decisions of one experiment, one after the other, in bounded memory: what a report draws and tells. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Generic, NamedTuple, TypeVar

from sluice.domain.canary import CanaryMove
from sluice.domain.events import DecisionMade, Interval, VariantResult

__all__ = ["Course", "Edge", "Figure", "Moment", "Point", "Thinned"]

MOST_POINTS = 400
"""More than a chart has pixels for"""
MOST_MOMENTS = 40
"""Rows of a table: half of them the first ones, half the last"""
T = TypeVar("T")


class Figure(NamedTuple):
    """One variant in one decision, as charts need it."""

    rate: float | None
    """Weighted where that is known; null before the first impression"""
    sequence: Interval | None
    difference: float | None
    interval: Interval | None
    p_best: float
    expected_loss: float


class Point(NamedTuple):
    """One decision, as charts need it."""

    version: int
    at_ms: int
    allocation: Mapping[str, int]
    figures: Mapping[str, Figure]


class Moment(NamedTuple):
    """A decision that changed something."""

    version: int
    at_ms: int
    verdict: str
    allocation: Mapping[str, int]
    reason: str


class Thinned(Generic[T]):
    """Every n-th of any number of things, n a power of two that keeps them at most `limit`, and the last one."""

    def __init__(self, limit: int = MOST_POINTS) -> None:
        self._limit = limit
        self._kept: list[T] = []
        self._every = 1
        self._seen = 0
        self._last: T | None = None

    def add(self, one: T) -> None:
        if self._seen % self._every == 0:
            if len(self._kept) == self._limit:
                self._kept = self._kept[::2]
                self._every *= 2
            if self._seen % self._every == 0:
                self._kept.append(one)
        self._seen += 1
        self._last = one

    def all(self) -> list[T]:
        ends = [] if self._last is None or self._last is self._kept[-1] else [self._last]
        return self._kept + ends


class Edge(Generic[T]):
    """The first and the last of any number of things."""

    def __init__(self, limit: int = MOST_MOMENTS) -> None:
        self._half = limit // 2
        self.first: list[T] = []
        self._last: deque[T] = deque(maxlen=limit - self._half)
        self.count = 0

    def add(self, one: T) -> None:
        (self.first if len(self.first) < self._half else self._last).append(one)
        self.count += 1

    @property
    def last(self) -> list[T]:
        """Those after `first` that are kept; `left_out` lie between."""
        return list(self._last)

    @property
    def left_out(self) -> int:
        return self.count - len(self.first) - len(self._last)


class Course:
    """What the decisions of an experiment add up to. `take` them in the order of the log."""

    def __init__(self) -> None:
        self.first: DecisionMade | None = None
        self.last: DecisionMade | None = None
        self.count = 0
        """Decisions that stand"""
        self.passed_over = 0
        """Records with a version that was there before: of two analyzers that decided at once the first stands"""
        self.missing = 0
        """Versions between the first and the last that the log does not hold"""
        self.began_ms = -1
        """Event time of the first decision that had evidence; −1 before it"""
        self.points: Thinned[Point] = Thinned()
        self.verdicts: Edge[Moment] = Edge()
        """Decisions with another verdict than the one before, the first one included"""
        self.allocations: Edge[Moment] = Edge()
        """Decisions with another allocation than the one before"""
        self.configurations: Edge[Moment] = Edge()
        """Decisions on another configuration than the one before"""
        self.canary: Edge[tuple[Moment, CanaryMove]] = Edge()

    def take(self, decision: DecisionMade) -> bool:
        """Whether it stands, and is now the last one."""
        before = self.last
        if before is not None and decision.version <= before.version:
            self.passed_over += 1
            return False
        moment = _moment(decision)
        if before is None or decision.verdict != before.verdict:
            self.verdicts.add(moment)
        if before is not None:
            self.missing += decision.version - before.version - 1
            if decision.allocation != before.allocation:
                self.allocations.add(moment)
            if decision.config_hash != before.config_hash:
                self.configurations.add(moment)
        if decision.canary is not None and decision.canary.move is not None:
            self.canary.add((moment, decision.canary.move))
        if self.began_ms < 0 and any(result.impressions for result in decision.results):
            self.began_ms = decision.at_ms
        self.points.add(_point(decision))
        self.first = self.first or decision
        self.last = decision
        self.count += 1
        return True


def _moment(decision: DecisionMade) -> Moment:
    reason = decision.reasons[0] if decision.reasons else ""
    return Moment(decision.version, decision.at_ms, decision.verdict, decision.allocation, reason)


def _point(decision: DecisionMade) -> Point:
    figures = {result.variant: _figure(result) for result in decision.results}
    return Point(decision.version, decision.at_ms, decision.allocation, figures)


def _figure(result: VariantResult) -> Figure:
    rate = result.weighted_rate if result.weighted_rate is not None else result.rate
    contrast = result.contrast
    return Figure(
        rate if result.impressions else None,
        result.sequence,
        contrast.difference if contrast else None,
        contrast.interval if contrast else None,
        result.p_best,
        result.expected_loss,
    )
