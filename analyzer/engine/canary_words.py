"""What a canary does and waits for, in words; and its report for the record. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from analyzer.engine.canary import Course, candidate_name
from analyzer.engine.canary_bounds import Judged
from sluice.domain.canary import CanaryMetric, CanaryMove, CanaryPlace, CanaryReport, CanaryStep
from sluice.domain.events import Verdict
from sluice.domain.experiment import Experiment
from sluice.domain.statistics import CellStatistics
from sluice.domain.status import Change

__all__ = ["report", "sentences", "verdict"]

_SPANS = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def report(
    experiment: Experiment, course: Course, before: CanaryPlace | None, orders: Sequence[Change]
) -> CanaryReport:
    """The course as the decision records it."""
    place, judged = course.place, course.judged
    moved = before is None or (place.state, place.step) != (before.state, before.step)
    anew = course.because in ("again", "changed")
    names = (experiment.control_name, candidate_name(experiment))
    return CanaryReport(
        place=place,
        share=share(experiment, place),
        move=CanaryMove(
            from_state=before.state if before is not None else None,
            from_step=before.step if before is not None else 0,
            state=place.state,
            step=place.step,
            because=course.because or "evidence",
            reason=_reason(experiment, course, before),
        )
        if moved or anew
        else None,
        metrics=judged.metrics if judged is not None else (),
        needed_units=dict(zip(names, judged.needed, strict=True)) if judged is not None and judged.needed else None,
        before=before,
        orders=tuple(orders),
    )


def share(experiment: Experiment, place: CanaryPlace) -> int:
    """Percent of the traffic that the candidate gets at this place."""
    assert experiment.canary is not None
    if place.state == "promoted":
        return 100
    return 0 if place.state == "rolled-back" else experiment.canary.steps[place.step - 1].share


def verdict(found: CanaryReport) -> Verdict:
    """What follows for whoever only reads verdicts."""
    match found.place.state:
        case "promoted":
            return "ship"
        case "rolled-back":
            return "rollback"
        case "no-traffic" if found.move is None or found.move.because == "begun":
            return "no-traffic"
        case "insufficient-data" | "held":
            return "insufficient-data"
    return "continue"


def sentences(experiment: Experiment, course: Course, found: CanaryReport) -> list[str]:
    """What happened, what the canary waits for, and what is known of every metric."""
    lines = [found.move.reason] if found.move is not None else []
    told = found.move is not None and found.move.because != "start" and found.place.state not in ("held", "rolled-back")
    if not told:
        lines.append(_waiting(experiment, course, found))
    if found.metrics:
        lines.append(
            f"Known of the step, at all times: {'; '.join(_metric(experiment, one) for one in found.metrics)}."
        )
    return lines


def _reason(experiment: Experiment, course: Course, before: CanaryPlace | None) -> str:
    candidate, control = candidate_name(experiment), experiment.control_name
    here = _at(experiment, course.place)
    was = _at(experiment, before or course.place)
    match course.because:
        case "begun":
            return f"The canary of {candidate} against {control} begins at {here}."
        case "again":
            return f"Started again{_by(course.order)}: the canary of {candidate} begins at {here}, on new evidence."
        case "changed":
            return f"Its variants, metrics or steps were changed: the canary of {candidate} begins at {here}."
        case "passed":
            done = "Promoted" if course.place.state == "promoted" else f"On to {here}"
            known = "; ".join(_metric(experiment, metric) for metric in _metrics(course))
            return f"{done}: at {was} nothing is worse than {control} by its margin or more: {known}."
        case "worse":
            one = next(metric for metric in _metrics(course) if metric.outcome == course.about)
            return f"Rolled back at {was}: {candidate} is worse than {control} in {_metric(experiment, one)}."
        case "limit":
            return f"Rolled back at once at {was}: {_limit(experiment, course)}."
        case "longest":
            done = "Held" if course.place.state == "held" else "Rolled back"
            return f"{done} at {was}: {_span(_step(experiment, course.place).longest_s)} have passed, its longest " \
                   "duration, and it is known neither to be good enough nor to be worse."  # fmt: skip
        case "pause":
            return f"Paused{_by(course.order)} at {was}."
        case "start":
            return f"Goes on{_by(course.order)} at {here}."
        case "stop":
            return f"Stopped{_by(course.order)} at {was}: rolled back."
        case "ship":
            done = "promoted" if course.place.state == "promoted" else "rolled back"
            return f"{course.order.variant if course.order else ''} shipped{_by(course.order)} at {was}: {done}."
    return _waiting(experiment, course, None)


def _waiting(experiment: Experiment, course: Course, found: CanaryReport | None) -> str:
    """Where it stands and what it waits for."""
    place, judged, name = course.place, course.judged, experiment.name
    here = _at(experiment, place)
    match place.state:
        case "promoted":
            return f"Promoted: {candidate_name(experiment)} gets all traffic."
        case "rolled-back":
            return (
                f"All traffic goes to {experiment.control_name} until somebody starts the canary again "
                f"(`sluice experiment pause {name}`, then `start {name}`)."
            )
        case "paused":
            return f"Paused at {here}; `sluice experiment start {name}` goes on."
        case "held":
            return f"Held at {here}; `sluice experiment pause {name}`, then `start {name}` give it more time."
        case "no-traffic":
            return f"Canary at {here}: no impression under its shares has been counted yet."
    assert judged is not None
    return f"Canary at {here}: {_missing(experiment, course, judged)}."


def _missing(experiment: Experiment, course: Course, judged: Judged) -> str:
    rule, unit = experiment.stopping, experiment.unit
    arms = zip((experiment.control_name, candidate_name(experiment)), judged.units, strict=True)
    short = [f"{name} has {units:,.1f}" for name, units in arms if units < rule.least_units]
    expected = _expected(experiment, judged)
    if short:
        return f"too early to say: {' and '.join(short)} of the {rule.least_units} effective {unit}s needed{expected}"
    if not judged.enough:
        return (
            f"too early to say: one has less than {rule.least_outcomes} impressions with {experiment.primary}, or "
            f"without{expected}"
        )
    if not judged.mature:
        return "too early to say: no impression is as old as the attribution window yet, so clicks are still to come"
    open_ = [one.outcome for one in judged.metrics if one.status != "passed"]
    if open_:
        return f"not yet known to be good enough in {', '.join(open_)}{expected}"
    shortest = _span(_step(experiment, course.place).shortest_s)
    return f"everything is within its margin; the step lasts at least {shortest}"


def _expected(experiment: Experiment, judged: Judged) -> str:
    if judged.needed is None or not any(judged.needed):
        return ""
    control, candidate = judged.needed
    return (
        f"; if differences stay as they are, about {_rough(candidate)} more {experiment.unit}s of "
        f"{candidate_name(experiment)} and {_rough(control)} of {experiment.control_name} decide"
    )


def _metrics(course: Course) -> tuple[CanaryMetric, ...]:
    return course.judged.metrics if course.judged is not None else ()


def _metric(experiment: Experiment, one: CanaryMetric) -> str:
    """`click −2.1 to +1.9 points (margin 3): passed`; positive is better"""
    points = one.outcome != experiment.primary or experiment.measure == "rate"
    scale, unit = (100.0, " points") if points else (1.0, "")
    if one.interval is None:
        return f"{one.outcome} not enough yet"
    low, high = (f"{scale * end:+.3g}" for end in one.interval)
    return f"{one.outcome} {low} to {high}{unit} (margin {scale * one.margin:.3g}): {one.status}"


def _limit(experiment: Experiment, course: Course) -> str:
    assert experiment.canary is not None
    candidate = candidate_name(experiment)
    limit = next(one for one in experiment.canary.limits if one.outcome == course.about)
    shown = next((cell.statistics for cell in course.evidence if cell.variant == candidate), CellStatistics())
    count = shown.outcome(limit.outcome).count
    return (
        f"{count:,} of {shown.impressions:,} impressions of {candidate} had {limit.outcome} "
        f"({100 * count / max(shown.impressions, 1):.3g} %, allowed are {100 * limit.rate:.3g} %)"
    )


def _at(experiment: Experiment, place: CanaryPlace) -> str:
    """`step 2 of 5 (B 5 %)`"""
    assert experiment.canary is not None
    steps = len(experiment.canary.steps)
    return f"step {place.step} of {steps} ({candidate_name(experiment)} {_step(experiment, place).share} %)"


def _step(experiment: Experiment, place: CanaryPlace) -> CanaryStep:
    assert experiment.canary is not None
    return experiment.canary.steps[min(place.step, len(experiment.canary.steps)) - 1]


def _by(order: Change | None) -> str:
    if order is None:
        return ""
    by = f" by {order.by}" if order.by else ""
    return f"{by} ({order.why})" if order.why else by


def _span(seconds: int) -> str:
    """3600 → `1 h`"""
    size, unit = next(((size, unit) for size, unit in _SPANS if seconds and seconds % size == 0), (1, "s"))
    return f"{seconds // size:,} {unit}"


def _rough(units: int) -> str:
    """Two digits: more would be false precision."""
    return f"{float(f'{units:.2g}'):,.0f}"
