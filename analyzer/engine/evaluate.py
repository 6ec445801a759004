"""Every figure of many experiments at once: cells in, arrays through, one `Evaluation` an experiment out. Pure.

Experiments of one shape and one rule are computed together, so a tick costs by its numbers and not by its experiments.

Library: numpy, scipy (normal distribution).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from analyzer.engine.bayes import Comparison, compare, credible_intervals
from analyzer.engine.moments import Floats, Moments, effective_units, inverse_propensity, rate, variance
from analyzer.engine.sequential import Contrasts, Interval, Lifts, contrasts, lift_sequences, rate_sequences, ready
from sluice.domain.allocation import parse_allocation_key
from sluice.domain.events import VALUE_SCALE, StatsCell
from sluice.domain.experiment import Experiment
from sluice.domain.statistics import CellStatistics
from sluice.errors import InvalidEvent

__all__ = ["Evaluation", "Learned", "Problem", "Table", "evaluate", "table"]


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
    """Arrays (k,) or (k, 2), in the order of the experiment's variants."""

    totals: Moments
    """Everything counted, unweighted"""
    outcomes: Floats
    """Counted outcomes; where values are compared, too"""
    ready: NDArray[np.bool_]
    rate: Floats
    weighted_rate: Floats
    effective_units: Floats
    design_effect: Floats
    posterior: tuple[Floats, Floats]
    """Beta: alpha and beta. Normal (of values): mean and standard deviation"""
    interval: Floats
    p_best: Floats
    expected_loss: Floats
    p_better: Floats
    """Than the control; 1/2 for the control itself"""
    sequence: Interval
    contrasts: Contrasts
    lift: Lifts
    fixed_horizon_p: Floats


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
    rows: list[dict[str, list[tuple[int, StatsCell]]]] = []
    for cells, names in groups:
        place = {name: index for index, name in enumerate(names)}
        found: dict[str, list[tuple[int, StatsCell]]] = {}
        for cell in cells:
            if cell.variant in place:
                found.setdefault(cell.allocation, []).append((place[cell.variant], cell))
        rows.append(found)
    shape = (len(rows), max([1, *map(len, rows)]), len(groups[0][1]))
    sums, percent = np.zeros((*shape, 7)), np.zeros(shape)
    for e, (found, (_, names)) in enumerate(zip(rows, groups, strict=True)):
        for a, (key, of) in enumerate(found.items()):
            shares = _shares(key)
            percent[e, a] = [shares.get(name, 0) for name in names]
            for v, cell in of:
                sums[e, a, v] += _numbers(cell.statistics, outcome, measure)
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
    posterior, interval, compared, better = _bayes(problems, orders, totals, effect)
    against = contrasts(weighted, 0, alpha=rule.alpha, tau=tau)
    spread = np.sqrt(against.variance)
    together = Evaluation(
        totals=totals,
        outcomes=outcomes,
        ready=ready(
            totals._replace(c=outcomes), weighted, least_units=rule.least_units, least_outcomes=rule.least_outcomes
        ),
        rate=totals.c / np.where(totals.n > 0, totals.n, 1.0),
        weighted_rate=rate(weighted),
        effective_units=effective_units(weighted),
        design_effect=effect,
        posterior=posterior,
        interval=interval,
        p_best=compared.p_best,
        expected_loss=compared.expected_loss,
        p_better=better,
        sequence=rate_sequences(weighted, tau=tau),
        contrasts=against,
        lift=lift_sequences(weighted, 0, alpha=rule.alpha, tau=tau),
        fixed_horizon_p=2 * ndtr(-np.abs(against.difference) / np.where(spread > 0, spread, np.inf)),
    )
    return [_row(together, e, np.argsort(order)) for e, order in enumerate(orders)]


def _control_first(experiment: Experiment) -> list[int]:
    names = [variant.name for variant in experiment.variants]
    control = names.index(experiment.control_name)
    return [control, *(i for i in range(len(names)) if i != control)]


def _bayes(
    problems: Sequence[Problem], orders: NDArray[np.int64], totals: Moments, effect: Floats
) -> tuple[tuple[Floats, Floats], Floats, Comparison, Floats]:
    """Posterior, its 95 % interval, the comparison of all, and P(better than the control)."""
    shown, clicked = totals.n.copy(), totals.c.copy()
    worth = effect.copy()
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
    better = np.concatenate([np.full_like(alpha[:, :1], 0.5), better], axis=-1)
    return (alpha, beta), credible_intervals(alpha, beta), compare(alpha, beta), better


def _numbers(sums: CellStatistics, outcome: str, measure: str) -> tuple[float, ...]:
    """G, Σn, Σc, Σn², Σc², Σnc of one cell, and its counted outcomes; c is the value where values are compared."""
    of = sums.outcome(outcome)
    if measure == "rate":
        second = (of.count, of.count_squared, of.count_impressions)
    else:
        scale = float(VALUE_SCALE)
        second = (of.value / scale, of.value_squared / scale**2, of.value_impressions / scale)  # type: ignore[assignment]
    return (sums.units, sums.impressions, second[0], sums.impressions_squared, *second[1:], of.count)


@lru_cache(maxsize=10_000)
def _shares(key: str) -> dict[str, int]:
    try:
        return parse_allocation_key(key)
    except InvalidEvent:
        return {}


def _row(together: Evaluation, e: int, back: NDArray[np.int64]) -> Evaluation:
    """Experiment e, its variants in their own order again."""

    def one(part: Any) -> Any:
        if isinstance(part, np.ndarray):
            return part[e][back]
        parts = [one(inner) for inner in part]
        return type(part)(*parts) if hasattr(part, "_fields") else tuple(parts)

    found: Evaluation = one(together)
    return found


def design_effect(arms):
    from scipy.special import stdtrit

    with np.errstate(all="ignore"):
        u = effective_units(arms)
        worst = np.where(arms.n > 0, arms.nn / np.where(arms.n > 0, arms.n, 1), 1)
        r = rate(arms)
        measured = variance(arms) / (r * (1 - r) / arms.n)
        caution = stdtrit(np.maximum(u - 1, 1e-3), 0.975) / 1.959963984540054
        m = np.minimum(measured * caution**2, np.maximum(worst, measured))
    m = np.where((arms.units < 2) | (arms.c <= 0) | (arms.c >= arms.n), worst, m)
    return np.maximum(1.0, np.nan_to_num(m, nan=1.0))
