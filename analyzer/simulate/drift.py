"""What a bandit loses when the best variant changes halfway, and whether its traffic follows. Library: numpy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from analyzer.simulate.blocks import Result
from analyzer.simulate.policies import Policy
from analyzer.simulate.report import Curve, Report, binomial, mean_interval
from analyzer.simulate.settings import Setting, watch

__all__ = ["RECOVERED", "follow", "report", "settings"]

RATES = (0.72, 0.78)
RECOVERED = 0.8
"""Share of the traffic that the new best variant must have at the last look"""


def settings(looks: int, half_life: float, window: int) -> dict[str, Setting]:
    """Slates whose two rates change places halfway, under policies that remember all, or less."""
    policies = {
        "plain": Policy(),
        f"half-life {half_life:g}": Policy(half_life=half_life),
        f"window {window}": Policy(window=window),
        "fixed": Policy("fixed"),
    }
    return {
        name: Setting(unit="slate", rates=RATES, rates_after=RATES[::-1], looks=looks, policy=policy)
        for name, policy in policies.items()
    }


def follow(setting: Setting, runs: int, rng: np.random.Generator) -> Result:
    """Expected clicks given away, and by an equal split, of each step (runs, looks); share of the new best variant."""
    lost, equal, share = [], [], []
    before = np.zeros((runs, setting.k))
    new = int(np.argmax(setting.rates_after))
    for look, now in enumerate(watch(setting, runs, rng)):
        rates = setting.truth_at(look)
        shown = now.totals.n - before
        before = now.totals.n
        lost.append(shown @ (rates.max() - rates))
        equal.append(shown.sum(axis=1) * (rates.max() - rates.mean()))
        share.append(now.percent[:, new] / 100)
    return {"lost": np.stack(lost, 1), "equal": np.stack(equal, 1), "share": np.stack(share, 1)}


def report(settings: Mapping[str, Setting], found: Mapping[str, Result]) -> Report:
    """Regret before and after the change, and how often the traffic has followed by the last look."""
    figures: dict[str, Any] = {}
    curves, rows = [], []
    for name, setting in settings.items():
        lost, equal, share = (found[name][key] for key in ("lost", "equal", "share"))
        half = -(-setting.looks // 2)
        row: dict[str, Any] = {}
        row["regret"], row["regret_interval"] = mean_interval(lost.sum(axis=1))
        row["regret_fixed_split"] = round(float(equal.sum(axis=1).mean()), 6)
        row["regret_before"] = round(float(lost[:, :half].sum(axis=1).mean()), 6)
        row["regret_after"], row["regret_after_interval"] = mean_interval(lost[:, half:].sum(axis=1))
        row["regret_after_fixed_split"] = round(float(equal[:, half:].sum(axis=1).mean()), 6)
        row["recovered"], row["recovered_interval"] = binomial(share[:, -1] >= RECOVERED)
        there = share[:, half:].mean(axis=0) >= RECOVERED
        row["looks_to_recover"] = int(there.argmax()) if there.any() else None
        figures[name] = row
        curves.append(Curve("traffic of the variant that becomes the best", name, share.mean(axis=0)))
        rows.append((
            name, f"{row['regret_before']:.1f}", f"{row['regret_after']:.1f}",
            "–".join(f"{end:.1f}" for end in row["regret_after_interval"]), f"{row['regret_after_fixed_split']:.1f}",
            f"{100 * row['recovered']:.1f} %", "–" if row["looks_to_recover"] is None else str(row["looks_to_recover"]),
        ))  # fmt: skip
    header = ("policy", "regret before", "after", "95 %", "equal split", "recovered", "looks until")
    discounted = next(row for name, row in figures.items() if name.startswith("half-life"))
    top = {
        "regret": discounted["regret_after"], "regret_plain": figures["plain"]["regret_after"],
        "regret_fixed_split": discounted["regret_after_fixed_split"],
        "recovered": discounted["recovered"], "recovered_plain": figures["plain"]["recovered"],
    }  # fmt: skip
    return Report(top | {"settings": figures}, header, rows, curves, "share of traffic")
