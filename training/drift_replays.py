"""One replay of a permuted log: a model is trained on the first part, and its rows of the second part are watched."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sluice.domain.drift import DriftOptions, Monitor, Outcomes, Reference, Rows
from sluice.domain.drift.reference import GROWING
from sluice.features.definition import Floats, Ints
from training.dataset import Dataset
from training.drift_reference import SHOWN, outcomes_of, reference_of, rows_of, shown
from training.drift_rivals import streams
from training.models import PARAMS_A, Examples, FeatureModel, fit_policy_a

__all__ = ["FEATURES", "Replay", "watched"]

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
        model = _fit(examples, data.train)
        sample = data.rows(data.train)
        parts = model.contributions(examples.features[sample[:: max(len(sample) // _IMPORTANCE_ROWS, 1)]])
        importance = dict(zip(examples.names, np.abs(parts).mean(axis=0).tolist(), strict=True))
        reference = reference_of(examples, data.train, lambda slates: _fit(examples, slates), importance)
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


def watched(replay: Replay, alpha: float) -> int | None:
    """Slates of the test part that were requested when the monitor alarmed; None when it never did."""
    monitor = Monitor(replay.reference, "model", "1", DriftOptions(alpha=alpha, features=FEATURES))
    monitor.take(replay.rows)
    monitor.take_outcomes(replay.outcomes)
    report = monitor.close_until(int(replay.rows.at_ms.max()) + 2 * monitor.options.window_ms)
    if report.since_ms is None:
        return None
    return int(np.searchsorted(replay.rows.at_ms[::SHOWN], report.since_ms))


def _fit(examples: Examples, slates: Ints) -> FeatureModel:
    return fit_policy_a(examples, slates, _PARAMS)
