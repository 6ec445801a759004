"""Features one request at a time, from a state per user and item. Library: numpy.

A state is a handful of whole numbers. `to_hash` and `from_hash` turn it into the fields of a Redis hash and back, so
that `features:user:{id}` and `features:item:{id}` of one request can be read in one pipelined call. Nothing here reads
a clock or a server: whoever drives it tells outcomes (`observe`) after their slate has ended, slates in the order in
which they ended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sluice.features import tastes
from sluice.features.catalogue import Catalogue, ItemFacts
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

__all__ = ["ItemState", "OnlineFeatures", "UserState", "feature_rows", "observe_slate"]

_VECTOR = b"vector"
_GENRE, _DECADE = "genre:", "decade:"


@dataclass(slots=True)
class UserState:
    """All that the features keep of a user."""

    count: int = 0
    likes: int = 0
    tops: int = 0
    lows: int = 0
    rating: int = 0
    leniency: int = 0
    last_count: int = 0
    last_likes: int = 0
    last_ms: int = 0
    traits: dict[str, list[int]] = field(default_factory=dict)
    """`genre:Drama`, `decade:1990` → outcomes, sum of levels, sum of tastes"""
    vector: Floats = field(default_factory=lambda: np.zeros(tastes.DIMENSIONS))

    def to_hash(self) -> dict[str, bytes]:
        """Fields of a Redis hash: decimal text; the vector as 32-bit whole numbers, little-endian."""
        fields = {name: b"%d" % getattr(self, name) for name in _USER_NUMBERS}
        fields |= {name: b"%d %d %d" % tuple(sums) for name, sums in self.traits.items()}
        return fields | {"vector": _packed(self.vector)}

    @classmethod
    def from_hash(cls, fields: Mapping[bytes, bytes]) -> UserState:
        """The inverse, from what Redis returns; missing fields are as for a new user."""
        state = cls()
        for raw, value in fields.items():
            name = raw.decode()
            if name in _USER_NUMBERS:
                setattr(state, name, int(value))
            elif name.startswith((_GENRE, _DECADE)):
                state.traits[name] = [int(part) for part in value.split()]
            elif raw == _VECTOR:
                state.vector = _unpacked(value)
        return state


@dataclass(slots=True)
class ItemState:
    """All that the features keep of an item."""

    vector: Floats
    count: int = 0
    likes: int = 0
    tops: int = 0
    lows: int = 0
    rating: int = 0
    level: int = 0
    like_surplus: int = 0
    first_ms: int = 0
    last_ms: int = 0

    @classmethod
    def new(cls, item: str) -> ItemState:
        """An item nobody has rated."""
        return cls(tastes.start(item))

    def to_hash(self) -> dict[str, bytes]:
        """As for users."""
        return {name: b"%d" % getattr(self, name) for name in _ITEM_NUMBERS} | {"vector": _packed(self.vector)}

    @classmethod
    def from_hash(cls, item: str, fields: Mapping[bytes, bytes]) -> ItemState:
        """The inverse, from what Redis returns; missing fields are as for a new item."""
        state = cls.new(item)
        for raw, value in fields.items():
            if raw == _VECTOR:
                state.vector = _unpacked(value)
            elif (name := raw.decode()) in _ITEM_NUMBERS:
                setattr(state, name, int(value))
        return state


_USER_NUMBERS = ("count", "likes", "tops", "lows", "rating", "leniency", "last_count", "last_likes", "last_ms")
_ITEM_NUMBERS = ("count", "likes", "tops", "lows", "rating", "level", "like_surplus", "first_ms", "last_ms")


class OnlineFeatures:
    """The states of all users and items in memory."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self.users: dict[str, UserState] = {}
        self.items: dict[str, ItemState] = {}

    def observe(
        self, user: str, items: Sequence[str], liked: Sequence[bool], ratings_milli: Sequence[int], at_ms: int
    ) -> None:
        """Learn the outcomes of a slate that ended at `at_ms`. Arguments as those of `observe_slate`."""
        own = self.users.setdefault(user, UserState())
        states = {item: self.items.get(item) or ItemState.new(item) for item in items}
        observe_slate(self.catalogue, own, states, items, liked, ratings_milli, at_ms)
        self.items.update(states)

    def rows(self, user: str, items: Sequence[str], at_ms: int) -> NDArray[np.float32]:
        """(k, features) of the slate `items` that `user` requests at `at_ms`. Changes nothing."""
        states = [self.items.get(item) or ItemState.new(item) for item in items]
        return feature_rows(self.catalogue, self.users.get(user, UserState()), items, states, at_ms)


def observe_slate(
    catalogue: Catalogue,
    user: UserState,
    states: Mapping[str, ItemState],
    items: Sequence[str],
    liked: Sequence[bool],
    ratings_milli: Sequence[int],
    at_ms: int,
) -> None:
    """Update the states of one user and of the slate's items, in place. `states`: item → its state.

    liked, ratings_milli: (k,) the outcomes in the order of `items`; where outcomes have no grades, ratings are 5000
    for a like and 0 for none. Raises ValueError when there are no items, lengths differ or ratings are out of scale.
    """
    if not 0 < len(items) == len(liked) == len(ratings_milli):
        raise ValueError(f"items, liked, ratings_milli: lengths {len(items)}, {len(liked)}, {len(ratings_milli)}")
    if not 0 <= min(ratings_milli) <= max(ratings_milli) <= MAX_RATING_MILLI:
        raise ValueError(f"ratings_milli: 0 to {MAX_RATING_MILLI}, got {min(ratings_milli)} to {max(ratings_milli)}")
    rating, like = np.asarray(ratings_milli, dtype=np.int64), np.asarray(liked, dtype=np.int64)
    user.count += len(items)
    user.likes += int(like.sum())
    user.tops += int((rating >= TOP_MILLI).sum())
    user.lows += int((rating <= LOW_MILLI).sum())
    user.rating += int(rating.sum())
    own_level = level(rating, np.int64(user.rating), np.int64(user.count))
    surplus = like_surplus(like, np.int64(user.likes), np.int64(user.count))
    before = [states[item] for item in items]
    own_quality = quality(_ints([state.level for state in before]), _ints([state.count for state in before]))
    taste = surprise(own_level, own_quality)
    user.leniency += int(leniency(rating, own_quality).sum())
    user.last_count, user.last_likes, user.last_ms = len(items), int(like.sum()), at_ms
    vectors, user.vector = tastes.learn(np.array([state.vector for state in before]), user.vector, taste)
    columns = (like.tolist(), rating.tolist(), own_level.tolist(), surplus.tolist(), taste.tolist(), vectors)
    for item, one_like, one_rating, one_level, one_surplus, one_taste, vector in zip(items, *columns, strict=True):
        state = states[item]
        state.first_ms = state.first_ms if state.count else at_ms
        state.count += 1
        state.likes += one_like
        state.tops += one_rating >= TOP_MILLI
        state.lows += one_rating <= LOW_MILLI
        state.rating += one_rating
        state.level += int(one_level)
        state.like_surplus += int(one_surplus)
        state.last_ms = at_ms
        state.vector = vector
        for trait in _traits(catalogue, catalogue.facts(item)):
            sums = user.traits.setdefault(trait, [0, 0, 0])
            sums[0] += 1
            sums[1] += int(one_level)
            sums[2] += int(one_taste)


def feature_rows(
    catalogue: Catalogue, user: UserState, items: Sequence[str], states: Sequence[ItemState], at_ms: int
) -> NDArray[np.float32]:
    """(k, features) of one slate, columns as `definition.names` orders them. states: those of `items`, in order.

    Raises ValueError when there are no items.
    """
    if not items:
        raise ValueError("items: a slate has at least one")
    size = len(items)
    facts = [catalogue.facts(item) for item in items]
    genres = np.zeros((size, len(catalogue.genres)), dtype=bool)
    for row, fact in enumerate(facts):
        genres[row, list(fact.genres)] = True
    genre_sums, decade_taste = _affinities(catalogue, user, facts)
    known = Known(
        **{f"user_{name}": np.full(size, getattr(user, name), dtype=np.int64) for name in _USER_NUMBERS},
        **{f"item_{name}": _ints([getattr(state, name) for state in states]) for name in _ITEM_NUMBERS},
        item_year=_ints([fact.year for fact in facts]),
        item_genres=genres,
        genre_count=genre_sums[:, 0],
        genre_level=genre_sums[:, 1],
        genre_taste=genre_sums[:, 2],
        decade_taste=decade_taste,
        match=tastes.matches(np.array([state.vector for state in states]), user.vector).astype(np.int64),
        at_ms=np.full(size, at_ms, dtype=np.int64),
    )
    return matrix(known, np.array([0, size]))


def _affinities(catalogue: Catalogue, user: UserState, facts: Sequence[ItemFacts]) -> tuple[Ints, Ints]:
    """(k, 3) outcomes, levels and tastes of the user, summed over each item's genres; (k,) taste for its decade."""
    known = {
        trait: (count, *affinity(_ints([levels, tastes_]), np.int64(count)).astype(np.int64).tolist())
        for trait, (count, levels, tastes_) in user.traits.items()
    }
    sums = np.zeros((len(facts), 3), dtype=np.int64)
    decades = np.zeros(len(facts), dtype=np.int64)
    for row, fact in enumerate(facts):
        for genre in fact.genres:
            sums[row] += known.get(_GENRE + catalogue.genres[genre], (0, 0, 0))
        decades[row] = known.get(f"{_DECADE}{fact.decade}", (0, 0, 0))[2]
    return sums, decades


def _traits(catalogue: Catalogue, fact: ItemFacts) -> list[str]:
    traits = [_GENRE + catalogue.genres[genre] for genre in fact.genres]
    return [*traits, f"{_DECADE}{fact.decade}"] if fact.decade else traits


def _ints(values: Sequence[int]) -> Ints:
    return np.array(values, dtype=np.int64)


def _packed(vector: Floats) -> bytes:
    return vector.astype("<i4").tobytes()


def _unpacked(data: bytes) -> Floats:
    return np.frombuffer(data, dtype="<i4").astype(np.float64)
