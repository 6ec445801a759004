"""The reasons of a decision in words, with the numbers in them, for people who do not read posteriors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from analyzer.engine.verdict import SAMPLE_RATIO_ALARM, Finding, leader
from sluice.domain.events import GuardrailResult, MovedUnits, SegmentResult, VariantResult
from sluice.domain.experiment import Experiment

__all__ = ["Figures", "explain", "percent"]

MOST_NAMED = 5
"""Of a list that the log may make as long as it likes"""


class Figures(NamedTuple):
    """What the reasons are told from."""

    results: Sequence[VariantResult]
    left: Sequence[VariantResult]
    """Those that no guardrail has put out, compared among themselves"""
    finding: Finding
    short: Mapping[str, str]
    """Variant → what it has of what it needs, for those that have not enough"""
    sample_ratio_p: float | None
    guardrails: Sequence[GuardrailResult]
    segments: Sequence[SegmentResult]
    allocation: Mapping[str, int]
    before: Mapping[str, int]
    unknown: Mapping[str, int]
    """Variant that the experiment does not have → its impressions"""
    moved: Sequence[MovedUnits]
    notes: Sequence[str]
    """Sentences of the parts: delay, drift, convergence"""
    canary: Sequence[str] = ()
    """Sentences of the canary, which then say why"""


def explain(experiment: Experiment, figures: Figures) -> tuple[str, ...]:
    """Sentences, the most important first: why this verdict, how sure, where the traffic goes, what to be wary of."""
    results, finding = figures.results, figures.finding
    lines = [*figures.canary]
    if not lines or finding.verdict == "invalid":
        lines.insert(0, _verdict(experiment, figures))
    if finding.verdict not in ("no-traffic", "invalid"):
        lines.append(_standing(experiment, results))
    lines += _guardrails(figures.guardrails)
    lines.append(_traffic(experiment, figures))
    lines += figures.notes
    clustered = max(results, key=lambda result: result.design_effect)
    if clustered.design_effect >= 1.1 and clustered.impressions:
        lines.append(
            f"Impressions of one {experiment.unit} resemble each other: the {clustered.impressions:,} of "
            f"{clustered.variant} tell as much as {clustered.effective_impressions:,.0f} independent ones "
            f"(design effect {clustered.design_effect:.2f})."
        )
    if figures.sample_ratio_p is not None and figures.sample_ratio_p >= SAMPLE_RATIO_ALARM:
        lines.append(
            f"The {experiment.unit}s arrived in the proportions the allocations promised "
            f"(always-valid p = {figures.sample_ratio_p:.3g})."
        )
    if figures.moved:
        named = [f"{one.variant} {one.units:,} ({one.impressions:,} impressions)" for one in figures.moved]
        lines.append(
            f"{experiment.unit.capitalize()}s that came back under another variant stay with their first, and what "
            f"they saw then is left out: {', '.join(named[:MOST_NAMED])}."
        )
    lines += _segments(experiment, figures.segments)
    if figures.unknown:
        lines.append(f"Counted but not part of the experiment, and left out: {_listed(figures.unknown)}.")
    return tuple(lines)


def percent(rate: float) -> str:
    """A rate with as many digits as tell something: 78.1 %, 0.412 %, < 0.0001 %."""
    value = 100 * rate
    if 0 < value < 0.0001:
        return "< 0.0001 %"
    return f"{value:.3g} %" if value < 1 else f"{value:.1f} %"


def _listed(unknown: Mapping[str, int]) -> str:
    largest = sorted(unknown.items(), key=lambda item: (-item[1], item[0]))
    shown = [f"{name} ({count:,} impressions)" for name, count in largest[:MOST_NAMED]]
    return ", ".join(shown) + (f" and {len(largest) - len(shown):,} more" if len(largest) > len(shown) else "")


def _sure(probability: float) -> str:
    # Never "100 %": a posterior is not proof, and the last digits are rounded away in the record.
    return "above 99.99 %" if probability >= 0.9999 else f"of {100 * probability:.4g} %"


def _size(experiment: Experiment, amount: float) -> str:
    """An absolute amount of the metric, without its sign."""
    value = abs(amount)
    if experiment.measure == "value":
        return f"{value:.3g}"
    return "less than 0.0001 percentage points" if 100 * value < 0.0001 else f"{_points(value)} percentage points"


def _signed(experiment: Experiment, interval: tuple[float, float]) -> str:
    low, high = interval
    if experiment.measure == "value":
        return f"{low:+.3g} to {high:+.3g}"
    return f"{_points(low, '+')} to {_points(high, '+')}"


def _points(rate: float, sign: str = "") -> str:
    """In percentage points with two digits, but 130 rather than 1.3e+02."""
    value = 100 * rate
    return f"{value:{sign}.2g}" if abs(value) < 99.5 else f"{value:{sign}.0f}"


def _control(experiment: Experiment) -> str:
    name = experiment.control_name
    return "the control" if name == "control" else f"the control {name}"


def _against(experiment: Experiment, result: VariantResult) -> str:
    """`1.2 percentage points better than the control random (+0.3 to +2.1 at all times, always-valid p = 0.004)`"""
    found = result.contrast
    assert found is not None
    word = "better" if found.difference >= 0 else "worse"
    return (
        f"{_size(experiment, found.difference)} {word} than {_control(experiment)} "
        f"({_signed(experiment, found.interval)} at all times, always-valid p = {found.always_valid_p:.2g})"
    )


def _risk(experiment: Experiment, result: VariantResult) -> str:
    return (
        f"choosing it risks {_size(experiment, result.expected_loss)} of {experiment.primary} {experiment.measure} "
        f"(allowed: {_size(experiment, experiment.stopping.expected_loss)})"
    )


def _verdict(experiment: Experiment, figures: Figures) -> str:
    finding = figures.finding
    of = {result.variant: result for result in figures.left}
    if finding.verdict == "no-traffic":
        return "No impression has been counted yet."
    if finding.verdict == "invalid":
        return _invalid(experiment, figures)
    if finding.because == "immature":
        return "Too early to say: no impression is as old as the attribution window yet, so clicks are still to come."
    if finding.verdict == "insufficient-data":
        others = ", ".join([name for name in figures.short if name != finding.variant][:MOST_NAMED])
        more = f" (and {others} too little)" if others else ""
        return f"Too early to say: {finding.variant} has {figures.short[finding.variant]}{more}."
    if finding.verdict == "rollback":
        return f"Roll back {', '.join(_out(figures))}: a guardrail got worse by more than its margin."
    if finding.because == "aa":
        return "A/A test: the variants are the same on purpose, and no difference was found between them."
    if finding.because == "guardrail-open":
        return f"Not yet: {finding.variant} is better, but a guardrail is not yet known to hold."
    if finding.because == "equivalent":
        rope = _size(experiment, experiment.stopping.rope or 0.0)
        return f"Stop: no variant{_allowed(figures)} differs from {_control(experiment)} by more than {rope}."
    if finding.verdict == "ship":
        return f"Ship {finding.variant}: {_why(experiment, of[finding.variant])}."
    if finding.verdict == "stop":
        return f"Stop, and keep {_control(experiment)}: {_why_control(experiment, figures)}."
    return _no_winner(experiment, leader(figures.left), figures.left)


def _out(figures: Figures) -> list[str]:
    """Variants that a guardrail has put out."""
    left = {result.variant for result in figures.left}
    return [result.variant for result in figures.results if result.variant not in left]


def _allowed(figures: Figures) -> str:
    return " that the guardrails leave" if _out(figures) else ""


def _invalid(experiment: Experiment, figures: Figures) -> str:
    finding = figures.finding
    one = next((result for result in figures.results if result.variant == finding.variant), None)
    if finding.because == "not-a-rate" and one is not None:
        return (
            f"{one.variant} has {one.outcomes:,} × {experiment.primary} on {one.impressions:,} impressions: that is "
            f"not a rate per impression, so it cannot be compared. Use an outcome without a value as `primary`, or "
            f"`measure: value`."
        )
    if finding.because == "aa" and one is not None:
        return (
            f"This is an A/A test, yet {one.variant} is {_against(experiment, one)}: what splits or counts the traffic "
            f"treats equal variants differently. Find the cause before any A/B test."
        )
    if finding.because == "aa-guardrail":
        return (
            f"This is an A/A test, yet a guardrail of {finding.variant} is breached: what splits or counts the traffic "
            f"treats equal variants differently. Find the cause before any A/B test."
        )
    seen = ", ".join(f"{result.variant} {result.units:,}" for result in figures.results)
    return (
        f"The {experiment.unit}s did not arrive in the proportions the allocations promised "
        f"({seen}; always-valid p = {figures.sample_ratio_p:.2g}, alarm below {SAMPLE_RATIO_ALARM:g}): something loses "
        f"or repeats them, so no figure of this experiment can be trusted. Find the cause before reading on."
    )


def _why(experiment: Experiment, winner: VariantResult) -> str:
    if experiment.stopping.rule == "bayesian" or winner.contrast is None:
        return (
            f"it is the best with a probability {_sure(winner.p_best)} "
            f"(asked for: {100 * experiment.stopping.p_best:.4g} %), and {_risk(experiment, winner)}"
        )
    return f"it is {_against(experiment, winner)}, and {_risk(experiment, winner)}"


def _why_control(experiment: Experiment, figures: Figures) -> str:
    control = next(result for result in figures.left if result.variant == experiment.control_name)
    if experiment.stopping.rule == "bayesian":
        return _why(experiment, control)
    others = [result for result in figures.left if result.contrast is not None]
    return "; ".join(f"{result.variant} is {_against(experiment, result)}" for result in others[:MOST_NAMED])


def _no_winner(experiment: Experiment, best: VariantResult, results: Sequence[VariantResult]) -> str:
    rule = experiment.stopping
    if rule.rule == "bayesian":
        if best.p_best < rule.p_best:
            return (
                f"No winner yet: {best.variant} leads, and is the best with a probability {_sure(best.p_best)} "
                f"(asked for: {100 * rule.p_best:.4g} %)."
            )
        return (
            f"No winner yet: {best.variant} is the best with a probability {_sure(best.p_best)}, "
            f"but {_risk(experiment, best)}."
        )
    better = [result for result in results if result.contrast is not None and result.contrast.interval[0] > 0]
    if better:
        first = min(better, key=lambda result: result.expected_loss)
        return f"No winner yet: {first.variant} is {_against(experiment, first)}, but {_risk(experiment, first)}."
    shown = best if best.contrast is not None else max(
        (result for result in results if result.contrast is not None), key=lambda result: result.p_best, default=best
    )  # fmt: skip
    if shown.contrast is None:
        return f"No winner yet: {best.variant} leads."
    return f"No winner yet: {best.variant} leads; {shown.variant} is {_against(experiment, shown)}."


def _standing(experiment: Experiment, results: Sequence[VariantResult]) -> str:
    def figure(value: float) -> str:
        return percent(value) if experiment.measure == "rate" else f"{value:.4g}"

    def name(result: VariantResult) -> str:
        marked = result.variant == experiment.control_name != "control"
        return f"{result.variant} (control)" if marked else result.variant

    ordered = sorted(results, key=lambda result: -result.rate)
    shown = [
        f"{name(result)} {figure(result.rate)} "
        f"[{figure(result.interval[0])} to {figure(result.interval[1])}] of {result.impressions:,} impressions"
        for result in ordered
    ]
    return f"{experiment.measure.capitalize()} of {experiment.primary}: {'; '.join(shown)}."


def _traffic(experiment: Experiment, figures: Figures) -> str:
    shares = _percents(figures.allocation)
    rule, finding = experiment.bandit, figures.finding
    old = dict(figures.before) or experiment.starting_allocation
    stays = dict(figures.allocation) == old
    was = "" if stays else f" (was: {_percents(old)})"
    if figures.canary:
        return f"Traffic {'stays' if stays else 'moves'}: {shares}{was}."
    if finding.verdict == "invalid":
        return f"Traffic is not moved on such evidence: {shares}{was}."
    out = _out(figures)
    if out:
        return f"Traffic {'stays away from' if stays else 'leaves'} {', '.join(out)}: {shares}{was}."
    if figures.short or finding.verdict == "no-traffic":
        moves = "stays at" if stays else "goes back to"
        return f"Traffic {moves} its start until every variant has enough: {shares}{was}."
    if rule.policy == "fixed":
        return f"Traffic {'stays' if stays else 'is'} fixed: {shares}{was}."
    if stays:
        return f"Traffic stays: {shares}; no share would move by {rule.min_change} percentage points or more."
    least = f", at least {100 * rule.floor:.3g} % each" if rule.floor else ""
    follows = "the probability of being the best" if rule.policy == "thompson" else "top-two sampling of the best"
    return f"Traffic follows {follows}{least}: {shares}{was}."


def _percents(allocation: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {share} %" for name, share in allocation.items())


def _guardrails(found: Iterable[GuardrailResult]) -> list[str]:
    said = []
    for one in found:
        if one.interval is None:
            said.append(f"{one.outcome} of {one.variant}: not enough yet")
            continue
        low, high = (_points(end, "+") for end in one.interval)
        said.append(
            f"{one.outcome} of {one.variant} {one.status} ({low} to {high} points, margin {_points(one.margin)})"
        )
    return [f"Guardrails: {'; '.join(said)}."] if said else []


def _segments(experiment: Experiment, segments: Sequence[SegmentResult]) -> list[str]:
    if not segments:
        return []
    found = sorted((one for one in segments if one.p_holm <= 0.05), key=lambda one: one.p_holm)

    def difference(one: SegmentResult) -> str:
        return f"{_points(one.difference, '+')} points" if experiment.measure == "rate" else f"{one.difference:+.3g}"

    said = [f"{one.variant} in {one.key}={one.value} {difference(one)} (p = {one.p_holm:.2g})" for one in found]
    named = f"stand out after Holm's correction: {', '.join(said[:MOST_NAMED])}" if said else "none stands out"
    return [f"Exploratory, {len(segments)} segments looked at: {named}."]
