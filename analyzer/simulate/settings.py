"""What a simulated experiment is, and its evidence look by look. Library: numpy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from analyzer.engine.moments import Floats, Moments
from analyzer.engine.sequential import ready
from analyzer.simulate.log import Ints, Log
from analyzer.simulate.policies import Memory, Policy, next_percent, shares, start
from analyzer.simulate.streams import PlantedSlates, PlantedUsers, RecordedSlates, RecordedUsers, Stream, Values

__all__ = ["FIXED", "Look", "Setting", "watch"]

FIXED = Policy("fixed")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One experiment to simulate. `rates` are planted unless variants of the log are to be replayed."""

    unit: Literal["slate", "user"]
    rates: tuple[float, ...] = ()
    rates_after: tuple[float, ...] = ()
    """Planted rates of the second half of the looks (slates only), if they drift"""
    recorded: tuple[int, ...] = ()
    """Which variants of the log run, by index; outcomes are then those of the log"""
    log: Log | None = None
    users: int = 0
    """Of the log's, drawn anew for each run; 0 is all"""
    concentration: float = 0.0
    slates: int = 10_000
    looks: int = 50
    policy: Policy = FIXED
    sigma: float = 0.0
    """Of lognormal values of the outcomes, which are then compared instead of counts; 0 is counts"""
    tau: float = 0.05
    alpha: float = 0.05

    @property
    def k(self) -> int:
        return len(self.recorded or self.rates)

    @property
    def values(self) -> bool:
        return self.sigma > 0

    def truth_at(self, look: int) -> Floats:
        """(k,) true rates: those planted for this look, or of recorded outcomes those of the log until then."""
        if not self.recorded:
            return np.array(self.rates_after if self.rates_after and 2 * look >= self.looks else self.rates)
        clicks, shown = self.outcomes()
        upto = (look + 1) * len(clicks) // self.looks
        return np.asarray(clicks[:upto].sum(axis=0) / shown[:upto].sum(axis=0))

    def stream(self, runs: int, rng: np.random.Generator) -> Stream:
        """Runs side by side. Raises ValueError when the log has too few users."""
        if self.unit == "slate":
            if self.recorded:
                clicks, shown = self.outcomes()
                return RecordedSlates(clicks, shown, self.looks, rng)
            if self.sigma:
                return Values(np.array(self.rates), self.sigma, self.slates, self.looks, rng)
            rates = np.stack([self.truth_at(look) for look in range(self.looks)])
            return PlantedSlates(rates, self.slates, self.looks, rng)
        assert self.log is not None
        users = self.users or self.log.users
        if self.recorded:
            return RecordedUsers(*self.outcomes(), self.log.user, users, runs, self.looks, rng)
        rates = np.array(self.rates)
        return PlantedUsers(rates, self.concentration, self.log.user, users, runs, self.looks, rng)

    def outcomes(self) -> tuple[Ints, Ints]:
        """Recorded clicks and impressions of the variants, (slates, k) each."""
        assert self.log is not None
        chosen = list(self.recorded)
        return self.log.clicks[:, chosen], self.log.shown[:, chosen]


class Look(NamedTuple):
    """What is known at a look; arrays (runs, k)."""

    totals: Moments
    """Of what is compared, outcomes or their values; unweighted"""
    outcomes: Floats
    weighted: Moments
    ready: NDArray[np.bool_]
    """Which variants have enough for the default rule"""
    slates: Floats
    """Served so far"""
    percent: Ints
    """In force until this look"""


def watch(setting: Setting, runs: int, rng: np.random.Generator) -> Iterator[Look]:
    """The looks of `runs` runs; after each the policy decides on the traffic until the next."""
    stream = setting.stream(runs, rng)
    percent = start(runs, setting.k)
    zero = np.zeros((runs, setting.k))
    totals = weighted = Moments(zero, zero, zero, zero, zero, zero)
    outcomes = slates = zero
    memory = Memory(setting.policy, runs)
    for look in range(setting.looks):
        step = stream.step(look, percent)
        totals, weighted = totals + step.totals, weighted + step.weighted
        outcomes, slates = outcomes + step.outcomes, slates + step.slates
        enough = ready(totals._replace(c=outcomes), weighted, values=setting.values)
        yield Look(totals, outcomes, weighted, enough, slates, percent)
        if setting.policy.name != "fixed":
            wanted = shares(setting.policy, totals, None if setting.values else memory.at(look, totals))
            percent = next_percent(setting.policy, wanted, np.asarray(enough.all(axis=1)), percent)
