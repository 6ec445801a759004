"""One replay of a permuted log: a model is trained on the first part, and its rows of the second part are watched."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from msgspec.structs import replace

from sluice.domain.drift import DriftOptions, Outcomes, Reference, Rows, monitor_of
from sluice.domain.drift.reference import GROWING
from sluice.features.definition import Floats, Ints
from training.dataset import Dataset
from training.drift_reference import SHOWN, outcomes_of, reference_of, rows_of, shown
from training.drift_rivals import streams
from training.models import PARAMS_A, Examples, FeatureModel, fit_policy_a

__all__ = ["FEATURES", "Replay", "fit", "watched"]

FEATURES = 30
_IMPORTANCE_ROWS = 2000
# The same optimum as the default solver, sooner.
_PARAMS = {**PARAMS_A, "solver": "newton-cholesky"}


@dataclass(frozen=True, eq=False)
class Replay:
    """What a monitor is told after training, slates in order of time and `SHOWN` rows of each."""

    examples: Examples
    reference: Reference
    rows: Rows
    outcomes: Outcomes

    @classmethod
    def of(cls, data: Dataset) -> Replay:
        examples = Examples.of(data)
        model = fit(examples, data.train)
        sample = data.rows(data.train)
        parts = model.contributions(examples.features[sample[:: max(len(sample) // _IMPORTANCE_ROWS, 1)]])
        importance = dict(zip(examples.names, np.abs(parts).mean(axis=0).tolist(), strict=True))
        reference = reference_of(examples, data.train, lambda slates: fit(examples, slates), importance)
        found = shown(examples, data.test, model.predict(examples, data.test))
        rows, outcomes = rows_of(examples, *found), outcomes_of(examples, *found)
        return cls(examples, reference, rows, outcomes)

    @property
    def columns(self) -> Ints:
        """Of the watched features"""
        ranked = [one for one in self.reference.features[:-1] if one.name not in GROWING]
        chosen = sorted(ranked, key=lambda one: -one.importance)[:FEATURES]
        return np.array([self.reference.columns.index(one.name) for one in chosen])

    def streams(self) -> Floats:
        """For other detectors: see `drift_rivals.streams`."""
        data, columns = self.examples.data, self.columns
        known = self.examples.features[data.rows(data.train[len(data.train) // 2 :])][:, columns]
        sd = np.maximum(known.std(axis=0), 1e-6)
        return streams(self.rows, self.outcomes, columns, known.mean(axis=0), sd, SHOWN)


def watched(replay: Replay, alpha: float, settle: int = 0, laps: int = 1) -> int | None:
    """Slates of the test part that were requested when the monitor alarmed; None when it never did.

    settle: users of the test part of whom the reference is made first; 0: it is that of the training. laps: how many
    times the test part comes, each time with other users who do the same.
    """
    reference, options = replay.reference, DriftOptions(alpha=alpha, features=FEATURES)
    if settle:
        reference, options = replace(reference, shown_by="others"), replace(options, settle_users=settle)
    monitor = monitor_of(reference, "model", "1", options)
    at_ms = replay.rows.at_ms
    length_ms = int(at_ms[-1] - at_ms[0]) // options.window_ms * options.window_ms + 2 * options.window_ms
    for lap in range(laps):
        begin_ms, users = lap * length_ms, [f"{user} {lap}" if lap else user for user in replay.rows.user]
        monitor.take(replay.rows._replace(user=users, at_ms=at_ms + begin_ms))
        monitor.take_outcomes(replay.outcomes._replace(user=users, at_ms=at_ms + begin_ms))
        report = monitor.close_until(int(at_ms[-1]) + begin_ms + options.window_ms)
        if report.since_ms is not None:
            slates = at_ms[::SHOWN]
            return lap * len(slates) + int(np.searchsorted(slates, report.since_ms - begin_ms))
    return None


def fit(examples: Examples, slates: Ints) -> FeatureModel:
    """The model of a replay: as `sluice train` makes it, sooner."""
    return fit_policy_a(examples, slates, _PARAMS)
