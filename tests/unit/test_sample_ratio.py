"""The sample-ratio check against scipy's chi-square and against its own error rate under changing allocations."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chisquare

from analyzer.engine.sample_ratio import sample_ratio
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
