"""Features of a whole log in one pass. Library: numpy.

Sums "as of a request" are differences of running sums along each user's and each item's time line, where slates are in
the order in which they ended. Only the taste vectors need the slates one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sluice.features import tastes
from sluice.features.catalogue import Catalogue
from sluice.features.definition import (
    LOW_MILLI,
    MAX_RATING_MILLI,
    TOP_MILLI,
    Floats,
    Ints,
    Known,
    affinity,
    leniency,
    level,
    like_surplus,
    matrix,
    quality,
    surprise,
)

__all__ = ["SlateLog", "batch_features"]


@dataclass(frozen=True, eq=False)
class SlateLog:
    """s slates in order of their requests, and their m rows with outcomes."""

    user: Ints
    """(s,) code of the user"""
    at_ms: Ints
    """(s,) when the slate was requested, ascending"""
    end_ms: Ints
    """(s,) when its outcomes became known, ≥ at_ms"""
    offsets: Ints
    """(s + 1,) rows offsets[i]:offsets[i + 1] are those of slate i"""
    item: Ints
    """(m,) index into `items`"""
    liked: NDArray[np.bool_]
    """(m,)"""
    rating_milli: Ints
    """(m,) thousandths of a star; where outcomes have no grades, 5000 for a like and 0 for none"""
    items: Sequence[str]

    def __len__(self) -> int:
        return len(self.at_ms)


def batch_features(log: SlateLog, catalogue: Catalogue) -> NDArray[np.float32]:
    """(m, features) as `definition.names` orders them.

    Raises ValueError when slates are empty or out of order, or ratings out of scale.
    """
    _check(log)
    sizes = np.diff(log.offsets)
    slate = np.repeat(np.arange(len(log)), sizes)
    by_end = np.argsort(log.end_ms, kind="stable")
    slot = np.empty(len(log), dtype=np.int64)
    slot[by_end] = np.arange(len(log))
    known = np.searchsorted(log.end_ms[by_end], log.at_ms, side="left")
    users = _Line(log.user, slot, log.user, known)
    items = _Line(log.item, slot[slate], log.item, known[slate])
    facts = _Facts(log, catalogue)

    rating, liked = log.rating_milli, log.liked.astype(np.int64)
    top, low = (rating >= TOP_MILLI).astype(np.int64), (rating <= LOW_MILLI).astype(np.int64)
    per_slate = {"count": sizes, "likes": _sum(liked, log.offsets), "rating": _sum(rating, log.offsets)}
    after = {name: users.through(values)[slate] for name, values in per_slate.items()}
    own_level = level(rating, after["rating"], after["count"]).astype(np.int64)
    surplus = like_surplus(liked, after["likes"], after["count"]).astype(np.int64)
    own_quality = quality(items.before(own_level), items.before_count)
    taste = surprise(own_level, own_quality).astype(np.int64)
    lenient = leniency(rating, own_quality).astype(np.int64)

    last = users.last
    count = users.until(sizes)
    genre_count, genre_level, genre_taste, decade_taste = _traits(log, facts, users, slate, own_level, taste)
    columns = Known(
        user_count=count[slate],
        user_likes=users.until(per_slate["likes"])[slate],
        user_tops=users.until(_sum(top, log.offsets))[slate],
        user_lows=users.until(_sum(low, log.offsets))[slate],
        user_rating=users.until(per_slate["rating"])[slate],
        user_leniency=users.until(_sum(lenient, log.offsets))[slate],
        user_last_count=sizes[last][slate],
        user_last_likes=per_slate["likes"][last][slate],
        user_last_ms=log.end_ms[last][slate],
        item_count=items.until_count,
        item_likes=items.until(liked),
        item_tops=items.until(top),
        item_lows=items.until(low),
        item_rating=items.until(rating),
        item_level=items.until(own_level),
        item_like_surplus=items.until(surplus),
        item_first_ms=log.end_ms[slate[items.first]],
        item_last_ms=log.end_ms[slate[items.last]],
        item_year=facts.year[log.item],
        item_genres=facts.genres[log.item],
        genre_count=genre_count,
        genre_level=genre_level,
        genre_taste=genre_taste,
        decade_taste=decade_taste,
        match=_matches(log, by_end, known, taste),
        at_ms=log.at_ms[slate],
    )
    return matrix(columns, log.offsets)


class _Line:
    """Events of each key in the order in which they became known, and for each event how much its request knew."""

    def __init__(self, key: Ints, slot: Ints, query_key: Ints, query_slot: Ints) -> None:
        """An event of `key` became known at `slot`; its own request knew the slots below `query_slot`."""
        span = int(slot.max()) + 2
        code = key.astype(np.int64) * span + slot
        self._order = np.argsort(code, kind="stable")
        ordered = code[self._order]
        keys = ordered // span
        place = np.arange(len(code))
        self._place = np.empty(len(code), dtype=np.int64)
        self._place[self._order] = place
        begin = np.maximum.accumulate(np.where(np.append(True, keys[1:] != keys[:-1]), place, 0))
        # Events of one slate have one slot: none of them is before another.
        group = np.maximum.accumulate(np.where(np.append(True, ordered[1:] != ordered[:-1]), place, 0))
        self._begin = begin[self._place]
        self._group = group[self._place]
        self._until = np.searchsorted(ordered, query_key.astype(np.int64) * span + query_slot, side="left")
        self.until_count: Ints = self._until - self._begin
        self.before_count: Ints = self._group - self._begin

    def until(self, values: Ints) -> Ints:
        """Sum of `values` over the key's events that the request knew."""
        running = self._running(values)
        return np.asarray(running[self._until] - running[self._begin])

    def before(self, values: Ints) -> Ints:
        """Sum over the key's events that became known before this one."""
        running = self._running(values)
        return np.asarray(running[self._group] - running[self._begin])

    def through(self, values: Ints) -> Ints:
        """Sum over the key's events up to this one, which is included. Only where slots are distinct."""
        running = self._running(values)
        return np.asarray(running[self._place + 1] - running[self._begin])

    @property
    def first(self) -> Ints:
        """The key's first event."""
        return np.asarray(self._order[self._begin])

    @property
    def last(self) -> Ints:
        """The latest event that the request knew; some event where it knew none."""
        return np.asarray(self._order[np.maximum(self._until - 1, self._begin)])

    def _running(self, values: Ints) -> Ints:
        running = np.zeros(len(values) + 1, dtype=np.int64)
        np.cumsum(values[self._order], out=running[1:])
        return running


class _Facts:
    """The catalogue as arrays over the items of the log."""

    def __init__(self, log: SlateLog, catalogue: Catalogue) -> None:
        facts = [catalogue.facts(item) for item in log.items]
        self.year: Ints = np.array([fact.year for fact in facts], dtype=np.int64)
        self.decade: Ints = np.array([fact.decade for fact in facts], dtype=np.int64)
        self.genres = np.zeros((len(facts), len(catalogue.genres)), dtype=bool)
        for row, fact in enumerate(facts):
            self.genres[row, list(fact.genres)] = True


def _traits(
    log: SlateLog, facts: _Facts, users: _Line, slate: Ints, own_level: Ints, taste: Ints
) -> tuple[Ints, Ints, Ints, Ints]:
    """For every row: the user's outcomes, level and taste, summed over the item's genres; taste for its decade."""
    count, levels, tastes_, decades = (np.zeros(len(slate), dtype=np.int64) for _ in range(4))

    def known(rows: Ints, values: Ints | None) -> Ints:
        # Whole numbers far below 2^53: exact, although bincount adds floats.
        weights = None if values is None else values[rows]
        return users.until(np.bincount(slate[rows], weights, minlength=len(log)).astype(np.int64))

    for genre in range(facts.genres.shape[1]):
        rows = np.flatnonzero(facts.genres[log.item, genre])
        total = known(rows, None)
        count[rows] += total[slate[rows]]
        levels[rows] += affinity(known(rows, own_level), total)[slate[rows]].astype(np.int64)
        tastes_[rows] += affinity(known(rows, taste), total)[slate[rows]].astype(np.int64)
    decade = facts.decade[log.item]
    for value in np.unique(decade[decade > 0]).tolist():
        rows = np.flatnonzero(decade == value)
        decades[rows] = affinity(known(rows, taste), known(rows, None))[slate[rows]].astype(np.int64)
    return count, levels, tastes_, decades


def _matches(log: SlateLog, by_end: Ints, known: Ints, taste: Ints) -> Ints:
    """(m,) the users' vectors times the items', as they were at the requests."""
    items = np.array([tastes.start(item) for item in log.items])
    users: dict[int, Floats] = {}
    surprises = taste.astype(np.float64)
    codes = [log.item[low:high] for low, high in zip(log.offsets[:-1], log.offsets[1:], strict=True)]
    bounds = log.offsets.tolist()
    keys, order, zero = log.user.tolist(), by_end.tolist(), np.zeros(tastes.DIMENSIONS)
    found = np.zeros(len(log.item))
    done = 0
    for index, upto in enumerate(known.tolist()):
        while done < upto:
            ended = order[done]
            own, user = codes[ended], keys[ended]
            outcome = surprises[bounds[ended] : bounds[ended + 1]]
            items[own], users[user] = tastes.learn(items.take(own, axis=0), users.get(user, zero), outcome)
            done += 1
        vector = users.get(keys[index])
        if vector is not None:
            found[bounds[index] : bounds[index + 1]] = tastes.matches(items.take(codes[index], axis=0), vector)
    return found.astype(np.int64)


def _sum(values: Ints, offsets: Ints) -> Ints:
    return np.asarray(np.add.reduceat(values, offsets[:-1]))


def _check(log: SlateLog) -> None:
    if not len(log):
        raise ValueError("log: no slates")
    if (np.diff(log.offsets) <= 0).any() or log.offsets[0] != 0 or log.offsets[-1] != len(log.item):
        raise ValueError("offsets: must rise from 0 to the number of rows; no slate is empty")
    if (np.diff(log.at_ms) < 0).any():
        raise ValueError("at_ms: slates must be in order of their requests")
    if (log.end_ms < log.at_ms).any():
        raise ValueError("end_ms: a slate cannot end before it is requested")
    if log.rating_milli.min() < 0 or log.rating_milli.max() > MAX_RATING_MILLI:
        raise ValueError(f"rating_milli: 0 to {MAX_RATING_MILLI}")
