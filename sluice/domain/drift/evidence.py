"""Evidence of a change that may be looked at after every window, for ever. Library: numpy, scipy.

Each user is a round of a game. At stake λ the wealth is multiplied by 1 + λ (x − τ), where x is how far the user's
score lies from the reference in one direction and τ what is tolerated. While the mean of x is at most τ, wealth is a
non-negative supermartingale, so that it ever reaches 1/α has probability α at most (Ville). This holds for bounded x of
any distribution, and rows of a user may depend on each other in any way, for a user counts once.

When the change began is not known: games are begun all the time, one after every sixteen users, and the n-th needs
1/w(n) times the evidence. A user counts once in each game, in the first of its windows in which the user appears. Bets
on several things, directions and stakes are averaged. Groups of bets (a feature, say) share α by the union bound.

Sources: Shafer 2021 and Waudby-Smith, Ramdas 2024 (betting), Shin, Ramdas, Rinaldo 2023 (games begun at every moment).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy.special import zeta

from sluice.domain.drift.samples import CELLS, Floats, Ints

__all__ = ["Bets", "Evidence", "Scores", "bets_above", "bets_around"]

USERS_A_GAME = 16
MAX_GAMES = 64
_LATEST = 32
"""Of the games, which are never given up"""
_DECAY, _DELAY = 1.5, 8.0
_LOG_TOTAL = math.log(zeta(_DECAY, _DELAY + 1))
STAKES = (0.15, 0.4, 0.9)
"""Shares of the greatest stake that cannot lose everything"""


class Bets(NamedTuple):
    """b bets, group by group. Weights of a group's bets sum to 1."""

    measure: Ints
    """(b,) column of the scores that the bet is on"""
    sign: Floats
    below: Floats
    """How far under 0 the signed score may lie"""
    stake: Floats
    """Share of the greatest stake that cannot lose everything"""
    log_weight: Floats
    group: Ints

    @classmethod
    def join(cls, parts: list[Bets]) -> Bets:
        return cls(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


class Scores(NamedTuple):
    """How far c users lie from the reference."""

    distance: Floats
    """(c, measures) in [−1, 1]; NaN: the user says nothing"""
    tolerance: Floats
    """(c, measures) > 0: what the mean of the distance may be when nothing changed"""

    @classmethod
    def join(cls, parts: list[Scores]) -> Scores:
        return cls(*(np.concatenate(columns, axis=1) for columns in zip(*parts, strict=True)))


def bets_around(measure: int, weight: float, group: int) -> Bets:
    """That a distance in [−1, 1] has a mean beyond the tolerance, on either side."""
    return Bets.join([_bets(measure, sign, 1.0, weight / 2, group) for sign in (1.0, -1.0)])


def bets_above(measure: int, weight: float, group: int) -> Bets:
    """That a distance in [0, 1] has a mean above the tolerance."""
    return _bets(measure, 1.0, 0.0, weight, group)


def _bets(measure: int, sign: float, below: float, weight: float, group: int) -> Bets:
    n = len(STAKES)
    return Bets(
        np.full(n, measure), np.full(n, sign), np.full(n, below), np.array(STAKES), np.full(n, math.log(weight / n)),
        np.full(n, group),
    )  # fmt: skip


class Evidence:
    """The games of all groups of bets."""

    def __init__(self, bets: Bets) -> None:
        self._bets = bets
        self._first = np.flatnonzero(np.diff(bets.group, prepend=-1))
        self.windows = 0
        """Played so far"""
        self.games = 0
        """Begun so far"""
        self.waiting = 0
        """Users since the last game was begun"""
        self.numbers = np.zeros(0, dtype=np.int64)
        """(games,) of those that are still played, from 1"""
        self.begins = np.zeros(0, dtype=np.int64)
        """(games,) the window in which each was begun, from 1"""
        self.begins_ms = np.zeros(0, dtype=np.int64)
        """(games,) when that window begins"""
        self.wealth = np.zeros((0, len(bets.stake)))
        """(games, bets) logarithms"""
        self.seen = np.zeros(CELLS, dtype=np.int32)
        """(CELLS,) window in which users of this cell appeared last; 0 for never"""
        self.best = np.full(len(self._first), -np.inf)
        """(groups,) logarithm of the most that was reached"""

    def play(self, begin_ms: int, cells: Ints, scores: Scores) -> None:
        """A window that begins at `begin_ms`. cells (c,) distinct, at least one."""
        bets = self._bets
        self.windows += 1
        if not self.games or self.waiting >= USERS_A_GAME:
            self._begin(begin_ms)
        self.waiting += len(cells)
        distance, tolerance = scores.distance[:, bets.measure], scores.tolerance[:, bets.measure]
        gain = np.log1p(bets.stake * (bets.sign * distance - tolerance) / (bets.below + tolerance))
        new = self.seen[cells] < self.begins[:, None]
        self.wealth += new.astype(np.float64) @ np.nan_to_num(gain, nan=0.0)
        self.seen[cells] = self.windows
        self.best = np.maximum(self.best, self._games().max(axis=0))

    def p_values(self) -> Floats:
        """(groups,) each valid at all times together: P(ever ≤ p) ≤ p while nothing has changed."""
        return np.asarray(np.exp(np.minimum(-self.best, 0.0)))

    def began_ms(self, group: int) -> int:
        """Begin of the window with which a change of this group most likely began. At least one was played."""
        return int(self.begins_ms[self._games()[:, group].argmax()])

    def _games(self) -> Floats:
        """(games, groups) logarithm of the evidence of each"""
        weight = -_DECAY * np.log(self.numbers + _DELAY) - _LOG_TOTAL
        mixed = np.logaddexp.reduceat(self.wealth + self._bets.log_weight, self._first, axis=1)
        return np.asarray(weight[:, None] + mixed)

    def _begin(self, begin_ms: int) -> None:
        """A new game. Of too many, every second of the old ones is given up: fewer games alarm less, not more."""
        self.games, self.waiting = self.games + 1, 0
        keep = np.ones(len(self.numbers), dtype=bool)
        if len(keep) >= MAX_GAMES:
            keep[1:-_LATEST:2] = False
        self.numbers = np.append(self.numbers[keep], self.games)
        self.begins = np.append(self.begins[keep], self.windows)
        self.begins_ms = np.append(self.begins_ms[keep], begin_ms)
        self.wealth = np.vstack([self.wealth[keep], np.zeros(len(self._bets.stake))])
