"""What a drifted feature looks like, before and after. Library: matplotlib, by `sluice.pages`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from sluice.domain.drift import FeatureDrift
from sluice.pages.drawing import COLOURS, Drawing, colour

__all__ = ["MOST_BARS", "draw_feature", "pooled"]

MOST_BARS = 10
_HEIGHT = 2.3
_LONG_TICKS = 32
"""Characters of all ticks that stand beside each other"""


def draw_feature(number: int, one: FeatureDrift) -> Drawing:
    """Shares of bins in the reference and in the window; `number` tells the pictures of a page apart."""
    edges, before, after = pooled(one)
    parts = [
        f"{_range(edges, place)} {100 * was:.0f} % then {100 * now:.0f} %"
        for place, (was, now) in enumerate(zip(before, after, strict=True))
    ]
    alt = f"Shares of rows by {one.name}, in the reference and in the window: {', '.join(parts)}."
    return Drawing(f"f{number}", alt, _HEIGHT, partial(_draw, edges, before, after))


def pooled(one: FeatureDrift) -> tuple[list[float], NDArray[np.float64], NDArray[np.float64]]:
    """(edges, before, after) with at most `MOST_BARS` bins: neighbours are joined, shares add."""
    edges, before, after = one.distribution.edges, one.distribution.before, one.distribution.after
    step = -(-len(before) // MOST_BARS)
    starts = np.arange(0, len(before), step)
    return (
        [edges[start - 1] for start in starts[1:].tolist()],
        np.add.reduceat(np.array(before), starts),
        np.add.reduceat(np.array(after), starts),
    )


def _draw(edges: Sequence[float], before: NDArray[np.float64], after: NDArray[np.float64], axes: Axes) -> None:
    places = np.arange(len(before), dtype=np.float64)
    axes.bar(places, 100 * after, width=0.92, color=colour(1), alpha=0.75, label="window")
    axes.stairs(100 * before, np.arange(len(before) + 1) - 0.5, color=COLOURS["ink"], linewidth=1.4, label="reference")
    labels = [_short(edge) for edge in edges]
    every = 1 if sum(map(len, labels)) <= _LONG_TICKS else 2 if sum(map(len, labels[::2])) <= _LONG_TICKS else 3
    axes.set_xticks(places[:-1][::every] + 0.5, labels[::every])
    axes.set(ylabel="% of rows", xlim=(-0.55, len(before) - 0.45))
    axes.grid(axis="x", visible=False)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderpad=0, handlelength=1.6)


def _range(edges: Sequence[float], place: int) -> str:
    if not edges:
        return "all"
    if place == 0:
        return f"below {_short(edges[0])}"
    return f"from {_short(edges[place - 1])}"


def _short(value: float) -> str:
    return f"{value:.3g}".replace("-", "−")
