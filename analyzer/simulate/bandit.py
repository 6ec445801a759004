"""Clicks that a policy gives away against always the best variant. Library: numpy; MABWiser where asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from importlib.metadata import version
from typing import Any

import numpy as np

from analyzer.simulate.blocks import Result
from analyzer.simulate.log import Ints, Log
from analyzer.simulate.policies import POLICIES, Policy
from analyzer.simulate.report import Curve, Report, mean_interval
from analyzer.simulate.settings import Setting, watch
from analyzer.simulate.streams import TOP_K, steps
from sluice.errors import ConfigError

__all__ = ["library_regret", "library_settings", "regret", "report", "settings"]


def settings(log: Log, looks: int, floor: float) -> dict[str, Setting]:
    """Every policy on planted slates; Thompson on planted users and on the log's own outcomes."""
    slate = Setting(unit="slate", rates=(0.72, 0.78), looks=looks)
    found = {f"slate, {name}": replace(slate, policy=Policy(name, floor=floor)) for name in POLICIES}
    user = replace(slate, unit="user", log=log, concentration=log.concentration)
    for users in sorted({min(users, log.users) for users in (200, 600)}):
        found[f"{users} users, thompson"] = replace(user, users=users, policy=Policy(floor=floor))
    if log.variants:
        recorded = replace(slate, rates=(), recorded=tuple(range(len(log.variants))), log=log)
        for name in POLICIES:
            found[f"recorded slates, {name}"] = replace(recorded, policy=Policy(name, floor=floor))
        found["recorded users, thompson"] = replace(recorded, unit="user", policy=Policy(floor=floor))
    return found


def regret(setting: Setting, runs: int, rng: np.random.Generator) -> Result:
    """Clicks given away up to each look, and by an equal split of the same slates: `regret`, `equal` (runs, looks).

    Planted: expected clicks of what was served. Recorded: clicks of the variant that is best over the whole log, had
    it ranked every slate, minus those of what was served. `allocations` (runs,): how many different ones there were.
    """
    if setting.recorded:
        clicks, _ = setting.outcomes()
        best = clicks.sum(axis=0).argmax()
        upto = np.cumsum(steps(len(clicks), setting.looks))
        earned = np.concatenate([np.zeros((1, setting.k)), np.cumsum(clicks, axis=0)])[upto]
        lost_by_look = earned[:, best] - earned.mean(axis=1)
    rates = np.array(setting.rates)
    lost, equal, share = [], [], []
    for look, now in enumerate(watch(setting, runs, rng)):
        if setting.recorded:
            lost.append(earned[look, best] - now.totals.c.sum(axis=1))
            equal.append(np.full(runs, lost_by_look[look]))
        else:
            lost.append(now.totals.n @ (rates.max() - rates))
            equal.append(now.totals.n.sum(axis=1) * (rates.max() - rates.mean()))
        share.append(now.percent)
    return {"regret": np.stack(lost, 1), "equal": np.stack(equal, 1), "allocations": distinct(np.stack(share, 1))}


def distinct(percent: Ints) -> Ints:
    """(runs, looks, k) → (runs,) number of different allocations: into so many cells the counts of a variant split."""
    return np.array([len(np.unique(run, axis=0)) for run in percent])


def library_settings(looks: int) -> dict[str, Setting]:
    """What the library is compared with: no floor, nothing reserved, every change made, after the same batches."""
    policy = Policy(floor=0.0, min_change=1)
    return {"no floor": Setting(unit="slate", rates=(0.72, 0.78), looks=looks, policy=policy)}


def library_regret(setting: Setting, runs: int, rng: np.random.Generator) -> Result:
    """MABWiser's Thompson sampling on planted slates: expected clicks given away, `regret` (runs,).

    It draws a variant for every slate and learns from all impressions of a batch. Raises ConfigError when it is not
    installed.
    """
    try:
        mab = import_module("mabwiser.mab")
    except ImportError as error:
        raise ConfigError("--library: MABWiser is not installed: pip install mabwiser") from error
    rates = np.array(setting.rates)
    lost = np.zeros(runs)
    for run in range(runs):
        bandit = mab.MAB(list(range(setting.k)), mab.LearningPolicy.ThompsonSampling(), seed=int(rng.integers(2**31)))
        learn = bandit.fit
        for size in steps(setting.slates, setting.looks).tolist():
            # Without data the library refuses to predict; its prior is Beta(1, 1) for all.
            first = learn == bandit.fit
            chosen = rng.integers(setting.k, size=size) if first else _draws(bandit, size)
            lost[run] += TOP_K * (rates.max() - rates[chosen]).sum()
            arm = np.repeat(chosen, TOP_K)
            learn(arm, (rng.random(len(arm)) < rates[arm]).astype(np.int64))
            learn = bandit.partial_fit
    return {"regret": lost}


def _draws(bandit: object, size: int) -> np.ndarray:
    return np.array(bandit.predict(np.zeros((size, 1))))  # type: ignore[attr-defined]


def report(
    settings: Mapping[str, Setting],
    found: Mapping[str, Result],
    own: Mapping[str, Result],
    theirs: Mapping[str, Result],
) -> Report:
    """`own` and `theirs`: this engine and the library without a floor, empty when not compared."""
    figures: dict[str, Any] = {}
    curves, rows = [], []
    for name, setting in settings.items():
        lost, equal = found[name]["regret"], found[name]["equal"]
        row: dict[str, Any] = {"unit": setting.unit, "policy": setting.policy.name}
        row["regret"], row["regret_interval"] = mean_interval(lost[:, -1])
        row["regret_fixed_split"] = round(float(equal[:, -1].mean()), 6)
        row["below_fixed_split"] = round(1 - row["regret"] / row["regret_fixed_split"], 6)
        low, high = np.quantile(1 - lost[:, -1] / equal[:, -1].mean(), [0.05, 0.95])
        row["below_fixed_split_90"] = [round(float(low), 6), round(float(high), 6)]
        row["allocations"] = round(float(found[name]["allocations"].mean()), 3)
        figures[name] = row
        curves += [Curve(name, setting.policy.name, lost.mean(axis=0)), Curve(name, "equal split", equal.mean(axis=0))]
        rows.append((
            name, f"{row['regret']:.1f} ± {row['regret_interval'][1] - row['regret']:.1f}",
            f"{row['regret_fixed_split']:.1f}", f"{100 * row['below_fixed_split']:.1f} %",
            f"{100 * low:.0f}–{100 * high:.0f} %",
        ))  # fmt: skip
    first = next(iter(figures.values()))
    top = {key: first[key] for key in ("regret", "regret_interval", "regret_fixed_split", "below_fixed_split")}
    notes: tuple[str, ...] = ()
    if theirs:
        top["library"] = _against_library(own, theirs)
        notes = (
            "No floor: {regret:.2f} against {regret_library:.2f} of {name} {version}, ratio {ratio:.3f}".format(
                **top["library"]
            ),
        )
    header = ("setting", "regret", "equal split", "below it", "90 % of runs")
    return Report(top | {"settings": figures}, header, rows, curves, "clicks given away", notes)


def _against_library(own: Mapping[str, Result], theirs: Mapping[str, Result]) -> dict[str, Any]:
    mine, library = (next(iter(results.values()))["regret"] for results in (own, theirs))
    (regret, interval), (other, other_interval) = mean_interval(mine[:, -1]), mean_interval(library)
    return {
        "name": "MABWiser", "version": version("mabwiser"), "regret": regret, "regret_interval": interval,
        "regret_library": other, "regret_library_interval": other_interval, "ratio": round(regret / other, 6),
    }  # fmt: skip
