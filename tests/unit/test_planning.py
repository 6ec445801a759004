"""Sample sizes against statsmodels, and the power of the sequential test against simulated experiments."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats import power as smpower
from statsmodels.stats import proportion as smp

from analyzer.engine.moments import Moments
from analyzer.engine.planning import (
    CONVENTIONS,
    Design,
    detectable_effect,
    fixed_power,
    fixed_size,
    sequential_power,
    sequential_size,
)
from analyzer.engine.sequential import contrasts, ready

WORKED = Design(baseline=0.18, effect=-0.018)

designs = st.builds(
    Design,
    baseline=st.floats(0.02, 0.5),
    effect=st.floats(0.005, 0.3),
    alpha=st.sampled_from([0.01, 0.05, 0.1]),
    power=st.sampled_from([0.5, 0.8, 0.95]),
    variants=st.integers(2, 5),
    ratio=st.sampled_from([0.25, 1.0, 3.0]),
    design_effect=st.floats(1, 8),
    deviation=st.none(),
    convention=st.just("pooled"),
)


def test_the_worked_number_and_the_other_conventions() -> None:
    found = {name: fixed_size(WORKED._replace(convention=name)) for name in CONVENTIONS}
    assert found == {"pooled": 6868, "unpooled": 6865, "baseline": 6869, "arcsine": 6864}


@pytest.mark.parametrize(("p", "q", "ratio"), [(0.18, 0.162, 1.0), (0.05, 0.07, 2.0), (0.72, 0.78, 0.5)])
def test_sizes_are_those_of_statsmodels(p: float, q: float, ratio: float) -> None:
    # statsmodels 0.15: samplesize_proportions_2indep_onetail (variance pooled under H0, unpooled under H1; its first
    # sample is our control), and NormalIndPower on Cohen's h for the arcsine convention.
    design = Design(p, q - p, ratio=ratio)
    wanted = smp.samplesize_proportions_2indep_onetail(p - q, q, 0.8, ratio=ratio, alpha=0.05)
    assert fixed_size(design) == math.ceil(wanted)
    h = smp.proportion_effectsize(q, p)
    wanted = smpower.NormalIndPower().solve_power(h, alpha=0.05, power=0.8, ratio=ratio)
    assert fixed_size(design._replace(convention="arcsine")) == math.ceil(wanted)
    assert fixed_power(design, 500) == pytest.approx(
        smp.power_proportions_2indep(p - q, q, 500, ratio=ratio, return_results=False), rel=1e-9
    )


def test_means_are_those_of_statsmodels() -> None:
    # statsmodels 0.15: NormalIndPower with effect size difference / standard deviation.
    wanted = smpower.NormalIndPower().solve_power(1 / 30, alpha=0.05, power=0.9, ratio=1)
    assert fixed_size(Design(10, 1, power=0.9, deviation=30)) == math.ceil(wanted)
    # Each of three variants against the control: α/3.
    wanted = smpower.NormalIndPower().solve_power(1 / 30, alpha=0.05 / 3, power=0.9, ratio=1)
    assert fixed_size(Design(10, -1, power=0.9, deviation=30, variants=4)) == math.ceil(wanted)


@settings(deadline=None, max_examples=30)
@given(designs)
def test_the_size_is_the_smallest_that_has_the_power(design: Design) -> None:
    n = fixed_size(design)
    # The other tail, which the size does not count, may add a little where power is low.
    assert design.power - 1e-9 <= float(fixed_power(design, n)) <= design.power + 0.05 + 2 / n
    size = sequential_size(design)
    assert float(sequential_power(design, size.maximum)) >= design.power - 1e-9
    assert size.maximum >= fixed_size(design._replace(convention="unpooled"))
    assert 0 < size.expected <= size.maximum * (1 + 1e-12)
    assert (np.diff(sequential_power(design, np.linspace(1, 3 * size.maximum, 200))) >= -1e-12).all()


@settings(deadline=None, max_examples=30)
@given(designs, st.booleans())
def test_the_detectable_effect_undoes_the_size(design: Design, sequential: bool) -> None:
    n = sequential_size(design).maximum if sequential else fixed_size(design)
    found = detectable_effect(design, n, sequential=sequential)
    assert found is not None
    assert found <= design.effect * (1 + 1e-9)
    power = sequential_power if sequential else fixed_power
    assert float(power(design._replace(effect=found), n)) >= design.power - 1e-6
    assert float(power(design._replace(effect=0.98 * found), n)) < design.power


def test_a_detectable_effect_has_passed_the_gate() -> None:
    # 100 further units, of whom 20 must click: 20 %. Without the gate 15 points would be found.
    design = Design(0.01, 0.1, ratio=0.05)
    assert detectable_effect(design, 2000, sequential=True) == pytest.approx(0.19)
    # 20 clicks of the control at 1 % need 2,000 units, and a decrease is never seen by 20 clicks of a variant.
    assert detectable_effect(design, 1999, sequential=True) is None
    assert detectable_effect(design._replace(ratio=1.0), 2000, sequential=True, direction=-1) is None
    mean = Design(0.0, 1.0, deviation=1.0)
    assert detectable_effect(mean, 19, sequential=True) is None
    assert detectable_effect(mean, 20, sequential=True) is not None


def test_a_design_effect_multiplies_and_arms_share() -> None:
    n = fixed_size(WORKED)
    assert fixed_size(WORKED._replace(design_effect=3.0)) == pytest.approx(3 * n, abs=3)
    assert fixed_size(WORKED._replace(ratio=2.0)) < n
    assert fixed_size(WORKED._replace(variants=3)) > n


SIMULATED = [WORKED, Design(0.5, 0.1), Design(0.72, 0.06), Design(0.05, 0.005, alpha=0.01)]


def simulate(design: Design, looks: int, runs: int) -> tuple[float, float]:
    """Share of experiments that find the effect by the planned maximum, and their mean units a variant at the stop."""
    size = sequential_size(design)
    n, low = np.linspace(0, size.maximum, looks + 1)[1:].round(), design.baseline
    rng, steps = np.random.default_rng(8), np.diff(n, prepend=0).astype(int)
    c = rng.binomial(steps[:, None], [low, low + design.effect], (runs, looks, 2)).cumsum(axis=1).astype(float)
    shown = np.broadcast_to(n[:, None], c.shape)
    arms = Moments(shown, shown, c, shown, c, c)
    found = contrasts(arms, 0, alpha=design.alpha, tau=abs(design.effect))
    away = np.where(design.effect > 0, found.low[..., 1] > 0, found.high[..., 1] < 0) & ready(arms, arms).all(axis=-1)
    stopped = np.where(away.any(axis=-1), n[away.argmax(axis=-1)], size.maximum)
    return float(away.any(axis=-1).mean()), float(stopped.mean())


@pytest.mark.parametrize("design", SIMULATED)
def test_simulated_experiments_have_the_planned_power(design: Design) -> None:
    # 2,000 experiments, binomial standard error of the power 0.9 points. The formula is a lower bound for looks after
    # every unit; 500 looks lose about as much as the bound gives away.
    power, mean = simulate(design, looks=500, runs=2000)
    assert power == pytest.approx(design.power, abs=0.03)
    assert mean == pytest.approx(sequential_size(design).expected, rel=0.08)


def test_before_the_gate_nothing_is_found() -> None:
    # 20 clicks at 1 % are expected after 2,000 impressions.
    design = Design(0.01, 0.5)
    assert sequential_power(design, [1999, 2001]).tolist() == pytest.approx([0, 1])
    assert sequential_size(design).maximum == 2000


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("baseline", 0.0),
        ("baseline", math.nan),
        ("effect", 0.0),
        ("effect", 0.9),
        ("effect", math.nan),
        ("alpha", 1.0),
        ("power", 0.04),
        ("power", 1.0),
        ("variants", 1),
        ("ratio", 0.0),
        ("design_effect", 0.5),
        ("deviation", -1.0),
        ("deviation", math.inf),
    ],
)
def test_impossible_designs_are_named(field: str, value: float) -> None:
    for size in (fixed_size, sequential_size):
        with pytest.raises(ValueError, match=f"^{field}:"):
            size(WORKED._replace(**{field: value}))


def test_hopeless_designs_say_so() -> None:
    with pytest.raises(ValueError, match=r"^effect: more than"):
        fixed_size(Design(0.5, 1e-9))
    with pytest.raises(ValueError, match=r"^effect: more than"):
        sequential_size(Design(0.5, 1e-9))
    assert detectable_effect(WORKED, 3, direction=-1) is None
    with pytest.raises(ValueError, match=r"^n:"):
        detectable_effect(WORKED, math.nan)
    with pytest.raises(ValueError, match=r"^n:"):
        fixed_power(WORKED, [5, 0])


if __name__ == "__main__":
    print("base · effect · alpha | fixed | maximum | expected | looks: power, mean units (10,000 runs)")
    for planned in SIMULATED:
        sizes = sequential_size(planned)
        measured = ((looks, *simulate(planned, looks, 10_000)) for looks in (20, 500))
        print(f"{planned.baseline:g} · {planned.effect:+g} · {planned.alpha:g} | {fixed_size(planned):,} | ", end="")
        print(f"{sizes.maximum:,} | {sizes.expected:,.0f} | ", end="")
        print("; ".join(f"{looks}: {100 * power:.1f} %, {mean:,.0f}" for looks, power, mean in measured))
