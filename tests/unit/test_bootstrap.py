"""The bootstrap of a stream: the same integers in any order, and intervals as good as those of scipy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from analyzer.engine.bootstrap import (
    Replicates,
    difference_interval,
    ratio_interval,
    replicate_weights,
    replicates,
    unit_keys,
)

pieces = st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 9), st.integers(-(10**6), 10**6)), min_size=1, max_size=60
)


def same(one: Replicates, other: Replicates) -> bool:
    return all(np.array_equal(mine, theirs) for mine, theirs in zip(one, other, strict=True))


def of(events: list[tuple[int, int, int]]) -> Replicates:
    """Events (unit, impressions, value) as they come."""
    keys = unit_keys((f"user {unit}" for unit, _, _ in events), "salt")
    return replicates(keys, [n for _, n, _ in events], [v for _, _, v in events], count=7)


@settings(deadline=None)
@given(pieces, st.data())
def test_order_partitions_and_restarts_do_not_matter(events: list[tuple[int, int, int]], data: st.DataObject) -> None:
    whole = of(events)
    assert same(of(data.draw(st.permutations(events))), whole)
    # One event after the other, as a stream would, and units all in one piece.
    running = of(events[:1])
    for event in events[1:]:
        running += of([event])
    assert same(running, whole)
    units = {unit for unit, _, _ in events}
    merged = [(u, sum(n for x, n, _ in events if x == u), sum(v for x, _, v in events if x == u)) for u in units]
    assert same(of(merged), whole)
    # A restart continues from the sums: partitions by unit, in any cut.
    cut = data.draw(st.integers(0, 40))
    parts = [[event for event in events if (event[0] < cut) is side] for side in (True, False)]
    assert same(of(parts[0]) + of(parts[1]), whole)
    assert whole.c[0] == sum(v for _, _, v in events)


GOLDEN = [[3, 0, 1, 1, 0, 1, 0, 0, 0, 0, 1, 0], [3, 1, 2, 0, 0, 0, 0, 1, 0, 0, 1, 0]]


def test_weights_stay_what_they_are() -> None:
    # Golden: the weights are a promise, as sums kept elsewhere depend on them. BLAKE2b of the salt and the unit,
    # SplitMix64, inversion of sixteen bits.
    keys = unit_keys(["user 1", "user 2"], "checkout")
    assert keys.dtype == np.uint64
    assert replicate_weights(keys, 12).tolist() == GOLDEN
    # More replicates leave the first ones alone.
    assert replicate_weights(keys, 30)[:, :12].tolist() == GOLDEN


def test_weights_are_poisson_and_independent() -> None:
    weights = replicate_weights(unit_keys((str(i) for i in range(4000)), "x"), 250).astype(float)
    counts = np.bincount(weights.astype(int).ravel(), minlength=7)
    observed = np.append(counts[:6], counts[6:].sum())
    expected = weights.size * np.append(stats.poisson(1).pmf(range(6)), stats.poisson(1).sf(5))
    assert stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > 1e-4
    # Correlations between replicates and between units: none larger than chance (standard error 1/√size).
    for matrix in (weights.T[:200], weights[:200]):
        off = np.corrcoef(matrix)[np.triu_indices(200, 1)] * np.sqrt(matrix.shape[1])
        assert abs(off).max() < 5.5
        assert off.std() == pytest.approx(1, abs=0.03)


def test_intervals_are_those_of_scipy_for_heavy_tails() -> None:
    # scipy 1.17, stats.bootstrap(method="percentile", paired=True) of Σvalue/Σimpressions, lognormal values (σ = 1.5).
    rng = np.random.default_rng(11)
    n = rng.geometric(0.2, 800)
    v = np.round(1000 * rng.lognormal(0, 1.5, 800) * n).astype(np.int64)
    keys = unit_keys((str(i) for i in range(800)), "heavy")
    found = ratio_interval(replicates(keys, n, v, count=4000))
    wanted = stats.bootstrap(
        (v, n), lambda v, n, axis: v.sum(axis) / n.sum(axis), paired=True, n_resamples=4000, method="percentile",
        vectorized=True, rng=np.random.default_rng(2), batch=500,
    )  # fmt: skip
    width = wanted.confidence_interval.high - wanted.confidence_interval.low
    assert found.estimate == pytest.approx(v.sum() / n.sum(), rel=1e-12)
    assert found.stderr == pytest.approx(wanted.standard_error, rel=0.06)
    assert found.low == pytest.approx(wanted.confidence_interval.low, abs=0.06 * width)
    assert found.high == pytest.approx(wanted.confidence_interval.high, abs=0.06 * width)


@pytest.mark.slow
def test_coverage_of_the_difference_with_heavy_tails() -> None:
    # 1,000 runs of 2 × 300 units, lognormal values (σ = 1), no difference; binomial standard error 0.7 points.
    covered, runs = 0, 1000
    for run in range(runs):
        rng = np.random.default_rng(run)
        arms = []
        for arm in "ab":
            v = np.round(1000 * rng.lognormal(0, 1, 300)).astype(np.int64)
            arms.append(replicates(unit_keys((f"{arm}{i}" for i in range(300)), str(run)), np.ones(300), v))
        found = difference_interval(Replicates(*(np.stack(part) for part in zip(*arms, strict=True))))
        covered += bool(found.low[1] <= 0 <= found.high[1])
    assert 0.93 <= covered / runs <= 0.97


def test_differences_and_lifts() -> None:
    rng = np.random.default_rng(1)
    arms = [
        replicates(unit_keys((f"{arm}{i}" for i in range(500)), "s"), np.ones(500), rng.poisson(mean, 500))
        for arm, mean in (("a", 5), ("b", 6))
    ]
    both = Replicates(*(np.stack(part) for part in zip(*arms, strict=True)))
    difference, lift = difference_interval(both), difference_interval(both, relative=True)
    means = both.c[:, 0] / 500
    assert difference.estimate[1] == pytest.approx(means[1] - means[0])
    assert lift.estimate[1] == pytest.approx(means[1] / means[0] - 1)
    assert difference.stderr[1] == pytest.approx(np.sqrt(11 / 500), rel=0.1)
    assert lift.low[1] < lift.estimate[1] < lift.high[1]
    assert difference.low[0] == difference.high[0] == 0


def test_large_sums_stay_exact() -> None:
    keys = unit_keys(map(str, range(9000)), "s")
    values = np.arange(9000, dtype=np.int64) * 10**10 + 7
    found = replicates(keys, np.ones(9000), values, count=5)
    weights = replicate_weights(keys, 5)
    assert found.c[1:].tolist() == [
        sum(int(w) * int(v) for w, v in zip(column, values, strict=True)) for column in weights.T
    ]
    with pytest.raises(ValueError, match=r"^n, c: sums"):
        replicates(keys, np.ones(9000), values * 1000)


def test_few_units_have_no_interval() -> None:
    found = ratio_interval(replicates(unit_keys(["a"], "s"), [3], [2]))
    assert found.estimate == pytest.approx(2 / 3)
    assert np.isnan([found.low, found.high]).all()
    nothing = ratio_interval(replicates([], [], []))
    assert np.isnan(nothing.estimate)


@pytest.mark.parametrize(
    ("n", "c", "name"),
    [([1], [1, 2], "n"), ([1, 1], [0.5, 1], "c"), ([1, np.nan], [1, 1], "n"), ([1, 1], [1e300, 1], "n, c")],
)
def test_impossible_pieces_are_named(n: list[float], c: list[float], name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name}:"):
        replicates(unit_keys(["a", "b"], "s"), n, c)
    with pytest.raises(ValueError, match=r"^count"):
        replicates(unit_keys(["a"], "s"), [1], [1], count=0)
