"""Planted disorder, duplicates and late events: when each record is sent, by hash of what it is."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from producers.draws import uniform

__all__ = ["Faults", "send_times"]

_PURPOSE = 100


class Faults(NamedTuple):
    """Shares of the records in [0, 1], and the lateness that the counting allows."""

    disorder: float = 0.0
    """Sent later than their event time, but within the allowed lateness."""
    duplicates: float = 0.0
    """Sent a second time, within the allowed lateness after the first."""
    late: float = 0.0
    """Sent so much later that, if their partition moved on meanwhile, they are beyond the allowed lateness."""
    lateness_ms: int = 60_000

    @property
    def any(self) -> bool:
        return bool(self.disorder or self.duplicates or self.late)


def send_times(
    faults: Faults, seed: int, purpose: int, index: NDArray[np.int64], at_ms: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """When each record is sent, and when again (−1: never), as (n,) event time each.

    `index`, `at_ms`: (n,) number and event time of the records; equal input gives equal faults.
    """

    def draw(what: int) -> NDArray[np.float64]:
        return uniform(seed, _PURPOSE + 8 * purpose + what, index)

    lateness = faults.lateness_ms
    kind, how_much = draw(0), draw(1)
    within = (how_much * lateness).astype(np.int64)
    sent = at_ms + np.where(kind < faults.disorder, within, 0)
    is_late = (kind >= faults.disorder) & (kind < faults.disorder + faults.late)
    sent = np.where(is_late, at_ms + lateness + 1 + within, sent)
    again = np.where(draw(2) < faults.duplicates, sent + (draw(3) * lateness).astype(np.int64), -1)
    return sent, again
