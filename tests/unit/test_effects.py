"""Novelty and weekday effects: against weighted least squares of statsmodels, and how often they speak."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import numpy as np
import pytest
import statsmodels.api as sm
from statsmodels.stats.meta_analysis import combine_effects

from analyzer.engine.effects import DAY_MS, novelty, weekday_effect

# A Wednesday.
START_MS = int(datetime(2026, 4, 1, tzinfo=UTC).timestamp() * 1000)
HOURS = START_MS + np.arange(24 * 14) * 3_600_000


def counts(seed: int, rates: np.ndarray, shown: int = 60, lead: tuple[int, ...] = ()) -> tuple[np.ndarray, np.ndarray]:
    """rates (b, k) → n, c (*lead, b, k)."""
    rng = np.random.default_rng(seed)
    n = rng.poisson(shown, (*lead, *rates.shape))
    return n, rng.binomial(n, rates)


def test_the_trend_is_weighted_least_squares() -> None:
    # statsmodels 0.15: WLS with known variances (cov_type "fixed scale").
    n, c = counts(1, np.full((len(HOURS), 3), 0.3))
    found = novelty(HOURS, n, c)
    p, days = c.sum(0) / n.sum(0), (HOURS - START_MS) / DAY_MS
    for arm in (1, 2):
        variance = p[0] * (1 - p[0]) / n[:, 0] + p[arm] * (1 - p[arm]) / n[:, arm]
        fit = sm.WLS(c[:, arm] / n[:, arm] - c[:, 0] / n[:, 0], sm.add_constant(days), weights=1 / variance)
        wanted = fit.fit(cov_type="fixed scale")
        assert found.slope_per_day[arm] == pytest.approx(wanted.params[1], rel=1e-9)
        assert found.stderr[arm] == pytest.approx(wanted.bse[1], rel=1e-9)
        assert found.p[arm] == pytest.approx(wanted.pvalues[1], rel=1e-9)
        assert found.at_start[arm] == pytest.approx(wanted.params[0], rel=1e-9)
        assert found.at_end[arm] == pytest.approx(wanted.params @ [1, days[-1]], rel=1e-9)


def test_weekdays_are_a_meta_analysis() -> None:
    # statsmodels 0.15: combine_effects, fixed effect, Cochran's Q.
    n, c = counts(2, np.full((len(HOURS), 2), 0.3))
    found = weekday_effect(HOURS, n, c)
    day = np.array([datetime.fromtimestamp(at / 1000, UTC).weekday() for at in HOURS])
    n7, c7 = (np.array([part[day == d].sum(0) for d in range(7)]) for part in (n, c))
    p = c.sum(0) / n.sum(0)
    difference = c7[:, 1] / n7[:, 1] - c7[:, 0] / n7[:, 0]
    wanted = combine_effects(difference, (p * (1 - p) / n7).sum(1))
    assert found.difference[:, 1].tolist() == pytest.approx(difference.tolist())
    assert found.q[1] == pytest.approx(wanted.q, rel=1e-9)
    assert found.degrees[1] == 6
    assert found.p[1] == pytest.approx(wanted.test_homogeneity().pvalue, rel=1e-9)


def test_without_an_effect_p_values_are_uniform() -> None:
    # 2,000 experiments of two weeks: 5 % are below 0.05, within four standard errors (2 points).
    n, c = counts(3, np.broadcast_to([0.2, 0.23], (14 * 4, 2)), lead=(2000,))
    hours = START_MS + np.arange(14 * 4) * 6 * 3_600_000
    for found in (novelty(hours, n, c), weekday_effect(hours, n, c)):
        assert np.mean(found.p[:, 1] < 0.05) == pytest.approx(0.05, abs=0.02)


def test_planted_effects_are_found() -> None:
    days = (HOURS - START_MS) / DAY_MS
    fading = np.stack([np.full(len(HOURS), 0.2), 0.2 + 0.1 * np.exp(-days / 3)], axis=-1)
    found = novelty(HOURS, *counts(4, fading))
    assert found.p[1] < 1e-3
    assert found.at_start[1] > 0.04 > 0.02 > found.at_end[1]
    sunday = (np.floor(days).astype(int) + 2) % 7 == 6
    weekly = np.stack([np.full(len(HOURS), 0.2), 0.2 + 0.12 * sunday], axis=-1)
    found_weekly = weekday_effect(HOURS, *counts(5, weekly))
    assert found_weekly.p[1] < 1e-3
    assert int(np.nanargmax(found_weekly.difference[:, 1])) == 6


def test_a_design_effect_widens_and_an_offset_moves_the_days() -> None:
    n, c = counts(6, np.full((len(HOURS), 2), 0.2))
    plain, clustered = novelty(HOURS, n, c), novelty(HOURS, n, c, design_effect=4)
    assert clustered.stderr[1] == pytest.approx(2 * plain.stderr[1])
    q = weekday_effect(HOURS, n, c).q[1]
    assert weekday_effect(HOURS, n, c, design_effect=[4, 4]).q[1] == pytest.approx(q / 4)
    # At 23:00 UTC it is already Thursday two hours east.
    late = weekday_effect([START_MS + 23 * 3_600_000], [[10, 10]], [[5, 1]], utc_offset_ms=2 * 3_600_000)
    assert np.flatnonzero(~np.isnan(late.difference[:, 1])).tolist() == [3]


def test_too_little_is_nan() -> None:
    two = novelty(HOURS[:2], [[10, 10], [10, 10]], [[1, 2], [2, 2]])
    assert np.isnan([two.p[1], two.slope_per_day[1], two.p[0]]).all()
    # A bucket where one of the two has nothing does not count.
    gap = novelty(HOURS[:4], [[10, 10], [0, 10], [10, 10], [10, 0]], [[1, 2], [0, 2], [1, 1], [1, 0]])
    assert gap.buckets[1] == 2
    one = weekday_effect(HOURS[:2], [[10, 10], [10, 10]], [[1, 2], [2, 2]])
    assert math.isnan(one.p[1])
    nothing = novelty(HOURS[:3], np.zeros((3, 2)), np.zeros((3, 2)))
    assert math.isnan(nothing.p[1])
    no_clicks = weekday_effect(HOURS, np.ones((len(HOURS), 2)), np.zeros((len(HOURS), 2)))
    assert math.isnan(no_clicks.p[1])


@pytest.mark.parametrize(
    ("n", "c", "deff", "name"),
    [
        ([[1, 1]], [[0, 0]], 1, "n"),
        ([[1, 1], [1, -1]], [[0, 0], [0, 0]], 1, "n"),
        ([[1, 1], [1, 1]], [[0, 0], [0, math.nan]], 1, "c"),
        ([[1, 1], [1, 1]], [[0, 2], [0, 0]], 1, "c"),
        ([[1, 1], [1, 1]], [[0, 1], [0, 0]], 0.5, "design_effect"),
    ],
)
def test_impossible_buckets_are_named(n: list[list[float]], c: list[list[float]], deff: float, name: str) -> None:
    for test in (novelty, weekday_effect):
        with pytest.raises(ValueError, match=f"^{name}:"):
            test(HOURS[:2], n, c, design_effect=deff)
