"""Shadow comparisons: what one says, sums of many that add, and the figures read from the sums. Pure.

A shadow scores the items that a variant was asked to rank, and nobody is shown what it says. Whole numbers only: equal
records give equal sums in any order. Libraries: msgspec, numpy, scipy (imported when a figure needs it).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Literal, NamedTuple, TypeAlias, TypeVar

from msgspec import Meta, Struct

from sluice.domain.events import SCHEMA_VERSION, Id, Interval, Name, TimeMs

__all__ = [
    "Agreement",
    "Failure",
    "Mean",
    "ShadowCompared",
    "ShadowFigures",
    "ShadowKey",
    "ShadowSums",
    "compare",
    "figures",
    "latency_ms",
    "score_bins",
]

BINS = 20
"""Of scores, equally wide over [0, 1]; what lies outside falls into the first or the last"""
GROUPS = 64
"""Of users, by hash: intervals rest on how groups differ, so requests of one user need not be independent"""
SCALE = 1_000_000
GAMMA = 1.1
"""Bounds of latency bins are its powers, in microseconds: a quantile is right within 5 %"""
K = TypeVar("K")
QUANTILES = (0.5, 0.95, 0.99)

Failure: TypeAlias = Literal["", "raised", "unusable", "away", "timeout", "crash"]
Count: TypeAlias = Annotated[int, Meta(ge=0)]
Bins: TypeAlias = Annotated[tuple[Count, ...], Meta(max_length=BINS)]


class Agreement(Struct, frozen=True, kw_only=True):
    """Two models on the same items."""

    top: Annotated[int, Meta(ge=1)]
    common: Count
    """Items that both have among their best `top`"""
    kendall: Annotated[float, Meta(ge=-1, le=1)] | None
    """Kendall's tau-b of the scores; null where one of them scores all items the same"""
    served_scores: Bins
    """Items by score, in equal bins over [0, 1]"""
    shadow_scores: Bins


class ShadowCompared(Struct, frozen=True, kw_only=True, tag_field="type", tag="shadow"):
    """A shadow was asked what a variant was asked. Topic `shadow`, keyed by the user."""

    experiment: Name
    variant: Name
    """Whose ranking was answered"""
    version: str
    """Of its model; empty for a rule"""
    shadow: Name
    shadow_version: str
    """Empty when the shadow never told"""
    user_id: Id
    slate_id: str
    at_ms: TimeMs
    served_us: Count
    """Until the variant's scores were there, with what it waited for others"""
    error: Failure = ""
    """Of the shadow: the model raised, its scores order nothing, Redis was away, it took too long, its process ended"""
    shadow_us: Count | None = None
    """Until the shadow's scores were there; null after an error"""
    agreement: Agreement | None = None
    """Null after an error, and where the variant's own model had failed"""
    dropped: Count = 0
    """Requests before this one that the shadow was not asked: it was behind, or being started"""
    v: int = SCHEMA_VERSION


class ShadowKey(NamedTuple):
    """What is summed apart."""

    experiment: str
    variant: str
    version: str
    shadow: str
    shadow_version: str

    @classmethod
    def of(cls, record: ShadowCompared) -> ShadowKey:
        return cls(record.experiment, record.variant, record.version, record.shadow, record.shadow_version)


class ShadowSums(Struct, kw_only=True):
    """Sums of comparisons. `take` adds a record, `merge` other sums; both in any order."""

    requests: int = 0
    dropped: int = 0
    errors: dict[str, int] = {}
    groups: dict[int, tuple[int, int, int, int]] = {}
    """Group of users → comparisons, Σ overlap (millionths), those with a rank correlation, Σ of it (millionths)"""
    served_us: dict[int, int] = {}
    """Latency bin → comparisons"""
    shadow_us: dict[int, int] = {}
    served_scores: dict[int, int] = {}
    """Score bin → items"""
    shadow_scores: dict[int, int] = {}

    def take(self, record: ShadowCompared) -> None:
        self.requests += 1
        self.dropped += record.dropped
        if record.error:
            _add(self.errors, {str(record.error): 1})
        found = record.agreement
        if found is None or record.shadow_us is None:
            return
        kendall = None if found.kendall is None else round(SCALE * found.kendall)
        group = zlib.crc32(record.user_id.encode()) % GROUPS
        sums = (1, SCALE * found.common // found.top, 0 if kendall is None else 1, kendall or 0)
        self._add_group(group, sums)
        _add(self.served_us, {_latency_bin(record.served_us): 1})
        _add(self.shadow_us, {_latency_bin(record.shadow_us): 1})
        _add(self.served_scores, {place: count for place, count in enumerate(found.served_scores) if count})
        _add(self.shadow_scores, {place: count for place, count in enumerate(found.shadow_scores) if count})

    def merge(self, other: ShadowSums) -> None:
        self.requests += other.requests
        self.dropped += other.dropped
        for group, sums in other.groups.items():
            self._add_group(group, sums)
        _add(self.errors, other.errors)
        _add(self.served_us, other.served_us)
        _add(self.shadow_us, other.shadow_us)
        _add(self.served_scores, other.served_scores)
        _add(self.shadow_scores, other.shadow_scores)

    def _add_group(self, group: int, sums: tuple[int, int, int, int]) -> None:
        old = self.groups.get(group, (0, 0, 0, 0))
        self.groups[group] = (old[0] + sums[0], old[1] + sums[1], old[2] + sums[2], old[3] + sums[3])


class Mean(Struct, frozen=True):
    """A mean over comparisons and where the true one lies with 95 %, looked at once."""

    mean: float | None
    """Null while nothing was compared"""
    interval: Interval | None
    """Null with users of less than two groups. Clustered by users: a jackknife over their groups"""


class ShadowFigures(Struct, frozen=True, kw_only=True):
    """One shadow beside one variant, both of one version."""

    experiment: str
    variant: str
    version: str
    shadow: str
    shadow_version: str
    requests: int
    """The shadow was asked; `dropped` come on top"""
    compared: int
    dropped: int
    errors: dict[str, int]
    overlap: Mean
    """Share of the best k that both have in common; k: items answered, or half of the items where all were"""
    rank_correlation: Mean
    """Kendall's tau-b by request"""
    score_distance: float | None
    """Jensen–Shannon distance (base 2) of the scores' distributions: 0 the same, 1 nothing in common"""
    served_ms: dict[str, float]
    """`p50`, `p95`, `p99`, within 5 %; empty while nothing was compared"""
    shadow_ms: dict[str, float]


def compare(served: Sequence[float], shadow: Sequence[float], top: int) -> Agreement:
    """Two scores for each item, higher is better, all finite; `top`: items that were answered.

    Ties keep the order of the items. Where all items were answered, k is half of them: the best of all are all.
    Raises ValueError when there are not equally many scores, or none.
    """
    if not served or len(served) != len(shadow):
        raise ValueError(f"{len(served)} scores beside {len(shadow)}")
    k = top if 0 < top < len(served) else max(1, len(served) // 2)
    return Agreement(
        top=k,
        common=len(_best(served, k) & _best(shadow, k)),
        kendall=_kendall(served, shadow),
        served_scores=score_bins(served),
        shadow_scores=score_bins(shadow),
    )


def score_bins(scores: Sequence[float]) -> tuple[int, ...]:
    """(BINS,) counts"""
    counts = [0] * BINS
    for score in scores:
        counts[min(max(int(score * BINS), 0), BINS - 1)] += 1
    return tuple(counts)


def figures(key: ShadowKey, sums: ShadowSums) -> ShadowFigures:
    """What the sums say."""
    groups = [sums.groups[group] for group in sorted(sums.groups)]  # equal sums give equal figures, to the last bit
    return ShadowFigures(
        **key._asdict(),
        requests=sums.requests,
        compared=sum(group[0] for group in groups),
        dropped=sums.dropped,
        errors=dict(sorted(sums.errors.items())),
        overlap=_mean([(number, total) for number, total, _, _ in groups]),
        rank_correlation=_mean([(number, total) for _, _, number, total in groups]),
        score_distance=_distance(sums.served_scores, sums.shadow_scores),
        served_ms=_quantiles(sums.served_us),
        shadow_ms=_quantiles(sums.shadow_us),
    )


def latency_ms(bins: Mapping[int, int], share: float) -> float:
    """Milliseconds within which `share` of what is in the bins lies. Source: Masson 2019 (DDSketch), fixed bins."""
    wanted = max(1, math.ceil(share * sum(bins.values())))
    reached = 0
    for place in sorted(bins):
        reached += bins[place]
        if reached >= wanted:
            return 2 * GAMMA**place / (GAMMA + 1) / 1000
    raise ValueError("no latencies")


def _latency_bin(microseconds: int) -> int:
    return math.ceil(math.log(max(microseconds, 1), GAMMA))


def _quantiles(bins: Mapping[int, int]) -> dict[str, float]:
    return {f"p{100 * share:g}": latency_ms(bins, share) for share in QUANTILES} if bins else {}


def _best(scores: Sequence[float], k: int) -> set[int]:
    return set(sorted(range(len(scores)), key=scores.__getitem__, reverse=True)[:k])


def _kendall(served: Sequence[float], shadow: Sequence[float]) -> float | None:
    """By all pairs: quicker than scipy's up to hundreds of items. Source: Kendall 1945."""
    import numpy as np

    signs = [np.sign(np.subtract.outer(scores, scores)) for scores in (np.asarray(served), np.asarray(shadow))]
    untied = [float(np.count_nonzero(sign)) for sign in signs]
    if not all(untied):
        return None
    tau = float((signs[0] * signs[1]).sum()) / math.sqrt(untied[0] * untied[1])
    return min(1.0, max(-1.0, tau))


def _mean(groups: Iterable[tuple[int, int]]) -> Mean:
    """Of (how many, sum in millionths) by group. Source: delete-a-group jackknife, Kott 2001."""
    used = [(number, total) for number, total in groups if number]
    if not used:
        return Mean(None, None)
    number, total = (sum(part) for part in zip(*used, strict=True))
    mean = total / number / SCALE
    if len(used) < 2:
        return Mean(mean, None)
    from scipy.stats import t

    size = len(used)
    without = [(total - part) / (number - count) / SCALE for count, part in used]
    middle = sum(without) / size
    error = math.sqrt((size - 1) / size * sum((one - middle) ** 2 for one in without))
    reach = float(t.ppf(0.975, size - 1)) * error
    return Mean(mean, (mean - reach, mean + reach))


def _distance(served: Mapping[int, int], shadow: Mapping[int, int]) -> float | None:
    if not served or not shadow:
        return None
    from scipy.spatial.distance import jensenshannon

    rows = [[bins.get(place, 0) for place in range(BINS)] for bins in (served, shadow)]
    found = float(jensenshannon(*rows, base=2))
    return 0.0 if math.isnan(found) else found


def _add(into: dict[K, int], more: Mapping[K, int]) -> None:
    for name, number in more.items():
        into[name] = into.get(name, 0) + number
