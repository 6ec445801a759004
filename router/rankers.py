"""Ranking rules. Pure: no I/O, no clock, no global state. Trained models are in `router.models`.

A ranker scores the items of a slate with what it has been told by `observe` until then. Whoever drives it
(a replay, a service) tells it an outcome only after the slate that the outcome belongs to has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import shake_128
from struct import unpack
from typing import NamedTuple, Protocol

from sluice.errors import ConfigError

__all__ = ["RANKERS", "Affinity", "Context", "Popularity", "Random", "Ranker", "is_model", "make_ranker", "top_k"]

PRIOR_IMPRESSIONS = 5.0
"""Weight of the overall click rate in an item's smoothed rate, in observations."""
PRIOR_GENRE_IMPRESSIONS = 4.0
"""Weight of the user's own click rate in the user's rate of a genre."""
PRIOR_USER_IMPRESSIONS = 8.0
"""Weight of the overall click rate in the user's click rate."""

Genres = Mapping[str, tuple[str, ...]]
"""Item id → its genres; items that are missing have none."""


class Context(NamedTuple):
    """The request a slate answers."""

    slate_id: str
    at_ms: int


class Ranker(Protocol):
    """A rule that a variant ranks with. Scores order items within one slate; other slates may have other scales."""

    def rank(self, user_id: str, items: Sequence[str], context: Context) -> Sequence[float]:
        """One score an item, in the order of `items`, higher is better. Must not change what it has learned."""

    def observe(self, user_id: str, item: str, liked: bool, at_ms: int) -> None:
        """Learn that `user_id` liked `item` or did not, at event time `at_ms`."""


class Random:
    """A seeded order of every slate: the same for the same slate and seed, whatever was asked before."""

    def __init__(self, seed: int = 0) -> None:
        self._prefix = f"{seed}\0".encode()

    def rank(self, user_id: str, items: Sequence[str], context: Context) -> Sequence[float]:
        """32 bits of SHAKE-128 of (seed, slate) an item, as floats."""
        count = len(items)
        digest = shake_128(self._prefix + context.slate_id.encode()).digest(4 * count)
        return [float(value) for value in unpack(f"<{count}I", digest)]

    def observe(self, user_id: str, item: str, liked: bool, at_ms: int) -> None:
        """Learns nothing."""


class Popularity:
    """An item's click rate, shrunk to the overall rate by `PRIOR_IMPRESSIONS` observations."""

    def __init__(self) -> None:
        self._items: dict[str, list[int]] = {}
        self._likes = 0
        self._total = 0

    def rank(self, user_id: str, items: Sequence[str], context: Context) -> Sequence[float]:
        """Smoothed click rates in [0, 1]; unknown items have the overall rate (1/2 before the first outcome)."""
        prior = self.overall * PRIOR_IMPRESSIONS
        find, none = self._items.get, (0, 0)
        return [(likes + prior) / (total + PRIOR_IMPRESSIONS) for likes, total in (find(i, none) for i in items)]

    def observe(self, user_id: str, item: str, liked: bool, at_ms: int) -> None:
        """Count one outcome of the item."""
        counts = self._items.get(item)
        if counts is None:
            counts = self._items[item] = [0, 0]
        counts[0] += liked
        counts[1] += 1
        self._likes += liked
        self._total += 1

    @property
    def overall(self) -> float:
        """Click rate over all outcomes so far, as if one click and one non-click had come before."""
        return (self._likes + 1) / (self._total + 2)


class Affinity:
    """An item's smoothed click rate, moved by how this user's click rate on the item's genres deviates.

    score = rate(item) + mean over its genres of (rate(user, genre) − rate(user)), where
    rate(user, genre) is shrunk to rate(user), which is shrunk to the overall rate. The user's own level is
    taken out because it is the same for all items of a slate.
    """

    def __init__(self, genres: Genres) -> None:
        self._genres = genres
        self._popularity = Popularity()
        # User → ([likes, outcomes], genre → [likes, outcomes]).
        self._users: dict[str, tuple[list[int], dict[str, list[int]]]] = {}

    def rank(self, user_id: str, items: Sequence[str], context: Context) -> Sequence[float]:
        """Scores around the items' smoothed click rates; users and genres not seen before add nothing."""
        rates = self._popularity.rank(user_id, items, context)
        known = self._users.get(user_id)
        if known is None:
            return rates
        (likes, total), by_genre = known
        level = (likes + self._popularity.overall * PRIOR_USER_IMPRESSIONS) / (total + PRIOR_USER_IMPRESSIONS)
        deviation = {
            genre: (genre_likes - genre_total * level) / (genre_total + PRIOR_GENRE_IMPRESSIONS)
            for genre, (genre_likes, genre_total) in by_genre.items()
        }
        scores = []
        for item, rate in zip(items, rates, strict=True):
            genres = self._genres.get(item, ())
            if genres:
                rate += sum([deviation.get(genre, 0.0) for genre in genres]) / len(genres)
            scores.append(rate)
        return scores

    def observe(self, user_id: str, item: str, liked: bool, at_ms: int) -> None:
        """Count one outcome of the item and of the user on each of its genres."""
        self._popularity.observe(user_id, item, liked, at_ms)
        known = self._users.get(user_id)
        if known is None:
            known = self._users[user_id] = ([0, 0], {})
        level, by_genre = known
        level[0] += liked
        level[1] += 1
        for genre in self._genres.get(item, ()):
            counts = by_genre.get(genre)
            if counts is None:
                counts = by_genre[genre] = [0, 0]
            counts[0] += liked
            counts[1] += 1


RANKERS: dict[str, Callable[[int, Genres], Ranker]] = {
    "random": lambda seed, genres: Random(seed),
    "popularity": lambda seed, genres: Popularity(),
    "affinity": lambda seed, genres: Affinity(genres),
}
"""Name of a ranking rule → how it is made from (seed, genres of the items)."""


def is_model(name: str) -> bool:
    """Whether a variant's `ranker` names a registered model (`router.models`) and no rule."""
    return name.startswith("models:")


def make_ranker(name: str, seed: int, genres: Genres) -> Ranker:
    """A fresh rule that has observed nothing. Raises ConfigError when nobody knows `name`."""
    if name not in RANKERS:
        raise ConfigError(f"ranker: {name!r}: allowed are {', '.join(sorted(RANKERS))} and models:/NAME@ALIAS")
    return RANKERS[name](seed, genres)


def top_k(scores: Sequence[float], k: int) -> list[int]:
    """Indices of the k highest scores, best first; equal scores keep the order of the slate."""
    return sorted(range(len(scores)), key=scores.__getitem__, reverse=True)[:k]
