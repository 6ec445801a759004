"""Topic `decisions` as the one place where versions are given out.

Every analyzer reads the topic it writes, and all read the same order: of two records with the same version the
first counts. So whoever finds another's decision, or its own one too late, knows that somebody else decides.
Libraries: confluent-kafka (through sluice.adapters), msgspec.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from typing import cast

from sluice.adapters.kafka import KafkaError, Message, Producer, producer
from sluice.adapters.reader import TopicReader
from sluice.domain.events import DecisionMade, decode, encode
from sluice.errors import InvalidEvent, TransportError
from sluice.names import DECISIONS, MAX_LETTER_BYTES
from sluice.settings import Settings

__all__ = ["Journal", "find_decision"]

log = logging.getLogger(__name__)

TAIL = 1000
"""Records looked at first: whoever decides, decided lately."""
_HEADER = "analyzer"


class Journal:
    """The last decision of every experiment, and a way to append the next. Use as a context manager."""

    def __init__(self, settings: Settings, *, timeout_s: float = 15.0) -> None:
        self._settings = settings
        self._id = uuid.uuid4().hex.encode()
        self._timeout_s = timeout_s
        self._reader = TopicReader(settings, DECISIONS, from_start=False, last=TAIL, timeout_s=timeout_s)
        self._caught_up = False
        self._searched: set[str] = set()
        self._sent: set[tuple[str, int]] = set()
        self._failed: str = ""
        self._producer: Producer = producer(settings, {"message.max.bytes": MAX_LETTER_BYTES})
        self.last: dict[str, DecisionMade] = {}
        self.made_ms: dict[str, int] = {}
        """When the broker took the last one; for those found in the log's tail"""

    @property
    def caught_up(self) -> bool:
        """True once the decisions that were there at the start are known."""
        self._caught_up = self._caught_up or self._reader.caught_up
        return self._caught_up

    def poll(self) -> tuple[list[DecisionMade], set[str]]:
        """Read on. Returns our decisions that now stand, and the experiments for which somebody else decides.

        Raises TransportError when a decision could not be written.
        """
        live = self.caught_up
        accepted: list[DecisionMade] = []
        others: set[str] = set()
        self._producer.poll(0)
        if self._failed:
            raise TransportError(self._failed)
        for message in self._reader.poll(0):
            found = self._read(message)
            if found is None:
                continue
            decision, ours = found
            known = self.last.get(decision.experiment)
            stands = known is None or decision.version > known.version
            if stands:
                self.last[decision.experiment] = decision
                self.made_ms[decision.experiment] = message.timestamp()[1]
                if ours:
                    accepted.append(decision)
            if live and stands != ours:
                others.add(decision.experiment)
        return accepted, others

    def settled(self, experiment: str) -> bool:
        """Whether all we wrote for this experiment has been read back."""
        return not any(name == experiment for name, _ in self._sent)

    def recall(self, experiment: str) -> DecisionMade | None:
        """The last decision of `experiment`, looked for in the whole log when it is not among the recent ones."""
        if experiment not in self.last and experiment not in self._searched and not self._reader.whole:
            self._searched.add(experiment)
            found = find_decision(self._settings, experiment, None)
            if found is not None:
                self.last[experiment] = cast(DecisionMade, decode(found, DecisionMade))
        return self.last.get(experiment)

    def append(self, decision: DecisionMade) -> None:
        """Write a decision; it stands once `poll` returns it. Raises KafkaException when the client refuses it."""
        self._producer.produce(
            DECISIONS,
            key=decision.experiment,
            value=encode(decision),
            headers=[(_HEADER, self._id)],
            on_delivery=self._delivered,
        )
        self._sent.add((decision.experiment, decision.version))

    def close(self) -> None:
        """Wait shortly for what is on its way."""
        self._producer.flush(5)
        self._reader.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._failed = f"a decision could not be written: {error.str()}"

    def _read(self, message: Message) -> tuple[DecisionMade, bool] | None:
        """The decision of a record and whether we wrote it."""
        ours = (_HEADER, self._id) in (message.headers() or ())
        try:
            decision = cast(DecisionMade, decode(message.value(), DecisionMade))
        except InvalidEvent as error:
            extra = {"topic": DECISIONS, "partition": message.partition(), "offset": message.offset()}
            log.warning("topic %s: skipped offset %s: %s", DECISIONS, message.offset(), error, extra=extra)
            return None
        if ours:
            self._sent.discard((decision.experiment, decision.version))
        return decision, ours


def find_decision(settings: Settings, experiment: str, version: int | None) -> bytes | None:
    """The bytes of a decision as they stand in the log: of that version, or with None of the latest. None if absent.

    Reads backwards in growing steps. Raises TransportError when the broker is away.
    """
    last = TAIL
    while True:
        with TopicReader(settings, DECISIONS, from_start=False, last=last) as reader:
            newest: tuple[int, bytes] | None = None
            for number, value in _decisions(reader, experiment):
                if number == version:
                    return value
                # Of equal versions the first stands.
                if newest is None or number > newest[0]:
                    newest = number, value
            if version is None and newest is not None:
                return newest[1]
            if reader.whole or (version is not None and newest is not None and newest[0] < version):
                return None
        last *= 10


def _decisions(reader: TopicReader, experiment: str) -> Iterator[tuple[int, bytes]]:
    for message in reader.rest():
        value = message.value()
        if value is None or message.key() != experiment.encode():
            continue
        try:
            decision = cast(DecisionMade, decode(value, DecisionMade))
        except InvalidEvent:
            continue
        yield decision.version, value
