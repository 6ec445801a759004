"""How often a canary is wrong, and what it takes to be right: simulated streams of slates. Library: numpy.

`SLUICE_TEST_RUNS=200 pytest -m slow -s tests/unit/test_canary_rates.py` prints the table of docs/canary.md.
"""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from analyzer.engine.canary import advance
from sluice.domain.allocation import allocation_key
from sluice.domain.canary import CanaryPlace
from sluice.domain.events import StatsCell
from sluice.domain.experiment import Experiment, load_experiments
from sluice.domain.statistics import CellStatistics, OutcomeStatistics
from tests.support.canary_worlds import share_at

pytestmark = pytest.mark.slow

RUNS = int(os.environ.get("SLUICE_TEST_RUNS", "50"))
SHOWN = 3
"""Impressions of a slate"""
SLATES = 1000
"""Between two looks, of both arms together"""
LOOKS = 600
DEFAULT = "canary: {}"
EQUAL_STEPS = "canary: {steps: [{share: 10, margin: 0.05}, {share: 25, margin: 0.05}, {share: 50, margin: 0.05}]}"


class Ends(NamedTuple):
    promoted: int
    rolled_back: int
    slates: float
    """Median until either"""
    steps: list[int]
    """Runs rolled back at each step"""


def experiment(canary: str) -> Experiment:
    text = f"name: e\nunit: slate\nvariants: [{{name: A}}, {{name: B}}]\n{canary}\n"
    return load_experiments(text + "guardrails: [{outcome: error, margin: 0.02, better: lower}]", "test")[0]


def sums(rng: np.random.Generator, slates: int, rate: float, error: float) -> CellStatistics:
    outcomes = {}
    for name, p in (("click", rate), ("error", error)):
        of = rng.multinomial(slates, binom.pmf(np.arange(SHOWN + 1), SHOWN, p))
        c, cc = (int(of @ np.arange(SHOWN + 1) ** power) for power in (1, 2))
        outcomes[name] = OutcomeStatistics(c, cc, SHOWN * c)
    return CellStatistics(slates, SHOWN * slates, SHOWN**2 * slates, outcomes)


def course(of: Experiment, rates: tuple[float, float], errors: tuple[float, float], seed: int) -> tuple[str, int, int]:
    """(how it ends, at which step, after how many slates); looks ten minutes apart."""
    rng = np.random.default_rng(seed)
    total: dict[tuple[str, str], CellStatistics] = {}
    place: CanaryPlace | None = None
    for look in range(1, LOOKS + 1):
        share = share_at(of, place)
        key = allocation_key({"A": 100 - share, "B": share})
        b = int(rng.binomial(SLATES, share / 100))
        for variant, slates, rate, error in zip("AB", (SLATES - b, b), rates, errors, strict=True):
            if slates:
                total[variant, key] = total.get((variant, key), CellStatistics()) + sums(rng, slates, rate, error)
        cells = [
            StatsCell(experiment="e", variant=variant, allocation=of_key, statistics=statistics)
            for (variant, of_key), statistics in total.items()
        ]
        place = advance(of, cells, 600_000 * look, place).place
        if place.state in ("promoted", "rolled-back"):
            return place.state, place.step, look * SLATES
    assert place is not None
    return place.state, place.step, LOOKS * SLATES


def simulate(
    canary: str, rates: tuple[float, float], errors: tuple[float, float] = (0.002, 0.002), runs: int = RUNS
) -> Ends:
    of = experiment(canary)
    found = [course(of, rates, errors, seed) for seed in range(runs)]
    promoted = [slates for state, _, slates in found if state == "promoted"]
    rolled = [(step, slates) for state, step, slates in found if state == "rolled-back"]
    ended = promoted + [slates for _, slates in rolled]
    steps = [sum(step == at for at, _ in rolled) for step in range(1, len(of.canary.steps) + 1)]  # type: ignore[union-attr]
    ends = Ends(len(promoted), len(rolled), float(np.median(ended)) if ended else float("nan"), steps)
    print(f"{rates} {errors} {canary[:30]}: {ends}")
    return ends


def at_most(count: int, runs: int, rate: float) -> bool:
    """Whether so many of the runs do not speak against `rate`."""
    return bool(binomtest(count, runs, rate, alternative="greater").pvalue > 1e-3)


@pytest.mark.parametrize("canary", [DEFAULT, EQUAL_STEPS])
@pytest.mark.parametrize("rate", [0.6, 0.05])
def test_an_equal_candidate_is_promoted_and_hardly_ever_rolled_back(canary: str, rate: float) -> None:
    ends = simulate(canary, (rate, rate))
    assert at_most(ends.rolled_back, RUNS, 0.05)
    assert ends.promoted >= 0.9 * RUNS


@pytest.mark.parametrize("canary", [DEFAULT, EQUAL_STEPS])
def test_a_bad_candidate_is_rolled_back(canary: str) -> None:
    ends = simulate(canary, (0.6, 0.55))
    assert ends.rolled_back >= 0.95 * RUNS
    assert at_most(ends.promoted, RUNS, 0.05)


@pytest.mark.parametrize(
    ("canary", "rates", "errors"),
    [
        (DEFAULT, (0.6, 0.58), (0.002, 0.002)),
        (EQUAL_STEPS, (0.6, 0.55), (0.002, 0.002)),
        (DEFAULT, (0.6, 0.6), (0.002, 0.022)),
    ],
)
def test_a_candidate_that_is_worse_by_the_margin_is_promoted_at_most_as_often_as_alpha_says(
    canary: str, rates: tuple[float, float], errors: tuple[float, float]
) -> None:
    assert at_most(simulate(canary, rates, errors).promoted, RUNS, 0.05)


def test_a_better_candidate_is_promoted() -> None:
    ends = simulate(DEFAULT, (0.6, 0.63))
    assert ends.promoted >= 0.98 * RUNS


def test_the_first_looks_of_a_small_share_do_not_roll_back_by_chance() -> None:
    """No errors but a rare one, and clicks that are rare: where the normal limit is furthest."""
    ends = simulate(DEFAULT, (0.01, 0.01), (0.001, 0.001), runs=100)
    assert at_most(ends.rolled_back, 100, 0.05)
