"""Delay-aware counts: the bias that is left, the error that is claimed, and the estimator against maximum likelihood.

impressions |----|----|----|----|----|....    cohorts of window/16
                  <- age ->          now
clicks        x after a delay, in bins of window/16; later than the window they do not count
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.stats import expon, lognorm

from analyzer.engine.delay import DelayAware, delay_aware

Floats = NDArray[np.float64]
Distribution = Callable[[Floats], Floats]
BINS = 16
"""Of the window, which is 16 long: bins and cohorts are 1 long"""

DELAYS: dict[str, Distribution] = {
    "exponential, mean w/2": expon(scale=8).cdf,
    "exponential, mean w/4": expon(scale=4).cdf,
    "exponential, mean w/20": expon(scale=0.8).cdf,
    "exponential, mean w/64": expon(scale=0.25).cdf,
    "lognormal, median w/4, sigma 1/2": lognorm(s=0.5, scale=4).cdf,
    "lognormal, median w/8, sigma 1": lognorm(s=1, scale=2).cdf,
    "lognormal, median w/3, sigma 1": lognorm(s=1, scale=16 / 3).cdf,
    "lognormal, median w/20, sigma 1": lognorm(s=1, scale=0.8).cdf,
}


def triangle(delay: Distribution, now: float, rate: float = 0.2) -> tuple[Floats, Floats, Floats, Floats, float]:
    """Expected clicks per impression at `now`: shown and clicked (cohorts, bins), ages, and the clicks of the rest.

    One impression a unit of time since 0; cohorts are given up to two windows and one cohort back.
    """
    first = max(0, int(now) - 2 * BINS - 1)
    start = np.arange(first, np.ceil(now))
    end = np.minimum(start + 1, now)
    part = (np.arange(500) + 0.5) / 500
    age = now - (start[:, None] + (end - start)[:, None] * part)
    edges = np.arange(BINS + 1.0)
    reached = delay(np.minimum(age[..., None], edges)).mean(axis=1)
    shown = end - start
    clicked = rate * shown[:, None] * np.diff(reached, axis=-1)
    return shown, clicked, now - end, now - start, rate * first * float(delay(np.array(16.0)))


def aware(delay: Distribution, now: float, scale: float = 1e6) -> tuple[DelayAware, float, float]:
    """From expected counts: what is found, the rate it gives, and that of counting open impressions as failures."""
    shown, clicked, youngest, oldest, closed = triangle(delay, now)
    n, c = scale * now, scale * (clicked.sum() + closed)
    found = delay_aware([n], [c], scale * shown[None], scale * clicked[None], youngest, oldest, 16.0)
    return found, c / float(found.impressions[0]), c / n


@pytest.mark.parametrize("name", DELAYS)
def test_the_bias_is_at_most_a_tenth_of_that_of_counting_open_impressions_as_failures(name: str) -> None:
    """Window a quarter of the test, from the moment the oldest impression is as old as the window."""
    delay = DELAYS[name]
    truth = 0.2 * float(delay(np.array(16.0)))
    for now in [16.001, 16.25, 16.5, 16.999, *np.arange(2, 51, 4) * 64 / 50, 64.0]:
        found, rate, naive = aware(delay, now)
        assert bool(found.immature) == (now < 16)
        if now >= 16:
            assert abs(rate - truth) <= 0.1 * abs(naive - truth), now


def test_the_curve_is_that_of_delays_within_the_window() -> None:
    for name in ("exponential, mean w/4", "lognormal, median w/8, sigma 1"):
        found, _, _ = aware(DELAYS[name], 40.3)
        expected = DELAYS[name](np.arange(1, 17.0)) / DELAYS[name](np.array(16.0))
        assert found.curve == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize(("name", "now"), [("exponential, mean w/4", 17.3), ("lognormal, median w/8, sigma 1", 30.0)])
def test_the_claimed_error_is_the_observed_one(name: str, now: float) -> None:
    runs, units = 2000, 400.0
    shown, clicked, youngest, oldest, closed = triangle(DELAYS[name], now)
    rng = np.random.default_rng(8)
    seen = rng.poisson(units * clicked, (runs, 1, *clicked.shape)).astype(float)
    c = seen.sum(axis=(-1, -2)) + rng.poisson(units * closed, (runs, 1))
    n = np.full((runs, 1), units * now)
    found = delay_aware(n, c, np.broadcast_to(units * shown, (runs, 1, len(shown))), seen, youngest, oldest, 16.0)
    rate = c / found.impressions
    # Poisson counts: θ/E instead of θ(1 − θ)/E, with the part of the inflation that does not come from θ(1 − θ).
    truth = 0.2 * float(DELAYS[name](np.array(16.0)))
    claimed = (truth * (1 - truth) * found.inflation + truth**2) / found.impressions
    assert np.sqrt(claimed.mean()) == pytest.approx(rate.std(), rel=0.08)
    assert rate.mean() == pytest.approx(truth, rel=0.01)


def test_the_reverse_hazard_maximises_the_likelihood_of_the_triangle() -> None:
    """Against numerical maximisation of ∏ multinomial(clicks of a cohort | complete bins), as Kalbfleisch, Lawless."""
    rng = np.random.default_rng(3)
    p = np.array([0.4, 0.3, 0.2, 0.1])
    clicks = np.array([rng.multinomial(50, p) * (np.arange(4) < 4 - j) for j in range(4)], dtype=float)
    ages = 4.0 - np.arange(4)
    found = delay_aware([4000.0], [clicks.sum()], [[1000.0] * 4], [clicks], ages, ages, 4.0)

    def loss(logits: Floats) -> float:
        q = np.exp(logits - logits.max())
        q /= q.sum()
        return -sum(clicks[j, : 4 - j] @ np.log(q[: 4 - j] / q[: 4 - j].sum()) for j in range(4))

    best = minimize(loss, np.zeros(4), method="BFGS", options={"gtol": 1e-9}).x
    q = np.exp(best) / np.exp(best).sum()
    assert found.curve == pytest.approx(np.cumsum(q), abs=1e-6)


def test_closed_impressions_count_whole() -> None:
    shown, clicked, youngest, oldest, _ = triangle(DELAYS["exponential, mean w/4"], 30.0)
    found = delay_aware([30.0], [4.0], shown[None], clicked[None], youngest + 20, oldest + 20, 16.0)
    assert found.impressions == pytest.approx([30.0])
    assert found.inflation == pytest.approx([1.0])
    assert not found.immature


def test_an_old_experiment_without_open_cohorts_is_mature() -> None:
    found = delay_aware([5000.0, 10.0], [50.0, 1.0], np.zeros((2, 3)), np.zeros((2, 3, 4)), [0, 1, 2], [1, 2, 3], 4.0)
    assert found.impressions.tolist() == [5000, 10]
    assert found.inflation.tolist() == [1, 1]
    assert not found.immature


def test_after_a_pause_longer_than_the_cohorts_reach_what_is_older_still_counts() -> None:
    found = delay_aware([5010.0], [50.0], [[10.0, 0.0]], [[[1.0, 0, 0, 0], [0, 0, 0, 0]]], [0.5, 5.0], [1.5, 6.0], 4.0)
    assert not found.immature
    assert 5000 <= found.impressions[0] <= 5010
    assert found.inflation[0] < 1.01
    alone = delay_aware([10.0], [1.0], [[10.0, 0.0]], [[[1.0, 0, 0, 0], [0, 0, 0, 0]]], [0.5, 5.0], [1.5, 6.0], 4.0)
    assert alone.immature


def test_while_immature_the_evidence_weighs_next_to_nothing() -> None:
    found, _, _ = aware(DELAYS["exponential, mean w/2"], 10.0, scale=100.0)
    assert found.immature
    assert found.impressions[0] / found.inflation[0] < 10


def test_no_clicks_and_no_impressions_are_defined() -> None:
    shown, clicked, youngest, oldest, _ = triangle(DELAYS["exponential, mean w/4"], 40.0)
    found = delay_aware([40.0], [0.0], shown[None], clicked[None] * 0, youngest, oldest, 16.0)
    assert np.isfinite(found.impressions).all()
    assert np.isfinite(found.inflation).all()
    none = delay_aware([0.0], [0.0], shown[None] * 0, clicked[None] * 0, youngest, oldest, 16.0)
    assert none.impressions.tolist() == [0]
    assert none.inflation.tolist() == [1]


def test_variants_share_the_curve_unless_told_otherwise() -> None:
    fast = triangle(DELAYS["exponential, mean w/20"], 40.0)
    slow = triangle(DELAYS["exponential, mean w/4"], 40.0)
    shown, clicked = (1e5 * np.stack([fast[i], slow[i]]) for i in (0, 1))
    n, c = np.array([4e6, 4e6]), 1e5 * np.array([fast[1].sum() + fast[4], slow[1].sum() + slow[4]])
    together = delay_aware(n, c, shown, clicked, fast[2], fast[3], 16.0)
    apart = delay_aware(n, c, shown, clicked, fast[2], fast[3], 16.0, pooled=False)
    assert together.curve.shape == (BINS,)
    assert apart.curve.shape == (2, BINS)
    for j, of in enumerate((fast, slow)):
        alone = delay_aware(n[j : j + 1], c[j : j + 1], shown[j : j + 1], clicked[j : j + 1], of[2], of[3], 16.0)
        assert apart.impressions[j] == pytest.approx(alone.impressions[0], rel=1e-12)
        assert apart.inflation[j] == pytest.approx(alone.inflation[0], rel=1e-12)


def test_experiments_do_not_influence_one_another_and_units_of_time_do_not_matter() -> None:
    shown, clicked, youngest, oldest, closed = triangle(DELAYS["lognormal, median w/3, sigma 1"], 50.7)
    rng = np.random.default_rng(0)
    many = rng.poisson(100 * clicked, (20, 3, *clicked.shape)).astype(float)
    n, c = np.full((20, 3), 5070.0), many.sum(axis=(-1, -2)) + 100 * closed
    all_shown = np.broadcast_to(100 * shown, (20, 3, len(shown)))
    together = delay_aware(n, c, all_shown, many, youngest, oldest, 16.0)
    hours = delay_aware(n, c, all_shown, many, youngest * 3600, oldest * 3600, 16.0 * 3600)
    assert hours.impressions == pytest.approx(together.impressions)
    for e in (0, 7, 19):
        alone = delay_aware(n[e], c[e], all_shown[e], many[e], youngest, oldest, 16.0)
        assert alone.impressions.tobytes() == together.impressions[e].tobytes()
        assert alone.inflation.tobytes() == together.inflation[e].tobytes()


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"impressions": [-1.0]}, "impressions"),
        ({"outcomes": [np.nan]}, "outcomes"),
        ({"shown": [[np.inf, 0.0]]}, "shown"),
        ({"shown": [[50.0, 60.0]]}, "shown"),
        ({"clicked": [[[1.0, -1.0], [0.0, 0.0]]]}, "clicked"),
        ({"clicked": [[[1.0, 1.0]]]}, "clicked"),
        ({"youngest": [5.0, 5.0]}, "youngest"),
        ({"window": 0.0}, "window"),
    ],
)
def test_impossible_arguments_are_named(change: dict[str, object], name: str) -> None:
    arguments: dict[str, object] = {
        "impressions": [100.0],
        "outcomes": [3.0],
        "shown": [[10.0, 10.0]],
        "clicked": [[[1.0, 0.0], [1.0, 1.0]]],
        "youngest": [0.0, 1.0],
        "oldest": [1.0, 2.0],
        "window": 2.0,
    }
    with pytest.raises(ValueError, match=name):
        delay_aware(**{**arguments, **change})  # type: ignore[arg-type]
