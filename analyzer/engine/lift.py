"""How far a Beta variant lies above the control: credible intervals of the difference and of the ratio, and regions of
practical equivalence.

P(θⱼ ≤ θ_c + d) is the mean, over the narrower of the two posteriors (Gauss–Legendre in the logit), of the distribution
function of the wider one. Interval ends are roots in d of its normal score, which is nearly a straight line.

Libraries: numpy, scipy (incomplete beta function, normal distribution). Sources: docs/statistics.md.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.polynomial import legendre
from numpy.typing import ArrayLike, NDArray
from scipy.special import betainc, expit, ndtr, ndtri

from analyzer.engine.bayes import beta_parameters, break_points, compare, drop
from analyzer.engine.moments import Floats
from analyzer.engine.quadrature import segments

__all__ = ["CredibleLifts", "Region", "beta_distribution", "lifts", "rope"]

_Pair: TypeAlias = tuple[Floats, Floats]
_HEIGHTS: Floats = np.array([0.9, 2.8, 5.5])
_POSITIONS, _WEIGHTS = legendre.leggauss(8)
_LARGE = 50.0
"""Parameters from which the saddlepoint form replaces the incomplete beta function, which gets slow there"""
_CHUNK = 512
_STEPS = 25
_CLOSE = 1e-7
"""Of a normal score: a tail of 2.5 % is then right within 1e-8, but for the error of the distribution function"""


class CredibleLifts(NamedTuple):
    """Of every variant over the control, whose own lifts are 0."""

    p_better: Floats
    """P(θ > θ of the control), (…, k); 1/2 for the control itself"""
    difference: Floats
    """Central credible interval of θ − θ_c, in rate, (…, k, 2)"""
    relative: Floats
    """Central credible interval of θ / θ_c − 1, (…, k, 2)"""


class Region(NamedTuple):
    """Posterior probabilities (…, k) of a variant's difference to the control. The control's own difference is 0."""

    below: Floats
    inside: Floats
    above: Floats

    def decision(self, level: float = 0.95) -> NDArray[np.str_]:
        """(…, k): `below`, `inside` or `above` where that has at least probability `level`, else `open`."""
        return np.select([part >= level for part in self], ["below", "inside", "above"], "open")


def lifts(alpha: ArrayLike, beta: ArrayLike, control: int, level: float = 0.95) -> CredibleLifts:
    """alpha, beta: (…, k) as for `bayes.compare`; control: a place on the last axis.

    P(better) has the error of `compare`. The tail probabilities of an interval are right within 1e-5 where all
    parameters are 10 or more, within 2e-3 from 1 on. Raises ValueError when an argument is outside.
    """
    if not 0.0 < level < 1.0:
        raise ValueError(f"level: must lie between 0 and 1, got {level}")
    contrasts = _Contrasts(alpha, beta, control)
    own, other = contrasts.control, contrasts.variant
    p_better = compare(*(np.stack(pair, axis=-1) for pair in zip(own, other, strict=True))).p_best[:, 1]
    score = float(ndtri((1.0 + level) / 2.0))
    difference, relative = (
        np.concatenate([_quantiles(_Pairs(own, other, part, kind), (-score, score)) for part in contrasts.parts()])
        for kind in (False, True)
    )
    better = contrasts.spread_out(p_better, own=0.5)
    return CredibleLifts(better, contrasts.spread_out(difference), contrasts.spread_out(np.expm1(relative)))


def rope(alpha: ArrayLike, beta: ArrayLike, control: int, low: float, high: float, *, relative: bool = False) -> Region:
    """Probability that θ − θ_c (relative: θ / θ_c − 1) lies below, in and above [low, high]. Errors as `lifts`.

    Source: Kruschke 2018 (region of practical equivalence). Raises ValueError unless low ≤ high, relative ones > −1.
    """
    if not low <= high or (relative and low <= -1.0):
        raise ValueError(f"low, high: must be an interval{' above −1' if relative else ''}, got [{low}, {high}]")
    contrasts = _Contrasts(alpha, beta, control)
    ends = np.log1p([low, high]) if relative else np.array([low, high])
    at_most = np.concatenate(
        [
            _Pairs(contrasts.control, contrasts.variant, part, relative).at_most(ends[None, :])
            for part in contrasts.parts()
        ]
    )
    below, up_to_high = contrasts.spread_out(at_most, own=np.array([low > 0.0, high >= 0.0]) * 1.0).T
    return Region(below.T, np.maximum(up_to_high - below, 0.0).T, 1.0 - up_to_high.T)


def beta_distribution(x: Floats, a: Floats, b: Floats) -> Floats:
    """P(Beta(a, b) ≤ x), all of one shape; 0 and 1 outside [0, 1].

    Where both parameters are 50 or more: Φ(z − ln(h)/z), z the signed root of twice the drop of the log density of the
    logit and h = √(ab/n)·du/dz. Absolute error below 2e-5, from 1,000 on below 3e-7.
    Source: Barndorff-Nielsen 1986; DiCiccio, Martin 1991.
    """
    total = a + b
    mean = a / total
    large = np.minimum(a, b) >= _LARGE
    x = np.clip(x, 0.0, 1.0)
    out = np.empty(x.shape)
    few = ~large
    out[few] = betainc(a[few], b[few], x[few])
    if large.any():
        e, a, b, total, mean = (v[large] for v in (x - mean, a, b, total, mean))
        up, down = e / mean, -e / (1.0 - mean)
        edge = np.minimum(up, down) <= -1.0
        up, down = np.where(edge, 0.0, up), np.where(edge, 0.0, down)
        z = np.copysign(np.sqrt(np.maximum(-2.0 * (a * np.log1p(up) + b * np.log1p(down)), 0.0)), e)
        root = np.sqrt(a * b / total)
        near = np.abs(z) < 0.01
        safe = np.where(near, 1.0, z)
        ratio = root * safe / np.where(near, root, total * e)
        shift = np.where(near, (1.0 - 2.0 * mean) / (3.0 * root), -np.log(ratio) / safe)
        out[large] = np.where(edge, (e > 0) * 1.0, ndtr(z + shift))
    return out


class _Contrasts:
    """Every variant but the control, of all experiments, in one row: (p,) with p = experiments · (k − 1)."""

    def __init__(self, alpha: ArrayLike, beta: ArrayLike, control: int) -> None:
        a, b = beta_parameters(alpha, beta)
        self.shape, self.place = a.shape, control
        if not 0 <= control < a.shape[-1]:
            raise ValueError(f"control: must be a place among {a.shape[-1]} variants, got {control}")
        others = np.arange(a.shape[-1]) != control
        self.variant = a[..., others].ravel(), b[..., others].ravel()
        wide = (*a.shape[:-1], a.shape[-1] - 1)
        own_a, own_b = (np.broadcast_to(v[..., control, None], wide).ravel() for v in (a, b))
        self.control = own_a, own_b

    def parts(self) -> list[slice]:
        return [slice(start, start + _CHUNK) for start in range(0, max(self.variant[0].size, 1), _CHUNK)]

    def spread_out(self, values: Floats, own: ArrayLike = 0.0) -> Floats:
        """(p, …) → (…, k, …), the control's place filled with `own`."""
        inner = values.shape[1:]
        kept = values.reshape(*self.shape[:-1], self.shape[-1] - 1, *inner)
        axis = len(self.shape) - 1
        before, after = np.split(kept, [self.place], axis=axis)
        filled = np.broadcast_to(own, (*self.shape[:-1], 1, *inner))
        return np.concatenate([before, filled, after], axis=axis)


class _Pairs:
    """Variant and control, p times: the nodes and weights of the narrower posterior and the parameters of the wider."""

    def __init__(self, control: _Pair, variant: _Pair, part: slice, relative: bool) -> None:
        """control, variant: parameters (a, b), (p,) each, of which `part` is taken."""
        own, other = (control[0][part], control[1][part]), (variant[0][part], variant[1][part])
        self.relative = relative
        spreads = _spread(*own, relative), _spread(*other, relative)
        control_narrow = spreads[0] <= spreads[1]
        a, b = (np.where(control_narrow, c, v)[:, None] for c, v in zip(own, other, strict=True))
        self.wide = tuple(np.where(control_narrow, v, c)[:, None, None] for c, v in zip(own, other, strict=True))
        self.sign = np.where(control_narrow, 1.0, -1.0)[:, None]
        self.centre = _centre(*other, relative) - _centre(*own, relative)
        self.scale = np.hypot(*spreads)
        middle, half = segments(break_points(a[:, 0], b[:, 0], _HEIGHTS))
        u = (middle[..., None] + half[..., None] * _POSITIONS).reshape(len(a), half.shape[-1] * _POSITIONS.size)
        weights = np.exp(-drop(u, a, b)) * (half[..., None] * _WEIGHTS).reshape(u.shape)
        self.x = expit(u)[:, None, :]
        self.weights = (weights / weights.sum(axis=-1, keepdims=True))[:, None, :]

    def at_most(self, lift: Floats, rows: slice | NDArray[np.int64] = slice(None)) -> Floats:
        """lift: (rows, 2) → P(θ ≤ θ_c + lift); with `relative` P(θ ≤ θ_c · exp(lift))."""
        sign = self.sign[rows]
        move = (lift * sign)[..., None]
        x = self.x[rows] * np.exp(move) if self.relative else self.x[rows] + move
        a, b = (np.broadcast_to(v[rows], x.shape) for v in self.wide)
        below = np.minimum((self.weights[rows] * beta_distribution(x, a, b)).sum(axis=-1), 1.0)
        return np.asarray(np.where(sign > 0, below, 1.0 - below), dtype=np.float64)


def _quantiles(pairs: _Pairs, scores: tuple[float, float]) -> Floats:
    """(p, 2): the lifts whose distribution function has these normal scores. Secants of the score, kept in brackets."""
    wanted = np.array(scores)
    scale = np.broadcast_to(pairs.scale[:, None], (len(pairs.scale), 2))
    bound = 700.0 if pairs.relative else 1.0
    lift: Floats = np.clip(pairs.centre[:, None] + wanted * scale, -0.999 * bound, 0.999 * bound)
    low, high = np.full(lift.shape, -bound), np.full(lift.shape, bound)
    slope = 1.0 / scale
    away = _score(pairs.at_most(lift)) - wanted
    rows = np.arange(len(lift))
    for _ in range(_STEPS):
        rows = rows[(np.abs(away[rows]) > _CLOSE).any(axis=-1)]
        if not rows.size:
            break
        at, miss = lift[rows], away[rows]
        low[rows] = np.where(miss < 0, at, low[rows])
        high[rows] = np.where(miss > 0, at, high[rows])
        new = at - np.clip(miss / slope[rows], -2.0 * scale[rows], 2.0 * scale[rows])
        inside = (low[rows] < new) & (new < high[rows])
        new = np.where(miss == 0, at, np.where(inside, new, (low[rows] + high[rows]) / 2.0))
        found = _score(pairs.at_most(new, rows)) - wanted
        moved = new != at
        rise = (found - miss) / np.where(moved, new - at, 1.0)
        slope[rows] = np.where(moved & (rise * scale[rows] > 0.05), rise, slope[rows])
        lift[rows], away[rows] = new, found
    return lift


def _score(probability: Floats) -> Floats:
    return np.asarray(ndtri(np.clip(probability, 1e-12, 1.0 - 1e-12)), dtype=np.float64)


def _centre(a: Floats, b: Floats, relative: bool) -> Floats:
    mean: Floats = a / (a + b)
    return np.asarray(np.log(mean), dtype=np.float64) if relative else mean


def _spread(a: Floats, b: Floats, relative: bool) -> Floats:
    """Standard deviation of the rate; of its logarithm, to first order."""
    n = a + b
    return np.asarray(np.sqrt(b / (a * (n + 1.0))) if relative else np.sqrt(a * b / (n + 1.0)) / n, dtype=np.float64)
