"""Where simulated impressions and clicks come from: runs side by side, one step a look, sums out.

Slate units: every slate is drawn anew. User units: a user keeps the variant of its first slate, has a rate of its
own and comes in the order of a recorded log. Library: numpy.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from analyzer.engine.moments import Floats, Moments

__all__ = ["TOP_K", "PlantedSlates", "PlantedUsers", "RecordedSlates", "RecordedUsers", "Step", "Stream", "Values"]

Ints: TypeAlias = NDArray[np.int64]

TOP_K = 3
"""Impressions of a planted slate"""


class Step(NamedTuple):
    """What one step adds; arrays (runs, k)."""

    totals: Moments
    """Of what is compared, outcomes or their values; unweighted"""
    outcomes: Floats
    weighted: Moments
    """Of what is compared, each unit with 1 / its propensity"""
    slates: Floats
    """Slates that each variant served"""


class Stream(Protocol):
    """Runs side by side. `step(look, percent)` must be called for look = 0 … looks − 1 in order."""

    def step(self, look: int, percent: Ints) -> Step:
        """percent: (runs, k) whole percents in force during the step."""


class PlantedSlates:
    """Slates of `TOP_K` impressions with independent clicks of planted rates."""

    def __init__(self, rates: Floats, slates: int, looks: int, rng: np.random.Generator) -> None:
        """rates: (k,), or (looks, k) when they drift."""
        self._rates = np.broadcast_to(rates, (looks, np.shape(rates)[-1]))
        self._size = steps(slates, looks)
        self._rng = rng

    def step(self, look: int, percent: Ints) -> Step:
        """See Stream."""
        slates = self._rng.multinomial(self._size[look], percent / 100)
        p = self._rates[look]
        left, clicked = slates, np.zeros((*slates.shape, TOP_K + 1))
        # Slates with j clicks, one binomial a j: the multinomial of the slates by their number of clicks.
        pmf = np.stack([_choose(TOP_K, j) * p**j * (1 - p) ** (TOP_K - j) for j in range(TOP_K + 1)], axis=-1)
        rest = np.ones_like(p)
        for j in range(TOP_K):
            share = np.clip(pmf[:, j] / np.where(rest > 0, rest, 1.0), 0.0, 1.0)
            drawn = self._rng.binomial(left, share)
            clicked[..., j], left, rest = drawn, left - drawn, rest - pmf[:, j]
        clicked[..., TOP_K] = left
        numbers = np.arange(TOP_K + 1.0)
        units, c = slates.astype(np.float64), clicked @ numbers
        raw = Moments(units, TOP_K * units, c, TOP_K**2 * units, clicked @ numbers**2, TOP_K * c)
        return Step(raw, c, weigh(raw, percent), units)


class Values:
    """One impression a slate: with a planted rate an outcome, whose value is lognormal (mean 1): a heavy tail."""

    def __init__(self, rates: Floats, sigma: float, slates: int, looks: int, rng: np.random.Generator) -> None:
        self._rates, self._sigma, self._rng = rates, sigma, rng
        self._size = steps(slates, looks)

    def step(self, look: int, percent: Ints) -> Step:
        """See Stream."""
        k = percent.shape[1]
        runs, arm = _drawn(percent, self._size[look], self._rng)
        bought = self._rng.random(len(arm)) < self._rates[arm]
        value = np.where(bought, self._rng.lognormal(-(self._sigma**2) / 2, self._sigma, len(arm)), 0.0)
        place = runs * k + arm

        def total(what: Floats) -> Floats:
            return np.bincount(place, what, percent.size).astype(np.float64).reshape(percent.shape)

        units, c, v = total(np.ones(len(arm))), total(bought.astype(np.float64)), total(value)
        raw = Moments(units, units, v, units, total(value * value), v)
        return Step(raw, c, weigh(raw, percent), units)


class RecordedSlates:
    """Slates of a log whose clicks under every variant are known."""

    def __init__(self, clicks: Ints, shown: Ints, looks: int, rng: np.random.Generator) -> None:
        """clicks, shown: (slates, k) of what each variant shows of each slate, in event order."""
        self._c, self._n, self._rng = clicks.astype(np.float64), shown.astype(np.float64), rng
        self._ends = np.concatenate([[0], np.cumsum(steps(len(clicks), looks))])

    def step(self, look: int, percent: Ints) -> Step:
        """See Stream."""
        part = slice(self._ends[look], self._ends[look + 1])
        n, c = self._n[part], self._c[part]
        _, arm = _drawn(percent, len(n), self._rng)
        arm = arm.reshape(len(percent), len(n))
        sums = []
        for variant in range(percent.shape[1]):
            own_n, own_c = n[:, variant], c[:, variant]
            columns = np.stack([np.ones(len(own_n)), own_n, own_c, own_n * own_n, own_c * own_c, own_n * own_c], axis=1)
            sums.append((arm == variant) @ columns)
        raw = Moments(*np.moveaxis(np.stack(sums, axis=1), -1, 0))
        return Step(raw, raw.c, weigh(raw, percent), raw.units)


class _Users:
    """Sticky users: what both kinds of user streams share. An entry is what one user was shown within one step."""

    def __init__(self, user: Ints, users: int, k: int, runs: int, looks: int, rng: np.random.Generator) -> None:
        """user: (slates,) codes of the log's users in event order; `users` of them are drawn for each run."""
        known = int(user.max()) + 1
        if not 1 <= users <= known:
            raise ValueError(f"users: {users} of a log that has {known}")
        self._rng, self._k, self._runs = rng, k, runs
        entries = [self._entries_of_run(user, known, users, looks) for _ in range(runs)]
        run = np.repeat(np.arange(runs), [len(look) for look, _, _ in entries])
        look, mine, sums = (np.concatenate(part) for part in zip(*entries, strict=True))
        order = np.argsort(look, kind="stable")
        self._run = run[order]
        self._place = self._run * users + mine[order]
        self._sums = sums[order]
        self._ends = np.searchsorted(look[order], np.arange(looks + 1))
        shape = runs * users
        self._arm = np.full(shape, -1)
        self._weight, self._n, self._c = np.zeros(shape), np.zeros(shape), np.zeros(shape)

    def _columns(self) -> Floats:
        """(slates, m): what of the log's slates each entry needs the sums of."""
        raise NotImplementedError

    def _entries_of_run(self, user: Ints, known: int, users: int, looks: int) -> tuple[Ints, Ints, Floats]:
        chosen = self._rng.permutation(known)[:users]
        local = np.full(known, -1)
        local[chosen] = np.arange(users)
        mine = local[user]
        there = mine >= 0
        mine = mine[there]
        cell = np.repeat(np.arange(looks), steps(len(mine), looks)) * users + mine
        some = np.flatnonzero(np.bincount(cell, minlength=looks * users))
        columns = self._columns()[there]
        sums = [np.bincount(cell, column, looks * users)[some] for column in columns.T]
        return some // users, some % users, np.stack(sums, axis=1)

    def step(self, look: int, percent: Ints) -> Step:
        """See Stream."""
        part = slice(self._ends[look], self._ends[look + 1])
        place, run, sums = self._place[part], self._run[part], self._sums[part]
        fresh = self._arm[place] < 0
        arm = _pick(percent[run[fresh]], self._rng)
        self._arm[place[fresh]] = arm
        self._weight[place[fresh]] = 100.0 / percent[run[fresh], arm]
        self._arrive(place[fresh], arm)
        arm, w = self._arm[place], self._weight[place]
        dn, dc = self._outcomes(sums, place, arm)
        n, c = self._n[place], self._c[place]
        self._n[place], self._c[place] = n + dn, c + dc
        # What the squares of the units' sums gain: (n + dn)² − n², and so on.
        added = (fresh * 1.0, dn, dc, dn * (2 * n + dn), dc * (2 * c + dc), n * dc + c * dn + dn * dc)
        cell = run * self._k + arm
        raw = Moments(*(self._total(cell, what) for what in added))
        first = (self._total(cell, w * what) for what in added[1:3])
        second = (self._total(cell, w * w * what) for what in added[3:])
        return Step(raw, raw.c, Moments(raw.units, *first, *second), self._total(cell, sums[:, 0]))

    def _total(self, cell: Ints, what: Floats) -> Floats:
        sums = np.bincount(cell, what, self._runs * self._k)
        return sums.astype(np.float64, copy=False).reshape(self._runs, self._k)

    def _arrive(self, place: Ints, arm: Ints) -> None:
        """Users that have just been given a variant."""

    def _outcomes(self, sums: Floats, place: Ints, arm: Ints) -> tuple[Floats, Floats]:
        """Impressions and outcomes of the entries with these sums of `_columns`."""
        raise NotImplementedError


class PlantedUsers(_Users):
    """Users of a log's activity and order, whose rates are Beta around the variant's: mean m, concentration κ."""

    def __init__(
        self, rates: Floats, concentration: float, user: Ints, users: int, runs: int, looks: int,
        rng: np.random.Generator,
    ) -> None:  # fmt: skip
        self._slates = len(user)
        super().__init__(user, users, len(rates), runs, looks, rng)
        self._rates, self._concentration = rates, concentration
        self._own = np.zeros(runs * users)

    def _columns(self) -> Floats:
        return np.ones((self._slates, 1))

    def _arrive(self, place: Ints, arm: Ints) -> None:
        mean = self._rates[arm]
        self._own[place] = self._rng.beta(mean * self._concentration, (1 - mean) * self._concentration)

    def _outcomes(self, sums: Floats, place: Ints, arm: Ints) -> tuple[Floats, Floats]:
        n = TOP_K * sums[:, 0]
        return n, self._rng.binomial(n.astype(np.int64), self._own[place]).astype(np.float64)


class RecordedUsers(_Users):
    """Users of a log with the outcomes that the log holds for the variant they keep."""

    def __init__(
        self, clicks: Ints, shown: Ints, user: Ints, users: int, runs: int, looks: int, rng: np.random.Generator
    ) -> None:
        """clicks, shown: (slates, k)"""
        self._log = np.concatenate([np.ones((len(user), 1)), shown, clicks], axis=1)
        super().__init__(user, users, clicks.shape[1], runs, looks, rng)

    def _columns(self) -> Floats:
        return self._log

    def _outcomes(self, sums: Floats, place: Ints, arm: Ints) -> tuple[Floats, Floats]:
        row = np.arange(len(arm))
        return sums[row, 1 + arm], sums[row, 1 + self._k + arm]


def weigh(raw: Moments, percent: Ints) -> Moments:
    """Units that were all drawn with these percents."""
    w = 100.0 / np.maximum(percent, 1)
    return Moments(raw.units, *(w * part for part in raw[1:3]), *(w * w * part for part in raw[3:]))


def steps(total: int, looks: int) -> Ints:
    """`total` in `looks` parts as equal as whole numbers can be."""
    return np.diff(np.arange(looks + 1) * total // looks)


def _choose(n: int, j: int) -> int:
    return 1 if j in (0, n) else _choose(n - 1, j - 1) + _choose(n - 1, j)


def _drawn(percent: Ints, size: int, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """(run, variant) of `size` slates of every run, run by run."""
    runs = np.repeat(np.arange(len(percent)), size)
    return runs, _pick(percent[runs], rng)


def _pick(percent: Ints, rng: np.random.Generator) -> Ints:
    """(m, k) → (m,) variants drawn with these percents."""
    return np.asarray((rng.random(len(percent))[:, None] * 100 >= np.cumsum(percent, axis=1)).sum(axis=1))
