"""How far off a rate is while clicks are still to come: estimates look by look against what the clicks come to.

Time is in attribution windows. Impressions are grouped into cohorts by their time and clicks into bins by their delay,
a sixteenth of the window each, as the stream keeps them. Libraries: numpy, scipy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy.special import ndtr

from analyzer.engine.bayes import credible_intervals
from analyzer.engine.delay import DelayAware, delay_aware
from analyzer.engine.moments import Floats
from analyzer.simulate.blocks import Result
from analyzer.simulate.report import Curve, Report

__all__ = ["DelaySetting", "Seen", "arrive", "errors", "report", "settings"]

BINS = 16
"""Of the window"""
WINDOWS = 4.0
"""Length of the test, in windows"""
RATES = (0.10, 0.12)
"""Of impressions that are clicked ever, the window or not"""


@dataclass(frozen=True, kw_only=True)
class DelaySetting:
    """Delays: exponential of this mean, or lognormal of this median and sigma; in windows."""

    kind: Literal["exponential", "lognormal"]
    scale: float
    sigma: float = 1.0
    looks: int = 50
    impressions: int = 20_000
    growth: float = 1.0
    """Traffic at the end over traffic at the start"""


class Seen(NamedTuple):
    """What is counted at a look; cohorts that have not begun are empty."""

    now: float
    shown: Floats
    """(runs, k, cohorts)"""
    clicked: Floats
    """(runs, k, cohorts, bins), clicks until now"""
    coming: Floats
    """(runs, k): clicks within the window of all impressions shown until now, those to come as well"""


def settings(looks: int) -> dict[str, DelaySetting]:
    """Delays of which the window holds nearly all, less, and with a heavy tail; then traffic that grows threefold."""
    return {
        "exponential, mean 1/4 window": DelaySetting(kind="exponential", scale=0.25, looks=looks),
        "exponential, mean 1/2 window": DelaySetting(kind="exponential", scale=0.5, looks=looks),
        "lognormal, median 1/5 window": DelaySetting(kind="lognormal", scale=0.2, looks=looks),
        "lognormal, growing traffic": DelaySetting(kind="lognormal", scale=0.2, looks=looks, growth=3.0),
    }


def arrive(setting: DelaySetting, runs: int, rng: np.random.Generator) -> Iterator[Seen]:
    """The looks of `runs` runs; impressions come one after the other and go to two variants at random."""
    k, cohorts = len(RATES), round(WINDOWS * BINS)
    at = _times(setting)
    arm = rng.integers(k, size=(runs, len(at)))
    run, place = np.nonzero(rng.random(arm.shape) < np.array(RATES)[arm])
    delay = _delays(setting, len(run), rng)
    kept = delay <= 1.0
    run, place, delay = run[kept], place[kept], delay[kept]
    cell = (run * k + arm[run, place]) * cohorts + np.minimum(at[place] * BINS, cohorts - 1).astype(np.int64)
    click = cell * BINS + np.minimum(delay * BINS, BINS - 1).astype(np.int64)
    shown, clicked = np.zeros(runs * k * cohorts), np.zeros(runs * k * cohorts * BINS)
    coming = np.zeros(runs * k)
    ends = WINDOWS * np.arange(1, setting.looks + 1) / setting.looks
    seen_at, shown_at = np.searchsorted(ends, at[place] + delay), np.searchsorted(ends, at)
    rows = np.repeat(np.arange(runs), len(at)).reshape(runs, -1)
    cohort = np.minimum(at * BINS, cohorts - 1).astype(np.int64)
    for look, now in enumerate(ends.tolist()):
        fresh = shown_at == look
        new = (rows[:, fresh] * k + arm[:, fresh]) * cohorts + cohort[fresh]
        shown += np.bincount(new.ravel(), minlength=len(shown))
        clicked += np.bincount(click[seen_at == look], minlength=len(clicked))
        coming += np.bincount(cell[shown_at[place] == look] // cohorts, minlength=len(coming))
        yield Seen(
            now, shown.reshape(runs, k, cohorts), clicked.reshape(runs, k, cohorts, BINS), coming.reshape(runs, k)
        )


def errors(setting: DelaySetting, runs: int, rng: np.random.Generator) -> Result:
    """Estimates minus what the clicks of the same impressions come to within the window, mean of the variants.

    `aware`, `failures` (immature impressions count as failures), `immature` and `covered`, (runs, looks) each. Covered:
    the posterior's central 95 % holds the rate that was planted, for the first variant.
    """
    aware, failures, immature, covered = [], [], [], []
    for seen in arrive(setting, runs, rng):
        shown, clicked = seen.shown.sum(axis=-1), seen.clicked.sum(axis=(-2, -1))
        found = _estimate(seen, shown, clicked)
        final = seen.coming / shown
        effective = np.where(found.impressions > 0, found.impressions, 1.0)
        aware.append((clicked / effective - final).mean(axis=-1))
        failures.append((clicked / shown - final).mean(axis=-1))
        immature.append(found.immature)
        alpha, beta = 1 + clicked / found.inflation, 1 + (effective - clicked) / found.inflation
        interval = credible_intervals(alpha, np.maximum(beta, 1.0))[:, 0]
        truth = RATES[0] * _within_window(setting)
        covered.append((interval[:, 0] <= truth) & (truth <= interval[:, 1]))
    return {
        "aware": np.stack(aware, 1), "failures": np.stack(failures, 1), "immature": np.stack(immature, 1),
        "covered": np.stack(covered, 1),
    }  # fmt: skip


def _estimate(seen: Seen, shown: Floats, clicked: Floats) -> DelayAware:
    """From the cohorts that the stream still has: open ones, and those that were until a window ago."""
    first = max(0, int((seen.now - 2.0) * BINS))
    stop = min(seen.shown.shape[-1], int(np.ceil(seen.now * BINS)))
    begin = np.arange(first, stop) / BINS
    kept = slice(first, stop)
    return delay_aware(
        shown, clicked, seen.shown[..., kept], seen.clicked[..., kept, :], seen.now - begin - 1 / BINS,
        seen.now - begin, 1.0,
    )  # fmt: skip


def report(settings: Mapping[str, DelaySetting], found: Mapping[str, Result]) -> Report:
    """Bias at the looks after the oldest impression is older than the window; before, whether it says `immature`."""
    figures: dict[str, Any] = {}
    curves, rows = [], []
    for name, setting in settings.items():
        result = found[name]
        ends = WINDOWS * np.arange(1, setting.looks + 1) / setting.looks
        # The first impression comes a moment after 0.
        mature = ends - _times(setting)[0] >= 1.0
        bias, naive = (result[key].mean(axis=0) for key in ("aware", "failures"))
        error = 1.959964 * result["aware"].std(axis=0) / np.sqrt(len(result["aware"]))
        ratio = np.where(mature, np.abs(bias) / np.abs(naive), 0.0)
        worst = int(ratio.argmax())
        figures[name] = {
            "bias": _number(bias[worst]), "bias_error": _number(error[worst]), "bias_failures": _number(naive[worst]),
            "bias_ratio": _number(ratio[worst]), "worst_look": worst + 1, "mature_from_look": int(mature.argmax()) + 1,
            "immature_before": float(result["immature"][:, ~mature].mean()) if (~mature).any() else None,
            "immature_after": float(result["immature"][:, mature].mean()),
            "covered": float(result["covered"][:, mature].mean()),
        }  # fmt: skip
        curves += [Curve(name, "delay-aware", bias), Curve(name, "immature as failures", naive)]
        row = figures[name]
        rows.append((
            name, f"{100 * row['bias']:+.4f}", f"±{100 * row['bias_error']:.4f}", f"{100 * row['bias_failures']:+.3f}",
            f"{row['bias_ratio']:.3f}", f"{100 * row['covered']:.1f} %",
        ))  # fmt: skip
    top = max(figures.values(), key=lambda row: row["bias_ratio"])
    header = ("delay", "bias, points", "95 %", "as failures", "ratio", "covered")
    keys = ("bias", "bias_failures", "bias_ratio")
    return Report(
        {key: top[key] for key in keys} | {"settings": figures}, header, rows, curves, "bias of the rate",
        ("The look at which the ratio is largest, of all after the oldest impression is older than the window.",),
    )  # fmt: skip


def _number(value: np.floating[Any]) -> float:
    return float(f"{value:.6g}")


def _within_window(setting: DelaySetting) -> float:
    """P(delay ≤ window)."""
    if setting.kind == "exponential":
        return float(-np.expm1(-1 / setting.scale))
    return float(ndtr(-np.log(setting.scale) / setting.sigma))


def _times(setting: DelaySetting) -> Floats:
    """Of the impressions, ascending: a density that rises in a straight line by `growth`."""
    u = (np.arange(setting.impressions) + 0.5) / setting.impressions
    g = setting.growth - 1
    # The distribution function (x + g·x²/2) / (1 + g/2) solved for x.
    return WINDOWS * (u if g == 0 else (np.sqrt(1 + 2 * g * (1 + g / 2) * u) - 1) / g)


def _delays(setting: DelaySetting, size: int, rng: np.random.Generator) -> Floats:
    if setting.kind == "exponential":
        return rng.exponential(setting.scale, size)
    return rng.lognormal(np.log(setting.scale), setting.sigma, size)
