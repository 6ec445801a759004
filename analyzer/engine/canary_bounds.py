"""What the evidence of one step of a canary says about every metric: bounds that hold at all times. Pure.

Library: numpy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from analyzer.engine.evaluate import table
from analyzer.engine.guardrails import one_disagrees
from analyzer.engine.moments import Floats, Moments, effective_units, rate
from analyzer.engine.sequential import contrasts, ready
from sluice.domain.canary import CanaryMetric
from sluice.domain.events import DelayEvidence, StatsCell
from sluice.domain.experiment import Experiment

__all__ = ["Judged", "Metric", "judge_metrics", "metrics_of"]

DIGITS = 12
"""As of all published figures"""
GROWTH = np.geomspace(1.0, 1e6, 146)
"""Multiples of the evidence, 10 % apart, for which is computed what would then be known"""


class Metric(NamedTuple):
    """What is compared at one step."""

    outcome: str
    measure: str
    sign: float
    """1 where more is better, −1 where less is"""
    margin: float
    alpha: float


class Judged(NamedTuple):
    """What one step's evidence says."""

    metrics: tuple[CanaryMetric, ...]
    enough: bool
    """Both arms have what the engine's gate asks for"""
    mature: bool
    """Some impressions of every metric are as old as the attribution window"""
    units: tuple[float, float]
    """Effective ones of the step, control and candidate"""
    needed: tuple[int, int] | None
    """Units, of control and candidate, that are expected to be missing until the step is decided"""

    @property
    def allows(self) -> bool:
        """Whether everything is known that must be known to go on."""
        return self.enough and self.mature and all(metric.status == "passed" for metric in self.metrics)


def metrics_of(experiment: Experiment, step: int) -> tuple[Metric, ...]:
    """The primary and the guardrails as step `step` (1 is the first) asks for them.

    The margin of a step is that of the primary. A guardrail's own margin holds at the last step, and is wider before in
    the proportion in which the steps' margins are.
    """
    canary = experiment.canary
    assert canary is not None
    margin, last = canary.steps[step - 1].margin, canary.steps[-1].margin
    alpha = experiment.stopping.alpha / ((1 + len(experiment.guardrails)) * len(canary.steps))
    found = [Metric(experiment.primary, experiment.measure, 1.0, margin, alpha)]
    for one in experiment.guardrails:
        sign = 1.0 if one.better == "higher" else -1.0
        found.append(Metric(one.outcome, "rate", sign, min(one.margin * (margin / last), 1.0), alpha))
    return tuple(found)


def judge_metrics(
    experiment: Experiment,
    evidence: Sequence[StatsCell],
    cells: Sequence[StatsCell],
    metrics: Sequence[Metric],
    delays: Mapping[str, DelayEvidence],
) -> Judged:
    """evidence: cells of the step alone, not without impressions; cells: all of the experiment, as `delays` are.

    A lower bound bears what is still to come as if all of it came against the candidate. An outcome without an entry in
    `delays` is taken to be complete.
    """
    names = [experiment.control_name]
    names += [variant.name for variant in experiment.variants if variant.name not in names]
    found, wanted = [], []
    rule = experiment.stopping
    enough, units = True, (0.0, 0.0)
    for place, metric in enumerate(metrics):
        counted = table([(evidence, names)], metric.outcome, metric.measure)
        arms = counted.cells.sum(-2)
        effective = effective_units(arms)[0]
        if place == 0:
            units = float(effective[0]), float(effective[1])
            enough = bool(
                ready(
                    arms._replace(c=counted.outcomes.sum(-2)),
                    arms,
                    least_units=rule.least_units,
                    least_outcomes=rule.least_outcomes,
                    values=metric.measure == "value",
                ).all()
            )
        bounds = _bounds(arms, metric, _open(delays.get(metric.outcome), cells, names, arms))
        veto = enough if metric.measure == "value" else _events(arms, metric.sign) >= rule.least_outcomes
        found.append(_published(metric, bounds, known=bool((effective >= rule.least_units).all()), veto=veto))
        wanted.append((metric, bounds))
    mature = not any(delay.immature for delay in delays.values())
    return Judged(tuple(found), enough, mature, units, _needed(wanted, units, rule.least_units))


class _Bounds(NamedTuple):
    """Of the candidate against the control, positive is better; infinite where nothing is known."""

    difference: float
    low: Floats
    """Now, and at every multiple of the evidence in `GROWTH`"""
    high: Floats


def _bounds(arms: Moments, metric: Metric, open_: tuple[float, float]) -> _Bounds:
    """arms: (1, 2). What is known now, and what would be if the same came in again and again."""
    values = metric.measure == "value"
    grown = Moments(*(GROWTH[:, None] * part for part in arms))
    # Arms whose units all agree show no variance, so one unit that does not is added, and its pull taken off again.
    drawn = grown if values else one_disagrees(grown)
    against = contrasts(drawn, 0, alpha=metric.alpha, tau=metric.margin, values=values)
    ends = metric.sign * against.low[:, 1], metric.sign * against.high[:, 1]
    rates, pulled = rate(grown), rate(drawn)
    difference = metric.sign * (rates[:, 1] - rates[:, 0])
    pull = np.nan_to_num(metric.sign * (pulled[:, 1] - pulled[:, 0]) - difference)
    # What is still to come of the arm in which it would count against the candidate.
    behind = 0 if metric.sign > 0 else 1
    part = np.minimum(open_[behind] / GROWTH, 1.0)
    still = np.maximum(np.nan_to_num(rates[:, behind]), 0.0) * part / np.maximum(1.0 - part, 1e-300)
    return _Bounds(
        float(difference[0]),
        np.minimum(*ends) - np.maximum(pull, 0.0) - still,
        np.maximum(*ends) + np.maximum(-pull, 0.0),
    )


def _open(
    delay: DelayEvidence | None, cells: Sequence[StatsCell], names: Sequence[str], arms: Moments
) -> tuple[float, float]:
    """The part of the step's impressions whose outcome is still to come, if all that are open are of this step."""
    if delay is None:
        return 0.0, 0.0
    parts = []
    for place, name in enumerate(names):
        total = sum(cell.statistics.impressions for cell in cells if cell.variant == name)
        n = float(arms.n[0, place])
        missing = max(total - delay.impressions.get(name, total), 0.0)
        parts.append(min(missing / n, 1.0) if n else 1.0)
    return parts[0], parts[1]


def _events(arms: Moments, sign: float) -> float:
    """The least of the numbers that carry "worse": what went wrong with the candidate, and what would have gone well.

    A difference of rare events is no Normal: three errors where the control has one in a thousand are an accident. And
    a candidate that nobody clicks on has none of the clicks that would tell; the control says how many are missing.
    """
    (n0, n1), (c0, c1) = arms.n[0].tolist(), arms.c[0].tolist()
    went_well = c0 if sign > 0 else n0 - c0
    went_wrong = n1 - c1 if sign > 0 else c1
    return float(min(went_wrong, went_well, n1 * went_well / n0 if n0 else 0.0))


def _published(metric: Metric, bounds: _Bounds, *, known: bool, veto: bool) -> CanaryMetric:
    """veto: there is enough to call it worse."""
    low, high = float(bounds.low[0]), float(bounds.high[0])
    known = known and math.isfinite(high - low)
    low, high = (round(low, DIGITS), round(high, DIGITS)) if known else (-math.inf, math.inf)
    below = high < 0
    status: Literal["passed", "worse", "open"] = "open"
    if below and veto:
        status = "worse"
    elif not below and low > -metric.margin:
        status = "passed"
    return CanaryMetric(
        outcome=metric.outcome,
        margin=metric.margin,
        difference=None if math.isnan(bounds.difference) else round(bounds.difference, DIGITS) + 0.0,
        interval=(low, high) if known else None,
        status=status,
    )


def _needed(
    wanted: Sequence[tuple[Metric, _Bounds]], units: tuple[float, float], least_units: int
) -> tuple[int, int] | None:
    """Units until the step is decided, either way, if what came so far goes on to come."""
    known = np.minimum(*units) * GROWTH >= least_units
    passes = np.all([bounds.low > -metric.margin for metric, bounds in wanted], axis=0)
    fails = np.any([bounds.high < 0 for _, bounds in wanted], axis=0)
    decided = known & (passes | fails)
    if not decided.any():
        return None
    more = GROWTH[decided.argmax()] - 1.0
    control, candidate = (math.ceil(round(more * of, 6)) for of in units)
    return control, candidate
