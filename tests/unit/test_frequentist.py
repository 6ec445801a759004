"""Tests at a fixed sample size against statsmodels, scipy, tea-tasting, gbstats and spotify-confidence."""

from __future__ import annotations

import math
import re
import warnings

import numpy as np
import pytest
import tea_tasting as tt
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats import proportion as smp
from tea_tasting.aggr import Aggregates

from analyzer.engine.bayes import compare
from analyzer.engine.frequentist import (
    chi_square,
    differences,
    magnitude,
    proportions,
    ratios,
    rejection_probability,
    share_test,
    welch,
)
from analyzer.engine.moments import Moments, moments

CLICKS, IMPRESSIONS = [1380, 1545], [8500, 8200]

count_pairs = st.integers(1, 10**6).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


def users() -> tuple[np.ndarray, ...]:
    """Sixty users with impressions, clicks and variant, by arithmetic: the rows behind the gbstats numbers below."""
    i = np.arange(60)
    n = 1 + (i * 7) % 5
    return n, (i * 3) % 4 % (n + 1), i % 2


def arms_of(n: np.ndarray, c: np.ndarray, arm: np.ndarray) -> Moments:
    parts = (np.ones_like(n), n, c, n * n, c * c, n * c)
    return moments(*(np.bincount(arm, part) for part in parts))


def aggregates(n: np.ndarray, c: np.ndarray) -> Aggregates:
    covariance = np.cov(c, n)
    return Aggregates(
        len(n),
        mean_={"c": c.mean(), "n": n.mean()},
        var_={"c": covariance[0, 0], "n": covariance[1, 1]},
        cov_={("c", "n"): covariance[0, 1]},
    )


def test_the_worked_numbers() -> None:
    found = proportions(CLICKS, IMPRESSIONS)
    assert found.z[1] == pytest.approx(4.42964, abs=5e-6)
    assert found.p[1] == pytest.approx(9.439e-06, abs=5e-10)
    assert found.cohens_h[1] == pytest.approx(0.068573, abs=5e-7)
    assert found.lift[1] == pytest.approx(0.160525, abs=5e-7)
    a, b = np.array(CLICKS) + 1, np.array(IMPRESSIONS) - CLICKS + 1
    assert compare(a, b).p_best[1] == pytest.approx(0.999995274, abs=5e-10)


@pytest.mark.parametrize(
    ("clicks", "impressions"),
    [(CLICKS, IMPRESSIONS), ([3, 0], [40, 60]), ([1, 19], [20, 20]), ([10**11, 10**11 + 10**6], [10**12, 10**12])],
)
def test_two_proportions_are_those_of_statsmodels(clicks: list[int], impressions: list[int]) -> None:
    # statsmodels 0.15: proportions_ztest pools the variance, confint_proportions_2indep(method="newcomb") without
    # correction for continuity; both compare the first sample with the second.
    found = proportions(clicks, impressions)
    z, p = smp.proportions_ztest(clicks[::-1], impressions[::-1])
    interval = smp.confint_proportions_2indep(
        clicks[1], impressions[1], clicks[0], impressions[0], method="newcomb", compare="diff"
    )
    rates = np.array(clicks) / np.array(impressions)
    assert found.z[1] == pytest.approx(z, rel=1e-9)
    assert found.p[1] == pytest.approx(p, rel=1e-9)
    assert (found.low[1], found.high[1]) == pytest.approx(interval, rel=1e-6)
    assert found.cohens_h[1] == pytest.approx(smp.proportion_effectsize(rates[1], rates[0]), rel=1e-9)


def test_the_z_test_is_that_of_tea_tasting() -> None:
    # tea-tasting 1.14: Proportion(method="norm", equal_var=True, correction=False) is the pooled z test.
    experiment = tt.metrics.Proportion("x", method="norm", equal_var=True, correction=False)
    control, treatment = (
        Aggregates(n, mean_={"x": c / n}) for c, n in zip(CLICKS, IMPRESSIONS, strict=True)
    )  # fmt: skip
    assert proportions(CLICKS, IMPRESSIONS).p[1] == pytest.approx(
        experiment.analyze_aggregates(control, treatment).pvalue, rel=1e-9
    )


def test_observed_power_is_that_of_statsmodels() -> None:
    # statsmodels 0.15, power_proportions_2indep: pooled under H0, unpooled under H1, two-sided.
    rates = np.array(CLICKS) / np.array(IMPRESSIONS)
    wanted = smp.power_proportions_2indep(
        rates[0] - rates[1], rates[1], 8500, ratio=8200 / 8500, return_results=False
    )  # fmt: skip
    assert proportions(CLICKS, IMPRESSIONS).power[1] == pytest.approx(wanted, rel=1e-9)


def test_intervals_of_rates_are_those_of_gbstats_and_spotify_confidence() -> None:
    rates, n = np.array(CLICKS) / np.array(IMPRESSIONS), np.array(IMPRESSIONS)
    v = rates * (1 - rates) / n
    # gbstats 0.8.0, TwoSidedTTest of ProportionStatistic(n=8500, sum=1380) and (8200, 1545): unpooled variance
    # p(1 − p)/n, Student's t with Welch's degrees of freedom; relative by the delta method.
    found = differences(rates, v, n)
    assert found.p[1] == pytest.approx(9.590418922122979e-06, rel=1e-9)
    assert (found.low[1], found.high[1]) == pytest.approx((0.014524090005743976, 0.03759929593399777), rel=1e-9)
    assert (found.lift_low[1], found.lift_high[1]) == pytest.approx(
        (0.08398061445894028, 0.23706922647425166), rel=1e-9
    )
    # spotify-confidence 4.1.0, ZTest.difference(absolute=True): the same variance, normal quantile.
    found = differences(rates, v, [1e15, 1e15])
    assert found.p[1] == pytest.approx(9.529411491293567e-06, rel=1e-6)
    assert (found.low[1], found.high[1]) == pytest.approx((0.014524933772366999, 0.03759845216737475), rel=1e-9)


def test_ratios_and_means_are_those_of_gbstats() -> None:
    # gbstats 0.8.0, TwoSidedTTest of RatioStatistic (clicks over impressions) and SampleMeanStatistic (clicks a
    # user) of the rows of `users`: delta method, Student's t with Welch's degrees of freedom.
    arms = arms_of(*users())
    found = ratios(arms)
    assert found.difference[1] == pytest.approx(0.23333333333333334, rel=1e-12)
    assert (found.low[1], found.high[1]) == pytest.approx((0.0699442373193136, 0.3967224293473531), rel=1e-9)
    assert found.p[1] == pytest.approx(0.005902051686809573, rel=1e-9)
    lift = found.lift_low[1], found.lift_high[1]
    assert lift == pytest.approx((-0.051375344868967776, 1.8013753448689678), rel=1e-9)
    found = welch(arms)
    assert (found.low[1], found.high[1]) == pytest.approx((0.17298818537330518, 1.2270118146266946), rel=1e-9)
    assert found.p[1] == pytest.approx(0.010121811497007194, rel=1e-9)
    assert found.lift[1] == pytest.approx(0.8749999999999999, rel=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_welch_is_that_of_scipy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.lognormal(1, 1, 40), rng.lognormal(1.3, 1, 23)
    values, arm = np.concatenate([a, b]), np.repeat([0, 1], [40, 23])
    found = welch(arms_of(np.ones(63), values, arm))
    wanted = stats.ttest_ind(b, a, equal_var=False)
    interval = wanted.confidence_interval()
    assert found.statistic[1] == pytest.approx(wanted.statistic, rel=1e-9)
    assert found.degrees[1] == pytest.approx(wanted.df, rel=1e-9)
    assert found.p[1] == pytest.approx(wanted.pvalue, rel=1e-9)
    assert (found.low[1], found.high[1]) == pytest.approx((interval.low, interval.high), rel=1e-9)


def test_ratios_are_those_of_tea_tasting() -> None:
    # tea-tasting 1.14: RatioOfMeans, unequal variances, Student's t.
    n, c, arm = users()
    wanted = tt.RatioOfMeans("c", "n").analyze_aggregates(
        aggregates(n[arm == 0], c[arm == 0]), aggregates(n[arm == 1], c[arm == 1])
    )
    found = ratios(arms_of(n, c, arm))
    assert found.statistic[1] == pytest.approx(wanted.statistic, rel=1e-9)
    assert found.p[1] == pytest.approx(wanted.pvalue, rel=1e-9)
    assert (found.low[1], found.high[1]) == pytest.approx(
        (wanted.effect_size_ci_lower, wanted.effect_size_ci_upper), rel=1e-9
    )


def test_chi_square_is_that_of_scipy() -> None:
    clicks, impressions = np.array([30, 45, 61, 12]), np.array([200, 210, 230, 90])
    wanted = stats.chi2_contingency([clicks, impressions - clicks], correction=False)
    found = chi_square(clicks, impressions)
    assert found.statistic == pytest.approx(wanted.statistic, rel=1e-12)
    assert found.degrees == wanted.dof
    assert found.p == pytest.approx(wanted.pvalue, rel=1e-12)
    # Without impressions a variant takes no part; two variants give z².
    padded = chi_square([30, 0, 45, 61, 12], [200, 0, 210, 230, 90])
    assert [*map(float, padded)] == pytest.approx([*map(float, found)])
    assert chi_square(CLICKS, IMPRESSIONS).statistic == pytest.approx(proportions(CLICKS, IMPRESSIONS).z[1] ** 2)


def test_shares_are_those_of_scipy() -> None:
    wanted = stats.chisquare([480, 530, 190], [0.4 * 1200, 0.4 * 1200, 0.2 * 1200])
    found = share_test([480, 530, 190], [2, 2, 1])
    assert (found.statistic, found.p) == pytest.approx((wanted.statistic, wanted.pvalue), rel=1e-12)
    assert math.isnan(share_test([3, 4], [1, 1]).p)


@given(count_pairs, count_pairs)
def test_interval_holds_the_difference_and_stays_inside(a: tuple[int, int], b: tuple[int, int]) -> None:
    found = proportions([a[0], b[0]], [a[1], b[1]])
    assert -1 - 1e-12 <= found.low[1] <= found.difference[1] <= found.high[1] <= 1 + 1e-12
    assert found.high[1] > found.low[1]


@given(count_pairs, count_pairs)
def test_the_other_way_round_everything_changes_sign(a: tuple[int, int], b: tuple[int, int]) -> None:
    one = proportions([a[0], b[0]], [a[1], b[1]])
    other = proportions([a[0], b[0]], [a[1], b[1]], control=1)
    for name in ("difference", "z", "cohens_h"):
        assert getattr(one, name)[1] == pytest.approx(-getattr(other, name)[0], nan_ok=True)
    assert one.p[1] == pytest.approx(other.p[0], nan_ok=True)
    assert one.low[1] == pytest.approx(-other.high[0], abs=1e-12)


def test_many_experiments_at_once_are_each_alone() -> None:
    rng = np.random.default_rng(5)
    impressions = rng.integers(1, 1000, (4, 3, 5))
    clicks = rng.binomial(impressions, 0.3)
    together, alone = proportions(clicks, impressions), proportions(clicks[2, 1], impressions[2, 1])
    for many, one in zip(together, alone, strict=True):
        np.testing.assert_array_equal(many[2, 1], one)
    arms = moments(*(np.broadcast_to(part, (7, 2)) for part in arms_of(*users())))
    for many, one in zip(ratios(arms), ratios(arms_of(*users())), strict=True):
        np.testing.assert_array_equal(many[3], one)


def test_the_controls_own_place() -> None:
    found = proportions([1, 2, 3], [10, 10, 10], control=1)
    assert (found.difference[1], found.p[1], found.lift_low[1]) == (0, 1, 0)
    assert math.isnan(found.z[1])


def test_what_cannot_be_known_is_nan() -> None:
    nothing = proportions([0, 0, 0], [0, 10, 10])
    assert np.isnan([nothing.difference[1], nothing.z[1], nothing.p[1], nothing.power[1]]).all()
    no_clicks = proportions([0, 0], [50, 50])
    assert np.isnan([no_clicks.z[1], no_clicks.lift[1], no_clicks.lift_low[1]]).all()
    # Newcombe's interval knows something nevertheless (statsmodels 0.15, method="newcomb").
    wanted = smp.confint_proportions_2indep(0, 50, 0, 50, method="newcomb")
    assert (no_clicks.low[1], no_clicks.high[1]) == pytest.approx(wanted, rel=1e-6)
    all_clicks = proportions([50, 50], [50, 50])
    assert all_clicks.difference[1] == 0
    assert np.isnan(all_clicks.z[1])
    assert math.isnan(chi_square([0, 0], [50, 50]).p)
    assert math.isnan(chi_square([0, 5], [0, 50]).p)
    one_unit = ratios(moments([1, 9], [5, 20], [2, 9], [25, 60], [4, 15], [10, 25]))
    assert np.isnan([one_unit.p[1], one_unit.low[1], one_unit.degrees[1]]).all()
    all_alike = ratios(moments([9, 9], [9, 9], [9, 9]))
    assert np.isnan([all_alike.p[1], all_alike.high[1]]).all()


@pytest.mark.parametrize(
    ("clicks", "impressions", "name"),
    [
        ([1], [5], "clicks"),
        ([1, -2], [5, 5], "clicks"),
        ([1, math.nan], [5, 5], "clicks"),
        ([1, 2], [5, math.inf], "impressions"),
        ([1, 6], [5, 5], "clicks"),
        ([1, 2], [5, 5, 5], "clicks"),
        (1, 5, "clicks"),
    ],
)
def test_impossible_counts_are_named(clicks: object, impressions: object, name: str) -> None:
    for test in (proportions, chi_square):
        with pytest.raises(ValueError, match=f"^{name}"):
            test(clicks, impressions)  # type: ignore[arg-type]


def test_impossible_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"^control"):
        proportions([1, 2], [5, 5], control=2)
    with pytest.raises(ValueError, match=r"^alpha"):
        proportions([1, 2], [5, 5], alpha=1)
    with pytest.raises(ValueError, match=r"^variance_of_mean"):
        differences([1, 2], [1, -1], [5, 5])
    with pytest.raises(ValueError, match=r"^mean"):
        differences([1, math.inf], [1, 1], [5, 5])
    with pytest.raises(ValueError, match=r"^shares"):
        share_test([1, 2], [1, 0])


anything = st.one_of(st.floats(), st.sampled_from([0.0, 1.0, 1e-308, 1e12, 1e300]))


@given(st.lists(st.tuples(anything, anything, anything), min_size=2, max_size=3))
def test_anything_gives_a_result_or_an_error_that_names_the_argument(arms: list[tuple[float, float, float]]) -> None:
    # And never a warning of numpy, which would be an error here.
    first, second, third = zip(*arms, strict=True)
    calls = (lambda: proportions(first, second), lambda: chi_square(first, second), lambda: share_test(first, second),
             lambda: differences(first, second, third))  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for call in calls:
            try:
                result = call()
            except ValueError as error:
                assert re.match(r"(clicks|impressions|units|shares|mean|variance_of_mean): ", str(error))
            else:
                assert not any(np.isinf(part).any() for part in result)


def test_words_of_effects() -> None:
    # Cohen 1988: 0.2 small, 0.5 medium, 0.8 large.
    sizes = (0.068573, 0.2, -0.49, 0.5, -0.8, math.nan)
    assert [magnitude(h) for h in sizes] == ["negligible", "small", "small", "medium", "large", "unknown"]


def test_rejection_probability_at_the_edges() -> None:
    assert rejection_probability(0.0, 1.0, 1.0, 0.05) == pytest.approx(0.05)
    assert rejection_probability([1.0, 0.0], 0.1, 0.0, 0.05).tolist() == [1.0, 0.0]
