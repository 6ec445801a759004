"""The simulations: seeded, the same on any number of processes, right where a closed form or brute force says what is
right, and the engine's targets with few runs. The figures of docs/statistics.md come from `sluice simulate`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import beta as beta_distribution
from scipy.stats import binom

from analyzer.engine import Snapshot, decide
from analyzer.engine.moments import Moments, moments
from analyzer.simulate import aa, bandit, coverage, delay, drift
from analyzer.simulate.blocks import simulate
from analyzer.simulate.log import CONCENTRATION, Log, fitted_log
from analyzer.simulate.policies import POLICIES, Memory, Name, Policy, next_percent, shares, start
from analyzer.simulate.report import interval
from analyzer.simulate.settings import FIXED, Setting, watch
from analyzer.simulate.streams import PlantedSlates, PlantedUsers, RecordedSlates, RecordedUsers, Values
from sluice.domain.events import StatsCell
from sluice.domain.experiment import Experiment, Variant
from sluice.domain.statistics import CellStatistics, OutcomeStatistics

SLATE = Setting(unit="slate", rates=(0.72, 0.72))


def at_least(share: float, runs: int) -> float:
    """The 0.1 % quantile of what `runs` runs of true rate `share` show: below it chance is no excuse."""
    return float(binom.ppf(0.001, runs, share)) / runs


def at_most(share: float, runs: int) -> float:
    return float(binom.ppf(0.999, runs, share)) / runs


def recorded(users: int = 30, slates: int = 400, k: int = 2) -> Log:
    """A small log with all kinds of counts, not in any order of users."""
    rng = np.random.default_rng(5)
    user = rng.permutation(np.concatenate([np.arange(users), rng.integers(users, size=slates - users)]))
    shown = rng.integers(1, 4, (slates, k))
    return Log("test", user, tuple("abcd"[:k]), rng.binomial(shown, 0.6), shown)


# ------------------------------------------------------------------ seeds and processes


def test_the_same_seed_gives_the_same_figures_whatever_runs_beside_it() -> None:
    settings = {"one": SLATE, "two": replace(SLATE, policy=Policy())}
    together = simulate(aa.calls, settings, 150, seed=4)
    alone = simulate(aa.calls, {"two": settings["two"]}, 150, seed=4)
    other = simulate(aa.calls, settings, 150, seed=5)
    for key, values in together["two"].items():
        assert (values == alone["two"][key]).all()
        assert values.shape == (150,)
    assert any((together["two"][key] != other["two"][key]).any() for key in together["two"])


def test_the_number_of_processes_changes_nothing() -> None:
    settings = {"slate": replace(SLATE, slates=500, looks=5), "thompson": replace(SLATE, slates=500, policy=Policy())}
    one, two = (simulate(aa.calls, settings, 120, seed=1, jobs=jobs) for jobs in (1, 2))
    for name in settings:
        for key, values in one[name].items():
            assert (values == two[name][key]).all()


@pytest.mark.parametrize("wrong", ["runs", "jobs"])
def test_no_runs_and_no_processes_are_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        simulate(aa.calls, {"slate": SLATE}, **{"runs": 1, "jobs": 1, wrong: 0}, seed=0)


# ------------------------------------------------------------------ streams


def last(setting: Setting, runs: int, seed: int = 0) -> Moments:
    return list(watch(setting, runs, np.random.default_rng(seed)))[-1].totals


@pytest.mark.parametrize("looks", [1, 7])
def test_sums_over_sticky_users_are_those_of_each_users_totals(looks: int) -> None:
    log = recorded(k=1)
    found = last(Setting(unit="user", recorded=(0,), log=log, looks=looks), runs=2)
    n, c = np.bincount(log.user, log.shown[:, 0]), np.bincount(log.user, log.clicks[:, 0])
    expected = [len(n), n.sum(), c.sum(), (n * n).sum(), (c * c).sum(), (n * c).sum()]
    for sums, total in zip(found, expected, strict=True):
        assert sums.ravel() == pytest.approx([total, total])


def test_a_user_keeps_the_variant_of_the_first_slate() -> None:
    log = recorded()
    same = replace(log, shown=np.full_like(log.shown, 3), clicks=np.ones_like(log.clicks))
    found = last(Setting(unit="user", recorded=(0, 1), log=same, looks=20), runs=50)
    n = 3 * np.bincount(log.user)
    # Were a user's impressions split between variants, the squares would be smaller.
    assert (found.nn.sum(axis=1) == (n * n).sum()).all()
    assert (found.units.sum(axis=1) == 30).all()


def test_a_part_of_the_users_comes_in_the_order_of_the_log() -> None:
    log = recorded()
    steps = list(
        watch(Setting(unit="user", recorded=(0, 1), log=log, users=10, looks=4), 200, np.random.default_rng(0))
    )
    slates = np.array([step.slates.sum(axis=1) for step in steps])
    whole = slates[-1]
    assert (np.abs(slates - whole * np.array([[0.25], [0.5], [0.75], [1.0]])) < 1).all()
    assert (steps[-1].totals.units.sum(axis=1) == 10).all()
    assert whole.std() > 0  # other users in every run


def test_recorded_slates_show_the_clicks_of_the_variant_that_served_them() -> None:
    log = recorded(slates=3000, users=5)
    found = last(Setting(unit="slate", recorded=(0, 1), log=log, looks=10), runs=400)
    share = 0.5
    for variant in (0, 1):
        n, c = log.shown[:, variant], log.clicks[:, variant]
        for sums, values in ((found.n, n), (found.c, c), (found.cc, c * c), (found.nc, n * c)):
            error = np.sqrt((values**2).sum() * share * (1 - share) / 400)
            assert sums[:, variant].mean() == pytest.approx(share * values.sum(), abs=4 * error)


@pytest.mark.parametrize(
    "make",
    [
        lambda rng: PlantedSlates(np.array([0.3, 0.6]), 500, 5, rng),
        lambda rng: Values(np.array([0.3, 0.6]), 1.0, 500, 5, rng),
        lambda rng: RecordedSlates(recorded().clicks, recorded().shown, 5, rng),
        lambda rng: PlantedUsers(np.array([0.3, 0.6]), 5.0, recorded().user, 30, 300, 5, rng),
        lambda rng: RecordedUsers(recorded().clicks, recorded().shown, recorded().user, 30, 300, 5, rng),
    ],
    ids=["slates", "values", "recorded slates", "users", "recorded users"],
)
def test_weights_are_one_over_the_propensity(make) -> None:  # type: ignore[no-untyped-def]
    stream = make(np.random.default_rng(3))
    percent = np.tile([20, 80], (300, 1))
    steps = [stream.step(look, percent) for look in range(5)]
    for place, weight in ((0, 5.0), (1, 1.25)):
        for key in ("n", "nn"):
            raw = sum(getattr(step.totals, key)[:, place] for step in steps)
            weighted = sum(getattr(step.weighted, key)[:, place] for step in steps)
            assert weighted == pytest.approx(raw * weight ** len(key))
    # Σ w n estimates all impressions without bias (Horvitz, Thompson).
    total = sum(step.weighted.n for step in steps)
    everything = sum(step.totals.n.sum(axis=1) for step in steps)
    for place in (0, 1):
        error = (total[:, place] - everything).std() / np.sqrt(300)
        assert total[:, place].mean() == pytest.approx(everything.mean(), abs=4 * error + 0.02 * everything.mean())


def test_planted_slates_have_the_planted_rate_and_binomial_clicks() -> None:
    stream = PlantedSlates(np.array([0.3, 0.8]), 2000, 1, np.random.default_rng(0))
    raw = stream.step(0, start(200, 2)).totals
    p = raw.c / raw.n
    assert p.mean(axis=0) == pytest.approx([0.3, 0.8], abs=0.004)
    variance = (raw.cc - 2 * p * raw.nc + p * p * raw.nn) / raw.units
    assert variance.mean(axis=0) == pytest.approx([3 * 0.3 * 0.7, 3 * 0.8 * 0.2], rel=0.02)


def test_planted_users_have_rates_of_their_own() -> None:
    user = np.repeat(np.arange(50), 40)
    stream = PlantedUsers(np.array([0.6, 0.6]), 4.0, user, 50, 200, 10, np.random.default_rng(0))
    steps = [stream.step(look, start(200, 2)).totals for look in range(10)]
    raw = Moments(*(sum(parts) for parts in zip(*steps, strict=True)))  # type: ignore[arg-type]
    assert (raw.c.sum() / raw.n.sum()) == pytest.approx(0.6, abs=0.01)
    n = 120
    # Var c = n p q (1 + (n − 1) ρ), with ρ = 1 / (κ + 1).
    expected = n * 0.24 * (1 + (n - 1) / 5.0)
    square = (raw.cc - 2 * 0.6 * raw.nc + 0.6**2 * raw.nn).sum() / raw.units.sum()
    assert square == pytest.approx(expected, rel=0.06)


def test_clicks_arrive_when_they_are_due_and_all_within_the_window() -> None:
    setting = delay.DelaySetting(kind="exponential", scale=0.3, looks=40, impressions=2000, growth=2.0)
    seen = [now._replace(clicked=now.clicked.copy()) for now in delay.arrive(setting, 30, np.random.default_rng(0))]
    end = seen[-1]
    assert end.shown.sum(axis=(1, 2)) == pytest.approx(2000)
    share = -np.expm1(-1 / 0.3)
    rates = end.coming.sum(axis=0) / end.shown.sum(axis=(0, 2))
    assert rates == pytest.approx(np.array(delay.RATES) * share, rel=0.05)
    # By delay: the bins of cohorts whose window is over hold the whole distribution.
    old = end.clicked[:, :, :40].sum(axis=(0, 1, 2))
    expected = np.diff(-np.expm1(-np.arange(17) / 16 / 0.3)) / share
    assert old / old.sum() == pytest.approx(expected, abs=0.02)
    for now in seen:
        # A cohort that begins at b shows no delay bin that begins after now − b.
        age = now.now - np.arange(64) / 16
        early = np.arange(16) / 16 > age[:, None]
        assert now.clicked[:, :, early].sum() == 0
        assert (now.clicked.sum(axis=(2, 3)) <= now.coming).all()


# ------------------------------------------------------------------ policies and logs


def test_shares_are_those_of_a_decision_on_the_same_evidence() -> None:
    rng = np.random.default_rng(1)
    n = rng.multinomial(900, [0.34, 0.33, 0.33], 40)
    c = rng.binomial(n, [0.3, 0.35, 0.38])
    found = shares(Policy(), moments(n, n, c), (n * 1.0, c * 1.0))
    percent = next_percent(Policy(), found, np.ones(40, dtype=bool), start(40, 3))
    names = ("a", "b", "c")
    for run in range(40):
        cells = tuple(
            StatsCell(
                experiment="e", variant=name, allocation="a=34,b=33,c=33",
                statistics=CellStatistics(
                    int(n[run, i]), int(n[run, i]), int(n[run, i]),
                    {"click": OutcomeStatistics(*(int(c[run, i]) for _ in range(3)))},
                ),
            )
            for i, name in enumerate(names)
        )  # fmt: skip
        experiment = Experiment(name="e", variants=tuple(Variant(name=name) for name in names), unit="slate")
        made = decide(experiment, Snapshot(cells, {}, 0))
        assert [made.allocation[name] for name in names] == percent[run].tolist()


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_finds_the_better_variant_or_stays(name: Name) -> None:
    looks = list(watch(replace(SLATE, rates=(0.5, 0.8), policy=Policy(name)), 20, np.random.default_rng(0)))
    assert (looks[0].percent == 50).all()
    assert all((look.percent.sum(axis=1) == 100).all() for look in looks)
    if name in ("fixed", "top-two"):  # of two variants, the top two share equally
        assert (looks[-1].percent == 50).all()
    else:
        assert looks[-1].slates[:, 1].mean() > 7000 and (looks[-1].percent >= 5).all()


def test_traffic_stays_equal_until_every_variant_has_enough_and_then_moves_to_the_best() -> None:
    looks = list(watch(replace(SLATE, rates=(0.6, 0.8), policy=Policy()), 20, np.random.default_rng(0)))
    assert (looks[0].percent == 50).all()
    assert (looks[-1].percent[:, 1] == 95).all()
    few = replace(SLATE, rates=(0.6, 0.8), policy=Policy(), slates=50, looks=5)
    assert all((look.percent == 50).all() for look in watch(few, 20, np.random.default_rng(0)))


def test_a_memory_that_forgets_gives_the_recent_rate() -> None:
    policy = Policy(half_life=2)
    forgets, keeps, slides = Memory(policy, 1), Memory(Policy(), 1), Memory(Policy(window=4), 1)
    zero = np.zeros((1, 1))
    for look in range(20):
        # 100 impressions a look; clicked never, and in the last ten looks always.
        n, c = np.full((1, 1), 100.0 * (look + 1)), np.full((1, 1), 100.0 * max(look - 9, 0))
        raw = Moments(n, n, c, n, c, zero)
        found = [memory.at(look, raw) for memory in (forgets, keeps, slides)]
    old, whole, window = ((c / n).item() for n, c in found)
    # ∫ 2^(−age/2) over the last 10 of 20 looks.
    assert old == pytest.approx((1 - 2**-5) / (1 - 2**-10), rel=0.01)
    assert whole == 0.5 and window == 1.0
    assert found[2][0].item() == pytest.approx(400)


def test_the_concentration_of_users_is_found_again() -> None:
    rng = np.random.default_rng(2)
    user = rng.permutation(np.repeat(np.arange(800), rng.integers(1, 40, 800)))
    for planted in (3.0, 12.0):
        own = rng.beta(0.6 * planted, 0.4 * planted, 800)
        shown = np.full((len(user), 1), 3)
        log = Log("test", user, ("a",), rng.binomial(shown, own[user][:, None]), shown)
        assert log.concentration == pytest.approx(planted, rel=0.15)


def test_without_data_the_activity_is_a_fit_and_says_so() -> None:
    log = fitted_log()
    per = np.bincount(log.user)
    assert "SYNTHETIC" in log.name and log.users == len(per) == 610 and log.concentration == CONCENTRATION
    assert np.log(per).mean() == pytest.approx(2.165, abs=0.15)
    assert np.log(per).std() == pytest.approx(1.053, abs=0.1)
    assert (fitted_log().user == log.user).all()


# ------------------------------------------------------------------ closed forms


def test_an_interval_of_a_share_is_that_of_clopper_and_pearson() -> None:
    assert interval(3, 100) == pytest.approx(
        (beta_distribution.ppf(0.025, 3, 98), beta_distribution.ppf(0.975, 4, 97)), abs=1e-6
    )
    assert interval(0, 100)[0] == 0 and interval(100, 100)[1] == 1 and interval(0, 0) == (0, 1)


def test_one_look_of_a_z_test_errs_as_often_as_it_says() -> None:
    found = simulate(aa.calls, {"slate": replace(SLATE, looks=1)}, 2000, seed=1)["slate"]["called_naive"]
    assert at_least(0.05, 2000) <= (found < 1).mean() <= at_most(0.05, 2000)


def test_the_regret_of_an_equal_split_is_what_it_must_be() -> None:
    setting = Setting(unit="slate", rates=(0.72, 0.78), policy=FIXED)
    found = simulate(bandit.regret, {"fixed": setting}, 300, seed=1)["fixed"]
    assert found["equal"][:, -1] == pytest.approx(3 * 10_000 * 0.03)
    spread = 3 * 0.06 * np.sqrt(10_000 / 4 / 300)
    assert found["regret"][:, -1].mean() == pytest.approx(900, abs=4 * spread)


def test_recorded_regret_of_the_best_variant_alone_is_none() -> None:
    log = recorded()
    best = int(log.clicks.sum(axis=0).argmax())
    setting = Setting(unit="slate", recorded=(best,), log=log, looks=5)
    found = simulate(bandit.regret, {"best": setting}, 3, seed=1)["best"]
    assert (found["regret"] == 0).all() and (found["equal"] == 0).all()


# ------------------------------------------------------------------ the targets, with few runs


@pytest.fixture(scope="module")
def log() -> Log:
    return fitted_log()


def test_peeking_the_default_rule_rarely_errs_and_still_speaks(log: Log) -> None:
    runs = 200
    same = aa.settings(log, 50, 0.05)
    found = simulate(aa.calls, same, runs, seed=7)
    planted = simulate(aa.calls, {name: aa.planted(it) for name, it in same.items()}, runs, seed=8)
    figures = aa.report(same, found, planted).figures
    for name, row in figures["settings"].items():
        assert row["false_positive_rate"] <= at_most(0.035, runs), name
        assert row["false_positive_rate_naive"] >= at_least(0.25, runs), name
        assert row["spoke"] >= 0.8, name
    assert figures["settings"]["slate"]["power"] >= 0.99
    assert figures["settings"]["600 users"]["power"] >= 0.8


def test_intervals_hold_the_truth_at_all_times_under_thompson(log: Log) -> None:
    runs = 300
    settings = coverage.settings(log, 50, 0.05)
    figures = coverage.report(settings, simulate(coverage.misses, settings, runs, seed=7), {}).figures
    for name, row in figures["settings"].items():
        spoke = round(runs * row["spoke"])
        assert row["coverage"] >= at_least(0.95, spoke), name
        assert row["coverage_naive"] < 0.8, name
        assert row["spoke"] >= 0.8, name


def test_posterior_intervals_hold_the_true_rate_where_users_resemble_themselves() -> None:
    found = simulate(coverage.posterior, coverage.POSTERIOR_USERS, 400, seed=1)
    for name, held in found.items():
        assert held["clustered"].mean() >= at_least(0.95, 400), name
        assert held["independent"].mean() < 0.85, name  # a plain Beta posterior of the same clicks


def test_the_bandit_loses_less_than_half_of_what_an_equal_split_loses(log: Log) -> None:
    settings = bandit.settings(log, 50, 0.05)
    figures = bandit.report(settings, simulate(bandit.regret, settings, 50, seed=7), {}, {}).figures
    assert figures["below_fixed_split"] >= 0.8
    low, high = figures["regret_interval"]
    assert low < figures["regret"] < high < 0.5 * figures["regret_fixed_split"] == 450
    # Every allocation splits the counts into further cells.
    assert figures["settings"]["slate, thompson"]["allocations"] <= 12


@pytest.mark.slow
def test_without_a_floor_it_loses_what_an_established_library_loses() -> None:
    pytest.importorskip("mabwiser")  # 2.7: Thompson sampling, Beta(1, 1), a draw for every slate
    settings = bandit.library_settings(50)
    own = simulate(bandit.regret, settings, 1000, seed=1)["no floor"]["regret"][:, -1]
    theirs = simulate(bandit.library_regret, settings, 250, seed=2)["no floor"]["regret"]
    error = np.hypot(own.std() / np.sqrt(1000), 1.1 * theirs.std() / np.sqrt(250))
    assert own.mean() <= 1.1 * theirs.mean() + 3 * error


def test_immature_impressions_no_longer_bias_the_rate() -> None:
    settings = delay.settings(50)
    figures = delay.report(settings, simulate(delay.errors, settings, 60, seed=7)).figures
    for name, row in figures["settings"].items():
        # At its worst look; what chance may add is left out.
        assert abs(row["bias"]) - 1.5 * row["bias_error"] <= 0.1 * abs(row["bias_failures"]), name
        assert row["bias_failures"] < -0.005
        assert row["immature_before"] == 1 and row["immature_after"] == 0
        assert row["covered"] >= 0.9


def test_after_a_drift_only_a_bandit_that_forgets_follows() -> None:
    settings = drift.settings(50, half_life=5, window=10)
    figures = drift.report(settings, simulate(drift.follow, settings, 60, seed=7)).figures
    assert figures["recovered"] >= at_least(0.95, 60)
    assert figures["recovered_plain"] <= at_most(0.5, 60)
    assert figures["settings"]["window 10"]["recovered"] >= at_least(0.95, 60)
    assert figures["regret"] < 0.6 * figures["regret_fixed_split"]
    assert figures["regret_plain"] > figures["regret_fixed_split"] == pytest.approx(450)
