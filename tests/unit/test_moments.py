"""Sums over units against the units themselves, in exact arithmetic and against tea-tasting."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import tea_tasting
from hypothesis import given
from hypothesis import strategies as st

from analyzer.engine.moments import Moments, effective_units, inverse_propensity, moments, rate, variance

units = st.lists(st.tuples(st.integers(1, 50), st.integers(0, 50), st.sampled_from([5, 20, 50, 95])), min_size=2)


def of_units(rows: list[tuple[int, int, int]]) -> Moments:
    """(impressions, outcomes, percent) of each unit → sums weighted with 1 / propensity."""
    n, c, percent = np.array(rows, dtype=np.float64).T
    w = 100 / percent
    parts = (np.ones_like(n), w * n, w * c, (w * n) ** 2, (w * c) ** 2, w * w * n * c)
    return Moments(*(np.array([part.sum()]) for part in parts))


@given(units, units)
def test_sums_of_disjoint_units_add(some: list[tuple[int, int, int]], more: list[tuple[int, int, int]]) -> None:
    both = of_units(some + more)
    for total, part in zip(of_units(some) + of_units(more), both, strict=True):
        np.testing.assert_allclose(total, part, rtol=1e-12)


@given(units)
def test_the_variance_is_that_of_the_units_residuals(rows: list[tuple[int, int, int]]) -> None:
    n, c, percent = np.array(rows, dtype=np.float64).T
    w = 100 / percent
    r = (w * c).sum() / (w * n).sum()
    expected = len(n) / (len(n) - 1) * ((w * (c - r * n)) ** 2).sum() / (w * n).sum() ** 2
    arms = of_units(rows)
    assert rate(arms)[0] == pytest.approx(r, rel=1e-12)
    # Weights such as 100 / 95 are rounded, and so are sums of their squares.
    rounding = 1e-14 * float((arms.cc / arms.n**2)[0])
    assert variance(arms)[0] == pytest.approx(expected, rel=1e-9, abs=rounding)
    assert effective_units(arms)[0] == pytest.approx((w * n).sum() ** 2 / ((w * n) ** 2).sum(), rel=1e-12)


def test_a_ratio_metric_agrees_with_tea_tasting() -> None:
    # Oracle: tea-tasting ≥ 1.0, RatioOfMeans with unequal variances and the normal distribution (delta method,
    # sample variances with G − 1).
    rng = np.random.default_rng(1)
    size = 400
    n = rng.geometric(0.1, size)
    frame = pd.DataFrame({"variant": np.arange(size) % 2, "n": n, "c": rng.binomial(n, rng.beta(2, 4, size))})
    metric = tea_tasting.RatioOfMeans("c", "n", use_t=False)
    theirs = tea_tasting.Experiment({"rate": metric}).analyze(frame)["rate"]
    sums = [frame[frame.variant == v] for v in (0, 1)]
    arms = moments(
        *(
            [float(f(part)) for part in sums]
            for f in (
                len, lambda d: d.n.sum(), lambda d: d.c.sum(),
                lambda d: (d.n**2).sum(), lambda d: (d.c**2).sum(), lambda d: (d.n * d.c).sum(),
            )
        )
    )  # fmt: skip
    assert rate(arms) == pytest.approx([theirs.control, theirs.treatment], rel=1e-12)
    z = np.diff(rate(arms))[0] / np.sqrt(variance(arms).sum())
    assert z == pytest.approx(theirs.statistic, rel=1e-9)


@pytest.mark.parametrize("impressions", [1, 7, 50])
@pytest.mark.parametrize("clicks_missing", [1, 40])
@pytest.mark.parametrize("size", [10**3, 10**6, 10**12])
def test_nothing_is_lost_where_almost_every_impression_is_clicked(
    size: int, clicks_missing: int, impressions: int
) -> None:
    # All units have every impression clicked, but some lack one: the three terms of the variance nearly cancel.
    m, few = impressions, clicks_missing
    sums = (
        size, size * m, size * m - few, size * m**2, (size - few) * m**2 + few * (m - 1) ** 2,
        (size - few) * m**2 + few * m * (m - 1),
    )  # fmt: skip
    r = Fraction(sums[2], sums[1])
    squares = sums[4] - 2 * r * sums[5] + r * r * sums[3]
    exact = Fraction(size, size - 1) * squares / sums[1] ** 2
    assert float(variance(moments(*sums))) == pytest.approx(float(exact), rel=1e-12)


def test_values_far_from_zero_keep_their_variance() -> None:
    # c = 10^6 ± 1 on one impression each: Σc² carries the spread in its last digits only.
    size = 10**3
    sums = (size, size, size * 10**6, size, size * (10**12 + 1), size * 10**6)
    assert float(variance(moments(*sums))) == pytest.approx(1 / (size - 1), rel=1e-12)


def test_weights_that_are_all_equal_cancel() -> None:
    cells = moments([[50, 60]], [[500, 700]], [[100, 90]], [[6000, 9500]], [[400, 260]], [[1500, 1400]])
    weighted = inverse_propensity(cells, [[40, 40]])
    np.testing.assert_allclose(rate(weighted), rate(cells)[0], rtol=1e-14)
    np.testing.assert_allclose(variance(weighted), variance(cells)[0], rtol=1e-12)


def test_an_arm_seldom_drawn_weighs_more() -> None:
    # 10 units at 50 %, 10 at 5 %: weights 2 and 20.
    weighted = inverse_propensity(moments([[10], [10]], [[10], [10]], [[10], [0]]), [[50], [5]])
    assert weighted.n[0] == 220
    assert rate(weighted)[0] == pytest.approx(20 / 220)
    assert effective_units(weighted)[0] == pytest.approx(220**2 / (10 * 4 + 10 * 400))


def test_without_units_nothing_is_known() -> None:
    none = moments([0, 1], [0, 3], [0, 2], [0, 9], [0, 4], [0, 6])
    assert np.isnan(rate(none)[0])
    assert np.isnan(variance(none)).all()
    assert effective_units(none).tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((-1, 1, 1), "units"),
        ((1, -1, 1), "n"),
        ((1, 1, float("nan")), "c"),
        ((1, float("inf"), 1), "n"),
        ((1, 1, 1e21), "c"),
        ((1, 1e-12, 0), "n"),
        ((0, 5, 0), "nn"),
        ((5, 0, 0), "nn"),
        ((10, 100, 1), "nn"),
        ((10, 10, 10, 10, 5, 10), "cc"),
        ((10, 10, 10, 10, 10, 99), "nc"),
        ((10, 10, 5, 10, -5, 5), "cc"),
    ],
)
def test_impossible_sums_are_named(arguments: tuple[float, ...], name: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: "):
        moments(*arguments)


@pytest.mark.parametrize("percent", [0, -5, 101, float("nan")])
def test_units_need_a_share(percent: float) -> None:
    with pytest.raises(ValueError, match=r"^percent: "):
        inverse_propensity(moments([[1]], [[1]], [[1]]), [[percent]])
