"""What the counted sums say about a rate when impressions of one unit resemble each other.

Randomisation is by unit and clicks are per impression, so the rate R = Σc / Σn is a ratio of two sums
over units, and its variance comes from the units (delta method), not from the impressions. All sums are
integers; they are combined exactly and rounded once.

Libraries: numpy, scipy (quantile of Student's t).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from analyzer.engine.moments import Floats, Moments, effective_units, variance
from sluice.domain.events import StatsCell
from sluice.domain.statistics import CellStatistics

__all__ = ["ClusteredRate", "clustered_rate", "design_effect", "few_units_factor", "merge_cells"]

_Z95 = 1.959963984540054


class ClusteredRate(NamedTuple):
    """A rate per impression with the variance of its units."""

    units: int
    """Units with at least one impression"""
    impressions: int
    outcomes: int
    rate: float
    """outcomes / impressions; 0 without impressions"""
    variance: float
    """Of the rate, clustered on the unit; nan below two units"""
    effective_units: float
    """(Σn)² / Σn²: as many units of equal size would weigh as much; 0 without impressions"""
    design_effect: float
    """Clustered variance over that of independent impressions; ≥ 1, guarded as `clustered_rate` says"""
    effective_impressions: float
    """impressions / design_effect"""


def clustered_rate(cell: CellStatistics, outcome: str) -> ClusteredRate:
    """The rate of `outcome` per impression and how much is known about it.

    The variance is `G/(G−1) · (Σc² − 2RΣnc + R²Σn²) / (Σn)²`. The design effect is that over
    `R(1−R)/Σn`, times `(t₀.₉₇₅(U−1)/1.96)²` with U the effective units (a variance of few units is itself
    uncertain), at least 1, and at most what it would be if each unit clicked always or never,
    `Σn²/Σn`, unless the units as seen exceed even that. It is that bound where nothing can be measured: below
    two units, or when every impression had the outcome, or none. With one impression a unit it is exactly 1.

    Raises ValueError when the sums cannot come from units: negative, or impressions without units.
    Source: Deng, Knoblich, Lu 2018 (delta method); Kish 1965 (design effect, effective units).
    """
    sums = cell.outcome(outcome)
    units, n, nn = cell.units, cell.impressions, cell.impressions_squared
    c, cc, nc = sums.count, sums.count_squared, sums.count_impressions
    if min(units, n, nn, c, cc, nc) < 0:
        raise ValueError(f"cell: sums must be ≥ 0, got {cell}")
    if (n > 0) != (units > 0) or n * n > units * nn:
        raise ValueError(f"cell: {units} units cannot have Σn = {n} and Σn² = {nn}")
    if n == 0:
        return ClusteredRate(0, 0, 0, 0.0, float("nan"), 0.0, 1.0, 0.0)
    effective = n * n / nn
    worst = nn / n
    # Σ(c − Rn)² · n², in integers: in doubles the three terms would cancel.
    squares = max(0, cc * n * n - 2 * c * n * nc + c * c * nn)
    seen = units * squares / ((units - 1) * n**4) if units > 1 else float("nan")
    if units < 2 or not 0 < c < n:
        effect = worst
    else:
        measured = squares / (c * (n - c) * n)
        caution = float(few_units_factor(np.array(effective)))
        effect = min(measured * units / (units - 1) * caution, max(worst, measured))
    effect = max(1.0, effect)
    return ClusteredRate(units, n, c, c / n, seen, effective, effect, n / effect)


def few_units_factor(units: Floats) -> Floats:
    """(t₀.₉₇₅(units − 1) / 1.96)²: by how much to enlarge a variance that is estimated from few effective units."""
    # With so few units the factor is beyond 1e100 in any case, and must not leave the range of doubles.
    caution = np.asarray(stdtrit(np.maximum(units - 1.0, 0.02), 0.975), dtype=np.float64) / _Z95
    return caution * caution


def design_effect(arms: Moments) -> Floats:
    """The guarded design effect of `clustered_rate`, for (…, k) moments of outcomes counted at most once an impression.

    1 without impressions. Weighted moments give that of the weighted rate over Σwn: weights cost what they cost.
    """
    shown = (arms.n > 0) & (arms.units > 0)
    n = np.where(shown, arms.n, 1.0)
    r = np.where(shown, arms.c, 0.0) / n
    worst = arms.nn / n
    measurable = (arms.units > 1) & (r > 0) & (r < 1)
    several = np.where(measurable, arms.units, 2.0)
    measured = np.where(measurable, variance(arms), 1.0) * n / np.where(measurable, r * (1.0 - r), 1.0)
    most = np.maximum(worst, measured * (several - 1.0) / several)
    effect = np.where(measurable, np.minimum(measured * few_units_factor(effective_units(arms)), most), worst)
    return np.where(shown, np.maximum(effect, 1.0), 1.0)


def merge_cells(cells: Iterable[StatsCell], experiment: str, *outcomes: str) -> tuple[StatsCell, ...]:
    """The cells of `experiment` summed over partitions, only `outcomes`, in order of (variant, allocation).

    The same counts give the same tuple whatever the order of `cells`. Cells without impressions are left out.
    """
    sums: dict[tuple[str, str], CellStatistics] = {}
    for cell in cells:
        if cell.experiment == experiment:
            place = (cell.variant, cell.allocation)
            sums[place] = sums[place] + cell.statistics if place in sums else cell.statistics
    return tuple(
        StatsCell(
            experiment=experiment,
            variant=variant,
            allocation=allocation,
            statistics=CellStatistics(
                total.units,
                total.impressions,
                total.impressions_squared,
                {name: total.outcome(name) for name in outcomes},
            ),
        )
        for (variant, allocation), total in sorted(sums.items(), key=lambda item: item[0])
        if total.impressions
    )
