"""The off-policy estimators: by hand, against other programs, and their error rates by seeded simulation.

The figures of docs/statistics.md: `python tests/unit/test_ope.py`, the same code with more runs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from analyzer.engine.moments import Moments, rate, variance
from analyzer.engine.ope import ByRow, Log, OffPolicy, log_of, off_policy

WEIGHTED = ("ips", "snips", "dr")
ALL = ("ips", "snips", "dm", "dr", "replay")


def same(probabilities: list[float], rows: int) -> ByRow:
    return ByRow(np.array([probabilities]), np.zeros(rows, dtype=np.int64))


def by_row(table: Any) -> ByRow:
    return ByRow(np.asarray(table, dtype=np.float64), np.arange(len(table)))


def run(log: Log, target: Any, **options: Any) -> OffPolicy:
    """With folds and draws by seed, one for each unit."""
    rng = np.random.default_rng(5)
    units = int(log.unit.max()) + 1
    options = {"fold": rng.integers(0, 5, units), "draw": rng.random(units), **options}
    return off_policy(log, target, **options)


def random_log(seed: int, rows: int = 400, units: int = 60) -> tuple[Log, ByRow, np.ndarray]:
    """Three variants, propensities by row, a target by row, and a model's predictions."""
    rng = np.random.default_rng(seed)
    drawn = rng.dirichlet([4, 4, 4], rows)
    variant = (rng.random(rows)[:, None] > drawn.cumsum(axis=1)).sum(axis=1).clip(0, 2)
    log = log_of(
        rng.integers(0, units, rows), variant, drawn[np.arange(rows), variant], rng.normal(2, 3, rows), variants=3
    )
    return log, by_row(rng.dirichlet([1, 1, 1], rows)), rng.normal(2, 1, (rows, 3))


def test_four_rows_by_hand() -> None:
    #           unit  shown  propensity  reward   weight for the target (0, 1): 0, 2, 4, 0
    log = log_of([0, 0, 1, 2], [0, 1, 1, 0], [0.5, 0.5, 0.25, 0.75], [1, 1, 0, 1], variants=2)
    found = run(log, same([0, 1], 4), fold=np.zeros(3, dtype=int), draw=np.array([0.4, 0.9, 0.1]))
    assert found.ips.estimate == pytest.approx(2 / 4)
    assert found.snips.estimate == pytest.approx(2 / 6)
    assert found.dm is not None and found.dm.estimate == pytest.approx(1 / 2)
    # One fold: nothing is left to learn from, q is 0, and dr is ips.
    assert found.dr is not None and found.dr.estimate == found.ips.estimate
    # Row 2 (weight half the largest, draw 0.4 < 0.5) and row 3 are kept.
    assert found.replay.estimate == pytest.approx(1 / 2)
    assert found.overlap.replayed == 2
    assert found.logged.estimate == pytest.approx(3 / 4)
    assert (found.overlap.mean_weight, found.overlap.max_weight) == (1.5, 4)
    # Unit totals of ips: Σ w r − 0.5 n = (1, −0.5, −0.5), 3/2 · Σ squares / 4²
    assert found.ips.stderr == pytest.approx(np.sqrt(1.5 * 1.5) / 4)
    # snips: units 0 and 1 weigh; 2 − 2/3, 0 − 4/3, 2/1 · Σ squares / 6²
    assert found.snips.stderr == pytest.approx(np.sqrt(2 * 2 * (4 / 3) ** 2) / 6)
    assert found.snips.effective_size == pytest.approx(36 / 20)
    assert found.ips.interval[1] - 0.5 == pytest.approx(4.302652729749462 * found.ips.stderr)  # t of 2 degrees


# obp 0.5.7 (Open Bandit Pipeline) on numpy 1.26, `estimate_policy_value` with `action_dist` = target,
# `estimated_rewards_by_reg_model` = q, `lambda_` = clip. Its clipping caps the weight, as ours does.
OBP = {"ips": 1.2541666666666667, "snips": 1.0427251732101617, "dm": 0.5944444444444444, "dr": 1.0437499999999997}
OBP_CLIPPED = {"ips": 0.8805555555555555, "dr": 0.8940277777777778}
OBP_REPLAY = 1.0


def obp_log() -> tuple[Log, np.ndarray, np.ndarray]:
    variant = [0, 1, 2, 0, 1, 2, 1, 1, 0, 2, 2, 1]
    propensity = [0.5, 0.25, 0.25, 0.2, 0.6, 0.2, 0.4, 0.4, 0.1, 0.5, 0.3, 0.8]
    reward = [1, 0, 2, 0, 1, 1, 0, 3, 1, 0, 0.5, 1.0]
    target = np.array([[0.2, 0.3, 0.5], [0.6, 0.1, 0.3], [0.1, 0.1, 0.8], [1 / 3, 1 / 3, 1 / 3]])[np.arange(12) % 4]
    q = np.array([[0.4, 0.5, 0.9], [0.1, 0.2, 0.3], [0.8, 0.6, 1.1]])[np.arange(12) % 3]
    return log_of(range(12), variant, propensity, reward, variants=3), target, q


def test_estimates_equal_those_of_the_open_bandit_pipeline() -> None:
    log, target, q = obp_log()
    found = run(log, by_row(target), predictions=by_row(q))
    assert {name: getattr(found, name).estimate for name in OBP} == pytest.approx(OBP, rel=1e-12)
    clipped = run(log, by_row(target), predictions=by_row(q), clip=1.5)
    assert {name: getattr(clipped, name).estimate for name in OBP_CLIPPED} == pytest.approx(OBP_CLIPPED, rel=1e-12)
    # Its replay takes no propensities: the same once all are equal.
    level = log._replace(propensity=np.full(12, 1 / 3))
    assert run(level, same([0, 1, 0], 12)).replay.estimate == OBP_REPLAY


@pytest.mark.parametrize("seed", range(5))
def test_standard_errors_equal_those_of_statsmodels(seed: int) -> None:
    # statsmodels 0.15 (0.14 gives the same), WLS of the score on a constant, cov_type="cluster" with
    # use_correction=True: G/(G−1) · (N−1)/(N−1).
    log, target, q = random_log(seed)
    found = run(log, target, predictions=by_row(q))
    w = target.of(log.variant) / log.propensity
    m = (target.table * q).sum(axis=1)
    scores = {
        "ips": (w * log.reward, np.ones_like(w)),
        "snips": (log.reward, w),
        "dm": (m, np.ones_like(w)),
        "dr": (m + w * (log.reward - q[np.arange(len(w)), log.variant]), np.ones_like(w)),
        "logged": (log.reward, np.ones_like(w)),
    }
    for name, (value, weight) in scores.items():
        fit = sm.WLS(value, np.ones_like(value), weights=weight).fit(
            cov_type="cluster", cov_kwds={"groups": log.unit, "use_correction": True}
        )
        estimate = getattr(found, name)
        assert (estimate.estimate, estimate.stderr) == pytest.approx((fit.params[0], fit.bse[0]), rel=1e-9)


def test_snips_of_a_variant_is_the_weighted_rate_of_the_stream() -> None:
    """Sticky units: the same arithmetic as on the sums the stream keeps."""
    rng = np.random.default_rng(2)
    units, percent = 50, np.repeat([20.0, 60.0], 25)
    shown = (rng.random(units) * 100 >= percent).astype(int)
    n = rng.integers(1, 9, units)
    unit = np.repeat(np.arange(units), n)
    reward = (rng.random(len(unit)) < 0.3).astype(float)
    p = np.where(shown == 0, percent, 100 - percent) / 100
    found = run(log_of(unit, shown[unit], p[unit], reward, variants=2), same([1, 0], len(unit)))
    mine = shown == 0
    w, c = 1 / p[mine], np.bincount(unit, reward)[mine]
    sums = (w * n[mine], w * c, (w * n[mine]) ** 2, (w * c) ** 2, w * w * n[mine] * c)
    arm = Moments(np.array([float(mine.sum())]), *(np.array([part.sum()]) for part in sums))
    assert found.snips.estimate == pytest.approx(rate(arm)[0], rel=1e-12)
    assert found.snips.stderr**2 == pytest.approx(variance(arm)[0], rel=1e-9)


def test_replay_is_the_mean_over_matching_rows_of_a_uniform_log() -> None:
    log, _, _ = random_log(3)
    uniform = log._replace(propensity=np.full(400, 1 / 3))
    found = run(uniform, same([0, 0, 1], 400))
    matching = log.variant == 2
    assert found.replay.estimate == pytest.approx(log.reward[matching].mean(), rel=1e-12)
    assert found.overlap.replayed == matching.sum()
    assert found.dm is not None
    assert found.dm.estimate == pytest.approx(log.reward[matching].mean(), rel=1e-12)


def test_the_logging_policy_itself_is_worth_what_it_earned() -> None:
    log, _, _ = random_log(4)
    shares = np.array([[0.2, 0.3, 0.5]])
    on_policy = log._replace(propensity=shares[0][log.variant])
    found = run(on_policy, ByRow(shares, np.zeros(400, dtype=np.int64)))
    for name in ("ips", "snips", "replay"):
        assert np.hstack(getattr(found, name)) == pytest.approx(np.hstack(found.logged), rel=1e-12)
    assert found.overlap[:5] == pytest.approx((1, 0, 1, 0, 0), abs=1e-12)


# -- simulations: users with a taste of their own, sticky for a slate, context that drives both draws and rewards --

DRAWN = np.array([[0.2, 0.8], [0.5, 0.5], [0.85, 0.15]])
RATES = np.array([[0.1, 0.3], [0.5, 0.4], [0.3, 0.8]])
TARGET = np.array([[0.9, 0.1], [0.3, 0.7], [0.0, 1.0]])
TRUTH = float((TARGET * RATES).sum(axis=1).mean())


def simulated(rng: np.random.Generator, units: int = 250) -> tuple[Log, np.ndarray]:
    """(log, context). A unit has one context and one variant, 1 to 6 rows, and a taste that moves its rates."""
    size = rng.integers(1, 7, units)
    context = rng.integers(0, 3, units)
    shown = (rng.random(units) >= DRAWN[context, 0]).astype(np.int64)
    taste = rng.choice([0.5, 1.5], units)
    unit = np.repeat(np.arange(units), size)
    p = DRAWN[context, shown]
    chance = np.minimum(taste * RATES[context, shown], 1.0)
    # 0.8 · 1.5 is cut at 1: give what is cut to the other taste, so that the mean rate stays RATES.
    chance = np.where((taste == 0.5) & (1.5 * RATES[context, shown] > 1), 2 * RATES[context, shown] - 1, chance)
    reward = (rng.random(len(unit)) < chance[unit]).astype(np.float64)
    return log_of(unit, shown[unit], p[unit], reward, variants=2), context[unit]


def repeated(runs: int, seed: int, units: int = 250, **changes: Any) -> dict[str, tuple[float, float, float]]:
    """Method → (mean error in its standard errors, share of intervals and share of sequences that hold the truth)."""
    rng = np.random.default_rng(seed)
    found: dict[str, list[tuple[float, bool, bool]]] = {name: [] for name in ALL}
    for _ in range(runs):
        log, context = simulated(rng, units)
        folds = {"fold": rng.integers(0, 5, units), "draw": rng.random(units)}
        options = {name: change(log, context) for name, change in changes.items()}
        log = options.pop("log", log)
        result = run(log, ByRow(TARGET, context), **folds, **{"stratum": context, **options})
        for name in ALL:
            one = getattr(result, name)
            held = [low <= TRUTH <= high for low, high in (one.interval, one.sequence)]
            found[name].append((one.estimate - TRUTH, *held))
    return {
        name: (
            float(np.mean([row[0] for row in rows]) / np.std([row[0] for row in rows]) * np.sqrt(runs)),
            float(np.mean([row[1] for row in rows])),
            float(np.mean([row[2] for row in rows])),
        )
        for name, rows in found.items()
    }


def not_below(share: float, runs: int, level: float) -> bool:
    return binomtest(round(share * runs), runs, level, alternative="less").pvalue > 0.001


@pytest.fixture(scope="module")
def plain() -> dict[str, tuple[float, float, float]]:
    return repeated(1000, 11)


@pytest.mark.parametrize("method", ALL)
def test_estimates_are_unbiased_and_intervals_cover(method: str, plain: dict[str, tuple[float, float, float]]) -> None:
    bias, interval, sequence = plain[method]
    assert abs(bias) < 4
    assert not_below(interval, 1000, 0.94), interval
    assert interval < 0.98, "an interval this wide tells less than it could"
    assert sequence >= interval


def test_doubly_robust_survives_either_mistake() -> None:
    """Wrong predictions with right propensities, right predictions with wrong propensities; both wrong: it fails."""

    def wrong_model(log: Log, context: np.ndarray) -> ByRow:
        return ByRow(np.array([[0.9, 0.1]]), np.zeros(len(context), dtype=np.int64))

    def right_model(log: Log, context: np.ndarray) -> ByRow:
        return ByRow(RATES, context)

    def wrong_propensities(log: Log, context: np.ndarray) -> Log:
        return log._replace(propensity=np.full(len(context), 0.5))

    model = repeated(300, 12, predictions=wrong_model)
    assert abs(model["dr"][0]) < 4 < abs(model["dm"][0])
    draws = repeated(300, 13, predictions=right_model, log=wrong_propensities)
    assert abs(draws["dr"][0]) < 4 < abs(draws["ips"][0])
    assert abs(repeated(300, 14, predictions=wrong_model, log=wrong_propensities)["dr"][0]) > 5


def test_the_model_makes_dr_more_precise_than_ips() -> None:
    log, context = simulated(np.random.default_rng(1), units=4000)
    found = run(log, ByRow(TARGET, context), stratum=context)
    assert found.dr is not None
    assert found.dr.stderr < 0.8 * found.ips.stderr


def test_the_direct_method_without_the_context_is_biased() -> None:
    """Why dm alone is not to be trusted: the draws follow the context, and the model does not know it."""
    found = repeated(200, 15, stratum=lambda log, context: np.zeros_like(context))
    assert abs(found["dm"][0]) > 10
    assert abs(found["dr"][0]) < 4


def bandit_looks(rng: np.random.Generator, batches: int, size: int) -> tuple[Log, np.ndarray]:
    """ε-greedy on what it saw, so that propensities depend on rewards; slates of 3 rows. (log, rows at each look)"""
    truth = np.array([0.3, 0.4])
    shows, wins = np.ones(2), np.ones(2)
    variants, propensities, rewards = [], [], []
    for _ in range(batches):
        chance = np.where(np.arange(2) == (wins / shows).argmax(), 0.9, 0.1)
        shown = (rng.random(size) >= chance[0]).astype(np.int64)
        taste = rng.choice([0.6, 1.4], size)
        clicks = rng.random((size, 3)) < (taste * truth[shown])[:, None]
        shows += 3 * np.bincount(shown, minlength=2)
        wins += np.bincount(shown, clicks.sum(axis=1), 2)
        variants.append(np.repeat(shown, 3))
        propensities.append(np.repeat(chance[shown], 3))
        rewards.append(clicks.ravel())
    rows = 3 * size * batches
    columns = (np.concatenate(part) for part in (variants, propensities, rewards))
    return log_of(np.arange(rows) // 3, *columns, variants=2), np.arange(1, batches + 1) * 3 * size


def test_a_bandit_log_is_valued_without_bias_and_sequences_hold_at_all_looks() -> None:
    runs, batches, size = 250, 10, 100
    rng = np.random.default_rng(21)
    errors: dict[str, list[float]] = {name: [] for name in ALL}
    missed: dict[str, int] = dict.fromkeys(WEIGHTED, 0)
    for _ in range(runs):
        log, ends = bandit_looks(rng, batches, size)
        folds = {"fold": rng.integers(0, 5, batches * size), "draw": rng.random(batches * size)}
        looks = [run(Log(*(part[:end] for part in log)), same([1, 0], end), **folds) for end in ends]
        for name in ALL:
            errors[name].append(getattr(looks[-1], name).estimate - 0.3)
        for name in missed:
            ranges = [getattr(look, name).sequence for look in looks if look.snips.effective_size >= 30]
            missed[name] += any(not low <= 0.3 <= high for low, high in ranges)
    for name in WEIGHTED:
        assert abs(np.mean(errors[name])) < 4 * np.std(errors[name]) / np.sqrt(runs), name
        assert not_below(1 - missed[name] / runs, runs, 0.95), (name, missed[name])


def test_a_clip_tells_its_bias() -> None:
    rng = np.random.default_rng(31)
    told: list[float] = []
    for _ in range(300):
        log, context = simulated(rng)
        target = ByRow(TARGET, context)
        clipped, full = run(log, target, clip=1.5), run(log, target)
        for name in (*WEIGHTED, "replay"):
            one, other = getattr(clipped, name), getattr(full, name)
            assert one.clip_bias == pytest.approx(one.estimate - other.estimate, abs=1e-12)
            assert other.clip_bias == 0
        told.append(clipped.ips.clip_bias)
        assert 0 < clipped.overlap.clipped < 1
        assert clipped.overlap.mean_weight == full.overlap.mean_weight
    weight = TARGET / DRAWN
    bias = float((DRAWN * (np.minimum(weight, 1.5) - weight) * RATES).sum(axis=1).mean())
    assert abs(np.mean(told) - bias) < 4 * np.std(told) / np.sqrt(300)


def test_a_share_that_could_not_be_drawn_is_counted() -> None:
    log, _, _ = random_log(6)
    offered = ByRow(np.array([[50.0, 50, 0], [30, 30, 40]]), (np.arange(400) < 300).astype(np.int64))
    assert run(log, same([0.2, 0.2, 0.6], 400), offered=offered).overlap.unsupported == pytest.approx(0.25 * 0.6)
    assert run(log, same([0.2, 0.2, 0.6], 400)).overlap.unsupported == 0


def test_a_target_known_for_the_shown_variants_only() -> None:
    log, target, _ = random_log(7)
    full, shown = run(log, target), run(log, target.of(log.variant))
    assert shown.dm is None and shown.dr is None
    assert (shown.ips, shown.snips, shown.replay) == (full.ips, full.snips, full.replay)


SEEDS = st.integers(0, 10_000)


@given(SEEDS)
def test_the_order_of_rows_and_the_names_of_units_do_not_matter(seed: int) -> None:
    log, target, _ = random_log(seed, rows=60, units=12)
    rng = np.random.default_rng(seed)
    stratum = rng.integers(0, 3, 60)
    fold, draw = rng.integers(0, 3, 12), rng.random(12)
    order, names = rng.permutation(60), rng.permutation(12)
    other = Log(*(part[order] for part in log._replace(unit=names[log.unit])))
    back = np.argsort(names)
    one = run(log, target, stratum=stratum, fold=fold, draw=draw)
    two = run(
        other, ByRow(target.table, target.row[order]), stratum=stratum[order], fold=fold[back], draw=draw[back]
    )  # fmt: skip
    for name in (*ALL, "logged"):
        a, b = getattr(one, name), getattr(two, name)
        assert (a.estimate, a.stderr, a.effective_size) == pytest.approx(
            (b.estimate, b.stderr, b.effective_size), nan_ok=True
        )


@given(SEEDS, st.floats(0.1, 10), st.floats(-50, 50))
def test_other_units_of_reward_change_nothing_else(seed: int, scale: float, shift: float) -> None:
    """ips alone depends on where the reward's zero is."""
    log, target, _ = random_log(seed, rows=60, units=12)
    one, two = run(log, target), run(log._replace(reward=scale * log.reward + shift), target)
    for name in ("snips", "dm", "dr", "replay", "logged"):
        a, b = getattr(one, name), getattr(two, name)
        assert b.estimate == pytest.approx(scale * a.estimate + shift, abs=1e-6)
        assert b.stderr == pytest.approx(scale * a.stderr, rel=1e-6, abs=1e-9, nan_ok=True)
    scaled = run(log._replace(reward=scale * log.reward), target)
    assert scaled.ips.estimate == pytest.approx(scale * one.ips.estimate)


# -- bad input --


def test_one_unit_has_an_estimate_and_no_interval() -> None:
    found = run(log_of([0, 0], [0, 1], [0.5, 0.5], [1, 0], variants=2), same([1, 0], 2))
    for name in ALL:
        estimate = getattr(found, name)
        assert np.isfinite(estimate.estimate)
        assert np.isnan(estimate.stderr)
        assert estimate.interval == estimate.sequence == (-np.inf, np.inf)


def test_the_largest_numbers_make_no_warning() -> None:
    rng = np.random.default_rng(1)
    shown = rng.integers(0, 2, 1000)
    p = np.where(rng.random(1000) < 0.01, 1e-12, 1.0)
    found = run(log_of(np.arange(1000), shown, p, rng.choice([-1e12, 1e12], 1000), variants=2), same([1, 0], 1000))
    assert all(np.isfinite(getattr(found, name)[:2]).all() for name in ALL)


GOOD: dict[str, Any] = {"unit": [0, 1], "variant": [0, 1], "propensity": [0.5, 0.5], "reward": [1, 0]}


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("propensity", [0.5, 0.0], "propensity: 0.0 in row 2"),
        ("propensity", [1.1, 0.5], "propensity: 1.1 in row 1"),
        ("propensity", [0.5, np.nan], "propensity: nan in row 2"),
        ("propensity", [0.5], "unit: one value a row"),
        ("reward", [np.nan, 0], "reward: nan in row 1"),
        ("reward", [0, np.inf], "reward: inf in row 2"),
        ("reward", [0, -2e12], "reward: -2"),
        ("variant", [0, 2], "variant: 2 in row 2"),
        ("unit", [-1, 0], "unit: -1 in row 1"),
    ],
)
def test_a_log_that_cannot_be_is_refused(name: str, values: list[float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        log_of(**{**GOOD, name: values}, variants=2)


def test_no_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        log_of([], [], [], [], variants=2)


@pytest.mark.parametrize(
    ("target", "options", "said"),
    [
        (same([0.5, 0.6], 2), {}, "sum to 1"),
        (same([1.5, -0.5], 2), {}, "0 or more"),
        (same([np.nan, 1], 2), {}, "sum to 1"),
        (np.array([0.5, 1.5]), {}, "target: 1.5 in row 2"),
        (np.array([0.5]), {}, "target: one probability a row"),
        (by_row([[0, 1], [1, 0]]), {}, "no row of the log has a variant"),
        (same([0.5, 0.5], 2), {"clip": 0}, "clip: 0"),
        (same([0.5, 0.5], 2), {"clip": np.nan}, "clip: nan"),
        (same([0.5, 0.5], 2), {"alpha": 1.0}, "alpha: 1.0"),
        (same([0.5, 0.5], 2), {"effect": np.inf}, "effect: inf"),
    ],
)
def test_wrong_targets_and_options_are_refused(target: Any, options: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        run(log_of(**GOOD, variants=2), target, **options)


def test_a_variant_the_log_never_shows_cannot_be_valued() -> None:
    with pytest.raises(ValueError, match="30 % of it is on variant 2"):
        run(log_of(**GOOD, variants=3), same([0.5, 0.2, 0.3], 2))
    with pytest.raises(ValueError, match="weights up to 1e\\+12"):
        run(log_of(**{**GOOD, "propensity": [0.5, 1e-13]}, variants=2), same([0.5, 0.5], 2))


if __name__ == "__main__":
    for units in (250, 1000):
        print(f"{units} units: mean error in its standard errors, coverage of interval and sequence, of 2000 runs")
        for method, figures in repeated(2000, 99, units).items():
            print(f"  {method:8}" + "".join(f"{figure:9.4f}" for figure in figures))
