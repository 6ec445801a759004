"""The canary: a state machine from the evidence of one step, and the last place, to the next place. Pure.

A step is judged on the cells of its own allocation alone, so on units that were drawn into candidate and control at the
same time with the same shares. Every metric has a confidence sequence at α / (metrics × steps), which holds at all
times at once, so looking often costs nothing, and all claims of one canary are wrong together with at most α.

Library: numpy (through the engine).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from analyzer.engine.canary_bounds import Judged, judge_metrics, metrics_of
from sluice.domain.allocation import allocation_key
from sluice.domain.canary import Canary, CanaryPlace, CanaryState, Counted
from sluice.domain.events import DelayEvidence, StatsCell
from sluice.domain.experiment import Experiment
from sluice.domain.statistics import CellStatistics, OutcomeStatistics
from sluice.domain.status import Change

__all__ = ["ENDED", "Course", "advance", "begin", "candidate_name", "due", "plan_hash", "standing", "step_cells"]

ENDED: tuple[CanaryState, ...] = ("promoted", "rolled-back")


class Course(NamedTuple):
    """What became of a canary with one look at the evidence."""

    place: CanaryPlace
    judged: Judged | None
    """None where nothing was to be judged: it has ended, is paused, or has no traffic"""
    because: str
    """Why state or step differ from before; empty when they do not"""
    order: Change | None
    """The command that was obeyed, when that is why"""
    about: str = ""
    """The outcome that led there, of `worse` and `limit`"""
    evidence: tuple[StatsCell, ...] = ()
    """Of the step that was judged"""


def candidate_name(experiment: Experiment) -> str:
    """The variant beside the control."""
    return next(variant.name for variant in experiment.variants if variant.name != experiment.control_name)


def plan_hash(experiment: Experiment) -> str:
    """Of everything that the evidence is about. A canary whose plan changes begins at its first step.

    Durations and limits are no part of it: they may be changed on the way.
    """
    told = (
        [(variant.name, variant.ranker) for variant in experiment.variants],
        (experiment.control_name, experiment.unit, experiment.primary, experiment.measure),
        [(one.outcome, one.margin, one.better) for one in experiment.guardrails],
        [(step.share, step.margin) for step in _canary(experiment).steps],
    )
    return hashlib.sha256(msgspec.json.encode(told)).hexdigest()[:16]


def begin(experiment: Experiment, cells: Iterable[StatsCell], at_ms: int, revision: int, *, fresh: bool) -> CanaryPlace:
    """The first step. fresh: nothing was decided before, so all that is counted came with the canary."""
    keys = {_key(experiment, step.share) for step in _canary(experiment).steps}
    baseline = () if fresh else tuple(
        Counted(variant=cell.variant, allocation=cell.allocation, statistics=cell.statistics)
        for cell in cells
        if cell.allocation in keys
    )  # fmt: skip
    return CanaryPlace(
        state="no-traffic", step=1, since_ms=at_ms, plan=plan_hash(experiment), revision=revision, baseline=baseline
    )


def advance(
    experiment: Experiment,
    cells: Sequence[StatsCell],
    at_ms: int,
    before: CanaryPlace | None,
    orders: Sequence[Change] = (),
    delays: Mapping[str, DelayEvidence] | None = None,
    *,
    fresh: bool = True,
    trusted: bool = True,
) -> Course:
    """One look. Moves by at most one step, and never on evidence of another step than the one it stands on.

    cells: all of the experiment; orders: changes of the experiment that were not obeyed yet, oldest first; delays:
    outcome → what open windows are worth. fresh: as `begin`. trusted: False while something loses or repeats units;
    then only a hard limit and the longest duration count.
    """
    place, because, order = _start(experiment, cells, at_ms, before, orders, fresh)
    if place.state in ENDED or place.state == "paused":
        return Course(place, None, because, order)
    evidence = step_cells(experiment, cells, place)
    if not any(cell.statistics.impressions for cell in evidence):
        state: CanaryState = "held" if place.state == "held" else "no-traffic"
        return Course(replace(place, state=state, since_ms=at_ms), None, because, order)
    if place.state == "no-traffic":  # its clock begins with its traffic
        place = replace(place, since_ms=at_ms)
    judged = judge_metrics(experiment, evidence, cells, metrics_of(experiment, place.step), delays or {})
    after, moved, about = _judge(experiment, place, judged, evidence, at_ms, trusted)
    # A first look at the evidence that only names the state is no reason beside a command.
    weak = moved == "evidence" and because
    return Course(after, judged, because if weak else moved or because, None if moved and not weak else order, about,
                  evidence)  # fmt: skip


def due(experiment: Experiment, place: CanaryPlace, decided_ms: int, at_ms: int) -> bool:
    """Whether time alone may change something: a duration of the step has passed since the last decision."""
    if place.state in ENDED or place.state in ("paused", "no-traffic") or place.plan != plan_hash(experiment):
        return False
    step = _canary(experiment).steps[place.step - 1]
    ends = (place.since_ms + 1000 * length_s for length_s in (step.shortest_s, step.longest_s))
    return any(decided_ms < end <= at_ms for end in ends)


def standing(
    experiment: Experiment,
    cells: Sequence[StatsCell],
    at_ms: int,
    before: CanaryPlace | None,
    orders: Sequence[Change] = (),
    *,
    fresh: bool = True,
) -> tuple[StatsCell, ...]:
    """The cells that one look compares; of a canary that has ended those it ended with. Arguments as of `advance`.

    All of its cells together would compare a candidate of late with a control of early times.
    """
    return step_cells(experiment, cells, _start(experiment, cells, at_ms, before, orders, fresh)[0])


def step_cells(experiment: Experiment, cells: Iterable[StatsCell], place: CanaryPlace) -> tuple[StatsCell, ...]:
    """What was counted under the allocation of the step since the canary began."""
    steps = _canary(experiment).steps
    key = _key(experiment, steps[min(place.step, len(steps)) - 1].share)
    old = {one.variant: one.statistics for one in place.baseline if one.allocation == key}
    return tuple(
        replace(cell, statistics=_without(cell.statistics, old[cell.variant])) if cell.variant in old else cell
        for cell in cells
        if cell.allocation == key
    )


def _start(
    experiment: Experiment,
    cells: Sequence[StatsCell],
    at_ms: int,
    before: CanaryPlace | None,
    orders: Sequence[Change],
    fresh: bool,
) -> tuple[CanaryPlace, str, Change | None]:
    """Where it stands before the evidence is looked at: begun, begun anew, or moved by commands."""
    revision = max((before.revision if before else 0, *(order.revision for order in orders)))
    if before is None:
        place, because = begin(experiment, cells, at_ms, revision, fresh=fresh), "begun"
    elif before.plan != plan_hash(experiment) and before.state != "rolled-back":
        place, because = begin(experiment, cells, at_ms, revision, fresh=False), "changed"
        if before.state == "paused":
            place = replace(place, state="paused", halted_ms=at_ms)
    else:
        place, because = before, ""
    obeyed: Change | None = None
    # What was ordered before the canary began made no difference to it.
    for order in orders if before is not None else ():
        after = _obey(experiment, cells, at_ms, place, order)
        if (after.state, after.step) != (place.state, place.step):
            obeyed = order
            because = "again" if (place.state, order.action) == ("rolled-back", "start") else order.action
        place = after
    return replace(place, revision=revision), because, obeyed


def _obey(
    experiment: Experiment, cells: Sequence[StatsCell], at_ms: int, place: CanaryPlace, order: Change
) -> CanaryPlace:
    match order.action:
        case "pause" if place.state not in (*ENDED, "paused"):
            # A step that was held starts its clock anew: whoever starts it again gives it more time.
            since = at_ms if place.state == "held" else place.since_ms
            return replace(place, state="paused", halted_ms=at_ms, since_ms=since)
        case "start" if place.state == "paused":
            waited = max(at_ms - place.halted_ms, 0)
            return replace(place, state="insufficient-data", halted_ms=-1, since_ms=place.since_ms + waited)
        case "start" if place.state == "rolled-back":
            return begin(experiment, cells, at_ms, order.revision, fresh=False)
        case "stop":
            return replace(place, state="rolled-back", halted_ms=-1)
        case "ship":
            state: CanaryState = "promoted" if order.variant == candidate_name(experiment) else "rolled-back"
            return replace(place, state=state, halted_ms=-1)
    return place


def _judge(
    experiment: Experiment,
    place: CanaryPlace,
    judged: Judged,
    evidence: Sequence[StatsCell],
    at_ms: int,
    trusted: bool,
) -> tuple[CanaryPlace, str, str]:
    """The next place, why it moved (empty: only its state may be another), and which outcome moved it."""
    canary = _canary(experiment)
    step = canary.steps[place.step - 1]
    beyond = _beyond(canary, candidate_name(experiment), evidence)
    if beyond is not None:
        return replace(place, state="rolled-back"), "limit", beyond
    worse = next((metric for metric in judged.metrics if metric.status == "worse"), None)
    if trusted and worse is not None:
        return replace(place, state="rolled-back"), "worse", worse.outcome
    lasted_ms = at_ms - place.since_ms
    if trusted and place.state != "held" and judged.allows and lasted_ms >= 1000 * step.shortest_s:
        if place.step == len(canary.steps):
            return replace(place, state="promoted"), "passed", ""
        return replace(place, state="no-traffic", step=place.step + 1, since_ms=at_ms), "passed", ""
    if place.state == "held":
        return place, "", ""
    if lasted_ms >= 1000 * step.longest_s:
        state: CanaryState = "held" if canary.on_longest == "hold" else "rolled-back"
        return replace(place, state=state), "longest", ""
    state = "running" if judged.enough and judged.mature else "insufficient-data"
    return replace(place, state=state), "evidence" if state != place.state else "", ""


def _beyond(canary: Canary, candidate: str, evidence: Iterable[StatsCell]) -> str | None:
    """The outcome whose hard limit the candidate is beyond."""
    shown = next((cell.statistics for cell in evidence if cell.variant == candidate), CellStatistics())
    for limit in canary.limits:
        count = shown.outcome(limit.outcome).count
        if count >= limit.least_events and count > limit.rate * shown.impressions:
            return limit.outcome
    return None


def _canary(experiment: Experiment) -> Canary:
    assert experiment.canary is not None
    return experiment.canary


def _key(experiment: Experiment, share: int) -> str:
    return allocation_key(experiment.canary_allocation(share))


def _without(total: CellStatistics, old: CellStatistics) -> CellStatistics:
    """What was added since. Slates are others now; of users who came before and came again the squares count in full.

    These are then no new units, but as many as the sums need.
    """
    n = max(total.impressions - old.impressions, 0)
    nn = max(total.impressions_squared - old.impressions_squared, n)
    units = min(max(total.units - old.units, -(-n * n // nn) if nn else 0), n)
    if not n:
        return CellStatistics()
    outcomes = {name: _outcome(sums, old.outcome(name)) for name, sums in total.outcomes.items()}
    return CellStatistics(units, n, nn, outcomes)


def _outcome(total: OutcomeStatistics, old: OutcomeStatistics) -> OutcomeStatistics:
    count = max(total.count - old.count, 0)
    return OutcomeStatistics(
        count,
        max(total.count_squared - old.count_squared, count),
        max(total.count_impressions - old.count_impressions, count),
        total.value - old.value,
        max(total.value_squared - old.value_squared, 0),
        total.value_impressions - old.value_impressions,
    )
