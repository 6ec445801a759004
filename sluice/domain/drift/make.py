"""The reference of a model, from what it showed of the log it was trained on. Library: numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from sluice.domain.drift.bins import FEW, RANK_UNIT, Bins, edges_of
from sluice.domain.drift.reference import GROWING, SCORE, Centre, FeatureReference, PerformanceReference, Reference
from sluice.domain.drift.samples import Floats, Ints, Outcomes, Rows, with_score
from sluice.domain.drift.scoring import (
    MEASURES,
    OUTCOME_TOLERANCE,
    OUTCOME_UNIT,
    PLAIN,
    RANK_TOLERANCE,
    RELATION_TOLERANCE,
    feature_measures,
    outcome_measures,
    unit_of,
)
from sluice.errors import ConfigError

__all__ = ["AGE", "LEAST_USERS", "make_reference"]

AGE = "user_history"
AGES = 8
LEAST_USERS = 20
"""With fewer there is no telling how much users differ"""
_NONE = Centre(mean=0.0, between=0.0, within=0.0, error=0.0)


def make_reference(
    columns: Sequence[str], rows: Rows, outcomes: Outcomes, importance: Mapping[str, float] | None = None
) -> Reference:
    """columns: names of the features of `rows`. outcomes: of slates that the model which scored them had not seen.

    importance: of features, for the order in which drift is told and for which are watched. Raises ConfigError when
    there are too few users.
    """
    for name, given in (("rows", rows.user), ("outcomes", outcomes.user)):
        if (users := len(set(given))) < LEAST_USERS:
            raise ConfigError(f"drift reference: {name} of {users} users; at least {LEAST_USERS} are needed")
    age = AGE if AGE in columns else ""
    edges = _age_edges(rows.features[:, list(columns).index(age)].astype(np.float32)) if age else ()
    found = Reference(
        columns=tuple(columns), age=age, age_edges=edges, rows=len(rows.score), users=len(set(rows.user)), features=(),
        performance=PerformanceReference(
            impressions=0, users=0, click_rate=_NONE, calibration=_NONE, log_loss=_NONE, mean_score=0, mean_log_loss=0
        ),
    )  # fmt: skip
    ages, table = found.ages(rows.features), with_score(rows)
    sizes = importance or {}
    features = [
        _counted(name, table[:, place], ages, len(edges) + 1, sizes.get(name, 0.0))
        for place, name in enumerate([*columns, SCORE])
    ]
    bins = Bins(features)
    features = _with_centres(features, bins, table, ages, rows.user)
    ranks = bins.ranks_of(bins.codes(with_score(outcomes)), found.ages(outcomes.features))
    performance, relations = _performance(outcomes, ranks)
    related = [
        one if one.kind == "growing" else replace(one, relation=relation)
        for one, relation in zip(features, relations, strict=True)
    ]
    return replace(found, features=tuple(related), performance=performance)


def _age_edges(column: NDArray[np.float32]) -> tuple[float, ...]:
    known = column[np.isfinite(column)]
    if not len(known):
        return ()
    cuts = np.unique(np.quantile(known, np.linspace(0, 1, AGES + 1)[1:-1], method="higher"))
    return tuple(cuts[cuts > known.min()].tolist())


def _counted(name: str, column: NDArray[np.float32], ages: Ints, strata: int, importance: float) -> FeatureReference:
    edges, values = edges_of(column)
    width = len(edges) + 1
    known = np.isfinite(column)
    flat = ages[known] * width + np.searchsorted(np.array(edges, dtype=np.float32), column[known], side="right")
    counts = np.bincount(flat, minlength=strata * width).reshape(strata, width)
    return FeatureReference(
        name=name, kind="growing" if name in GROWING else "rank", importance=importance, edges=edges, values=values,
        counts=tuple(map(tuple, counts.tolist())),
    )  # fmt: skip


def _with_centres(
    features: Sequence[FeatureReference], bins: Bins, table: NDArray[np.float32], ages: Ints, users: Sequence[str]
) -> list[FeatureReference]:
    codes = bins.codes(table)
    ranks, spreads, strange = np.split(feature_measures(codes, bins.ranks_of(codes, ages)), 3, axis=1)
    user = _codes(users)
    found = []
    for place, one in enumerate(features):
        grows, few = one.kind == "growing", len(one.edges) < FEW
        shares = _means(user, strange[:, place])
        found.append(
            replace(
                one,
                strange=float(shares.mean()),
                strange_error=float(shares.std(ddof=1) / len(shares) ** 0.5),
                rank=None if grows else _centre(user, ranks[:, place] / RANK_UNIT, RANK_TOLERANCE),
                spread=None if grows or few else _centre(user, spreads[:, place] / RANK_UNIT, RANK_TOLERANCE),
            )
        )
    return found


def _performance(outcomes: Outcomes, ranks: Ints) -> tuple[PerformanceReference, list[Centre]]:
    measured = outcome_measures(outcomes.score, outcomes.clicked, ranks) / OUTCOME_UNIT
    user = _codes(outcomes.user)
    overall = measured.mean(axis=0)
    named = {name: _centre(user, measured[:, place], OUTCOME_TOLERANCE) for place, name in enumerate(MEASURES)}
    performance = PerformanceReference(
        impressions=len(outcomes.score), users=int(user.max()) + 1, mean_score=float(overall[3]),
        mean_log_loss=float(overall[4]), **named,
    )  # fmt: skip
    return performance, [_centre(user, column, RELATION_TOLERANCE) for column in measured[:, PLAIN:].T]


def _codes(users: Sequence[str]) -> Ints:
    return np.unique(np.array(users, dtype=str), return_inverse=True)[1]


def _means(user: Ints, values: NDArray[np.number]) -> Floats:
    """By user"""
    return np.asarray(np.bincount(user, values) / np.bincount(user))


def _centre(user: Ints, values: Floats, tolerance: float) -> Centre:
    """Variance components by moments: within users, and what is left of the variance of their means."""
    rows, means = np.bincount(user), _means(user, values)
    within = float(((values - means[user]) ** 2).sum() / max(len(values) - len(rows), 1)) ** 0.5
    between = max(float(means.var(ddof=1)) - within**2 * float((1 / rows).mean()), 0.0) ** 0.5
    unit = unit_of(between, within, rows)
    weight = 1 / (unit + tolerance)
    mean = _location(means, unit, weight)
    error = float(((weight * (means - mean)) ** 2).sum()) ** 0.5 / float(weight.sum())
    return Centre(mean=mean, between=between, within=within, error=error)


def _location(means: Floats, unit: Floats, weight: Floats) -> float:
    """Huber's location: where the bets of these users, whose distances are cut at their units, would be in balance."""
    low, high = float(means.min()), float(means.max())
    for _ in range(60):
        middle = (low + high) / 2
        above = float((weight * np.clip(means - middle, -unit, unit)).sum()) > 0
        low, high = (middle, high) if above else (low, middle)
    return (low + high) / 2
