"""Figures against scikit-learn and by hand; the bootstrap against duplicated rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as oracle

from training.metrics import Scored, auc_within_slates, bootstrap, intervals, point, user_weights


def random_scored(seed: int, *, slates: int = 60, users: int = 12, ties: bool = False) -> Scored:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(4, 11, slates)
    offsets = np.concatenate(([0], np.cumsum(sizes)))
    score = rng.random(offsets[-1])
    liked = rng.random(offsets[-1]) < score
    user = np.concatenate((np.arange(users), rng.integers(0, users, slates - users)))
    return Scored(liked, offsets, user, np.round(score, 1) if ties else score)


@pytest.mark.parametrize("ties", [False, True])
def test_figures_agree_with_scikit_learn(ties: bool) -> None:
    one = random_scored(1, ties=ties)
    found, said = point(one), one.score >= 0.5
    clipped = np.clip(one.score, 1e-7, 1 - 1e-7)
    assert found["auc"] == pytest.approx(oracle.roc_auc_score(one.liked, one.score))
    assert found["pr_auc"] == pytest.approx(oracle.average_precision_score(one.liked, one.score))
    assert found["log_loss"] == pytest.approx(oracle.log_loss(one.liked, clipped))
    assert found["brier"] == pytest.approx(oracle.brier_score_loss(one.liked, one.score))
    assert found["accuracy"] == pytest.approx(oracle.accuracy_score(one.liked, said))
    assert found["precision"] == pytest.approx(oracle.precision_score(one.liked, said))
    assert found["recall"] == pytest.approx(oracle.recall_score(one.liked, said))
    assert found["f1"] == pytest.approx(oracle.f1_score(one.liked, said))


def test_ndcg_agrees_with_scikit_learn() -> None:
    one = random_scored(2)
    slates = [slice(low, high) for low, high in zip(one.offsets[:-1], one.offsets[1:], strict=True)]
    values = [oracle.ndcg_score([one.liked[s]], [one.score[s]], k=3) for s in slates if one.liked[s].any()]
    assert point(one)["ndcg_at_3"] == pytest.approx(np.mean(values))


def test_figures_of_two_slates_by_hand() -> None:
    liked = np.array([1, 0, 0, 1, 1, 0, 0, 0], dtype=bool)
    score = np.array([0.9, 0.8, 0.7, 0.6, 0.1, 0.2, 0.3, 0.4])
    found = point(Scored(liked, np.array([0, 4, 8]), np.array([0, 0]), score))
    assert found["ctr_at_1"] == 0.5
    assert found["ctr_at_3"] == pytest.approx(1 / 6)
    assert found["ndcg_at_1"] == 0.5
    assert found["ndcg_at_3"] == pytest.approx((1 / (1 + 1 / np.log2(3)) + 0) / 2)


def test_equal_scores_keep_the_order_of_the_slate() -> None:
    liked = np.array([0, 1, 1, 0], dtype=bool)
    assert point(Scored(liked, np.array([0, 2, 4]), np.array([0, 1]), np.zeros(4)))["ctr_at_1"] == 0.5


def test_what_is_not_defined_is_nan() -> None:
    nobody = point(Scored(np.zeros(4, dtype=bool), np.array([0, 4]), np.array([0]), np.zeros(4)))
    assert np.isnan([nobody[name] for name in ("auc", "pr_auc", "ndcg_at_1", "precision", "recall", "f1")]).all()
    assert nobody["accuracy"] == 1
    ranks = point(Scored(np.array([True, False]), np.array([0, 2]), np.array([0]), np.array([7.0, 3.0]), False))
    assert ranks["auc"] == 1
    assert "log_loss" not in ranks


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), ties=st.booleans())
def test_a_weight_is_a_number_of_copies(seed: int, ties: bool) -> None:
    one = random_scored(seed, slates=15, users=5, ties=ties)
    copies = np.array([1, 0, 2, 3, 1])
    weighted = {name: values[0] for name, values in bootstrap(one, copies[None].astype(float)).items()}
    slates = np.repeat(np.arange(len(one.user)), copies[one.user])
    sizes = np.diff(one.offsets)
    rows = np.concatenate([np.arange(one.offsets[s], one.offsets[s + 1]) for s in slates])
    repeated = Scored(
        one.liked[rows], np.concatenate(([0], np.cumsum(sizes[slates]))), one.user[slates], one.score[rows]
    )
    for name, value in point(repeated).items():
        assert weighted[name] == pytest.approx(value, nan_ok=True), name


def test_intervals_of_users_who_differ_are_wider_than_those_of_rows() -> None:
    """Every user clicks always or never: 40 users are 40 observations, however many rows they have."""
    rng = np.random.default_rng(3)
    users, each = 40, 50
    liked = np.repeat(rng.random(users) < 0.5, each)
    one = Scored(liked, np.arange(0, users * each + 1, 5), np.repeat(np.arange(users), each // 5), rng.random(2000))
    low, high = intervals(bootstrap(one, user_weights(users, 400, 0)))["ctr_at_1"]
    standard_error = np.sqrt(0.25 / users)
    assert high - low == pytest.approx(2 * 1.96 * standard_error, rel=0.2)


def test_weights_are_the_same_for_the_same_seed() -> None:
    assert (user_weights(9, 5, 1) == user_weights(9, 5, 1)).all()
    assert (user_weights(9, 5, 1) != user_weights(9, 5, 2)).any()
    assert (user_weights(9, 5, 1).sum(axis=1) == 9).all()


def test_auc_within_slates_ignores_what_lies_between_them() -> None:
    liked = np.array([1, 0, 1, 0, 0, 0], dtype=bool)
    score = np.array([0.1, 0.2, 0.9, 0.9, 0.3, 5.0])
    assert auc_within_slates(liked, np.array([0, 2, 5, 6]), score) == pytest.approx((0 + 0.5 + 1) / 3)
    assert np.isnan(auc_within_slates(liked[5:], np.array([0, 1]), score[5:]))
