"""How often a rule calls a difference that is not there, when somebody looks all the time. Libraries: numpy, scipy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from analyzer.engine.moments import Floats
from analyzer.engine.sequential import contrasts
from analyzer.simulate.blocks import Result
from analyzer.simulate.log import Log
from analyzer.simulate.policies import Policy
from analyzer.simulate.report import Curve, Report, binomial
from analyzer.simulate.settings import Look, Setting, watch

__all__ = ["BASE", "DIFFERENCE", "calls", "planted", "report", "settings"]

BASE = 0.72
"""Planted rate of both variants"""
DIFFERENCE = 0.10
"""Planted beside it, to see whether the rule can speak; half of the rate where that is less"""
_LOW_RATE = 0.02
_VALUE_RATE, _SIGMA = 0.30, 1.5


def settings(log: Log, looks: int, alpha: float) -> dict[str, Setting]:
    """The A/A settings: units × traffic, then one with heavy-tailed values, then the log's own outcomes."""
    slate = Setting(unit="slate", rates=(BASE, BASE), looks=looks, alpha=alpha)
    user = replace(slate, unit="user", log=log, concentration=log.concentration)
    # τ is the planned effect: five points of buyers, who buy for 1 on average.
    values = replace(slate, rates=(_VALUE_RATE, _VALUE_RATE), sigma=_SIGMA, tau=0.05)
    low = replace(slate, rates=(_LOW_RATE, _LOW_RATE), slates=2 * slate.slates)
    found = {"slate": slate, "slate, thompson": replace(slate, policy=Policy())}
    found |= {"slate, rate 2 %": low, "slate, rate 2 %, thompson": replace(low, policy=Policy())}
    for users in sorted({min(users, log.users) for users in (200, 600)}):
        found[f"{users} users"] = replace(user, users=users)
        found[f"{users} users, thompson"] = replace(user, users=users, policy=Policy())
    found["heavy-tailed values"] = values
    found["heavy-tailed values, thompson"] = replace(values, policy=Policy())
    if log.variants:
        same = replace(slate, rates=(), recorded=(0, 0), log=log)
        found["recorded slates"] = same
        found["recorded users"] = replace(same, unit="user")
    return found


def planted(setting: Setting) -> Setting:
    """The same experiment with a difference: planted, or of recorded outcomes that to the log's last variant."""
    if setting.recorded:
        assert setting.log is not None
        return replace(setting, recorded=(0, len(setting.log.variants) - 1))
    first, second = setting.rates
    return replace(setting, rates=(first, second + min(DIFFERENCE, second / 2)))


def calls(setting: Setting, runs: int, rng: np.random.Generator) -> Result:
    """First look at which … (`looks` when never), (runs,) each: `called`, `called_naive`, and `spoke` (the gate)."""
    never, critical = setting.looks, ndtri(1 - setting.alpha / 2)
    first = {name: np.full(runs, never) for name in ("called", "called_naive", "spoke")}
    for look, now in enumerate(watch(setting, runs, rng)):
        spoke = now.ready.all(axis=1)
        rule = contrasts(now.weighted, 0, alpha=setting.alpha, tau=setting.tau, values=setting.values)
        events = {
            "spoke": spoke,
            "called": spoke & (rule.p[:, 1] <= setting.alpha),
            "called_naive": enough(now) & (np.abs(naive_z(now, setting.values)) > critical),
        }
        for name, happened in events.items():
            first[name][happened & (first[name] == never)] = look
    return first


def enough(now: Look) -> NDArray[np.bool_]:
    """The textbook's condition for a z test: ten outcomes and ten impressions without, of every variant. (runs,)"""
    return np.asarray((np.minimum(now.outcomes, now.totals.n - now.outcomes) >= 10).all(axis=1))


def naive_z(now: Look, values: bool) -> Floats:
    """Of the difference, as if impressions were independent and this look the only one; 0 where undefined. (runs,)"""
    n = np.where(now.totals.n > 0, now.totals.n, 1.0)
    mean = now.totals.c / n
    if values:
        # One impression a unit, so Σc² is that of the impressions.
        variance = (np.maximum(now.totals.cc / n - mean * mean, 0.0) / n).sum(axis=1)
    else:
        pooled = now.totals.c.sum(axis=1) / n.sum(axis=1)
        variance = pooled * (1 - pooled) * (1 / n).sum(axis=1)
    some = variance > 0
    return np.where(some, (mean[:, 1] - mean[:, 0]) / np.sqrt(np.where(some, variance, 1.0)), 0.0)


def report(same: Mapping[str, Setting], found: Mapping[str, Result], power: Mapping[str, Result]) -> Report:
    """`found`: `calls` of the A/A settings `same`; `power`: those of the planted ones."""
    figures: dict[str, Any] = {}
    curves, rows = [], []
    for name, setting in same.items():
        called, naive, spoke = (found[name][key] < setting.looks for key in ("called", "called_naive", "spoke"))
        right = power[name]["called"] < setting.looks
        truth = planted(setting).truth_at(setting.looks - 1)
        row: dict[str, Any] = {"unit": setting.unit, "policy": setting.policy.name}
        for key, happened in (("false_positive_rate", called), ("false_positive_rate_naive", naive), ("power", right)):
            row[key], row[key.replace("_rate", "") + "_interval"] = binomial(happened)
        row |= {"difference": round(float(truth[1] - truth[0]), 6), "spoke": float(spoke.mean())}
        row["spoke_with_difference"] = float((power[name]["spoke"] < setting.looks).mean())
        figures[name] = row
        curves += [
            Curve(name, series, cumulative(result[key], setting.looks))
            for series, result, key in (
                ("default rule", found[name], "called"),
                ("z test", found[name], "called_naive"),
                ("power", power[name], "called"),
            )
        ]
        low, high = row["false_positive_interval"]
        rows.append((
            name, f"{100 * row['false_positive_rate']:.2f} %", f"{100 * low:.2f}–{100 * high:.2f}",
            f"{100 * row['false_positive_rate_naive']:.1f} %", f"{100 * row['spoke']:.1f} %",
            f"{100 * row['power']:.1f} %",
        ))  # fmt: skip
    worst = {
        "false_positive_rate": max(row["false_positive_rate"] for row in figures.values()),
        "false_positive_rate_naive": min(row["false_positive_rate_naive"] for row in figures.values()),
        "power": min(row["power"] for row in figures.values()),
        "spoke": min(row["spoke"] for row in figures.values()),
    }
    header = ("setting", "false +", "95 %", "z test", "spoke", "power")
    return Report(worst | {"settings": figures}, header, rows, curves, "share of runs")


def cumulative(first: NDArray[np.int64], looks: int) -> Floats:
    """(runs,) first looks → (looks,) share of runs in which it has happened by then."""
    return np.asarray((first[:, None] <= np.arange(looks)).mean(axis=0))
