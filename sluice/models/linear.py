"""Logistic regression as it is served: a weighted sum of features. Libraries: numpy, scipy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

__all__ = ["Linear"]

Floats = NDArray[np.float64]
Features = NDArray[np.float32] | Floats


@dataclass(frozen=True, eq=False)
class Linear:
    """log odds = intercept + Σ weight × (feature − mean) / scale"""

    mean: Floats
    """(f,) of the features in training"""
    scale: Floats
    """(f,) > 0"""
    weights: Floats
    """(f,)"""
    intercept: float

    def score(self, features: Features) -> Floats:
        """features (m, f) → (m,) P(click)"""
        return np.asarray(expit(self.log_odds(features)))

    def log_odds(self, features: Features) -> Floats:
        """(m,). Equal rows have equal log odds, whatever stands in the rows around them."""
        slope = self.weights / self.scale
        # A matrix product may round by where a row lies in the batch; einsum sums contiguous rows alike.
        sums = np.einsum("ij,j->i", np.ascontiguousarray(features), slope)
        return np.asarray(sums + (self.intercept - float(self.mean @ slope)))

    def contributions(self, features: Features) -> Floats:
        """(m, f) what each feature adds to the log odds, against its mean in training"""
        return np.asarray((features - self.mean) * (self.weights / self.scale))
