"""Decisions and their evidence as metrics: read from what the analyzer holds anyway, by whoever asks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import get_args

from analyzer.engine.verdict import SAMPLE_RATIO_ALARM
from analyzer.totals import Totals
from sluice.adapters.metrics import Reading
from sluice.domain.events import DecisionMade, Verdict
from sluice.domain.experiment import Experiment

__all__ = ["decision_readings", "evidence_readings"]


def evidence_readings(totals: Totals, experiments: Iterable[Experiment]) -> Reading:
    """What was counted of the variants that are defined."""
    defined = {(one.name, variant.name) for one in experiments for variant in one.variants}
    for place, (units, impressions, outcomes) in totals.sums(defined).items():
        yield "sluice_units_total", place, units
        yield "sluice_impressions_total", place, impressions
        for outcome, count in outcomes.items():
            yield "sluice_outcomes_total", (*place, outcome), count


def decision_readings(last: Mapping[str, DecisionMade], experiments: Iterable[Experiment]) -> Reading:
    """The last decision of each experiment that is defined."""
    yield "sluice_sample_ratio_limit", (), SAMPLE_RATIO_ALARM
    for experiment in experiments:
        decision = last.get(experiment.name)
        if decision is not None:
            yield from _decision(decision)


def _decision(decision: DecisionMade) -> Reading:
    name = decision.experiment
    yield "sluice_decision_version", (name,), decision.version
    yield "sluice_decided_allocation_version", (name,), decision.allocation_version
    for verdict in get_args(Verdict):
        yield "sluice_verdict", (name, verdict), verdict == decision.verdict
    if decision.sample_ratio_always_valid_p is not None:
        yield "sluice_sample_ratio_p", (name,), decision.sample_ratio_always_valid_p
    for variant, percent in decision.allocation.items():
        yield "sluice_decided_share", (name, variant), percent / 100
    for result in decision.results:
        place = (name, result.variant)
        yield "sluice_variant_rate", place, result.rate if result.weighted_rate is None else result.weighted_rate
        if result.sequence is not None:
            for bound, value in zip(("lower", "upper"), result.sequence, strict=True):
                yield "sluice_variant_rate_bound", (*place, bound), value
        yield "sluice_variant_p_best", place, result.p_best
        yield "sluice_variant_expected_loss", place, result.expected_loss
    for rail in decision.guardrails:
        yield "sluice_guardrail_status", (name, rail.variant, rail.outcome, rail.status), 1
    if decision.canary is not None:
        yield "sluice_canary_step", (name, decision.canary.place.state), decision.canary.place.step
