"""Whole courses of real decisions, as the analyzer would have written them: evidence that grows by equal parts."""

from __future__ import annotations

from canary_worlds import World, canary, share_at

from analyzer.engine import Previous, Snapshot, decide, merge_cells
from sluice.domain.allocation import allocation_key
from sluice.domain.canary import CanaryPlace
from sluice.domain.events import DecisionMade, StatsCell
from sluice.domain.experiment import Experiment, load_experiments
from sluice.domain.statistics import CellStatistics, OutcomeStatistics

__all__ = ["bandit", "bandit_course", "canary_course", "decided"]

DAY_MS = 86_400_000


def bandit(name: str = "demo", variants: tuple[str, ...] = ("control", "new", "newer")) -> Experiment:
    listed = ", ".join(f"{{name: {variant}}}" for variant in variants)
    guardrail = "{outcome: error, margin: 0.05, better: lower}"
    text = f"{{name: {name}, unit: slate, variants: [{listed}], guardrails: [{guardrail}]}}"
    return load_experiments(text, "test")[0]


def decided(experiment: Experiment, version: int, before: DecisionMade | None = None) -> DecisionMade:
    """Decision `version`, of 50 slates more of each variant than the one before; half of the first one's clicked."""
    key = allocation_key(experiment.starting_allocation)
    cells = [
        StatsCell(
            experiment=experiment.name,
            variant=variant.name,
            allocation=key,
            statistics=_statistics(50 * (version - 1), 25 + 2 * i),
        )
        for i, variant in enumerate(experiment.variants)
        if version > 1
    ]
    reached = 150 * (version - 1)
    merged = merge_cells(cells, experiment.name, *experiment.outcomes)
    snapshot = Snapshot(merged, {0: (reached, reached // 2)}, DAY_MS * version if cells else -1)
    previous = None
    if before is not None:
        previous = Previous(before.version, before.allocation, before.allocation_version, before.history)
    return decide(experiment, snapshot, previous)


def bandit_course(experiment: Experiment, length: int) -> list[DecisionMade]:
    """Decisions 1 to `length`, the first without traffic."""
    course: list[DecisionMade] = []
    for version in range(1, length + 1):
        course.append(decided(experiment, version, course[-1] if course else None))
    return course


def canary_course(length: int) -> list[DecisionMade]:
    """Of a candidate that is as good as the control, until it is promoted or `length` decisions are made."""
    experiment, world, course = canary(), World(), list[DecisionMade]()
    place: CanaryPlace | None = None
    while len(course) < length and (place is None or place.state != "promoted"):
        share = share_at(experiment, place)
        world.add(share, (10 * (100 - share), 5 * (100 - share)), (10 * share, 5 * share), error=(0, 0), crash=(0, 0))
        cells = merge_cells(world.cells, experiment.name, *experiment.outcomes)
        before = course[-1] if course else None
        previous = before and Previous(before.version, before.allocation, before.allocation_version, (), place)
        decision = decide(experiment, Snapshot(cells, {}, 20_000 * (len(course) + 1), metric_delays={}), previous)
        assert decision.canary is not None
        place = decision.canary.place
        course.append(decision)
    return course


def _statistics(units: int, clicked_of_50: int) -> CellStatistics:
    """Slates of one impression each; two in a hundred end in an error, whatever the variant."""
    clicks, errors = units * clicked_of_50 // 50, units // 50
    outcomes = {"click": OutcomeStatistics(clicks, clicks, clicks), "error": OutcomeStatistics(errors, errors, errors)}
    return CellStatistics(units, units, units, outcomes)
