"""Normal posteriors from moments, and their comparison against closed forms and adaptive quadrature."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

from analyzer.engine.moments import Moments, effective_units, moments, rate, variance
from analyzer.engine.normal import compare_normal, lifts_normal, posterior, rope_normal

numbers = st.floats(-1e6, 1e6)
variances = st.floats(1e-6, 1e6)


@given(numbers, numbers, variances, variances)
def test_two_arms_equal_the_closed_form(m1: float, m2: float, v1: float, v2: float) -> None:
    found = compare_normal([m1, m2], [v1, v2])
    sd = np.sqrt(v1 + v2)
    z = (m2 - m1) / sd
    assert found.p_best[1] == pytest.approx(norm.cdf(z), abs=1e-9)
    # E[max(θ₂ − θ₁, 0)] = sd · (φ(z) + z Φ(z)); Clark 1961
    assert found.expected_loss[0] == pytest.approx(sd * (norm.pdf(z) + z * norm.cdf(z)), abs=1e-8 * sd, rel=1e-9)


@pytest.mark.parametrize(
    ("mean", "sd"),
    [([0.0, 0.1, -0.2], [1.0, 1.0, 1.0]), ([5.0, 5.01, 4.9, 5.2], [1.0, 0.01, 0.3, 0.0001]), ([1e9, 1e9 + 1], [3, 1])],
)
def test_more_arms_equal_adaptive_quadrature(mean: list[float], sd: list[float]) -> None:
    def wins(x: float, i: int) -> float:
        others = [norm.cdf(x, mean[j], sd[j]) for j in range(len(mean)) if j != i]
        return float(norm.pdf(x, mean[i], sd[i]) * np.prod(others))

    expected = []
    for i in range(len(mean)):
        points = sorted({m + z * s for m, s in zip(mean, sd, strict=True) for z in (-7, -3, -1, 0, 1, 3, 7)})
        pieces = (quad(wins, lo, hi, args=(i,), epsabs=1e-12)[0] for lo, hi in pairwise(points))
        expected.append(sum(pieces))
    assert compare_normal(mean, np.square(sd)).p_best == pytest.approx(expected, abs=1e-9)


@settings(max_examples=50)
@given(st.lists(st.tuples(numbers, variances), min_size=2, max_size=6), st.floats(-1e6, 1e6), st.floats(0.1, 10))
def test_shifting_and_scaling_all_arms_changes_no_probability(
    arms: list[tuple[float, float]], by: float, scale: float
) -> None:
    m, v = np.array(arms).T
    plain, moved = compare_normal(m, v), compare_normal(m * scale + by, v * scale**2)
    assert moved.p_best == pytest.approx(plain.p_best, abs=1e-5)  # the means themselves are rounded
    assert plain.p_best.sum() == pytest.approx(1)
    assert plain.expected_loss.min() >= 0


def test_an_experiment_gets_the_same_bytes_alone_and_among_others() -> None:
    rng = np.random.default_rng(1)
    m, v = rng.normal(size=(300, 3)), 10 ** rng.uniform(-6, 2, (300, 3))
    together = compare_normal(m, v)
    for e in (0, 1, 150, 299):
        alone = compare_normal(m[e], v[e])
        assert alone.p_best.tobytes() == together.p_best[e].tobytes()
        assert alone.expected_loss.tobytes() == together.expected_loss[e].tobytes()


def test_arms_far_apart_and_of_any_width_give_probabilities() -> None:
    rng = np.random.default_rng(0)
    m = rng.normal(size=(500, 4)) * 10 ** rng.uniform(-6, 12, (500, 1))
    found = compare_normal(m, 10 ** rng.uniform(-12, 12, (500, 4)))
    assert found.error.max() < 1e-9
    assert np.isfinite(found.expected_loss).all()


def values(units: int, seed: int) -> Moments:
    rng = np.random.default_rng(seed)
    n = rng.integers(1, 9, units).astype(float)
    c = n * rng.normal(3, 1, units) + rng.normal(0, 1, units)
    return moments([units], [n.sum()], [c.sum()], [(n * n).sum()], [(c * c).sum()], [(n * c).sum()])


def test_without_a_prior_the_posterior_is_the_clustered_estimate() -> None:
    arms = values(5000, 1)
    found = posterior(arms)
    assert found.mean == pytest.approx(rate(arms))
    # At 3,600 effective units a t quantile adds 0.1 % to the variance.
    assert effective_units(arms) > 3000
    assert found.variance == pytest.approx(variance(arms), rel=2e-3)
    assert found.variance > variance(arms)


def test_a_prior_is_weighed_by_precision() -> None:
    arms = values(400, 2)
    plain = posterior(arms)
    found = posterior(arms, prior_mean=1.0, prior_variance=float(plain.variance[0]))
    assert found.mean == pytest.approx((plain.mean + 1.0) / 2)
    assert found.variance == pytest.approx(plain.variance / 2)


def test_arms_that_tell_nothing_keep_the_prior() -> None:
    nothing = Moments(*(np.zeros(1) for _ in range(6)))
    for arms in (nothing, moments([1], [3], [6], [9], [36], [18]), moments([4], [8], [16], [16], [64], [32])):
        assert posterior(arms, prior_mean=2.0, prior_variance=5.0) == (2.0, pytest.approx(5.0))
        assert np.isinf(posterior(arms).variance).all()
    with pytest.raises(ValueError, match="prior_variance"):
        posterior(nothing, prior_variance=0.0)


def test_lifts_are_exact() -> None:
    mean, var = np.array([2.0, 2.3, 1.0]), np.array([0.01, 0.02, 0.5])
    found = lifts_normal(mean, var, 0)
    assert found.p_better[1] == pytest.approx(norm.cdf(0.3 / np.sqrt(0.03)))
    assert found.difference[1] == pytest.approx(0.3 + np.array([-1, 1]) * 1.959963984540054 * np.sqrt(0.03))
    for j in (1, 2):
        for end, tail in zip(found.relative[j], (0.025, 0.975), strict=True):
            # P(μ ≤ (1 + r) μ_c), but for the 1e-89 chance that the control's mean is below 0.
            assert norm.cdf(0, mean[j] - (1 + end) * mean[0], np.sqrt(var[j] + (1 + end) ** 2 * var[0])) == (
                pytest.approx(tail, abs=1e-12)
            )
    region = rope_normal(mean, var, 0, -0.1, 0.2)
    assert region.above[1] == pytest.approx(norm.sf(0.2, 0.3, np.sqrt(0.03)))
    assert [part[0] for part in region] == [0, 1, 0]


def test_a_control_around_zero_has_no_relative_lift() -> None:
    found = lifts_normal([0.1, 0.3], [0.01, 0.01], 0)
    assert np.isnan(found.relative[1]).all()
    assert np.isfinite(found.difference).all()


@pytest.mark.parametrize(
    ("mean", "var", "name"),
    [
        ([0.0, np.nan], [1, 1], "mean"),
        ([0.0, np.inf], [1, 1], "mean"),
        ([0.0, 1.0], [1, 0], "variance"),
        ([0.0, 1.0], [1, np.inf], "variance"),
        ([0.0, 1.0], [1, np.nan], "variance"),
        ([], [], "mean"),
    ],
)
def test_impossible_arguments_are_named(mean: list[float], var: list[float], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        compare_normal(mean, var)
    with pytest.raises(ValueError, match=name):
        lifts_normal(mean, var, 0)
