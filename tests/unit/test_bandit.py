"""Allocation rules against their definitions, MABWiser, and the mapping that the router understands."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mabwiser.mab import MAB, LearningPolicy
from scipy.optimize import brentq

from analyzer.engine import bandit
from analyzer.engine.bayes import compare
from analyzer.engine.normal import compare_normal
from sluice.domain.allocation import whole_percents

weights = st.lists(st.one_of(st.just(0.0), st.floats(1e-12, 1.0)), min_size=2, max_size=20).filter(lambda w: sum(w) > 0)
probabilities = st.lists(st.floats(1e-6, 1.0), min_size=2, max_size=6).map(lambda w: np.array(w) / sum(w))
arms = st.lists(st.integers(1, 300).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))), min_size=2, max_size=5)


def draws(n: np.ndarray, c: np.ndarray, runs: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).beta(1 + c, 1 + n - c, (runs, len(n)))


@given(probabilities, st.floats(0.05, 1.0))
def test_top_two_equals_the_sum_over_ordered_pairs(p: np.ndarray, first: float) -> None:
    # P(first = j, then i) = p_j · p_i / (1 − p_j)
    k = len(p)
    others = [np.delete(p, j).sum() for j in range(k)]  # p.sum() − p[j] would lose its digits
    expected = [first * p[i] + (1 - first) * sum(p[j] * p[i] / others[j] for j in range(k) if j != i) for i in range(k)]
    found = bandit.top_two(p, first)
    assert found == pytest.approx(expected, rel=1e-9)
    assert found.sum() == pytest.approx(1)


def test_top_two_matches_drawing_twice() -> None:
    n, c = np.array([100.0, 120.0, 80.0]), np.array([30.0, 41.0, 28.0])
    best = draws(n, c, 400_000, 1).argmax(axis=1)
    second = best.copy()
    seed = 2
    while (same := second == best).any():
        second[same] = draws(n, c, int(same.sum()), seed).argmax(axis=1)
        seed += 1
    counted = (np.bincount(best, minlength=3) + np.bincount(second, minlength=3)) / (2 * len(best))
    assert bandit.top_two(compare(1 + c, 1 + n - c).p_best) == pytest.approx(counted, abs=0.004)  # 5 standard errors


def test_top_two_of_a_certain_leader_still_explores() -> None:
    assert bandit.top_two([1.0, 0.0, 0.0]).tolist() == [0.5, 0.25, 0.25]
    assert bandit.top_two([1 - 1e-13, 0.75e-13, 0.25e-13]) == pytest.approx([0.5, 0.375, 0.125], rel=1e-3)
    assert bandit.top_two([1.0]).tolist() == [1]
    assert bandit.top_two([1.0, 1e-320]).tolist() == [0.5, 0.5]


@pytest.mark.parametrize("seed", range(5))
def test_greedy_and_ucb1_choose_what_mabwiser_chooses(seed: int) -> None:
    """MABWiser 2.7: `LearningPolicy.UCB1(alpha=1)` is mean + √(2 ln N / n); `EpsilonGreedy(epsilon=0)` the mean."""
    rng = np.random.default_rng(seed)
    n = rng.integers(1, 60, 4)
    c = rng.binomial(n, rng.uniform(0.2, 0.8, 4))
    decisions = np.repeat(np.arange(4), n)
    rewards = np.concatenate([np.r_[np.ones(hit), np.zeros(shown - hit)] for shown, hit in zip(n, c, strict=True)])
    for policy, rule in (
        (LearningPolicy.UCB1(alpha=1), bandit.ucb1),
        (LearningPolicy.EpsilonGreedy(epsilon=0), lambda n, c: bandit.epsilon_greedy(n, c, 0.0)),
    ):
        mab = MAB([0, 1, 2, 3], policy)
        mab.fit(decisions, rewards)
        assert int(rule(n, c).argmax()) == mab.predict()


def test_thompson_shares_are_how_often_mabwiser_chooses() -> None:
    n, c = np.array([60, 80, 70]), np.array([20, 33, 24])
    decisions = np.repeat(np.arange(3), n)
    rewards = np.concatenate([np.r_[np.ones(hit), np.zeros(shown - hit)] for shown, hit in zip(n, c, strict=True)])
    mab = MAB([0, 1, 2], LearningPolicy.ThompsonSampling(), seed=4)
    mab.fit(decisions, rewards)
    chosen = np.bincount([mab.predict() for _ in range(4000)], minlength=3) / 4000
    assert compare(1 + c, 1 + n - c).p_best == pytest.approx(chosen, abs=0.03)  # four standard errors


@given(arms)
def test_kl_ucb_chooses_the_largest_root(counted: list[tuple[int, int]]) -> None:
    n, c = np.array(counted, dtype=float).T
    level = np.log(n.sum())

    def divergence(p: float, q: float) -> float:
        low = p * np.log(p / q) if p > 0 else 0.0
        return float(low + ((1 - p) * np.log((1 - p) / (1 - q)) if p < 1 else 0.0))

    roots = []
    for shown, hit in zip(n, c, strict=True):
        p = hit / shown
        if p == 1 or shown * divergence(p, 1 - 1e-15) <= level:
            roots.append(1.0)
        else:
            roots.append(brentq(lambda q, p=p, m=shown: m * divergence(p, q) - level, max(p, 1e-15), 1 - 1e-15))
    chosen = int(bandit.kl_ucb(n, c).argmax())
    assert roots[chosen] == pytest.approx(max(roots), abs=1e-9)


def test_variants_without_impressions_are_tried_first() -> None:
    for rule in (bandit.ucb1, bandit.kl_ucb, lambda n, c: bandit.epsilon_greedy(n, c, 0.0)):
        assert rule([[5, 0, 0], [5, 4, 3]], [[5, 0, 0], [1, 3, 0]]).tolist() == [[0, 1, 0], [0, 1, 0]]
        assert rule([0, 0], [0, 0]).tolist() == [1, 0]


def test_epsilon_goes_to_all_alike() -> None:
    assert bandit.epsilon_greedy([10, 10], [1, 9], 0.2).tolist() == pytest.approx([0.1, 0.9])
    assert bandit.uniform((2, 4)).tolist() == [[0.25] * 4] * 2


@given(weights)
def test_whole_percents_of_arrays_are_those_of_mappings(w: list[float]) -> None:
    names = [f"v{i}" for i in range(len(w))]
    expected = list(whole_percents(dict(zip(names, w, strict=True))).values())
    assert bandit.whole(w).tolist() == expected
    assert bandit.whole([w, w])[1].tolist() == expected


@given(weights, st.integers(0, 50))
def test_rows_are_lifted_each_as_if_alone(w: list[float], percent: int) -> None:
    floor = min(percent / 100, 1 / len(w))
    rows = np.array([w, w[::-1], np.ones(len(w))])
    together = bandit.lifted(rows, floor)
    assert together.sum(axis=-1) == pytest.approx(np.full(3, 100.0))
    for row, found in zip(rows, together, strict=True):
        assert bandit.lifted(row, floor).tobytes() == found.tobytes()


def test_a_bandit_has_converged_when_little_is_left_to_gain() -> None:
    alpha, beta = np.array([[101, 121], [10_001, 12_001]]), np.array([[901, 881], [90_001, 88_001]])
    means = alpha / (alpha + beta)
    found = bandit.convergence(compare(alpha, beta), means)
    assert found.leader.tolist() == [1, 1]
    assert found.converged.tolist() == [False, True]
    assert found.relative == pytest.approx(found.remaining / means[:, 1])
    # Equal arms converge, too, once they are known well: nothing is left to gain by choosing between them.
    assert bandit.convergence(compare([1e8, 1e8], [1e8, 1e8]), [0.5, 0.5]).converged
    assert not bandit.convergence(compare_normal([0.0, -5.0], [1.0, 1.0]), [0.0, -5.0]).converged


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: bandit.top_two([0.5, 0.5], 0.0), "first"),
        (lambda: bandit.top_two([0.0, 0.0]), "p_best"),
        (lambda: bandit.epsilon_greedy([1, 1], [1, 1], 1.5), "epsilon"),
        (lambda: bandit.ucb1([1, -1], [0, 0]), "n"),
        (lambda: bandit.kl_ucb([1, 1], [0, 2]), "c"),
        (lambda: bandit.ucb1([1, np.nan], [0, 0]), "n"),
        (lambda: bandit.ucb1([], []), "n"),
        (lambda: bandit.lifted([1.0, 0.0], 0.6), "floor"),
        (lambda: bandit.whole([np.inf, 1.0]), "shares"),
        (lambda: bandit.convergence(compare([1.0], [1.0]), [0.5], 0.0), "caring"),
    ],
)
def test_impossible_arguments_are_named(call: object, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        call()  # type: ignore[operator]
