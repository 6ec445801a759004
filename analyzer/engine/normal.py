"""Normal posteriors of means, for metrics with values: from moments, with the variance clustered on the unit.

The mean per impression of a variant is asymptotically Normal with the variance of a ratio of sums over units, so with a
Normal prior the posterior is Normal. P(best) and expected loss come from the same quadrature as those of Beta arms.

Libraries: numpy, scipy (normal distribution). Sources: docs/statistics.md.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr, ndtri

from analyzer.engine import moments
from analyzer.engine.evidence import few_units_factor
from analyzer.engine.lift import CredibleLifts, Region
from analyzer.engine.moments import Floats, Moments
from analyzer.engine.quadrature import HEIGHTS, POSITIONS, Comparison, chunks, compare_densities, join, segments

__all__ = ["Normals", "compare_normal", "lifts_normal", "posterior", "rope_normal"]

SMALLEST, LARGEST, FARTHEST = 1e-60, 1e60, 1e40
"""Allowed variances, and means"""

_POINTS: Floats = np.concatenate([-HEIGHTS, HEIGHTS])


class Normals(NamedTuple):
    """Posteriors of the arms' means, (…, k) each; where nothing is known yet the variance is infinite, the mean 0."""

    mean: Floats
    variance: Floats


def posterior(arms: Moments, *, prior_mean: float = 0.0, prior_variance: float = math.inf) -> Normals:
    """Of the mean Σc/Σn per impression, from (…, k) moments (c may be a value), with a Normal(prior_mean, …) prior.

    The variance is `moments.variance` times `evidence.few_units_factor`. Arms of fewer than two units, or whose units
    show no variance at all, tell nothing: they keep the prior. So do arms in which one unit outweighs the others so
    much that the variance leaves the range of `compare_normal`. Raises ValueError unless prior_variance > 0.
    Source: Gelman et al. 2013, section 2.5 (conjugate Normal); Deng, Knoblich, Lu 2018 (variance).
    """
    if not prior_variance > 0 or not math.isfinite(prior_mean):
        raise ValueError(f"prior_mean, prior_variance: must be finite and > 0, got {prior_mean}, {prior_variance}")
    seen = moments.variance(arms) * few_units_factor(moments.effective_units(arms))
    known = (seen > SMALLEST) & (seen < LARGEST * 1e-10)
    precision = np.where(known, 1.0 / np.where(known, seen, 1.0), 0.0)
    rate = np.where(known, np.nan_to_num(moments.rate(arms)), 0.0)
    total = precision + 1.0 / prior_variance
    some = total > 0
    mean = (rate * precision + prior_mean / prior_variance) / np.where(some, total, 1.0)
    return Normals(mean, np.where(some, 1.0 / np.where(some, total, 1.0), np.inf))


def compare_normal(mean: ArrayLike, variance: ArrayLike) -> Comparison:
    """P(best) and expected loss, in the unit of the mean, of independent Normal(mean, variance) arms, (…, k) each.

    Absolute error below 1e-9 of P(best), below 1e-9 standard deviations of the loss. Raises ValueError when a mean is
    not finite or a variance not positive and finite.
    """
    m, v = _parameters(mean, variance)
    *lead, k = m.shape
    m, sd = m.reshape(-1, k), np.sqrt(v).reshape(-1, k)
    return join([_compare(m[part], sd[part]) for part in chunks(len(m), k)], tuple(lead), k)


def lifts_normal(mean: ArrayLike, variance: ArrayLike, control: int, level: float = 0.95) -> CredibleLifts:
    """P(better), difference and relative lift over arm `control`; exact, (…, k) each.

    The relative interval is Fieller's: the r with P(μ ≤ (1 + r)·μ_c) between the tails; it is nan where the control's
    mean is not surely of one sign (|mean| below the quantile times its standard deviation).
    Source: Fieller 1954. Raises ValueError as `compare_normal` does.
    """
    m, v = _parameters(mean, variance)
    if not 0 <= control < m.shape[-1] or not 0.0 < level < 1.0:
        raise ValueError(f"control, level: must be a place among {m.shape[-1]} and in (0, 1), got {control}, {level}")
    own = np.arange(m.shape[-1]) == control
    base, spread = m[..., control, None], v[..., control, None]
    score = float(ndtri((1.0 + level) / 2.0))
    difference = np.where(own, 0.0, m - base)
    width = np.where(own, 0.0, score * np.sqrt(v + spread))
    better = np.where(own, 0.5, ndtr(difference / np.sqrt(v + spread)))
    # ((1+r)·m_c − m)² = score²·(v + (1+r)²·v_c), a parabola in 1 + r.
    leading = base**2 - score**2 * spread
    defined = leading > 0
    safe = np.where(defined, leading, 1.0)
    root = np.sqrt(np.maximum((m * base) ** 2 - safe * (m**2 - score**2 * v), 0.0))
    ends = np.stack([m * base - root, m * base + root], axis=-1) / safe[..., None] - 1.0
    relative = np.where(own[..., None], 0.0, np.where(defined[..., None], ends, np.nan))
    return CredibleLifts(better, np.stack([difference - width, difference + width], axis=-1), relative)


def rope_normal(mean: ArrayLike, variance: ArrayLike, control: int, low: float, high: float) -> Region:
    """Probability that μ − μ_c lies below, in and above [low, high], exact, (…, k). Raises ValueError."""
    if not low <= high:
        raise ValueError(f"low, high: must be an interval, got [{low}, {high}]")
    m, v = _parameters(mean, variance)
    if not 0 <= control < m.shape[-1]:
        raise ValueError(f"control: must be a place among {m.shape[-1]} variants, got {control}")
    own = np.arange(m.shape[-1]) == control
    difference, sd = m - m[..., control, None], np.sqrt(v + v[..., control, None])
    below = np.where(own, float(low > 0), ndtr((low - difference) / sd))
    above = np.where(own, float(high < 0), ndtr((difference - high) / sd))
    return Region(below, np.maximum(1.0 - below - above, 0.0), above)


def _parameters(mean: ArrayLike, variance: ArrayLike) -> tuple[Floats, Floats]:
    m, v = np.broadcast_arrays(np.asarray(mean, dtype=np.float64), np.asarray(variance, dtype=np.float64))
    if m.ndim == 0 or m.shape[-1] == 0:
        raise ValueError(f"mean: at least one arm is needed, got shape {m.shape}")
    if not (np.abs(m) <= FARTHEST).all():
        raise ValueError(f"mean: must be finite, at most {FARTHEST:g}, got {m.tolist()}")
    if not ((v >= SMALLEST) & (v <= LARGEST)).all():
        raise ValueError(f"variance: must lie in [{SMALLEST:g}, {LARGEST:g}], got {v.tolist()}")
    return m, v


def _compare(mean: Floats, sd: Floats) -> Comparison:
    """(e, k) each. In units of the largest deviation from the largest mean, where doubles resolve best."""
    unit = sd.max(axis=-1, keepdims=True)
    away = (mean - mean.max(axis=-1, keepdims=True)) / unit
    # A million deviations below nobody wins, and a billionth of the distance is as good as a point.
    place = np.maximum(away, -1e6)
    sd = np.maximum(sd / unit, np.maximum(-place * 1e-9, 1e-60))
    points = place[..., None] + sd[..., None] * _POINTS
    middle, half = segments(points.reshape(len(mean), _POINTS.size * mean.shape[1]))
    x = middle[..., None] + half[..., None] * POSITIONS
    density = x[:, None] - place[:, :, None, None]
    density *= (1.0 / sd)[:, :, None, None]
    density *= density
    density *= -0.5
    np.exp(density, out=density)
    found = compare_densities(density, half, x, away)
    return found._replace(expected_loss=found.expected_loss * unit)
