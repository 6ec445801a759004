"""Figures of a model on shown items, each weighing 1 / the probability that it was shown. Pure. Library: numpy.

So what was seen of the slates speaks for all of their items, whoever chose what was shown (self-normalised inverse
propensity scoring; Swaminathan and Joachims 2015). Intervals are percentiles of a bootstrap over users, the same draws
for every model, so that differences are paired.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sluice.features.definition import Floats, Ints

__all__ = ["Figure", "Shown", "figures"]

DRAWS = 400
BINS = 10
_TINY = 1e-7


@dataclass(frozen=True, eq=False)
class Shown:
    """m shown items and what came of them."""

    liked: NDArray[np.bool_]
    """(m,)"""
    user: Ints
    """(m,) codes of users, 0 … u − 1"""
    weight: Floats
    """(m,) > 0"""


class Figure(NamedTuple):
    """A value with its 95 % interval over users; nan where it is not defined."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}]"


def figures(shown: Shown, scores: Mapping[str, Floats], seed: int = 0) -> dict[str, dict[str, Figure]]:
    """Model → figure → value, of `scores`: model → (m,) P(click).

    Figures: auc, log_loss, accuracy, f1, calibration_error. With two models, `difference` is the first minus the
    second.
    """
    users = int(shown.user.max()) + 1
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(users, np.full(users, 1 / users), size=DRAWS).astype(np.float64)
    draws = np.concatenate((np.ones((1, users)), draws))
    found = {name: _all(shown, score, draws) for name, score in scores.items()}
    if len(found) == 2:
        one, other = found.values()
        found["difference"] = {name: one[name] - other[name] for name in one}
    return {name: {key: _figure(values) for key, values in of.items()} for name, of in found.items()}


def _figure(values: Floats) -> Figure:
    defined = values[1:][~np.isnan(values[1:])]
    low, high = np.percentile(defined, (2.5, 97.5)) if len(defined) else (np.nan, np.nan)
    return Figure(float(values[0]), float(low), float(high))


def _all(shown: Shown, score: Floats, draws: Floats) -> dict[str, Floats]:
    """Figure → (draws,)"""
    p, said, liked = np.clip(score, _TINY, 1 - _TINY), score >= 0.5, shown.liked
    loss = -np.log(np.where(liked, p, 1 - p))
    parts = [part for part in np.array_split(np.argsort(score, kind="stable"), BINS) if len(part)]
    total = _by_user(shown, np.ones(len(liked)), draws)
    hits, called, clicks = (_by_user(shown, rows, draws) for rows in (said & liked, said, liked))
    away = np.stack([_by_user(shown, score - liked, draws, part) for part in parts])
    return {
        "auc": _auc(shown, score, draws),
        "log_loss": _by_user(shown, loss, draws) / total,
        "accuracy": _by_user(shown, said == liked, draws) / total,
        "f1": 2 * hits / (called + clicks),
        "calibration_error": np.abs(away).sum(axis=0) / total,
    }


def _by_user(
    shown: Shown, values: NDArray[np.generic], draws: Floats, part: NDArray[np.intp] | slice = slice(None)
) -> Floats:
    """(draws,) weighted sums."""
    weighted = shown.weight[part] * np.asarray(values, dtype=np.float64)[part]
    return np.asarray(draws @ np.bincount(shown.user[part], weighted, draws.shape[1]))


def _auc(shown: Shown, score: Floats, draws: Floats) -> Floats:
    """(draws,) share of the weight of all pairs (click, none) that `score` orders rightly, ties half."""
    order = np.argsort(-score, kind="stable")
    ordered, user, liked = score[order], shown.user[order], shown.liked[order]
    weight = shown.weight[order]
    groups = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    found = np.full(len(draws), np.nan)
    for at, draw in enumerate(draws):
        rows = weight * draw[user]
        positive = np.add.reduceat(np.where(liked, rows, 0.0), groups)
        negative = np.add.reduceat(rows, groups) - positive
        above = np.cumsum(positive) - positive / 2
        pairs = positive.sum() * negative.sum()
        if pairs > 0:
            found[at] = (above * negative).sum() / pairs
    return found
