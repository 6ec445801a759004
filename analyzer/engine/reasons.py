"""The reasons of a decision in words, with the numbers in them, for people who do not read posteriors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sluice.domain.events import VariantResult, Verdict
from sluice.domain.experiment import Experiment

__all__ = ["explain", "leader", "percent"]

MOST_UNKNOWN = 5
"""Variants that the experiment does not have, named at most."""


def leader(results: Sequence[VariantResult]) -> VariantResult:
    """The variant most probably the best; of equals the first."""
    return max(results, key=lambda result: result.p_best)


def explain(
    experiment: Experiment,
    control: str,
    results: Sequence[VariantResult],
    sample_ratio_p: float | None,
    verdict: Verdict,
    allocation: Mapping[str, int],
    before: Mapping[str, int],
    unknown: Mapping[str, int],
) -> tuple[str, ...]:
    """Sentences, the most important first: why this verdict, how sure, where the traffic goes, what to be wary of."""
    lines = [_verdict(experiment, control, results, sample_ratio_p, verdict)]
    if verdict in ("insufficient-data", "continue", "ship", "stop"):
        lines.append(_standing(experiment, control, results))
    lines.append(_traffic(experiment, results, verdict, allocation, before))
    clustered = max(results, key=lambda result: result.design_effect)
    if clustered.design_effect >= 1.1 and clustered.impressions:
        lines.append(
            f"Impressions of one {experiment.unit} resemble each other: the {clustered.impressions:,} of "
            f"{clustered.variant} tell as much as {clustered.effective_impressions:,.0f} independent ones "
            f"(design effect {clustered.design_effect:.2f})."
        )
    if verdict != "invalid" and sample_ratio_p is not None:
        lines.append(
            f"The {experiment.unit}s arrived in the proportions the allocations promised (p = {sample_ratio_p:.3g})."
        )
    if unknown:
        lines.append(f"Counted but not part of the experiment, and left out: {_listed(unknown)}.")
    return tuple(lines)


def _listed(unknown: Mapping[str, int]) -> str:
    # Names come from the log, which may hold any number of them.
    largest = sorted(unknown.items(), key=lambda item: (-item[1], item[0]))
    shown = [f"{name} ({count:,} impressions)" for name, count in largest[:MOST_UNKNOWN]]
    return ", ".join(shown) + (f" and {len(largest) - len(shown):,} more" if len(largest) > len(shown) else "")


def percent(rate: float) -> str:
    """A rate with as many digits as tell something: 78.1 %, 0.412 %, < 0.0001 %."""
    value = 100 * rate
    if 0 < value < 0.0001:
        return "< 0.0001 %"
    return f"{value:.3g} %" if value < 1 else f"{value:.1f} %"


def _sure(probability: float) -> str:
    # Never "100 %": a posterior is not proof, and the last digits are rounded away in the record.
    return "above 99.99 %" if probability >= 0.9999 else f"of {100 * probability:.4g} %"


def _points(rate: float) -> str:
    value = 100 * rate
    return "less than 0.0001 percentage points" if value < 0.0001 else f"{value:.2g} percentage points"


def _verdict(
    experiment: Experiment,
    control: str,
    results: Sequence[VariantResult],
    sample_ratio_p: float | None,
    verdict: Verdict,
) -> str:
    rule, best, metric = experiment.stopping, leader(results), experiment.primary
    met = (
        f"it is the best with a probability {_sure(best.p_best)} (asked for: {100 * rule.p_best:.4g} %), "
        f"and choosing it risks {_points(best.expected_loss)} of {metric} rate (allowed: {_points(rule.expected_loss)})"
    )
    if verdict == "no-traffic":
        return "No impression has been counted yet."
    if verdict == "invalid":
        too_many = [result for result in results if result.outcomes > result.impressions]
        if too_many:
            one = too_many[0]
            return (
                f"{one.variant} has {one.outcomes:,} × {metric} on {one.impressions:,} impressions: that is not a "
                f"rate per impression, so it cannot be compared. Use an outcome without a value as `primary`."
            )
        seen = ", ".join(f"{result.variant} {result.units:,}" for result in results)
        return (
            f"The {experiment.unit}s did not arrive in the proportions the allocations promised "
            f"({seen}; p = {sample_ratio_p:.2g}, alarm below 0.0005): something loses or repeats them, so no figure "
            f"of this experiment can be trusted. Find the cause before reading on."
        )
    if verdict == "insufficient-data":
        least = min(results, key=lambda result: result.units)
        return (
            f"Too early to say: {least.variant} has {least.units:,} of the {rule.min_units:,} "
            f"{experiment.unit}s that every variant needs."
        )
    if verdict == "ship":
        return f"Ship {best.variant}: {met}."
    if verdict == "stop":
        return f"Stop, and keep the control {control}: {met}."
    if best.p_best < rule.p_best:
        return (
            f"No winner yet: {best.variant} leads, and is the best with a probability {_sure(best.p_best)} "
            f"(asked for: {100 * rule.p_best:.4g} %)."
        )
    return (
        f"No winner yet: {best.variant} is the best with a probability {_sure(best.p_best)}, but choosing it still "
        f"risks {_points(best.expected_loss)} of {metric} rate (allowed: {_points(rule.expected_loss)})."
    )


def _standing(experiment: Experiment, control: str, results: Sequence[VariantResult]) -> str:
    ordered = sorted(results, key=lambda result: -result.rate)
    shown = [
        f"{result.variant}{' (control)' if result.variant == control else ''} {percent(result.rate)} "
        f"[{percent(result.interval[0])} to {percent(result.interval[1])}] of {result.impressions:,} impressions"
        for result in ordered
    ]
    return f"Rate of {experiment.primary}: {'; '.join(shown)}."


def _traffic(
    experiment: Experiment,
    results: Sequence[VariantResult],
    verdict: Verdict,
    allocation: Mapping[str, int],
    before: Mapping[str, int],
) -> str:
    shares = ", ".join(f"{name} {share} %" for name, share in allocation.items())
    rule = experiment.bandit
    if rule.policy == "fixed":
        return f"Traffic stays fixed: {shares}."
    if verdict == "invalid":
        return f"Traffic is not moved on such evidence: {shares}."
    least = min(results, key=lambda result: result.units)
    if least.units < rule.min_units:
        return (
            f"Traffic stays at its start until every variant has {rule.min_units:,} {experiment.unit}s "
            f"({least.variant} has {least.units:,}): {shares}."
        )
    old = dict(before) or experiment.starting_allocation
    if dict(allocation) == old:
        return f"Traffic stays: {shares}; no share would move by {rule.min_change} percentage points or more."
    was = ", ".join(f"{name} {share} %" for name, share in old.items())
    least_share = f"{100 * rule.floor:.3g} %"
    return f"Traffic follows the probability of being the best, at least {least_share} each: {shares} (was: {was})."
