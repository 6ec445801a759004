"""Impressions by the time they were shown and outcomes by how long they took, while that is still in doubt. Pure.

In memory only: dropped by the watermark, and rebuilt from the log. What is published is a function of the log and
the offsets alone; docs/counting.md defines it and says why a rebuild gives it again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from sluice.domain.definitions import DELAY_BINS, Definitions
from sluice.domain.events import DelayCohorts, VariantDelays
from stream_processors.rows import Cohort, Pair

T = TypeVar("T")

__all__ = ["MAX_NUMBERS", "MAX_OUTCOMES", "MAX_PAIRS", "Cohorts"]

MAX_PAIRS = 64
"""(experiment, variant) pairs in one snapshot: those with the most impressions"""
MAX_OUTCOMES = 4
"""Outcomes of a pair in one snapshot: those counted most often"""
MAX_NUMBERS = 50_000
"""Integers in one snapshot, about 200 kB"""


class Cohorts:
    """The cohorts of one partition."""

    def __init__(self) -> None:
        self._by_start: dict[int, dict[Pair, Cohort]] = {}

    def of(self, pair: Pair, start: int) -> Cohort:
        """The cohort of impressions of `pair` in [start, start + width); a new one if need be."""
        pairs = self._by_start.setdefault(start, {})
        cohort = pairs.get(pair)
        if cohort is None:
            cohort = pairs[pair] = Cohort()
        return cohort

    def forget(self, before_ms: int) -> None:
        """Drop the cohorts that begin before `before_ms`."""
        for start in [start for start in self._by_start if start < before_ms]:
            del self._by_start[start]

    def published(self, definitions: Definitions, watermark: int, names: Sequence[str]) -> DelayCohorts:
        """What `variant-stats` says at this watermark. `names`: of the outcomes, by index."""
        width = definitions.cohort_ms
        first, last = definitions.cohorts_at(watermark)
        found: dict[Pair, dict[int, Cohort]] = {}
        for start, pairs in self._by_start.items():
            if start >= first:
                for pair, cohort in pairs.items():
                    if cohort.impressions:
                        found.setdefault(pair, {})[start] = cohort
        # The largest first: whoever has traffic is told of.
        order = sorted((-sum(c.impressions for c in cohorts.values()), pair) for pair, cohorts in found.items())
        listed: list[VariantDelays] = []
        room = MAX_NUMBERS
        for _, pair in order[:MAX_PAIRS]:
            one = _variant(pair, found[pair], range(first, last + 1, width), names)
            room -= len(one.impressions) + sum(map(len, _flat(one)))
            if room < 0:
                break
            listed.append(one)
        listed.sort(key=lambda one: (one.experiment, one.variant))
        return DelayCohorts(start_ms=first, cohort_ms=width, variants=tuple(listed), left_out=len(order) - len(listed))


def _variant(pair: Pair, cohorts: dict[int, Cohort], starts: range, names: Sequence[str]) -> VariantDelays:
    here = [cohorts.get(start) for start in starts]
    totals: dict[int, int] = {}
    for cohort in here:
        for place, count in cohort.delays.items() if cohort else ():
            totals[place // DELAY_BINS] = totals.get(place // DELAY_BINS, 0) + count
    most = sorted((-count, names[index], index) for index, count in totals.items())[:MAX_OUTCOMES]
    return VariantDelays(
        experiment=pair[0],
        variant=pair[1],
        impressions=_without_end([cohort.impressions if cohort else 0 for cohort in here]),
        ahead=sum(cohort.impressions for start, cohort in cohorts.items() if start >= starts.stop),
        outcomes={
            name: _without_end([_bins(cohort, index) for cohort in here])
            for name, index in sorted((name, index) for _, name, index in most)
        },
    )


def _bins(cohort: Cohort | None, index: int) -> tuple[int, ...]:
    """Outcomes of one cohort by delay, without trailing zeros."""
    if cohort is None or not cohort.delays:
        return ()
    get, low = cohort.delays.get, index * DELAY_BINS
    return _without_end([get(place, 0) for place in range(low, low + DELAY_BINS)])


def _without_end(values: list[T]) -> tuple[T, ...]:
    while values and not values[-1]:
        values.pop()
    return tuple(values)


def _flat(one: VariantDelays) -> Iterator[tuple[int, ...]]:
    for rows in one.outcomes.values():
        yield from rows
