"""What a replay with a planted change would have earned: `python -m training.loop_truth`. Libraries: click, numpy.

The log holds the rating of every item, so what any model would have shown of a slate, and what of it would have been
clicked, is known exactly. The stale model, the one that was promoted and one that had all that could be known are
compared on the same slates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import click
import msgspec
import numpy as np
from msgspec import Struct

from producers.slates import cut_slates, slate_log
from producers.sources import read_ratings
from producers.worlds import Drift, Poison, drifted, parse_drift, poisoned
from sluice.adapters.mlflow import ModelRef, Registry
from sluice.features import batch_features
from sluice.features.definition import Floats, Ints
from sluice.models import TrainedModel
from sluice.settings import Settings
from training.dataset import Dataset
from training.drift_reference import shown
from training.models import Examples, FeatureModel, Model
from training.options import DataOptions, data_options, needs_training
from training.prepare import PrepareOptions, make_dataset
from training.texts import read_texts
from training.train import fit

__all__ = ["Course", "Part", "Planted", "Truth", "around", "changed", "course", "dataset", "planted"]


class Course(NamedTuple):
    """Slates by number: where the replay begins, the world changes, another version is in force, the log ends."""

    first: int
    change: int
    promoted: int
    stop: int


class Part(Struct, frozen=True, kw_only=True):
    """One model on some slates."""

    impressions: int
    clicks: int
    ctr: float


class Planted(Struct, frozen=True, kw_only=True):
    """What the change did to the model that was in force."""

    drift_at_ms: int
    slates: dict[str, int]
    """Of the parts: `before` the change, `between` it and the promotion or the end, `after` the promotion"""
    before: Part
    """The stale model, before the change"""
    between: Part
    """The stale model, from the change to the promotion, or to the end"""


class Truth(Planted, frozen=True, kw_only=True):
    """`stale` and `promoted` are the versions before and after, `fresh` learned from all rows of all slates between."""

    promoted_at_ms: int
    stale: Part
    """What it would have earned after the promotion"""
    promoted: Part
    fresh: Part
    behind_fresh: float
    """Click rate of `fresh` less that of `promoted`"""
    behind_fresh_error: float
    """Its standard error, over users"""
    won_back: float | None
    """Share of what the stale model loses against `fresh` that `promoted` does not"""
    lost_clicks: int
    """Clicks between change and promotion that the promoted version would have had, and the stale one had not"""


def dataset(source: str, train_share: float, slate_size: int = 10, click_from: float = 4.0, seed: int = 0) -> Dataset:
    """The log as it is. Raises ConfigError."""
    options = PrepareOptions(slate_size, click_from, train_share, seed)
    return make_dataset(read_ratings(source, None), read_texts(Path(source)), options)


def changed(data: Dataset, source: str, drift: Drift, poison: Poison | None = None) -> Dataset:
    """The same slates in the changed world; with `poison`, as they are sent. Raises ConfigError."""
    size, seed = int(data.options["slate_size"]), int(data.options["seed"])
    slates = cut_slates(read_ratings(source, None), size=size, seed=seed)
    liked_milli, slates = round(1000 * data.options["click_from"]), drifted(slates, drift)
    if poison is not None:
        slates = poisoned(slates, poison, liked_milli)
    return replace(data, log=slate_log(slates, liked_milli))


def planted(examples: Examples, stale: Model, found: Course) -> Planted:
    """What was earned until another version was in force."""
    log = examples.data.log
    before, between = np.arange(found.first, found.change), np.arange(found.change, found.promoted)
    return Planted(
        drift_at_ms=int(log.at_ms[found.change]),
        slates={"before": len(before), "between": len(between), "after": found.stop - found.promoted},
        before=_part(*_clicks(examples, stale, before)), between=_part(*_clicks(examples, stale, between)),
    )  # fmt: skip


def course(examples: Examples, stale: Model, promoted: Model, policy: str, found: Course, seed: int = 0) -> Truth:
    """What was earned, and what would have been. policy: kind of the model that `fresh` is."""
    log = examples.data.log
    between, after = np.arange(found.change, found.promoted), np.arange(found.promoted, found.stop)
    known = between[log.end_ms[between] < log.at_ms[found.promoted]]
    fresh, _ = fit(policy, examples, known, seed)
    by = {name: _clicks(examples, model, after) for name, model in
          (("stale", stale), ("promoted", promoted), ("fresh", fresh))}  # fmt: skip
    rates = {name: _part(*of) for name, of in by.items()}
    lost = rates["fresh"].ctr - rates["stale"].ctr
    missed = _clicks(examples, promoted, between)[0] - _clicks(examples, stale, between)[0]
    return Truth(
        **msgspec.structs.asdict(planted(examples, stale, found)),
        promoted_at_ms=int(log.at_ms[found.promoted]),
        stale=rates["stale"], promoted=rates["promoted"], fresh=rates["fresh"],
        behind_fresh=rates["fresh"].ctr - rates["promoted"].ctr,
        behind_fresh_error=_error(by["fresh"], by["promoted"], log.user[after]),
        won_back=(rates["promoted"].ctr - rates["stale"].ctr) / lost if lost > 0 else None,
        lost_clicks=int(missed.sum()),
    )  # fmt: skip


def _clicks(examples: Examples, model: Model, slates: Ints) -> tuple[Ints, Ints]:
    """(s,) clicks and impressions of what the model would show of each slate."""
    rows, slate, _ = shown(examples, slates, model.predict(examples, slates))
    place = np.searchsorted(slates, slate)
    clicks = np.bincount(place[examples.liked[rows]], minlength=len(slates))
    return clicks, np.bincount(place, minlength=len(slates))


def _part(clicks: Ints, impressions: Ints) -> Part:
    return Part(
        impressions=int(impressions.sum()), clicks=int(clicks.sum()), ctr=float(clicks.sum() / impressions.sum())
    )


def _error(one: tuple[Ints, Ints], other: tuple[Ints, Ints], user: Ints) -> float:
    """Standard error of the difference of two rates on the same impressions, users as blocks."""
    difference = one[0] - other[0]
    rest: Floats = difference - one[1] * difference.sum() / one[1].sum()
    return float(np.sqrt((np.bincount(user, rest) ** 2).sum()) / one[1].sum())


@click.command()
@data_options
@click.option("--drift", required=True, help="As of `sluice replay`.")
@click.option("--model", "name", required=True, help="Registered name.")
@click.option(
    "--reign", "told", required=True, multiple=True, metavar="VERSION:SLATE",
    help="A version in force, and the number of the slate from which on; in order.",
)  # fmt: skip
def truth(given: DataOptions, drift: str, name: str, told: Sequence[str]) -> None:
    """Compare the version that was in force when tastes changed with the next one."""
    with needs_training():
        source, change, registry = given.source(), parse_drift(drift), Registry(Settings.load())
        data = changed(
            dataset(source, given.train_share, given.slate_size, given.click_from, given.seed), source, change
        )
        at, end = int(len(data.log) * change.at), len(data.log)
        stale, promoted = around([_reign(one) for one in told], at, end)
        before = registry.load(registry.resolve(ModelRef(name, version=stale)))
        examples = Examples(data, batch_features(data.log, before.catalogue))
        if promoted is None:
            found = planted(examples, _model(before), Course(data.test_from, at, end, end))
        else:
            version, begin, stop = promoted
            after = registry.load(registry.resolve(ModelRef(name, version=version)))
            path = Course(data.test_from, at, begin, stop)
            found = course(examples, _model(before), _model(after), before.name, path, given.seed)
    click.echo(msgspec.json.encode(found).decode())


def around(reigns: Sequence[tuple[str, int]], change: int, end: int) -> tuple[str, tuple[str, int, int] | None]:
    """The version in force at slate `change`, and the next one with the slates from which and until which it was.

    reigns: (version, first slate), in order, the first from slate 0. None: no other version before slate `end`.
    """
    at = max(n for n, (_, begin) in enumerate(reigns) if begin <= change)
    later = [one for one in reigns[at + 1 :] if one[1] < end]
    if not later:
        return reigns[at][0], None
    return reigns[at][0], (*later[0], later[1][1] if len(later) > 1 else end)


def _reign(told: str) -> tuple[str, int]:
    version, _, begin = told.partition(":")
    if not begin.isdigit():
        raise click.BadParameter(f"{told!r}: VERSION:SLATE is wanted", param_hint="--reign")
    return version, int(begin)


def _model(trained: TrainedModel) -> FeatureModel:
    return FeatureModel(trained.model)


if __name__ == "__main__":
    truth()
