"""Evidence in, decision out: a pure function, so that a decision can be computed again from its own record.

Library: msgspec.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from analyzer.engine import canary_words, reasons
from analyzer.engine.canary import advance, standing
from analyzer.engine.evaluate import Evaluation, Problem, among, evaluate
from analyzer.engine.guardrails import breached, check_guardrails
from analyzer.engine.memory import Memory, remember
from analyzer.engine.segments import compare_segments
from analyzer.engine.sequential import LEAST_VALUES
from analyzer.engine.traffic import allocate, convergence_note
from analyzer.engine.verdict import Finding, conclude, distrust
from sluice.domain.allocation import allocation_key
from sluice.domain.canary import CanaryPlace, CanaryReport
from sluice.domain.epochs import Epoch
from sluice.domain.events import (
    Contrast,
    DecisionMade,
    DelayEvidence,
    MovedUnits,
    SegmentSums,
    StatsCell,
    VariantResult,
)
from sluice.domain.experiment import Experiment, config_hash, configuration
from sluice.domain.status import Change
from sluice.errors import InvalidEvent

__all__ = ["Case", "Previous", "Snapshot", "decide", "decide_many", "recompute"]

DIGITS = 12
"""Decimals of published figures: the last bits of a double differ between processors, a record must not."""


class Snapshot(NamedTuple):
    """The evidence of one experiment, as `merge_cells` gives it, and how far it reaches."""

    cells: tuple[StatsCell, ...]
    offsets: Mapping[int, tuple[int, int]]
    """Partition → (impressions offset, clicks offset), exclusive"""
    at_ms: int
    segments: tuple[SegmentSums, ...] = ()
    moved: tuple[MovedUnits, ...] = ()
    delay: DelayEvidence | None = None
    metric_delays: Mapping[str, DelayEvidence] | None = None
    """`delay` of the guardrails of a canary, by outcome; None of other experiments"""


class Previous(NamedTuple):
    """What the decision before this one left behind."""

    version: int
    allocation: Mapping[str, int]
    """Empty before the first decision"""
    allocation_version: int
    history: tuple[Epoch, ...] = ()
    canary: CanaryPlace | None = None


class Case(NamedTuple):
    """One experiment to decide on."""

    experiment: Experiment
    snapshot: Snapshot
    previous: Previous | None = None
    orders: tuple[Change, ...] = ()
    """Changes of the experiment since the last decision, which a canary obeys"""


def decide(
    experiment: Experiment, snapshot: Snapshot, previous: Previous | None = None, orders: tuple[Change, ...] = ()
) -> DecisionMade:
    """The decision that follows from the evidence; equal arguments give equal bytes. See `decide_many`."""
    return decide_many([Case(experiment, snapshot, previous, orders)])[0]


def decide_many(cases: Sequence[Case]) -> list[DecisionMade]:
    """One decision a case, in order; the others of the batch change nothing about it.

    Traffic follows `experiment.bandit`: the starting allocation until every variant has enough, then the policy's
    shares; it stays where it is while the evidence is `invalid`, and a variant whose guardrail is breached gets none. A
    canary moves it step by step instead, and its figures are those of the step.
    Raises ValueError when a cell's sums are impossible.
    """
    memories = [_memory(case) for case in cases]
    found = evaluate(
        [
            Problem(case.experiment, _compared(case), memory.learned)
            for case, memory in zip(cases, memories, strict=True)
        ]
    )
    return [_decision(*parts) for parts in zip(cases, memories, found, strict=True)]


def _memory(case: Case) -> Memory:
    if case.experiment.canary is not None:
        return Memory((), None, ())  # its traffic follows no posterior
    snapshot = case.snapshot
    return remember(case.experiment, snapshot.cells, snapshot.at_ms, snapshot.delay, _history(case))


def _compared(case: Case) -> tuple[StatsCell, ...]:
    """The cells that the figures are of: all, or those of the step of a canary."""
    if case.experiment.canary is None:
        return case.snapshot.cells
    before = case.previous or Previous(0, {}, 0)
    return standing(
        case.experiment, case.snapshot.cells, case.snapshot.at_ms, before.canary, case.orders, fresh=before.version == 0
    )


def _history(case: Case) -> tuple[Epoch, ...]:
    """What the last decision remembers, unless it was of other variants: epochs know them by place only."""
    before = case.previous
    if before is None or list(before.allocation) != list(case.experiment.starting_allocation):
        return ()
    return before.history


def recompute(recorded: DecisionMade) -> DecisionMade:
    """The decision that follows from what `recorded` says it was made from. Raises InvalidEvent, ValueError."""
    try:
        experiment = msgspec.convert(recorded.config, Experiment)
        offsets = {int(partition): pair for partition, pair in recorded.offsets.items()}
    except (msgspec.ValidationError, ValueError) as error:
        raise InvalidEvent(f"decision {recorded.version} of {recorded.experiment}: {error}") from error
    snapshot = Snapshot(
        recorded.evidence, offsets, recorded.at_ms, recorded.segment_evidence, recorded.moved, recorded.delay,
        recorded.metric_delays,
    )  # fmt: skip
    canary = recorded.canary
    previous = Previous(
        recorded.version - 1,
        recorded.previous_allocation,
        recorded.previous_allocation_version,
        # Advancing a history that has reached the evidence changes nothing.
        recorded.history,
        canary.before if canary is not None else None,
    )
    return decide(experiment, snapshot, previous, canary.orders if canary is not None else ())


def _decision(case: Case, memory: Memory, figures: Evaluation) -> DecisionMade:
    experiment, snapshot, before = case.experiment, case.snapshot, case.previous or Previous(0, {}, 0)
    results = _results(experiment, figures)
    short = _short(experiment, figures)
    once, always = _rounded(figures.sample_ratio_once), _rounded(figures.sample_ratio_always)
    # A canary judges the guardrails itself, step by step.
    checked = () if experiment.canary is not None else check_guardrails(experiment, snapshot.cells, DIGITS)
    segments = compare_segments(experiment, snapshot.segments, DIGITS)
    left = _left(experiment, figures, results, breached(checked))
    told_canary: list[str] = []
    canary: CanaryReport | None = None
    if experiment.canary is not None:
        canary, finding, told_canary = _canary(case, distrust(experiment, results, always))
        allocation = experiment.canary_allocation(canary.share)
    else:
        immature = snapshot.delay is not None and snapshot.delay.immature
        finding = conclude(experiment, results, left, tuple(short), always, checked, immature=immature)
        allocation = allocate(experiment, figures, finding, checked, before.allocation)
    told = reasons.Figures(
        results=results,
        left=left,
        finding=finding,
        short=short,
        sample_ratio_p=always,
        guardrails=checked,
        segments=segments,
        allocation=allocation,
        before=before.allocation,
        unknown=_unknown(experiment, snapshot.cells),
        moved=snapshot.moved,
        notes=(*memory.notes, *convergence_note(experiment, figures, finding, left)),
        canary=told_canary,
    )
    return DecisionMade(
        experiment=experiment.name,
        version=before.version + 1,
        at_ms=snapshot.at_ms,
        offsets={str(partition): snapshot.offsets[partition] for partition in sorted(snapshot.offsets)},
        config_hash=config_hash(experiment),
        config=configuration(experiment),
        seed=experiment.seed,
        evidence=snapshot.cells,
        results=results,
        sample_ratio_p=once,
        sample_ratio_always_valid_p=always,
        allocation=allocation,
        allocation_version=before.allocation_version
        + (allocation != (before.allocation or experiment.starting_allocation)),
        previous_allocation=dict(before.allocation),
        previous_allocation_version=before.allocation_version,
        verdict=finding.verdict,
        reasons=reasons.explain(experiment, told),
        guardrails=checked,
        uniform=_uniform(experiment, snapshot.cells),
        moved=snapshot.moved,
        delay=snapshot.delay,
        history=memory.history,
        segment_evidence=snapshot.segments,
        segments=segments,
        canary=canary,
        metric_delays=dict(snapshot.metric_delays or {}),
    )


def _canary(case: Case, distrusted: Finding | None) -> tuple[CanaryReport, Finding, list[str]]:
    """Where the canary goes, the verdict of that, and its sentences."""
    experiment, snapshot, before = case.experiment, case.snapshot, case.previous or Previous(0, {}, 0)
    delays = {one: snapshot.delay for one in experiment.outcomes if snapshot.delay is not None}
    delays.update(snapshot.metric_delays or {})
    course = advance(
        experiment, snapshot.cells, snapshot.at_ms, before.canary, case.orders, delays,
        fresh=before.version == 0, trusted=distrusted is None,
    )  # fmt: skip
    found = canary_words.report(experiment, course, before.canary, case.orders)
    ended = found.place.state in ("promoted", "rolled-back")
    finding = distrusted if distrusted is not None and not ended else Finding(canary_words.verdict(found))
    return found, finding, canary_words.sentences(experiment, course, found)


def _results(experiment: Experiment, figures: Evaluation) -> tuple[VariantResult, ...]:
    beta = experiment.measure == "rate"
    enough = all(figures.ready)
    return tuple(
        VariantResult(
            variant=variant.name,
            units=int(figures.units[i]),
            impressions=int(figures.impressions[i]),
            outcomes=int(figures.outcomes[i]),
            rate=round(figures.rate[i], DIGITS),
            alpha=_significant(figures.first[i]) if beta else None,
            beta=_significant(figures.second[i]) if beta else None,
            design_effect=_significant(figures.design_effect[i]),
            effective_impressions=_significant(figures.impressions[i] / figures.design_effect[i]),
            interval=_interval(figures.credible_low[i], figures.credible_high[i]) or (0.0, 0.0),
            p_best=round(figures.p_best[i], DIGITS),
            expected_loss=round(figures.expected_loss[i], DIGITS),
            effective_units=_significant(figures.effective_units[i]),
            weighted_rate=_rounded(figures.weighted_rate[i]),
            sequence=_interval(figures.sequence_low[i], figures.sequence_high[i]) if enough else None,
            contrast=_contrast(figures, i) if enough and variant.name != experiment.control_name else None,
        )
        for i, variant in enumerate(experiment.variants)
    )


def _left(
    experiment: Experiment, figures: Evaluation, results: tuple[VariantResult, ...], out: frozenset[str]
) -> tuple[VariantResult, ...]:
    """The variants that no guardrail has put out, compared among themselves: the others cannot be chosen."""
    if not out:
        return results
    left = [result for result in results if result.variant not in out]
    p_best, loss, _ = among(experiment, figures, [result.variant for result in left])
    return tuple(
        msgspec.structs.replace(
            result, p_best=round(float(p_best[i]), DIGITS), expected_loss=round(float(loss[i]), DIGITS)
        )
        for i, result in enumerate(left)
    )


def _contrast(figures: Evaluation, i: int) -> Contrast | None:
    interval = _interval(figures.difference_low[i], figures.difference_high[i])
    if interval is None:
        return None
    return Contrast(
        difference=round(figures.difference[i], DIGITS),
        interval=interval,
        always_valid_p=_significant(figures.always_valid_p[i]),
        lift=_rounded(figures.lift[i]),
        lift_interval=_interval(figures.lift_low[i], figures.lift_high[i]),
        p_better=round(figures.p_better[i], DIGITS),
        p_rope=_rounded(figures.p_rope[i]),
        fixed_horizon_p=_significant(figures.fixed_horizon_p[i]),
    )


def _short(experiment: Experiment, figures: Evaluation) -> dict[str, str]:
    """Variants without enough, with what they have of what they need: what `sequential.ready` asks for, in words."""
    rule, found = experiment.stopping, {}
    for i, variant in enumerate(experiment.variants):
        if figures.ready[i]:
            continue
        units, unweighted = figures.effective_units[i], figures.unweighted_units[i]
        all_of_them = figures.outcomes[i]
        # Outcomes count with the part of effective units that unequal weights leave.
        part = min(units / unweighted, 1.0) if unweighted > 0 else 0.0
        counted, other = all_of_them * part, (figures.impressions[i] - all_of_them) * part
        weighed = "" if part > 0.99 else f", which weigh {100 * part:.3g} % as the traffic was moved,"
        if units < rule.least_units:
            found[variant.name] = f"{units:,.1f} of the {rule.least_units} effective {experiment.unit}s that are needed"
        elif counted < rule.least_outcomes:
            found[variant.name] = (
                f"{all_of_them:,.0f}{weighed} of the {rule.least_outcomes} × {experiment.primary} that are needed"
            )
        elif experiment.measure == "value":
            found[variant.name] = (
                f"too few values of {experiment.primary} for their spread: they must weigh as much as {LEAST_VALUES} "
                f"equal ones"
            )
        else:
            found[variant.name] = (
                f"{other / part:,.0f}{weighed} of the {rule.least_outcomes} impressions without "
                f"{experiment.primary} that are needed"
            )
    return found


def _unknown(experiment: Experiment, cells: Sequence[StatsCell]) -> dict[str, int]:
    names = {variant.name for variant in experiment.variants}
    found: dict[str, int] = {}
    for cell in cells:
        if cell.variant not in names:
            found[cell.variant] = found.get(cell.variant, 0) + cell.statistics.impressions
    return found


def _uniform(experiment: Experiment, cells: Sequence[StatsCell]) -> tuple[VariantResult, ...]:
    """The comparison on the uniformly drawn units alone: an A/B test inside the bandit."""
    if not experiment.bandit.reserve:
        return ()
    key = allocation_key(experiment.uniform_allocation)
    drawn = tuple(cell for cell in cells if cell.allocation == key)
    return _results(experiment, evaluate([Problem(experiment, drawn)])[0])


def _rounded(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(float(value), DIGITS)


def _significant(value: float) -> float:
    return float(f"{value:.12g}")


def _interval(low: float, high: float) -> tuple[float, float] | None:
    """None where an end is not finite: nothing is known yet."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return None
    return round(float(low), DIGITS), round(float(high), DIGITS)
