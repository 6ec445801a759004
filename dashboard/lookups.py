"""Whole decision records, read back from topic `decisions` when somebody asks. Blocking. Library: confluent-kafka.

Older decisions are not kept in memory: their place in the topic is, or that of neighbours between which they lie.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from threading import Lock
from typing import NamedTuple

from dashboard.records import Recorded, read_decision
from sluice.adapters.kafka import KafkaException, Message
from sluice.adapters.reader import read_range
from sluice.errors import InvalidEvent, TransportError
from sluice.names import DECISIONS
from sluice.settings import Settings

__all__ = ["Found", "Lookups", "Span", "wall_ms"]

KEPT = 64
IDLE_S = 5.0


class Span(NamedTuple):
    """Where to look: records of one partition with start ≤ offset < stop."""

    partition: int
    start: int
    stop: int


class Found(NamedTuple):
    recorded: Recorded
    wall_ms: int


class Lookups:
    """Reads records of `decisions`. May be called from several threads."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._kept: OrderedDict[tuple[str, int], Found] = OrderedDict()
        self._lock = Lock()

    def forget(self) -> None:
        """The topic has begun anew."""
        with self._lock:
            self._kept.clear()

    def decision(self, experiment: str, version: int, span: Span) -> Found | None:
        """None when no such record lies in `span`. Raises TransportError, LogTruncated."""
        with self._lock:
            found = self._kept.get((experiment, version))
            if found is not None:
                self._kept.move_to_end((experiment, version))
                return found
        found = next(self._between(experiment, span, lambda recorded: recorded.version == version), None)
        if found is not None:
            with self._lock:
                self._kept[experiment, version] = found
                while len(self._kept) > KEPT:
                    self._kept.popitem(last=False)
        return found

    def decisions(self, experiment: str, first: int, before: int, span: Span) -> list[Found]:
        """Those with first ≤ version < before, oldest first. Raises TransportError, LogTruncated."""
        return list(self._between(experiment, span, lambda recorded: first <= recorded.version < before))

    def _between(self, experiment: str, span: Span, wanted: Callable[[Recorded], bool]) -> Iterator[Found]:
        """Records that stand: their versions only grow."""
        last = -1
        key = experiment.encode()
        try:
            for batch in read_range(self._settings, DECISIONS, span.partition, span.start, span.stop, idle_s=IDLE_S):
                for message in batch:
                    if message.key() != key:
                        continue
                    try:
                        recorded = read_decision(message.value())
                    except InvalidEvent:
                        continue
                    if recorded.experiment != experiment or recorded.version <= last:
                        continue
                    last = recorded.version
                    if wanted(recorded):
                        yield Found(recorded, wall_ms(message))
        except KafkaException as error:
            raise TransportError(f"topic {DECISIONS} cannot be read: {error.args[0].str()}") from error


def wall_ms(message: Message) -> int:
    """When the record was written, by the broker's clock; −1 where it does not say."""
    return int(message.timestamp()[1])
