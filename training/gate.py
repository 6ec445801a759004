"""What a model must show before an alias points to it. Pure. Libraries: numpy, scipy (through training.delong).

Everything is measured on one test set whose users are the units: AUCs by DeLong with users as clusters, click rates
by the standard error of a ratio of per-user sums (delta method; Deng, Knoblich, Lu 2018). Nothing is drawn, so the
same model gets the same answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sluice.features.definition import Floats
from training.delong import areas
from training.metrics import Scored

__all__ = ["DEFAULT_LIMITS", "Estimate", "Limits", "Verdict", "calibration_error", "judge"]

Z = 1.96
"""Standard errors to either side of a 95 % interval"""
BINS = 10


@dataclass(frozen=True)
class Limits:
    """Margins are about a tenth of what features of items add: 0.10 of AUC, 0.17 of click rate on ml-100k."""

    min_auc: float = 0.70
    """A model that knows how often each user clicks and nothing of the items reaches 0.67 on ml-100k"""
    auc_margin: float = 0.01
    """Against the version in force, the lower end of the difference must lie above −margin"""
    ctr_margin: float = 0.02
    """The same for the click rate at 1"""
    max_calibration_error: float = 0.05
    """Above what chance leaves in such a sample: who says 0.75 for 0.70 may pass, who is further off misleads"""
    max_row_us: float = 50.0
    """Microseconds a row in batches: ten items in half a millisecond"""
    min_segment_users: int = 30
    """Segments with fewer users say too little"""
    min_segment_auc: float = 0.60
    """Refused when the whole interval of a segment lies below"""
    segment_margin: float = 0.05
    """Refused when a segment loses more than this and its interval excludes 0: both, as there are many segments"""


DEFAULT_LIMITS = Limits()


class Estimate(NamedTuple):
    """A figure with its 95 % interval over users."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}]"


@dataclass(frozen=True)
class Verdict:
    """Of one candidate."""

    refusals: tuple[str, ...]
    """One sentence each; none: the alias may move"""
    figures: Mapping[str, float] = field(default_factory=dict)
    """What was measured, by name"""
    segments: Mapping[str, float] = field(default_factory=dict)
    """AUC by segment, of those with enough users"""

    @property
    def passed(self) -> bool:
        return not self.refusals


def judge(
    candidate: Scored,
    present: Scored | None,
    *,
    row_us: float,
    segments: Mapping[str, NDArray[np.bool_]],
    limits: Limits = DEFAULT_LIMITS,
) -> Verdict:
    """May an alias move from the model that gave `present` (None: there is none) to the one that gave `candidate`?

    Both scored the same rows with P(click). row_us: microseconds the candidate took for a row. segments: name → (m,)
    the rows that belong to it.
    """
    score = candidate.score
    if not (np.isfinite(score).all() and score.min() >= 0 and score.max() <= 1):
        return Verdict(("its scores are not probabilities: some are not finite or lie outside 0 to 1",))
    try:
        return _judge(candidate, present, row_us, segments, limits)
    except ValueError as error:
        return Verdict((f"the test part is too small to judge by: {error}",))


def _judge(
    candidate: Scored, present: Scored | None, row_us: float, segments: Mapping[str, NDArray[np.bool_]], limits: Limits
) -> Verdict:
    auc = _auc(candidate)
    chance = _ctr_gain(candidate, _shares(candidate))
    error, by_chance = calibration_error(candidate), _chance_error(candidate)
    clicks, shown = (candidate.sums[name].sum() for name in ("clicks_at_1", "shown_at_1"))
    figures = {
        "auc": auc.value, "auc_low": auc.low, "auc_high": auc.high, "ctr_at_1": float(clicks / shown),
        "ctr_gain": chance.value, "ctr_gain_low": chance.low, "calibration_error": error, "row_us": row_us,
    }  # fmt: skip
    refusals = []
    if auc.value < limits.min_auc:
        refusals.append(f"AUC {auc} lies below {limits.min_auc:g}")
    if chance.low <= 0:
        refusals.append(f"click rate at 1 above that of a random order: {chance} is not clearly above 0")
    if error > by_chance + limits.max_calibration_error:
        refusals.append(
            f"calibration error {error:.4f} exceeds what chance leaves, {by_chance:.4f}, "
            f"by more than {limits.max_calibration_error:g}"
        )
    if row_us > limits.max_row_us:
        refusals.append(f"a row takes {row_us:.1f} µs, more than {limits.max_row_us:g}")
    if present is not None:
        changes = {
            "auc": (_auc_change(candidate, present), limits.auc_margin),
            "ctr_at_1": (_ctr_gain(candidate, present.sums["clicks_at_1"]), limits.ctr_margin),
        }
        for name, (change, margin) in changes.items():
            figures |= {f"{name}_change": change.value, f"{name}_change_low": change.low}
            if change.low <= -margin:
                refusals.append(
                    f"{_NAMES[name]} may fall by more than {margin:g}: {change} against the version in force"
                )
    found = _segments(candidate, present, segments, limits)
    refusals += found.refusals
    return Verdict(tuple(refusals), figures, found.segments)


_NAMES = {"auc": "AUC", "ctr_at_1": "click rate at 1"}


def _segments(
    candidate: Scored, present: Scored | None, segments: Mapping[str, NDArray[np.bool_]], limits: Limits
) -> Verdict:
    refusals, values = [], {}
    for name, rows in segments.items():
        liked = candidate.liked[rows]
        enough = len(np.unique(candidate.row_user[rows])) >= limits.min_segment_users
        if not enough or min(int(liked.sum()), int((~liked).sum())) < limits.min_segment_users:
            continue
        auc = _auc(candidate, rows)
        values[name] = auc.value
        if auc.high < limits.min_segment_auc:
            refusals.append(f"segment {name}: AUC {auc} lies below {limits.min_segment_auc:g}")
        if present is None:
            continue
        change = _auc_change(candidate, present, rows)
        if change.value < -limits.segment_margin and change.high < 0:
            refusals.append(
                f"segment {name}: AUC falls by more than {limits.segment_margin:g}: "
                f"{change} against the version in force"
            )
    return Verdict(tuple(refusals), segments=values)


def calibration_error(scored: Scored) -> float:
    """Mean distance between what was said and what was clicked, over ten equal parts of the rows ordered by score."""
    gaps = [
        abs(float(scored.score[part].mean() - scored.liked[part].mean())) * len(part) for part in _parts(scored.score)
    ]
    return sum(gaps) / len(scored.score)


def _chance_error(scored: Scored) -> float:
    """The calibration error that chance leaves to a model that is right on average; users are the units."""
    away = scored.score - scored.liked
    by_user = [np.bincount(scored.row_user[part], away[part]) for part in _parts(scored.score)]
    # The mean size of a normal deviate is √(2/π).
    return sum(float(np.sqrt(2 / np.pi * (sums**2).sum())) for sums in by_user) / len(away)


def _parts(score: Floats) -> list[NDArray[np.intp]]:
    return [part for part in np.array_split(np.argsort(score, kind="stable"), BINS) if len(part)]


def _auc(scored: Scored, rows: NDArray[np.bool_] | slice = slice(None)) -> Estimate:
    found = areas(scored.liked[rows], scored.score[rows], scored.row_user[rows])
    return _estimate(float(found.auc[0]), float(found.covariance[0, 0]))


def _auc_change(one: Scored, other: Scored, rows: NDArray[np.bool_] | slice = slice(None)) -> Estimate:
    found = areas(one.liked[rows], np.stack([one.score[rows], other.score[rows]]), one.row_user[rows])
    (own, both), (_, others) = found.covariance
    return _estimate(float(found.auc[0] - found.auc[1]), float(own + others - 2 * both))


def _ctr_gain(scored: Scored, against: Floats) -> Estimate:
    """Click rate at 1 above that of a model with `against` (users,) clicks there."""
    gain, shown = scored.sums["clicks_at_1"] - against, scored.sums["shown_at_1"]
    users, total = len(shown), shown.sum()
    rate = float(gain.sum() / total)
    return _estimate(rate, float(((gain - rate * shown) ** 2).sum() / total**2 * users / (users - 1)))


def _shares(scored: Scored) -> Floats:
    """(users,) clicks at 1 that an order by chance can expect."""
    clicks = np.add.reduceat(scored.liked.astype(np.float64), scored.offsets[:-1])
    return np.asarray(np.bincount(scored.user, clicks / np.diff(scored.offsets)))


def _estimate(value: float, variance: float) -> Estimate:
    # Equal scores leave a rest of rounding, of either sign.
    half = Z * float(np.sqrt(variance)) if variance > 1e-15 else 0.0
    return Estimate(value, value - half, value + half)
