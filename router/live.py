"""What a router follows: allocations from topic `decisions`, experiments from topic `experiments`."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import cast

from sluice.adapters.allocations import AllocationStore
from sluice.adapters.catalogue import Catalogue
from sluice.adapters.kafka import KafkaException, Message
from sluice.adapters.reader import TopicReader
from sluice.domain.events import DecisionMade, decode
from sluice.domain.experiment import Experiment
from sluice.errors import InvalidEvent, TransportError
from sluice.names import DECISIONS, EXPERIMENTS
from sluice.settings import Settings

__all__ = ["AllocationFollower", "CatalogueFollower"]

log = logging.getLogger(__name__)

FIRST_WAIT_S, LONGEST_WAIT_S = 0.1, 5.0


class _Follower:
    """Reads a topic in a background thread. A broker that goes away is retried with backoff: `start` runs again."""

    def __init__(self, topic: str, start: Callable[[], TopicReader], take: Callable[[Message], None]) -> None:
        """`start` gives a reader once everything before it is known; its errors reach the caller the first time."""
        self._topic = topic
        self._start = start
        self._take = take
        self._stop = threading.Event()
        reader = start()
        self._thread = threading.Thread(target=self._run, args=(reader,), name=f"router-{topic}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop and wait for the thread."""
        self._stop.set()
        self._thread.join(10)

    def _run(self, reader: TopicReader | None) -> None:
        wait_s = FIRST_WAIT_S
        while not self._stop.is_set():
            try:
                if reader is None:
                    reader = self._start()
                for message in reader.poll(0.2):
                    self._take(message)
                wait_s = FIRST_WAIT_S
            except (TransportError, KafkaException) as error:
                log.warning("topic %s: what is known stays in force: %s", self._topic, error)
                if reader is not None:
                    reader.close()
                    reader = None
                self._stop.wait(wait_s)
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)
        if reader is not None:
            reader.close()


class AllocationFollower:
    """Passes every allocation on.

    The value to start from comes from Redis, after the reader stands at the end of the topic: no decision is
    missed in between.
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
        self._experiments = frozenset(experiments)
        self._update = update
        self._timeout_s = timeout_s
        self._follower = _Follower(DECISIONS, self._begin, self._take)

    def follow(self, experiment: str) -> None:
        """Also start this one from the allocation in force. Raises TransportError when Redis is away."""
        self._experiments |= {experiment}
        self._recall(experiment)

    def close(self) -> None:
        """Stop and wait for the thread."""
        self._follower.close()

    def _begin(self) -> TopicReader:
        reader = TopicReader(self._settings, DECISIONS, from_start=False, timeout_s=self._timeout_s)
        try:
            for name in self._experiments:
                self._recall(name)
        except BaseException:
            reader.close()
            raise
        return reader

    def _recall(self, name: str) -> None:
        try:
            found = self._store.get(name)
        except InvalidEvent as error:
            log.warning("%s; starting from the allocation that %s is configured with", error, name)
            return
        if found is not None:
            self._update(name, *found)

    def _take(self, message: Message) -> None:
        try:
            decision = cast(DecisionMade, decode(message.value(), DecisionMade))
        except InvalidEvent as error:
            log.warning("topic %s: skipped a record: %s", DECISIONS, error)
            return
        if self._update(decision.experiment, decision.allocation_version, decision.allocation):
            log.info(
                "experiment %s: allocation %d", decision.experiment, decision.allocation_version,
                extra={"experiment": decision.experiment, "version": decision.allocation_version},
            )  # fmt: skip


class CatalogueFollower:
    """Passes every experiment on that is new, changed or deleted: its configuration, or its state alone."""

    def __init__(
        self,
        settings: Settings,
        changed: Callable[[str, Experiment | None], None],
        *,
        timeout_s: float = 15.0,
    ) -> None:
        """`changed` gets (name, experiment; None: deleted), of all that stand before this returns, later in a thread.

        Raises TransportError when the broker is away, and what `changed` raises.
        """
        self._settings = settings
        self._changed = changed
        self._timeout_s = timeout_s
        self._catalogue = Catalogue()
        self._follower = _Follower(EXPERIMENTS, self._begin, self._take)

    def close(self) -> None:
        """Stop and wait for the thread."""
        self._follower.close()

    def _begin(self) -> TopicReader:
        reader = TopicReader(self._settings, EXPERIMENTS, from_start=True, timeout_s=self._timeout_s)
        try:
            # Anew, and compared: what was deleted while the broker was away has left no record.
            catalogue = Catalogue()
            for message in reader.rest():
                catalogue.take(message)
            before, now = self._catalogue.experiments, catalogue.experiments
            failure: TransportError | None = None
            for name in sorted({*before, *now}):
                if before.get(name) != now.get(name):
                    try:
                        self._changed(name, now.get(name))
                    except TransportError as error:
                        failure = failure or error  # a new one that Redis must be asked for keeps no other from a pause
            if failure is not None:
                raise failure
            self._catalogue = catalogue
        except BaseException:
            reader.close()
            raise
        return reader

    def _take(self, message: Message) -> None:
        name = self._catalogue.take(message)
        if name is None:
            return
        experiment = self._catalogue.experiments.get(name)
        try:
            self._changed(name, experiment)
        except BaseException:
            self._catalogue.experiments.pop(name, None)  # so that the next start tells it again
            raise
        status = "deleted" if experiment is None else experiment.state.status
        log.info("experiment %s: %s", name, status, extra={"experiment": name})
