"""Topic `lifecycle` as the memory of one life: read from its start, appended to, read on.

Libraries: confluent-kafka (through sluice.adapters), msgspec.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Any, cast

from sluice.adapters.kafka import KafkaError, KafkaException, Message, producer
from sluice.adapters.reader import TopicReader
from sluice.domain.events import decode, encode
from sluice.domain.lifecycle import LifecycleState, fold
from sluice.domain.lifecycle_events import LifecycleEvent
from sluice.errors import ConfigError, InvalidEvent, TransportError
from sluice.names import LIFECYCLE
from sluice.settings import Settings

__all__ = ["Journal"]

log = logging.getLogger(__name__)

WAIT_S = 15.0


class Journal:
    """The state of the life of `model` behind `alias`, and a way to say what happened. Use as a context manager."""

    def __init__(self, settings: Settings, model: str, alias: str) -> None:
        """Returns once what the topic holds has been read. Raises TransportError."""
        self._model, self._alias, self._settings = model, alias, settings
        self._producer = producer(settings)
        self._reader = TopicReader(settings, LIFECYCLE, from_start=True)
        self.state = LifecycleState()
        self.events: list[LifecycleEvent] = []
        """Those of this life, in the order of the topic, once each"""
        try:
            self._take(self._reader.rest())
        except BaseException:
            self._reader.close()
            raise

    def catch_up(self) -> LifecycleState:
        """Read what the topic holds at this moment; the state after it. Raises TransportError."""
        try:
            with TopicReader(self._settings, LIFECYCLE, from_start=False) as there:
                ends = there.ends
        except KafkaException as error:
            raise TransportError(f"topic {LIFECYCLE}: {error.args[0].str()}") from error
        deadline = time.monotonic() + WAIT_S
        while not all(self._reader.reached(partition, end) for partition, end in ends.items()):
            if time.monotonic() > deadline:
                raise TransportError(f"topic {LIFECYCLE}: its end is not reached")
            self.poll(0.1)
        return self.state

    def poll(self, timeout_s: float = 0.0) -> LifecycleState:
        """Read on; the state after it."""
        self._take(self._reader.poll(timeout_s))
        return self.state

    def append(self, event: LifecycleEvent) -> LifecycleState:
        """Write `event` and read it back: what stood before it on the topic counts first.

        Raises ConfigError for an event that nobody could read (a text that is too long), TransportError.
        """
        value, failed = encode(event), list[str]()
        try:
            decode(value, cast(Any, LifecycleEvent))
        except InvalidEvent as error:
            raise ConfigError(f"{event.__struct_config__.tag}: {error}") from error

        def delivered(error: KafkaError | None, _: Message) -> None:
            if error is not None:
                failed.append(error.str())

        self._producer.produce(LIFECYCLE, key=self._model, value=value, on_delivery=delivered)
        if self._producer.flush(WAIT_S) or failed:
            raise TransportError(f"topic {LIFECYCLE}: {failed[0] if failed else 'not acknowledged'}")
        deadline = time.monotonic() + WAIT_S
        while event.id not in self.state.seen:
            if time.monotonic() > deadline:
                raise TransportError(f"topic {LIFECYCLE}: what was written is not read back")
            self.poll(0.1)
        return self.state

    def close(self) -> None:
        self._reader.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _take(self, messages: Iterable[Message]) -> None:
        """All of them at once: each fold copies what was seen."""
        fresh: dict[str, LifecycleEvent] = {}
        for message in messages:
            event = _event(message)
            if event is not None and event.model == self._model and event.alias in ("", self._alias):
                fresh.setdefault(event.id, event)
        new = [event for event in fresh.values() if event.id not in self.state.seen]
        if new:
            self.events += new
            self.state = fold(new, self.state)


def _event(message: Message) -> LifecycleEvent | None:
    if message.value() is None:
        return None
    try:
        return cast(LifecycleEvent, decode(message.value(), cast(Any, LifecycleEvent)))
    except InvalidEvent as error:
        log.warning("topic %s: skipped offset %s: %s", LIFECYCLE, message.offset(), error)
        return None
