"""Parts of the test set that may fare differently, and the figures of models on them. Library: numpy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sluice.features.definition import HALF_HISTORY, Ints
from training.dataset import Dataset
from training.metrics import Scored, best_first
from training.models import Examples
from training.simultaneous import Estimated, Interval, area, ratio, simultaneous

__all__ = [
    "MIN_USERS", "Segment", "SegmentFigures", "attributes_of", "segment_figures", "segments", "shown_first",
]  # fmt: skip

MIN_USERS = 20
"""Segments of fewer users are named, not judged."""
_MIN_CLASS = 20
"""Rows with a click, and without."""
_HISTORY = ((0, "no rating yet"), (1, "1–19 ratings"), (20, "20–99 ratings"), (100, "100 ratings and more"))
_POPULARITY = ((0, "0–9 ratings"), (10, "10–49 ratings"), (50, "50–199 ratings"), (200, "200 ratings and more"))


class Segment(NamedTuple):
    kind: str
    """`user history`, `item popularity`, `genre` or an attribute of users"""
    name: str
    rows: NDArray[np.bool_]
    """(m,) of the test rows"""


class SegmentFigures(NamedTuple):
    """Of two models on one segment. Intervals of one field hold together over all segments with 95 %."""

    kind: str
    name: str
    users: int
    rows: int
    click_share: float
    auc: tuple[Interval, Interval]
    ctr_at_1: tuple[Interval, Interval] | None
    """Clicks per item of the segment that was ranked first; None where that happened with too few users"""
    auc_difference: Interval
    """First model minus second"""
    ctr_at_1_difference: Interval | None


def segments(examples: Examples, slates: Ints) -> list[Segment]:
    """Users by what is known of them, items by popularity and genre, users by attributes. Only those with rows."""
    data = examples.data
    rows = data.rows(slates)
    item, user = data.log.item[rows], np.repeat(data.log.user[slates], np.diff(data.log.offsets)[slates])
    found = [
        *_tiers("user history", _count(examples.column("user_history")[rows]), _HISTORY),
        *_tiers("item popularity", _count(examples.column("item_history")[rows]), _POPULARITY),
    ]
    for genre in data.catalogue.genres:
        own = np.array([genre in data.genres.get(one, ()) for one in data.log.items])
        found.append(Segment("genre", genre, own[item]))
    for attribute, values in attributes_of(data).items():
        found += [Segment(attribute, str(value), (values == value)[user]) for value in np.unique(values) if value]
    return [one for one in found if one.rows.any()]


def attributes_of(data: Dataset) -> Mapping[str, NDArray[np.str_]]:
    """Attribute → (u,) its value of each user, "" where that is not known."""
    names = sorted({name for known in data.about.values() for name in known})
    return {name: np.array([data.about.get(user, {}).get(name, "") for user in data.users]) for name in names}


def shown_first(scored: Scored, k: int) -> NDArray[np.bool_]:
    """(m,) whether a row is among the first k of its slate."""
    order = best_first(scored.score, scored.offsets)
    sizes = np.diff(scored.offsets)
    shown = np.zeros(len(order), dtype=bool)
    shown[order] = np.arange(len(order)) - np.repeat(scored.offsets[:-1], sizes) < k
    return shown


def segment_figures(
    first: Scored, second: Scored, parts: Sequence[Segment], seed: int = 0
) -> tuple[list[SegmentFigures], list[Segment]]:
    """Figures of the segments that are large enough, and the others. first, second: of the same rows."""
    user, users = first.row_user, int(first.user.max()) + 1
    large = [one for one in parts if _large(first.liked[one.rows], user[one.rows])]
    small = [one for one in parts if all(one is not other for other in large)]
    areas = [
        [area(model.liked[one.rows], model.score[one.rows], user[one.rows], users) for one in large]
        for model in (first, second)
    ]
    shown = [shown_first(model, 1) for model in (first, second)]
    # An item segment may hardly ever come first.
    often = [i for i, one in enumerate(large) if min(_users(user[one.rows & s]) for s in shown) >= MIN_USERS]
    clicks = [[_click_rate(first.liked, s & large[i].rows, user, users) for i in often] for s in shown]
    auc, auc_difference = _families(areas, seed)
    rate, rate_difference = _families(clicks, seed)
    place = {i: at for at, i in enumerate(often)}
    figures = [
        SegmentFigures(
            one.kind, one.name, _users(user[one.rows]), int(one.rows.sum()), float(first.liked[one.rows].mean()),
            (auc[0][i], auc[1][i]),
            (rate[0][place[i]], rate[1][place[i]]) if i in place else None,
            auc_difference[i],
            rate_difference[place[i]] if i in place else None,
        )
        for i, one in enumerate(large)
    ]  # fmt: skip
    return figures, small


def _families(models: Sequence[Sequence[Estimated]], seed: int) -> tuple[list[list[Interval]], list[Interval]]:
    """Intervals of each model's figures, and of the differences: three families."""
    differences = [one - other for one, other in zip(*models, strict=True)]
    return [simultaneous(one, seed=seed) for one in models], simultaneous(differences, seed=seed)


def _click_rate(liked: NDArray[np.bool_], shown: NDArray[np.bool_], user: Ints, users: int) -> Estimated:
    return ratio(liked[shown].astype(np.float64), np.ones(int(shown.sum())), user[shown], users)


def _tiers(kind: str, count: Ints, tiers: Sequence[tuple[int, str]]) -> Iterator[Segment]:
    place = np.searchsorted([low for low, _ in tiers], count, side="right") - 1
    for number, (_, name) in enumerate(tiers):
        yield Segment(kind, name, place == number)


def _count(history: NDArray[np.float32]) -> Ints:
    """The feature is n / (n + half); rounding does not matter where tiers end."""
    share = history.astype(np.float64)
    return np.rint(HALF_HISTORY * share / (1 - share)).astype(np.int64)


def _large(liked: NDArray[np.bool_], user: Ints) -> bool:
    return _users(user) >= MIN_USERS and min(int(liked.sum()), int((~liked).sum())) >= _MIN_CLASS


def _users(user: Ints) -> int:
    return len(np.unique(user))
