"""Charts of a study. Library: matplotlib (its figures alone: no display, no global state)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

__all__ = ["history_chart", "importances_chart"]

_BLUE, _ORANGE = "#2a6f97", "#e07a1f"


def history_chart(name: str, losses: Sequence[float]) -> Figure:
    """losses: of the trials, the default parameters first."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    trial = np.arange(1, len(losses) + 1)
    axes.scatter(trial, losses, color=_BLUE, s=24, label="trial")
    axes.step(trial, np.minimum.accumulate(losses), where="post", color=_ORANGE, label="best so far")
    axes.axhline(losses[0], color="gray", linestyle=":", label="default parameters")
    axes.set_xlabel("trial")
    axes.set_ylabel("log loss, mean over the folds")
    axes.set_title(f"{name}: what was tried")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def importances_chart(name: str, importance: Mapping[str, float]) -> Figure:
    """importance: parameter → its share of the variance of the log loss, largest first (fANOVA)."""
    figure = Figure(figsize=(8, 1.2 + 0.4 * len(importance)), layout="constrained")
    axes = figure.add_subplot()
    places = np.arange(len(importance))[::-1]
    bars = axes.barh(places, list(importance.values()), color=_BLUE)
    axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=9)
    axes.set_yticks(places, list(importance))
    axes.set_xlabel("share of the log loss's variance over the trials (fANOVA)")
    axes.set_title(f"{name}: which parameters matter")
    axes.margins(x=0.1)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
