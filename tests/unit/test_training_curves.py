"""Curves against scikit-learn, lift and gain by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import auc, average_precision_score, roc_auc_score

from training.curves import POINTS, gain, lift, precision_recall, reliability, roc
from training.metrics import Scored


def make(rows: int = 5000, *, seed: int = 0, ties: bool = False) -> Scored:
    rng = np.random.default_rng(seed)
    score = rng.random(rows)
    if ties:
        score = np.round(score, 1)
    liked = rng.random(rows) < score
    return Scored(liked, np.arange(0, rows + 1, 10), np.arange(rows // 10) % 50, score)


@pytest.mark.parametrize("ties", [False, True])
def test_roc_and_precision_recall_enclose_the_areas_of_scikit_learn(ties: bool) -> None:
    scored = make(ties=ties)
    assert auc(*roc(scored)) == pytest.approx(roc_auc_score(scored.liked, scored.score), abs=2e-3)
    recall, precision = precision_recall(scored)
    steps = float((np.diff(recall, prepend=0) * precision).sum())
    assert steps == pytest.approx(average_precision_score(scored.liked, scored.score), abs=2e-2 if ties else 5e-3)


def test_curves_are_short_enough_for_a_page_and_keep_their_ends() -> None:
    scored = make(20_000)
    for curve in (roc(scored), precision_recall(scored), gain(scored)):
        assert len(curve.x) == len(curve.y) <= POINTS + 2
        assert (np.diff(curve.x) >= 0).all()
    assert [*roc(scored).x[[0, -1]], *roc(scored).y[[0, -1]]] == [0, 1, 0, 1]


def test_gain_and_lift_by_hand() -> None:
    # By falling score: click, none, click, none.
    scored = Scored(
        np.array([False, True, True, False]), np.array([0, 4]), np.array([0]), np.array([0.1, 0.9, 0.5, 0.7])
    )
    assert gain(scored).x.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert gain(scored).y.tolist() == [0, 0.5, 0.5, 1, 1]
    assert lift(scored).y.tolist() == pytest.approx([2, 1, 4 / 3, 1])


def test_equal_scores_lie_on_one_line() -> None:
    scored = Scored(np.array([True, False, False, True]), np.array([0, 4]), np.array([0]), np.full(4, 0.5))
    assert gain(scored).x.tolist() == [0, 1]
    assert gain(scored).y.tolist() == [0, 1]


def test_reliability_is_that_of_scikit_learn() -> None:
    scored = make()
    observed, predicted = calibration_curve(scored.liked, scored.score, n_bins=10, strategy="quantile")
    bins = reliability(scored)
    assert [one.predicted for one in bins] == pytest.approx(predicted)
    assert [one.observed.value for one in bins] == pytest.approx(observed)
    assert sum(one.rows for one in bins) == len(scored.liked)
    assert all(one.observed.low < one.observed.value < one.observed.high for one in bins)


def test_reliability_of_few_distinct_values() -> None:
    scored = Scored(np.arange(40) % 2 == 0, np.arange(0, 41, 10), np.arange(4), np.repeat([0.2, 0.8], 20))
    assert [one.predicted for one in reliability(scored)] == pytest.approx([0.2, 0.8])
