"""Candidates for an alias before the gate: scored on the test part of one dataset, beside what is in force."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sluice.adapters.mlflow import ModelVersion, Registry
from sluice.errors import ModelUnusable
from sluice.features import batch_features
from sluice.models import TrainedModel
from training.dataset import Dataset
from training.gate import Limits, Verdict, judge
from training.metrics import Scored
from training.models import Examples, FeatureModel
from training.segments import segments
from training.train import scored, train_one

__all__ = ["Assessor", "row_us"]

_TIMED_ROWS, _REPEATS = 10_000, 5


class Assessor:
    """Judges models on the test part of `data`. Features are made once, when the first model comes."""

    def __init__(self, data: Dataset, registry: Registry, limits: Limits, notice: Callable[[str], None]) -> None:
        self._data, self._registry, self._limits, self._notice = data, registry, limits, notice

    def train(self, policy: str, seed: int) -> TrainedModel:
        """The model that a training would give. Raises ConfigError when its library is missing."""
        model = train_one(policy, self._examples, self._data.train, seed=seed).model
        assert isinstance(model, FeatureModel)
        return TrainedModel(policy, model.model, self._data.catalogue)

    def verdict(self, model: TrainedModel, present: ModelVersion | None) -> Verdict:
        """May an alias move from `present` to `model`? Raises TransportError when MLflow goes away."""
        own = self._scored(model)
        known = self._loaded(present) if present is not None else None
        other = self._scored(known) if known is not None else None
        taken_us = row_us(model, self._features[:_TIMED_ROWS])
        return judge(own, other, row_us=taken_us, segments=self._segments, limits=self._limits)

    @cached_property
    def _examples(self) -> Examples:
        return Examples.of(self._data)

    @cached_property
    def _features(self) -> NDArray[np.float32]:
        """Of the test rows"""
        return self._examples.features[self._data.rows(self._data.test)]

    @cached_property
    def _segments(self) -> dict[str, NDArray[np.bool_]]:
        return {f"{one.kind} {one.name}": one.rows for one in segments(self._examples, self._data.test)}

    def _scored(self, model: TrainedModel) -> Scored:
        features = self._features
        if model.catalogue != self._data.catalogue:  # trained on other data: it serves with what it knows of items
            features = batch_features(self._data.log, model.catalogue)[self._data.rows(self._data.test)]
        return scored(self._examples, self._data.test, model.score(features))

    def _loaded(self, version: ModelVersion) -> TrainedModel | None:
        try:
            return self._registry.load(version)
        except ModelUnusable as error:
            self._notice(f"{version} is in force and cannot be compared with: {error}")
            return None


def row_us(model: TrainedModel, features: NDArray[np.float32]) -> float:
    """Microseconds of processor time a row, of the quickest of some calls.

    Not by the clock on the wall: what else the machine does is not the model's fault.
    """
    taken = []
    for _ in range(_REPEATS):
        begin = time.process_time()
        model.score(features)
        taken.append(time.process_time() - begin)
    return min(taken) / len(features) * 1e6
