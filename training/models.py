"""The two policies that rank by features. Libraries: scikit-learn, LightGBM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sluice.domain.drift import Reference
from sluice.features import batch_features, names
from sluice.features.definition import Floats, Ints
from sluice.models import Linear, Trees
from sluice.models.trees import lightgbm
from training.dataset import Dataset

__all__ = [
    "Examples", "FeatureModel", "Model", "Trained", "fit_policy_a", "fit_policy_b", "validation_split",
]  # fmt: skip

VALIDATION_SHARE = 0.2
"""The last part of the train period, by time: stops LightGBM and calibrates the recommenders."""
# A higher value never makes a click less likely: keeps trees from fitting noise where ratings are few.
_RISING = frozenset({
    "user_like_rate", "user_top_rate", "user_rating", "user_leniency", "user_last_like_rate", "item_like_rate",
    "item_top_rate", "item_rating", "item_quality", "item_like_surplus", "genre_level", "genre_taste", "decade_taste",
    "match", "slate_quality",
})  # fmt: skip


@dataclass(frozen=True, eq=False)
class Examples:
    """A dataset with the features of all its rows."""

    data: Dataset
    features: NDArray[np.float32]
    """(m, features)"""
    weight: Floats | None = None
    """(m,) what each row counts in training; None: all the same"""

    @classmethod
    def of(cls, data: Dataset) -> Examples:
        return cls(data, batch_features(data.log, data.catalogue))

    @property
    def names(self) -> tuple[str, ...]:
        """Of the columns"""
        return names(self.data.catalogue.genres)

    @cached_property
    def liked(self) -> NDArray[np.bool_]:
        return self.data.log.liked

    def column(self, name: str) -> NDArray[np.float32]:
        return self.features[:, self.names.index(name)]


class Model(Protocol):
    """What ranks a slate and says how likely each click is."""

    def predict(self, examples: Examples, slates: Ints) -> Floats:
        """P(click) of the rows of `slates`, slate by slate; of the examples it uses what each request knew."""


@dataclass(frozen=True, eq=False)
class Trained:
    """A model and what is worth remembering of its training."""

    name: str
    model: Model
    params: Mapping[str, Any]
    validation: Mapping[str, float]
    """Figures on the last part of the train period, of the model fitted without it"""
    importance: Mapping[str, float] = field(default_factory=dict)
    """Feature → mean size of what it adds to the log odds, largest first"""
    seconds: float = 0.0
    reference: Reference | None = None
    """What drift will be seen by; None for a model without features, or where too little was known"""


@dataclass(frozen=True, eq=False)
class FeatureModel:
    """A model of `sluice.models` on examples."""

    model: Linear | Trees

    def score(self, features: NDArray[np.float32]) -> Floats:
        """(m,) P(click)"""
        return self.model.score(features)

    def contributions(self, features: NDArray[np.float32]) -> Floats:
        """(m, features) what each feature adds to the log odds, against its mean in training"""
        return self.model.contributions(features)

    def predict(self, examples: Examples, slates: Ints) -> Floats:
        return self.score(examples.features[examples.data.rows(slates)])


# Chosen on the last parts of the train period of ml-100k and ml-latest-small; the test parts were not looked at.
PARAMS_A: Mapping[str, Any] = {"C": 0.01, "max_iter": 1000}
PARAMS_B: Mapping[str, Any] = {
    "learning_rate": 0.05, "num_leaves": 15, "min_child_samples": 200, "feature_fraction": 0.4,
    "bagging_fraction": 0.8, "bagging_freq": 1, "lambda_l2": 5.0, "max_rounds": 600, "early_stopping_rounds": 50,
}  # fmt: skip


def validation_split(data: Dataset, train: Ints) -> tuple[Ints, Ints]:
    """(s,) slates for training → those for fitting, and the last ones, requested after the former had ended."""
    cut = int(len(train) * (1 - VALIDATION_SHARE))
    begin = data.log.at_ms[train[cut]]
    early, late = train[:cut], train[cut:]
    return early[data.log.end_ms[early] < begin], late


def fit_policy_a(examples: Examples, train: Ints, params: Mapping[str, Any] = PARAMS_A, seed: int = 0) -> FeatureModel:
    """Logistic regression with penalty 1/C on squared weights."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rows = examples.data.rows(train)
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(**params, random_state=seed))
    weight = None if examples.weight is None else examples.weight[rows]
    fitted = pipeline.fit(examples.features[rows], examples.liked[rows], logisticregression__sample_weight=weight)
    scaler, regression = fitted
    return FeatureModel(Linear(scaler.mean_, scaler.scale_, regression.coef_[0], float(regression.intercept_[0])))


def fit_policy_b(
    examples: Examples, train: Ints, params: Mapping[str, Any] = PARAMS_B, seed: int = 0,
    start_params: Mapping[str, Any] = PARAMS_A,
) -> tuple[FeatureModel, int]:  # fmt: skip
    """LightGBM, stopped early on the last part of `train`, then fitted to all of it. Returns its rounds as well.

    start_params: of the logistic regression whose log odds the trees start from. Raises ConfigError when the OpenMP
    library is missing.
    """
    library = lightgbm()
    data, columns = examples.data, list(examples.names)
    fixed = {
        "objective": "binary", "num_threads": 1, "deterministic": True, "force_row_wise": True, "seed": seed,
        "verbose": -1, "monotone_constraints": [int(name in _RISING) for name in columns],
    }  # fmt: skip
    own = dict(params)
    rounds, patience = own.pop("max_rounds"), own.pop("early_stopping_rounds")

    def dataset(slates: Ints, start: Linear) -> Any:
        rows = data.rows(slates)
        features = examples.features[rows]
        return library.Dataset(
            features, examples.liked[rows], init_score=start.log_odds(features),
            weight=None if examples.weight is None else examples.weight[rows],
            feature_name=[_plain(name) for name in columns], free_raw_data=False,
        )  # fmt: skip

    early, late = validation_split(data, train)
    start = _linear(examples, early, start_params, seed)
    stopped = library.train(
        fixed | own, dataset(early, start), rounds, valid_sets=[dataset(late, start)],
        callbacks=[library.early_stopping(patience, verbose=False)],
    )  # fmt: skip
    best = max(stopped.best_iteration, 1)
    start = _linear(examples, train, start_params, seed)
    return FeatureModel(Trees(start, library.train(fixed | own, dataset(train, start), best))), best


def _linear(examples: Examples, slates: Ints, params: Mapping[str, Any], seed: int) -> Linear:
    start = fit_policy_a(examples, slates, params, seed).model
    assert isinstance(start, Linear)
    return start


def _plain(name: str) -> str:
    # LightGBM refuses JSON's own characters and turns blanks into underscores.
    return "".join(char if char.isalnum() or char in "-=_" else "_" for char in name)
