"""`python -m training.drift_simulation`: how often the drift monitor alarms falsely, and how soon it sees a change.

Libraries: click, numpy, scipy.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
from scipy import stats

from sluice.domain.drift import Outcomes, Rows
from training.dataset import Dataset
from training.drift_reference import SHOWN
from training.drift_replays import Replay, watched
from training.drift_retrained import retrained as retrained_replay
from training.drift_rivals import ADWIN_DELTAS, PAGE_HINKLEY_THRESHOLDS, adwin, ks_windows, page_hinkley
from training.drift_worlds import change_of, dropped_clicks, missing, permuted, permuted_tastes, shifted
from training.options import DataOptions, data_options, needs_training, progress_of

__all__ = ["simulate"]

KS_WINDOW = 300
"""Rows: a hundred slates"""
ALPHA = 0.05
TUNE, PLANT = 1 << 20, 1 << 21
"""Added to seeds: replays that tune the rivals, and those with planted changes, are not those that are counted"""


class World(NamedTuple):
    """A replay in which something changed, or nothing."""

    replay: Replay
    rows: Rows
    outcomes: Outcomes


class Monitors(NamedTuple):
    """Those that are measured."""

    alpha: float
    settle: Mapping[str, int]
    """Name → users of whom it makes its reference first; 0: none"""
    laps: int

    def delays(self, replay: Replay, laps: int = 1) -> dict[str, int | None]:
        return {name: watched(replay, self.alpha, users, laps) for name, users in self.settle.items()}


class Rivals(NamedTuple):
    delta: float
    threshold: float
    adwin_share: float
    page_hinkley_share: float


@click.command()
@data_options
@click.option("--replays", type=click.IntRange(0), default=500, show_default=True, help="Without drift.")
@click.option(
    "--retrained", type=click.IntRange(0), default=0, help="Without drift, of a version that was trained from the log.",
)  # fmt: skip
@click.option("--planted", type=click.IntRange(0), default=20, show_default=True, help="Of every change and size.")
@click.option("--tuning", type=click.IntRange(0), default=40, show_default=True, help="Without drift, for the rivals.")
@click.option(
    "--settle", type=click.IntRange(0), default=0, metavar="USERS",
    help="Also a monitor whose reference is made of the first users that it watches.",
)  # fmt: skip
@click.option(
    "--laps", type=click.IntRange(1), default=1, show_default=True,
    help="Without drift: times that the watched part comes, with other users each time.",
)  # fmt: skip
@click.option("--alpha", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=ALPHA, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def simulate(
    given: DataOptions, replays: int, retrained: int, planted: int, tuning: int, settle: int, laps: int, alpha: float,
    as_json: bool,
) -> None:  # fmt: skip
    """Measure the drift monitor on replays whose drift is known.

    Whole users are permuted in time, so that nothing drifts. Each replay trains a model on the first part of the log
    and watches what it shows of the second part. Changes are planted in the middle of that.
    """
    with needs_training(), progress_of("drift", quiet=as_json) as progress:
        data = _dataset(given)
        report: dict[str, Any] = {"data": data.name, "seed": given.seed, "alpha": alpha}
        monitors = Monitors(alpha, {"monitor": 0, **({"settled": settle} if settle else {})}, laps)
        if replays:
            report["false_alarms"] = _false_alarms(data, given.seed, replays, monitors, progress)
        if retrained:
            report["retrained"] = _retrained(data, given.seed, retrained, monitors, progress)
        if planted:
            rivals = _tuned(data, given.seed, tuning, progress) if tuning else None
            report |= {"rivals": rivals._asdict()} if rivals else {}
            report["changes"] = _changes(data, given.seed, planted, monitors, rivals, progress)
    click.echo(json.dumps(report) if as_json else "\n".join(_lines(report)))


def _dataset(given: DataOptions) -> Dataset:
    from producers.columns import parse_columns
    from producers.sources import read_ratings
    from training.prepare import PrepareOptions, make_dataset
    from training.texts import read_texts

    source = given.source()
    options = PrepareOptions(given.slate_size, given.click_from, given.train_share, given.seed)
    columns = parse_columns(given.columns) if given.columns else None
    return make_dataset(read_ratings(source, columns), read_texts(Path(source)), options)


def _nulls(data: Dataset, seed: int, count: int) -> Iterator[Replay]:
    for number in range(count):
        yield Replay.of(permuted(data, np.random.default_rng([seed, number])))


def _false_alarms(data: Dataset, seed: int, count: int, monitors: Monitors, progress: Any) -> dict[str, Any]:
    alarmed, ks = Counter[str](), 0
    for number, replay in enumerate(_nulls(data, seed, count)):
        progress("without drift", number / count)
        alarmed.update(name for name, slates in monitors.delays(replay, monitors.laps).items() if slates is not None)
        # Once is enough to see what it does.
        ks += number < 30 and _ks(replay, replay.rows) is not None
    found = {name: _share(alarmed[name], count) for name in monitors.settle}
    return {**found, "laps": monitors.laps, "ks": {"replays": min(count, 30), "alarmed": ks}}


def _retrained(data: Dataset, seed: int, count: int, monitors: Monitors, progress: Any) -> dict[str, Any]:
    alarmed = Counter[str]()
    for number in range(count):
        progress("trained from the log", number / count)
        replay = retrained_replay(permuted(data, np.random.default_rng([seed, number])), number)
        alarmed.update(name for name, slates in monitors.delays(replay).items() if slates is not None)
    return {name: _share(alarmed[name], count) for name in monitors.settle}


def _share(alarmed: int, count: int) -> dict[str, Any]:
    low, high = (float(end) for end in stats.binomtest(alarmed, count).proportion_ci(0.95, "exact"))
    return {"replays": count, "alarmed": alarmed, "share": alarmed / count, "interval": [low, high]}


def _ks(replay: Replay, rows: Rows) -> int | None:
    """A test of every feature in every window, each at 5 %, with Bonferroni over both; in slates."""
    data, columns = replay.examples.data, replay.columns
    known = replay.examples.features[data.rows(data.train[len(data.train) // 2 :])][:, columns]
    alpha = ALPHA / len(columns) / (len(rows.score) // KS_WINDOW)
    found = ks_windows(known, rows.features[:, columns], KS_WINDOW, alpha)
    return None if found is None else found // SHOWN


def _tuned(data: Dataset, seed: int, count: int, progress: Any) -> Rivals:
    """The most sensitive settings of the rivals with false alarms in at most 5 % of replays without drift."""
    alarms = {adwin: np.zeros(len(ADWIN_DELTAS)), page_hinkley: np.zeros(len(PAGE_HINKLEY_THRESHOLDS))}
    for number, replay in enumerate(_nulls(data, seed + TUNE, count)):
        progress("tuning the rivals", number / count)
        values = replay.streams()
        for detector, levels in ((adwin, ADWIN_DELTAS), (page_hinkley, PAGE_HINKLEY_THRESHOLDS)):
            for place in range(len(levels) - 1, -1, -1):
                if detector(values, levels[place]) is not None:
                    alarms[detector][: place + 1] += 1  # what is more sensitive alarms as well
                    break
    first = {detector: int(np.argmax(np.append(share / count <= ALPHA, True))) for detector, share in alarms.items()}
    places = {detector: min(place, len(alarms[detector]) - 1) for detector, place in first.items()}
    return Rivals(
        ADWIN_DELTAS[places[adwin]], PAGE_HINKLEY_THRESHOLDS[places[page_hinkley]],
        *(float(alarms[detector][places[detector]] / count) for detector in (adwin, page_hinkley)),
    )  # fmt: skip


def _changes(
    data: Dataset, seed: int, count: int, monitors: Monitors, rivals: Rivals | None, progress: Any
) -> dict[str, dict[str, Any]]:
    delays: dict[str, dict[str, list[int | None]]] = {}
    for number in range(count):
        progress("changes", number / count)
        for name, world in _worlds(permuted(data, np.random.default_rng([seed + PLANT, number])), seed, number):
            for detector, delay in _delays(world, monitors, rivals).items():
                delays.setdefault(name, {}).setdefault(detector, []).append(delay)
    return {name: {detector: _summary(found) for detector, found in one.items()} for name, one in delays.items()}


def _worlds(data: Dataset, seed: int, number: int) -> Iterator[tuple[str, World]]:
    replay = Replay.of(data)
    rows, outcomes, columns = replay.rows, replay.outcomes, replay.columns
    after_ms = int(data.log.at_ms[change_of(data)])
    rng = np.random.default_rng([seed, number, 1])
    column = int(rng.choice([place for place in columns if not replay.examples.names[place].startswith("genre=")]))
    for size in (0.2, 0.5, 1.0):
        yield f"a feature by {size:g} sd", World(replay, shifted(rows, after_ms, column, size), outcomes)
    for share in (0.05, 0.2, 0.5):
        changed = missing(rows, after_ms, column, share, rng)
        yield f"a feature missing in {100 * share:g} %", World(replay, changed, outcomes)
    for drop in (0.03, 0.06, 0.12):
        yield f"clicks by {100 * drop:g} points", World(replay, rows, dropped_clicks(outcomes, after_ms, drop, rng))
    for amplitude in (0.4, 0.8, 1.2):
        other = Replay.of(permuted_tastes(data, amplitude, np.random.default_rng([seed, number, 2])))
        yield f"tastes by {amplitude:g} stars", World(other, other.rows, other.outcomes)


def _delays(world: World, monitors: Monitors, rivals: Rivals | None) -> dict[str, int | None]:
    """Slates from the change to each detector's first alarm, negative when it was before; None: never."""
    replay = replace(world.replay, rows=world.rows, outcomes=world.outcomes)
    before = change_of(replay.examples.data) - replay.examples.data.test_from
    found = {**monitors.delays(replay), "ks": _ks(replay, world.rows)}
    if rivals is not None:
        values = replay.streams()
        found |= {"adwin": adwin(values, rivals.delta), "page_hinkley": page_hinkley(values, rivals.threshold)}
    return {name: None if slates is None else slates - before for name, slates in found.items()}


def _summary(delays: list[int | None]) -> dict[str, Any]:
    """Of replays without an alarm before the change; one that never alarms counts as infinitely late."""
    after = [np.inf if delay is None else float(delay) for delay in delays if delay is None or delay >= 0]
    quartiles = [_finite(float(np.quantile(after, q, method="higher"))) for q in (0.25, 0.5, 0.75)] if after else None
    return {
        "before": len(delays) - len(after), "detected": int(np.isfinite(after).sum()), "of": len(delays),
        "quartiles": quartiles,
    }  # fmt: skip


def _finite(value: float) -> int | None:
    return int(value) if np.isfinite(value) else None


def _lines(report: Mapping[str, Any]) -> Iterator[str]:
    yield f"{report['data']}, seed {report['seed']}, alpha {report['alpha']:g}"
    if alarms := report.get("false_alarms"):
        yield from _rates(f"without drift, laps {alarms['laps']}", alarms)
        yield f"KS, corrected: {alarms['ks']['alarmed']} of {alarms['ks']['replays']}"
    if alarms := report.get("retrained"):
        yield from _rates("without drift, trained from the log", alarms)
    if rivals := report.get("rivals"):
        yield (
            f"ADWIN delta {rivals['delta']:g} ({100 * rivals['adwin_share']:.0f} % false), Page–Hinkley threshold "
            f"{rivals['threshold']:g} ({100 * rivals['page_hinkley_share']:.0f} % false)"
        )
    for name, one in report.get("changes", {}).items():
        yield f"{name:28} " + "   ".join(f"{detector} {_told(found)}" for detector, found in one.items())


def _rates(subject: str, alarms: Mapping[str, Any]) -> Iterator[str]:
    for name in ("monitor", "settled"):
        if one := alarms.get(name):
            low, high = one["interval"]
            yield (
                f"{subject}, {name}: {one['alarmed']} of {one['replays']} replays with any alarm, "
                f"{100 * one['share']:.1f} % ({100 * low:.1f} to {100 * high:.1f} %)"
            )


def _told(found: Mapping[str, Any]) -> str:
    middle = found["quartiles"][1] if found["quartiles"] else None
    early = f", {found['before']} before" if found["before"] else ""
    return f"{'–' if middle is None else middle} ({found['detected']}/{found['of']}{early})"


if __name__ == "__main__":
    simulate()
