"""Rows become whole numbers that add, and a user's sums become scores to bet on. Libraries: numpy, scipy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import entr, xlogy

from sluice.domain.drift.bins import RANK_UNIT, STRANGE
from sluice.domain.drift.evidence import Bets, Scores, bets_above, bets_around
from sluice.domain.drift.reference import SCORE, Centre, FeatureReference, PerformanceReference
from sluice.domain.drift.samples import Bools, Floats, Ints
from sluice.domain.drift.windows import CellSums

__all__ = [
    "MEASURES", "PLAIN", "feature_bets", "feature_measures", "feature_scores", "outcome_bets", "outcome_measures",
    "outcome_scores", "unit_of",
]  # fmt: skip

MEASURES = ("click_rate", "calibration", "log_loss")
OUTCOME_UNIT = 1_000_000
_SCORE_LIMIT = 0.01
"""Log loss is of scores at least so far from 0 and 1: bounded, as bets need"""
_REACH = 1.5
"""Standard deviations between users at which a score is cut: one odd user may not decide"""
_ERRORS = 3.5
"""Standard errors of the reference that are tolerated at least: of a hundred means that are compared (three of each
feature, three of outcomes, relations), none lies further off in 95 % of references. Where users are many, what is
tolerated of itself, with one standard error besides, is more."""
SCORE_TOLERANCE = 0.05
"""Of the rank of scores: the model that is served was fitted to more than the one that the reference is of"""
RANK_TOLERANCE = 0.03
"""Of a mean rank: Cliff's delta 0.06, less than half of what is called negligible (0.147; Romano et al. 2006)"""
OUTCOME_TOLERANCE = 0.025
"""Of a click rate, its calibration, or nats"""
STRANGE_TOLERANCE = 0.02
_UNSEEN = 3.0
"""Of n users of whom none showed it, 3/n may be like that (95 %; Hanley, Lippman-Hand 1983)"""
_LEAST_UNIT = 0.01
"""Of a score, where users did not differ at all"""
RELATION_TOLERANCE = 0.001
"""Of rank × (click − score): from the lowest to the highest value clicks differ by 1.2 points more than scored"""
PLAIN = 5
"""Columns of `outcome_measures` before the relations"""


def feature_measures(codes: Ints, ranks: Ints) -> Ints:
    """(m, k) bins and ranks → (m, 3k) rank, spread and strangeness of every feature."""
    strange = codes == STRANGE
    spread = np.where(strange, 0, np.abs(2 * ranks) - RANK_UNIT // 2)
    return np.concatenate([ranks, spread, strange], axis=1)


def feature_scores(sums: CellSums, features: Sequence[FeatureReference], users: int) -> Scores:
    """(c, 3k) of the cells: rank, spread, and the share that was strange. users: of the reference."""
    rank, spread, strange = np.split(sums.sums, 3, axis=1)
    rows = sums.rows[:, None]
    known = rows - strange
    least = np.array([SCORE_TOLERANCE if one.name == SCORE else RANK_TOLERANCE for one in features])
    parts = [
        _standard(rank / RANK_UNIT, known, [one.rank for one in features], least),
        _standard(spread / RANK_UNIT, known, [one.spread for one in features], least),
        Scores(
            strange / rows, np.tile([one.strange + _strange_tolerance(one, users) for one in features], (len(rows), 1))
        ),
    ]
    return Scores.join(parts)


def feature_bets(features: Sequence[FeatureReference]) -> Bets:
    """A group for each feature, in their order."""
    parts, k = [], len(features)
    for place, one in enumerate(features):
        weights = {(True, True): (0.6, 0.25), (True, False): (0.85, 0.0)}.get(
            (one.rank is not None, one.spread is not None), (0.0, 0.0)
        )
        for offset, weight in zip((0, k), weights, strict=True):
            if weight:
                parts.append(bets_around(place + offset, weight, place))
        parts.append(bets_above(place + 2 * k, 1 - sum(weights), place))
    return Bets.join(parts)


def outcome_measures(score: Floats, clicked: Bools, ranks: Ints) -> Ints:
    """(m, 5 + k) click, click − score, log loss − its expectation, score, log loss, and relations; in millionths.

    ranks: (m, k) of the features, in thousandths.
    """
    safe = np.clip(score, _SCORE_LIMIT, 1 - _SCORE_LIMIT)
    click = clicked.astype(np.float64)
    loss = -xlogy(click, safe) - xlogy(1 - click, 1 - safe)
    columns = [click, click - score, loss - entr(safe) - entr(1 - safe), score, loss]
    plain = np.rint(OUTCOME_UNIT * np.stack(columns, axis=1)).astype(np.int64)
    surprise = np.rint((OUTCOME_UNIT // RANK_UNIT) * (click - score)).astype(np.int64)
    return np.concatenate([plain, ranks * surprise[:, None]], axis=1)


def outcome_scores(sums: CellSums, reference: PerformanceReference, features: Sequence[FeatureReference]) -> Scores:
    """(c, 3 + k) of `MEASURES` and relations."""
    rows, totals = sums.rows[:, None], sums.sums / OUTCOME_UNIT
    centres = [getattr(reference, name) for name in MEASURES]
    parts = [
        _standard(totals[:, : len(MEASURES)], rows, centres, OUTCOME_TOLERANCE),
        _standard(totals[:, PLAIN:], rows, [one.relation for one in features], RELATION_TOLERANCE),
    ]
    return Scores.join(parts)


def outcome_bets(features: Sequence[FeatureReference]) -> Bets:
    """A group for each of `MEASURES` and each relation, in both directions: what is better is no longer the same."""
    return Bets.join([bets_around(place, 1.0, place) for place in range(len(MEASURES) + len(features))])


def unit_of(between: float | Floats, within: float | Floats, rows: Ints) -> Floats:
    """At how far from the reference the mean of so many rows of a user is cut."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.maximum(_REACH * np.sqrt(np.square(between) + np.square(within) / rows), _LEAST_UNIT)


def _strange_tolerance(one: FeatureReference, users: int) -> float:
    return max(STRANGE_TOLERANCE, _UNSEEN / max(users, 1), _ERRORS * one.strange_error)


def _standard(totals: Floats, rows: Ints, centres: Sequence[Centre | None], least: float | Floats) -> Scores:
    """totals (c, k) of `rows` rows → their means in units of what they may differ by; NaN without rows or a centre."""
    mean, between, within, error = (
        np.array([getattr(one, name) if one else np.nan for one in centres])
        for name in ("mean", "between", "within", "error")
    )
    unit = unit_of(between, within, rows)
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = np.clip((totals / rows - mean) / unit, -1.0, 1.0)
        return Scores(np.asarray(distance), np.asarray(np.maximum(least + error, _ERRORS * error) / unit))
