"""Charts of one model. Library: matplotlib (its figures alone: no display, no global state)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

__all__ = ["confusion_chart", "importance_chart"]

_SHOWN = 20
_BLUE = "#2a6f97"


def importance_chart(name: str, importance: Mapping[str, float]) -> Figure:
    """Bars of the largest of `importance`: feature → mean size of what it adds to the log odds, largest first."""
    shown = list(importance.items())[:_SHOWN]
    figure = Figure(figsize=(8, 1.2 + 0.3 * len(shown)), layout="constrained")
    axes = figure.add_subplot()
    places = np.arange(len(shown))[::-1]
    bars = axes.barh(places, [size for _, size in shown], color=_BLUE)
    axes.bar_label(bars, fmt="%.3f", padding=3, fontsize=9)
    axes.set_yticks(places, [feature for feature, _ in shown])
    axes.set_xlabel("mean size of what it adds to the log odds")
    rest = len(importance) - len(shown)
    axes.set_title(f"{name}: what P(click) rests on" + (f" ({rest} smaller ones not shown)" if rest else ""))
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def confusion_chart(name: str, counts: NDArray[np.integer]) -> Figure:
    """counts: [[no click, said click], [missed, hit]]: rows what happened, columns what was said."""
    figure = Figure(figsize=(5.2, 4.4), layout="constrained")
    axes = figure.add_subplot()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row in range(2):
        for column in range(2):
            share = shares[row, column]
            axes.text(column, row, f"{counts[row, column]:,}\n{share:.0%}", ha="center", va="center", fontsize=13,
                      color="white" if share > 0.55 else "black")  # fmt: skip
    axes.set_xticks([0, 1], ["no click", "click"])
    axes.set_yticks([0, 1], ["no click", "click"], rotation=90, va="center")
    axes.set_xlabel("predicted, P(click) ≥ 0.5")
    axes.set_ylabel("what happened")
    axes.set_title(f"{name}: test part, shares of each row")
    return figure
