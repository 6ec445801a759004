"""Gradient-boosted trees on top of a logistic regression. Library: LightGBM, imported when a booster is made."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from sluice.errors import ConfigError
from sluice.models.linear import Floats, Linear

__all__ = ["Trees", "lightgbm"]

_NO_OPENMP = (
    "LightGBM needs the system's libgomp.so.1: "
    "apt-get install libgomp1 (Debian, Ubuntu), dnf install libgomp (Fedora, RHEL), apk add libgomp (Alpine)"
)


@dataclass(frozen=True, eq=False)
class Trees:
    """Trees that start from the log odds of a logistic regression: what is linear, trees only copy."""

    start: Linear
    booster: Any

    def score(self, features: NDArray[np.float32]) -> Floats:
        """features (m, f) → (m,) P(click)"""
        trees = self.booster.predict(features, raw_score=True, num_threads=1)
        return np.asarray(expit(self.start.log_odds(features) + trees))

    def contributions(self, features: NDArray[np.float32]) -> Floats:
        """(m, f) as those of `Linear`, and of the trees by SHAP (Lundberg et al. 2020)"""
        trees = self.booster.predict(features, pred_contrib=True, num_threads=1)[:, :-1]
        return np.asarray(self.start.contributions(features) + trees)


def lightgbm() -> Any:
    """The library. Raises ConfigError, with the way out, when its OpenMP runtime is missing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import lightgbm as library
    except OSError as error:
        raise ConfigError(_NO_OPENMP if "libgomp" in str(error) else f"LightGBM: {error}") from error
    return library
