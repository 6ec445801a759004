"""Which verdict the figures allow, in one place. Pure.

Order: is there anything, can it be trusted, is it enough, does a guardrail forbid it, is a difference (or its absence)
established. `sequential` asks confidence sequences, `bayesian` the posterior; both ask what a wrong choice would cost.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from sluice.domain.events import GuardrailResult, VariantResult, Verdict
from sluice.domain.experiment import Experiment

__all__ = ["SAMPLE_RATIO_ALARM", "Finding", "conclude", "distrust", "leader"]

SAMPLE_RATIO_ALARM = 0.0005
"""Below this always-valid p-value the evidence is called invalid."""


class Finding(NamedTuple):
    verdict: Verdict
    variant: str = ""
    """The variant it is about: to ship, to roll back, short of data, or the leader"""
    because: str = ""
    """Which of several ways led to the verdict: `not-a-rate`, `sample-ratio`, `aa`, `equivalent`, `worse`, …"""


def leader(results: Sequence[VariantResult]) -> VariantResult:
    """The variant most probably the best; of equals the first."""
    return max(results, key=lambda result: result.p_best)


def conclude(
    experiment: Experiment,
    results: Sequence[VariantResult],
    left: Sequence[VariantResult],
    short: Sequence[str],
    sample_ratio_p: float | None,
    guardrails: Iterable[GuardrailResult],
    *,
    immature: bool = False,
) -> Finding:
    """The verdict. `left`: the results without variants whose guardrail is breached, compared among themselves.

    `short`: variants that have not enough yet; `sample_ratio_p`: always valid, None if unknown; `immature`: no
    impression is as old as the attribution window yet.
    """
    if not any(result.impressions for result in results):
        return Finding("no-traffic")
    distrusted = distrust(experiment, results, sample_ratio_p)
    if distrusted is not None:
        return distrusted
    treatments = [result for result in left if result.variant != experiment.control_name]
    if not treatments and not experiment.aa:
        # Known before the gate: a guardrail breaks on its own evidence.
        first = next(result for result in results if result.variant != experiment.control_name)
        return Finding("rollback", first.variant, "guardrail")
    if short:
        return Finding("insufficient-data", short[0])
    if immature:
        return Finding("insufficient-data", "", "immature")
    status: dict[str, set[str]] = {}
    for found in guardrails:
        status.setdefault(found.variant, set()).add(found.status)
    if experiment.aa:
        return _same(experiment, results, left)
    winner = _winner(experiment, left, treatments)
    if (
        winner is not None
        and winner.variant != experiment.control_name
        and status.get(winner.variant, {"passed"}) != {"passed"}
    ):
        return Finding("continue", winner.variant, "guardrail-open")
    if winner is not None:
        return Finding("stop" if winner.variant == experiment.control_name else "ship", winner.variant, "better")
    if _equivalent(experiment, treatments):
        return Finding("stop", experiment.control_name, "equivalent")
    return Finding("continue", leader(left).variant)


def distrust(experiment: Experiment, results: Sequence[VariantResult], sample_ratio_p: float | None) -> Finding | None:
    """`invalid`, with the reason, when the evidence itself cannot be right."""
    if experiment.measure == "rate":
        for result in results:
            if result.outcomes > result.impressions:
                return Finding("invalid", result.variant, "not-a-rate")
    if sample_ratio_p is not None and sample_ratio_p < SAMPLE_RATIO_ALARM:
        return Finding("invalid", "", "sample-ratio")
    return None


def _same(experiment: Experiment, results: Sequence[VariantResult], left: Sequence[VariantResult]) -> Finding:
    allowed = {result.variant for result in left}
    for result in results:
        if result.contrast is not None and result.contrast.always_valid_p <= experiment.stopping.alpha:
            return Finding("invalid", result.variant, "aa")
        if result.variant not in allowed:
            return Finding("invalid", result.variant, "aa-guardrail")
    return Finding("continue", "", "aa")


def _winner(
    experiment: Experiment, left: Sequence[VariantResult], treatments: Sequence[VariantResult]
) -> VariantResult | None:
    """The variant that may be chosen for good, the control among them."""
    rule = experiment.stopping
    if rule.rule == "bayesian":
        best = leader(left)
        return best if best.p_best >= rule.p_best and best.expected_loss <= rule.expected_loss else None
    better = [result for result in treatments if result.contrast is not None and result.contrast.interval[0] > 0]
    if better:
        best = min(better, key=lambda result: result.expected_loss)
        return best if best.expected_loss <= rule.expected_loss else None
    worse = all(result.contrast is not None and result.contrast.interval[1] < 0 for result in treatments)
    control = next(result for result in left if result.variant == experiment.control_name)
    return control if worse else None


def _equivalent(experiment: Experiment, treatments: Sequence[VariantResult]) -> bool:
    rope = experiment.stopping.rope
    if rope is None:
        return False
    inside = [
        r.contrast is not None and -rope <= r.contrast.interval[0] and r.contrast.interval[1] <= rope
        for r in treatments
    ]
    return all(inside)
