"""Folds: never later slates (rolling), never the same users (grouped)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slate_logs import make_log

from training.dataset import Dataset
from training.folds import GROUPED, ROLLING, by_user, refit, rolling_origin
from training.models import Examples


def make_data(slates: int, *, seed: int = 0, users: int = 40) -> Dataset:
    log, _ = make_log(slates, seed=seed, users=users)
    return Dataset(
        name="planted", fingerprint="0" * 16, log=log, users=[str(u) for u in range(users)], titles={}, genres={},
        tags={}, about={}, test_from=slates // 2,
    )  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 400), st.integers(0, 100))
def test_rolling_folds_train_on_what_had_ended(slates: int, seed: int) -> None:
    data = make_data(slates, seed=seed)
    log = data.log
    tested: list[int] = []
    for fold in rolling_origin(data):
        assert fold.kind == ROLLING
        assert log.end_ms[fold.train].max() < log.at_ms[fold.test].min()
        tested += fold.test.tolist()
    assert tested == sorted(set(tested))  # no slate is tested twice


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 400), st.integers(1, 40), st.integers(0, 100))
def test_grouped_folds_share_no_user(slates: int, users: int, seed: int) -> None:
    data = make_data(slates, seed=seed, users=users)
    tested: list[int] = []
    for fold in by_user(data):
        assert fold.kind == GROUPED
        assert not set(data.log.user[fold.train]) & set(data.log.user[fold.test])
        assert (np.diff(fold.train) > 0).all()
        tested += fold.test.tolist()
    assert len(tested) == len(set(tested))


def test_all_later_slates_and_all_users_are_tested() -> None:
    data = make_data(1000)
    assert sum(len(fold.test) for fold in rolling_origin(data)) == 600
    assert sum(len(fold.test) for fold in by_user(data)) == 1000
    assert [fold.number for fold in by_user(data)] == [1, 2, 3, 4, 5]


def test_folds_of_one_class_are_left_out() -> None:
    data = make_data(300)
    never = replace(data, log=replace(data.log, liked=np.zeros_like(data.log.liked)))
    assert rolling_origin(never) == by_user(never) == []


def test_models_are_fitted_anew_to_each_fold() -> None:
    examples = Examples.of(make_data(600))
    folds = rolling_origin(examples.data)[:2]
    heard: list[str] = []
    found = refit(examples, folds, ["PolicyA", "content"], progress=heard.append)
    assert [(one.number, one.model) for one in found] == [
        (1, "PolicyA"),
        (1, "content"),
        (2, "PolicyA"),
        (2, "content"),
    ]
    assert heard == ["rolling fold 1", "rolling fold 2"]
    assert found == refit(examples, folds, ["PolicyA", "content"])
    assert found[2].auc == pytest.approx(refit(examples, folds[1:], ["PolicyA"])[0].auc)
    assert all(0.5 < one.auc < 1 and 0 < one.ctr_at_1 < 1 for one in found)
