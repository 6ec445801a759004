"""What a model trained from the log must show before it may replace the one in force. Pure. Library: numpy.

Beside the figures on the hold-out, which are weighted to speak for whole slates (`training.weighted`), behaviour is
tested: on a copy of the same rows one column is changed, and the score must follow or must not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from sluice.features.definition import Floats
from training.gate import Verdict
from training.weighted import Figure, Shown, figures

__all__ = ["DEFAULT_BOUNDS", "Bounds", "Holdout", "Score", "behaviour", "judge"]

Features = NDArray[np.float32]
Score = Callable[[Features], Floats]
"""(m, f) → (m,) P(click)"""

_STEPS = 5
_SAMPLE = 2000
_RISING = ("item_like_rate", "item_quality", "item_like_surplus", "user_like_rate")
"""A higher value, all else as it is, must not make a click less likely"""
_EMPTY = (0.02, 0.98)
"""Between these must lie the score of somebody of whom nothing is known, for an item of which nothing is"""


class Bounds(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Margins are against the version in force on the same rows: the end of the interval must lie within them."""

    min_auc: float = 0.60
    sure_auc: float = 0.55
    """The lower end of its interval must reach this: of many attempts on few rows one is lucky"""
    min_accuracy: float = 0.55
    min_f1: float = 0.50
    auc_margin: float = 0.03
    log_loss_margin: float = 0.03
    max_calibration_error: float = 0.08
    """Of the end of its interval that is nearer to 0: further off for certain"""
    max_row_us: float = 50.0
    segment_margin: float = 0.08
    """AUC that a group may lose; more is refused when it is certain, as there are many groups"""
    min_segment_users: int = 30
    min_random: float = 0.025
    """Share of the slates of the hold-out that must have been ordered by chance (keep a `random` variant at ≥ 5 %)"""
    min_effective_rows: int = 200
    """Rows of equal weight that the hold-out must be worth"""
    max_fall: float = 0.02
    """How far a score may fall, on average over rows, where a feature says that a click is likelier"""


DEFAULT_BOUNDS = Bounds()


@dataclass(frozen=True, eq=False)
class Holdout:
    """The last part of the log, as shown."""

    shown: Shown
    features: Features
    columns: Sequence[str]
    random: float
    """Share of its slates that were ordered by chance"""
    segments: Mapping[str, NDArray[np.bool_]]
    """Name → (m,) its rows"""


def judge(
    holdout: Holdout, candidate: Score, present: Score | None, *, row_us: float, bounds: Bounds = DEFAULT_BOUNDS,
    seed: int = 0,
) -> Verdict:  # fmt: skip
    """May the version in force (None: there is none) be replaced? row_us: microseconds the candidate took for a row."""
    own = candidate(holdout.features)
    if not (np.isfinite(own).all() and own.min() >= 0 and own.max() <= 1):
        return Verdict(("its scores are not probabilities: some are not finite or lie outside 0 to 1",))
    refusals = [*_enough(holdout, bounds)]
    scores = {"candidate": own} | ({"present": present(holdout.features)} if present is not None else {})
    found = figures(holdout.shown, scores, seed)
    refusals += _floors(found["candidate"], row_us, bounds)
    if present is not None:
        refusals += _not_worse(found["difference"], bounds)
        refusals += _segments(holdout, scores, bounds, seed)
    refusals += behaviour(holdout, candidate, bounds)
    told = {name: figure.value for name, figure in found["candidate"].items()} | {"row_us": row_us}
    for name, figure in found.get("difference", {}).items():
        told |= {f"{name}_change": figure.value, f"{name}_change_low": figure.low, f"{name}_change_high": figure.high}
    return Verdict(tuple(refusals), {name: value for name, value in told.items() if np.isfinite(value)})


def behaviour(holdout: Holdout, score: Score, bounds: Bounds = DEFAULT_BOUNDS) -> list[str]:
    """What the model gets wrong however well it does on average; one sentence each."""
    columns = list(holdout.columns)
    sample = holdout.features[:: max(len(holdout.features) // _SAMPLE, 1)]
    refusals = []
    for name in _RISING:
        if name in columns and (fall := _fall(sample, columns.index(name), score)) > bounds.max_fall:
            refusals.append(f"a higher {name} lowers the score, by {fall:.3f} on average")
    # Rows are scored one by one: who stands beside them, and in which order, must not matter.
    order = np.random.default_rng(0).permutation(len(sample))
    if not _same(score(sample)[order], score(np.ascontiguousarray(sample[order]))):
        refusals.append("the score of a row depends on the rows beside it")
    for column in np.flatnonzero(np.ptp(holdout.features, axis=0) == 0).tolist():
        if columns[column].startswith("genre=") and not _same(score(sample), score(_with(sample, column, 1.0))):
            refusals.append(f"{columns[column]}, which no shown item has, changes the score")
    new = score(_new(holdout.features, columns))
    if not (np.isfinite(new).all() and new.min() >= _EMPTY[0] and new.max() <= _EMPTY[1]):
        refusals.append(f"new users and items: scores from {new.min():.3f} to {new.max():.3f}")
    return refusals


def _enough(holdout: Holdout, bounds: Bounds) -> list[str]:
    weight = holdout.shown.weight
    rows = float(weight.sum() ** 2 / (weight**2).sum())
    refusals = []
    if holdout.random < bounds.min_random:
        refusals.append(
            f"{holdout.random:.1%} of the slates to judge by were ordered by chance: models would be judged by what "
            "they chose themselves; keep a `random` variant at 5 % or more"
        )
    if rows < bounds.min_effective_rows:
        refusals.append(f"what was shown weighs as much as {rows:.0f} rows: {bounds.min_effective_rows} are needed")
    return refusals


def _floors(own: Mapping[str, Figure], row_us: float, bounds: Bounds) -> list[str]:
    floors = {"auc": bounds.min_auc, "accuracy": bounds.min_accuracy, "f1": bounds.min_f1}
    refusals = [f"{name} {own[name]} lies below {floor:g}" for name, floor in floors.items() if own[name].value < floor]
    if own["auc"].value >= bounds.min_auc and own["auc"].low < bounds.sure_auc:
        refusals.append(f"auc {own['auc']} may lie below {bounds.sure_auc:g}")
    error = own["calibration_error"]
    if error.low > bounds.max_calibration_error:
        refusals.append(f"calibration error {error} exceeds {bounds.max_calibration_error:g}")
    if row_us > bounds.max_row_us:
        refusals.append(f"a row takes {row_us:.1f} µs, more than {bounds.max_row_us:g}")
    return refusals


def _not_worse(change: Mapping[str, Figure], bounds: Bounds) -> list[str]:
    refusals, against = [], "against the version in force"
    if not change["auc"].low > -bounds.auc_margin:
        refusals.append(f"AUC may fall by more than {bounds.auc_margin:g}: {change['auc']} {against}")
    if not change["log_loss"].high < bounds.log_loss_margin:
        refusals.append(f"log loss may grow by more than {bounds.log_loss_margin:g}: {change['log_loss']} {against}")
    return refusals


def _segments(holdout: Holdout, scores: Mapping[str, Floats], bounds: Bounds, seed: int) -> list[str]:
    refusals = []
    for name, rows in holdout.segments.items():
        liked, user = holdout.shown.liked[rows], np.unique(holdout.shown.user[rows], return_inverse=True)[1]
        if not len(user) or int(user.max()) + 1 < bounds.min_segment_users or min(liked.sum(), (~liked).sum()) < 30:
            continue
        part = Shown(liked, user, holdout.shown.weight[rows])
        change = figures(part, {key: score[rows] for key, score in scores.items()}, seed)["difference"]["auc"]
        if change.value < -bounds.segment_margin and change.high < 0:
            refusals.append(f"group {name}: AUC falls by more than {bounds.segment_margin:g}: {change}")
    return refusals


def _fall(sample: Features, column: int, score: Score) -> float:
    """Largest mean fall of the score between two steps of the column over its range in the sample."""
    steps = np.quantile(sample[:, column], np.linspace(0.05, 0.95, _STEPS))
    means = [float(score(_with(sample, column, value)).mean()) for value in steps]
    return max((a - b for at, a in enumerate(means) for b in means[at + 1 :]), default=0.0)


def _with(rows: Features, column: int, value: float) -> Features:
    changed = rows.copy()
    changed[:, column] = value
    return changed


def _same(one: Floats, other: Floats) -> bool:
    """But for the last bits, which depend on how a library takes its sums"""
    return bool(np.allclose(one, other, rtol=0, atol=1e-9))


def _new(rows: Features, columns: Sequence[str]) -> Features:
    """A user and an item of whom nothing is known, beside items of the usual kind."""
    usual = ("slate_", "item_age")
    medians = np.median(rows, axis=0).tolist()
    known = {name: median if name.startswith(usual) else 0.0 for name, median in zip(columns, medians, strict=True)}
    known |= {"user_new": 1.0, "item_new": 1.0, "user_gap": 1.0, "item_gap": 1.0, "user_like_rate": 0.5,
              "item_like_rate": 0.5, "user_last_like_rate": 0.5, "user_top_rate": 0.2, "item_top_rate": 0.2,
              "user_low_rate": 0.15, "item_low_rate": 0.15, "user_rating": 3.5, "item_rating": 3.5}  # fmt: skip
    return np.array([[known[name] for name in columns]], dtype=np.float32)
