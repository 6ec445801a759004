"""How often intervals hold the truth at every look of a run, while Thompson sampling moves the traffic.

Library: numpy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from analyzer.engine.bayes import credible_intervals
from analyzer.engine.evidence import design_effect
from analyzer.engine.moments import Floats, moments
from analyzer.engine.sequential import contrasts, rate_sequences
from analyzer.simulate.blocks import Result
from analyzer.simulate.log import Log
from analyzer.simulate.policies import Policy
from analyzer.simulate.report import Curve, Report, binomial
from analyzer.simulate.settings import Setting, watch

__all__ = ["POSTERIOR_USERS", "misses", "posterior", "report", "settings"]

_Z95 = 1.959963984540054
POSTERIOR_USERS = {f"{users:,} users": users for users in (15, 50, 200, 1000)}
"""Settings of `posterior`"""
_RATE, _CONCENTRATION, _MOST = 0.25, 8.0, 60


def settings(log: Log, looks: int, alpha: float) -> dict[str, Setting]:
    """Planted slates and users, then the outcomes of the log under its first and last variant."""
    slate = Setting(unit="slate", rates=(0.72, 0.78), looks=looks, alpha=alpha, policy=Policy())
    user = replace(slate, unit="user", log=log, concentration=log.concentration)
    found = {"slate": slate}
    for users in sorted({min(users, log.users) for users in (200, 600)}):
        found[f"{users} users"] = replace(user, users=users)
    if log.variants:
        recorded = replace(slate, rates=(), recorded=(0, len(log.variants) - 1), log=log)
        found["recorded slates"] = recorded
        found["recorded users"] = replace(recorded, unit="user")
    return found


def misses(setting: Setting, runs: int, rng: np.random.Generator) -> Result:
    """First look at which an interval is off the truth (`looks` when never), and at which the rule may speak.

    `spoke`, `difference`, `difference_naive` (runs,) and `spoke_rate`, `rate`, `rate_naive` (runs, k). Naive: 1.96
    standard errors of independent impressions, unweighted, at the same looks.
    """
    names = ("difference", "difference_naive", "spoke")
    first = {name: np.full(runs, setting.looks) for name in names}
    first |= {name: np.full((runs, setting.k), setting.looks) for name in ("rate", "rate_naive", "spoke_rate")}
    for look, now in enumerate(watch(setting, runs, rng)):
        truth = setting.truth_at(look)
        one = now.ready
        both = one.all(axis=1)
        n = np.where(now.totals.n > 0, now.totals.n, 1.0)
        mean = now.totals.c / n
        spread = mean * (1 - mean) / n
        rule = contrasts(now.weighted, 0, alpha=setting.alpha, tau=setting.tau)
        own = rate_sequences(now.weighted, alpha=setting.alpha, tau=setting.tau)
        off = truth[1] - truth[0]
        events = {
            "spoke": both,
            "difference": both & ((rule.low[:, 1] > off) | (rule.high[:, 1] < off)),
            "difference_naive": both & _far(mean[:, 1] - mean[:, 0] - off, spread[:, 0] + spread[:, 1]),
            "spoke_rate": one,
            "rate": one & ((own.low > truth) | (own.high < truth)),
            "rate_naive": one & _far(mean - truth, spread),
        }
        for name, happened in events.items():
            first[name][happened & (first[name] == setting.looks)] = look
    return first


def _far(difference: Floats, spread: Floats) -> np.ndarray:
    return np.asarray(np.abs(difference) > _Z95 * np.sqrt(spread))


def posterior(users: int, runs: int, rng: np.random.Generator) -> Result:
    """Whether the posterior's 95 % interval holds the true rate at one fixed time: `clustered`, `independent` (runs,).

    Users of 1 to 60 impressions (geometric) whose own rates are Beta(2, 6); independent: without the design effect.
    """
    n = np.minimum(rng.geometric(0.08, (runs, users)), _MOST)
    own = rng.beta(_RATE * _CONCENTRATION, (1 - _RATE) * _CONCENTRATION, n.shape)
    c = rng.binomial(n, own)
    arms = moments(np.full(runs, users), *(part.sum(axis=1) for part in (n, c, n * n, c * c, n * c)))
    held = {}
    for name, effect in (("clustered", design_effect(arms)), ("independent", 1.0)):
        ends = credible_intervals((1 + arms.c / effect)[:, None], (1 + (arms.n - arms.c) / effect)[:, None])[:, 0]
        held[name] = (ends[:, 0] <= _RATE) & (ends[:, 1] >= _RATE)
    return held


def report(settings: Mapping[str, Setting], found: Mapping[str, Result], fixed: Mapping[str, Result]) -> Report:
    """Per setting: coverage of the difference and of each variant's rate, among the runs that spoke.

    `fixed`: results of `posterior`, shown apart.
    """
    figures: dict[str, Any] = {}
    curves, rows = [], []
    for name, setting in settings.items():
        row: dict[str, Any] = {"unit": setting.unit}
        row["spoke"] = float((found[name]["spoke"] < setting.looks).mean())
        row["intervals"] = {}
        for interval, kind, place, gate in _intervals(setting):
            gate_look, miss, naive = (found[name][key] for key in (gate, kind, f"{kind}_naive"))
            if place is not None:
                gate_look, miss, naive = gate_look[:, place], miss[:, place], naive[:, place]
            spoke = gate_look < setting.looks
            held, naive_held = binomial(miss[spoke] == setting.looks), binomial(naive[spoke] == setting.looks)
            row["intervals"][interval] = {
                "coverage": held[0], "coverage_interval": held[1],
                "coverage_naive": naive_held[0], "coverage_naive_interval": naive_held[1],
                "spoke": float(spoke.mean()),
            }  # fmt: skip
            for series, first in (("confidence sequence", miss), ("naive", naive)):
                by_look = (first[spoke][:, None] > np.arange(setting.looks)).mean(axis=0) if spoke.any() else np.nan
                curves.append(Curve(f"{name}: {interval}", series, np.broadcast_to(by_look, (setting.looks,))))
            rows.append((
                name, interval, _percent(held[0]), "–".join(f"{100 * end:.1f}" for end in held[1]),
                _percent(naive_held[0]), _percent(float(spoke.mean())),
            ))  # fmt: skip
        for key in ("coverage", "coverage_naive"):
            row[key] = min((each[key] for each in row["intervals"].values() if each[key] is not None), default=None)
        figures[name] = row
    worst = {
        key: min((row[key] for row in figures.values() if row[key] is not None), default=None)
        for key in ("coverage", "coverage_naive", "spoke")
    }
    at_once = {}
    for name, result in fixed.items():
        clustered, independent = binomial(result["clustered"]), binomial(result["independent"])
        at_once[name] = {
            "coverage": clustered[0], "coverage_interval": clustered[1], "coverage_independent": independent[0],
        }  # fmt: skip
        ends = "–".join(f"{100 * end:.1f}" for end in clustered[1])
        rows.append((f"{name}, one look", "posterior", _percent(clustered[0]), ends, _percent(independent[0]), "–"))
    header = ("setting", "interval of", "coverage", "95 %", "naive", "spoke")
    figures_of_all = worst | {"settings": figures, "posterior": at_once}
    return Report(figures_of_all, header, rows, curves, "share of runs still covered")


def _intervals(setting: Setting) -> list[tuple[str, str, int | None, str]]:
    """(name, key of `misses`, variant, key of when it may speak)"""
    rates = [(f"rate of {'control' if i == 0 else 'variant'}", "rate", i, "spoke_rate") for i in range(setting.k)]
    return [("difference", "difference", None, "spoke"), *rates]


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"
