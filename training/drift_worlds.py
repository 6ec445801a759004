"""Logs whose drift is known: whole users permuted in time, so that there is none, and changes planted in them.

Library: numpy.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sluice.domain.drift import Outcomes, Rows
from sluice.features import SlateLog
from training.dataset import Dataset

__all__ = ["change_of", "dropped_clicks", "missing", "permuted", "permuted_tastes", "shifted"]


def permuted(data: Dataset, rng: np.random.Generator) -> Dataset:
    """Every user begins when another one did and keeps the pace: only what users have in common may depend on time."""
    log, users = data.log, len(data.users)
    first = np.full(users, np.iinfo(np.int64).max)
    np.minimum.at(first, log.user, log.at_ms)
    seen = np.flatnonzero(np.bincount(log.user, minlength=users))
    shift = np.zeros(users, dtype=np.int64)
    shift[seen] = first[rng.permutation(seen)] - first[seen]
    at_ms, end_ms = log.at_ms + shift[log.user], log.end_ms + shift[log.user]
    order = np.lexsort((log.user, at_ms))
    rows = data.rows(order)
    return replace(
        data,
        log=SlateLog(
            user=log.user[order], at_ms=at_ms[order], end_ms=end_ms[order],
            offsets=np.concatenate(([0], np.cumsum(np.diff(log.offsets)[order]))), item=log.item[rows],
            liked=log.liked[rows], rating_milli=log.rating_milli[rows], items=log.items,
        ),
    )  # fmt: skip


def change_of(data: Dataset) -> int:
    """The slate from which on the world is another one: in the middle of the test part."""
    return (data.test_from + len(data.log)) // 2


def permuted_tastes(data: Dataset, amplitude: float, rng: np.random.Generator) -> Dataset:
    """From the change on, what genres promise is permuted: ratings move by up to some `amplitude` stars.

    The mean over all rows stays, so that there are about as many clicks; only the best are other ones.
    """
    log, genres = data.log, len(data.catalogue.genres)
    has = np.zeros((len(log.items), genres))
    for row, item in enumerate(log.items):
        has[row, list(data.catalogue.facts(item).genres)] = 1
    rated = has[log.item]
    liking = (rated * log.rating_milli[:, None]).sum(axis=0) / np.maximum(rated.sum(axis=0), 1)
    level = np.empty(genres)
    level[np.argsort(liking)] = np.linspace(-1, 1, genres)
    moves = level[rng.permutation(genres)] - level
    shift = ((has @ moves) / np.maximum(has.sum(axis=1), 1))[log.item]
    shift = (shift - shift.mean()) / shift.std()
    changed = np.clip(np.round(2 * (log.rating_milli / 1000 + amplitude * shift)) / 2, 0.5, 5)
    after = np.repeat(np.arange(len(log)) >= change_of(data), np.diff(log.offsets))
    rating = np.where(after, np.rint(1000 * changed), log.rating_milli).astype(np.int64)
    click_from = 1000 * float(data.options["click_from"])
    return replace(data, log=replace(log, rating_milli=rating, liked=rating >= click_from))


def shifted(rows: Rows, after_ms: int, column: int, by: float) -> Rows:
    """One feature is higher by so many standard deviations from the change on."""
    features = rows.features.copy()
    features[rows.at_ms >= after_ms, column] += by * features[:, column].std()
    return rows._replace(features=features)


def dropped_clicks(outcomes: Outcomes, after_ms: int, by: float, rng: np.random.Generator) -> Outcomes:
    """From the change on, so much of the click rate is gone, whatever the item."""
    keep = 1 - by / float(outcomes.clicked.mean())
    lost = (outcomes.at_ms >= after_ms) & (rng.random(len(outcomes.clicked)) >= keep)
    return outcomes._replace(clicked=outcomes.clicked & ~lost)


def missing(rows: Rows, after_ms: int, column: int, share: float, rng: np.random.Generator) -> Rows:
    """From the change on, one feature is missing in a share of the rows."""
    features = rows.features.copy()
    features[(rows.at_ms >= after_ms) & (rng.random(len(features)) < share), column] = np.nan
    return rows._replace(features=features)
