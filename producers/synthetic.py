"""A synthetic log with planted click rates: what every variant would earn is known by construction.

Each slate holds `top_k` items for every variant, and each of them is a click with that variant's rate at that
moment, drawn by hash. Users come at random, at a Poisson pace. Library: numpy.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from producers.candidates import Known, Shown
from producers.delays import parse_duration_ms
from producers.draws import uniform
from producers.slates import MAX_SLATE, SESSION_GAP_MS, Slate, attributes, base36, first_visits
from sluice.errors import ConfigError

__all__ = ["PlantedRate", "SyntheticSlates", "SyntheticSpec", "parse_synthetic"]

BEGIN_MS = 1_600_000_000_000
"""2020-09-13: in the past, as event times must be."""
DEFAULT_RATES = (0.48, 0.56, 0.60)
CLICKED_MILLI, NOT_CLICKED_MILLI = (5000, 4000), (3000, 2000, 1000)
_USER, _GAP, _CLICK, _RATING = 20, 21, 22, 23


@dataclass(frozen=True)
class PlantedRate:
    """Click rate of a variant, going straight from `first` to `last` over the log."""

    first: float
    last: float


@dataclass(frozen=True)
class SyntheticSpec:
    slates: int = 10_000
    users: int = 1_000
    gap_ms: float = 20_000.0
    """Mean time between two slates of anybody"""
    rates: Mapping[str, PlantedRate] | None = None
    """Variant → rate; None: DEFAULT_RATES, in order of the variants"""


def parse_synthetic(text: str) -> SyntheticSpec:
    """`synthetic`, `synthetic:slates=5000,users=200,gap=30s,a=0.50,b=0.55..0.65` (a drift). Raises ConfigError."""
    numbers: dict[str, int] = {}
    gap_ms = SyntheticSpec.gap_ms
    rates: dict[str, PlantedRate] = {}
    for part in filter(None, text.partition(":")[2].split(",")):
        name, _, value = part.strip().partition("=")
        rate = re.fullmatch(r"(\d*\.?\d+)(?:\.\.(\d*\.?\d+))?", value)
        if name in ("slates", "users") and value.isdigit() and 0 < int(value) <= 100_000_000:
            numbers[name] = int(value)
        elif name == "gap":
            gap_ms = float(parse_duration_ms(value))
        elif name and name not in ("slates", "users") and rate and max(float(rate[1]), float(rate[2] or 0)) <= 1:
            rates[name] = PlantedRate(float(rate[1]), float(rate[2] or rate[1]))
        else:
            raise ConfigError(
                f"--data: {part!r}: allowed are slates=N, users=N, gap=DURATION and VARIANT=RATE or VARIANT=FROM..TO "
                "with rates from 0 to 1"
            )
    return SyntheticSpec(**numbers, gap_ms=gap_ms, rates=rates or None)


class SyntheticSlates:
    """The generator as a source of the replay (port `Candidates`). Everything depends on spec and seed alone."""

    def __init__(self, spec: SyntheticSpec, variants: Sequence[str], *, k: int, seed: int) -> None:
        """Raises ConfigError when a variant has no rate or there would be too many items for one slate."""
        planted = spec.rates
        if planted is None:
            last = len(DEFAULT_RATES) - 1
            planted = {
                name: PlantedRate(r, r) for i, name in enumerate(variants) for r in [DEFAULT_RATES[min(i, last)]]
            }
        missing = [name for name in variants if name not in planted]
        if missing:
            raise ConfigError(f"--data synthetic: no click rate for variant {missing[0]!r}: add {missing[0]}=0.5")
        if len(variants) * k > MAX_SLATE:
            raise ConfigError(f"{len(variants)} variants × {k} items exceed {MAX_SLATE} items a slate")
        self.name = "synthetic"
        self.rates = {name: planted[name] for name in variants}
        self._spec, self._k, self._seed = spec, k, seed
        index = np.arange(spec.slates, dtype=np.int64)
        gaps = -spec.gap_ms * np.log(uniform(seed, _GAP, index))
        self.at_ms: NDArray[np.int64] = BEGIN_MS + np.cumsum(gaps).astype(np.int64)
        self._user = (uniform(seed, _USER, index) * spec.users).astype(np.int64)
        self._session = self._sessions()
        self._new = first_visits(self._user)
        self.ratings = spec.slates * len(variants) * k
        self.dropped = 0

    @property
    def fingerprint(self) -> str:
        return f"synthetic:{self._spec}:{self.rates}:{self._k}:{self._seed}"

    def block(self, start: int, stop: int) -> Sequence[Slate]:
        """Slates start … stop − 1. Variant v owns the items at places v·k … v·k + k − 1."""
        stop = min(stop, self._spec.slates)
        index = np.arange(start, stop, dtype=np.int64)
        width = len(self.rates) * self._k
        number = (index[:, None] * MAX_SLATE + np.arange(width)).ravel()
        drift = np.repeat(index / max(1, self._spec.slates - 1), width)
        first = np.tile(np.repeat([rate.first for rate in self.rates.values()], self._k), len(index))
        last = np.tile(np.repeat([rate.last for rate in self.rates.values()], self._k), len(index))
        clicked = uniform(self._seed, _CLICK, number) < first + (last - first) * drift
        which = uniform(self._seed, _RATING, number)
        liked = np.take(CLICKED_MILLI, (which * len(CLICKED_MILLI)).astype(np.int64))
        disliked = np.take(NOT_CLICKED_MILLI, (which * len(NOT_CLICKED_MILLI)).astype(np.int64))
        ratings = np.where(clicked, liked, disliked).reshape(len(index), width).tolist()
        items = [f"i{place}" for place in range(width)]
        of_slates = (self._user, self._session, self.at_ms, self._new)
        columns = (index.tolist(), *(column[start:stop].tolist() for column in of_slates), ratings)
        return [
            Slate(i, base36(i), f"u{user}", f"u{user}.{base36(session)}", at_ms, items, row, attributes(new))
            for i, user, session, at_ms, new, row in zip(*columns, strict=True)
        ]

    def shown(self, slates: Sequence[Slate]) -> list[Mapping[str, Sequence[Shown]]]:
        """For each slate: variant → its own k items of the slate."""
        k = self._k
        return [
            {
                name: [Shown(i, slate.items[i], slate.ratings_milli[i]) for i in range(v * k, v * k + k)]
                for v, name in enumerate(self.rates)
            }
            for slate in slates
        ]

    def known(self, slate: Slate, variant: str) -> Known | None:
        """Nothing: the click rates are planted."""
        return None

    def _sessions(self) -> NDArray[np.int64]:
        """Number of each slate's session within its user."""
        order = np.lexsort((self.at_ms, self._user))
        user, at_ms = self._user[order], self.at_ms[order]
        new_user = np.ones(len(order), dtype=bool)
        new_user[1:] = user[1:] != user[:-1]
        new = new_user.copy()
        new[1:] |= np.diff(at_ms) > SESSION_GAP_MS
        running = np.cumsum(new)
        first = np.maximum.accumulate(np.where(new_user, np.arange(len(order)), 0))
        session = np.empty(len(order), dtype=np.int64)
        session[order] = running - running[first]
        return session
