"""Rankings of one version of a model, and what became of them: rows and outcomes for its drift monitor. Pure.

An outcome is known when no click can come any more: when event time has passed the attribution window and the
lateness. A click may be read before its ranking, which comes by another topic; it waits until none can come. Rows wait
until all of their drift window have been read, and it is known which of its users are in the sample. Library: numpy.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from sluice.domain.drift import Outcomes, Reference, Rows
from sluice.domain.events import OutcomeObserved
from sluice.domain.rankings import SlateRanked, columns_digest, have_columns, unpack_features
from sluice.features import VERSION
from stream_processors.drift_sample import MOST_USERS, UserSample, zeros_of

__all__ = ["WHOLE", "Joiner", "Part"]

_CHUNK = 8192
"""Rows that are handed over at a time: what is made of them fits into a processor's cache"""


class Part(NamedTuple):
    """What of a version's rankings is watched."""

    variant: str = ""
    """Only what this variant showed; empty: any"""
    segment: str = ""
    """Only requests of this segment, as `history=new`; empty: all"""

    def holds(self, slate: SlateRanked) -> bool:
        return self.variant in ("", slate.variant) and (not self.segment or self.segment in slate.segments)

    @property
    def name(self) -> str:
        """As a report calls it; empty for the whole"""
        return " ".join([*([f"variant={self.variant}"] if self.variant else []), *filter(None, [self.segment])])


WHOLE = Part()


class _Shown(NamedTuple):
    impression: str
    user: str
    zeros: int
    at_ms: int
    features: bytes
    """As they were read: a log of days waits here"""
    score: float


class Joiner:
    """Keeps what was shown until its outcome is known."""

    def __init__(
        self, reference: Reference, model: str, version: str, *, window_ms: int, lateness_ms: int,
        drift_window_ms: int, part: Part = WHOLE, outcome: str = "click", most_users: int = MOST_USERS,
    ) -> None:  # fmt: skip
        """window_ms: for attribution. most_users: of a drift window; of more than that a sample is taken."""
        self._model, self._version, self._part, self._outcome = model, version, part, outcome
        self._width, self._columns = len(reference.columns), columns_digest(reference.columns)
        self._window_ms, self._lateness_ms, self._drift_window_ms = window_ms, lateness_ms, drift_window_ms
        self._sample = UserSample(drift_window_ms, most_users)
        self._marks: dict[int, int] = {}
        """Partition of rankings → latest event time read of it"""
        self._waiting: dict[str, _Shown] = {}
        """By impression; a record that comes again changes nothing while the first one waits"""
        self._clicks: dict[str, list[int]] = {}
        self._new: list[_Shown] = []
        self._given_ms = self._judged_ms = 0
        """Of what was shown before, the rows, and the outcomes, were handed over"""
        self.rows_ms = 0
        """Rankings before have all been read"""
        self.outcomes_ms = 0
        """Of what was shown before, the outcomes are known"""
        self.foreign = 0
        """Rankings of this version with features of other columns"""

    def passes_over(self, partition: int, user: str, at_ms: int) -> bool:
        """Whether a ranking need not be taken, since its user is not in the sample; then it is done with."""
        if self._sample.keeps(at_ms, zeros_of(user)):
            return False
        self._mark(partition, at_ms)
        return True

    def ranking(self, partition: int, slate: SlateRanked) -> None:
        self._mark(partition, slate.at_ms)
        mine = (slate.model, slate.model_version) == (self._model, self._version) and self._part.holds(slate)
        if not mine or slate.random:
            return
        fits = slate.features_version == VERSION and slate.columns in ("", self._columns)
        if not fits or not have_columns(slate.items, self._width):
            self.foreign += 1
            return
        zeros = zeros_of(slate.user_id)
        if slate.at_ms < self.outcomes_ms or not self._sampled(slate, zeros):
            return
        for item in slate.items:
            if item.score is not None and item.impression_id not in self._waiting:
                shown = _Shown(item.impression_id, slate.user_id, zeros, slate.at_ms, item.features, item.score)
                self._waiting[item.impression_id] = shown
                self._new.append(shown)

    def click(self, partition: int, event: OutcomeObserved) -> None:
        self.time(partition, event.at_ms)
        if event.outcome != self._outcome or event.at_ms < self.outcomes_ms:
            return
        if self._sample.keeps_any(event.at_ms - self._window_ms, event.at_ms, zeros_of(event.user_id)):
            self._clicks.setdefault(event.impression_id, []).append(event.at_ms)

    def time(self, partition: int, at_ms: int) -> None:
        """Event time has come so far, by a click or a heartbeat; the rankings before it must have been read."""
        if partition in self._marks:
            self._mark(partition, at_ms)

    def settle(self) -> None:
        """All that the log held was read, of every partition: time has come as far as the slowest of them."""
        self.rows_ms = max(min(self._marks.values(), default=0) - self._lateness_ms, self.rows_ms)
        self.outcomes_ms = max(self.rows_ms - self._window_ms, self.outcomes_ms)

    def rows(self) -> Iterator[Rows]:
        """What was shown, once: of the windows of which all were read."""
        until = self._begin(self.rows_ms)
        if until <= self._given_ms:
            return
        due = [shown for shown in self._new if shown.at_ms < until]
        self._new = [shown for shown in self._new if shown.at_ms >= until]
        self._given_ms = until
        for some in self._kept(due):
            yield self._table(some)

    def outcomes(self) -> Iterator[Outcomes]:
        """What became of it, once: of the windows of which all outcomes are known."""
        until = self._begin(self.outcomes_ms)
        if until <= self._judged_ms:
            return
        due = [shown for shown in self._waiting.values() if shown.at_ms < until]
        for some in self._kept(due):
            yield Outcomes(*self._table(some), np.array([self._clicked(shown) for shown in some]))
        for shown in due:
            del self._waiting[shown.impression]
        self._clicks = {
            name: times for name, times in self._clicks.items() if name in self._waiting or max(times) >= until
        }
        self._sample.forget(until)
        self._judged_ms = until

    def _sampled(self, slate: SlateRanked, zeros: int) -> bool:
        if slate.at_ms < self._given_ms:  # too late to change who is in the sample
            return self._sample.keeps(slate.at_ms, zeros)
        return self._sample.add(slate.at_ms, slate.user_id, zeros)

    def _kept(self, due: list[_Shown]) -> Iterator[list[_Shown]]:
        kept = [shown for shown in due if self._sample.keeps(shown.at_ms, shown.zeros)]
        for first in range(0, len(kept), _CHUNK):
            yield kept[first : first + _CHUNK]

    def _clicked(self, shown: _Shown) -> bool:
        return any(0 <= at_ms - shown.at_ms <= self._window_ms for at_ms in self._clicks.get(shown.impression, ()))

    def _begin(self, at_ms: int) -> int:
        return at_ms - at_ms % self._drift_window_ms

    def _mark(self, partition: int, at_ms: int) -> None:
        self._marks[partition] = max(self._marks.get(partition, at_ms), at_ms)

    def _table(self, shown: list[_Shown]) -> Rows:
        return Rows(
            [one.user for one in shown],
            np.array([one.at_ms for one in shown], dtype=np.int64),
            unpack_features(b"".join([one.features for one in shown]), self._width),
            np.array([one.score for one in shown], dtype=np.float64),
        )
