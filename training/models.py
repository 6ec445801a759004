"""The two policies that rank by features. Libraries: scikit-learn, LightGBM."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from sluice.errors import ConfigError
from sluice.features import batch_features, names
from sluice.features.definition import Floats, Ints
from training.dataset import Dataset

__all__ = [
    "Examples", "Model", "PolicyA", "PolicyB", "Trained", "fit_policy_a", "fit_policy_b", "validation_split",
]  # fmt: skip

VALIDATION_SHARE = 0.2
"""The last part of the train period, by time: stops LightGBM and calibrates the recommenders."""
# A higher value never makes a click less likely: keeps trees from fitting noise where ratings are few.
_RISING = frozenset({
    "user_like_rate", "user_top_rate", "user_rating", "user_leniency", "user_last_like_rate", "item_like_rate",
    "item_top_rate", "item_rating", "item_quality", "item_like_surplus", "genre_level", "genre_taste", "decade_taste",
    "match", "slate_quality",
})  # fmt: skip
_NO_OPENMP = (
    "PolicyB needs LightGBM, and that the system's libgomp.so.1: "
    "apt-get install libgomp1 (Debian, Ubuntu), dnf install libgomp (Fedora, RHEL), apk add libgomp (Alpine)"
)


@dataclass(frozen=True, eq=False)
class Examples:
    """A dataset with the features of all its rows."""

    data: Dataset
    features: NDArray[np.float32]
    """(m, features)"""

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
    """Feature → mean size of what it adds to the log odds, largest first; empty for models without features"""
    seconds: float = 0.0


@dataclass(frozen=True, eq=False)
class PolicyA:
    """Logistic regression on standardised features."""

    pipeline: Any

    def score(self, features: NDArray[np.float32]) -> Floats:
        """(m,) P(click)"""
        return np.asarray(expit(self.log_odds(features)))

    def log_odds(self, features: NDArray[np.float32]) -> Floats:
        return np.asarray(self.pipeline.decision_function(features))

    def contributions(self, features: NDArray[np.float32]) -> Floats:
        """(m, features) what each feature adds to the log odds, against its mean in training"""
        scaler, regression = self.pipeline
        return np.asarray(scaler.transform(features) * regression.coef_[0])

    def predict(self, examples: Examples, slates: Ints) -> Floats:
        return self.score(examples.features[examples.data.rows(slates)])


@dataclass(frozen=True, eq=False)
class PolicyB:
    """Gradient-boosted trees that start from the log odds of a logistic regression: what is linear, trees only copy."""

    start: PolicyA
    booster: Any

    def score(self, features: NDArray[np.float32]) -> Floats:
        """(m,) P(click)"""
        trees = self.booster.predict(features, raw_score=True, num_threads=1)
        return np.asarray(expit(self.start.log_odds(features) + trees))

    def contributions(self, features: NDArray[np.float32]) -> Floats:
        """(m, features) as those of `PolicyA`, and of the trees by SHAP (Lundberg et al. 2020)"""
        trees = self.booster.predict(features, pred_contrib=True, num_threads=1)[:, :-1]
        return np.asarray(self.start.contributions(features) + trees)

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


def fit_policy_a(examples: Examples, train: Ints, params: Mapping[str, Any] = PARAMS_A, seed: int = 0) -> PolicyA:
    """Logistic regression with penalty 1/C on squared weights."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rows = examples.data.rows(train)
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(**params, random_state=seed))
    return PolicyA(pipeline.fit(examples.features[rows], examples.liked[rows]))


def fit_policy_b(
    examples: Examples, train: Ints, params: Mapping[str, Any] = PARAMS_B, seed: int = 0
) -> tuple[PolicyB, int]:
    """LightGBM, stopped early on the last part of `train`, then fitted to all of it. Returns its rounds as well.

    Raises ConfigError when the OpenMP library is missing.
    """
    lightgbm = _lightgbm()
    data, columns = examples.data, list(examples.names)
    fixed = {
        "objective": "binary", "num_threads": 1, "deterministic": True, "force_row_wise": True, "seed": seed,
        "verbose": -1, "monotone_constraints": [int(name in _RISING) for name in columns],
    }  # fmt: skip
    own = dict(params)
    rounds, patience = own.pop("max_rounds"), own.pop("early_stopping_rounds")

    def dataset(slates: Ints, start: PolicyA) -> Any:
        features = examples.features[data.rows(slates)]
        return lightgbm.Dataset(
            features, examples.liked[data.rows(slates)], init_score=start.log_odds(features),
            feature_name=[_plain(name) for name in columns], free_raw_data=False,
        )  # fmt: skip

    early, late = validation_split(data, train)
    start = fit_policy_a(examples, early, seed=seed)
    stopped = lightgbm.train(
        fixed | own, dataset(early, start), rounds, valid_sets=[dataset(late, start)],
        callbacks=[lightgbm.early_stopping(patience, verbose=False)],
    )  # fmt: skip
    best = max(stopped.best_iteration, 1)
    start = fit_policy_a(examples, train, seed=seed)
    return PolicyB(start, lightgbm.train(fixed | own, dataset(train, start), best)), best


def _lightgbm() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import lightgbm
    except OSError as error:
        raise ConfigError(_NO_OPENMP if "libgomp" in str(error) else f"PolicyB: LightGBM: {error}") from error
    return lightgbm


def _plain(name: str) -> str:
    # LightGBM refuses JSON's own characters and turns blanks into underscores.
    return "".join(char if char.isalnum() or char in "-=_" else "_" for char in name)
