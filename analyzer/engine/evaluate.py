"""Every figure of many experiments at once: cells in, arrays through, one `Evaluation` an experiment out. Pure.

Experiments of one shape and one rule are computed together, so a tick costs by its numbers and not by its experiments.

Library: numpy, scipy (normal distribution).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from analyzer.engine.bayes import Comparison, compare, credible_intervals
from analyzer.engine.evidence import design_effect
from analyzer.engine.lift import rope
from analyzer.engine.moments import Floats, Moments, effective_units, inverse_propensity, rate
from analyzer.engine.normal import compare_normal, lifts_normal, posterior, rope_normal
from analyzer.engine.sample_ratio import sample_ratio_chi_square, sample_ratio_sequential
from analyzer.engine.sequential import contrasts, lift_sequences, rate_sequences, ready
from sluice.domain.allocation import parse_allocation_key
from sluice.domain.events import VALUE_SCALE, StatsCell
from sluice.domain.experiment import Experiment
from sluice.domain.statistics import CellStatistics
from sluice.errors import InvalidEvent

__all__ = ["Evaluation", "Learned", "Problem", "Table", "among", "evaluate", "table"]


Z95 = 1.959963984540054
"""Half-width of a central 95 % interval of a Normal, in standard deviations"""


class Learned(NamedTuple):
    """What moves the traffic where that is not all that was counted: rates drift, or outcomes are still to come."""

    impressions: tuple[float, ...]
    outcomes: tuple[float, ...]
    inflation: tuple[float, ...]
    """How many times larger the variance is than these counts alone say"""


class Problem(NamedTuple):
    """One experiment and its cells, as `merge_cells` gives them. Cells of unknown variants are left out."""

    experiment: Experiment
    cells: tuple[StatsCell, ...]
    learned: Learned | None = None


class Evaluation(NamedTuple):
    """Of one experiment; lists of k in the order of its variants, nan and infinity where nothing is known."""

    units: list[float]
    impressions: list[float]
    outcomes: list[float]
    """Counted outcomes; where values are compared, too"""
    ready: list[float]
    """1 for a variant that has enough to be compared, else 0"""
    rate: list[float]
    weighted_rate: list[float]
    effective_units: list[float]
    unweighted_units: list[float]
    """Effective units if all units weighed the same"""
    design_effect: list[float]
    first: list[float]
    """Posterior: alpha of a Beta; the mean of a Normal (of values)"""
    second: list[float]
    """beta of a Beta; the standard deviation of a Normal"""
    credible_low: list[float]
    credible_high: list[float]
    p_best: list[float]
    expected_loss: list[float]
    p_better: list[float]
    """Than the control; 1/2 for the control itself"""
    p_rope: list[float]
    """That the difference to the control lies within ±rope; nan where none is set"""
    sequence_low: list[float]
    sequence_high: list[float]
    difference: list[float]
    difference_low: list[float]
    difference_high: list[float]
    always_valid_p: list[float]
    lift: list[float]
    lift_low: list[float]
    lift_high: list[float]
    fixed_horizon_p: list[float]
    sample_ratio_once: float
    """Chi-square, for one look; nan while there are too few units"""
    sample_ratio_always: float
    """Valid at all times; nan where nothing was left to chance"""


class _Bayes(NamedTuple):
    posterior: tuple[Floats, Floats]
    interval: Floats
    compared: Comparison
    better: Floats
    inside: Floats | None


class Table(NamedTuple):
    """The cells of experiments of k variants and at most a allocations."""

    cells: Moments
    """(e, a, k), unweighted"""
    percent: Floats
    """(e, a, k): shares of the allocations; 0 in rows that are not used"""
    outcomes: Floats
    """(e, a, k): counted outcomes"""

    def usable(self) -> tuple[Moments, Floats]:
        """Cells and shares without the cells that cannot be weighted."""
        return Moments(*(np.where(self.percent > 0, part, 0.0) for part in self.cells)), self.percent


def table(groups: Sequence[tuple[Iterable[StatsCell], Sequence[str]]], outcome: str, measure: str) -> Table:
    """Per experiment its cells and the names of its variants. Cells of other variants are left out.

    A cell whose allocation promises its variant nothing (or is unreadable: `other`) gets percent 0: it is counted, but
    cannot be weighted.
    """
    places: list[tuple[int, int, int]] = []
    numbers: list[tuple[float, ...]] = []
    promised: list[tuple[int, int, list[int]]] = []
    for e, (cells, names) in enumerate(groups):
        place = {name: index for index, name in enumerate(names)}
        rows: dict[str, int] = {}
        for cell in cells:
            v = place.get(cell.variant)
            if v is None:
                continue
            a = rows.setdefault(cell.allocation, len(rows))
            places.append((e, a, v))
            numbers.append(_numbers(cell.statistics, outcome, measure))
        for key, a in rows.items():
            shares = _shares(key)
            promised.append((e, a, [shares.get(name, 0) for name in names]))
    shape = (len(groups), 1 + max((a for _, a, _ in promised), default=0), len(groups[0][1]))
    sums, percent = np.zeros((*shape, 7)), np.zeros(shape)
    if places:
        np.add.at(sums, tuple(np.array(places).T), np.array(numbers, dtype=np.float64))
    for e, a, shares_of in promised:
        percent[e, a] = shares_of
    return Table(Moments(*np.moveaxis(sums[..., :6], -1, 0)), percent, sums[..., 6])


def evaluate(problems: Sequence[Problem]) -> list[Evaluation]:
    """All figures of every problem, in order. What one problem gets does not depend on the others."""
    groups: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for place, problem in enumerate(problems):
        it = problem.experiment
        groups[len(it.variants), it.measure, it.primary, it.planned_effect, it.stopping].append(place)
    found: dict[int, Evaluation] = {}
    for places in groups.values():
        found.update(zip(places, _evaluate([problems[place] for place in places]), strict=True))
    return [found[place] for place in range(len(problems))]


def _evaluate(problems: Sequence[Problem]) -> list[Evaluation]:
    # The control comes first, whatever its place, so that one array operation serves all.
    experiment = problems[0].experiment
    rule, tau = experiment.stopping, experiment.planned_effect
    orders = np.array([_control_first(problem.experiment) for problem in problems])
    names = [[p.experiment.variants[i].name for i in order] for p, order in zip(problems, orders, strict=True)]
    counted = table(
        [(p.cells, of) for p, of in zip(problems, names, strict=True)], experiment.primary, experiment.measure
    )
    totals, outcomes = counted.cells.sum(-2), counted.outcomes.sum(-2)
    weighted = inverse_propensity(*counted.usable())
    effect = design_effect(totals)
    bayes = (
        _beta(problems, orders, totals, effect, rule.rope)
        if experiment.measure == "rate"
        else _normal(totals, rule.rope)
    )
    values = experiment.measure == "value"
    against = contrasts(weighted, 0, alpha=rule.alpha, tau=tau, values=values)
    spread = np.sqrt(against.variance)
    sequence = rate_sequences(weighted, tau=tau, values=values)
    lift = lift_sequences(weighted, 0, alpha=rule.alpha, tau=tau, values=values)
    enough = ready(
        totals._replace(c=outcomes),
        weighted,
        least_units=rule.least_units,
        least_outcomes=rule.least_outcomes,
        values=values,
    )
    columns = (
        totals.units,
        totals.n,
        outcomes,
        enough,
        totals.c / np.where(totals.n > 0, totals.n, 1.0),
        rate(weighted),
        effective_units(weighted),
        effective_units(totals),
        effect,
        *bayes.posterior,
        bayes.interval[..., 0],
        bayes.interval[..., 1],
        bayes.compared.p_best,
        bayes.compared.expected_loss,
        bayes.better,
        np.full_like(totals.n, np.nan) if bayes.inside is None else bayes.inside,
        *sequence,
        against.difference,
        against.low,
        against.high,
        against.p,
        lift.estimate,
        lift.low,
        lift.high,
        2 * ndtr(-np.abs(against.difference) / np.where(spread > 0, spread, np.inf)),
    )
    # (experiments, figures, variants), the variants in their own order again.
    figures = np.stack(columns, axis=1)
    figures = np.take_along_axis(figures, np.argsort(orders, axis=-1)[:, None, :], axis=2)
    once = sample_ratio_chi_square(counted.cells.units, counted.percent)
    always = sample_ratio_sequential(counted.cells.units, counted.percent)
    return [
        Evaluation._make((*rows, float(a), float(b))) for rows, a, b in zip(figures.tolist(), once, always, strict=True)
    ]


def _control_first(experiment: Experiment) -> list[int]:
    names = [variant.name for variant in experiment.variants]
    control = names.index(experiment.control_name)
    return [control, *(i for i in range(len(names)) if i != control)]


def _beta(
    problems: Sequence[Problem], orders: NDArray[np.int64], totals: Moments, effect: Floats, rope_width: float | None
) -> _Bayes:
    """Of rates: Beta posteriors of the counts, divided by their design effect."""
    shown, clicked, worth = totals.n.copy(), totals.c.copy(), effect.copy()
    for e, (problem, order) in enumerate(zip(problems, orders, strict=True)):
        if problem.learned is not None:
            shown[e], clicked[e], inflation = (np.array(part)[order] for part in problem.learned)
            worth[e] *= inflation
    prior = np.array([problem.experiment.bandit.prior for problem in problems])[:, None, :]
    alpha = prior[..., 0] + clicked / worth
    # An outcome may be counted more often than shown (a valued one); the verdict then says so.
    beta = prior[..., 1] + np.maximum(shown - clicked, 0.0) / worth
    pairs = [np.stack(np.broadcast_arrays(part[:, :1], part[:, 1:]), -1) for part in (alpha, beta)]
    better = compare(*pairs).p_best[..., 1]
    return _Bayes(
        (alpha, beta),
        credible_intervals(alpha, beta),
        compare(alpha, beta),
        np.concatenate([np.full_like(alpha[:, :1], 0.5), better], axis=-1),
        None if rope_width is None else rope(alpha, beta, 0, -rope_width, rope_width).inside,
    )


def _normal(totals: Moments, rope_width: float | None) -> _Bayes:
    """Of values: Normal posteriors of the means; flat where nothing is known yet, or nearly so."""
    mean, spread = posterior(totals)
    known = np.isfinite(spread)
    some = known.any(axis=-1, keepdims=True)
    usual = np.where(known, mean, 0.0).sum(-1, keepdims=True) / np.maximum(known.sum(-1, keepdims=True), 1)
    wide = np.where(some, np.where(known, spread, 0.0).max(-1, keepdims=True) * 1e6, 1.0)
    mean, spread = np.where(known, mean, usual), np.where(known, spread, wide)
    sd = np.sqrt(spread)
    better = lifts_normal(mean, spread, 0).p_better
    return _Bayes(
        (mean, sd),
        np.stack([mean - Z95 * sd, mean + Z95 * sd], -1),
        compare_normal(mean, spread),
        better,
        None if rope_width is None else rope_normal(mean, spread, 0, -rope_width, rope_width).inside,
    )


def among(experiment: Experiment, figures: Evaluation, names: Sequence[str]) -> Comparison:
    """P(best) and expected loss of the variants `names` alone, in their order."""
    places = [i for i, variant in enumerate(experiment.variants) if variant.name in names]
    first, second = (np.array(part)[places] for part in (figures.first, figures.second))
    return compare(first, second) if experiment.measure == "rate" else compare_normal(first, second**2)


def _numbers(sums: CellStatistics, outcome: str, measure: str) -> tuple[float, ...]:
    """G, Σn, Σc, Σn², Σc², Σnc of one cell, and its counted outcomes; c is the value where values are compared."""
    of = sums.outcomes.get(outcome)
    units, n, nn = sums.units, sums.impressions, sums.impressions_squared
    if of is None:
        return units, n, 0.0, nn, 0.0, 0.0, 0.0
    if measure == "rate":
        return units, n, of.count, nn, of.count_squared, of.count_impressions, of.count
    scale = VALUE_SCALE
    return units, n, of.value / scale, nn, of.value_squared / scale**2, of.value_impressions / scale, of.count


@lru_cache(maxsize=10_000)
def _shares(key: str) -> dict[str, int]:
    try:
        return parse_allocation_key(key)
    except InvalidEvent:
        return {}
