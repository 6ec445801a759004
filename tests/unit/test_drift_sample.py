"""Of many users a sample is told of: what that costs in power."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from sluice.domain.drift import DriftOptions, Monitor, Outcomes, Reference, Rows, make_reference
from stream_processors.drift_sample import MOST_USERS, UserSample, zeros_of

COLUMNS = ("a", "b", "c")
WINDOW, USERS, EACH = 1000, 12_000, 3


def shown(rng: np.random.Generator, users: int, begin_ms: int, moved: float, fewer: float) -> Outcomes:
    """Half of a feature's variance lies between users. moved: of the first feature. fewer: probability of a click"""
    user = np.repeat(np.arange(users), EACH)
    own = rng.normal(size=(users, len(COLUMNS)))[user]
    features = (own + rng.normal(size=own.shape)) / np.sqrt(2) + np.array([moved, 0, 0])
    score = 1 / (1 + np.exp(-0.5 - 0.7 * features[:, 1]))
    taste = 0.1 * rng.normal(size=users)[user]
    clicked = rng.random(len(user)) < np.clip(score + taste - fewer, 0, 1)
    at_ms = np.full(len(user), begin_ms)
    return Outcomes([f"{begin_ms}-{n}" for n in user], at_ms, features.astype(np.float32), score, clicked)


def kept(told: Outcomes) -> Outcomes:
    sample = UserSample(WINDOW)
    zeros = {user: zeros_of(user) for user in told.user}
    for user, found in zeros.items():
        sample.add(0, user, found)
    keep: NDArray[np.bool_] = np.array([sample.keeps(0, zeros[user]) for user in told.user])
    users = [user for user, ours in zip(told.user, keep, strict=True) if ours]
    assert MOST_USERS / 3 < len(set(users)) <= MOST_USERS
    return Outcomes(users, told.at_ms[keep], told.features[keep], told.score[keep], told.clicked[keep])


def windows_until_seen(reference: Reference, sampled: bool, moved: float, fewer: float) -> int:
    """After the change, which comes with the second window"""
    rng = np.random.default_rng(7)
    monitor = Monitor(reference, "m", "1", DriftOptions(window_ms=WINDOW))
    for number in range(8):
        told = shown(rng, USERS, number * WINDOW, *((moved, fewer) if number else (0, 0)))
        part = kept(told) if sampled else told
        monitor.take(Rows(*part[:4]))
        monitor.take_outcomes(part)
        if monitor.close_until((number + 1) * WINDOW).drifted:
            return number
    return -1


@pytest.fixture(scope="module")
def reference() -> Reference:
    told = shown(np.random.default_rng(0), 3000, 0, 0, 0)
    return make_reference(COLUMNS, Rows(*told[:4]), told)


@pytest.mark.parametrize(
    ("moved", "fewer", "whole", "most"),
    # In standard deviations, and a share of the impressions; 0.03 of a rank and 0.025 of the clicks are tolerated.
    [(0.0, 0.0, -1, -1), (0.2, 0.0, 1, 2), (0.3, 0.0, 1, 1), (0.0, 0.045, 1, 7), (0.0, 0.06, 1, 1)],
)
def test_what_lies_near_the_tolerated_is_seen_some_windows_later(
    reference: Reference, moved: float, fewer: float, whole: int, most: int
) -> None:
    assert windows_until_seen(reference, False, moved, fewer) == whole
    found = windows_until_seen(reference, True, moved, fewer)
    assert whole <= found <= most
