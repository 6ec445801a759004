"""Features one request at a time, from a state per user and item. Library: numpy.

A state is a handful of whole numbers. `to_hash` and `from_hash` turn it into the fields of a Redis hash and back, so
that `features:user:{id}` and `features:item:{id}` of one request can be read in one pipelined call. The fields are few
and always all of them: reading is quick, and writing replaces whatever was there. Nothing here reads a clock or a
server: whoever drives it tells outcomes (`observe`) after their slate has ended, slates in the order in which they
ended.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from operator import attrgetter
from typing import NamedTuple

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

__all__ = [
    "ITEM_FIELDS", "USER_FIELDS", "ItemState", "OnlineFeatures", "SlateRequest", "UserState", "feature_rows",
    "feature_table", "observe_slate",
]  # fmt: skip

USER_FIELDS = ("numbers", "traits", "vector")
"""Of a user's hash"""
ITEM_FIELDS = ("numbers", "vector")
_GENRE, _DECADE = "genre:", "decade:"
_LARGEST = 2**53
"""Sums beyond it would no longer be exact in float64."""


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
        """Fields of a Redis hash: numbers as decimal text in the order above, traits as JSON, the vector as 32-bit
        whole numbers, little-endian."""
        return {
            "numbers": b" ".join(b"%d" % number for number in _user_numbers(self)),
            "traits": json.dumps(self.traits, ensure_ascii=False, separators=(",", ":")).encode(),
            "vector": _packed(self.vector),
        }

    @classmethod
    def from_hash(cls, fields: Mapping[bytes, bytes]) -> UserState:
        """The inverse, from what Redis returns; of an empty hash a new user. Raises ValueError for anything else."""
        if not fields:
            return cls()
        traits = json.loads(_field(fields, b"traits"))
        if not isinstance(traits, dict) or not all(map(_is_sums, traits.values())):
            raise ValueError("traits: three whole numbers each")
        numbers = zip(_USER_NUMBERS, _numbers(fields, len(_USER_NUMBERS)), strict=True)
        return cls(**dict(numbers), traits=traits, vector=_unpacked(fields))


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
        return {
            "numbers": b" ".join(b"%d" % number for number in _item_numbers(self)),
            "vector": _packed(self.vector),
        }

    @classmethod
    def from_hash(cls, item: str, fields: Mapping[bytes, bytes]) -> ItemState:
        """The inverse, from what Redis returns; of an empty hash a new item. Raises ValueError for anything else."""
        if not fields:
            return cls.new(item)
        return cls(_unpacked(fields), *_numbers(fields, len(_ITEM_NUMBERS)))


_USER_NUMBERS = ("count", "likes", "tops", "lows", "rating", "leniency", "last_count", "last_likes", "last_ms")
_ITEM_NUMBERS = ("count", "likes", "tops", "lows", "rating", "level", "like_surplus", "first_ms", "last_ms")
_user_numbers, _item_numbers = attrgetter(*_USER_NUMBERS), attrgetter(*_ITEM_NUMBERS)


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


class SlateRequest(NamedTuple):
    """A slate that shall be scored, with the states that are known of it."""

    user: UserState
    items: Sequence[str]
    states: Sequence[ItemState]
    """Of `items`, in order"""
    at_ms: int


def feature_rows(
    catalogue: Catalogue, user: UserState, items: Sequence[str], states: Sequence[ItemState], at_ms: int
) -> NDArray[np.float32]:
    """(k, features) of one slate, columns as `definition.names` orders them. states: those of `items`, in order.

    Raises ValueError when there are no items.
    """
    return feature_table(catalogue, [SlateRequest(user, items, states, at_ms)])


def feature_table(catalogue: Catalogue, requests: Sequence[SlateRequest]) -> NDArray[np.float32]:
    """(m, features) of the slates one after another, each as `feature_rows` gives it.

    Raises ValueError when a slate has no items.
    """
    sizes = [len(request.items) for request in requests]
    if not requests or not min(sizes):
        raise ValueError("items: a slate has at least one")
    users = np.repeat(_ints([_user_numbers(request.user) for request in requests]), sizes, axis=0)
    states = [state for request in requests for state in request.states]
    items = _ints([_item_numbers(state) for state in states])
    facts = [catalogue.facts(item) for request in requests for item in request.items]
    genre_sums, decade_taste = _affinities(catalogue, requests, facts)
    vectors = np.array([request.user.vector for request in requests])
    known = Known(
        **{f"user_{name}": users[:, place] for place, name in enumerate(_USER_NUMBERS)},
        **{f"item_{name}": items[:, place] for place, name in enumerate(_ITEM_NUMBERS)},
        item_year=_ints([fact.year for fact in facts]),
        item_genres=_genre_flags(catalogue, facts),
        genre_count=genre_sums[:, 0],
        genre_level=genre_sums[:, 1],
        genre_taste=genre_sums[:, 2],
        decade_taste=decade_taste,
        match=tastes.matches(np.array([state.vector for state in states]), np.repeat(vectors, sizes, axis=0)).astype(
            np.int64
        ),
        at_ms=np.repeat(_ints([request.at_ms for request in requests]), sizes),
    )
    return matrix(known, np.cumsum([0, *sizes]))


def _genre_flags(catalogue: Catalogue, facts: Sequence[ItemFacts]) -> NDArray[np.bool_]:
    flags = np.zeros((len(facts), len(catalogue.genres)), dtype=bool)
    rows = np.repeat(np.arange(len(facts)), [len(fact.genres) for fact in facts])
    flags[rows, list(chain.from_iterable(fact.genres for fact in facts))] = True
    return flags


def _affinities(
    catalogue: Catalogue, requests: Sequence[SlateRequest], facts: Sequence[ItemFacts]
) -> tuple[Ints, Ints]:
    """(m, 3) outcomes, levels and tastes of the user, summed over each item's genres; (m,) taste for its decade."""
    traits = _ints([sums for request in requests for sums in request.user.traits.values()]).reshape(-1, 3)
    traits[:, 1:] = affinity(traits[:, 1:], traits[:, :1])
    values = iter(traits.tolist())
    names = [_GENRE + genre for genre in catalogue.genres]
    sums: list[tuple[int, int, int]] = []
    decades: list[int] = []
    coming = iter(facts)
    for request in requests:
        known = dict(zip(request.user.traits, values, strict=False))
        by_genre = [known.get(name, _NOTHING) for name in names]
        for _ in request.items:
            fact = next(coming)
            count = levels = tastes_ = 0
            for genre in fact.genres:
                one = by_genre[genre]
                count += one[0]
                levels += one[1]
                tastes_ += one[2]
            sums.append((count, levels, tastes_))
            decades.append(known.get(f"{_DECADE}{fact.decade}", _NOTHING)[2])
    return _ints(sums), _ints(decades)


_NOTHING = [0, 0, 0]


def _traits(catalogue: Catalogue, fact: ItemFacts) -> list[str]:
    traits = [_GENRE + catalogue.genres[genre] for genre in fact.genres]
    return [*traits, f"{_DECADE}{fact.decade}"] if fact.decade else traits


def _ints(values: Sequence[object]) -> Ints:
    return np.array(values, dtype=np.int64)


def _field(fields: Mapping[bytes, bytes], name: bytes) -> bytes:
    if name not in fields:
        raise ValueError(f"{name.decode()}: missing")
    return fields[name]


def _numbers(fields: Mapping[bytes, bytes], count: int) -> list[int]:
    numbers = [int(part) for part in _field(fields, b"numbers").split()]
    if len(numbers) != count or numbers[0] < 0 or not -_LARGEST < min(numbers) <= max(numbers) < _LARGEST:
        raise ValueError(f"numbers: {count} whole numbers, the first from 0")
    return numbers


def _is_sums(sums: object) -> bool:
    if not isinstance(sums, list) or list(map(type, sums)) != [int, int, int]:
        return False
    return bool(sums[0] >= 0 and -_LARGEST < min(sums) <= max(sums) < _LARGEST)


def _packed(vector: Floats) -> bytes:
    return vector.astype("<i4").tobytes()


def _unpacked(fields: Mapping[bytes, bytes]) -> Floats:
    vector = np.frombuffer(_field(fields, b"vector"), dtype="<i4")
    if len(vector) != tastes.DIMENSIONS:
        raise ValueError(f"vector: {len(vector)} components instead of {tastes.DIMENSIONS}")
    return vector.astype(np.float64)
