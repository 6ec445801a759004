"""A router's allocations, kept up to date from topic `decisions`."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import cast

from sluice.adapters.allocations import AllocationStore
from sluice.adapters.kafka import KafkaException
from sluice.adapters.reader import TopicReader
from sluice.domain.events import DecisionMade, decode
from sluice.errors import InvalidEvent, TransportError
from sluice.names import DECISIONS
from sluice.settings import Settings

__all__ = ["AllocationFollower"]

log = logging.getLogger(__name__)

LONGEST_WAIT_S = 5.0


class AllocationFollower:
    """Reads `decisions` in a background thread and passes every allocation on.

    The value to start from comes from Redis, after the reader stands at the end of the topic: no decision is
    missed in between. A broker that goes away is retried with backoff; the last allocation stays in force.
    """

    def __init__(
        self,
        settings: Settings,
        store: AllocationStore,
        experiments: Iterable[str],
        update: Callable[[str, int, Mapping[str, int]], bool],
        *,
        timeout_s: float = 15.0,
    ) -> None:
        """Returns once the allocations in force are known. Raises TransportError when that fails."""
        self._settings = settings
        self._store = store
        self._experiments = tuple(experiments)
        self._update = update
        self._stop = threading.Event()
        reader = self._start(timeout_s)
        self._thread = threading.Thread(target=self._run, args=(reader,), name="router-decisions", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop and wait for the thread."""
        self._stop.set()
        self._thread.join(10)

    def _start(self, timeout_s: float) -> TopicReader:
        reader = TopicReader(self._settings, DECISIONS, from_start=False, timeout_s=timeout_s)
        try:
            for name in self._experiments:
                try:
                    found = self._store.get(name)
                except InvalidEvent as error:
                    log.warning("%s; starting from the allocation that %s is configured with", error, name)
                    continue
                if found is not None:
                    self._update(name, *found)
        except BaseException:
            reader.close()
            raise
        return reader

    def _run(self, reader: TopicReader | None) -> None:
        wait_s = 0.1
        while not self._stop.is_set():
            try:
                if reader is None:
                    reader = self._start(15.0)
                self._read(reader)
                wait_s = 0.1
            except (TransportError, KafkaException) as error:
                log.warning("allocations stay as they are: %s", error)
                if reader is not None:
                    reader.close()
                    reader = None
                self._stop.wait(wait_s)
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)
        if reader is not None:
            reader.close()

    def _read(self, reader: TopicReader) -> None:
        for message in reader.poll(0.2):
            try:
                decision = cast(DecisionMade, decode(message.value(), DecisionMade))
            except InvalidEvent as error:
                log.warning("topic %s: skipped a record: %s", DECISIONS, error)
                continue
            if self._update(decision.experiment, decision.allocation_version, decision.allocation):
                log.info("experiment %s: allocation %d", decision.experiment, decision.allocation_version)
