"""Credible lifts over the control against adaptive quadrature in scipy, and regions of practical equivalence."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import betainc
from scipy.stats import beta as beta_distribution

from analyzer.engine.bayes import compare
from analyzer.engine.lift import beta_distribution as distribution
from analyzer.engine.lift import lifts, rope

Arm = tuple[float, float]
QUANTILES = [1e-12, 1e-8, 1e-5, 1e-3, 0.03, 0.2, 0.5, 0.8, 0.97, 0.999, 1 - 1e-5, 1 - 1e-8]


def p_at_most(variant: Arm, control: Arm, lift: float, relative: bool) -> float:
    """P(θ ≤ θ_c + lift), or P(θ ≤ θ_c · (1 + lift)), by QUADPACK in pieces between quantiles of both."""

    def back(x: float) -> float:
        return x / (1 + lift) if relative else x - lift

    inner = [beta_distribution.ppf(q, *control) for q in QUANTILES]
    inner += [back(x) for x in (0.0, 1.0, *(beta_distribution.ppf(q, *variant) for q in QUANTILES))]
    points = [0.0, *sorted({float(x) for x in inner if 0 < x < 1}), 1.0]

    def here(x: float) -> float:
        moved = x * (1 + lift) if relative else x + lift
        return float(beta_distribution.pdf(x, *control) * betainc(*variant, min(max(moved, 0.0), 1.0)))

    return float(sum(quad(here, low, high, epsabs=1e-11)[0] for low, high in pairwise(points)))


@pytest.mark.parametrize(
    ("control", "variant", "error"),
    [
        ((1381.0, 7121.0), (1546.0, 6656.0), 1e-6),
        ((20.0, 180.0), (31.0, 172.0), 2e-6),
        ((55.0, 60.0), (700.0, 640.0), 1e-5),
        ((101.0, 900.0), (100_001.0, 900_000.0), 1e-5),
        ((1e6, 1e7), (1.001e6, 1e7), 1e-6),
        ((10.0, 12.0), (14.0, 10.0), 1e-5),
        ((2.0, 900.0), (4.0, 1200.0), 2e-3),
        ((1.0, 1.0), (1.0, 1.0), 2e-3),
        ((32.1, 1.39), (1.21, 12.8), 2e-3),
        ((1.0, 1.0), (50.0, 3.0), 2e-3),
    ],
)
def test_intervals_leave_their_tails_outside(control: Arm, variant: Arm, error: float) -> None:
    alpha, beta = [control[0], variant[0]], [control[1], variant[1]]
    found = lifts(alpha, beta, 0, level=0.9)
    for interval, relative in ((found.difference[1], False), (found.relative[1], True)):
        assert p_at_most(variant, control, interval[0], relative) == pytest.approx(0.05, abs=error)
        assert p_at_most(variant, control, interval[1], relative) == pytest.approx(0.95, abs=error)
    region = rope(alpha, beta, 0, -0.01, 0.02)
    low, high = (p_at_most(variant, control, end, False) for end in (-0.01, 0.02))
    assert [part[1] for part in region] == pytest.approx([low, high - low, 1 - high], abs=error)
    region = rope(alpha, beta, 0, -0.1, 0.1, relative=True)
    low, high = (p_at_most(variant, control, end, True) for end in (-0.1, 0.1))
    assert [part[1] for part in region] == pytest.approx([low, high - low, 1 - high], abs=error)


def test_better_than_the_control_is_the_comparison_of_two() -> None:
    found = lifts([1381.0, 1546.0], [7121.0, 6656.0], 0)
    assert found.p_better[1] == pytest.approx(compare([1381.0, 1546.0], [7121.0, 6656.0]).p_best[1], abs=1e-15)
    assert found.p_better[1] == pytest.approx(0.999995274, abs=5e-10)  # Beta(1, 1) prior, 1380/8500 against 1545/8200
    assert (found.p_better[0], *found.difference[0], *found.relative[0]) == (0.5, 0, 0, 0, 0)


def test_every_place_of_the_control_and_any_leading_axes() -> None:
    rng = np.random.default_rng(0)
    alpha, beta = 10 ** rng.uniform(0, 4, (2, 3, 2, 4))
    for control in range(4):
        found, region = lifts(alpha, beta, control), rope(alpha, beta, control, -0.05, 0.01)
        assert found.difference.shape == (3, 2, 4, 2)
        for e in np.ndindex(3, 2):
            for j in range(4):
                pair = lifts(alpha[e][[control, j]], beta[e][[control, j]], 0)
                if j != control:
                    assert found.difference[e][j].tobytes() == pair.difference[1].tobytes()
                    assert found.relative[e][j].tobytes() == pair.relative[1].tobytes()
                    alone = rope(alpha[e][[control, j]], beta[e][[control, j]], 0, -0.05, 0.01)
                    assert [part[e][j] for part in region] == [part[1] for part in alone]
        assert (region.inside[..., control] == 1).all()
        assert sum(region) == pytest.approx(np.ones((3, 2, 4)), abs=1e-12)


def test_one_variant_has_no_lift() -> None:
    found = lifts([3.0], [4.0], 0)
    assert (found.p_better.tolist(), found.difference.tolist()) == ([0.5], [[0, 0]])


def test_the_decision_names_the_region_that_holds_the_difference() -> None:
    region = rope([10_000, 10_300, 10_000, 11_500, 8000], [90_000, 89_700, 90_000, 88_500, 92_000], 0, -0.005, 0.005)
    assert region.decision().tolist() == ["inside", "open", "inside", "above", "below"]


def test_the_distribution_function_keeps_its_error() -> None:
    rng = np.random.default_rng(2)
    for least, bound in ((50, 2e-5), (1000, 3e-7)):
        a, b = least * 10 ** rng.uniform(0, 2, (2, 4000))
        mean = a / (a + b)
        x = np.clip(mean + rng.normal(0, 2, 4000) * np.sqrt(mean * (1 - mean) / (a + b)), 0, 1)
        assert np.abs(distribution(x, a, b) - betainc(a, b, x)).max() < bound
    assert distribution(np.array([-0.1, 1.1, 0.0, 1.0]), np.full(4, 60.0), np.full(4, 70.0)).tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: lifts([1.0, 2.0], [1.0, 2.0], 2), "control"),
        (lambda: lifts([1.0, 2.0], [1.0, 2.0], -1), "control"),
        (lambda: lifts([1.0, float("nan")], [1.0, 2.0], 0), "alpha"),
        (lambda: lifts([1.0, 2.0], [1.0, 2.0], 0, level=1.0), "level"),
        (lambda: rope([1.0, 2.0], [1.0, 2.0], 0, 0.1, -0.1), "low"),
        (lambda: rope([1.0, 2.0], [1.0, 2.0], 0, float("nan"), 0.1), "low"),
        (lambda: rope([1.0, 2.0], [1.0, 2.0], 0, -1.0, 0.1, relative=True), "low"),
    ],
)
def test_impossible_arguments_are_named(call: object, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        call()  # type: ignore[operator]


def test_a_trillion_counts_stay_finite() -> None:
    found = lifts([5e11, 5e11 + 1e6], [5e11, 5e11 - 1e6], 0)
    sd = np.sqrt(0.25 / 1e12 * 2)
    assert found.difference[1] == pytest.approx([1e-6 - 1.959964 * sd, 1e-6 + 1.959964 * sd], abs=1e-11)
