"""Curves of a scored test set: ROC, precision and recall, gain, calibration. Libraries: numpy, scikit-learn."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sluice.features.definition import Floats
from training.metrics import Scored
from training.simultaneous import Interval, ratio, simultaneous

__all__ = ["Bin", "Curve", "gain", "lift", "precision_recall", "reliability", "roc"]

BINS = 10
POINTS = 200
"""More than these are not seen in a chart."""


class Curve(NamedTuple):
    x: Floats
    y: Floats


class Bin(NamedTuple):
    """Rows of similar P(click)."""

    predicted: float
    """Mean of what was said"""
    observed: Interval
    """Share of clicks; over all bins together with 95 %, users as units"""
    rows: int


def roc(scored: Scored) -> Curve:
    """Share of non-clicks above a threshold → share of clicks above it."""
    from sklearn.metrics import roc_curve

    false, true, _ = roc_curve(scored.liked, scored.score)
    return _thin(false, true)


def precision_recall(scored: Scored) -> Curve:
    """Share of clicks above a threshold → share of the rows there that are clicks."""
    from sklearn.metrics import precision_recall_curve

    precision, recall, _ = precision_recall_curve(scored.liked, scored.score)
    # Without its artificial last point (0, 1); recall rises.
    return _thin(recall[-2::-1], precision[-2::-1])


def gain(scored: Scored) -> Curve:
    """Share of all rows, those of the highest score first → share of the clicks among them. Ties lie on one line."""
    order = np.argsort(-scored.score, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scored.score[order]) != 0, True))
    clicks = np.cumsum(scored.liked[order])[ends]
    rows = len(order)
    return _thin(np.append(0, ends + 1) / rows, np.append(0, clicks) / max(int(clicks[-1]), 1))


def lift(scored: Scored) -> Curve:
    """Share of all rows → how many times more clicks are among them than among as many random ones."""
    x, y = gain(scored)
    return Curve(x[1:], y[1:] / x[1:])


def reliability(scored: Scored, bins: int = BINS, seed: int = 0) -> list[Bin]:
    """Bins of about equally many rows by P(click); fewer where many rows share a value. Ascending."""
    place = _bins(scored.score, bins)
    users = int(scored.user.max()) + 1
    groups = [place == one for one in np.unique(place)]
    ones = np.ones(len(place))
    shares = [ratio(scored.liked[g].astype(np.float64), ones[g], scored.row_user[g], users) for g in groups]
    return [
        Bin(float(scored.score[g].mean()), observed, int(g.sum()))
        for g, observed in zip(groups, simultaneous(shares, seed=seed), strict=True)
    ]


def _bins(score: Floats, bins: int) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    edges = np.quantile(score, np.linspace(0, 1, bins + 1)[1:-1])
    return np.searchsorted(edges, score, side="left")


def _thin(x: Floats, y: Floats) -> Curve:
    """At most `POINTS` of the points, spread along x; the ends stay."""
    if len(x) <= POINTS:
        return Curve(np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64))
    near = np.searchsorted(x, np.linspace(x[0], x[-1], POINTS)).clip(0, len(x) - 1)
    kept = np.unique(np.concatenate(([0], near, [len(x) - 1])))
    return Curve(np.asarray(x[kept], dtype=np.float64), np.asarray(y[kept], dtype=np.float64))
