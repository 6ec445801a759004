"""CUPED against tea-tasting, on rows, and what it is worth."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tea_tasting as tt
from tea_tasting.aggr import Aggregates

from analyzer.engine.cuped import adjust, adjusted_differences, covariate_moments
from analyzer.engine.frequentist import ratios


def users(seed: int, count: int = 400, lift: float = 0.0) -> dict[str, np.ndarray]:
    """Users with a rate of their own, before and in the experiment; some of them are new."""
    rng = np.random.default_rng(seed)
    rate, arm = rng.beta(2, 5, count), np.arange(count) % 2
    n0, n = rng.geometric(0.05, count) * (rng.random(count) < 0.9), rng.geometric(0.05, count)
    c0, c = rng.binomial(n0, rate), rng.binomial(n, np.minimum(rate + lift * arm, 1))
    return {"n": n, "c": c, "n0": n0, "c0": c0, "arm": arm}


def aggregates(rows: dict[str, np.ndarray], arm: int, names: tuple[str, ...]) -> Aggregates:
    own = {name: rows[name][rows["arm"] == arm].astype(float) for name in names}
    pairs = [(a, b) for a in names for b in names if a < b]
    return Aggregates(
        int((rows["arm"] == arm).sum()),
        mean_={name: own[name].mean() for name in names},
        var_={name: own[name].var(ddof=1) for name in names},
        cov_={(a, b): float(np.cov(own[a], own[b])[0, 1]) for a, b in pairs},
    )


@pytest.mark.parametrize("seed", range(3))
def test_ratios_are_those_of_tea_tasting(seed: int) -> None:
    # tea-tasting 1.14: RatioOfMeans with both covariates; θ from both variants together, unequal variances,
    # Student's t.
    rows = users(seed, lift=0.05)
    names = ("c", "c0", "n", "n0")
    wanted = tt.RatioOfMeans("c", "n", "c0", "n0").analyze_aggregates(
        aggregates(rows, 0, names), aggregates(rows, 1, names)
    )
    sums = covariate_moments(**rows, k=2)
    found = adjusted_differences(sums)
    assert adjust(sums).mean.tolist() == pytest.approx([wanted.control, wanted.treatment], rel=1e-9)
    assert found.difference[1] == pytest.approx(wanted.effect_size, rel=1e-9)
    assert found.p[1] == pytest.approx(wanted.pvalue, rel=1e-6)
    assert (found.low[1], found.high[1]) == pytest.approx(
        (wanted.effect_size_ci_lower, wanted.effect_size_ci_upper), rel=1e-9
    )


def test_means_are_those_of_tea_tasting() -> None:
    # tea-tasting 1.14: Mean with a covariate.
    rows = users(7)
    wanted = tt.Mean("c", "c0").analyze_aggregates(
        aggregates(rows, 0, ("c", "c0")), aggregates(rows, 1, ("c", "c0"))
    )  # fmt: skip
    once = np.ones_like(rows["n"])
    found = adjusted_differences(covariate_moments(**(rows | {"n": once, "n0": once}), k=2))
    assert found.statistic[1] == pytest.approx(wanted.statistic, rel=1e-9)
    assert found.degrees[1] > 100
    assert found.p[1] == pytest.approx(wanted.pvalue, rel=1e-6)


def test_it_narrows_the_interval_as_the_correlation_says_and_keeps_the_estimate() -> None:
    # Rates are Beta(2, 5), 20 impressions before and after: the correlation ρ of a user's two rates is the share of
    # the variance that lies between users, and √(1 − ρ²) is left of the width.
    between = 2 * 5 / (7**2 * 8)
    within = 2 / 7 * 5 / 7 - between
    left = np.sqrt(1 - (between / (between + within / 20)) ** 2)
    effects, widths = [], []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        rate, arm, n = rng.beta(2, 5, 400), np.arange(400) % 2, np.full(400, 20)
        c0, c = rng.binomial(n, rate), rng.binomial(n, np.minimum(rate + 0.03 * arm, 1))
        sums = covariate_moments(n, c, n, c0, arm, 2)
        plain, found = ratios(sums.metric), adjusted_differences(sums)
        effects.append((plain.difference[1], found.difference[1]))
        widths.append((plain.high[1] - plain.low[1], found.high[1] - found.low[1]))
    spread, width = np.std(effects, axis=0), np.mean(widths, axis=0)
    assert width[1] / width[0] == pytest.approx(left, rel=0.03)
    assert spread[1] / spread[0] == pytest.approx(left, rel=0.15)
    # Rates above 1 are cut, which costs next to nothing.
    assert abs(np.mean(effects, axis=0)[1] - 0.03) < 3 * spread[1] / math.sqrt(200)


def test_sums_of_disjoint_users_add() -> None:
    rows = users(1)
    half = {name: values[:150] for name, values in rows.items()}
    rest = {name: values[150:] for name, values in rows.items()}
    together = covariate_moments(**half, k=2) + covariate_moments(**rest, k=2)
    np.testing.assert_array_equal(
        np.concatenate(together.metric), np.concatenate(covariate_moments(**rows, k=2).metric)
    )
    np.testing.assert_array_equal(together.cc, covariate_moments(**rows, k=2).cc)


def test_without_a_past_nothing_changes() -> None:
    rows = users(2)
    nothing = np.zeros_like(rows["n"])
    sums = covariate_moments(**(rows | {"n0": nothing, "c0": nothing}), k=2)
    found, plain = adjusted_differences(sums), ratios(sums.metric)
    assert adjust(sums).theta == 0
    for one, other in zip(found, plain, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)
    # The same when all past rates are equal.
    sums = covariate_moments(**(rows | {"c0": rows["n0"]}), k=2)
    assert adjusted_differences(sums).difference[1] == pytest.approx(plain.difference[1])


def test_a_variant_without_units_is_nan() -> None:
    sums = covariate_moments(**users(3), k=3)
    assert np.isnan([adjust(sums).mean[2], adjusted_differences(sums).p[2]]).all()
    assert np.isfinite(adjusted_differences(sums).p[1])


@pytest.mark.parametrize(("name", "value"), [("n", math.nan), ("c0", math.inf), ("arm", 2)])
def test_impossible_rows_are_named(name: str, value: float) -> None:
    rows = {key: values.astype(float) for key, values in users(4).items()}
    rows[name][5] = value
    with pytest.raises(ValueError, match=f"^{name}:"):
        covariate_moments(**rows, k=2)
