"""Off-policy evaluation: what a target would have earned, from a log of what another policy showed, with propensities.

Every estimate is a mean over rows of a score; its standard error is clustered on the unit, because the rows of one
unit resemble each other. With weight w = π(shown variant | row) / propensity, reward r, outcome model q and N rows:

| method | estimate |
|---|---|
| ips | Σ w·r / N |
| snips | Σ w·r / Σ w |
| dm | Σ m / N, m = Σ_a π(a | row)·q(row, a) |
| dr | Σ (m + w·(r − q(row, shown))) / N, q fitted on the other folds |
| replay | mean reward of the rows kept, each with probability w / max w |

Libraries: numpy, scipy (quantiles of Student's t). Sources: Horvitz, Thompson 1952 (ips); Hájek 1971, Swaminathan,
Joachims 2015 (snips); Dudík, Langford, Li 2011 (dm, dr); Chernozhukov et al. 2018 (cross-fitting); Li, Chu, Langford,
Wang 2011 (replay), with rejection where the log is not uniform; Cameron, Miller 2015 (clustering).
"""

from __future__ import annotations

import math
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from analyzer.engine.moments import Floats
from analyzer.engine.sequential import PLANNED_EFFECT, half_width

__all__ = ["ByRow", "Estimate", "Log", "OffPolicy", "Overlap", "log_of", "off_policy"]

Ints: TypeAlias = NDArray[np.int64]

LARGEST = 1e12
"""Of a reward (absolute) and of a weight: their squares, summed, must stay far from what a double can hold"""
SMOOTHING = 1.0
"""Rows at the variant's mean that every stratum is given, so that a stratum a variant never met has an estimate"""


class ByRow(NamedTuple):
    """A number for every row and variant: `table[row[i], a]`. Rows that are alike share a line of the table."""

    table: Floats
    """(M, k)"""
    row: Ints
    """(N,), lines of the table"""

    def of(self, variant: Ints | int) -> Floats:
        """(N,): of one variant for all rows, or of each row's own."""
        return np.asarray(self.table[self.row, variant], dtype=np.float64)


class Log(NamedTuple):
    """N rows, one an impression. Make it with `log_of`, which checks it."""

    unit: Ints
    """Number of the unit of randomisation, 0 … G − 1"""
    variant: Ints
    """Number of the variant shown, 0 … k − 1"""
    propensity: Floats
    """Probability with which that variant had been drawn, in (0, 1]"""
    reward: Floats


class Estimate(NamedTuple):
    """Value of the target in reward per row, by one method."""

    estimate: float
    stderr: float
    """Clustered on the unit; nan below two units"""
    interval: tuple[float, float]
    """At level 1 − α, for one look; infinite ends below two units"""
    sequence: tuple[float, float]
    """The same at all times at once, however often somebody looks (asymptotic confidence sequence)"""
    effective_size: float
    """Units of equal size and weight that would tell as much (Kish 1965)"""
    clip_bias: float
    """Estimate minus what it is without clipping; for ips and dr an unbiased estimate of the bias. 0 without a clip"""


class Overlap(NamedTuple):
    """How well the log covers the target."""

    mean_weight: float
    """Before clipping. Should be 1: the propensities are wrong, or the target wants what could not be drawn, if not"""
    mean_weight_stderr: float
    max_weight: float
    """Before clipping"""
    clipped: float
    """Share of all weight that the clip removed"""
    unsupported: float
    """Share of the target on variants that could not be drawn when the row was; 0 where `offered` is not given"""
    replayed: int
    """Rows that `replay` keeps"""


class OffPolicy(NamedTuple):
    """`dm` and `dr` are None when the target is known for the shown variants only."""

    ips: Estimate
    snips: Estimate
    dm: Estimate | None
    dr: Estimate | None
    replay: Estimate
    logged: Estimate
    """What the log itself earned: the mean reward"""
    overlap: Overlap


class _Score(NamedTuple):
    """An estimate in the making, Σ value / Σ size over the rows; all (N,)."""

    value: Floats
    size: Floats
    weight: Floats
    """How much each row's reward tells"""
    estimate: float | None = None
    """Where it is not Σ value / Σ size: `value` then only gives the spread"""


def log_of(unit: ArrayLike, variant: ArrayLike, propensity: ArrayLike, reward: ArrayLike, *, variants: int) -> Log:
    """A checked log of k = `variants`. Raises ValueError that names the argument and its first wrong row, from 1 on."""
    p, r = np.asarray(propensity, dtype=np.float64), np.asarray(reward, dtype=np.float64)
    u, v = np.asarray(unit, dtype=np.int64), np.asarray(variant, dtype=np.int64)
    for name, values in (("unit", u), ("variant", v), ("propensity", p), ("reward", r)):
        if values.shape != (p.size,) or not p.size:
            raise ValueError(f"{name}: one value a row is needed, and at least one row; got shape {values.shape}")
    _refuse("unit", u, u < 0, "whole numbers from 0")
    _refuse("variant", v, (v < 0) | (v >= variants), f"whole numbers from 0 to {variants - 1}")
    _refuse("propensity", p, ~((p > 0) & (p <= 1)), "numbers above 0, up to 1")
    _refuse("reward", r, ~(np.abs(r) <= LARGEST), f"numbers from −{LARGEST:g} to {LARGEST:g}")
    return Log(u, v, p, r)


def off_policy(
    log: Log, target: ByRow | Floats, *, fold: Ints, draw: Floats, stratum: Ints | None = None,
    predictions: ByRow | None = None, offered: ByRow | None = None, clip: float | None = None, alpha: float = 0.05,
    effect: float = PLANNED_EFFECT,
) -> OffPolicy:  # fmt: skip
    """All methods at once, for k variants and G units.

    target: the probabilities of all variants, or (N,) those of the shown variant only. fold, draw: (G,), for every
    unit a fold ≥ 0 of the cross-fitting and a number uniform in [0, 1) for `replay`, both from a hash of the unit.
    stratum: (N,) whole numbers ≥ 0; q is the mean by stratum and variant, and by variant if None. predictions:
    instead of that, the q of a model that was not fitted on these rows. offered: 0 where a variant could not be
    drawn. clip: largest weight. effect: difference, in reward, where `sequence` is tightest.

    Raises ValueError when the target is no probability or gives some to a variant that the log never shows, when
    no row has a variant that the target would show, and when clip, alpha or effect is out of range.
    """
    allowed = (("alpha", alpha, 1e-12, 1.0), ("effect", effect, 1e-12, LARGEST), ("clip", clip, 1e-6, LARGEST))
    for name, value, least, most in allowed:
        if value is not None and not least <= value < most:
            raise ValueError(f"{name}: {value}: allowed are numbers from {least:g}, below {most:g}")
    full = _weights(log, target)
    weight = full if clip is None else np.minimum(full, clip)
    draws = draw[log.unit]
    made, plain = _by_weight(log, weight, draws), _by_weight(log, full, draws)
    unsupported = 0.0
    if isinstance(target, ByRow):
        if predictions is None:
            cells = np.zeros_like(log.unit) if stratum is None else stratum
            made["dm"] = plain["dm"] = _cell_means(log, target, cells)
            predictions = _cross_fitted(log, cells, fold[log.unit], target.table.shape[1])
        else:
            ones = np.ones_like(full)
            made["dm"] = plain["dm"] = _Score(_expected(target, predictions), ones, ones)
        made["dr"], plain["dr"] = (_doubly_robust(log, target, predictions, w) for w in (weight, full))
        if offered is not None:
            barred = ByRow((offered.table == 0).astype(np.float64), offered.row)
            unsupported = float(_expected(target, barred).mean())
    done = {name: _estimate(log.unit, made[name], plain[name], alpha, effect) for name in made}
    mean_weight, variance, _ = _mean(log.unit, full, np.ones_like(full))
    overlap = Overlap(
        mean_weight=mean_weight,
        mean_weight_stderr=math.sqrt(variance),
        max_weight=float(full.max()),
        clipped=float(1 - weight.sum() / full.sum()),
        unsupported=unsupported,
        replayed=int(made["replay"].size.sum()),
    )
    return OffPolicy(
        done["ips"], done["snips"], done.get("dm"), done.get("dr"), done["replay"], done["logged"], overlap
    )


def _refuse(name: str, values: NDArray[np.float64] | Ints, wrong: NDArray[np.bool_], allowed: str) -> None:
    if wrong.any():
        first = int(wrong.argmax())
        raise ValueError(f"{name}: {values[first]} in row {first + 1}: allowed are {allowed}")


def _weights(log: Log, target: ByRow | Floats) -> Floats:
    """Target over propensity, (N,), of a target that is checked."""
    if isinstance(target, ByRow):
        table = target.table
        if not (np.all(table >= 0) and np.allclose(table.sum(axis=1), 1.0, rtol=0, atol=1e-9)):
            raise ValueError("target: the probabilities of the variants must be 0 or more and sum to 1 in every row")
        seen = np.bincount(log.variant, minlength=table.shape[1])
        for variant in np.flatnonzero(seen == 0):
            share = float(target.of(int(variant)).mean())
            if share > 0:
                raise ValueError(
                    f"target: {100 * share:.3g} % of it is on variant {variant}, which the log never shows"
                )
        shown = target.of(log.variant)
    else:
        shown = np.asarray(target, dtype=np.float64)
        if shown.shape != log.reward.shape:
            raise ValueError(f"target: one probability a row is needed, got shape {shown.shape}")
        _refuse("target", shown, ~((shown >= 0) & (shown <= 1)), "probabilities from 0 to 1")
    if not shown.any():
        raise ValueError("target: no row of the log has a variant that the target would show there")
    # Compared without dividing: the quotient may be beyond a double.
    _refuse("propensity", log.propensity, shown > LARGEST * log.propensity, f"weights up to {LARGEST:g}")
    return shown / log.propensity


def _by_weight(log: Log, weight: Floats, draws: Floats) -> dict[str, _Score]:
    """The methods that need no outcome model."""
    ones = np.ones_like(weight)
    earned = weight * log.reward
    kept = np.where(draws * weight.max() < weight, 1.0, 0.0)
    return {
        "ips": _Score(earned, ones, weight),
        "snips": _Score(earned, weight, weight),
        "replay": _Score(kept * log.reward, kept, kept),
        "logged": _Score(log.reward, ones, ones),
    }


def _expected(target: ByRow, q: ByRow) -> Floats:
    """Σ_a π(a | row)·q(row, a), (N,), a variant at a time to keep memory at N."""
    total = np.zeros(target.row.shape)
    for variant in range(target.table.shape[1]):
        total += target.of(variant) * q.of(variant)
    return total


def _doubly_robust(log: Log, target: ByRow, q: ByRow, weight: Floats) -> _Score:
    value = _expected(target, q) + weight * (log.reward - q.of(log.variant))
    return _Score(value, np.ones_like(weight), weight)


def _cell_means(log: Log, target: ByRow, stratum: Ints) -> _Score:
    """The direct method on smoothed means: linear in the rewards, so that its standard error knows their noise."""
    k = target.table.shape[1]
    n, total = _cells(log, stratum, k)
    table = _smoothed(n, total)
    wanted = np.stack([np.bincount(stratum, target.of(variant), n.shape[0]) for variant in range(k)], axis=-1)
    per_row = wanted / (n + SMOOTHING)
    of_variant = n.sum(axis=0)
    shared = SMOOTHING * per_row.sum(axis=0) / np.where(of_variant > 0, of_variant, 1.0)
    q = ByRow(table, stratum)
    mean = _expected(target, q)
    # d(Σ m)/d(reward of a row): what the row itself adds to its cell and, by the smoothing, to its variant's mean.
    weight = ByRow(per_row + shared, stratum).of(log.variant)
    value = mean + weight * (log.reward - q.of(log.variant))
    return _Score(value, np.ones_like(mean), weight, float(mean.mean()))


def _cross_fitted(log: Log, stratum: Ints, fold: Ints, k: int) -> ByRow:
    """Smoothed means of the rows in all other folds."""
    strata = int(stratum.max()) + 1
    place = fold * strata + stratum
    n, total = (part.reshape(-1, strata, k) for part in _cells(log, place, k, (int(fold.max()) + 1) * strata))
    return ByRow(_smoothed(n.sum(axis=0) - n, total.sum(axis=0) - total).reshape(-1, k), place)


def _cells(log: Log, stratum: Ints, k: int, strata: int | None = None) -> tuple[Floats, Floats]:
    """Rows and summed reward by (stratum, variant)."""
    size = (strata or int(stratum.max()) + 1) * k
    cell = stratum * k + log.variant
    counts = np.bincount(cell, minlength=size).astype(np.float64)
    total = np.bincount(cell, log.reward, size).astype(np.float64)
    return counts.reshape(-1, k), total.reshape(-1, k)


def _smoothed(n: Floats, total: Floats) -> Floats:
    """(…, strata, k): means drawn to the variant's mean, which without rows is that of all."""
    rows, rewards = n.sum(axis=-2, keepdims=True), total.sum(axis=-2, keepdims=True)
    all_rows, all_rewards = rows.sum(axis=-1, keepdims=True), rewards.sum(axis=-1, keepdims=True)
    overall = np.where(all_rows > 0, all_rewards / np.maximum(all_rows, 1.0), 0.0)
    of_variant = np.where(rows > 0, rewards / np.maximum(rows, 1.0), overall)
    return np.asarray((total + SMOOTHING * of_variant) / (n + SMOOTHING), dtype=np.float64)


def _estimate(unit: Ints, score: _Score, plain: _Score, alpha: float, effect: float) -> Estimate:
    """`plain`: the score without clipping."""
    mean, variance, units = _mean(unit, score.value, score.size)
    point = mean if score.estimate is None else score.estimate
    without = _mean(unit, plain.value, plain.size)[0] if score is not plain else mean
    stderr = math.sqrt(variance)
    t = float(stdtrit(units - 1, 1 - alpha / 2)) if units > 1 else math.inf
    wide = t * stderr if units > 1 else math.inf
    always = float(half_width(variance, alpha, effect))
    return Estimate(
        estimate=point,
        stderr=stderr,
        interval=(point - wide, point + wide),
        sequence=(point - always, point + always),
        effective_size=_effective(np.bincount(unit, score.weight).astype(np.float64)),
        clip_bias=mean - without,
    )


def _mean(unit: Ints, value: Floats, size: Floats) -> tuple[float, float, int]:
    """Σ value / Σ size, its variance clustered on the unit (nan below two units), and the units that have a size."""
    n, c = np.bincount(unit, size), np.bincount(unit, value)
    units, whole = int(np.count_nonzero(n)), float(n.sum())
    mean = float(c.sum()) / whole
    if units < 2:
        return mean, math.nan, units
    away = c - mean * n
    return mean, units / (units - 1) * float(away @ away) / whole**2, units


def _effective(weight: Floats) -> float:
    squares = float(weight @ weight)
    return float(weight.sum()) ** 2 / squares if squares > 0 else 0.0
