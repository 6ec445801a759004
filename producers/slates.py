"""A ratings log cut into slates: the requests of the replay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from producers.draws import hashed
from producers.ratings import RatingsLog
from sluice.errors import ConfigError
from sluice.features import SlateLog

__all__ = ["Slate", "Slates", "attributes", "base36", "cut_slates", "first_visits", "slate_log"]

SESSION_GAP_MS = 30 * 60 * 1000
"""A longer pause between two ratings of a user starts a new session."""
MAX_SLATE = 1000
_SHUFFLE = 1
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


class Slate(NamedTuple):
    """One request. All its impressions share the event time `at_ms`, that of its first rating."""

    number: int
    """Place in event-time order within the whole log, whatever part of it is replayed."""
    slate_id: str
    user_id: str
    session_id: str
    at_ms: int
    items: list[str]
    """In an order that says nothing about the ratings."""
    ratings_milli: list[int]
    attributes: Mapping[str, str]
    """What was known of the user when the slate was requested"""


@dataclass(frozen=True, eq=False)
class Slates:
    """All slates of a log in order of (event time, user). `offsets[i]:offsets[i + 1]` are the ratings of slate i."""

    log: RatingsLog
    rating: NDArray[np.int64]
    """(m,) index into the log, slate by slate"""
    offsets: NDArray[np.int64]
    """(s + 1,)"""
    user: NDArray[np.int32]
    """(s,) index into `log.users`"""
    session: NDArray[np.int32]
    """(s,) number of the user's session"""
    at_ms: NDArray[np.int64]
    """(s,) time of the first rating: when the slate was requested"""
    new: NDArray[np.bool_]
    """(s,) whether it is its user's first slate in the whole log"""
    end_ms: NDArray[np.int64]
    """(s,) time of the last rating: only later requests may know its outcomes"""
    dropped: int
    """Short last slates that were left out"""
    dropped_ratings: int

    def __len__(self) -> int:
        return len(self.at_ms)

    def block(self, start: int, stop: int) -> list[Slate]:
        """Slates start … stop − 1."""
        return self.take(np.arange(start, min(stop, len(self)), dtype=np.int64))

    def take(self, indices: NDArray[np.int64]) -> list[Slate]:
        """The slates at `indices`, in that order."""
        log, slates = self.log, []
        users, items = log.users, log.items
        columns = (indices, self.user[indices], self.session[indices], self.at_ms[indices], self.new[indices])
        bounds = zip(self.offsets[indices].tolist(), self.offsets[indices + 1].tolist(), strict=True)
        for index, user, session, at_ms, new, (low, high) in zip(*(c.tolist() for c in columns), bounds, strict=True):
            rating = self.rating[low:high]
            user_id = users[user]
            slates.append(
                Slate(
                    index,
                    base36(index),
                    user_id,
                    f"{user_id}.{base36(session)}",
                    at_ms,
                    [items[code] for code in log.item[rating].tolist()],
                    log.rating_milli[rating].tolist(),
                    attributes(new, log.about.get(user_id)),
                )
            )
        return slates


def attributes(new: bool, about: Mapping[str, str] | None = None) -> Mapping[str, str]:
    """What is known of a user at a request: `history`, `new` or `returning`, and what the log says `about` the user."""
    return {"history": "new" if new else "returning", **(about or {})}


def first_visits(user: NDArray[np.integer]) -> NDArray[np.bool_]:
    """(s,) users in order of time → (s,) whether the user was not there before."""
    first = np.zeros(len(user), dtype=bool)
    first[np.unique(user, return_index=True)[1]] = True
    return first


def base36(number: int) -> str:
    """Whole number ≥ 0 → short text."""
    text = ""
    while True:
        number, digit = divmod(number, 36)
        text = _DIGITS[digit] + text
        if not number:
            return text


def cut_slates(log: RatingsLog, *, size: int = 10, top_k: int = 3, seed: int = 0) -> Slates:
    """Each user's consecutive ratings in slates of `size`; ratings of one moment keep the order of the log.

    A shorter last slate stays when it has more than `top_k` items, so that there is something to choose.
    Raises ConfigError when `size` does not exceed `top_k` or nothing is left.
    """
    if not 1 <= top_k < size <= MAX_SLATE:
        raise ConfigError(f"--slate-size {size}, --top-k {top_k}: allowed is 1 <= top-k < slate-size <= {MAX_SLATE}")
    order = np.lexsort((log.at_ms, log.user)).astype(np.int64)
    user, at_ms = log.user[order], log.at_ms[order]
    count = len(order)
    new_user = np.ones(count, dtype=bool)
    new_user[1:] = user[1:] != user[:-1]
    first_of_user = np.maximum.accumulate(np.where(new_user, np.arange(count), 0))
    rank = np.arange(count) - first_of_user
    starts = np.flatnonzero(rank % size == 0)
    sizes = np.diff(np.append(starts, count))
    session = _sessions(at_ms, new_user, first_of_user)

    keep = sizes > top_k
    kept, kept_sizes = starts[keep], sizes[keep]
    if not len(kept):
        raise ConfigError(f"{log.name}: no user has more than {top_k} ratings: there is nothing to rank")
    by_time = np.lexsort((user[kept], at_ms[kept]))
    kept, kept_sizes = kept[by_time], kept_sizes[by_time]
    offsets = np.concatenate(([0], np.cumsum(kept_sizes)))
    slate = np.repeat(np.arange(len(kept)), kept_sizes)
    place = np.arange(offsets[-1]) - offsets[slate] + kept[slate]
    rating = order[place]
    # Shuffled by hash: the order of the log may follow the ratings, and equal scores keep the slate's order.
    shuffle = np.lexsort((hashed(seed, _SHUFFLE, rating), slate))
    return Slates(
        log=log,
        rating=rating[shuffle],
        offsets=offsets.astype(np.int64),
        user=user[kept],
        session=session[kept],
        at_ms=at_ms[kept],
        new=first_visits(user[kept]),
        end_ms=at_ms[kept + kept_sizes - 1],
        dropped=int((~keep).sum()),
        dropped_ratings=int(sizes[~keep].sum()),
    )


def slate_log(slates: Slates, liked_milli: int) -> SlateLog:
    """The same slates with their outcomes, as features are made of them. Ratings from `liked_milli` on are likes."""
    log = slates.log
    rating = log.rating_milli[slates.rating].astype(np.int64)
    return SlateLog(
        user=slates.user.astype(np.int64),
        at_ms=slates.at_ms,
        end_ms=slates.end_ms,
        offsets=slates.offsets,
        item=log.item[slates.rating].astype(np.int64),
        liked=rating >= liked_milli,
        rating_milli=rating,
        items=log.items,
    )


def _sessions(
    at_ms: NDArray[np.int64], new_user: NDArray[np.bool_], first_of_user: NDArray[np.int64]
) -> NDArray[np.int32]:
    """Number of the session within its user, for ratings in order of (user, time)."""
    new_session = new_user.copy()
    new_session[1:] |= np.diff(at_ms) > SESSION_GAP_MS
    running = np.cumsum(new_session)
    return (running - running[first_of_user]).astype(np.int32)
