"""A canary: a candidate that gets more traffic step by step, as long as it is known not to be worse. Pure.

What is configured (`canary:` of an experiment), and what a decision records of where it stands. Library: msgspec.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from msgspec import Meta, Struct

from sluice.domain.statistics import CellStatistics
from sluice.domain.status import Change

__all__ = [
    "Canary",
    "CanaryMetric",
    "CanaryMove",
    "CanaryPlace",
    "CanaryReport",
    "CanaryState",
    "CanaryStep",
    "Counted",
    "HardLimit",
    "problem_in",
]

MAX_STEP_S = 10 * 365 * 24 * 3600
CanaryState: TypeAlias = Literal[
    "no-traffic", "insufficient-data", "running", "held", "paused", "promoted", "rolled-back"
]
Seconds = Annotated[int, Meta(ge=0, le=MAX_STEP_S)]


class CanaryStep(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One share of the traffic, and what it takes to get beyond it. Durations are of event time."""

    share: int
    """Whole percents of the candidate, 1 to 99; the control beside it gets the rest."""
    margin: Annotated[float, Meta(ge=1e-12, le=1e12)]
    """How much worse than the control the primary metric must be known not to be, absolute."""
    shortest_s: Seconds = 3600
    """No step is left sooner, however clear the evidence."""
    longest_s: Seconds = 7 * 24 * 3600
    """By then the evidence must have spoken."""


class HardLimit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A rate of the candidate, per impression, that nobody waits for statistics with: it rolls back at once."""

    outcome: str
    rate: Annotated[float, Meta(ge=0, le=1)]
    """Largest rate that is borne."""
    least_events: Annotated[int, Meta(ge=1)] = 10
    """So many of the outcome must have been counted in the step: one alone is an accident."""


class Canary(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of an experiment with two variants, the control and the candidate. Past the last step all traffic follows."""

    steps: Annotated[tuple[CanaryStep, ...], Meta(min_length=1, max_length=20)] = (
        CanaryStep(share=1, margin=0.10),
        CanaryStep(share=5, margin=0.05),
        CanaryStep(share=10, margin=0.03),
        CanaryStep(share=25, margin=0.02),
        CanaryStep(share=50, margin=0.02),
    )
    on_longest: Literal["hold", "rollback"] = "hold"
    """What follows when a step's longest duration passes and the evidence has said nothing."""
    limits: Annotated[tuple[HardLimit, ...], Meta(max_length=8)] = ()


def problem_in(canary: Canary, measure: str) -> str | None:
    """What is wrong with it, the field first; None when all is well."""
    before = 0
    for index, step in enumerate(canary.steps):
        field = f"steps[{index}]"
        if not before < step.share <= 99:
            return (
                f"{field}.share: {step.share}: allowed are {before + 1} to 99, more at every step; past the last one "
                "all traffic follows"
            )
        if measure == "rate" and step.margin > 1:
            return f"{field}.margin: {step.margin:g}: a rate is at most 1"
        if step.longest_s <= step.shortest_s:
            return f"{field}.longest_s: {step.longest_s}: must be more than shortest_s, {step.shortest_s}"
        before = step.share
    if measure == "value" and canary.steps == Canary().steps:
        return "steps: missing; `measure: value` needs margins in its unit"
    named = [limit.outcome for limit in canary.limits]
    for index, outcome in enumerate(named):
        if not 1 <= len(outcome) <= 64 or outcome in named[:index]:
            return f"limits[{index}].outcome: {outcome!r}: allowed are 1 to 64 characters, each outcome once"
    return None


class Counted(Struct, frozen=True, kw_only=True):
    """Totals of one cell when the canary began."""

    variant: str
    allocation: str
    statistics: CellStatistics


class CanaryPlace(Struct, frozen=True, kw_only=True):
    """Where a canary stands: all that one decision leaves to the next."""

    state: CanaryState
    """The last two are for good, until somebody starts again"""
    step: int
    """1 is the first; of a canary that has ended the one it ended at"""
    since_ms: int
    """Event time at which the step's traffic was first seen, moved on by every pause"""
    plan: str
    """Hash of what the evidence is about: variants, metrics, shares, margins. Another one begins at the first step"""
    revision: int = 0
    """Of the last change of the experiment that was obeyed"""
    halted_ms: int = -1
    """Event time of the pause; −1 unless paused"""
    baseline: tuple[Counted, ...] = ()
    """What had been counted when it began: no evidence of this canary"""


class CanaryMetric(Struct, frozen=True, kw_only=True):
    """One metric of the candidate against the control, on the evidence of one step alone."""

    outcome: str
    margin: float
    difference: float | None
    """Positive is better, whatever the outcome's direction; null while nothing is known"""
    interval: tuple[float, float] | None
    """Confidence sequence at α / (metrics × steps); its lower end bears what is still to come"""
    status: Literal["passed", "worse", "open"]
    """`worse`: below 0, even if by less than the margin, and not by a few rare events; `passed`: else above −margin"""


class CanaryMove(Struct, frozen=True, kw_only=True):
    """A change of state or step, and why."""

    from_state: CanaryState | None
    """Null when the canary begins"""
    from_step: int
    state: CanaryState
    step: int
    because: str
    """`begun`, `again`, `changed`, `passed`, `worse`, `limit`, `longest`, `evidence`, or the command that was obeyed"""
    reason: str


class CanaryReport(Struct, frozen=True, kw_only=True):
    """What one decision did with the canary."""

    place: CanaryPlace
    share: Annotated[int, Meta(ge=0, le=100)]
    """Of the candidate from here on"""
    move: CanaryMove | None
    metrics: tuple[CanaryMetric, ...]
    """Of the step that was judged: where it moved, the one it moved from"""
    needed_units: dict[str, int] | None
    """Variant → units that the step is expected to need beyond those it has; null while that is unknown"""
    before: CanaryPlace | None
    """Of the decision before this one"""
    orders: tuple[Change, ...]
    """Changes of the experiment since then, which it obeys"""
