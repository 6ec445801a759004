"""All figures of `sluice compare`, from sums over units. Library: numpy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from analyzer.engine import bayes
from analyzer.engine.bootstrap import difference_interval
from analyzer.engine.cuped import CovariateMoments, adjusted_differences
from analyzer.engine.evidence import design_effect
from analyzer.engine.frequentist import (
    ChiSquare,
    Differences,
    chi_square,
    divide,
    magnitude,
    proportions,
    ratios,
    rejection_probability,
    share_test,
    welch,
)
from analyzer.engine.lift import lifts as credible_lifts
from analyzer.engine.mixtures import equal_rates_p
from analyzer.engine.moments import Floats, Moments, effective_units, rate
from analyzer.engine.multiplicity import holm
from analyzer.engine.normal import compare_normal, posterior
from analyzer.engine.sequential import LEAST_OUTCOMES, LEAST_UNITS, contrasts, lift_sequences, ready
from analyzer.unit_rows import MAX_RESAMPLED, Resampled

__all__ = ["Asked", "Data", "Figures", "figures"]

Number: TypeAlias = float | None
"""None stands for what cannot be known (nan, infinity): JSON has no word for it"""
Range: TypeAlias = tuple[Number, Number]


class Asked(NamedTuple):
    alpha: float
    planned_effect: float
    planned_value_effect: float | None
    prior: tuple[float, float]
    expected_shares: Sequence[float]


class Data(NamedTuple):
    """What there is of k variants, the control first."""

    variants: list[str]
    arms: Moments
    """(k,); outcomes are clicks"""
    clustered: bool
    """Whether the variances come from units with several impressions"""
    values: Moments | None = None
    before: CovariateMoments | None = None
    clicks_resampled: Resampled | None = None
    values_resampled: Resampled | None = None
    left_out: int = 0
    """Rows without impressions"""


class Figures(NamedTuple):
    """Lists are by variant; of comparisons the control's own entry is None."""

    variants: list[str]
    alpha: float
    units: list[int]
    impressions: list[int]
    clicks: list[int]
    rates: list[Number]
    clustered: bool
    design_effect: list[float]
    """Clustered variance over that of independent impressions"""
    difference: list[Number]
    difference_interval: list[Range | None]
    """Newcombe's; with a CSV that of the delta method"""
    z: list[Number]
    """Pooled z; with a CSV Student's t of the delta method"""
    p_value: list[Number]
    p_value_holm: list[Number]
    """Adjusted for the number of variants"""
    cohens_h: list[Number]
    effect_size: list[str | None]
    lift: list[Number]
    lift_interval: list[Range | None]
    observed_power: list[Number]
    chi_square: dict[str, Number]
    """All variants equal? With a CSV on effective impressions"""
    p_best: list[Number]
    expected_loss: list[Number]
    credible_intervals: list[Any]
    p_better: list[Number]
    """Than the control"""
    credible_difference: list[Range | None]
    credible_lift: list[Range | None]
    confidence_sequence: list[Range | None]
    lift_sequence: list[Range | None]
    always_valid_p: list[Number]
    exact_always_valid_p: list[Number]
    """Of independent impressions, so None with a CSV; like always_valid_p times the number of comparisons"""
    cuped_difference: list[Number]
    """The CUPED figures and the bootstrap are None when the CSV lacks their columns"""
    cuped_interval: list[Range | None]
    cuped_p_value: list[Number]
    variance_reduction: list[Number]
    """Share of the difference's variance that CUPED takes away"""
    bootstrap_interval: list[Range | None]
    ready: bool
    """Whether every variant has passed the gate"""
    sample_ratio_p: Number
    """None when no shares were given, or too few units"""
    value: dict[str, Any] | None
    reasons: list[str]
    """Why something is None, or must not be relied on"""

    def as_json(self) -> dict[str, Any]:
        """With two variants the comparisons are single values instead of lists."""
        found = self._asdict()
        if len(self.variants) == 2:
            found = {key: part[1] if key in _AGAINST else part for key, part in found.items()}
            if self.value is not None:
                found["value"] = {key: part[1] if key in _AGAINST else part for key, part in self.value.items()}
        return found


_AGAINST = {
    "difference", "difference_interval", "z", "p_value", "p_value_holm", "cohens_h", "effect_size", "lift",
    "lift_interval", "observed_power", "p_better", "credible_difference", "credible_lift", "confidence_sequence",
    "lift_sequence", "always_valid_p", "exact_always_valid_p", "cuped_difference", "cuped_interval", "cuped_p_value",
    "variance_reduction", "bootstrap_interval", "welch_p_value",
}  # fmt: skip


def figures(data: Data, asked: Asked) -> Figures:
    """Everything about `data`. Raises ValueError when the sums are impossible."""
    arms, alpha = data.arms, asked.alpha
    worth = design_effect(arms) if data.clustered else np.ones(len(data.variants))
    clicks, impressions = arms.c / worth, arms.n / worth
    plain = proportions(arms.c, arms.n, alpha=alpha)
    test: Any = ratios(arms, alpha=alpha) if data.clustered else plain
    power = rejection_probability(test.difference, test.stderr, test.stderr, alpha) if data.clustered else plain.power
    successes, failures = asked.prior
    beta = successes + clicks, failures + (impressions - clicks)
    compared = bayes.compare(*beta)
    credible = credible_lifts(*beta, 0, level=1 - alpha)
    sequence = contrasts(arms, 0, alpha=alpha, tau=asked.planned_effect)
    lifts = lift_sequences(arms, 0, alpha=alpha, tau=asked.planned_effect)
    square = chi_square(clicks, impressions)
    passed = ready(arms, arms)
    ratio = share_test(arms.units, asked.expected_shares) if asked.expected_shares else None
    words = [None if h is None else magnitude(h) for h in _against(plain.cohens_h)]
    return Figures(
        variants=data.variants,
        alpha=alpha,
        units=_whole(arms.units),
        impressions=_whole(arms.n),
        clicks=_whole(arms.c),
        rates=_list(rate(arms)),
        clustered=data.clustered,
        design_effect=worth.tolist(),
        **_test(test),
        z=_against(test.statistic if data.clustered else test.z),
        cohens_h=_against(plain.cohens_h),
        effect_size=words,
        observed_power=_against(power),
        chi_square={
            "statistic": _number(square.statistic),
            "degrees": float(square.degrees),
            "p_value": _number(square.p),
        },
        p_best=_list(compared.p_best),
        expected_loss=_list(compared.expected_loss),
        credible_intervals=bayes.credible_intervals(*beta, level=1 - alpha).tolist(),
        p_better=_against(credible.p_better),
        credible_difference=_ranges(*credible.difference.T),
        credible_lift=_ranges(*credible.relative.T),
        confidence_sequence=_ranges(sequence.low, sequence.high),
        lift_sequence=_ranges(lifts.low, lifts.high),
        always_valid_p=_against(sequence.p),
        exact_always_valid_p=_nothing(arms) if data.clustered else _exact_p(arms),
        **_cuped(data.before, test, alpha),
        bootstrap_interval=_bootstrap(data.clicks_resampled, arms, alpha),
        ready=bool(passed.all()),
        sample_ratio_p=None if ratio is None else _number(ratio.p),
        value=_value(data.values, data.values_resampled, asked),
        reasons=_reasons(data, asked, ratio),
    )


def _test(test: Any) -> dict[str, Any]:
    """What `Proportions` and `Differences` have in common."""
    return {
        "difference": _against(test.difference),
        "difference_interval": _ranges(test.low, test.high),
        "p_value": _against(test.p),
        "p_value_holm": [None, *_list(holm(test.p[1:]))],
        "lift": _against(test.lift),
        "lift_interval": _ranges(test.lift_low, test.lift_high),
    }


def _exact_p(arms: Moments) -> list[Number]:
    """Of every variant and the control; bounded by the number of comparisons as `contrasts` is."""
    pairs = (np.stack(np.broadcast_arrays(part[:1], part), axis=-1) for part in (arms.c, arms.n))
    return _against(np.minimum(equal_rates_p(*pairs) * (len(arms.n) - 1), 1.0))


def _cuped(before: CovariateMoments | None, plain: Any, alpha: float) -> dict[str, Any]:
    if before is None:
        names = ("cuped_difference", "cuped_interval", "cuped_p_value", "variance_reduction")
        return dict.fromkeys(names, [None] * len(plain.p))
    test = adjusted_differences(before, alpha=alpha)
    return {
        "cuped_difference": _against(test.difference),
        "cuped_interval": _ranges(test.low, test.high),
        "cuped_p_value": _against(test.p),
        "variance_reduction": _against(1 - divide(test.stderr, plain.stderr) ** 2),
    }


def _bootstrap(resampled: Resampled | None, arms: Moments, alpha: float) -> list[Range | None]:
    if resampled is None:
        return _nothing(arms)
    found = difference_interval(resampled.sums, alpha=alpha)
    return _ranges(found.low * resampled.step, found.high * resampled.step)


def _value(arms: Moments | None, resampled: Resampled | None, asked: Asked) -> dict[str, Any] | None:
    if arms is None:
        return None
    test: Differences = ratios(arms, alpha=asked.alpha)
    found = {
        "means": _list(rate(arms)),
        **_test(test),
        "z": _against(test.statistic),
        "bootstrap_interval": _bootstrap(resampled, arms, asked.alpha),
        "welch_p_value": _against(welch(arms, alpha=asked.alpha).p),
        **_value_posterior(arms),
    }
    if asked.planned_value_effect is None:
        return {**found, "confidence_sequence": _nothing(arms), "always_valid_p": _nothing(arms)}
    sequence = contrasts(arms, 0, alpha=asked.alpha, tau=asked.planned_value_effect, values=True)
    return {
        **found,
        "confidence_sequence": _ranges(sequence.low, sequence.high),
        "always_valid_p": _against(sequence.p),
    }


def _value_posterior(arms: Moments) -> dict[str, Any]:
    """P(best) and expected loss of the means; None unless every variant's units show how they vary."""
    of = posterior(arms)
    if not np.isfinite(of.variance).all():
        return {"p_best": None, "expected_loss": None}
    compared = compare_normal(*of)
    return {"p_best": _list(compared.p_best), "expected_loss": _list(compared.expected_loss)}


def _reasons(data: Data, asked: Asked, ratio: ChiSquare | None) -> list[str]:
    arms = data.arms
    reasons = [
        "The z test, its intervals and p-values hold once, at the sample size planned beforehand. "
        "Who looks earlier reads always_valid_p."
    ]
    if not data.clustered:
        reasons.append(
            "Counts are taken as one impression a unit. If a unit has several, give --csv with a row a unit; "
            "only a file has CUPED and bootstrap figures."
        )
    else:
        reasons.append(f"Not known: {'; '.join(_missing(data))}.")
    if data.left_out:
        reasons.append(f"{data.left_out:,} rows without impressions are left out.")
    for i, name in enumerate(data.variants):
        n, c, units = arms.n[i], arms.c[i], effective_units(arms)[i]
        if n == 0:
            reasons.append(f"{name}: no impressions, so no rate and no comparison.")
            continue
        few = [
            f"{amount:,.0f} {what} of {least}"
            for amount, what, least in (
                (units, "effective units", LEAST_UNITS),
                (c, "clicks", LEAST_OUTCOMES),
                (n - c, "impressions without a click", LEAST_OUTCOMES),
            )
            if amount < least
        ]
        if few:
            reasons.append(f"{name}: not ready, {', '.join(few)}; the normal limit cannot be relied on yet.")
    if arms.n[0] > 0 and arms.c[0] == 0:
        reasons.append(f"{data.variants[0]}: the control has no clicks, so there is no lift.")
    if data.values is not None and asked.planned_value_effect is None:
        reasons.append("value: no confidence sequence without --planned-value-effect.")
    if ratio is not None:
        if np.isnan(ratio.p):
            reasons.append("Too few units to check the sample ratio: every variant must expect five.")
        elif ratio.p < 0.0005:
            reasons.append(
                "The sample ratio is not as expected: something loses or repeats units, do not trust a figure."
            )
    return reasons


def _missing(data: Data) -> list[str]:
    missing = ["the exact p-value, as impressions of one unit are not independent"]
    if data.before is None:
        missing.append("CUPED, without columns pre_impressions and pre_clicks")
    if data.clicks_resampled is None:
        missing.append(f"the bootstrap, without a column unit or with more than {MAX_RESAMPLED:,} of them")
    return missing


def _nothing(arms: Moments) -> list[Any]:
    return [None] * len(arms.n)


def _number(value: Any) -> Number:
    return float(value) if np.isfinite(value) else None


def _list(values: Floats) -> list[Number]:
    return [_number(value) for value in values]


def _against(values: Floats) -> list[Number]:
    return [None, *_list(values[1:])]


def _ranges(low: Floats, high: Floats) -> list[Range | None]:
    ends = [(_number(a), _number(b)) for a, b in zip(low[1:], high[1:], strict=True)]
    return [None, *(None if a is None and b is None else (a, b) for a, b in ends)]


def _whole(values: Floats) -> list[int]:
    return [round(float(value)) for value in values]
