"""The keeper of the features: what the log says of ended slates goes into the states in Redis, once each.

It holds no states of its own. A batch of ended slates reads the states it touches, learns, and is committed together
with the places from which the log must be read again (`sluice.adapters.features` says how that is atomic). After any
error `take_up` starts from what Redis says.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence

from sluice.adapters.features import FeatureKeeping, FeatureStore, KeeperProgress
from sluice.domain.definitions import Definitions
from sluice.errors import ConfigError
from sluice.features import VERSION, Catalogue, observe_slate
from sluice.names import CLICKS, IMPRESSIONS
from stream_processors.decoding import Record
from stream_processors.features import EndedSlate, Resume, SlateJoiner, decode_resume, encode_resume

__all__ = ["TOPICS", "FeatureKeeper"]

log = logging.getLogger(__name__)

TOPICS = (IMPRESSIONS, CLICKS)
MAX_BATCH = 2000
"""Slates of one commit"""
CATALOGUE_EVERY_MS = 2000
COMMIT_EVERY_MS = 1000
"""Where nothing was learned: the places still move on, and the progress says that somebody is there."""


class FeatureKeeper:
    """Call `take_up`, then `read` and `learn` in turns. Not thread-safe."""

    def __init__(
        self, store: FeatureStore, keeping: FeatureKeeping, definitions: Definitions, now_ms: Callable[[], int]
    ) -> None:
        """`now_ms`: the clock, for the progress and the pace of commits."""
        self._store = store
        self._keeping = keeping
        self._definitions = definitions
        self._now_ms = now_ms
        self._digest, self._catalogue = "", Catalogue()
        self._looked_ms = self._committed_ms = 0
        self.joiner = SlateJoiner(definitions, [], Resume())
        self.progress: KeeperProgress | None = None
        """As last committed; None before"""

    def take_up(self, starts: Sequence[tuple[int, int]]) -> bool:
        """Own the states, and stand where they were committed. False while there is no catalogue to learn with.

        starts: first offsets of (impressions, clicks) by partition. Raises TransportError when Redis is away,
        ConfigError when the states are those of another version of the features.
        """
        self._look_for_catalogue()
        if not self._digest:
            return False
        claimed = self._keeping.claim()
        if claimed.resume:
            resume = decode_resume(claimed.resume)
        else:
            resume = Resume() if claimed.until_ms < 0 else Resume.after(claimed.until_ms)
        if resume.features_version != VERSION:
            raise ConfigError(
                f"Redis holds features of version {resume.features_version}, this program keeps version {VERSION}: "
                "begin anew with `sluice features --rebuild`"
            )
        rules = (self._definitions.window_ms, self._definitions.lateness_ms)
        if resume.rules not in (None, rules):
            log.warning(
                "slates ended by window and lateness %s ms so far, by %s from now on: open ones are left out",
                resume.rules, rules,
            )  # fmt: skip
        self.joiner = SlateJoiner(self._definitions, starts, resume)
        return True

    def read(self, topic: int, partition: int, records: Iterable[Record]) -> None:
        """The next records of a topic (its index in `TOPICS`), from `joiner.offset` on."""
        if topic:
            self.joiner.read_clicks(partition, records)
        else:
            self.joiner.read_impressions(partition, records)

    def learn(self, lag: int) -> int:
        """Learn and commit a batch of what has ended; returns how many slates.

        lag: records of the log that were not read yet. Raises Fenced when another keeper has taken over,
        TransportError when Redis is away; then only `take_up` goes on.
        """
        now_ms = self._now_ms()
        if now_ms - self._looked_ms >= CATALOGUE_EVERY_MS:
            self._look_for_catalogue()
        ended = self.joiner.ended(MAX_BATCH)
        if ended or now_ms - self._committed_ms >= COMMIT_EVERY_MS:
            self._commit(ended, lag)
            self._committed_ms = now_ms
        return len(ended)

    def _commit(self, ended: Sequence[EndedSlate], lag: int) -> None:
        users = list(dict.fromkeys(slate.user for slate in ended))
        items = list(dict.fromkeys(item for slate in ended for item in slate.items))
        user_states, item_states = self._store.read(users, items) if ended else ([], [])
        by_user = dict(zip(users, user_states, strict=True))
        by_item = dict(zip(items, item_states, strict=True))
        for slate in ended:
            observe_slate(
                self._catalogue, by_user[slate.user], by_item, slate.items, slate.liked, slate.ratings_milli,
                slate.end_ms,
            )  # fmt: skip
        resume = self.joiner.resume()
        topic, partition = self.joiner.behind()
        progress = KeeperProgress(
            at_ms=self._now_ms(),
            applied_ms=-1 if resume.applied is None else resume.applied[0],
            final_ms=max(-1, self.joiner.final_ms),
            slates=resume.slates,
            lag=lag,
            behind=f"{TOPICS[topic]}[{partition}]",
        )
        self._keeping.commit(by_user, by_item, encode_resume(resume), progress)
        self.progress = progress

    def _look_for_catalogue(self) -> None:
        self._looked_ms = self._now_ms()
        found = self._store.catalogue(self._digest)
        if found is not None:
            self._digest, self._catalogue = found
            log.info("catalogue of %d items, %d genres", len(found[1].items), len(found[1].genres))
