"""Which of k independent arms is the largest, from their densities on one grid of Gauss–Legendre segments.

The grid has break points at fixed heights of *every* arm, so that each segment is short on the scale of every arm,
however unequal they are. On a segment the integral of the polynomial through the densities gives the distribution
functions at the same nodes. All sums run over one experiment in a fixed order: its result is the same bits alone and
among others.

Library: numpy. Source of the idea: docs/statistics.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.polynomial import legendre

from analyzer.engine.moments import Floats

__all__ = ["HEIGHTS", "POSITIONS", "Comparison", "chunks", "compare_densities", "segments"]

HEIGHTS: Floats = np.array([0.5, 1.6, 2.9, 4.5, 6.7])
"""Break points on either side of an arm, in standard deviations; beyond the last lies 2e-11 of its mass"""

_NODES = 10
_CHUNK = 1 << 16


class Comparison(NamedTuple):
    """Of k arms, over any leading axes: each array is (…, k)."""

    p_best: Floats
    """P(θᵢ is the largest); sums to 1"""
    expected_loss: Floats
    """E[max θ − θᵢ] ≥ 0, in the unit of θ"""
    error: Floats
    """(…): by how much the unscaled probabilities missed 1, the quadrature's own error estimate"""


def chunks(experiments: int, arms: int) -> Iterator[slice]:
    """Slices of experiments whose densities fit the second-level cache together."""
    size = max(1, _CHUNK // (arms * arms * 2 * HEIGHTS.size * _NODES))
    return (slice(start, start + size) for start in range(0, max(experiments, 1), size))


def segments(points: Floats) -> tuple[Floats, Floats]:
    """Break points of all arms (e, points), in any order → middles and half-widths (e, points − 1)."""
    points = np.sort(points, axis=-1)
    left, right = points[..., :-1], points[..., 1:]
    return (left + right) / 2.0, (right - left) / 2.0


def join(parts: list[Comparison], lead: tuple[int, ...], k: int) -> Comparison:
    """The comparisons of the chunks as one, with leading axes `lead`."""
    p_best, loss, error = parts[0] if len(parts) == 1 else map(np.concatenate, zip(*parts, strict=True))
    return Comparison(p_best.reshape(*lead, k), loss.reshape(*lead, k), error.reshape(lead))


def compare_densities(density: Floats, half: Floats, x: Floats, means: Floats) -> Comparison:
    """density: (e, k, segments, nodes), of any scale, overwritten. half: (e, segments). x: (e, segments, nodes).

    means: (e, k), of the arms, in the unit of x. Memory: one array more of the size of `density`.
    """
    e, k, count, nodes = density.shape
    density *= half[:, None, :, None]
    below = density @ _TO_NODES
    mass = below[..., nodes]
    before = mass.cumsum(axis=-1)
    total = before[..., -1, None, None].copy()
    below, before = below[..., :nodes], (before - mass)[..., None]
    below += before
    below /= total
    # Of a polynomial through values near 0 some integrals fall below it.
    np.maximum(below, 0.0, out=below)
    density *= _WEIGHTS / total
    _times_others(density, below)
    wins = density.reshape(e, k, count * nodes)
    p_best = wins.sum(axis=-1)
    scale = p_best.sum(axis=-1, keepdims=True)
    # Around the largest mean, so that small losses are not differences of large numbers.
    top = means.max(axis=-1, keepdims=True)
    away = x.reshape(e, count * nodes) - top
    gain = (wins.sum(axis=1) * away).sum(axis=-1, keepdims=True) / scale
    return Comparison(p_best / scale, np.maximum(gain + (top - means), 0.0), np.abs(scale[:, 0] - 1.0))


def _times_others(density: Floats, below: Floats) -> None:
    """Each arm's density times the product of all other arms' distribution functions, without dividing by any."""
    k = density.shape[1]
    if k == 1:
        return
    left, right = below[:, 0].copy(), below[:, k - 1].copy()
    for i in range(1, k):
        density[:, i] *= left
        density[:, k - 1 - i] *= right
        if i < k - 1:
            left *= below[:, i]
            right *= below[:, k - 1 - i]


def _rule(nodes: int) -> tuple[Floats, Floats, Floats]:
    """Gauss–Legendre positions and weights on [−1, 1], and the matrix (nodes, nodes + 1) from values at the nodes to
    the integral of their interpolating polynomial from −1 to each node, and to 1: `∫ℓᵢ = wᵢ Σₙ (2n+1)/2 Pₙ(tᵢ) ∫Pₙ`."""
    positions, weights = legendre.leggauss(nodes)
    values = legendre.legvander(positions, nodes)
    integrals = np.empty((nodes, nodes))
    integrals[:, 0] = positions + 1.0
    for n in range(1, nodes):
        integrals[:, n] = (values[:, n + 1] - values[:, n - 1]) / (2 * n + 1)
    to_node = (integrals * (np.arange(nodes) + 0.5)) @ values[:, :nodes].T * weights
    return positions, weights, np.ascontiguousarray(np.vstack([to_node, weights]).T)


POSITIONS, _WEIGHTS, _TO_NODES = _rule(_NODES)
