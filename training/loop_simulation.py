"""The closed loop in memory, for many planted changes: `python -m training.loop_simulation`. Libraries: click, numpy.

The same monitor, the same join of what was shown with what was clicked, the same training and model tests as on a
stream, but no broker: a promotion follows the gate by a fixed number of slates, for shadow and canary. What is measured
is what the loop wins back; that steps are taken once and in order is measured on the stream.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import click
import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from producers.draws import uniform
from producers.worlds import Drift, Poison
from sluice.domain.drift import Monitor
from sluice.errors import ConfigError
from sluice.features import batch_features
from sluice.features.definition import Ints
from sluice.models import TrainedModel
from training.dataset import Dataset
from training.drift_reference import SHOWN, outcomes_of, rows_of, shown
from training.gate import Verdict
from training.loop_truth import Course, Truth, changed, course, dataset
from training.model_tests import Bounds
from training.models import Examples, FeatureModel, Trained
from training.options import DataOptions, data_options, needs_training, progress_of
from training.retrain import Job, check_enough, judged
from training.retrain_data import LoggedData, join
from training.retrain_log import Logged, Row
from training.train import train_one

__all__ = ["simulate"]

_VARIANT, _ORDER = 40, 41
WINDOW_MS, DELAY_MS = 30 * 60_000, 30_000


class Rules(NamedTuple):
    """Of the loop."""

    policy: str = "PolicyA"
    random: float = 0.3
    """Share of the slates that are ordered by chance"""
    holdout: float = 0.2
    bounds: Bounds = Bounds(min_effective_rows=150)
    again: int = 150
    """Slates from a refusal to the next attempt"""
    attempts: int = 10
    release: int = 400
    """Slates from the gate to the promotion"""


class Run(Struct, frozen=True, kw_only=True):
    """One world. Slates are counted from the change."""

    seed: int
    detected: int | None
    false_alarm: bool
    """The monitor alarmed before the change"""
    attempts: int
    """That the gate judged"""
    promoted: int | None
    reasons: tuple[str, ...]
    """Of the last refusal"""
    truth: Truth | None


@dataclass(frozen=True, eq=False)
class World:
    """A changed log, what was shown of it by the stale model or by chance, and what was clicked."""

    examples: Examples
    """With the outcomes as they are sent"""
    truth: Examples
    """As they are"""
    model: Trained
    rules: Rules
    seed: int

    @cached_property
    def chance(self) -> NDArray[np.bool_]:
        """(s,) slates of the log that are ordered by chance"""
        return uniform(self.seed, _VARIANT, np.arange(len(self.examples.data.log))) < self.rules.random

    @cached_property
    def by_model(self) -> tuple[Ints, Ints, np.ndarray]:
        """Rows, slates, scores of all test slates as the model would show them"""
        test = self.examples.data.test
        return shown(self.examples, test, self.model.model.predict(self.examples, test))

    @cached_property
    def rows(self) -> tuple[Ints, Ints]:
        """Rows that were shown and their slates, in order of both"""
        data = self.examples.data
        drawn = data.test[self.chance[data.test]]
        order = uniform(self.seed, _ORDER, data.rows(drawn))
        by_chance, slates, _ = shown(self.examples, drawn, order)
        own = ~self.chance[self.by_model[1]]
        rows = np.concatenate((self.by_model[0][own], by_chance))
        slates = np.concatenate((self.by_model[1][own], slates))
        sort = np.lexsort((rows, slates))
        return rows[sort], slates[sort]

    def drift(self) -> tuple[int, int] | None:
        """(slate at which the drift is seen, slate with which it began); None when it is not."""
        assert self.model.reference is not None
        rows, slates, score = self.by_model
        own = ~self.chance[slates]
        found = rows[own], slates[own], score[own]
        monitor = Monitor(self.model.reference, "model", "1")
        monitor.take(rows_of(self.examples, *found))
        monitor.take_outcomes(outcomes_of(self.examples, *found))
        at_ms = self.examples.data.log.at_ms
        report = monitor.close_until(int(at_ms[-1]) + 2 * monitor.options.window_ms)
        if report.since_ms is None or report.began_ms is None:
            return None
        return int(np.searchsorted(at_ms, report.since_ms)), int(np.searchsorted(at_ms, report.began_ms))

    def logged(self, begin: int, now: int) -> LoggedData:
        """What the log holds of the slates begin … now − 1. Raises ConfigError when it is too little."""
        data = self.examples.data
        log, size = data.log, np.diff(data.log.offsets)
        all_rows, all_slates = self.rows
        kept = (all_slates >= begin) & (all_slates < now)
        rows, slates = all_rows[kept], all_slates[kept]
        top = np.zeros(len(log.item), dtype=bool)
        top[self.by_model[0]] = True
        found = Logged(features=self.examples.features[rows], watermark_ms={0: int(log.at_ms[now])})
        firsts = np.flatnonzero(np.diff(slates, prepend=-1))
        for first, last in zip(firsts.tolist(), [*firsts[1:].tolist(), len(rows)], strict=True):
            slate, items = int(slates[first]), []
            at_ms = int(log.at_ms[slate])
            for row in rows[first:last].tolist():
                name = f"{slate:09d}.{row:09d}"
                chance = self.rules.random * SHOWN / size[slate] + (1 - self.rules.random) * top[row]
                items.append((log.items[log.item[row]], name, float(chance), None))
                found.shown_ms[name] = at_ms
                if self.examples.liked[row]:
                    found.clicks_ms[name] = [at_ms + DELAY_MS]
            drawn, user = bool(self.chance[slate]), data.users[log.user[slate]]
            version = "" if drawn else "1"
            found.slates.append(Row(0, "loop", user, str(slate), at_ms, drawn, version, tuple(items), first))
        joined = join(
            found, data.catalogue, window_ms=WINDOW_MS, holdout=self.rules.holdout, name=data.name, fingerprint="",
            options=data.options,
        )  # fmt: skip
        check_enough(joined)
        return joined

    def attempt(self, begin: int, now: int) -> tuple[FeatureModel | None, Verdict]:
        """The model that is trained at slate `now`, and what its tests say."""
        served = self.model.model
        assert isinstance(served, FeatureModel)
        try:
            found = self.logged(begin, now)
        except ConfigError as error:
            return None, Verdict((str(error),))
        made = train_one(self.rules.policy, found.examples, found.data.train).model
        assert isinstance(made, FeatureModel)
        catalogue = self.examples.data.catalogue
        pair = [TrainedModel(self.rules.policy, one.model, catalogue) for one in (made, served)]
        return made, judged(found, pair[0], pair[1], Job(model="model", alias="loop", bounds=self.rules.bounds))


def run(world: World, change: int) -> Run:
    """The loop in one world, which changes with slate `change`."""
    data, rules = world.examples.data, world.rules
    seen = world.drift()
    found = Run(seed=world.seed, detected=None, false_alarm=False, attempts=0, promoted=None, reasons=(), truth=None)
    if seen is None:
        return found
    now, begin = seen
    found = msgspec.structs.replace(found, detected=now - change, false_alarm=now <= change)
    for number in range(1, rules.attempts + 1):
        if now + rules.release >= len(data.log):
            break
        made, verdict = world.attempt(begin, now)
        found = msgspec.structs.replace(found, attempts=number, reasons=verdict.refusals)
        if made is not None and verdict.passed:
            path = Course(data.test_from, change, now + rules.release, len(data.log))
            truth = course(world.truth, world.model.model, made, rules.policy, path)
            return msgspec.structs.replace(found, promoted=path.promoted - change, truth=truth)
        now += rules.again
    return found


def worlds(data: Dataset, source: str, drift: Drift, poison: Poison | None, seeds: Sequence[int], rules: Rules
           ) -> Iterator[World]:  # fmt: skip
    """One for each seed. The model is trained once, on what is the same in all of them."""
    examples = Examples.of(data)
    model = train_one(rules.policy, examples, data.train)
    for seed in seeds:
        planted = replace(drift, seed=seed)
        there = changed(data, source, planted)
        features = batch_features(there.log, data.catalogue)
        truth = sent = Examples(there, features)
        if poison is not None:
            sent = Examples(changed(data, source, planted, replace(poison, seed=seed)), features)
        yield World(sent, truth, model, rules, seed)


@click.command()
@data_options
@click.option("--runs", type=click.IntRange(1, 1000), default=10, show_default=True, help="Planted changes.")
@click.option("--amplitude", type=click.FloatRange(0, 5), default=1.0, show_default=True)
@click.option("--change", "at", type=click.FloatRange(0, 1), default=0.6, show_default=True, help="Share of the log.")
@click.option("--bad", type=click.FloatRange(0, 1), help="Share of the users whose clicks are turned over.")
@click.option("--release", type=click.IntRange(0), default=Rules().release, show_default=True, help="Slates.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def simulate(
    given: DataOptions, runs: int, amplitude: float, at: float, bad: float | None, release: int, as_json: bool
) -> None:
    """What the loop wins back after a planted change of tastes, on the same slates with and without it."""
    with needs_training(), progress_of("loop", quiet=as_json) as progress:
        source, rules = given.source(), Rules(release=release)
        data = dataset(source, given.train_share, given.slate_size, given.click_from, given.seed)
        poison = None if bad is None else Poison(share=bad, at=at)
        seeds = range(given.seed, given.seed + runs)
        found: list[Run] = []
        for world in worlds(data, source, Drift(amplitude=amplitude, at=at), poison, seeds, rules):
            progress(f"change {len(found) + 1} of {runs}", len(found) / runs)
            found.append(run(world, int(len(data.log) * at)))
            if not as_json:
                click.echo(_line(found[-1]))
    if as_json:
        click.echo(msgspec.json.encode({"data": data.name, "rules": rules._asdict(), "runs": found}).decode())
    else:
        click.echo("\n".join(_summary(found)))


def _line(one: Run) -> str:
    begin = f"seed {one.seed}: seen after {one.detected} slates, {one.attempts} attempts, "
    if one.truth is None:
        return begin + f"nothing promoted: {'; '.join(one.reasons)[:120]}"
    truth = one.truth
    return begin + (
        f"promoted after {one.promoted}; then {truth.stale.ctr:.4f} without, {truth.promoted.ctr:.4f} with the loop, "
        f"{truth.fresh.ctr:.4f} fresh (behind {truth.behind_fresh:+.4f} ± {truth.behind_fresh_error:.4f}), "
        f"{truth.lost_clicks} clicks lost before"
    )


def _summary(runs: Sequence[Run]) -> Iterator[str]:
    truths = [one.truth for one in runs if one.truth is not None]
    yield f"{len(truths)} of {len(runs)} promoted, {sum(one.false_alarm for one in runs)} alarmed before the change"
    if truths:
        behind = np.array([one.behind_fresh for one in truths])
        lost = np.array([one.fresh.ctr - one.stale.ctr for one in truths])
        clicks = np.array([one.lost_clicks for one in truths])
        error = behind.std(ddof=1) / np.sqrt(len(behind)) if len(behind) > 1 else np.nan
        yield (
            f"behind the fresh model: {behind.mean():.4f} ± {error:.4f} on average, {behind.max():.4f} at most; "
            f"won back: {1 - behind.sum() / lost.sum():.1%}; clicks lost before: {clicks.mean():.0f}"
        )


if __name__ == "__main__":
    simulate()
