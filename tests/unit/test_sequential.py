"""Confidence sequences: against their definition, against quadrature, and by their error rates."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import binom, norm

from analyzer.engine.moments import Floats, Moments, inverse_propensity, moments, rate, variance
from analyzer.engine.sequential import (
    contrasts,
    half_width,
    lift_sequences,
    rate_sequences,
    ready,
)


def users(rng: np.random.Generator, size: int, rates: list[float], runs: int = 1) -> tuple[Floats, Floats]:
    """Impressions and clicks (runs, k, size) of users with many sizes and rates of their own."""
    n = np.ceil(rng.lognormal(1.5, 1.0, (runs, len(rates), size)))
    mean = np.array(rates)[:, None]
    own = rng.beta(6 * mean, 6 * (1 - mean), n.shape)
    return n, rng.binomial(n.astype(np.int64), own).astype(np.float64)


def summed(n: Floats, c: Floats) -> Moments:
    size = np.full(n.shape[:-1], n.shape[-1])
    return moments(size, n.sum(-1), c.sum(-1), (n * n).sum(-1), (c * c).sum(-1), (n * c).sum(-1))


@pytest.mark.parametrize("v", [1e-6, 4e-4, 0.02])
@pytest.mark.parametrize("alpha", [0.05, 0.001])
def test_at_the_half_width_the_mixture_of_likelihood_ratios_is_one_over_alpha(v: float, alpha: float) -> None:
    tau = 0.05
    x = float(half_width(v, alpha, tau))
    scale = 1 / math.sqrt(1 / v + 1 / tau**2)
    peak = x / v * scale**2

    def ratio(effect: float) -> float:
        return math.exp(effect * x / v - effect**2 / (2 * v)) * float(norm.pdf(effect, scale=tau))

    total = quad(ratio, peak - 12 * scale, peak + 12 * scale, epsabs=0, epsrel=1e-12)[0]
    assert total == pytest.approx(1 / alpha, rel=1e-9)


def test_the_planned_effect_is_where_the_interval_is_tightest() -> None:
    # At V = τ²·(what makes b² least per V) no other τ is much better: within 5 % over a range of τ.
    v = (0.05 / 3) ** 2
    assert float(half_width(v, 0.05, 0.05)) <= 1.02 * min(float(half_width(v, 0.05, t)) for t in np.geomspace(0.01, 1))


@pytest.mark.parametrize("v", [0.0, math.nan])
def test_without_a_variance_a_half_width_is_nothing_or_everything(v: float) -> None:
    assert float(half_width(v, 0.05)) == (0 if v == 0 else math.inf)


def seen_from(n: Floats, c: Floats, r0: float) -> float:
    """Variance of the rate of units (size,) as seen from r0: their residuals, and the change of R(1 − R)."""
    size, r = len(n), c.sum() / n.sum()
    own = ((c - r * n) ** 2).sum() / n.sum() ** 2
    v = own * size / (size - 1)
    residuals = ((c - r0 * n) ** 2).sum() / n.sum() ** 2
    return float(residuals - own + v + v * (1 - 2 * r) * (r0 - r) / (r * (1 - r)))


def test_the_ends_of_a_rate_are_rejected_by_the_variance_seen_from_there() -> None:
    n, c = users(np.random.default_rng(3), 60, [0.3, 0.7])
    arms = summed(n[0], c[0])
    b2 = half_width(variance(arms), 0.05) ** 2 / variance(arms)
    for ends in rate_sequences(arms):
        for k in range(2):
            away = (rate(arms)[k] - ends[k]) ** 2
            assert away == pytest.approx(b2[k] * seen_from(n[0, k], c[0, k], ends[k]), rel=1e-9)


def test_many_equal_units_give_the_usual_confidence_sequence() -> None:
    arms = moments(1e8, 1e8, [4e7, 4.001e7])
    found = contrasts(arms, 0)
    width = half_width(variance(arms).sum(), 0.05)
    assert (found.high - found.low)[1] / 2 == pytest.approx(float(width), rel=1e-6)
    ends = rate_sequences(arms)
    assert (ends.high - ends.low) / 2 == pytest.approx(half_width(variance(arms), 0.05), rel=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([14, 30, 200]), st.floats(0.02, 0.98), st.floats(0.02, 0.98))
def test_interval_p_value_and_lift_reject_the_same(seed: int, size: int, a: float, b: float) -> None:
    arms = summed(*users(np.random.default_rng(seed), size, [a, b, b], runs=5))
    for alpha in (0.05, 0.4):
        found, lift = contrasts(arms, 0, alpha=alpha), lift_sequences(arms, 0, alpha=alpha)
        rejected = (found.low > 0) | (found.high < 0)
        np.testing.assert_array_equal(rejected[:, 1:], found.p[:, 1:] <= alpha)
        of_lift = (lift.low > 0) | (lift.high < 0)
        assert not (of_lift & ~rejected).any()
        if size == 200:
            np.testing.assert_array_equal(of_lift, rejected)
        assert not rejected[:, 0].any()
        assert (found.low <= found.difference).all()
        assert (found.difference <= found.high).all()


def test_the_ends_of_a_lift_are_ratios_whose_contrast_is_just_rejected() -> None:
    n, c = users(np.random.default_rng(4), 300, [0.4, 0.5])
    arms = summed(n[0], c[0])
    (r0, r), (v0, v) = rate(arms), variance(arms)
    found = lift_sequences(arms, 0)
    assert found.estimate[1] == pytest.approx(r / r0 - 1)
    for end in (found.low[1], found.high[1]):
        ratio = 1 + end
        off, total = r - ratio * r0, v + ratio**2 * v0
        # Both rates move, each by its part of the variance, until their ratio is this one.
        seen = seen_from(n[0, 1], c[0, 1], r - off * v / total)
        seen += ratio**2 * seen_from(n[0, 0], c[0, 0], r0 + off * ratio * v0 / total)
        tau = 0.05 * math.sqrt((1 + ratio**2) / 2)
        assert off**2 == pytest.approx(seen * float(half_width(total, 0.05, tau)) ** 2 / total, rel=1e-6)


def test_a_control_whose_mean_may_be_zero_leaves_the_lift_open() -> None:
    arms = moments(400, 400, [2, 30])
    assert lift_sequences(arms, 0, values=True).high[1] == math.inf
    # Two clicks exclude a rate of 0.
    assert 50 < lift_sequences(arms, 0).high[1] < math.inf
    assert lift_sequences(arms, 0).estimate[1] == pytest.approx(14)


def test_units_of_a_value_scale_with_it() -> None:
    n, c = users(np.random.default_rng(5), 100, [0.4, 0.5])
    one, thousand = (contrasts(summed(n, c * f), 0, tau=0.05 * f, values=True) for f in (1.0, 1000.0))
    np.testing.assert_allclose(thousand.p, one.p, rtol=1e-9)
    np.testing.assert_allclose(thousand.low, 1000 * one.low, rtol=1e-9)


def test_clicks_and_their_absence_are_treated_alike() -> None:
    n, c = users(np.random.default_rng(7), 80, [0.1, 0.2], runs=20)
    clicks, none = contrasts(summed(n, c), 0), contrasts(summed(n, n - c), 0)
    np.testing.assert_allclose(none.p, clicks.p, rtol=1e-9)
    np.testing.assert_allclose(none.low, -clicks.high, rtol=1e-9, atol=1e-15)


def test_experiments_side_by_side_are_the_experiments_one_by_one() -> None:
    arms = summed(*users(np.random.default_rng(6), 40, [0.4, 0.5, 0.6], runs=7))
    for function in (lambda m: contrasts(m, 1), lambda m: lift_sequences(m, 1), rate_sequences):
        together = function(arms)
        for run in range(7):
            alone = function(Moments(*(part[run] for part in arms)))
            for whole, part in zip(together, alone, strict=True):
                np.testing.assert_allclose(whole[run], part, rtol=1e-9)


def test_alpha_is_shared_over_the_variants() -> None:
    found = contrasts(moments(1000, 1000, [500, 560, 560]), 0)
    alone = contrasts(moments(1000, 1000, [500, 560]), 0)
    assert found.p[1] == pytest.approx(2 * alone.p[1])
    assert found.p[0] == 1
    assert contrasts(moments([1000], [1000], [500]), 0).p.tolist() == [1]


@pytest.mark.parametrize(
    ("n", "c"),
    [
        ((0, 0), (0, 0)),
        ((1, 1), (1, 0)),
        ((50, 50), (0, 0)),
        ((50, 50), (50, 50)),
        ((50, 50), (0, 20)),
        ((5, 5), (2, 3)),
    ],
    ids=["nothing", "one unit", "no clicks", "all clicks", "one arm without clicks", "few"],
)
def test_what_is_not_known_is_not_claimed(n: tuple[int, int], c: tuple[int, int]) -> None:
    arms = moments(n, n, c)
    found, lift, rates = contrasts(arms, 0), lift_sequences(arms, 0), rate_sequences(arms)
    assert found.p[1] == 1
    assert (found.low[1], found.high[1]) == (-math.inf, math.inf)
    assert (lift.low[1], lift.high[1]) == (-math.inf, math.inf)
    assert np.isinf(rates.low[0])


def test_rounding_of_weights_is_no_variance() -> None:
    # Every unit clicks on 1 of 3: no spread at all, but 100 / 95 and its squares are rounded.
    cells = moments([[40, 40], [40, 40]], 120, 40, 360, 40, 120)
    weighted = inverse_propensity(cells, [[95, 5], [30, 70]])
    assert contrasts(weighted, 0).p.tolist() == [1, 1]
    assert np.isinf(rate_sequences(weighted).low).all()


def test_counts_of_a_trillion() -> None:
    n = 10**12
    found = contrasts(moments(n, n, [0.5 * n, 0.5 * n + 8e6]), 0)
    assert found.difference[1] == pytest.approx(8e-6, rel=1e-9)
    z2 = 8e-6**2 / (0.5 / n)
    u = 0.5 / n / 0.05**2
    assert found.p[1] == pytest.approx(math.sqrt(1 + 1 / u) * math.exp(-z2 / 2 / (1 + u)), rel=1e-6)


@pytest.mark.parametrize(("alpha", "tau", "name"), [(0.0, 0.05, "alpha"), (1.0, 0.05, "alpha"), (0.05, 0.0, "tau")])
def test_levels_and_scales_are_checked(alpha: float, tau: float, name: str) -> None:
    arms = moments(100, 100, [50, 60])
    for function in (
        lambda: half_width(0.1, alpha, tau),
        lambda: rate_sequences(arms, alpha=alpha, tau=tau),
        lambda: contrasts(arms, 0, alpha=alpha, tau=tau),
        lambda: lift_sequences(arms, 0, alpha=alpha, tau=tau),
    ):
        with pytest.raises(ValueError, match=f"^{name}: "):
            function()


def test_the_gate() -> None:
    def arms(units: float, n: float, c: float) -> Moments:
        return moments([units], [n], [c], [n * n / units], [c * c / units], [n * c / units])

    assert ready(arms(20, 90, 40), arms(20, 90, 40)).all()
    for short in (arms(19, 90, 40), arms(20, 90, 19), arms(20, 90, 71)):
        assert not ready(short, short).any()
    # Half of the effective units are lost to unequal weights, and half of the outcomes with them.
    many = arms(200, 600, 39)
    assert ready(many, many).all()
    assert not ready(many, many._replace(nn=2 * many.nn)).any()
    assert ready(many._replace(c=np.array([40.0])), many._replace(nn=2 * many.nn)).all()
    # Values: every impression may have one, but they must weigh as much as fifty equal ones.
    counted = arms(60, 60, 60)
    assert ready(counted, counted, values=True).all()
    heavy = counted._replace(cc=counted.c**2 / 49)
    assert not ready(counted, heavy, values=True).any()


def test_a_variant_that_met_no_large_value_yet_borrows_the_spread_of_the_other() -> None:
    # 1,000 units each: spread 4 around a mean of 1 here, 0.01 around 0.5 there.
    n, mean, spread = 1000.0, np.array([1.0, 0.5]), np.array([4.0, 0.01])
    arms = moments(n, n, n * mean, n, n * (mean**2 + spread), n * mean)
    borrowed = np.array([4.0, 4.0 * 0.25])
    scaled = moments(n, n, n * mean, n, n * (mean**2 + borrowed), n * mean)
    for found, wanted in zip(rate_sequences(arms, values=True), rate_sequences(scaled, values=True), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-12)
    with_it, without = rate_sequences(arms, values=True), rate_sequences(arms)
    assert (with_it.high - with_it.low)[1] > 5 * (without.high - without.low)[1]
    # The larger mean does not take more than the other's spread as it is, and a mean of 0 takes nothing.
    around_zero = moments(n, n, [1e-9, 2 * n], n, [n, 5 * n], [1e-9, 2 * n])
    together = rate_sequences(around_zero, values=True)
    for arm in range(2):
        alone = rate_sequences(Moments(*(part[arm : arm + 1] for part in around_zero)), values=True)
        assert together.low[arm] == pytest.approx(alone.low[0], rel=1e-9)
        assert together.high[arm] == pytest.approx(alone.high[0], rel=1e-9)


LOOKS, RUNS = 50, 600


class Looks:
    """Users of heavy-tailed activity who come one after the other, half to each variant; sums at every look."""

    def __init__(self, size: int, rates: list[float], seed: int) -> None:
        n, c = users(np.random.default_rng(seed), size, rates, RUNS)
        ends = np.arange(1, LOOKS + 1) * size // LOOKS

        def sums(part: Floats) -> Floats:
            return np.moveaxis(np.cumsum(part, axis=-1)[..., ends - 1], -1, 0)

        self.arms = Moments(
            np.broadcast_to(ends[:, None, None] * 1.0, sums(n).shape), sums(n), sums(c),
            sums(n * n), sums(c * c), sums(n * c),
        )  # fmt: skip
        self.ready = ready(self.arms, self.arms)


def most(share: float) -> float:
    """Above it chance is no excuse: the 99.9 % quantile of the share seen in `RUNS` runs."""
    return float(binom.ppf(0.999, RUNS, share)) / RUNS


@pytest.mark.parametrize("size", [150, 300])
def test_constant_looking_gives_few_false_alarms_where_the_naive_test_gives_many(size: int) -> None:
    run = Looks(size, [0.7, 0.7], seed=size)
    both = run.ready.all(-1)
    assert both.any(axis=0).mean() > 0.95
    found = contrasts(run.arms, 0)
    assert (both & (found.p[..., 1] <= 0.05)).any(axis=0).mean() <= most(0.035)
    pooled = run.arms.c.sum(-1) / run.arms.n.sum(-1)
    z = np.diff(rate(run.arms))[..., 0] / np.sqrt(pooled * (1 - pooled) * (1 / run.arms.n).sum(-1))
    assert (both & (np.abs(z) > 1.96)).any(axis=0).mean() > 0.25


def test_a_true_difference_is_found() -> None:
    found = contrasts(Looks(300, [0.7, 0.85], seed=9).arms, 0)
    assert (found.low[..., 1] > 0).any(axis=0).mean() > 0.95


def test_rates_differences_and_lifts_are_held_at_all_times_at_once() -> None:
    truth = np.array([0.2, 0.3])
    run = Looks(150, list(truth), seed=10)
    rates = rate_sequences(run.arms)
    missed = run.ready & ((rates.low > truth) | (rates.high < truth))
    assert (missed.any(axis=0).mean(axis=0) <= most(0.05)).all()
    both = run.ready.all(-1)
    found, lift = contrasts(run.arms, 0), lift_sequences(run.arms, 0)
    for low, high, value in ((found.low, found.high, 0.1), (lift.low, lift.high, 0.5)):
        assert (both & ((low[..., 1] > value) | (high[..., 1] < value))).any(axis=0).mean() <= most(0.05)


def starving(values: bool) -> float:
    """Share of runs without a difference in which one is called: lognormal values, σ = 1, the lower mean gets 5 %."""
    rng = np.random.default_rng(11)
    total = Moments(*(np.zeros((RUNS, 2)) for _ in range(6)))
    called = np.zeros(RUNS, dtype=bool)
    share = np.full((RUNS, 2), 50.0)
    for _ in range(LOOKS):
        units = rng.multinomial(200, share / 100)
        value = rng.lognormal(-0.5, 1.0, (RUNS, 2, 200)) * (rng.random((RUNS, 2, 200)) < 0.3)
        value *= np.arange(200) < units[..., None]
        w, n, c, cc = 100 / share, units * 1.0, value.sum(-1), (value**2).sum(-1)
        total = total + Moments(n, w * n, w * c, w * w * n, w * w * cc, w * w * c)
        both = ready(total._replace(c=total.units), total, values=True).all(-1)
        called |= both & (contrasts(total, 0, values=values).p[:, 1] <= 0.05)
        lower = rate(total)[:, :1] < rate(total)[:, 1:]
        share = np.where(both[:, None], np.where(np.hstack([lower, ~lower]), 5.0, 95.0), 50.0)
    return float(called.mean())


def test_a_heavy_tail_gives_few_false_alarms_also_where_its_absence_is_starved() -> None:
    assert starving(values=True) <= most(0.035)
    assert starving(values=False) > most(0.035)
