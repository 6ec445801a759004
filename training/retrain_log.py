"""The log that training data is made of: rankings, impressions, outcomes between given offsets. Library: msgspec."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from sluice.adapters.kafka import KafkaException, consumer, end_offsets, partition_count
from sluice.adapters.reader import read_range
from sluice.domain.events import (
    Heartbeat,
    ImpressionShown,
    OutcomeObserved,
    clicks_decoder,
    decoded,
    impressions_decoder,
)
from sluice.domain.rankings import SlateRanked, have_columns, unpack_features
from sluice.errors import LogTruncated, TransportError
from sluice.names import CLICKS, IMPRESSIONS, RANKINGS
from sluice.settings import Settings

__all__ = ["Logged", "Offsets", "Row", "fingerprint_of", "log_offsets", "missing", "read_log"]

T = TypeVar("T")
TOPICS = (RANKINGS, IMPRESSIONS, CLICKS)
Offsets = dict[str, dict[int, tuple[int, int]]]
"""Topic → partition → (first offset read, offset after the last one)"""

_rankings = msgspec.json.Decoder(SlateRanked)


@dataclass(frozen=True, slots=True)
class Row:
    """One slate of the log; its items are rows of `Logged.features` from `first` on."""

    partition: int
    experiment: str
    user_id: str
    slate_id: str
    at_ms: int
    random: bool
    version: str
    """Of the model that ranked; empty for a rule"""
    items: tuple[tuple[str, str, float, float | None], ...]
    """(item id, impression id, probability that it was shown, score)"""
    first: int


@dataclass(eq=False)
class Logged:
    """What was read. Outcomes are joined elsewhere."""

    slates: list[Row] = field(default_factory=list)
    features: NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 0), dtype=np.float32))
    shown_ms: dict[str, int] = field(default_factory=dict)
    """Impression → its first event time"""
    clicks_ms: dict[str, list[int]] = field(default_factory=dict)
    """Impression → event times of the outcome"""
    watermark_ms: dict[int, int] = field(default_factory=dict)
    """Partition → event time that both impressions and clicks have reached"""
    malformed: int = 0
    foreign: int = 0
    """Rankings with features of other columns"""


def log_offsets(settings: Settings) -> Offsets:
    """What the three topics hold now; of the causes first, so that what follows from them is there as well.

    Raises TransportError when a topic is missing or the broker is away.
    """
    client = consumer(settings)
    try:
        return {
            topic: dict(sorted(end_offsets(client, topic, range(partition_count(client, topic))).items()))
            for topic in TOPICS
        }
    except KafkaException as error:
        raise TransportError(f"cannot read where the logs end: {error.args[0].str()}") from error
    finally:
        client.close()


def missing(wanted: Offsets, held: Offsets) -> list[str]:
    """A line for each partition that no longer holds, or does not hold yet, all that is wanted of it."""
    lines = []
    for topic, partitions in wanted.items():
        for partition, (start, stop) in partitions.items():
            low, high = held.get(topic, {}).get(partition, (0, 0))
            gone = [f"{a} to {b}" for a, b in ((start, min(stop, low)), (max(start, high), stop)) if a < b]
            lines += [f"{topic}[{partition}]: offsets {part} are missing" for part in gone]
    return lines


def fingerprint_of(offsets: Offsets, about: Mapping[str, object]) -> str:
    """16 hex digits of what was read and how it was cut."""
    text = json.dumps([offsets, about], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_log(
    settings: Settings, offsets: Offsets, *, columns: str, features_version: int, width: int, outcome: str,
    since_ms: int = 0, experiment: str = "", progress: Callable[[float], None] = lambda share: None,
) -> Logged:  # fmt: skip
    """The slates whose features have these columns, requested at `since_ms` or later, and what followed them.

    columns: digest of the names of the `width` columns. outcome: the one that is learned. Raises LogTruncated, naming
    what is missing, and TransportError.
    """
    lost = missing(offsets, log_offsets(settings))
    if lost:
        raise LogTruncated(f"the log does not hold what is asked for: {'; '.join(lost)}")
    reader = _Reader(columns, features_version, width, outcome, since_ms, experiment)
    total = sum(stop - start for of in offsets.values() for start, stop in of.values()) or 1
    done = 0
    takes = {RANKINGS: reader.ranking, IMPRESSIONS: reader.impression, CLICKS: reader.click}
    for topic, take in takes.items():
        for partition, (start, stop) in sorted(offsets[topic].items()):
            for batch in read_range(settings, topic, partition, start, stop):
                for message in batch:
                    take(partition, message.value())
                done += len(batch)
                progress(done / total)
    return reader.logged()


class _Reader:
    """Takes records one by one; what is no event is counted and passed over."""

    def __init__(
        self, columns: str, features_version: int, width: int, outcome: str, since_ms: int, experiment: str
    ) -> None:
        self._columns, self._version, self._width = columns, features_version, width
        self._outcome, self._since_ms, self._experiment = outcome, since_ms, experiment
        self._found = Logged()
        self._values = bytearray()
        self._seen: set[str] = set()
        self._marks: dict[str, dict[int, int]] = {IMPRESSIONS: {}, CLICKS: {}}

    def ranking(self, partition: int, value: bytes | None) -> None:
        slate = self._decoded(_rankings, value)
        if slate is None or slate.at_ms < self._since_ms or self._experiment not in ("", slate.experiment):
            return
        same = (slate.columns, slate.features_version) == (self._columns, self._version)
        if not same or not have_columns(slate.items, self._width):
            self._found.foreign += 1
            return
        new = [item for item in slate.items if item.impression_id not in self._seen]
        self._seen.update(item.impression_id for item in new)
        if not new:
            return
        first = len(self._values) // (4 * self._width)
        for item in new:
            self._values += item.features
        items = tuple([(item.item_id, item.impression_id, item.shown, item.score) for item in new])
        self._found.slates.append(
            Row(partition, slate.experiment, slate.user_id, slate.slate_id, slate.at_ms, slate.random,
                slate.model_version, items, first)
        )  # fmt: skip

    def impression(self, partition: int, value: bytes | None) -> None:
        event = self._decoded(impressions_decoder, value)
        if event is None:
            return
        self._mark(IMPRESSIONS, partition, event)
        if isinstance(event, ImpressionShown) and event.impression_id in self._seen:
            self._found.shown_ms.setdefault(event.impression_id, event.at_ms)

    def click(self, partition: int, value: bytes | None) -> None:
        event = self._decoded(clicks_decoder, value)
        if event is None:
            return
        self._mark(CLICKS, partition, event)
        if isinstance(event, OutcomeObserved) and event.outcome == self._outcome and event.impression_id in self._seen:
            self._found.clicks_ms.setdefault(event.impression_id, []).append(event.at_ms)

    def logged(self) -> Logged:
        found = self._found
        found.features = unpack_features(self._values, self._width)
        shown, clicks = self._marks[IMPRESSIONS], self._marks[CLICKS]
        found.watermark_ms = {p: min(shown[p], clicks[p]) for p in shown.keys() & clicks.keys()}
        return found

    def _mark(self, topic: str, partition: int, event: ImpressionShown | OutcomeObserved | Heartbeat) -> None:
        marks = self._marks[topic]
        marks[partition] = max(marks.get(partition, 0), event.at_ms)

    def _decoded(self, decoder: msgspec.json.Decoder[T], value: bytes | None) -> T | None:
        event = decoded(decoder, value)
        self._found.malformed += event is None
        return event
