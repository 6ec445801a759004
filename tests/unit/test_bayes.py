"""P(best) and expected loss against closed forms in exact arithmetic and adaptive quadrature."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from math import comb

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import betainc, betaincc, betaincinv, betaln, expit, log_expit, logit
from scipy.stats import beta as beta_distribution

from analyzer.engine.bayes import compare, credible_intervals

Arm = tuple[float, float]

arm = st.tuples(st.floats(0.5, 1e6), st.floats(0.5, 1e6))


def beta_inverse(a: int, b: int) -> Fraction:
    """1 / B(a, b) for whole a, b."""
    return Fraction(a * b * comb(a + b, a), a + b)


def exact_p_second(first: tuple[int, int], second: tuple[int, int]) -> Fraction:
    """P(θ₂ > θ₁) = Σ_{i<α₂} B(α₁+i, β₁+β₂) / ((β₂+i) B(1+i, β₂) B(α₁, β₁)).

    Source: Evan Miller, "Formulas for Bayesian A/B Testing" (2015), equation 6.
    """
    (a1, b1), (a2, b2) = first, second
    return sum(
        (
            beta_inverse(a1, b1) * beta_inverse(1 + i, b2) / (beta_inverse(a1 + i, b1 + b2) * (b2 + i))
            for i in range(a2)
        ),
        Fraction(0),
    )


def exact_loss_of_first(first: tuple[int, int], second: tuple[int, int]) -> Fraction:
    """E[max(θ₂ − θ₁, 0)]. Source: Chris Stucchio, "Bayesian A/B Testing at VWO" (2015), section 6."""
    (a1, b1), (a2, b2) = first, second
    gain = Fraction(a2, a2 + b2) * exact_p_second(first, (a2 + 1, b2))
    return gain - Fraction(a1, a1 + b1) * exact_p_second((a1 + 1, b1), second)


def by_quad(arms: list[Arm]) -> tuple[list[float], list[float]]:
    """P(best) and E[max] − E[θᵢ] by QUADPACK, in pieces between quantiles of every arm."""
    tails = [1e-13, 1e-9, 1e-5, 1e-2, 0.2, 0.5, 0.8, 0.99, 1 - 1e-5, 1 - 1e-9]
    inner = {float(beta_distribution.ppf(q, a, b)) for a, b in arms for q in tails}
    points = [0.0, *sorted(x for x in inner if 0 < x < 1), 1.0]

    def wins(x: float, i: int) -> float:
        others = [beta_distribution.cdf(x, *other) for j, other in enumerate(arms) if j != i]
        return float(beta_distribution.pdf(x, *arms[i]) * np.prod(others))

    def integral(i: int, power: int) -> float:
        pieces = (quad(lambda x: x**power * wins(x, i), lo, hi, epsabs=1e-12) for lo, hi in pairwise(points))
        return float(sum(piece[0] for piece in pieces))

    maximum = sum(integral(i, 1) for i in range(len(arms)))
    return [integral(i, 0) for i in range(len(arms))], [maximum - a / (a + b) for a, b in arms]


def by_incomplete_beta(arms: list[Arm]) -> tuple[list[float], list[float]]:
    """The same integrals in u = logit(θ), 24 Gauss–Legendre nodes in each piece, with scipy's incomplete beta."""
    tails = np.concatenate(
        [10.0 ** np.arange(-14, -1), np.arange(0.05, 0.96, 0.05), 1 - 10.0 ** np.arange(-2, -14, -1)]
    )
    least = max(min(np.log(a / b) - 40 / a - 9 * np.sqrt(1 / a + 1 / b) for a, b in arms), -700.0)
    most = min(max(np.log(a / b) + 40 / b + 9 * np.sqrt(1 / a + 1 / b) for a, b in arms), 700.0)
    points = [least, *np.linspace(-6, 6, 25), most]
    for a, b in arms:
        with np.errstate(all="ignore"):
            points.extend(logit(betaincinv(a, b, tails)))
    points = np.unique(np.clip(np.array(points)[np.isfinite(points)], least, most))
    t, w = np.polynomial.legendre.leggauss(24)
    half = np.diff(points)[:, None] / 2
    u = (points[:-1, None] + half + half * t).ravel()
    weights = (half * w).ravel()
    up, down = log_expit(u), log_expit(-u)
    density = np.array([np.exp(a * up + b * down - betaln(a, b)) for a, b in arms]) * weights
    density /= density.sum(axis=1, keepdims=True)  # rounding of a·u at large counts cancels, as does the last tail
    below = np.array([np.where(u < 0, betainc(a, b, expit(u)), betaincc(b, a, expit(-u))) for a, b in arms])
    others = [np.prod(np.delete(below, i, axis=0), axis=0) for i in range(len(arms))]
    wins = density * np.array(others)
    maximum = float((wins.sum(axis=0) * expit(u)).sum())
    return list(wins.sum(axis=1)), [maximum - a / (a + b) for a, b in arms]


def arrays(arms: list[Arm]) -> tuple[list[float], list[float]]:
    return [a for a, _ in arms], [b for _, b in arms]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((1, 1), (1, 1)),
        ((1, 1), (1, 2)),
        ((5, 5), (6, 4)),
        ((21, 981), (31, 971)),
        ((1, 1), (500, 500)),
        ((1, 1), (50_000, 50_000)),
        ((300, 5), (3, 1)),
        ((139, 713), (155, 666)),
    ],
)
def test_two_arms_equal_the_closed_form(first: tuple[int, int], second: tuple[int, int]) -> None:
    # The sum of the closed form runs over α of the second arm: take the smaller one there.
    if second[0] > 2000:
        expected = 1 - exact_p_second(second, first)
    else:
        expected = exact_p_second(first, second)
        loss = [exact_loss_of_first(first, second), exact_loss_of_first(second, first)]
        if first[0] <= 2000:
            found = compare(*arrays([first, second])).expected_loss
            assert found == pytest.approx([float(value) for value in loss], abs=1e-10)
    found = compare(*arrays([first, second])).p_best
    assert found == pytest.approx([float(1 - expected), float(expected)], abs=1e-10)


@pytest.mark.parametrize(
    "arms",
    [
        [(1, 1), (1, 1), (1, 1)],
        [(12, 90), (15, 88), (9, 95)],
        [(1, 1), (50_000, 50_000), (3, 4)],
        [(0.5, 20), (1, 9), (100, 900), (3000, 29_000)],
        [(1_000_000, 1_000_000), (1_001_000, 999_500), (700, 690)],
    ],
    ids=lambda arms: f"{len(arms)} arms, up to {max(a + b for a, b in arms):g}",
)
def test_more_arms_equal_adaptive_quadrature(arms: list[Arm]) -> None:
    p_best, loss = by_quad(arms)
    found = compare(*arrays(arms))
    assert found.p_best == pytest.approx(p_best, abs=1e-10)
    assert found.expected_loss == pytest.approx(loss, abs=1e-10)


def test_arms_of_a_trillion_counts_follow_the_normal_limit() -> None:
    # Means 0.5 and 0.5 − 2.5e-7, each with standard deviation 0.5/√2e12: half a standard deviation apart.
    found = compare([1e12, 1e12], [1e12, 1e12 + 1e6])
    assert found.p_best[0] == pytest.approx(0.6914624612740131, abs=1e-6)  # Φ(0.5), scipy 1.14


@settings(max_examples=60, deadline=None)
@given(st.lists(arm, min_size=2, max_size=8))
@example([(1.0, 1.0), (60.0, 0.5)])
def test_probabilities_sum_to_one_and_losses_are_not_negative(arms: list[Arm]) -> None:
    found = compare(*arrays(arms))
    assert found.error < 1e-9
    assert abs(found.p_best.sum() - 1) < 1e-12
    assert found.p_best.min() >= 0
    assert found.expected_loss.min() >= 0
    assert found.expected_loss.max() <= 1


@settings(max_examples=60, deadline=None)
@given(st.lists(arm, min_size=2, max_size=6), st.randoms(use_true_random=False))
def test_the_order_of_arms_does_not_matter(arms: list[Arm], random: np.random.Generator) -> None:
    order = list(range(len(arms)))
    random.shuffle(order)
    straight, shuffled = compare(*arrays(arms)), compare(*arrays([arms[i] for i in order]))
    assert shuffled.p_best == pytest.approx(straight.p_best[order], abs=1e-12)
    assert shuffled.expected_loss == pytest.approx(straight.expected_loss[order], abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.lists(arm, min_size=2, max_size=5), st.floats(0.1, 1000))
def test_more_successes_make_an_arm_more_probably_the_best(arms: list[Arm], more: float) -> None:
    before = compare(*arrays(arms))
    after = compare(*arrays([(arms[0][0] + more, arms[0][1]), *arms[1:]]))
    assert after.p_best[0] >= before.p_best[0] - 1e-12
    assert after.expected_loss[0] <= before.expected_loss[0] + 1e-12


def test_equal_arms_are_equally_good() -> None:
    assert compare([7.0] * 5, [3.0] * 5).p_best == pytest.approx([0.2] * 5, abs=1e-14)


@pytest.mark.parametrize("k", [1, 2, 4, 11])
def test_an_experiment_gets_the_same_bytes_alone_and_among_others(k: int) -> None:
    rng = np.random.default_rng(k)
    size = 10 ** rng.uniform(0, 12, (7, 41, k))
    alpha = 0.5 + size * rng.uniform(0, 1, (7, 41, k))
    beta = 0.5 + size - np.minimum(alpha, size)
    together = compare(alpha, beta)
    for place in [(0, 0), (0, 40), (3, 17), (6, 39), (6, 40)]:
        alone = compare(alpha[place], beta[place])
        assert alone.p_best.tobytes() == together.p_best[place].tobytes()
        assert alone.expected_loss.tobytes() == together.expected_loss[place].tobytes()
        in_a_row = compare(alpha[place[0], place[1] :], beta[place[0], place[1] :])
        assert in_a_row.expected_loss[0].tobytes() == together.expected_loss[place].tobytes()
        assert in_a_row.p_best[0].tobytes() == together.p_best[place].tobytes()


def test_any_allowed_parameters_give_probabilities() -> None:
    """Narrow arms far out, beside wide ones: the change of a log density over a segment is a difference of 1e10s."""
    rng = np.random.default_rng(0)
    alpha, beta = 10 ** rng.uniform(np.log10(0.02), 13, (2, 4000, 3))
    found = compare(alpha, beta)
    assert found.error.max() < 1e-6
    assert found.p_best.min() >= 0
    assert np.isfinite(found.expected_loss).all()


def test_no_experiments_give_no_results() -> None:
    assert compare(np.ones((0, 3)), np.ones((0, 3))).p_best.shape == (0, 3)


@pytest.mark.parametrize(("least", "bound"), [(0.5, 1e-9), (0.1, 1e-6), (0.02, 2e-4)])
def test_weak_priors_lose_precision_as_documented(least: float, bound: float) -> None:
    rng = np.random.default_rng(4)
    alpha, beta = rng.choice([least, least, 1.0, 30.0, 5000.0], (2, 25, 3))
    found = compare(alpha, beta)
    for place, arms in enumerate(zip(alpha, beta, strict=True)):
        p_best, loss = by_incomplete_beta(list(zip(*arms, strict=True)))
        assert found.p_best[place] == pytest.approx(p_best, abs=bound)
        assert found.expected_loss[place] == pytest.approx(loss, abs=bound)


def test_arms_of_very_different_size_equal_the_incomplete_beta() -> None:
    """What a bandit creates: 1 : 10⁴, rates within some standard deviations of the small arms."""
    rng = np.random.default_rng(9)
    n = rng.choice([100.0, 1e3, 1e4, 1e6], (20, 4))
    rate = np.clip(rng.uniform(0.02, 0.9, (20, 1)) + 0.03 * rng.normal(size=(20, 4)) * (1e2 / n) ** 0.4, 0.002, 0.998)
    alpha, beta = 1 + np.round(n * rate), 1 + n - np.round(n * rate)
    found = compare(alpha, beta)
    for place in range(20):
        p_best, loss = by_incomplete_beta(list(zip(alpha[place], beta[place], strict=True)))
        assert found.p_best[place] == pytest.approx(p_best, abs=1e-9)
        assert found.expected_loss[place] == pytest.approx(loss, abs=1e-9)


@pytest.mark.parametrize("bad", [[0.0, 1.0], [-1.0, 1.0], [float("nan"), 1.0], [float("inf"), 1.0], []])
def test_impossible_parameters_are_named(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="alpha"):
        compare(bad, [1.0] * len(bad))
    with pytest.raises(ValueError, match="beta"):
        compare([1.0] * len(bad), bad) if bad else compare([[1.0]], [[0.0]])


@settings(max_examples=30, deadline=None)
@given(arm)
def test_the_interval_holds_95_percent_with_equal_tails(one: Arm) -> None:
    low, high = credible_intervals([one[0]], [one[1]])[0]
    assert beta_distribution.cdf(low, *one) == pytest.approx(0.025, abs=1e-6)
    assert beta_distribution.sf(high, *one) == pytest.approx(0.025, abs=1e-6)
