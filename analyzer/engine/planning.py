"""Before the start: how many units, how long, or how small an effect. For fixed and for sequential tests.

Counts are units of the control arm; further arms get `ratio` times as many, each compared with the control at α/(k−1).

Library: numpy, scipy (normal distribution, root finding).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtr, ndtri

from analyzer.engine.frequentist import rejection_probability
from analyzer.engine.moments import Floats
from analyzer.engine.sequential import LEAST_OUTCOMES, LEAST_UNITS, half_width

__all__ = [
    "CONVENTIONS",
    "Convention",
    "Design",
    "SequentialSize",
    "detectable_effect",
    "fixed_power",
    "fixed_size",
    "sequential_power",
    "sequential_size",
]

Convention: TypeAlias = Literal["pooled", "unpooled", "baseline", "arcsine"]

CONVENTIONS: dict[Convention, str] = {
    "pooled": "variance pooled under H0, unpooled under H1: the z test that `sluice compare` reports",
    "unpooled": "unpooled under both",
    "baseline": "variance pooled under both",
    "arcsine": "Cohen's h",
}

_MOST = 1e15
"""Units"""

_LEAST_EFFECT = 1e-12
"""Of a rate, or in standard deviations: below, not even so many units would do"""

_FACTOR = 1e6
"""Largest ratio of arms and largest design effect, so that every number stays a number"""


class Design(NamedTuple):
    """What is planned."""

    baseline: float
    """The control's rate in (0, 1), or its mean when `deviation` is given"""
    effect: float
    """Absolute difference to the control, not 0"""
    alpha: float = 0.05
    """Two-sided, of all comparisons together"""
    power: float = 0.8
    """Of one comparison"""
    variants: int = 2
    """With the control"""
    ratio: float = 1.0
    """Units of each further variant over those of the control"""
    design_effect: float = 1.0
    """Clustered variance over that of independent observations"""
    deviation: float | None = None
    """Standard deviation of a mean's observations; None plans a rate"""
    convention: Convention = "pooled"

    @property
    def each_alpha(self) -> float:
        """Bonferroni: α of one comparison."""
        return self.alpha / (self.variants - 1)

    def check(self) -> Design:
        """Raises ValueError that names the field."""
        for name in ("alpha", "power"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name}: must lie in (0, 1), got {getattr(self, name)}")
        if self.variants < 2:
            raise ValueError(f"variants: at least two, got {self.variants}")
        if not self.power > self.each_alpha:
            raise ValueError(f"power: {self.power} is not above alpha {self.each_alpha}: no observation is needed")
        if not 1 / _FACTOR <= self.ratio <= _FACTOR:
            raise ValueError(f"ratio: must lie in [{1 / _FACTOR:g}, {_FACTOR:g}], got {self.ratio}")
        if not 1 <= self.design_effect <= _FACTOR:
            raise ValueError(f"design_effect: must be ≥ 1, up to {_FACTOR:g}, got {self.design_effect}")
        if self.deviation is not None and not 1e-100 < self.deviation < 1e100:
            raise ValueError(f"deviation: must be > 0 and finite (up to 1e100), got {self.deviation}")
        if not math.isfinite(self.baseline) or (self.deviation is None and not 0 < self.baseline < 1):
            where = "lie in (0, 1)" if self.deviation is None else "be finite"
            raise ValueError(f"baseline: must {where}, got {self.baseline}")
        if not 0 < abs(self.effect) < math.inf:
            raise ValueError(f"effect: must be finite and not 0, got {self.effect}")
        if abs(self.effect) < _LEAST_EFFECT * (self.deviation or 1.0):
            raise ValueError(f"effect: more than {_MOST:g} units are needed; plan for a larger one")
        if self.deviation is None and not 0 < self.baseline + self.effect < 1:
            raise ValueError(f"effect: takes the rate from {self.baseline} to {self.baseline + self.effect:.6g}")
        return self

    def spreads(self) -> tuple[float, float]:
        """Standard errors of the difference times √n, under H0 as the test takes it, and under H1."""
        d, r = self.design_effect, self.ratio
        if self.deviation is not None:
            same = math.sqrt(d * (1 + 1 / r)) * self.deviation
            return same, same
        p, q = self.baseline, self.baseline + self.effect
        if self.convention == "arcsine":
            # In units of the effect, whose variance in h is 1/n whatever the rates are.
            h = 2 * (math.asin(math.sqrt(q)) - math.asin(math.sqrt(p)))
            same = math.sqrt(d * (1 + 1 / r)) * abs(self.effect / h)
            return same, same
        mixed = (p + r * q) / (1 + r)
        pooled = math.sqrt(d * mixed * (1 - mixed) * (1 + 1 / r))
        unpooled = math.sqrt(d * (p * (1 - p) + q * (1 - q) / r))
        null = unpooled if self.convention == "unpooled" else pooled
        return null, pooled if self.convention == "baseline" else unpooled


class SequentialSize(NamedTuple):
    """Units of the control arm for a confidence sequence that is looked at all the time."""

    maximum: int
    """With so many the effect has been found with the planned power; then one stops in any case"""
    expected: float
    """Mean at the stop, if the effect is as planned; at most `maximum`"""


def fixed_size(design: Design) -> int:
    """Units of the control arm that give the z test the planned power: ((z_{α/2}·s₀ + z_β·s₁) / effect)², rounded up.

    s₀, s₁ as the convention says, no continuity correction; a rejection on the wrong side is not counted. Raises
    ValueError as `Design.check`. Source: Fleiss, Levin, Paik 2003, section 4.2.1.
    """
    null, alternative = design.check().spreads()
    reach = -ndtri(design.each_alpha / 2) * null + ndtri(design.power) * alternative
    return _whole((reach / design.effect) ** 2)


def fixed_power(design: Design, n: ArrayLike) -> Floats:
    """Power of the z test with n units in the control arm, n > 0, any shape."""
    null, alternative = design.check().spreads()
    root = np.sqrt(_counts(n))
    return rejection_probability(design.effect, null / root, alternative / root, design.each_alpha)


def sequential_size(design: Design) -> SequentialSize:
    """Of the default confidence sequence (`sequential.half_width`) with τ = |effect|, looked at after every unit.

    The variance V(n) is the unpooled one (or the mean's). Power is `sequential_power`; the expected number is ∫ P(not
    stopped by n) dn up to the maximum. Looks further apart find the effect later, by up to the distance of two looks.
    """
    maximum = _smallest(lambda n: float(sequential_power(design, n)), design.power, _least(design.check()))
    # Half a per mille of the maximum a step.
    edges = np.linspace(0.0, maximum, 2001)
    stopped = sequential_power(design, (edges[1:] + edges[:-1]) / 2)
    return SequentialSize(_whole(maximum), min(float((1 - stopped).mean()), 1.0) * maximum)


def sequential_power(design: Design, n: ArrayLike) -> Floats:
    """P(the confidence sequence has excluded 0 on the right side by n units in the control arm), any shape.

    In the clock t = 1/V the estimate times t is a Brownian motion with drift |effect|, and the sequence ends once that
    exceeds b(t) = t·half-width = √((t + 1/τ²)·(ln(1 + τ²t) + 2 ln(1/α))). b is concave, so its tangent at t lies
    above it, and the chance to cross the tangent by t, which is known exactly, is a lower bound; close to the truth
    because most paths cross late (measured in tests/unit/test_planning.py). Before the gate `sequential.ready` it is 0.

    Source: Bachelier–Lévy formula for a straight boundary; tangent approximation: Daniels 1982.
    """
    counts = _counts(n)
    # 20 / 0.1 may come out just above 200.
    return np.where(counts >= _least(design.check()) * (1 - 1e-12), _crossed(design, counts), 0.0)


def _crossed(design: Design, counts: Floats) -> Floats:
    """`sequential_power` without the gate: grows with n and with the effect."""
    _, spread = design._replace(convention="unpooled").spreads()
    drift, alpha = abs(design.effect), design.each_alpha
    t = counts / spread**2
    boundary = t * half_width(1 / t, alpha, drift)
    log_term = np.log1p(drift**2 * t) - 2 * math.log(alpha)
    slope = (log_term + 1) / (2 * boundary)
    start = boundary - slope * t
    root, rest = np.sqrt(t), drift - slope
    # exp(2·start·rest) may overflow where the probability beside it vanishes; their product never exceeds 1.
    reflected = np.exp(np.minimum(2 * start * rest + log_ndtr((-rest * t - start) / root), 0.0))
    return np.asarray(np.minimum(ndtr((rest * t - start) / root) + reflected, 1.0))


def detectable_effect(
    design: Design, n: float, *, sequential: bool = False, direction: Literal[-1, 1] = 1
) -> float | None:
    """The smallest absolute effect, up or down, that n units in the control arm find with the planned power.

    `design.effect` is not used. None when not even a rate of nearly 0 or 1 would be found, or when so few units never
    pass the gate (sequential). Raises ValueError that names the argument.
    """
    if not 1 <= n <= _MOST:
        raise ValueError(f"n: must lie in [1, {_MOST:g}], got {n}")
    if design.deviation is None:
        if not 0 < design.baseline < 1:
            raise ValueError(f"baseline: must lie in (0, 1), got {design.baseline}")
        limit = (1 - design.baseline if direction > 0 else design.baseline) * (1 - 1e-9)
        scale = 1.0
    else:
        limit, scale = math.inf, design.deviation
    design._replace(effect=direction * min(limit, scale) / 2).check()

    def missing(size: float) -> float:
        tried = design._replace(effect=direction * size)
        return float(_crossed(tried, _counts(n)) if sequential else fixed_power(tried, n)) - design.power

    low = high = min(limit, scale * 2 * _LEAST_EFFECT)
    while missing(high) < 0:
        if high >= limit or high > _MOST * scale:
            return None
        low, high = high, min(2 * high, limit)
    found = high if low == high else float(brentq(missing, low, high, xtol=1e-15 * scale, rtol=1e-12))
    passed = _behind_gate(design, n, found, direction) if sequential else found
    return None if passed is None else direction * passed


def _behind_gate(design: Design, n: float, found: float, direction: int) -> float | None:
    """The smallest effect ≥ found with which both arms are expected to pass the gate. None if there is none."""
    if n * min(design.ratio, 1.0) < LEAST_UNITS * design.design_effect:
        return None
    if design.deviation is not None:
        return found
    p = design.baseline if direction > 0 else 1 - design.baseline
    if n * min(p, 1 - p) < LEAST_OUTCOMES:
        return None
    needed = LEAST_OUTCOMES / (n * design.ratio) * (1 + 1e-9)
    found = max(found, needed - p)
    return found if found <= 1 - p - needed else None


def _least(design: Design) -> float:
    """Units of the control arm below which the gate `sequential.ready` is expected to be closed in some arm."""
    least = LEAST_UNITS * design.design_effect * max(1.0, 1 / design.ratio)
    if design.deviation is not None:
        return least
    arms = (design.baseline, 1.0), (design.baseline + design.effect, design.ratio)
    return max(least, *(LEAST_OUTCOMES / (min(p, 1 - p) * times) for p, times in arms))


def _smallest(power: Callable[[float], float], wanted: float, start: float) -> float:
    """The smallest n ≥ start with so much power; `power` grows with n."""
    if power(start) >= wanted:
        return start
    high = start
    while power(high) < wanted:
        if high > _MOST:
            raise ValueError(f"effect: more than {_MOST:g} units are needed; plan for a larger one")
        high *= 2
    return float(brentq(lambda n: power(n) - wanted, high / 2, high, xtol=1e-3, rtol=1e-12))


def _counts(n: ArrayLike) -> Floats:
    counts = np.asarray(n, dtype=np.float64)
    if not ((counts > 0) & (counts <= 4 * _MOST)).all():
        raise ValueError(f"n: must lie in (0, {_MOST:g}], got {counts.tolist()}")
    # Below one unit nothing is known; a tiny number would only overflow on the way there.
    return np.maximum(counts, 1e-3)


def _whole(n: float) -> int:
    if not n <= _MOST:
        raise ValueError(f"effect: more than {_MOST:g} units are needed; plan for a larger one")
    # A number that is whole but for its last bits is not rounded up.
    return max(math.ceil(n * (1 - 1e-12)), 1)
