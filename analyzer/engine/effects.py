"""Does the difference change? Over the time since the start (novelty), and between days of the week. Exploratory.

Both read time buckets: impressions n and outcomes c of every variant in stretches of event time. A unit that
comes back makes its buckets alike, which the buckets cannot show: give the `design_effect` measured on units. Nothing
here drives a verdict, and with several variants or metrics the p-values want `multiplicity`.

Library: numpy, scipy (normal and chi-square distributions).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import chdtrc, ndtr

from analyzer.engine.frequentist import MOST, divide
from analyzer.engine.moments import Floats

__all__ = ["Trend", "WeekdayEffect", "novelty", "weekday_effect"]

DAY_MS = 86_400_000


class Trend(NamedTuple):
    """Every variant against the control; arrays (…, k). In the control's own place nan."""

    slope_per_day: Floats
    """Change of the difference of rates a day; nan below three usable buckets"""
    stderr: Floats
    z: Floats
    p: Floats
    """Two-sided. A small one with a slope towards 0: the effect wears off (novelty); away from 0: it is learned"""
    at_start: Floats
    """Fitted difference at the beginning of the first bucket"""
    at_end: Floats
    """Fitted difference at the beginning of the last bucket"""
    buckets: Floats
    """In which both the variant and the control have impressions"""


class WeekdayEffect(NamedTuple):
    """Does the difference depend on the weekday? Arrays (…, k); in the control's own place nan."""

    difference: Floats
    """(…, 7, k) difference of rates by weekday, Monday first; nan without impressions"""
    q: Floats
    """Cochran's Q; nan below two weekdays"""
    degrees: Floats
    p: Floats


def novelty(
    start_ms: ArrayLike, n: ArrayLike, c: ArrayLike, *, control: int = 0, design_effect: ArrayLike = 1.0
) -> Trend:
    """A straight line through the differences over time, each weighted with its certainty.

    start_ms: (b,) beginnings of the buckets; n, c: (…, b, k); design_effect: (…, k), ≥ 1. The variance of a bucket is
    that of the variant's rate over all buckets, so that it does not depend on the bucket's own outcomes. Raises
    ValueError that names the argument. Source: weighted least squares with known variances.
    """
    start, impressions, outcomes, deff = _checked(start_ms, n, c, control, design_effect)
    difference, weight = _differences(impressions, outcomes, control, deff)
    days = ((start - start.min()) / DAY_MS)[:, None]
    total = weight.sum(axis=-2)
    center = divide((weight * days).sum(axis=-2), total)
    mean = divide((weight * difference).sum(axis=-2), total)
    away = np.where(weight > 0, days - center[..., None, :], 0.0)
    spread = (weight * away**2).sum(axis=-2)
    buckets = (weight > 0).sum(axis=-2).astype(np.float64)
    slope = divide((weight * away * difference).sum(axis=-2), np.where(buckets >= 3, spread, 0.0))
    stderr = np.sqrt(divide(1.0, np.where(buckets >= 3, spread, 0.0)))
    z = divide(slope, stderr)
    at_start, at_end = mean - slope * center, mean + slope * (days.max() - center)
    return Trend(slope, stderr, z, 2 * ndtr(-np.abs(z)), at_start, at_end, buckets)


def weekday_effect(
    start_ms: ArrayLike,
    n: ArrayLike,
    c: ArrayLike,
    *,
    control: int = 0,
    design_effect: ArrayLike = 1.0,
    utc_offset_ms: int = 0,
) -> WeekdayEffect:
    """Cochran's test that the difference is the same on every weekday. Arguments as in `novelty`.

    A bucket belongs to the weekday of its beginning, `utc_offset_ms` east of UTC; buckets of at most a day make sense.
    Source: Cochran 1954.
    """
    start, n, c, deff = _checked(start_ms, n, c, control, design_effect)
    # 1 January 1970 was a Thursday.
    weekday = ((start + utc_offset_ms) // DAY_MS + 3) % 7
    member = (weekday[:, None] == np.arange(7)).astype(np.float64)
    impressions, outcomes = (np.einsum("bd,...bk->...dk", member, x) for x in (n, c))
    difference, weight = _differences(impressions, outcomes, control, deff)
    mean = divide((weight * difference).sum(axis=-2), weight.sum(axis=-2))
    days = (weight > 0).sum(axis=-2)
    away = np.where(weight > 0, difference - mean[..., None, :], 0.0)
    q = np.where(days >= 2, (weight * away**2).sum(axis=-2), np.nan)
    degrees = np.maximum(days - 1.0, 0.0)
    shown = np.where(weight > 0, difference, np.nan)
    return WeekdayEffect(shown, q, degrees, chdtrc(np.maximum(degrees, 1.0), q))


def _differences(n: Floats, c: Floats, control: int, deff: Floats) -> tuple[Floats, Floats]:
    """Differences to the control (…, b, k) and their certainty 1/variance; both 0 where one of the two has nothing."""
    everything = divide(c.sum(axis=-2), n.sum(axis=-2))
    noise = (deff * everything * (1 - everything))[..., None, :]
    variance = divide(noise, n)
    r = divide(c, n)
    weight = divide(1.0, variance + variance[..., control, None])
    known = np.isfinite(weight) & (np.arange(n.shape[-1]) != control)
    return np.where(known, r - r[..., control, None], 0.0), np.where(known, weight, 0.0)


def _checked(
    start_ms: ArrayLike, n: ArrayLike, c: ArrayLike, control: int, design_effect: ArrayLike
) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.int64]], Floats, Floats, Floats]:
    start = np.asarray(start_ms, dtype=np.int64)
    n, c = np.asarray(n, dtype=np.float64), np.asarray(c, dtype=np.float64)
    if start.ndim != 1 or start.size == 0:
        raise ValueError(f"start_ms: one beginning a bucket, got shape {start.shape}")
    for name, values in (("n", n), ("c", c)):
        if values.ndim < 2 or values.shape[-2] != start.size or values.shape[-1] < 2:
            raise ValueError(f"{name}: shape (…, {start.size} buckets, at least two variants), got {values.shape}")
        if not ((values >= 0) & (values <= MOST)).all():
            raise ValueError(f"{name}: must lie in [0, {MOST:g}]")
    if n.shape[-1] != c.shape[-1] or (c > n).any():
        raise ValueError("c: more outcomes than impressions, or of other variants")
    if not 0 <= control < n.shape[-1]:
        raise ValueError(f"control: must be 0 to {n.shape[-1] - 1}, got {control}")
    deff = np.asarray(design_effect, dtype=np.float64)
    if not ((deff >= 1) & (deff <= MOST)).all():
        raise ValueError(f"design_effect: must be ≥ 1 and finite, got {deff.tolist()}")
    return start, n, c, np.broadcast_to(deff, n.shape[:-2] + n.shape[-1:])
