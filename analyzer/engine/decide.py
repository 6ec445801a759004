"""Evidence in, decision out: a pure function, so that a decision can be computed again from its own record.

Library: msgspec.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from analyzer.engine import reasons
from analyzer.engine.bandit import moved_enough, thompson_shares
from analyzer.engine.bayes import compare, credible_intervals
from analyzer.engine.evidence import ClusteredRate, clustered_rate
from analyzer.engine.sample_ratio import sample_ratio
from sluice.domain.events import DecisionMade, StatsCell, VariantResult, Verdict
from sluice.domain.experiment import Experiment, config_hash
from sluice.domain.statistics import CellStatistics
from sluice.errors import InvalidEvent

__all__ = ["SAMPLE_RATIO_ALARM", "Previous", "Snapshot", "decide", "recompute"]

SAMPLE_RATIO_ALARM = 0.0005
"""Below this p-value the evidence is called invalid: rare enough to be looked at often (Fabijan et al. 2019)."""

DIGITS = 12
"""Decimals of published probabilities: the last bits of a double differ between processors, a record must not."""


class Snapshot(NamedTuple):
    """The evidence of one experiment, as `merge_cells` gives it, and how far it reaches."""

    cells: tuple[StatsCell, ...]
    offsets: Mapping[int, tuple[int, int]]
    """Partition → (impressions offset, clicks offset), exclusive"""
    at_ms: int


class Previous(NamedTuple):
    """What the decision before this one left behind."""

    version: int
    allocation: Mapping[str, int]
    """Empty before the first decision"""
    allocation_version: int


def decide(experiment: Experiment, snapshot: Snapshot, previous: Previous | None = None) -> DecisionMade:
    """The decision that follows from the evidence. Equal arguments give equal bytes.

    Traffic follows `experiment.bandit`: the starting allocation until every variant has `min_units`, then Thompson
    shares; it stays where it is while the evidence is `invalid`. Raises ValueError when a cell's sums are impossible.
    """
    before = previous or Previous(0, {}, 0)
    names = [variant.name for variant in experiment.variants]
    control = experiment.control or names[0]
    totals = {name: CellStatistics() for name in names}
    unknown: dict[str, int] = {}
    for cell in snapshot.cells:
        if cell.variant in totals:
            totals[cell.variant] += cell.statistics
        else:
            unknown[cell.variant] = unknown.get(cell.variant, 0) + cell.statistics.impressions
    rates = [clustered_rate(totals[name], experiment.primary) for name in names]
    results = _results(experiment, rates)
    ratio = sample_ratio(snapshot.cells)
    ratio = None if ratio is None else round(ratio, DIGITS)
    verdict = _verdict(experiment, control, results, ratio)
    allocation = _allocation(experiment, results, verdict, before.allocation)
    moved = allocation != (before.allocation or experiment.starting_allocation)
    return DecisionMade(
        experiment=experiment.name,
        version=before.version + 1,
        at_ms=snapshot.at_ms,
        offsets={str(partition): snapshot.offsets[partition] for partition in sorted(snapshot.offsets)},
        config_hash=config_hash(experiment),
        config=msgspec.to_builtins(experiment),
        seed=experiment.seed,
        evidence=snapshot.cells,
        results=results,
        sample_ratio_p=ratio,
        allocation=allocation,
        allocation_version=before.allocation_version + moved,
        previous_allocation=dict(before.allocation),
        previous_allocation_version=before.allocation_version,
        verdict=verdict,
        reasons=reasons.explain(experiment, control, results, ratio, verdict, allocation, before.allocation, unknown),
    )


def recompute(recorded: DecisionMade) -> DecisionMade:
    """The decision that follows from what `recorded` says it was made from. Raises InvalidEvent, ValueError."""
    try:
        experiment = msgspec.convert(recorded.config, Experiment)
        offsets = {int(partition): pair for partition, pair in recorded.offsets.items()}
    except (msgspec.ValidationError, ValueError) as error:
        raise InvalidEvent(f"decision {recorded.version} of {recorded.experiment}: {error}") from error
    return decide(
        experiment,
        Snapshot(recorded.evidence, offsets, recorded.at_ms),
        Previous(recorded.version - 1, recorded.previous_allocation, recorded.previous_allocation_version),
    )


def _results(experiment: Experiment, rates: list[ClusteredRate]) -> tuple[VariantResult, ...]:
    successes, failures = experiment.bandit.prior
    alpha = [successes + rate.outcomes / rate.design_effect for rate in rates]
    # An outcome may be counted more often than shown (a valued one); the verdict then says so.
    beta = [failures + max(0, rate.impressions - rate.outcomes) / rate.design_effect for rate in rates]
    compared = compare(alpha, beta)
    intervals = credible_intervals(alpha, beta)
    return tuple(
        VariantResult(
            variant=variant.name,
            units=rate.units,
            impressions=rate.impressions,
            outcomes=rate.outcomes,
            rate=round(rate.rate, DIGITS),
            alpha=_significant(alpha[i]),
            beta=_significant(beta[i]),
            design_effect=_significant(rate.design_effect),
            effective_impressions=_significant(rate.effective_impressions),
            interval=(round(float(intervals[i, 0]), DIGITS), round(float(intervals[i, 1]), DIGITS)),
            p_best=round(float(compared.p_best[i]), DIGITS),
            expected_loss=round(float(compared.expected_loss[i]), DIGITS),
        )
        for i, (variant, rate) in enumerate(zip(experiment.variants, rates, strict=True))
    )


def _significant(value: float) -> float:
    return float(f"{value:.12g}")


def _verdict(experiment: Experiment, control: str, results: tuple[VariantResult, ...], ratio: float | None) -> Verdict:
    if not any(result.impressions for result in results):
        return "no-traffic"
    if any(result.outcomes > result.impressions for result in results):
        return "invalid"
    if ratio is not None and ratio < SAMPLE_RATIO_ALARM:
        return "invalid"
    rule = experiment.stopping
    if min(result.units for result in results) < rule.min_units:
        return "insufficient-data"
    best = reasons.leader(results)
    if best.p_best < rule.p_best or best.expected_loss > rule.expected_loss:
        return "continue"
    return "stop" if best.variant == control else "ship"


def _allocation(
    experiment: Experiment, results: tuple[VariantResult, ...], verdict: Verdict, before: Mapping[str, int]
) -> dict[str, int]:
    start = experiment.starting_allocation
    kept = dict(before) if before.keys() == start.keys() else start
    rule = experiment.bandit
    if rule.policy == "fixed":
        return start
    if verdict == "invalid":
        return kept
    if min(result.units for result in results) < rule.min_units:
        return start
    wanted = thompson_shares({result.variant: result.p_best for result in results}, rule.floor)
    return wanted if moved_enough(wanted, kept, rule.min_change) else kept
