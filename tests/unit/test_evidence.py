"""The clustered rate from sums, against the same figures computed unit by unit."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analyzer.engine.evidence import clustered_rate, design_effect, few_units_factor, merge_cells
from analyzer.engine.moments import Moments, moments
from sluice.domain.events import StatsCell
from sluice.domain.statistics import CellStatistics, OutcomeStatistics

Units = list[tuple[int, int]]
"""(impressions, clicks) of each unit"""

unit = st.integers(1, 40).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n)))


def cell(units: Units) -> CellStatistics:
    n = [n for n, _ in units]
    c = [c for _, c in units]
    click = OutcomeStatistics(sum(c), sum(x * x for x in c), sum(x * y for x, y in zip(n, c, strict=True)))
    return CellStatistics(len(n), sum(n), sum(x * x for x in n), {"click": click})


def variance_unit_by_unit(units: Units) -> float:
    """Linearisation of a ratio of means: variance of the residuals c − Rn over the units, over G·n̄²."""
    n, c = np.array(units, dtype=np.float64).T
    residuals = c - c.sum() / n.sum() * n
    return float(np.sum(residuals**2) / (len(n) - 1) / len(n) / n.mean() ** 2)


@given(st.lists(unit, min_size=2, max_size=60))
def test_the_variance_from_sums_is_the_variance_from_units(units: Units) -> None:
    found = clustered_rate(cell(units), "click")
    assert found.variance == pytest.approx(variance_unit_by_unit(units), rel=1e-9, abs=1e-18)


def test_the_variance_survives_sums_that_doubles_cannot_tell_apart() -> None:
    units = [(10**9, 5 * 10**8 + i % 3) for i in range(30)]
    n, c = (np.array(column, dtype=np.longdouble) for column in zip(*units, strict=True))
    residuals = c - c.sum() / n.sum() * n
    expected = float(np.sum(residuals**2) / 29 / 30 / n.mean() ** 2)
    assert clustered_rate(cell(units), "click").variance == pytest.approx(expected, rel=1e-6)


@given(st.lists(st.tuples(st.just(1), st.integers(0, 1)), min_size=1, max_size=50))
def test_units_of_one_impression_need_no_correction(units: Units) -> None:
    found = clustered_rate(cell(units), "click")
    assert found.design_effect == 1
    assert found.effective_impressions == len(units)


@given(st.lists(unit, min_size=1, max_size=60))
def test_the_design_effect_is_at_least_one_and_bounded(units: Units) -> None:
    found = clustered_rate(cell(units), "click")
    n = np.array([n for n, _ in units])
    c = np.array([c for _, c in units])
    worst = float(np.sum(n**2) / n.sum())
    if 0 < c.sum() < n.sum():
        rate = c.sum() / n.sum()
        worst = max(worst, float(np.sum((c - rate * n) ** 2) / (n.sum() * rate * (1 - rate))))
    assert 1 <= found.design_effect <= worst * (1 + 1e-9)
    assert found.effective_units == pytest.approx(n.sum() ** 2 / np.sum(n**2))


@pytest.mark.parametrize("units", [[(8, 3)], [(4, 4), (6, 6)], [(4, 0), (6, 0), (2, 0)]])
def test_where_nothing_can_be_measured_units_count_once(units: Units) -> None:
    found = clustered_rate(cell(units), "click")
    n = np.array([n for n, _ in units])
    assert found.design_effect == pytest.approx(np.sum(n**2) / n.sum())
    assert found.effective_impressions == pytest.approx(found.effective_units)


def test_few_units_are_trusted_less() -> None:
    # The same pattern: 25 % of units click on half of their four impressions, the others never.
    few, many = cell([(4, 2), (4, 0), (4, 0), (4, 0)]), cell([(4, 2), (4, 0), (4, 0), (4, 0)] * 500)
    assert clustered_rate(few, "click").design_effect > 1.5 * clustered_rate(many, "click").design_effect


def test_one_unit_beside_a_very_large_one_is_trusted_without_a_warning() -> None:
    # Effective units of 1 + 2e-12: Student's t of nearly no degrees of freedom.
    shown = np.array([[10.0**12, 1.0], [50.0, 3.0]])
    clicks = np.array([[4.0, 1.0], [5.0, 2.0]])
    sums = (shown, clicks, shown**2, clicks**2, shown * clicks)
    arms = moments([2.0, 2.0], *(part.sum(axis=1) for part in sums))
    assert np.isfinite(design_effect(arms)).all()
    assert np.isfinite(few_units_factor(np.array([0.0, 1.0, 1 + 1e-12]))).all()


def test_independent_impressions_in_slates_are_found_to_be_independent() -> None:
    rng = np.random.default_rng(5)
    units = [(3, int(c)) for c in rng.binomial(3, 0.7, 20_000)]
    assert clustered_rate(cell(units), "click").design_effect == pytest.approx(1, abs=0.03)


def test_no_impressions_give_no_evidence() -> None:
    found = clustered_rate(CellStatistics(), "click")
    assert (found.units, found.rate, found.effective_impressions, found.design_effect) == (0, 0.0, 0.0, 1.0)
    assert math.isnan(found.variance)


@pytest.mark.parametrize(
    "bad",
    [
        CellStatistics(0, 5, 5),
        CellStatistics(3, 0, 0),
        CellStatistics(-1, 5, 5),
        CellStatistics(2, 10, 20),
        CellStatistics(1, 1, 1, {"click": OutcomeStatistics(-1, 1, 1)}),
    ],
)
def test_impossible_sums_are_refused(bad: CellStatistics) -> None:
    with pytest.raises(ValueError, match="cell"):
        clustered_rate(bad, "click")


def test_cells_are_merged_in_one_order_whatever_theirs() -> None:
    def named(variant: str, allocation: str, units: Units, experiment: str = "e") -> StatsCell:
        sums = cell(units)
        with_more = {"rating": OutcomeStatistics(1, 1, 1, 3), **sums.outcomes}
        statistics = CellStatistics(sums.units, sums.impressions, sums.impressions_squared, with_more)
        return StatsCell(experiment=experiment, variant=variant, allocation=allocation, statistics=statistics)

    cells = [named("b", "x", [(2, 1)]), named("a", "y", [(1, 0)]), named("a", "x", [(3, 3)]), named("b", "x", [(5, 2)])]
    merged = merge_cells([*cells, named("a", "x", [(9, 9)], "other")], "e", "click")
    assert [(c.variant, c.allocation) for c in merged] == [("a", "x"), ("a", "y"), ("b", "x")]
    assert merged[2].statistics == cell([(2, 1), (5, 2)])
    assert merge_cells(reversed(cells), "e", "click") == merged


@given(st.lists(st.lists(unit, min_size=1, max_size=30), min_size=1, max_size=4))
def test_the_design_effect_of_arrays_is_that_of_cells(variants: list[Units]) -> None:
    arms = moments_of(variants)
    assert design_effect(arms) == pytest.approx(
        [clustered_rate(cell(units), "click").design_effect for units in variants], rel=1e-9
    )


def test_the_design_effect_of_arrays_survives_sums_that_doubles_cannot_tell_apart() -> None:
    units = [(10**7, 10**7 - 10**5 + 300 * (i % 5)) for i in range(300)]
    expected = clustered_rate(cell(units), "click").design_effect
    assert design_effect(moments_of([units])) == pytest.approx([expected], rel=1e-9)


def test_variants_without_impressions_or_of_one_unit_have_defined_design_effects() -> None:
    nothing = Moments(*(np.zeros(2) for _ in range(6)))
    assert list(design_effect(nothing)) == [1, 1]
    assert list(design_effect(moments_of([[(8, 3)]]))) == [8]


def moments_of(variants: list[Units]) -> Moments:
    cells = [cell(units) for units in variants]
    sums = [c.outcome("click") for c in cells]
    columns = [
        [c.units for c in cells], [c.impressions for c in cells], [s.count for s in sums],
        [c.impressions_squared for c in cells], [s.count_squared for s in sums], [s.count_impressions for s in sums],
    ]  # fmt: skip
    return Moments(*np.array(columns, dtype=np.float64))
