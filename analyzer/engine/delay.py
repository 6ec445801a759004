"""Outcomes that come late: impressions whose window is still open count by the chance that their click would be there.

The target is θ = P(click within the window). Open impressions are kept by cohort of time, their clicks by bin of delay:
a triangle, cut off on the right by the age of each cohort. The distribution F of the delay, given that the click
comes within the window, is estimated from it in reverse time (of the clicks up to bin d, how many lie in bin d, among
cohorts old enough to show it), which needs no model of rates, traffic or their changes. An impression of age a then
counts F(a).

Library: numpy. Sources: Lagakos, Barraj, De Gruttola 1988; Kalbfleisch, Lawless 1989 (reverse-time hazard under right
truncation); Mack 1993 (chain ladder and its error).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analyzer.engine.moments import Floats

__all__ = ["DelayAware", "delay_aware"]


class DelayAware(NamedTuple):
    """What is known in spite of the delay, over any leading axes."""

    impressions: Floats
    """As many closed ones would weigh as much, (…, k): the outcomes so far belong to these"""
    inflation: Floats
    """By how much the variance of the rate exceeds that of so many independent impressions, (…, k); ≥ 1"""
    curve: Floats
    """P(delay ≤ end of bin | click within the window), (…, bins), without `pooled` (…, k, bins)"""
    immature: NDArray[np.bool_]
    """(…): no impression is as old as the window yet, also none beyond the cohorts: nobody knows how many clicks come
    last"""


def delay_aware(
    impressions: ArrayLike,
    outcomes: ArrayLike,
    shown: ArrayLike,
    clicked: ArrayLike,
    youngest: ArrayLike,
    oldest: ArrayLike,
    window: float,
    *,
    pooled: bool = True,
) -> DelayAware:
    """impressions, outcomes: (…, k), all that was counted, cohorts included.

    shown: (…, k, cohorts), impressions of the cohorts that are open, or were until a window ago (older ones say no
    more). clicked: (…, k, cohorts, bins), their outcomes by delay, in bins of equal width that fill the window.
    youngest, oldest: (cohorts,) or (…, cohorts), ages of a cohort's ends at the watermark, youngest ≤ oldest, in the
    unit of `window`; negative ones are ahead of the watermark. Cohorts no longer than a bin. With `pooled` all
    variants have one delay curve.

    Assumed: impressions arrive evenly within a cohort, delays do not depend on when it was, and everything up to the
    watermark is counted. While `immature`, F is that of delays up to the oldest age, and the weights are too large.
    Raises ValueError that names the argument: negative, not finite, cohorts beyond the total, shapes that do not fit.
    """
    n, c, shown, clicked = _checked(impressions, outcomes, shown, clicked)
    bins = clicked.shape[-1]
    if not 0 < window < math.inf:
        raise ValueError(f"window: must be positive and finite, got {window}")
    # From here on time is counted in bins.
    lead = clicked.shape[:-3]
    low, high = (
        np.broadcast_to(np.asarray(v, dtype=np.float64) * (bins / window), (*lead, shown.shape[-1]))
        for v in (youngest, oldest)
    )
    if not (np.isfinite(low) & np.isfinite(high) & (low <= high)).all():
        raise ValueError("youngest, oldest: must be finite, the youngest not above the oldest")
    high = np.maximum(high, low + 1e-6)
    axes = (-3, -2) if pooled else (-2,)
    reverse, error = _reverse_hazard(clicked, low[..., None, :, None], high[..., None, :, None], axes)
    curve = _curve(reverse)
    own = _Area(curve[..., None, :] if pooled else curve)
    span = (high - low)[..., None, :]
    begin, end = own.up_to(low[..., None, :]), own.up_to(high[..., None, :])
    weight = (end - begin) / span
    effective = n - (shown * (1.0 - weight)).sum(axis=-1)
    # A later bin's share moves F at all earlier ages alike: what E changes by when ln(1 − rⱼ) does.
    edges = np.arange(1.0, bins)
    known = own.whole[..., None, 1:bins]
    ends = [
        np.where(at[..., None, :, None] < edges, area[..., None], known) for at, area in ((low, begin), (high, end))
    ]
    moved = ((shown / span)[..., None, :] @ (ends[1] - ends[0]))[..., 0, :]
    error = error[..., None, 1:] if pooled else error[..., 1:]
    uncertain = (moved * moved * error).sum(axis=-1)
    rate = np.minimum((c + 1.0) / (effective + 2.0), 0.999)
    squares = effective - (shown * weight * (1.0 - weight)).sum(axis=-1)
    some = effective > 0
    safe = np.where(some, effective, 1.0)
    inflation = (1.0 - rate * squares / safe + rate * uncertain / safe) / (1.0 - rate)
    present = (shown > 0).any(axis=-2)
    is_open = (present & (low < bins)).any(axis=-1)
    # Impressions beyond the cohorts are older than all of them.
    older = (n > shown.sum(axis=-1) * (1 + 1e-12)).any(axis=-1)
    seen_out = older | (present & (high >= bins * (1.0 - 1e-12))).any(axis=-1)
    return DelayAware(
        np.maximum(effective, 0.0), np.where(some, np.maximum(inflation, 1.0), 1.0), curve, is_open & ~seen_out
    )


def _checked(
    impressions: ArrayLike, outcomes: ArrayLike, shown: ArrayLike, clicked: ArrayLike
) -> tuple[Floats, Floats, Floats, Floats]:
    given = {"impressions": impressions, "outcomes": outcomes, "shown": shown, "clicked": clicked}
    n, c, of, by = (np.asarray(values, dtype=np.float64) for values in given.values())
    for name, values in zip(given, (n, c, of, by), strict=True):
        if not (np.isfinite(values) & (values >= 0)).all():
            raise ValueError(f"{name}: must be finite and ≥ 0")
    if by.ndim < 3 or by.shape[-1] < 1 or of.shape != by.shape[:-1] or n.shape != of.shape[:-1] or c.shape != n.shape:
        raise ValueError(
            f"clicked: (…, k, cohorts, bins) must fit (…, k) of the others, got {by.shape}, {of.shape}, {n.shape}"
        )
    if (of.sum(axis=-1) > n * (1 + 1e-9)).any():
        raise ValueError("shown: the cohorts have more impressions than were counted in all")
    return n, c, of, by


def _reverse_hazard(clicked: Floats, low: Floats, high: Floats, axes: tuple[int, ...]) -> tuple[Floats, Floats]:
    """P(delay in bin d | delay up to bin d), (…, bins), and the variance of ln(1 − that), from cohorts that show it.

    A cohort shows bin d when all of it is older than the bin's beginning. While some of it is younger than the bin's
    end, only a part `exposed` of the bin's clicks can have come.
    """
    place = np.arange(clicked.shape[-1])
    begin, end = low - place, high - place
    usable = begin >= 0
    cut = np.minimum(end, 1.0)
    partly = ((cut * cut - begin * begin) / 2.0 + (end - cut)) / (end - begin)
    exposed = np.where(begin >= 1, 1.0, partly) * usable
    before = clicked.cumsum(axis=-1) - clicked
    here = (clicked * usable).sum(axis=axes)
    base = (before * exposed).sum(axis=axes)
    some = here + base > 0
    reverse = np.where(some, here / np.where(some, here + base, 1.0), 0.0)
    # Half a click more: where none was seen, one may still have been expected.
    return reverse, (here + 0.5) / (base + 0.5) / (here + base + 1.0)


def _curve(reverse: Floats) -> Floats:
    """F at the end of every bin: the product of 1 − reverse hazard over all later bins."""
    later = np.concatenate([1.0 - reverse[..., :0:-1], np.ones_like(reverse[..., :1])], axis=-1)
    later = np.roll(later, 1, axis=-1)
    return np.asarray(np.cumprod(later, axis=-1)[..., ::-1], dtype=np.float64)


class _Area:
    """∫F from 0 on, F between its values at the ends of bins falling short of 1 exponentially, in the last one evenly.

    An exponential delay is met exactly that way, however short it is compared with a bin.
    """

    def __init__(self, curve: Floats) -> None:
        """curve: (…, bins)."""
        self.bins = curve.shape[-1]
        short = 1.0 - np.concatenate([np.zeros_like(curve[..., :1]), curve], axis=-1)
        self.start = short[..., :-1]
        some = self.start > 0
        ratio = np.where(some, short[..., 1:] / np.where(some, self.start, 1.0), 1.0)
        self.fall = np.log(np.clip(ratio, 1e-4, 1.0))
        self.drop = self.start - short[..., 1:]
        whole = self._inside(self.start, self.fall, self.drop, np.arange(self.bins), np.ones_like(curve))
        self.whole = np.concatenate([np.zeros_like(curve[..., :1]), whole.cumsum(axis=-1)], axis=-1)
        """(…, bins + 1), at the ends of bins"""

    def up_to(self, at: Floats) -> Floats:
        """at: (…, points), in bins → (…, points). F is 0 before 0 and 1 after the last bin."""
        inside = np.clip(at, 0.0, float(self.bins))
        place = np.minimum(inside.astype(np.int64), self.bins - 1)
        lead = np.broadcast_shapes(place.shape[:-1], self.start.shape[:-1])
        place = np.broadcast_to(place, (*lead, at.shape[-1]))
        inside = np.broadcast_to(inside, place.shape)

        def here(values: Floats) -> Floats:
            full = np.broadcast_to(values, (*lead, values.shape[-1]))
            return np.asarray(np.take_along_axis(full, place, axis=-1), dtype=np.float64)

        part = self._inside(here(self.start), here(self.fall), here(self.drop), place, inside - place)
        return np.asarray(here(self.whole) + part + np.maximum(at - self.bins, 0.0), dtype=np.float64)

    def _inside(self, start: Floats, fall: Floats, drop: Floats, place: NDArray[np.int64], x: Floats) -> Floats:
        """∫F over the first part x of a bin."""
        falls = fall < -1e-12
        missing = start * np.where(falls, np.expm1(fall * x) / np.where(falls, fall, 1.0), x)
        evenly = start * x - drop * x * x / 2.0
        return np.asarray(x - np.where(place == self.bins - 1, evenly, missing), dtype=np.float64)
