"""The features of a candidate item for a user: names, order, constants and formulas, used by both executions.

`online` keeps a state per user and item, `batch` passes over a whole log. Both arrive at the same whole numbers
(counts, sums of thousandths, milliseconds), and `matrix` turns these into features by single roundings only. So they
agree bit for bit, in whatever order sums were taken.

Point in time: a row knows what had ended before its slate was requested. Outcomes become known when their slate ends,
all at once. Library: numpy.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "BASE_NAMES", "LOW_MILLI", "MAX_RATING_MILLI", "TOP_MILLI", "VERSION", "Known", "affinity", "leniency", "level",
    "like_surplus", "matrix", "names", "quality", "shrunk", "surprise",
]  # fmt: skip

VERSION = 1
"""Changes with any name, constant or formula: a model belongs to the version it was trained with."""

MAX_RATING_MILLI = 5000
"""Thousandths of a star; bounded, so that sums stay exact."""
PRIOR_RATING = 3500.0
"""Thousandths of a star: what an unknown user gives and an unknown item gets."""
PRIOR_RATE = 0.5
TOP_MILLI, LOW_MILLI = 4500, 2000
"""Ratings from the first on are top ones, up to the second low ones."""
PRIOR_TOP_RATE, PRIOR_LOW_RATE = 0.2, 0.15
# Weights of the priors, in observations.
USER_RATE_WEIGHT = 8.0
WEIGHT = 5.0
TRAIT_WEIGHT = 4.0

DAY_MS = 86_400_000.0
YEAR_MS = 365.25 * DAY_MS
# x / (x + half) instead of logarithms: exact on every machine, and bounded.
HALF_HISTORY = 20.0
HALF_GAP_DAYS = 30.0
HALF_PRESENCE_DAYS = 365.0
HALF_AGE_YEARS = 20.0

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Count = Ints | np.int64
"""By row, or the same for all rows of a slate"""

BASE_NAMES = (
    "user_history",  # outcomes n known of the user, as n / (n + 20)
    "user_new",  # 1 when there are none
    "user_like_rate",
    "user_top_rate",  # ratings from 4.5 stars on
    "user_low_rate",  # ratings up to 2 stars
    "user_rating",  # mean, in stars
    "user_leniency",  # mean of what the user gives above the quality of what was rated
    "user_last_like_rate",  # in the latest slate known
    "user_gap",  # days since then, as d / (d + 30)
    "item_history",
    "item_new",
    "item_like_rate",
    "item_top_rate",
    "item_low_rate",
    "item_rating",
    "item_quality",  # mean of ratings above their raters' own means, in stars
    "item_like_surplus",  # the same for likes
    "item_gap",
    "item_presence",  # days since first seen, as d / (d + 365)
    "item_age",  # years since release, as y / (y + 20)
    "item_year_known",
    "item_genres",  # how many
    "genre_history",  # outcomes of the user on the item's genres, mean over these, as n / (n + 20)
    "genre_level",  # what the user gives to these genres above the own mean
    "genre_taste",  # and above the quality of the items
    "decade_taste",  # the same by decade of release
    "match",  # collaborative: vector of the user times vector of the item
    "slate_quality",  # mean of item_quality over the slate
    "slate_match",
    "slate_like_rate",
    "slate_history",
    "slate_taste",  # of genre_taste
)


class Known(NamedTuple):
    """What is known of m candidate rows at their requests, as whole numbers; `_ms` is 0 where there is no history."""

    user_count: Ints
    user_likes: Ints
    user_tops: Ints
    user_lows: Ints
    user_rating: Ints
    """Sum of thousandths"""
    user_leniency: Ints
    user_last_count: Ints
    user_last_likes: Ints
    user_last_ms: Ints
    item_count: Ints
    item_likes: Ints
    item_tops: Ints
    item_lows: Ints
    item_rating: Ints
    item_level: Ints
    item_like_surplus: Ints
    item_first_ms: Ints
    item_last_ms: Ints
    item_year: Ints
    """0: unknown"""
    item_genres: NDArray[np.bool_]
    """(m, g)"""
    genre_count: Ints
    """Sum over the item's genres, as the next two"""
    genre_level: Ints
    genre_taste: Ints
    decade_taste: Ints
    match: Ints
    at_ms: Ints


def names(genres: tuple[str, ...]) -> tuple[str, ...]:
    """The columns of `matrix` for a catalogue with these genres."""
    return BASE_NAMES + tuple(f"genre={genre}" for genre in genres)


def shrunk(total: Ints, count: Count) -> Floats:
    """Sum of thousandths that are 0 when nothing is special → its mean, shrunk to 0 by `WEIGHT` observations."""
    return total / (count + WEIGHT)


def level(rating: Ints, user_rating: Count, user_count: Count) -> Floats:
    """What a rating is above its user's mean, this slate's ratings included; whole thousandths."""
    return np.rint(rating - (user_rating + WEIGHT * PRIOR_RATING) / (user_count + WEIGHT))


def like_surplus(liked: Ints, user_likes: Count, user_count: Count) -> Floats:
    """What a like (1 or 0) is above its user's rate of likes, this slate's included; whole thousandths."""
    rate = (user_likes + USER_RATE_WEIGHT * PRIOR_RATE) / (user_count + USER_RATE_WEIGHT)
    return np.rint(1000.0 * (liked - rate))


def quality(item_level: Ints, item_count: Ints) -> Floats:
    """An item's quality in whole thousandths: the shrunk mean of its levels."""
    return np.rint(shrunk(item_level, item_count))


def surprise(own_level: Floats | Ints, own_quality: Floats) -> Floats:
    """What neither the user's mean nor the item's quality explains: taste."""
    return np.asarray(own_level - own_quality)


def leniency(rating: Ints, own_quality: Floats) -> Floats:
    """What a rating is above what everybody's prior and the item's quality let expect."""
    return np.asarray(rating - PRIOR_RATING - own_quality)


def affinity(total: Ints, count: Count) -> Floats:
    """A user's shrunk mean on one genre or decade, in whole thousandths."""
    return np.rint(total / (count + TRAIT_WEIGHT))


def matrix(known: Known, offsets: Ints) -> NDArray[np.float32]:
    """Features of m rows, columns as in `names`. offsets: (s + 1,) where each slate begins; slates are not empty."""
    own, pair = _item_columns(known), _pair_columns(known)
    columns = {**_user_columns(known), **own, **pair}
    means = {
        "slate_quality": quality(known.item_level, known.item_count),
        "slate_match": known.match,
        "slate_like_rate": np.rint(1000.0 * own["item_like_rate"]),
        "slate_history": np.rint(1000.0 * own["item_history"]),
        "slate_taste": np.rint(1000.0 * pair["genre_taste"]),
    }
    columns |= {name: _slate_mean(values, offsets) for name, values in means.items()}
    genres = known.item_genres
    table = np.empty((len(known.at_ms), len(BASE_NAMES) + genres.shape[1]), dtype=np.float32)
    for place, name in enumerate(BASE_NAMES):
        table[:, place] = columns[name]
    table[:, len(BASE_NAMES) :] = genres
    return table


def _user_columns(known: Known) -> dict[str, Floats]:
    count = known.user_count
    last = np.maximum(known.user_last_count, 1)
    return {
        "user_history": _saturating(count, HALF_HISTORY),
        "user_new": (count == 0).astype(np.float64),
        "user_like_rate": _rate(known.user_likes, count, PRIOR_RATE, USER_RATE_WEIGHT),
        "user_top_rate": _rate(known.user_tops, count, PRIOR_TOP_RATE),
        "user_low_rate": _rate(known.user_lows, count, PRIOR_LOW_RATE),
        "user_rating": _rate(known.user_rating, count, PRIOR_RATING) / 1000.0,
        "user_leniency": shrunk(known.user_leniency, count) / 1000.0,
        "user_last_like_rate": np.where(count > 0, known.user_last_likes / last, PRIOR_RATE),
        "user_gap": _gap(known.at_ms, known.user_last_ms, count),
    }


def _item_columns(known: Known) -> dict[str, Floats]:
    count, year = known.item_count, known.item_year
    seen = np.where(count > 0, known.item_first_ms, known.at_ms)
    age = np.maximum(known.at_ms / YEAR_MS + 1970.0 - year, 0.0)
    return {
        "item_history": _saturating(count, HALF_HISTORY),
        "item_new": (count == 0).astype(np.float64),
        "item_like_rate": _rate(known.item_likes, count, PRIOR_RATE),
        "item_top_rate": _rate(known.item_tops, count, PRIOR_TOP_RATE),
        "item_low_rate": _rate(known.item_lows, count, PRIOR_LOW_RATE),
        "item_rating": _rate(known.item_rating, count, PRIOR_RATING) / 1000.0,
        "item_quality": quality(known.item_level, count) / 1000.0,
        "item_like_surplus": shrunk(known.item_like_surplus, count) / 1000.0,
        "item_gap": _gap(known.at_ms, known.item_last_ms, count),
        "item_presence": _saturating((known.at_ms - seen) / DAY_MS, HALF_PRESENCE_DAYS),
        "item_age": np.where(year > 0, _saturating(age, HALF_AGE_YEARS), 0.5),
        "item_year_known": (year > 0).astype(np.float64),
        "item_genres": known.item_genres.sum(axis=1).astype(np.float64),
    }


def _pair_columns(known: Known) -> dict[str, Floats]:
    genres = np.maximum(known.item_genres.sum(axis=1), 1)
    return {
        "genre_history": _saturating(known.genre_count / genres, HALF_HISTORY),
        "genre_level": known.genre_level / genres / 1000.0,
        "genre_taste": known.genre_taste / genres / 1000.0,
        "decade_taste": known.decade_taste / 1000.0,
        "match": known.match / 1000.0,
    }


def _rate(total: Ints, count: Ints, prior: float, weight: float = WEIGHT) -> Floats:
    """A mean, shrunk to `prior` by `weight` observations."""
    return np.asarray((total + weight * prior) / (count + weight))


def _saturating(value: Floats | Ints, half: float) -> Floats:
    return value / (value + half)


def _gap(at_ms: Ints, last_ms: Ints, count: Ints) -> Floats:
    """1 where there was nothing yet."""
    days = np.where(count > 0, at_ms - last_ms, 0) / DAY_MS
    return np.where(count > 0, _saturating(days, HALF_GAP_DAYS), 1.0)


def _slate_mean(values: Floats | Ints, offsets: Ints) -> Floats:
    """Of whole thousandths, in stars, for every row of the slate."""
    sizes = np.diff(offsets)
    sums = np.add.reduceat(values.astype(np.int64), offsets[:-1])
    return np.repeat(sums / sizes / 1000.0, sizes)
