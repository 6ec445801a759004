"""Trainings on other parts of the log: how much of a figure is luck of the split.

Features are those of the whole log; they know of each request what had ended before it, so no fold changes them.
Libraries: scikit-learn, threadpoolctl.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from sluice.features.definition import Ints
from training.dataset import Dataset
from training.metrics import point
from training.models import Examples
from training.train import fit, scored

__all__ = ["FOLDS", "GROUPED", "ROLLING", "Fold", "FoldFigures", "by_user", "refit", "rolling_origin"]

ROLLING, GROUPED = "rolling", "grouped"
FOLDS = 5
FIRST_SHARE = 0.4
"""Of the slates, by time: what the first rolling fold trains on at most."""


class Fold(NamedTuple):
    kind: str
    """`rolling` or `grouped`"""
    number: int
    """From 1"""
    train: Ints
    """Slates, ascending"""
    test: Ints


class FoldFigures(NamedTuple):
    """Of one model, fitted anew for this fold."""

    kind: str
    number: int
    model: str
    auc: float
    ctr_at_1: float
    train_slates: int
    test_slates: int


def rolling_origin(data: Dataset, folds: int = FOLDS) -> list[Fold]:
    """Each fold tests the next stretch of slates by time and trains on all that had ended before it began.

    Folds without slates or clicks on either side are left out.
    """
    log = data.log
    cuts = np.linspace(FIRST_SHARE * len(log), len(log), folds + 1).astype(int)
    found = []
    for number, (low, high) in enumerate(pairwise(cuts.tolist()), start=1):
        if low < high:
            train = np.flatnonzero(log.end_ms[:low] < log.at_ms[low])
            found.append(Fold(ROLLING, number, train, np.arange(low, high)))
    return [fold for fold in found if _usable(data, fold)]


def by_user(data: Dataset, folds: int = FOLDS) -> list[Fold]:
    """Each fold tests all slates of some users and trains on those of the others, earlier and later ones alike."""
    from sklearn.model_selection import GroupKFold

    user = data.log.user
    folds = min(folds, len(np.unique(user)))
    if folds < 2:
        return []
    split = GroupKFold(folds).split(user, groups=user)
    found = [Fold(GROUPED, number, train, test) for number, (train, test) in enumerate(split, start=1)]
    return [fold for fold in found if _usable(data, fold)]


def refit(
    examples: Examples,
    folds: Sequence[Fold],
    names: Sequence[str],
    *,
    seed: int = 0,
    progress: Callable[[str], None] = lambda name: None,
) -> list[FoldFigures]:
    """The models `names` fitted to each fold's training slates and measured on its others.

    Fold by fold, then by name. `progress` hears of each fold whose first model is done.
    """
    tasks = [(fold, name) for fold in folds for name in names]
    found = []
    # Fits this small are slower on several threads than on one; so several of them run beside each other.
    with threadpool_limits(1), ThreadPoolExecutor(os.cpu_count()) as pool:
        for one in pool.map(lambda task: _refit(examples, task[0], task[1], seed), tasks):
            if one.model == names[0]:
                progress(f"{one.kind} fold {one.number}")
            found.append(one)
    return found


def _refit(examples: Examples, fold: Fold, name: str, seed: int) -> FoldFigures:
    model, _ = fit(name, examples, fold.train, seed)
    values = point(scored(examples, fold.test, model.predict(examples, fold.test)))
    return FoldFigures(fold.kind, fold.number, name, values["auc"], values["ctr_at_1"], len(fold.train), len(fold.test))


def _usable(data: Dataset, fold: Fold) -> bool:
    """A fit needs both classes in its first and last part, a figure in the test slates."""
    last = max(len(fold.train) // 5, 1)
    parts = fold.train[:-last], fold.train[-last:], fold.test
    return all(len(part) > 0 and 0 < data.log.liked[data.rows(part)].mean() < 1 for part in parts)
