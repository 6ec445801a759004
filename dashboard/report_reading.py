"""What a report is made from: topics `decisions` and `experiments`, the counters in Redis. Reads, and writes nothing.

Library: confluent-kafka and redis-py, by `sluice.adapters`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

from dashboard.report_course import Course
from sluice.adapters import catalogue
from sluice.adapters.kafka import wait_for_broker
from sluice.adapters.reader import TopicReader
from sluice.adapters.redis import wait_for_redis
from sluice.adapters.shadow import ShadowStore
from sluice.domain.events import DecisionMade, decode
from sluice.domain.experiment import Experiment
from sluice.domain.shadow import ShadowFigures
from sluice.errors import ConfigError, InvalidEvent, SluiceError
from sluice.live import LiveCounters, Snapshot
from sluice.names import DECISIONS, Keys
from sluice.settings import Settings

__all__ = ["Counters", "Evidence", "read_evidence"]

REDIS_S = 5.0
"""Redis is asked for a part of the report alone: nobody waits long for it"""


@dataclass(frozen=True)
class Counters:
    """What Redis said: of everything counted so far, not of the moment of the decision."""

    snapshot: Snapshot
    shadows: tuple[ShadowFigures, ...]


@dataclass(frozen=True)
class Evidence:
    """All that a report rests on: equal evidence gives equal bytes."""

    decision: DecisionMade
    """The one that is reported on"""
    record: bytes
    """As it stands in the log"""
    place: tuple[int, int]
    """Partition and offset of the record in topic `decisions`"""
    written_ms: int
    """The broker's time of the record; −1 where the broker keeps none"""
    course: Course
    """Up to and including `decision`"""
    later: int
    """Version of the latest decision there is; that of `decision` unless an earlier one was asked for"""
    malformed: int
    """Records of the experiment that could not be read as decisions"""
    experiment: Experiment | None
    """As the catalogue has it now; None when it was deleted"""
    counters: Counters | None
    without_counters: str = ""
    """Why there are none"""


def read_evidence(
    settings: Settings, name: str, at: int | None = None, *, watch: Callable[[float], None] = lambda share: None
) -> Evidence:
    """The decisions of experiment `name` up to version `at` (default: all), in one pass over the topic.

    watch: is told the share of the topic that was read. Raises ConfigError for an experiment that nobody knows,
    SluiceError when there is no such decision, TransportError when the broker is away. Redis may be away.
    """
    wait_for_broker(settings)
    known = catalogue.load(settings)
    found = _Search(name, at)
    with TopicReader(settings, DECISIONS, from_start=True) as reader:
        total = sum(reader.ends.values())
        for number, message in enumerate(reader.rest()):
            if number % 1000 == 0 and total:
                watch(min(1.0, number / total))
            value = message.value()
            if value is not None and message.key() == name.encode():
                place = message.partition() or 0, message.offset() or 0
                found.take(value, place, message.timestamp()[1])
    if found.decision is None:
        raise _nothing(name, at, found, sorted(known))
    counters, reason = _counters(settings, name, known)
    return Evidence(
        decision=found.decision, record=found.record, place=found.place, written_ms=found.written_ms,
        course=found.course, later=found.later, malformed=found.malformed, experiment=known.get(name),
        counters=counters, without_counters=reason,
    )  # fmt: skip


class _Search:
    """The pass over the topic."""

    def __init__(self, name: str, at: int | None) -> None:
        self._name = name
        self._at = at
        self.course = Course()
        self.decision: DecisionMade | None = None
        self.record = b""
        self.place = (0, 0)
        self.written_ms = -1
        self.later = 0
        self.malformed = 0

    def take(self, value: bytes, place: tuple[int, int], written_ms: int) -> None:
        try:
            made = cast(DecisionMade, decode(value, DecisionMade))
        except InvalidEvent:
            self.malformed += 1
            return
        if made.experiment != self._name:
            self.malformed += 1
            return
        self.later = max(self.later, made.version)
        if self._at is not None and made.version > self._at:
            return
        if self.course.take(made) and self._at in (None, made.version):
            self.decision, self.record, self.place, self.written_ms = made, value, place, written_ms


def _nothing(name: str, at: int | None, found: _Search, known: list[str]) -> SluiceError:
    if found.later:
        return SluiceError(f"experiment {name} has no decision {at}; the latest one is {found.later}")
    if found.malformed:
        return SluiceError(f"experiment {name}: none of its {found.malformed} records on {DECISIONS} can be read")
    if name in known:
        return SluiceError(f"experiment {name} has no decision yet: `sluice analyze` makes them")
    there = ", ".join(known) or "none is applied"
    return ConfigError(f"experiment {name!r}: nobody knows it; there are: {there}")


def _counters(settings: Settings, name: str, known: Mapping[str, Experiment]) -> tuple[Counters | None, str]:
    if not settings.redis:
        return None, "no Redis was named"
    try:
        with wait_for_redis(settings, REDIS_S) as client:
            shadows = ShadowStore(client, Keys(settings.prefix)).figures(name)
        with LiveCounters(settings, known=known) as live:
            return Counters(live.snapshot(), tuple(shadows)), ""
    except SluiceError as error:
        return None, str(error)
