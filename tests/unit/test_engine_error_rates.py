"""Error rates of the engine, measured: seeded simulations small enough for every test run.

Figures in docs/statistics.md come from `python tests/unit/test_engine_error_rates.py`, the same code with more runs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import beta as beta_distribution

from analyzer.engine import Previous, Snapshot, clustered_rate, credible_intervals, decide
from sluice.domain.allocation import allocation_key
from sluice.domain.events import DecisionMade, StatsCell
from sluice.domain.experiment import Experiment, Variant
from sluice.domain.statistics import CellStatistics, OutcomeStatistics

Ints = NDArray[np.int64]
TOP_K = 3
"""Impressions of a slate"""


def cell(n: Ints, c: Ints) -> CellStatistics:
    click = OutcomeStatistics(int(c.sum()), int((c * c).sum()), int((n * c).sum()))
    return CellStatistics(len(n), int(n.sum()), int((n * n).sum()), {"click": click})


class Coverage(NamedTuple):
    clustered: float
    naive: float


def coverage(runs: int, users: int, seed: int) -> Coverage:
    """Share of 95 % intervals that hold the true rate 0.25: users of 1 to 60 impressions, with rates of their own."""
    rng = np.random.default_rng(seed)
    hits = np.zeros(2)
    for _ in range(runs):
        n = np.minimum(rng.geometric(0.08, users), 60)
        found = clustered_rate(cell(n, rng.binomial(n, rng.beta(2, 6, users))), "click")
        for place, effect in enumerate((found.design_effect, 1.0)):
            alpha = 1 + found.outcomes / effect
            beta = 1 + (found.impressions - found.outcomes) / effect
            low, high = credible_intervals([alpha], [beta])[0]
            hits[place] += low <= 0.25 <= high
    return Coverage(*(hits / runs))


class Calls(NamedTuple):
    right: float
    wrong: float
    allocations: float
    """Distinct allocations of a run, on average"""
    regret: float
    """Clicks lost against always the best, of those an equal split loses; nan when all are equal"""


def bandit(rates: list[float], runs: int, slates: int, batch: int, seed: int) -> Calls:
    """Thompson traffic with the defaults, a decision each `batch` slates, to the first winner called or the end."""
    names = [f"v{i}" for i in range(len(rates))]
    experiment = Experiment(name="e", variants=tuple(Variant(name=name) for name in names), unit="slate")
    best = max(rates)
    right = wrong = allocations = 0
    lost = 0.0
    rng = np.random.default_rng(seed)
    for _ in range(runs):
        cells: dict[tuple[str, str], CellStatistics] = {}
        shares = experiment.starting_allocation
        last: DecisionMade | None = None
        called: str | None = None
        for _ in range(slates // batch):
            drawn = rng.multinomial(batch, [shares[name] / 100 for name in names])
            for name, rate, count in zip(names, rates, drawn, strict=True):
                if count:
                    sums = cell(np.full(count, TOP_K), rng.binomial(TOP_K, rate, count))
                    place = (name, allocation_key(shares))
                    cells[place] = cells.get(place, CellStatistics()) + sums
                lost += count * (best - rate)
            evidence = tuple(
                StatsCell(experiment="e", variant=variant, allocation=key, statistics=sums)
                for (variant, key), sums in sorted(cells.items())
            )
            before = None if last is None else Previous(last.version, last.allocation, last.allocation_version)
            last = decide(experiment, Snapshot(evidence, {}, 0), before)
            shares = last.allocation
            if called is None and last.verdict in ("ship", "stop"):
                called = max(last.results, key=lambda result: result.p_best).variant
        allocations += len({key for _, key in cells})
        if called is not None:
            good = rates[names.index(called)] == best and rates.count(best) == 1
            right, wrong = right + good, wrong + (not good)
    equal_split = runs * slates * (best - sum(rates) / len(rates))
    return Calls(right / runs, wrong / runs, allocations / runs, lost / equal_split if equal_split else float("nan"))


def at_least(share: float, runs: int) -> float:
    """The 0.1 % quantile of what `runs` runs of true rate `share` show: below it chance is no excuse."""
    return float(beta_distribution.ppf(0.001, share * runs, (1 - share) * runs + 1))


@pytest.mark.parametrize("users", [15, 200])
def test_intervals_hold_the_true_rate_where_users_resemble_themselves(users: int) -> None:
    found = coverage(400, users, seed=1)
    assert found.clustered >= at_least(0.95, 400)
    assert found.naive < 0.85  # what a plain Beta posterior of the same clicks would do


def test_a_planted_winner_is_called_and_the_loser_is_not() -> None:
    found = bandit([0.72, 0.78], runs=40, slates=5000, batch=250, seed=2)
    assert found.right >= 0.9
    assert found.wrong <= 0.05
    assert found.regret < 0.5


def test_allocations_stay_few() -> None:
    # 20 decisions a run; every allocation splits the counts into further cells.
    assert bandit([0.72, 0.78], runs=10, slates=5000, batch=250, seed=3).allocations <= 12


if __name__ == "__main__":
    for size in (15, 50, 200, 1000):
        print(f"coverage, {size} users, 2,000 runs: {coverage(2000, size, seed=1)}")
    for planted in ([0.72, 0.78], [0.75, 0.75], [0.72, 0.75, 0.78], [0.05, 0.055]):
        for step in (250, 50):
            print(
                f"{planted}, 10,000 slates, a look each {step}, 100 runs: {bandit(planted, 100, 10_000, step, seed=2)}"
            )
