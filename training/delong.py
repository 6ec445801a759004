"""Areas under ROC curves, and whether two of the same rows differ. Libraries: numpy, scipy.

Sources: DeLong, DeLong, Clarke-Pearson 1988; midranks as in Sun, Xu 2014; rows that come in clusters: Obuchowski 1997.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr
from scipy.stats import rankdata

__all__ = ["Areas", "Difference", "areas", "difference"]


class Areas(NamedTuple):
    auc: NDArray[np.float64]
    """(k,)"""
    covariance: NDArray[np.float64]
    """(k, k)"""


class Difference(NamedTuple):
    estimate: float
    """AUC of the first minus AUC of the second"""
    standard_error: float
    z: float
    """nan when the standard error is 0"""
    p_value: float
    """Two-sided; 1 when both are equal and the standard error is 0, 0 when they differ then"""


def areas(liked: NDArray[np.bool_], scores: NDArray[np.float64], cluster: NDArray[np.integer] | None = None) -> Areas:
    """liked: (m,); scores: (k, m), a row a model; cluster: (m,) of rows that resemble each other, such as users.

    Without clusters all rows count as independent. Raises ValueError when a class has fewer than two rows or, with
    clusters, fewer than two clusters.
    """
    liked = np.asarray(liked, dtype=bool)
    scores = np.atleast_2d(np.asarray(scores, dtype=np.float64))
    if scores.shape[1] != len(liked) or not np.isfinite(scores).all():
        raise ValueError(f"scores: finite, a row a model, {len(liked)} columns; got shape {scores.shape}")
    positives, negatives = int(liked.sum()), int((~liked).sum())
    if min(positives, negatives) < 2:
        raise ValueError(f"liked: two of each class at least, got {positives} and {negatives}")
    all_ranks = rankdata(scores, axis=1)
    above = (all_ranks[:, liked] - rankdata(scores[:, liked], axis=1)) / negatives
    below = 1 - (all_ranks[:, ~liked] - rankdata(scores[:, ~liked], axis=1)) / positives
    auc = above.mean(axis=1)
    if cluster is None:
        cluster = np.arange(len(liked))
    codes = np.unique(cluster, return_inverse=True)[1]
    sums = [_by_cluster(values - auc[:, None], codes[rows], codes.max() + 1)
            for values, rows in ((above, liked), (below, ~liked))]  # fmt: skip
    counts = [len(np.unique(codes[rows])) for rows in (liked, ~liked)]
    if min(counts) < 2:
        raise ValueError("cluster: each class must occur in two clusters at least")
    (up, down), both = sums, len(np.unique(codes))
    covariance = (
        up @ up.T * (counts[0] / (counts[0] - 1)) / positives**2
        + down @ down.T * (counts[1] / (counts[1] - 1)) / negatives**2
        + (up @ down.T + down @ up.T) * (both / (both - 1)) / (positives * negatives)
    )
    return Areas(auc, covariance)


def difference(
    liked: NDArray[np.bool_],
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    cluster: NDArray[np.integer] | None = None,
) -> Difference:
    """Is the AUC of scores `first` another than that of `second`? Arguments and errors as those of `areas`."""
    auc, covariance = areas(liked, np.stack([first, second]), cluster)
    estimate = float(auc[0] - auc[1])
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    # Equal scores leave a rest of rounding.
    error = float(np.sqrt(variance)) if variance > 1e-15 else 0.0
    if error == 0:
        return Difference(estimate, 0.0, float("nan"), 1.0 if abs(estimate) < 1e-12 else 0.0)
    z = estimate / error
    return Difference(estimate, error, z, float(2 * ndtr(-abs(z))))


def _by_cluster(values: NDArray[np.float64], codes: NDArray[np.integer], clusters: int) -> NDArray[np.float64]:
    return np.stack([np.bincount(codes, row, minlength=clusters) for row in values])
