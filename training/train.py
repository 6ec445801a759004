"""All models of a dataset, trained on its first part. What is returned is all there is: nothing is logged or stored.

Library: threadpoolctl.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
from threadpoolctl import threadpool_limits

from sluice.domain.drift import Reference
from sluice.errors import ConfigError
from sluice.features.definition import VERSION, Floats, Ints
from training.dataset import Dataset
from training.drift_reference import enough, reference_of
from training.metrics import Scored, point
from training.models import (
    PARAMS_A,
    PARAMS_B,
    Examples,
    FeatureModel,
    Model,
    Trained,
    fit_policy_a,
    fit_policy_b,
    validation_split,
)
from training.recommenders import (
    INPUTS,
    MAX_HISTORY,
    NEIGHBOURS,
    Recommender,
    fit_content_based,
    fit_item_based,
)

__all__ = ["MODELS", "Tuned", "fit", "scored", "train_all", "train_models", "train_one"]

FEATURE_MODELS = ("PolicyA", "PolicyB")
"""Whose drift can be seen by features"""
_IMPORTANCE_ROWS = 2000

Tuned = Mapping[str, Mapping[str, Any]]
"""Model → those of its parameters that are not the default ones"""
DEFAULTS: Tuned = {}


class Fit(Protocol):
    def __call__(
        self, examples: Examples, train: Ints, seed: int, tuned: Tuned = DEFAULTS
    ) -> tuple[Model, Mapping[str, Any]]:
        """The model fitted to the slates `train`, and its parameters."""


class Kind(NamedTuple):
    text: str
    """What it is, for people"""
    fit: Fit


def _policy_a(examples: Examples, train: Ints, seed: int, tuned: Tuned = DEFAULTS) -> tuple[Model, Mapping[str, Any]]:
    params = {**PARAMS_A, **tuned.get("PolicyA", {})}
    return fit_policy_a(examples, train, params, seed), params


def _policy_b(examples: Examples, train: Ints, seed: int, tuned: Tuned = DEFAULTS) -> tuple[Model, Mapping[str, Any]]:
    params = {**PARAMS_B, **tuned.get("PolicyB", {})}
    start = {**PARAMS_A, **tuned.get("PolicyA", {})}
    model, rounds = fit_policy_b(examples, train, params, seed, start)
    return model, {**params, **{f"start_{name}": value for name, value in start.items()}, "rounds": rounds}


def _item_based(examples: Examples, train: Ints, seed: int, tuned: Tuned = DEFAULTS) -> tuple[Model, Mapping[str, Any]]:
    return fit_item_based(examples, train, seed), {"max_history": MAX_HISTORY, "neighbours": NEIGHBOURS}


def _content(examples: Examples, train: Ints, seed: int, tuned: Tuned = DEFAULTS) -> tuple[Model, Mapping[str, Any]]:
    return fit_content_based(examples, train, seed), {"max_history": MAX_HISTORY}


MODELS: Mapping[str, Kind] = {
    "PolicyA": Kind("logistic regression", _policy_a),
    "PolicyB": Kind("LightGBM", _policy_b),
    "item_based": Kind("item-based collaborative filtering", _item_based),
    "content": Kind("titles, tags and genres", _content),
}


def train_all(
    data: Dataset, *, seed: int = 0, notice: Callable[[str], None], progress: Callable[[str], None] = lambda name: None
) -> tuple[Examples, list[Trained], float]:
    """Features and every model of `MODELS`; the seconds of the features come last. See `train_models`."""
    begin = time.perf_counter()
    progress("features")
    examples = Examples.of(data)
    seconds = time.perf_counter() - begin
    return examples, train_models(examples, seed=seed, notice=notice, progress=progress), seconds


def train_models(
    examples: Examples, *, seed: int = 0, tuned: Tuned = DEFAULTS, notice: Callable[[str], None],
    progress: Callable[[str], None] = lambda name: None,
) -> list[Trained]:  # fmt: skip
    """Every model of `MODELS`, on the train part.

    A model whose library cannot be loaded is left out, which `notice` is told. `progress` hears what begins.
    """
    trained = []
    for name in MODELS:
        progress(name)
        try:
            trained.append(train_one(name, examples, examples.data.train, seed=seed, tuned=tuned))
        except ConfigError as error:
            notice(f"{name} is left out: {error}")
    return trained


def fit(
    name: str, examples: Examples, train: Ints, seed: int, tuned: Tuned = DEFAULTS
) -> tuple[Model, Mapping[str, Any]]:
    """The model `name` fitted to the slates `train`, and its parameters; the same on any number of cores."""
    # How many threads sum up changes the last bits, and early stopping can make a tree of them.
    with threadpool_limits(1):
        return MODELS[name].fit(examples, train, seed, tuned)


def train_one(name: str, examples: Examples, train: Ints, *, seed: int = 0, tuned: Tuned = DEFAULTS) -> Trained:
    """The model `name` fitted to the slates `train`, and its figures on the last of them when fitted to the others."""
    begin = time.perf_counter()
    early, late = validation_split(examples.data, train)
    first, _ = fit(name, examples, early, seed, tuned)
    model, params = fit(name, examples, train, seed, tuned)
    importance = _importance(model, examples, train)
    return Trained(
        name=name,
        model=model,
        params={**params, "seed": seed, "features_version": VERSION, "train_slates": len(train)},
        validation=point(scored(examples, late, first.predict(examples, late))),
        importance=importance,
        reference=_reference(name, examples, train, seed, tuned, importance),
        seconds=time.perf_counter() - begin,
    )


def scored(examples: Examples, slates: Ints, score: Floats, *, is_probability: bool = True) -> Scored:
    """`score`: of the rows of `slates`, slate by slate."""
    data = examples.data
    sizes = np.diff(data.log.offsets)[slates]
    return Scored(
        liked=examples.liked[data.rows(slates)],
        offsets=np.concatenate(([0], np.cumsum(sizes))),
        user=np.unique(data.log.user[slates], return_inverse=True)[1],
        score=np.asarray(score, dtype=np.float64),
        is_probability=is_probability,
    )


def _reference(
    name: str, examples: Examples, train: Ints, seed: int, tuned: Tuned, importance: Mapping[str, float]
) -> Reference | None:
    if not enough(examples, train) or name not in FEATURE_MODELS:
        return None
    return reference_of(examples, train, lambda slates: fit(name, examples, slates, seed, tuned)[0], importance)


def _importance(model: Model, examples: Examples, train: Ints) -> dict[str, float]:
    rows = examples.data.rows(train)
    sample = rows[:: max(len(rows) // _IMPORTANCE_ROWS, 1)]
    if isinstance(model, FeatureModel):
        columns, parts = examples.names, model.contributions(examples.features[sample])
    elif isinstance(model, Recommender) and model.calibration is not None:
        some = train[:: max(len(rows) // _IMPORTANCE_ROWS, 1)]
        columns, parts = INPUTS, model.calibration.contributions(model.inputs(examples, some))
    else:
        return {}
    size = np.abs(parts).mean(axis=0)
    return {columns[place]: float(size[place]) for place in np.argsort(-size, kind="stable")}
