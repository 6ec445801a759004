"""Where the traffic goes: allocation rules as functions from what is known to shares, over any leading axes.

Thompson sampling needs no draws here: a variant gets the traffic that matches the probability that it is the best, so
its shares *are* `compare(…).p_best` of Beta or Normal arms. The other rules are its refinement and the baselines to
compare with. What a share of 100 % means between two decisions is up to the caller; `lifted` and `whole` make any
shares an allocation.

Library: numpy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analyzer.engine.moments import Floats
from analyzer.engine.quadrature import Comparison

__all__ = [
    "Convergence",
    "convergence",
    "epsilon_greedy",
    "kl_ucb",
    "lifted",
    "moved_enough",
    "thompson_shares",
    "top_two",
    "ucb1",
    "uniform",
    "whole",
]


def uniform(shape: tuple[int, ...]) -> Floats:
    """Equal shares, (…, k)."""
    return np.full(shape, 1.0 / shape[-1])


def top_two(p_best: ArrayLike, first: float = 0.5) -> Floats:
    """Top-two Thompson sampling, exactly: with probability `first` a draw of the best, else the best of another draw
    in which that one is not the best.

    p_best: (…, k), sums to 1 → shares `pᵢ·(first + (1 − first)·Σⱼ≠ᵢ pⱼ/(1 − pⱼ))`, (…, k). It explores more than
    Thompson sampling where one variant is nearly certain to be the best, to be certain sooner. Raises ValueError when
    `first` is outside (0, 1]. Source: Russo 2016 (Simple Bayesian Algorithms for Best Arm Identification).
    """
    if not 0 < first <= 1:
        raise ValueError(f"first: must lie in (0, 1], got {first}")
    p = _shares("p_best", p_best)
    if p.shape[-1] == 1:
        return np.ones_like(p)
    # 1 − pⱼ, and the sum over j ≠ i, as sums of the others: differences would lose their digits near 1.
    own = np.eye(p.shape[-1], dtype=bool)
    other = np.where(own, 0.0, p[..., None, :]).sum(axis=-1)
    # Where nobody else is ever the best, the second is anyone else, all alike.
    lost = other <= 1e-300
    again = np.where(lost, 0.0, p / np.where(lost, 1.0, other))
    second = p * np.where(own, 0.0, again[..., None, :]).sum(axis=-1)
    second += lost.any(axis=-1, keepdims=True) * np.where(lost, 0.0, 1.0 / (p.shape[-1] - 1))
    return np.asarray(first * p + (1.0 - first) * second / second.sum(axis=-1, keepdims=True), dtype=np.float64)


def epsilon_greedy(n: ArrayLike, c: ArrayLike, epsilon: float = 0.1) -> Floats:
    """All traffic to the largest rate c/n, but a part `epsilon` to all alike, (…, k). Ties to the earlier variant.

    Variants without impressions come first. Source: Sutton, Barto 2018, section 2.2.
    """
    if not 0 <= epsilon <= 1:
        raise ValueError(f"epsilon: must lie in [0, 1], got {epsilon}")
    n, c = _counts(n, c)
    index = np.where(n > 0, c / np.where(n > 0, n, 1.0), np.inf)
    return np.asarray((1.0 - epsilon) * _all_to(index) + epsilon / n.shape[-1], dtype=np.float64)


def ucb1(n: ArrayLike, c: ArrayLike) -> Floats:
    """All traffic to the largest c/n + √(2·ln(Σn)/n), (…, k). Variants without impressions come first.

    Source: Auer, Cesa-Bianchi, Fischer 2002.
    """
    n, c = _counts(n, c)
    shown = np.where(n > 0, n, 1.0)
    index = c / shown + np.sqrt(2.0 * _log_total(n) / shown)
    return _all_to(np.where(n > 0, index, np.inf))


def kl_ucb(n: ArrayLike, c: ArrayLike) -> Floats:
    """All traffic to the largest q with n·KL(c/n ‖ q) ≤ ln(Σn), (…, k). Variants without impressions come first.

    Source: Garivier, Cappé 2011, with c = 0 as they recommend.
    """
    n, c = _counts(n, c)
    shown = np.where(n > 0, n, 1.0)
    p = c / shown
    most = _log_total(n) / shown
    low, high = p, np.ones_like(p)
    for _ in range(52):
        q = (low + high) / 2.0
        fits = _divergence(p, q) <= most
        low, high = np.where(fits, q, low), np.where(fits, high, q)
    return _all_to(np.where(n > 0, low, np.inf))


def lifted(shares: ArrayLike, floor: float) -> Floats:
    """(…, k), ≥ 0, not all 0 → percents that sum to 100: who falls below the floor gets it, the others share the rest.

    floor: a share in [0, 1/k]. One that is not a whole percent is rounded up, except that k floors never exceed 100 %
    (floor 1/3 of three variants is 33 %). Raises ValueError otherwise.
    """
    weights = _shares("shares", shares)
    k = weights.shape[-1]
    if not 0 <= floor * k <= 1 + 1e-9:
        raise ValueError(f"floor: {floor} of {k} variants; allowed is 0 to 1/{k}")
    least = float(min(math.ceil(100 * floor - 1e-9), 100 // k))
    raised = np.zeros(weights.shape, dtype=bool)
    # Who is lifted takes from the others, of whom some may fall below in turn.
    while True:
        rest = 100.0 - least * raised.sum(axis=-1, keepdims=True)
        total = _in_order(np.where(raised, 0.0, weights))
        low = ~raised & (weights * rest < least * total)
        if not low.any():
            break
        raised |= low
    # All can be lifted, by rounding, when k floors are 100 %: then nothing is divided.
    return np.where(raised, least, weights * rest / np.where(total > 0, total, 1.0))


def whole(shares: ArrayLike) -> NDArray[np.int64]:
    """(…, k), ≥ 0, not all 0 → whole percents that sum to 100 by largest remainder, ties to the earlier variant.

    The same as `sluice.domain.allocation.whole_percents` of each row.
    """
    weights = _shares("shares", shares)
    exact = 100 * weights / _in_order(weights)
    percents = exact.astype(np.int64)
    missing = 100 - percents.sum(axis=-1, keepdims=True)
    by_remainder = np.argsort(percents - exact, axis=-1, kind="stable")
    rank = np.argsort(by_remainder, axis=-1, kind="stable")
    return np.asarray(percents + (rank < missing), dtype=np.int64)


def thompson_shares(p_best: Mapping[str, float], floor: float) -> dict[str, int]:
    """Whole percents that sum to 100, proportional to `p_best`, none below `floor` as `lifted` has it.

    Raises ValueError when `p_best` is empty, negative or all 0, or the floor too high.
    Source: Thompson 1933; Scott 2010 (probability matching).
    """
    percents = whole(lifted(_shares("p_best", list(p_best.values())), floor))
    return dict(zip(p_best, percents.tolist(), strict=True))


def moved_enough(new: Mapping[str, int], previous: Mapping[str, int], min_change: int) -> bool:
    """Whether some variant's share differs by at least `min_change` percentage points, or the variants differ.

    Every allocation splits the counts into further cells; small steps would make many cells and move little traffic.
    """
    return new.keys() != previous.keys() or max(abs(new[name] - previous[name]) for name in new) >= min_change


class Convergence(NamedTuple):
    """Whether there is anything left to gain from further exploration; arrays of the leading axes."""

    leader: NDArray[np.int64]
    """The variant most probably the best; of equals the first"""
    p_best: Floats
    """Its probability of being the best"""
    remaining: Floats
    """E[max θ − θ of the leader]: what going on could still gain, in the metric's unit, if it went on for ever"""
    relative: Floats
    """`remaining` over the leader's mean; infinite where that is not positive"""
    converged: NDArray[np.bool_]
    """`relative` ≤ caring"""


def convergence(compared: Comparison, means: ArrayLike, caring: float = 0.001) -> Convergence:
    """From P(best), expected losses and the posterior means, (…, k).

    The value remaining is that of Scott 2010 (and 2015, Multi-armed bandit experiments in the online service economy),
    its mean instead of its 95 % quantile, so that no draws are needed; by Markov's inequality it exceeds 20 times
    `caring` with a probability of at most 5 %. Raises ValueError unless caring > 0.
    """
    if not 0 < caring < math.inf:
        raise ValueError(f"caring: must be positive, got {caring}")
    leader = np.argmax(compared.p_best, axis=-1)
    p_best, remaining, mean = (
        np.take_along_axis(np.asarray(part, dtype=np.float64), leader[..., None], axis=-1)[..., 0]
        for part in (compared.p_best, compared.expected_loss, means)
    )
    relative = np.where(mean > 0, remaining / np.where(mean > 0, mean, 1.0), np.inf)
    return Convergence(leader, p_best, remaining, relative, relative <= caring)


def _shares(name: str, values: ArrayLike) -> Floats:
    shares = np.asarray(values, dtype=np.float64)
    if shares.ndim == 0 or shares.shape[-1] == 0:
        raise ValueError(f"{name}: at least one variant is needed, got {shares.tolist()}")
    if not (np.isfinite(shares) & (shares >= 0)).all() or not (shares.max(axis=-1) > 0).all():
        raise ValueError(f"{name}: must be ≥ 0 and not all 0, got {shares.tolist()}")
    return shares


def _counts(n: ArrayLike, c: ArrayLike) -> tuple[Floats, Floats]:
    shown, clicked = np.broadcast_arrays(np.asarray(n, dtype=np.float64), np.asarray(c, dtype=np.float64))
    if shown.ndim == 0 or shown.shape[-1] == 0:
        raise ValueError(f"n: at least one variant is needed, got {shown.tolist()}")
    if not (np.isfinite(shown) & (shown >= 0)).all():
        raise ValueError(f"n: must be finite and ≥ 0, got {shown.tolist()}")
    if not ((clicked >= 0) & (clicked <= shown)).all():
        raise ValueError(f"c: must lie between 0 and n, got {clicked.tolist()}")
    return shown, clicked


def _log_total(n: Floats) -> Floats:
    return np.asarray(np.log(np.maximum(n.sum(axis=-1, keepdims=True), 1.0)), dtype=np.float64)


def _divergence(p: Floats, q: Floats) -> Floats:
    """KL(Bernoulli(p) ‖ Bernoulli(q)) for q ≥ p; infinite at q = 1 > p."""
    inner = np.where(p > 0, p * np.log(np.where(p > 0, p / np.maximum(q, 1e-300), 1.0)), 0.0)
    left = np.where(q < 1, (1.0 - p) / np.maximum(1.0 - q, 1e-300), np.inf)
    outer = np.where((p < 1) & (q < 1), (1.0 - p) * np.log(np.where((p < 1) & (q < 1), left, 1.0)), 0.0)
    return np.asarray(np.where((q >= 1) & (p < 1), np.inf, inner + outer), dtype=np.float64)


def _all_to(index: Floats) -> Floats:
    """1 for the largest, the first of equals."""
    return np.asarray(np.arange(index.shape[-1]) == index.argmax(axis=-1)[..., None], dtype=np.float64)


def _in_order(weights: Floats) -> Floats:
    """Sum over the last axis from the first on, as a plain loop would add: rounding, too, is that of `sum`."""
    return weights.cumsum(axis=-1)[..., -1:]
