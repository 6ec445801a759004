"""Rankings of one version of a model, and what became of them: rows and outcomes for its drift monitor. Pure.

An outcome is known when no click can come any more: when event time has passed the attribution window and the
lateness. A click may be read before its ranking, which comes by another topic; it waits until none can come.
Library: numpy.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sluice.domain.drift import Outcomes, Reference, Rows
from sluice.domain.events import OutcomeObserved
from sluice.domain.rankings import SlateRanked, columns_digest, have_columns, unpack_features
from sluice.features import VERSION

__all__ = ["Joiner"]


class _Shown(NamedTuple):
    partition: int
    user: str
    at_ms: int
    features: bytes
    """As they were read: a log of days waits here"""
    score: float


class Joiner:
    """Keeps what was shown until its outcome is known."""

    def __init__(
        self, reference: Reference, model: str, version: str, *, window_ms: int, lateness_ms: int,
        outcome: str = "click",
    ) -> None:  # fmt: skip
        self._model, self._version, self._outcome = model, version, outcome
        self._width, self._columns = len(reference.columns), columns_digest(reference.columns)
        self._window_ms, self._lateness_ms = window_ms, lateness_ms
        self._marks: dict[int, int] = {}
        """Partition of rankings → latest event time read of it"""
        self._waiting: dict[str, _Shown] = {}
        """By impression; a record that comes again changes nothing while the first one waits"""
        self._clicks: dict[str, list[int]] = {}
        self._new: list[_Shown] = []
        self.rows_ms = 0
        """Rankings before have all been read"""
        self.outcomes_ms = 0
        """Of what was shown before, the outcomes are known"""
        self.foreign = 0
        """Rankings of this version with features of other columns"""

    def ranking(self, partition: int, slate: SlateRanked) -> None:
        self._mark(partition, slate.at_ms)
        if (slate.model, slate.model_version) != (self._model, self._version) or slate.random:
            return
        fits = slate.features_version == VERSION and slate.columns in ("", self._columns)
        if not fits or not have_columns(slate.items, self._width):
            self.foreign += 1
            return
        for item in slate.items:
            known = slate.at_ms < self.outcomes_ms or item.impression_id in self._waiting
            if item.score is not None and not known:
                shown = _Shown(partition, slate.user_id, slate.at_ms, item.features, item.score)
                self._waiting[item.impression_id] = shown
                self._new.append(shown)

    def click(self, partition: int, event: OutcomeObserved) -> None:
        self.time(partition, event.at_ms)
        if event.outcome == self._outcome and event.at_ms >= self.outcomes_ms:
            self._clicks.setdefault(event.impression_id, []).append(event.at_ms)

    def time(self, partition: int, at_ms: int) -> None:
        """Event time has come so far, by a click or a heartbeat; the rankings before it must have been read."""
        if partition in self._marks:
            self._mark(partition, at_ms)

    def settle(self) -> None:
        """All that the log held was read, of every partition: time has come as far as the slowest of them."""
        self.rows_ms = max(min(self._marks.values(), default=0) - self._lateness_ms, self.rows_ms)
        self.outcomes_ms = max(self.rows_ms - self._window_ms, self.outcomes_ms)

    def rows(self) -> Rows | None:
        """What was shown since the last call."""
        new, self._new = self._new, []
        return Rows(*_columns(new, self._width)) if new else None

    def outcomes(self) -> Outcomes | None:
        """What has become known since the last call."""
        until = self.outcomes_ms
        due = {name: shown for name, shown in self._waiting.items() if shown.at_ms < until}
        clicked = [self._clicked(name, shown.at_ms) for name, shown in due.items()]
        for name in due:
            del self._waiting[name]
        self._clicks = {
            name: times for name, times in self._clicks.items() if name in self._waiting or max(times) >= until
        }
        if not due:
            return None
        users, at_ms, features, score = _columns(list(due.values()), self._width)
        return Outcomes(users, at_ms, features, score, np.array(clicked))

    def _clicked(self, impression: str, shown_ms: int) -> bool:
        return any(0 <= at_ms - shown_ms <= self._window_ms for at_ms in self._clicks.get(impression, ()))

    def _mark(self, partition: int, at_ms: int) -> None:
        self._marks[partition] = max(self._marks.get(partition, at_ms), at_ms)


def _columns(
    shown: list[_Shown], width: int
) -> tuple[list[str], NDArray[np.int64], NDArray[np.float32], NDArray[np.float64]]:
    return (
        [one.user for one in shown],
        np.array([one.at_ms for one in shown], dtype=np.int64),
        unpack_features(b"".join([one.features for one in shown]), width),
        np.array([one.score for one in shown], dtype=np.float64),
    )
