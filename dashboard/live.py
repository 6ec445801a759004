"""What moves between decisions: counters, throughput, lag, the truth of a replay, whether servers answer. No I/O.

All of it belongs to the event loop; the clock comes in as argument.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Mapping

from msgspec.structs import replace

from dashboard.views import Counters, Lag, Source, Sources, Truth, VariantCount, VariantTruth
from sluice.adapters.checkpoints import ReplayTruth
from sluice.live import OutcomeCounts, Snapshot, VariantCounts

__all__ = ["Live", "now_ms"]

RATE_OVER_S = 2.0
WAITING = "no answer yet"


def now_ms() -> int:
    """The clock, in milliseconds."""
    return time.time_ns() // 1_000_000


class Live:
    """The latest of everything."""

    def __init__(self, at_ms: int) -> None:
        waiting = Source(ok=False, since_ms=at_ms, error=WAITING)
        self.sources = Sources(kafka=waiting, redis=waiting)
        self.truths: dict[str, Truth] = {}
        self._snapshot: Snapshot | None = None
        self._ends: Mapping[int, tuple[int, ...]] = {}
        self._looks: deque[tuple[float, int]] = deque()
        self._read_ms = at_ms
        self._changed_ms = at_ms

    def heard(self, source: str, error: str | None, at_ms: int) -> bool:
        """Kafka or Redis answered, or did not. True when that is news."""
        before: Source = getattr(self.sources, source)
        if before.ok == (error is None) and before.error == error:
            return False
        since_ms = at_ms if before.ok != (error is None) else before.since_ms
        self.sources = replace(self.sources, **{source: Source(ok=error is None, since_ms=since_ms, error=error)})
        return True

    def take_ends(self, ends: Mapping[int, tuple[int, ...]]) -> None:
        """Partition → next offsets of `impressions` and `clicks`."""
        self._ends = ends

    def take_counts(self, snapshot: Snapshot, truths: Mapping[str, ReplayTruth], at_ms: int, at_s: float) -> bool:
        """What Redis holds now. True when a counter or a truth has changed since the look before."""
        before, self._snapshot, self._read_ms = self._snapshot, snapshot, at_ms
        counted = sum(map(sum, snapshot.offsets.values()))
        self._looks.append((at_s, counted))
        while len(self._looks) > 2 and at_s - self._looks[1][0] >= RATE_OVER_S:
            self._looks.popleft()
        told = {name: self._truth(name, truth, at_ms) for name, truth in truths.items()}
        changed = told != self.truths or before is None or before != snapshot
        self.truths = told
        if changed:
            self._changed_ms = at_ms
        return changed

    def counters(self, name: str, primary: str, variants: Iterable[str]) -> Counters | None:
        """variants: those shown even when nothing was counted. None before Redis has answered once."""
        found = self._snapshot
        if found is None:
            return None
        counts = found.experiments.get(name)
        counted = counts.variants if counts is not None else {}
        lag = self.lag()
        return Counters(
            variants={each: _count(counted.get(each), primary) for each in dict.fromkeys((*variants, *counted))},
            impressions=found.records.impressions,
            clicks=found.records.clicks,
            events_per_s=lag.events_per_s,
            lag=lag.events,
            open_impressions=found.records.open,
            waiting_clicks=found.records.waiting,
            watermark_ms=found.watermark_ms,
            since_ms=self._changed_ms,
            updated_ms=self._read_ms,
        )

    def lag(self) -> Lag:
        """Nulls for what a server that is away would have to tell."""
        produced = sum(map(sum, self._ends.values())) if self._ends and self.sources.kafka.ok else None
        counted = None
        if self._snapshot is not None and self.sources.redis.ok:
            counted = sum(map(sum, self._snapshot.offsets.values()))
        return Lag(
            events=None if produced is None or counted is None else max(0, produced - counted),
            events_per_s=None if counted is None else self._per_second(),
            counted=counted,
            produced=produced,
            updated_ms=self._read_ms,
        )

    def true_rates(self, name: str) -> dict[str, float] | None:
        truth = self.truths.get(name)
        if truth is None:
            return None
        return {variant: true.rate for variant, true in truth.variants.items() if true.rate is not None} or None

    def _per_second(self) -> float | None:
        if len(self._looks) < 2:
            return None
        (then_s, before), (now_s, counted) = self._looks[0], self._looks[-1]
        return round(max(0, counted - before) / (now_s - then_s), 1) if now_s > then_s else None

    def _truth(self, name: str, found: ReplayTruth, at_ms: int) -> Truth:
        rates = {variant: rate for variant, rate in found.true_rates.items() if rate is not None}
        told = Truth(
            variants={variant: VariantTruth(rate=rate) for variant, rate in found.true_rates.items()},
            best=max(rates, key=lambda variant: rates[variant]) if rates else None,
            slates=found.slates,
            regret=found.regret,
            regret_fixed_split=found.regret_fixed_split,
            finished=found.finished,
            updated_ms=at_ms,
        )
        before = self.truths.get(name)
        return before if before is not None and replace(told, updated_ms=before.updated_ms) == before else told


def _count(counted: VariantCounts | None, primary: str) -> VariantCount:
    if counted is None:
        return VariantCount(impressions=0, clicks=0, ctr=None, units=0)
    clicks = counted.outcomes.get(primary, OutcomeCounts(0, 0.0)).count
    shown = counted.impressions
    return VariantCount(impressions=shown, clicks=clicks, ctr=clicks / shown if shown else None, units=counted.units)
