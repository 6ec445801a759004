"""Sequential tests of independent units: exact by enumeration of every path, and by their definitions."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.integrate import quad
from scipy.stats import beta as beta_distribution
from scipy.stats import binom, binomtest

from analyzer.engine.mixtures import equal_rates_p, msprt_p, randomised_p, rate_interval, rate_p, sprt
from analyzer.engine.sample_ratio import log_tilt_mixture
from analyzer.engine.sequential import half_width

Bools = NDArray[np.bool_]


def ever(stopped: Bools, p: float) -> float:
    """Exact chance that a random walk of successes of rate p ever meets `stopped[trials, successes]`."""
    alive = np.array([1.0])
    hit = 0.0
    for trials in range(1, len(stopped)):
        step = np.zeros(trials + 1)
        step[:-1] += alive * (1 - p)
        step[1:] += alive * p
        now = stopped[trials, : trials + 1]
        hit += step[now].sum()
        alive = np.where(now, 0.0, step)
    return hit


def triangle(size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    trials, successes = np.meshgrid(np.arange(size + 1), np.arange(size + 1), indexing="ij")
    return np.minimum(successes, trials), trials


@pytest.mark.parametrize("p", [0.01, 0.2, 0.5, 0.93])
def test_a_rate_is_held_at_all_times_with_the_promised_chance(p: float) -> None:
    successes, trials = triangle(400)
    found = rate_interval(successes, trials, alpha=0.1)
    missed = (found.low > p) | (found.high < p)
    assert 0 < ever(missed, p) <= 0.1
    np.testing.assert_array_equal(missed, rate_p(successes, trials, p) < 0.1)


@pytest.mark.parametrize(("s", "n"), [(0, 0), (0, 7), (7, 7), (3, 10), (250, 1000)])
def test_the_p_value_is_a_ratio_of_likelihoods(s: int, n: int) -> None:
    p0 = 0.3
    mean = quad(lambda p: p**s * (1 - p) ** (n - s), 0, 1, points=[s / max(n, 1)], epsabs=0, epsrel=1e-12)[0]
    assert float(rate_p(s, n, p0)) == pytest.approx(min(1.0, p0**s * (1 - p0) ** (n - s) / mean), rel=1e-9)


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.floats(0.001, 0.5))
def test_the_ends_of_the_interval_have_p_value_alpha(s: int, f: int, alpha: float) -> None:
    found = rate_interval(s, s + f, alpha=alpha)
    for end, bound in ((float(found.low), 0.0), (float(found.high), 1.0)):
        if (s == 0 and bound == 0) or (f == 0 and bound == 1):
            assert end == bound
        elif 0 < end < 1 - 1e-9:  # closer to 1 a double cannot say what is left
            assert float(rate_p(s, s + f, end)) == pytest.approx(alpha, rel=1e-5)


def test_a_trillion_trials() -> None:
    n = 10**12
    s = np.array([0, 1, n // 2, n - 1])
    found = rate_interval(s, n)
    # Oracle: the posterior density of scipy's Beta at its top, where the mean likelihood is 1 / (n + 1) of it: a normal
    # approximation with error of order 1 / n.
    sd = math.sqrt(0.25 / n)
    fall = math.log((n + 1) / 0.05) - math.log(math.sqrt(2 * math.pi) * sd * n)
    assert found.high[2] - 0.5 == pytest.approx(sd * math.sqrt(2 * fall), rel=1e-6)
    assert found.low[0] == 0
    assert found.high[0] == pytest.approx(-math.expm1(-math.log((n + 1) / 0.05) / n), rel=1e-12)
    assert 1 - found.low[3] == pytest.approx(found.high[1], rel=1e-4)


def tables(first: int, second: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """All successes of two groups, (…, 2), and their trials."""
    a, b = np.meshgrid(np.arange(first + 1), np.arange(second + 1), indexing="ij")
    return np.stack([a, b], axis=-1).astype(np.float64), np.array([first, second], dtype=np.float64)


@pytest.mark.parametrize("p", [0.05, 0.4, 0.5, 0.9])
def test_equal_rates_are_seldom_called_different_whatever_the_order(p: float) -> None:
    # Every path of alternating groups up to 60 each, exactly: distribution of (a, b) not yet called different.
    alive = np.ones((1, 1))
    hit = 0.0
    for step in range(120):
        first, second = (step + 2) // 2, (step + 1) // 2
        grown = np.zeros((first + 1, second + 1))
        for success, chance in ((0, 1 - p), (1, p)):
            rows, columns = alive.shape
            a, b = (success, 0) if step % 2 == 0 else (0, success)
            grown[a : a + rows, b : b + columns] += chance * alive
        called = equal_rates_p(*tables(first, second)) <= 0.1
        hit += grown[called].sum()
        alive = np.where(called, 0.0, grown)
    assert hit <= 0.1
    assert hit > 0 or p == 0.05


@pytest.mark.parametrize(("a", "b"), [(3, 9), (0, 10), (6, 6)])
def test_equal_rates_against_its_definition(a: int, b: int) -> None:
    n, m = 10, 12
    mixed = beta_distribution_of(a, n) * beta_distribution_of(b, m)
    pooled = (a + b) / (n + m)
    best = pooled ** (a + b) * (1 - pooled) ** (n + m - a - b)
    assert float(equal_rates_p([a, b], [n, m])) == pytest.approx(min(1.0, best / mixed), rel=1e-9)


def beta_distribution_of(s: int, n: int) -> float:
    """Mean likelihood of s of n under a uniform prior."""
    p = 0.5
    return float(p**s * (1 - p) ** (n - s) / beta_distribution.pdf(p, s + 1, n - s + 1))


def test_randomised_evidence_has_mean_one_also_where_the_past_chooses_the_allocation() -> None:
    # Every way 7 units can be drawn, by an allocation that chases the successes: outcomes are fixed beforehand.
    percents = [[50, 50], [90, 10], [20, 80]]
    for outcomes in itertools.product([0, 1], repeat=7):
        if sum(outcomes) not in (2, 5):
            continue
        mean = 0.0
        for labels in itertools.product([0, 1], repeat=7):
            units, successes = np.zeros((3, 2)), np.zeros((3, 2))
            chance = 1.0
            for label, outcome in zip(labels, outcomes, strict=True):
                by = successes.sum(axis=0)
                a = 0 if by[0] == by[1] else 1 if by[0] > by[1] else 2
                chance *= percents[a][label] / 100
                units[a, label] += 1
                successes[a, label] += outcome
            mean += chance / evidence(successes, units, percents)
        assert mean == pytest.approx(1, rel=1e-9)


def evidence(successes: NDArray[np.float64], units: NDArray[np.float64], percents: list[list[int]]) -> float:
    """What 1 / p would be without its bound of 1, inverted."""
    product = 1.0
    for part in (successes, units - successes):
        product *= (1 + math.exp(float(log_tilt_mixture(part, percents)))) / 2
    assert float(randomised_p(successes, units, percents)) == pytest.approx(min(1.0, 1 / product), rel=1e-9)
    return 1 / product


def test_randomised_p_finds_a_difference_and_ignores_drift() -> None:
    rng = np.random.default_rng(3)
    runs, batches = 400, 40
    units, successes, planted = (np.zeros((runs, 2, 2)) for _ in range(3))
    drift = np.linspace(0.1, 0.7, batches)
    for t, rate in enumerate(drift):
        a = int(t >= batches // 2)
        drawn = rng.multinomial(50, [[0.5, 0.5], [0.2, 0.8]][a], runs)
        units[:, a] += drawn
        successes[:, a] += rng.binomial(drawn, rate)
        planted[:, a] += rng.binomial(drawn, [rate, rate + 0.15])
    percents = [[50, 50], [20, 80]]
    assert (randomised_p(successes, units, percents) <= 0.05).mean() <= binom.ppf(0.999, runs, 0.05) / runs
    assert (randomised_p(planted, units, percents) <= 0.05).mean() > 0.9
    # Pooled over the drift, equal rates look different: counts alone cannot know.
    assert (equal_rates_p(successes.sum(1), units.sum(1)) <= 0.05).mean() > 0.5


@pytest.mark.parametrize("truth", ["p0", "p1"])
def test_walds_test_keeps_its_errors(truth: str) -> None:
    p0, p1, alpha, beta = 0.1, 0.2, 0.05, 0.2
    successes, trials = triangle(1500)
    decision = sprt(successes, trials, p0, p1, alpha=alpha, beta=beta).decision
    # The first decision counts, so paths end at either; exact chances.
    p = p0 if truth == "p0" else p1
    any_end = ever(decision != 0, p)
    assert any_end > 0.9999
    wrong = ever_first(decision, p, wanted=1 if truth == "p0" else -1)
    assert wrong <= (alpha / (1 - beta) if truth == "p0" else beta / (1 - alpha))
    assert wrong >= (alpha if truth == "p0" else beta) / 3


def ever_first(decision: NDArray[np.int8], p: float, wanted: int) -> float:
    alive, hit = np.array([1.0]), 0.0
    for trials in range(1, len(decision)):
        step = np.zeros(trials + 1)
        step[:-1] += alive * (1 - p)
        step[1:] += alive * p
        now = decision[trials, : trials + 1]
        hit += step[now == wanted].sum()
        alive = np.where(now != 0, 0.0, step)
    return hit


def test_walds_boundaries() -> None:
    found = sprt([30, 10, 16], 100, 0.1, 0.2)
    assert found.decision.tolist() == [1, -1, 0]
    assert found.log_ratio[0] == pytest.approx(30 * math.log(2) + 70 * math.log(0.8 / 0.9))


def test_msprt_rejects_where_the_confidence_sequence_ends() -> None:
    v, tau = 3e-4, 0.05
    assert float(msprt_p(half_width(v, 0.05, tau), v, tau=tau)) == pytest.approx(0.05, rel=1e-12)
    assert msprt_p([0.1, 0.0, math.nan], [0.0, 1e-4, 1e-4], tau=tau).tolist() == [1, 1, 1]


def test_msprt_under_constant_looking() -> None:
    rng = np.random.default_rng(8)
    runs, looks, batch = 1000, 100, 50
    clicks = np.cumsum(rng.binomial(batch, 0.3, (looks, runs, 2)), axis=0)
    n = (np.arange(1, looks + 1) * batch)[:, None]
    p = clicks / n[..., None]
    found = msprt_p(p[..., 1] - p[..., 0], (p * (1 - p)).sum(-1) / n, tau=0.05)
    false = int((found <= 0.05).any(axis=0).sum())
    assert binomtest(false, runs, 0.05, alternative="greater").pvalue > 0.001


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: rate_p(5, 4, 0.5), "successes"),
        (lambda: rate_p(math.nan, 4, 0.5), "successes"),
        (lambda: rate_p(1, math.inf, 0.5), "trials"),
        (lambda: rate_p(1, 4, 1.0), "p0"),
        (lambda: rate_interval(-1, 4), "successes"),
        (lambda: rate_interval(1, 4, alpha=0.0), "alpha"),
        (lambda: equal_rates_p(1, 2), "successes"),
        (lambda: randomised_p([[3, 1]], [[2, 1]], [[50, 50]]), "successes"),
        (lambda: sprt(1, 2, 0.5, 0.5), "p0, p1"),
        (lambda: sprt(1, 2, 0.5, 0.6, alpha=0.5, beta=0.5), "alpha, beta"),
        (lambda: msprt_p(0.1, 0.1, tau=0.0), "tau"),
    ],
)
def test_wrong_arguments_are_named(call: object, name: str) -> None:
    assert callable(call)
    with pytest.raises(ValueError, match=rf"^{name}: "):
        call()
