"""No feature knows an outcome that was not known when its slate was requested; and these tests notice when one does."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from slate_logs import make_log, online_features, until, with_ratings

from sluice.features import Catalogue, SlateLog, batch_features

Execution = Callable[[SlateLog, Catalogue], NDArray[np.float32]]
SLATES = 1000


def leaking_slates(features: Execution, slates: int) -> int:
    """Of so many random slates: those whose features change when outcomes of this slate or later ones change."""
    leaks, per_log = 0, 20
    for seed in range(slates // per_log):
        log, catalogue = make_log(16, seed=seed, users=4, items=12, size=3)
        rng = np.random.default_rng(seed)
        truth = features(log, catalogue)
        for slate in rng.integers(0, len(log), per_log).tolist():
            first, stop = log.offsets[slate], log.offsets[slate + 1]
            other = log.rating_milli.copy()
            other[first:] = 5000 - other[first:]
            changed = until(with_ratings(log, other), slate) if slate % 2 else with_ratings(log, other)
            leaks += truth[first:stop].tobytes() != features(changed, catalogue)[first:stop].tobytes()
    return leaks


@pytest.mark.parametrize("features", [batch_features, online_features])
def test_later_outcomes_change_no_feature(features: Execution) -> None:
    assert leaking_slates(features, SLATES) == 0


@pytest.mark.parametrize("features", [batch_features, online_features])
def test_earlier_outcomes_do_change_features(features: Execution) -> None:
    """Or the test above would pass with constants."""
    log, catalogue = make_log(24, seed=0, users=5, items=12, size=4)
    other = with_ratings(log, 5000 - log.rating_milli)
    assert (features(log, catalogue)[-4:] != features(other, catalogue)[-4:]).any()


def test_a_planted_update_inside_the_slate_is_noticed() -> None:
    assert leaking_slates(lambda log, catalogue: online_features(log, catalogue, leak=True), 100) > 90


def test_a_planted_column_of_the_whole_log_is_noticed() -> None:
    def leaky(log: SlateLog, catalogue: Catalogue) -> NDArray[np.float32]:
        rate = np.bincount(log.item, log.liked) / np.maximum(np.bincount(log.item), 1)
        return np.column_stack([batch_features(log, catalogue), rate[log.item]])

    assert leaking_slates(leaky, 100) > 50


@pytest.mark.parametrize("features", [batch_features, online_features])
def test_the_log_cut_at_a_request_gives_the_features_of_the_whole_log(features: Execution) -> None:
    log, catalogue = make_log(150, seed=7, size=6)
    whole = features(log, catalogue)
    for slate in np.random.default_rng(0).integers(0, len(log), 30).tolist():
        rows = slice(log.offsets[slate], log.offsets[slate + 1])
        assert whole[rows].tobytes() == features(until(log, slate), catalogue)[rows].tobytes()
