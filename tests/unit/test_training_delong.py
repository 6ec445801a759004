"""DeLong's test on the data of a published example, against the definition, and its clustered form against itself."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from training.delong import areas, difference

# 43 patients of DeLong, DeLong, Clarke-Pearson 1988 with all three tests: albumin, total protein, K-G score and
# whether surgery helped. Source: SAS/STAT User's Guide, PROC LOGISTIC, example "Comparing Receiver Operating
# Characteristic Curves", where the score is turned (10 − score) and high values stand for help.
PATIENTS = np.fromstring("""
3.0 5.8 10 0   3.2 6.3  5 1   3.9 6.8  3 1   2.8 4.8  6 0   3.2 5.8  3 1   0.9 4.0  5 0   2.5 5.7  8 0   1.6 5.6  5 1
3.8 5.7  5 1   3.7 6.7  6 1   3.2 5.4  4 1   3.8 6.6  6 1   4.1 6.6  5 1   3.6 5.7  5 1   4.3 7.0  4 1   3.6 6.7  4 0
2.3 4.4  6 1   4.2 7.6  4 0   4.0 6.6  6 0   3.5 5.8  6 1   3.8 6.8  7 1   3.0 4.7  8 0   4.5 7.4  5 1   3.7 7.4  5 1
3.1 6.6  6 1   4.1 8.2  6 1   4.3 7.0  5 1   4.3 6.5  4 1   3.2 5.1  5 1   2.6 4.7  6 1   3.3 6.8  6 0   1.7 4.0  7 0
3.7 6.1  5 1   3.3 6.3  7 1   4.2 7.7  6 1   3.5 6.2  5 1   2.9 5.7  9 0   2.1 4.8  7 1   2.8 6.2  8 0   4.0 7.0  7 1
3.3 5.7  6 1   3.7 6.9  5 1   3.6 6.6  5 1
""", sep=" ").reshape(-1, 4)  # fmt: skip
HELPED = PATIENTS[:, 3] == 1
ALBUMIN, PROTEIN, SCORE = PATIENTS[:, 0], PATIENTS[:, 1], 10 - PATIENTS[:, 2]


def test_areas_of_the_published_example() -> None:
    found = areas(HELPED, np.stack([ALBUMIN, SCORE, PROTEIN]))
    # To four digits, from comparing all pairs (`by_definition`) in a program of its own.
    assert found.auc == pytest.approx([0.7366, 0.7258, 0.6478], abs=5e-5)
    assert np.sqrt(np.diag(found.covariance)) == pytest.approx([0.0927, 0.1028, 0.1000], abs=6e-5)


def test_differences_of_the_published_example() -> None:
    albumin, protein = (difference(HELPED, test, SCORE) for test in (ALBUMIN, PROTEIN))
    assert (albumin.estimate, albumin.standard_error) == pytest.approx((0.0108, 0.0953), abs=6e-5)
    assert (protein.estimate, protein.standard_error) == pytest.approx((-0.0780, 0.1046), abs=6e-5)
    assert albumin.z**2 == pytest.approx(0.0127, abs=6e-5)
    assert protein.z**2 == pytest.approx(0.5554, abs=6e-5)
    assert (albumin.p_value, protein.p_value) == pytest.approx((0.9102, 0.4561), abs=1e-4)


def by_definition(liked: NDArray[np.bool_], scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """All pairs compared, as in the paper."""
    up, down = scores[:, liked, None], scores[:, None, ~liked]
    order = (up > down) + 0.5 * (up == down)
    return np.cov(order.mean(axis=2)) / liked.sum() + np.cov(order.mean(axis=1)) / (~liked).sum()


@pytest.mark.parametrize("digits", [1, 6])
def test_ranks_give_what_comparing_all_pairs_gives(digits: int) -> None:
    rng = np.random.default_rng(1)
    liked = rng.random(200) < 0.4
    scores = np.round(rng.normal(size=(3, 200)) + liked, digits)
    assert areas(liked, scores).covariance == pytest.approx(by_definition(liked, scores))


def test_rows_that_are_copied_within_a_cluster_add_nothing() -> None:
    rng = np.random.default_rng(2)
    liked = rng.random(60) < 0.5
    scores = rng.normal(size=(2, 60)) + liked
    single = areas(liked, scores)
    copied = areas(np.tile(liked, 3), np.tile(scores, 3), np.tile(np.arange(60), 3))
    assert copied.auc == pytest.approx(single.auc)
    assert copied.covariance == pytest.approx(single.covariance)
    assert np.tile(liked, 3).sum() == 3 * liked.sum()


def test_the_clustered_error_is_the_spread_over_many_samples() -> None:
    """Users with levels of their own in clicks and scores; the estimate from one sample against 400 samples."""
    rng = np.random.default_rng(3)
    found, errors = [], []
    for _ in range(400):
        user = np.repeat(np.arange(40), 10)
        level = rng.normal(size=40)[user]
        liked = rng.normal(size=400) + level > 0
        own = areas(liked, np.stack([level + rng.normal(size=400)]), user)
        found.append(own.auc[0])
        errors.append(np.sqrt(own.covariance[0, 0]))
    assert np.mean(errors) == pytest.approx(np.std(found), rel=0.1)


def test_equal_scores_do_not_differ() -> None:
    same = difference(HELPED, ALBUMIN, 2 * ALBUMIN)
    assert (same.estimate, same.standard_error, same.p_value) == (0, 0, 1)
    assert np.isnan(same.z)
    perfect = difference(HELPED, HELPED.astype(float), -HELPED.astype(float))
    assert (perfect.estimate, perfect.p_value) == (1, 0)


@pytest.mark.parametrize(
    ("liked", "scores", "cluster", "message"),
    [
        ([True, True, False], [1, 2, 3], None, "two of each class"),
        ([True, False], [1], None, "scores"),
        ([True, True, False, False], [1, 2, float("nan"), 3], None, "finite"),
        ([True, True, False, False], [1, 2, 3, 4], [0, 0, 1, 2], "cluster"),
    ],
)
def test_too_little_data_is_refused(
    liked: list[bool], scores: list[float], cluster: list[int] | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        areas(np.array(liked), np.array(scores), None if cluster is None else np.array(cluster))
