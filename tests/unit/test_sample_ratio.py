"""The sample-ratio checks: scipy's chi-square, every path enumerated, error rates under changing allocations."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.stats import binom, chisquare

from analyzer.engine.moments import Floats
from analyzer.engine.sample_ratio import (
    log_tilt_mixture,
    sample_ratio,
    sample_ratio_always,
    sample_ratio_chi_square,
    sample_ratio_sequential,
)
from sluice.domain.allocation import allocation_key
from sluice.domain.events import StatsCell
from sluice.domain.statistics import CellStatistics


def cells(*groups: tuple[dict[str, int], dict[str, int]]) -> list[StatsCell]:
    """(shares, units by variant) of each allocation."""
    return [
        StatsCell(
            experiment="e",
            variant=variant,
            allocation=allocation_key(shares),
            statistics=CellStatistics(units, units, units),
        )
        for shares, seen in groups
        for variant, units in seen.items()
    ]


@pytest.mark.parametrize(
    ("shares", "seen"),
    [
        ({"a": 50, "b": 50}, {"a": 5100, "b": 4900}),
        ({"a": 90, "b": 10}, {"a": 880, "b": 120}),
        ({"a": 20, "b": 30, "c": 50}, {"a": 210, "b": 280, "c": 510}),
    ],
)
def test_one_allocation_is_pearsons_test(shares: dict[str, int], seen: dict[str, int]) -> None:
    total = sum(seen.values())
    expected = chisquare(list(seen.values()), [share * total / 100 for share in shares.values()]).pvalue
    assert sample_ratio(cells((shares, seen))) == pytest.approx(expected, rel=1e-9)


def test_under_a_changing_allocation_p_values_are_uniform() -> None:
    rng = np.random.default_rng(11)
    allocations = [{"a": 34, "b": 33, "c": 33}, {"a": 5, "b": 15, "c": 80}, {"a": 5, "b": 5, "c": 90}]
    p_values = []
    for _ in range(2000):
        drawn = [
            rng.multinomial(t, [s / 100 for s in shares.values()])
            for t, shares in zip((300, 2000, 900), allocations, strict=True)
        ]
        groups = [
            (shares, dict(zip(shares, map(int, seen), strict=True)))
            for shares, seen in zip(allocations, drawn, strict=True)
        ]
        p_values.append(sample_ratio(cells(*groups)))
    found = np.array(p_values, dtype=np.float64)
    # Binomial standard error of 2,000 runs at 5 %: 0.5 points.
    assert np.mean(found < 0.05) == pytest.approx(0.05, abs=0.015)
    assert np.mean(found < 0.5) == pytest.approx(0.5, abs=0.035)


def test_units_lost_from_one_variant_are_found() -> None:
    groups = [({"a": 50, "b": 50}, {"a": 1000, "b": 850}), ({"a": 20, "b": 80}, {"a": 400, "b": 1300})]
    p = sample_ratio(cells(*groups))
    assert p is not None
    assert p < 1e-6


def test_a_unit_of_a_variant_without_share_is_impossible() -> None:
    assert sample_ratio(cells(({"a": 100, "b": 0}, {"a": 50, "b": 1}))) == 0
    assert sample_ratio(cells(({"a": 50, "b": 50}, {"a": 50, "c": 1}))) == 0


@pytest.mark.parametrize(
    "groups",
    [
        [],
        [({"a": 50, "b": 50}, {"a": 4, "b": 4})],
        [({"a": 100, "b": 0}, {"a": 5000})],
        [({"a": 40, "b": 40}, {"a": 50, "b": 5})],
    ],
    ids=["nothing", "too few", "no choice", "not an allocation"],
)
def test_without_enough_units_there_is_no_p_value(groups: list[tuple[dict[str, int], dict[str, int]]]) -> None:
    assert sample_ratio(cells(*groups)) is None


def test_an_allocation_that_is_none_is_left_out() -> None:
    odd = StatsCell(experiment="e", variant="a", allocation="?", statistics=CellStatistics(900, 900, 900))
    known = cells(({"a": 50, "b": 50}, {"a": 500, "b": 510}))
    assert sample_ratio([odd, *known]) == sample_ratio(known)


def test_variants_that_never_met_are_compared_within_their_allocations() -> None:
    fair = [({"a": 50, "b": 50}, {"a": 500, "b": 520}), ({"c": 50, "d": 50}, {"c": 90, "d": 100})]
    p = sample_ratio(cells(*fair))
    assert p is not None
    assert p > 0.3


def drawn(rng: np.random.Generator, percents: Floats, looks: int, batch: int, runs: int, kept: Floats) -> list[Floats]:
    """Units (runs, a, k) at every look; the allocation in force depends on which variant is ahead. `kept`: (k,)."""
    units, found = np.zeros((runs, *percents.shape)), []
    for _ in range(looks):
        ahead = units.sum(axis=1) - (units.sum(axis=2)[..., None] * percents / 100).sum(axis=1)
        a = ahead.argmax(axis=1)
        chance = percents[a] / 100 * kept
        units[np.arange(runs), a] += rng.multinomial(batch, chance / chance.sum(axis=1, keepdims=True))
        found.append(units.copy())
    return found


CHASING = np.array([[34.0, 33, 33], [5, 90, 5], [5, 15, 80]])


def test_constant_looking_with_allocations_that_chase_gives_few_false_alarms() -> None:
    runs = 600
    looks = drawn(np.random.default_rng(12), CHASING, looks=100, batch=60, runs=runs, kept=np.ones(3))
    always = np.array([sample_ratio_sequential(units, CHASING) for units in looks])
    once = np.array([sample_ratio_chi_square(units, CHASING) for units in looks])
    assert (always <= 0.05).any(axis=0).mean() <= binom.ppf(0.999, runs, 0.05) / runs
    # The chi-square is right at the last look, and wrong when every look counts.
    assert (once[-1] <= 0.05).mean() == pytest.approx(0.05, abs=0.035)
    assert (once <= 0.05).any(axis=0).mean() > 0.25


def test_a_loss_of_a_tenth_is_found_under_changing_allocations() -> None:
    percents = np.array([[34.0, 33, 33], [50, 30, 20], [20, 30, 50]])
    looks = drawn(np.random.default_rng(13), percents, looks=40, batch=600, runs=200, kept=np.array([1.0, 1.0, 0.9]))
    assert (sample_ratio_sequential(looks[-1], percents) <= 0.001).mean() > 0.95


def test_the_evidence_has_mean_one_whatever_the_past_chooses() -> None:
    # Every way 8 units can be drawn, by an allocation that follows the last unit.
    percents = np.array([[50.0, 50], [90, 10], [25, 75]])
    mean = 0.0
    for labels in itertools.product([0, 1], repeat=8):
        units, chance, a = np.zeros((3, 2)), 1.0, 0
        for label in labels:
            chance *= percents[a, label] / 100
            units[a, label] += 1
            a = 1 + label
        mean += chance * math.exp(float(log_tilt_mixture(units, percents)))
    assert mean == pytest.approx(1, rel=1e-12)


def test_arrays_are_the_cells_of_many_experiments() -> None:
    groups = [({"a": 50, "b": 50}, {"a": 1000, "b": 850}), ({"a": 20, "b": 80}, {"a": 400, "b": 1300})]
    units = np.array([list(seen.values()) for _, seen in groups])
    percents = np.array([list(shares.values()) for shares, _ in groups])
    several, shares = np.stack([units, units[::-1], 0 * units]), np.stack([percents, percents[::-1], percents])
    for function, of_cells in (
        (sample_ratio_chi_square, sample_ratio),
        (sample_ratio_sequential, sample_ratio_always),
    ):
        found = function(several, shares)
        assert found[0] == pytest.approx(of_cells(cells(*groups)), rel=1e-9)
        assert found[1] == pytest.approx(found[0], rel=1e-9)
    assert np.isnan(sample_ratio_chi_square(several, shares)[2])
    assert sample_ratio_sequential(several, shares)[2] == pytest.approx(1)


def test_always_valid_where_nothing_is_left_to_chance_or_impossible() -> None:
    assert sample_ratio_always([]) is None
    assert sample_ratio_always(cells(({"a": 100, "b": 0}, {"a": 5000}))) is None
    assert sample_ratio_always(cells(({"a": 100, "b": 0}, {"a": 50, "b": 1}))) == 0
    assert sample_ratio_always(cells(({"a": 50, "b": 50}, {"a": 50, "c": 1}))) == 0
    assert sample_ratio_always(cells(({"a": 40, "b": 40}, {"a": 50, "b": 5}))) is None


def test_a_trillion_units() -> None:
    half = 5e11
    assert sample_ratio_sequential([[half, half]], [[50, 50]]) == pytest.approx(1)
    assert sample_ratio_sequential([[half, half * 0.999]], [[50, 50]]) == 0


@pytest.mark.parametrize(
    ("units", "percent", "name"),
    [
        ([[1, -1]], [[50, 50]], "units"),
        ([[1, math.nan]], [[50, 50]], "units"),
        ([1, 1], [50, 50], "units"),
        ([[1, 1]], [[50.5, 49.5]], "percent"),
        ([[1, 1]], [[150, -50]], "percent"),
    ],
)
def test_wrong_arguments_are_named(units: list[list[float]], percent: list[list[float]], name: str) -> None:
    for function in (sample_ratio_chi_square, sample_ratio_sequential):
        with pytest.raises(ValueError, match=rf"^{name}: "):
            function(units, percent)
