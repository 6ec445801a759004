"""Where the traffic goes next, for many runs at once: the same rules as `analyzer.engine.decide`, as arrays."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from analyzer.engine.bayes import compare
from analyzer.engine.evidence import design_effect
from analyzer.engine.moments import Floats, Moments
from analyzer.engine.sequential import ready

__all__ = ["POLICIES", "Policy", "floored", "next_percent", "start"]

Ints: TypeAlias = NDArray[np.int64]
Name: TypeAlias = Literal["thompson", "fixed"]
POLICIES: tuple[Name, ...] = get_args(Name)


class Policy(NamedTuple):
    """How traffic moves; the defaults are those of an experiment."""

    name: Name = "thompson"
    floor: float = 0.05
    min_change: int = 2
    """Percentage points"""
    clustered: bool = True
    """Posteriors of counts divided by the design effect"""


def start(runs: int, k: int) -> Ints:
    """Equal whole percents, the rest to the first variants: (runs, k)."""
    base, rest = divmod(100, k)
    return np.tile(base + (np.arange(k) < rest), (runs, 1)).astype(np.int64)


def next_percent(policy: Policy, raw: Moments, weighted: Moments, percent: Ints) -> Ints:
    """The allocation that follows on `percent` (runs, k) for these sums; it moves once every variant has enough."""
    if policy.name == "fixed":
        return percent
    effect = design_effect(raw) if policy.clustered else 1.0
    p_best = compare(1 + raw.c / effect, 1 + (raw.n - raw.c) / effect).p_best
    wanted = floored(p_best, policy.floor)
    enough = ready(raw, weighted).all(axis=1)
    moved = np.abs(wanted - percent).max(axis=1) >= policy.min_change
    return np.where((enough & moved)[:, None], wanted, percent)


def floored(weights: Floats, floor: float) -> Ints:
    """Whole percents (runs, k) in proportion to `weights`, none below `floor`: `thompson_shares` of many runs."""
    k = weights.shape[1]
    least = min(int(np.ceil(100 * floor - 1e-9)), 100 // k)
    lifted = np.zeros(weights.shape, dtype=bool)
    while True:
        rest = 100 - least * lifted.sum(axis=1, keepdims=True)
        total = np.where(lifted, 0.0, weights).sum(axis=1, keepdims=True)
        low = ~lifted & (weights * rest < least * total)
        if not low.any():
            break
        lifted |= low
    exact = np.where(lifted, least, weights * rest / np.where(total > 0, total, 1.0))
    exact = 100 * exact / exact.sum(axis=1, keepdims=True)
    whole = np.floor(exact).astype(np.int64)
    order = np.argsort(whole - exact, axis=1, kind="stable")
    place = np.argsort(order, axis=1, kind="stable")
    return np.asarray(whole + (place < 100 - whole.sum(axis=1, keepdims=True)))
