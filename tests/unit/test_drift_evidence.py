"""Bets against no drift, and distances between distributions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from sluice.domain.drift.evidence import MAX_GAMES, USERS_A_GAME, Bets, Evidence, Scores, bets_above, bets_around
from sluice.domain.drift.measures import distance, expected_counts


def played(draw: object, windows: int, users: int, seed: int) -> Evidence:
    """draw: (rng, users) → distances."""
    assert callable(draw)
    rng = np.random.default_rng(seed)
    evidence = Evidence(Bets.join([bets_around(0, 1.0, 0)]))
    for window in range(windows):
        distances = draw(rng, users)[:, None]
        cells = np.arange(window * users, (window + 1) * users) % 16_384
        evidence.play(window, cells, Scores(distances, np.full_like(distances, 0.05)))
    return evidence


@pytest.mark.parametrize(
    "draw",
    [
        lambda rng, users: rng.choice([-1.0, 1.0], p=[0.475, 0.525], size=users),  # at the edge of what is tolerated
        lambda rng, users: np.where(rng.random(users) < 0.1, 0.95, -0.05),
        lambda rng, users: np.clip(rng.normal(0, 0.3, users), -1, 1),
    ],
    ids=["at the edge", "skewed", "normal"],
)
def test_false_alarms_are_bounded_however_often_one_looks(draw: object) -> None:
    # 200 series of 60 looks; a false alarm at 0.2 in more than 0.2 of them by 3 standard errors would refute Ville.
    alarms = sum(bool(played(draw, 60, 16, seed).p_values()[0] <= 0.2) for seed in range(200))
    assert alarms / 200 <= 0.2 + 3 * (0.2 * 0.8 / 200) ** 0.5


def test_a_late_change_is_seen_and_placed() -> None:
    change = 40
    moved = iter(range(80))

    def draw(rng: np.random.Generator, users: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        return np.clip(rng.normal(0.5 if next(moved) >= change else 0.0, 0.3, users), -1, 1)

    evidence = played(draw, 80, 20, 1)
    assert evidence.p_values()[0] < 1e-6
    assert abs(evidence.began_ms(0) - change) <= 2


def test_games_are_bounded_and_begin_with_users() -> None:
    evidence = played(lambda rng, users: np.zeros(users), 300, USERS_A_GAME, 2)
    assert len(evidence.numbers) <= MAX_GAMES
    assert evidence.games == 300
    assert evidence.numbers[0] == 1, "the first is kept"
    slow = played(lambda rng, users: np.zeros(users), 300, 1, 2)
    assert slow.games == -(-300 // USERS_A_GAME)


def test_who_says_nothing_moves_nothing() -> None:
    evidence = Evidence(Bets.join([bets_around(0, 0.5, 0), bets_above(1, 0.5, 0)]))
    evidence.play(0, np.arange(3), Scores(np.full((3, 2), np.nan), np.full((3, 2), 0.1)))
    assert not evidence.wealth.any()


def test_shares_above_the_tolerance_are_evidence() -> None:
    evidence = Evidence(bets_above(0, 1.0, 0))
    for window in range(20):
        evidence.play(window, np.arange(10) + 10 * window, Scores(np.full((10, 1), 0.2), np.full((10, 1), 0.02)))
    assert evidence.p_values()[0] < 1e-9


def test_distances_are_those_of_scipy() -> None:
    rng = np.random.default_rng(3)
    before, after = rng.integers(0, 6, 500), rng.integers(1, 7, 300)
    found = distance(np.bincount(before, minlength=7).astype(float), np.bincount(after, minlength=7))
    exact = stats.ks_2samp(before, after, method="asymp")
    assert found.ks == pytest.approx(exact.statistic)
    assert found.ks_p_value == pytest.approx(exact.pvalue, rel=1e-3)
    table = np.array([np.bincount(before, minlength=7), np.bincount(after, minlength=7)])
    assert found.chi2_p_value == pytest.approx(stats.chi2_contingency(table, correction=False).pvalue)
    assert found.chi2 == pytest.approx(stats.contingency.association(table))
    assert 0 < found.js < 1 and found.psi > 0.1


def test_equal_distributions_have_no_distance() -> None:
    counts = np.array([10, 20, 30])
    assert distance(counts * 2.0, counts) == pytest.approx((0, 0, 1, 0, 1, 0), abs=1e-3)
    assert all(np.isnan(distance(np.zeros(3), counts)))


def test_what_is_expected_has_the_ages_that_were_seen() -> None:
    reference = np.array([[90, 10], [10, 90], [0, 0]])
    old = expected_counts(reference, np.array([[0, 0], [3, 4], [5, 5]]))
    assert old / old.sum() == pytest.approx([0.1, 0.9])
    assert not expected_counts(reference, np.zeros((3, 2), dtype=np.int64)).any()
