"""Changes planted in a log: from a slate on tastes are other ones, or some users click what they do not like. Pure.

A change of tastes is made to the ratings before anything is made of them: what a slate knew, what was clicked and what
any variant would have earned are of one and the same world. Users who turn over are of the clicks alone: what requests
know stays as it was, so that who learns from the clicks learns what is wrong. Everything is drawn by hash of the seed.
Library: numpy.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from producers.draws import hashed, uniform
from producers.ratings import RatingsLog
from producers.slates import Slates
from sluice.errors import ConfigError

__all__ = ["Drift", "Poison", "drifted", "parse_drift", "parse_poison", "poisoned"]

_GENRES, _POISON = 30, 31
LOWEST_MILLI, HIGHEST_MILLI, STEP_MILLI = 500, 5000, 500
"""Ratings of a changed world: half stars from ½ to 5"""


@dataclass(frozen=True, kw_only=True)
class Drift:
    """What genres promise is permuted."""

    amplitude: float = 1.0
    """Standard deviation, over ratings, of how far they move, in stars"""
    at: float = 0.5
    """Share of all slates of the log, by time, before the change"""
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Poison:
    """A share of the users is not who they say: what they would click they leave, and the other way round."""

    share: float = 0.4
    at: float = 0.5
    """Share of all slates of the log, by time, before they begin"""
    seed: int = 0


def parse_drift(text: str) -> Drift:
    """`genres`, `genres:amplitude=1,at=0.5,seed=3`. Raises ConfigError."""
    kind, _, rest = text.partition(":")
    if kind != "genres":
        raise ConfigError(f"--drift: {text!r}: allowed is genres[:amplitude=STARS,at=SHARE,seed=N]")
    return Drift(**_numbers("--drift", rest, {"amplitude": 5.0, "at": 1.0}))


def parse_poison(text: str) -> Poison:
    """`share=0.4,at=0.5,seed=3`. Raises ConfigError."""
    return Poison(**_numbers("--poison", text, {"share": 1.0, "at": 1.0}))


def drifted(slates: Slates, drift: Drift) -> Slates:
    """The same slates, in which tastes change: from the change on every rating moves with what its genres promise.

    Genres lie by the mean of their ratings evenly from −1 to 1; a permutation puts each where another one was. A rating
    moves with the mean move of its item's genres, standardised over the log to mean 0 and standard deviation
    `amplitude`, and is rounded to half stars. So there are about as many clicks as before, on other items.
    Raises ConfigError when no item has a genre.
    """
    log = slates.log
    after = _rows_from(slates, drift.at)
    shift = _moves(log, drift.seed)
    rating = log.rating_milli.astype(np.int64)
    moved = np.rint((rating[after] + 1000 * drift.amplitude * shift[after]) / STEP_MILLI) * STEP_MILLI
    rating[after] = np.clip(moved, LOWEST_MILLI, HIGHEST_MILLI)
    return _with(slates, rating)


def poisoned(slates: Slates, poison: Poison, liked_milli: int) -> Slates:
    """The same slates, in which some users turn over: their likes become ½, everything else 5 stars."""
    log = slates.log
    turned = uniform(poison.seed, _POISON, np.arange(len(log.users), dtype=np.int64)) < poison.share
    after = _rows_from(slates, poison.at)
    rows = after[turned[log.user[after]]]
    rating = log.rating_milli.astype(np.int64)
    rating[rows] = np.where(rating[rows] >= liked_milli, LOWEST_MILLI, HIGHEST_MILLI)
    return _with(slates, rating)


def _rows_from(slates: Slates, share: float) -> NDArray[np.int64]:
    """Ratings of the slates behind the first `share`."""
    return slates.rating[slates.offsets[int(len(slates) * share)] :]


def _with(slates: Slates, rating: NDArray[np.int64]) -> Slates:
    return replace(slates, log=replace(slates.log, rating_milli=rating.astype(np.int32)))


def _moves(log: RatingsLog, seed: int) -> NDArray[np.float64]:
    """(n,) how far each rating moves, mean 0 and standard deviation 1 over the log."""
    names = sorted({name for known in log.genres.values() for name in known})
    place = {name: at for at, name in enumerate(names)}
    has = np.zeros((len(log.items), len(names)))
    for row, item in enumerate(log.items):
        has[row, [place[name] for name in log.genres.get(item, ())]] = 1
    if not has.any():
        raise ConfigError("--drift genres: the items of this log have no genres")
    rated = np.bincount(log.item, minlength=len(log.items))
    stars = np.bincount(log.item, weights=log.rating_milli, minlength=len(log.items))
    promise = (has.T @ stars) / np.maximum(has.T @ rated, 1)
    level = np.empty(len(names))
    level[np.argsort(promise, kind="stable")] = np.linspace(-1, 1, len(names))
    order = np.argsort(hashed(seed, _GENRES, np.arange(len(names), dtype=np.int64)))
    shift = (has @ (level[order] - level) / np.maximum(has.sum(axis=1), 1))[log.item]
    spread = float(shift.std())
    if spread == 0:
        raise ConfigError(f"--drift genres: seed {seed} moves nothing: take another one")
    return np.asarray((shift - shift.mean()) / spread)


def _numbers(option: str, text: str, limits: Mapping[str, float]) -> dict[str, Any]:
    """`name=number,…`: numbers of `limits` lie from 0 to the limit; `seed` is whole."""
    found: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = part.partition("=")
        if name == "seed" and value.isdigit() and len(value) < 10:
            found[name] = int(value)
        elif name in limits and re.fullmatch(r"\d*\.?\d+", value) and float(value) <= limits[name]:
            found[name] = float(value)
        else:
            allowed = [f"{one} from 0 to {limit:g}" for one, limit in limits.items()]
            raise ConfigError(f"{option}: {part!r}: allowed are {', '.join(allowed)} and seed, a whole number")
    return found
