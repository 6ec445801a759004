"""A recorded decision as the page shows it. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from dashboard.density import posterior
from dashboard.records import Recorded
from dashboard.views import (
    CanaryStepView,
    CanaryView,
    DecisionLine,
    DecisionView,
    Density,
    Light,
    MetricView,
    MoveView,
    SampleRatioView,
)

__all__ = ["decision_line", "decision_view", "move_of"]

ALARM = 0.0005
"""Always-valid p below which the analyzer calls the evidence invalid (docs/statistics.md)"""
WARNING = 0.05


def decision_view(recorded: Recorded, wall_ms: int, moves: Iterable[MoveView] = ()) -> DecisionView:
    """moves: those of the canary known, the oldest first; the ones after this decision are left out."""
    return DecisionView(
        experiment=recorded.experiment,
        version=recorded.version,
        at_ms=recorded.at_ms,
        wall_ms=wall_ms,
        verdict=recorded.verdict,
        reasons=recorded.reasons,
        allocation=recorded.allocation,
        allocation_version=recorded.allocation_version,
        previous_allocation=recorded.previous_allocation,
        results=recorded.results,
        density=_densities(recorded),
        sample_ratio=_sample_ratio(recorded.sample_ratio_p, recorded.sample_ratio_always_valid_p),
        guardrails=recorded.guardrails,
        canary=_canary(recorded, moves),
        moved=recorded.moved,
        delay=recorded.delay,
        segments=recorded.segments,
        offsets=recorded.offsets,
        config_hash=recorded.config_hash,
        seed=recorded.seed,
        metric=MetricView(
            outcome=recorded.setting("primary", "click"),
            unit=recorded.setting("unit", "user"),
            measure=recorded.setting("measure", "rate"),
        ),
        control=recorded.control,
        missing=recorded.missing,
    )


def decision_line(recorded: Recorded, wall_ms: int) -> DecisionLine:
    return DecisionLine(
        version=recorded.version,
        at_ms=recorded.at_ms,
        wall_ms=wall_ms,
        verdict=recorded.verdict,
        reason=next(iter(recorded.reasons), ""),
        allocation=recorded.allocation,
        allocation_version=recorded.allocation_version,
    )


def move_of(recorded: Recorded) -> MoveView | None:
    """What the canary did with this decision; None when it stayed where it was, or only learned more."""
    report = recorded.canary
    if report is None or report.move is None or report.move.because == "evidence":
        return None
    return MoveView(
        version=recorded.version,
        at_ms=recorded.at_ms,
        from_step=report.move.from_step,
        step=report.move.step,
        state=report.move.state,
        because=report.move.because,
        reason=report.move.reason,
    )


def _densities(recorded: Recorded) -> dict[str, Density]:
    curves = ((result.variant, posterior(result)) for result in recorded.results)
    return {variant: curve for variant, curve in curves if curve is not None}


def _sample_ratio(p: float | None, always: float | None) -> SampleRatioView:
    status: Light = "unknown"
    if always is not None:
        status = "mismatch" if always < ALARM else "warning" if always < WARNING else "ok"
    return SampleRatioView(p=p, always_valid_p=always, status=status)


def _canary(recorded: Recorded, moves: Iterable[MoveView]) -> CanaryView | None:
    report, plan = recorded.canary, recorded.canary_plan
    if report is None:
        return None
    return CanaryView(
        steps=tuple(
            CanaryStepView(share=s.share, margin=s.margin, shortest_s=s.shortest_s, longest_s=s.longest_s)
            for s in (plan.steps if plan is not None else ())
        ),
        state=report.place.state,
        step=report.place.step,
        since_ms=report.place.since_ms,
        share=report.share,
        metrics=report.metrics,
        needed_units=report.needed_units,
        moves=tuple(move for move in moves if move.version <= recorded.version),
    )
