"""What a simulation says: figures as JSON, a table for people, curves as CSV or PNG.

Libraries: scipy, matplotlib.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betaincinv

from analyzer.engine.moments import Floats
from sluice.errors import ConfigError

__all__ = ["Curve", "Report", "binomial", "interval", "mean_interval", "write_csv", "write_png"]


class Curve(NamedTuple):
    """One line of a picture: a value at every look."""

    setting: str
    series: str
    values: Floats
    """(looks,)"""


class Report(NamedTuple):
    figures: dict[str, Any]
    """For --json"""
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    curves: Sequence[Curve]
    measure: str
    """What the curves show: the label of the axis"""
    notes: tuple[str, ...] = ()
    """Sentences below the table"""


def interval(hits: int, runs: int, level: float = 0.95) -> tuple[float, float]:
    """Exact binomial interval of a share (Clopper, Pearson 1934); (0, 1) without runs."""
    tail = (1 - level) / 2
    low = float(betaincinv(hits, runs - hits + 1, tail)) if hits else 0.0
    high = float(betaincinv(hits + 1, runs - hits, 1 - tail)) if hits < runs else 1.0
    return round(low, 6), round(high, 6)


def binomial(happened: ArrayLike) -> tuple[float | None, tuple[float, float]]:
    """Share of runs in which it happened, and its interval. The share is None without runs."""
    hits = np.asarray(happened, dtype=bool)
    count = int(hits.sum())
    return (round(count / hits.size, 6) if hits.size else None), interval(count, hits.size)


def mean_interval(values: Floats) -> tuple[float, tuple[float, float]]:
    """Mean over runs and 1.96 standard errors around it."""
    mean = float(values.mean())
    error = 1.959964 * float(values.std(ddof=1)) / len(values) ** 0.5 if len(values) > 1 else float("inf")
    return round(mean, 6), (round(mean - error, 6), round(mean + error, 6))


def write_csv(path: Path, curves: Sequence[Curve]) -> None:
    """Rows `setting, series, look, value`; look counts from 1. Raises ConfigError."""
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(["setting", "series", "look", "value"])
            for curve in curves:
                for look, value in enumerate(curve.values.tolist(), 1):
                    rows.writerow([curve.setting, curve.series, look, f"{value:.9g}"])
    except OSError as error:
        raise ConfigError(f"--csv: {path}: {(error.strerror or str(error)).lower()}") from error


def write_png(path: Path, curves: Sequence[Curve], title: str, measure: str) -> None:
    """One small picture a setting. Raises ConfigError."""
    try:
        figures = import_module("matplotlib.figure")
    except ImportError as error:
        raise ConfigError("--png: matplotlib is not installed: pip install matplotlib") from error
    settings = list(dict.fromkeys(curve.setting for curve in curves))
    columns = min(3, len(settings))
    rows = -(-len(settings) // columns)
    # A Figure of its own, not pyplot: no window, no global state.
    figure = figures.Figure(figsize=(4.2 * columns, 2.9 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for place, axes in enumerate(grid.flat):
        axes.set_visible(place < len(settings))
    for setting, axes in zip(settings, grid.flat, strict=False):
        for curve in curves:
            if curve.setting == setting:
                axes.plot(np.arange(1, len(curve.values) + 1), curve.values, label=curve.series)
        axes.set_title(setting, fontsize=10)
        axes.set_xlabel("look")
        axes.set_ylabel(measure)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.suptitle(title)
    try:
        figure.savefig(path, format="png", dpi=120)
    except OSError as error:
        raise ConfigError(f"--png: {path}: {(error.strerror or str(error)).lower()}") from error
