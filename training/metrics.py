"""Figures of a scored test set, and their bootstrap over users. Library: numpy.

Rows lie slate by slate. Slates without any click have no NDCG and are left out of its mean. Equal scores keep the
order of the slate, which says nothing about outcomes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sluice.features.definition import Floats, Ints

__all__ = ["CUTOFFS", "Scored", "auc_within_slates", "best_first", "bootstrap", "intervals", "point", "user_weights"]

CUTOFFS = (1, 3)
_TINY = 1e-7
"""Probabilities are kept this far from 0 and 1, so that a single wrong one cannot make the log loss infinite."""


@dataclass(frozen=True, eq=False)
class Scored:
    """What a model said of m rows in s slates, and what came of it."""

    liked: NDArray[np.bool_]
    """(m,)"""
    offsets: Ints
    """(s + 1,)"""
    user: Ints
    """(s,) codes of users, 0 … u − 1"""
    score: Floats
    """(m,)"""
    is_probability: bool = True
    """Whether `score` is P(click); figures that need one are left out otherwise"""

    @cached_property
    def row_user(self) -> Ints:
        """(m,)"""
        return np.repeat(self.user, np.diff(self.offsets))

    @cached_property
    def sums(self) -> dict[str, Floats]:
        """Name → (u,) sums over each user's rows or slates, from which all figures but areas are ratios."""
        users = int(self.user.max()) + 1
        row, slate = _Sums(self.row_user, users), _Sums(self.user, users)
        sums = {"rows": row(np.ones(len(self.liked))), "slates": slate(np.ones(len(self.user)))}
        if self.is_probability:
            p, said = np.clip(self.score, _TINY, 1 - _TINY), self.score >= 0.5
            sums |= {
                "true_positive": row(said & self.liked),
                "said": row(said),
                "liked": row(self.liked),
                "right": row(said == self.liked),
                "log_loss": row(-np.log(np.where(self.liked, p, 1 - p))),
                "brier": row((self.score - self.liked) ** 2),
            }
        ranked = self.liked[best_first(self.score, self.offsets)]
        sizes = np.diff(self.offsets)
        place = np.arange(len(ranked)) - np.repeat(self.offsets[:-1], sizes)
        clicks = np.add.reduceat(self.liked.astype(np.int64), self.offsets[:-1])
        sums["slates_with_clicks"] = slate(clicks > 0)
        discount = 1 / np.log2(2 + np.arange(sizes.max()))
        for k in CUTOFFS:
            shown = place < k
            sums[f"clicks_at_{k}"] = row(ranked & shown)
            sums[f"shown_at_{k}"] = row(shown)
            gain = np.add.reduceat(np.where(shown & ranked, discount[place], 0.0), self.offsets[:-1])
            best = np.concatenate(([0.0], np.cumsum(discount[:k])))[np.minimum(clicks, k)]
            sums[f"ndcg_at_{k}"] = slate(np.divide(gain, best, out=np.zeros_like(gain), where=best > 0))
        return sums


class _Sums:
    def __init__(self, user: Ints, users: int) -> None:
        self._user, self._users = user, users

    def __call__(self, values: NDArray[np.generic]) -> Floats:
        return np.asarray(np.bincount(self._user, values.astype(np.float64), self._users), dtype=np.float64)


def best_first(score: Floats, offsets: Ints) -> Ints:
    """(m,) rows ordered by slate, then by falling score."""
    slate = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    return np.lexsort((-score, slate))


def point(scored: Scored) -> dict[str, float]:
    """Every figure by name; nan where it is not defined (precision without a predicted click)."""
    ones = np.ones((1, int(scored.user.max()) + 1))
    return {name: float(values[0]) for name, values in bootstrap(scored, ones).items()}


def user_weights(users: int, draws: int, seed: int) -> Floats:
    """(draws, users) how often each user is drawn, with replacement; shared by all models, so that they are paired."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(users, np.full(users, 1 / users), size=draws).astype(np.float64)


def bootstrap(scored: Scored, weights: Floats) -> dict[str, Floats]:
    """Figure → (draws,) its values when each user counts as often as `weights` (draws, users) say."""
    total = {name: weights @ sums for name, sums in scored.sums.items()}
    found = {"auc": np.empty(len(weights)), "pr_auc": np.empty(len(weights))}
    curve = _Curve(scored)
    for draw, weight in enumerate(weights):
        found["auc"][draw], found["pr_auc"][draw] = curve.areas(weight)
    for k in CUTOFFS:
        found[f"ctr_at_{k}"] = _ratio(total[f"clicks_at_{k}"], total[f"shown_at_{k}"])
        found[f"ndcg_at_{k}"] = _ratio(total[f"ndcg_at_{k}"], total["slates_with_clicks"])
    if scored.is_probability:
        precision = _ratio(total["true_positive"], total["said"])
        recall = _ratio(total["true_positive"], total["liked"])
        found |= {
            "accuracy": _ratio(total["right"], total["rows"]),
            "precision": precision,
            "recall": recall,
            "f1": _ratio(2 * total["true_positive"], total["said"] + total["liked"]),
            "log_loss": _ratio(total["log_loss"], total["rows"]),
            "brier": _ratio(total["brier"], total["rows"]),
        }
    return found


class _Curve:
    """Rows by falling score, ties together: areas for any weights of the users in one pass."""

    def __init__(self, scored: Scored) -> None:
        order = np.argsort(-scored.score, kind="stable")
        ordered = scored.score[order]
        self._user = scored.row_user[order]
        self._liked = scored.liked[order]
        self._groups = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))

    def areas(self, weight: Floats) -> tuple[float, float]:
        """AUC and average precision; nan when a class is missing."""
        rows = weight[self._user]
        positive = np.add.reduceat(np.where(self._liked, rows, 0.0), self._groups)
        both = np.add.reduceat(rows, self._groups)
        true, said = np.cumsum(positive), np.cumsum(both)
        false = said - true
        if not (true[-1] > 0 and false[-1] > 0):
            return float("nan"), float("nan")
        # Pairs in which the click stands above the other one, ties half.
        auc = 1 - float(((both - positive) * (true[-1] - true + positive / 2)).sum() / (true[-1] * false[-1]))
        precision = np.divide(true, said, out=np.zeros_like(true), where=said > 0)
        return auc, float((precision * positive).sum() / true[-1])


def auc_within_slates(liked: NDArray[np.bool_], offsets: Ints, score: Floats) -> float:
    """Share of the pairs (click, none) of one slate that `score` orders rightly, ties half; over all slates."""
    right = pairs = 0.0
    for low, high in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        own, scores = liked[low:high], score[low:high]
        lead = scores[own][:, None] - scores[~own]
        right += float((lead > 0).sum() + (lead == 0).sum() / 2)
        pairs += lead.size
    return right / pairs if pairs else float("nan")


def intervals(values: Mapping[str, Floats], level: float = 0.95) -> dict[str, tuple[float, float]]:
    """Figure → percentile interval of its bootstrap draws; draws in which it is not defined are left out."""
    tails = 50 * (1 - level), 50 * (1 + level)
    found = {}
    for name, draws in values.items():
        defined = draws[~np.isnan(draws)]
        low, high = np.percentile(defined, tails) if len(defined) else (np.nan, np.nan)
        found[name] = float(low), float(high)
    return found


def _ratio(top: Floats, bottom: Floats) -> Floats:
    return np.divide(top, bottom, out=np.full_like(top, np.nan), where=bottom > 0)
