"""Counts of a canary as they come in, step by step: cells that only grow, and what is looked at."""

from __future__ import annotations

from typing import Any

from sluice.domain.allocation import allocation_key
from sluice.domain.canary import CanaryPlace
from sluice.domain.events import StatsCell
from sluice.domain.experiment import Experiment, load_experiments
from sluice.domain.statistics import CellStatistics, OutcomeStatistics
from sluice.domain.status import Action, Change, Status

__all__ = ["CANARY", "World", "canary", "cell", "order", "share_at"]

CANARY = """
name: e
unit: slate
variants: [{name: A}, {name: B}]
guardrails: [{outcome: error, margin: 0.1, better: lower}]
canary:
  steps:
    - {share: 10, margin: 0.1, shortest_s: 10, longest_s: 100}
    - {share: 30, margin: 0.1, shortest_s: 10, longest_s: 100}
    - {share: 50, margin: 0.1, shortest_s: 10, longest_s: 100}
  limits: [{outcome: crash, rate: 0.05, least_events: 5}]
"""


def canary(text: str = CANARY, **changes: str) -> Experiment:
    """The experiment of `text`, with some of its words replaced."""
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    return load_experiments(text, "test")[0]


def cell(variant: str, share: int, units: int, outcomes: dict[str, int], size: int = 1) -> StatsCell:
    """Units of `size` impressions each, with or without the outcomes; `share` is that of B."""
    sums = {name: OutcomeStatistics(count, count, count * size) for name, count in outcomes.items()}
    return StatsCell(
        experiment="e",
        variant=variant,
        allocation=allocation_key({"A": 100 - share, "B": share}),
        statistics=CellStatistics(units, units * size, units * size * size, sums),
    )


def order(revision: int, action: Action, status: Status = "running", **more: Any) -> Change:
    return Change(revision=revision, action=action, status=status, by="anna", why="because", at_ms=0, **more)


def share_at(experiment: Experiment, place: CanaryPlace | None) -> int:
    """Percent of B while a canary stands there."""
    assert experiment.canary is not None
    if place is None:
        return experiment.canary.steps[0].share
    if place.state == "promoted":
        return 100
    return 0 if place.state == "rolled-back" else experiment.canary.steps[place.step - 1].share


class World:
    """What was counted so far."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, int], tuple[int, dict[str, int]]] = {}

    def add(self, share: int, a: tuple[int, int], b: tuple[int, int], **more: tuple[int, int]) -> None:
        """(units, clicks) of both; more: outcome → (of A, of B)."""
        for place, (variant, (units, clicks)) in enumerate((("A", a), ("B", b))):
            outcomes = {"click": clicks, **{name: both[place] for name, both in more.items()}}
            had, counts = self._sums.get((variant, share), (0, {}))
            together = {name: counts.get(name, 0) + outcomes.get(name, 0) for name in counts | outcomes}
            self._sums[variant, share] = had + units, together

    @property
    def cells(self) -> tuple[StatsCell, ...]:
        return tuple(
            cell(variant, share, units, outcomes)
            for (variant, share), (units, outcomes) in sorted(self._sums.items())
            if units
        )
