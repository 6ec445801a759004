"""Threads that read Kafka and Redis and hand what they read to the event loop. Each goes on when its server is back.

Libraries: confluent-kafka and redis-py, through `sluice.adapters`.
"""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from sluice.adapters.checkpoints import ReplayStore, ReplayTruth
from sluice.adapters.drift import DriftBoard
from sluice.adapters.kafka import KafkaException, Message, consumer, partition_count
from sluice.adapters.log_ends import LogEnds
from sluice.adapters.reader import TopicReader
from sluice.adapters.redis import connect, ping
from sluice.domain.api_drift import DriftSeen
from sluice.errors import SluiceError
from sluice.live import LiveCounters, Snapshot
from sluice.names import CLICKS, DECISIONS, IMPRESSIONS, Keys
from sluice.settings import Settings

__all__ = ["CountsFeed", "EndsFeed", "Feed", "TopicFeed"]

log = logging.getLogger(__name__)

POLL_S = 0.05
BATCH = 200
BACKOFF_S = (0.25, 0.5, 1.0, 2.0, 4.0)
WATCHED_COUNTS_S, IDLE_COUNTS_S = 0.25, 2.0
WATCHED_ENDS_S, IDLE_ENDS_S = 0.5, 2.0
DRIFT_S = 5.0
ANSWER_S = 3.0
AHEAD_KB = "8192"
"""Fetched ahead: by default it would be 64 MiB, most of what the process holds"""


class Feed(ABC):
    """A thread that connects, reads, and begins again after an error, later and later up to 4 s."""

    def __init__(self, name: str, heard: Callable[[str | None], None]) -> None:
        """heard: called with what is wrong, or None once all is well again."""
        self._heard = heard
        self._stop = threading.Event()
        self._failures = 0
        self._thread = threading.Thread(target=self._run, name=f"dashboard-{name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def join(self, timeout_s: float) -> None:
        self._thread.join(timeout_s)

    def well(self) -> None:
        """The server has answered."""
        self._failures = 0
        self._heard(None)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.read()
            except SluiceError as error:
                self._failed(str(error))
            except KafkaException as error:
                self._failed(f"Kafka: {error.args[0].str()}")
            except Exception as error:
                log.exception("%s failed", self._thread.name)
                self._failed(f"{type(error).__name__}: {error}")

    def _failed(self, problem: str) -> None:
        if not self._stop.is_set():
            self._heard(problem)
        self._stop.wait(BACKOFF_S[min(self._failures, len(BACKOFF_S) - 1)])
        self._failures += 1

    @abstractmethod
    def read(self) -> None:
        """Connect and read until stopped; may raise SluiceError or KafkaException."""


class TopicFeed(Feed):
    """All of one topic, from its first record on, again and again when it begins anew."""

    def __init__(
        self,
        settings: Settings,
        topic: str,
        *,
        take: Callable[[list[Message]], None],
        begun: Callable[[], None],
        caught_up: Callable[[], None],
        heard: Callable[[str | None], None],
    ) -> None:
        """begun: called before the first record, and again when all records come once more."""
        super().__init__(topic, heard)
        config = {"queued.max.messages.kbytes": AHEAD_KB, **settings.kafka_config}
        self._settings, self._topic = replace(settings, kafka_config=config), topic
        self._take, self._begun, self._caught_up = take, begun, caught_up
        self._again = threading.Event()
        self.reached: dict[int, int] = {}
        """Partition → next offset"""

    def begin_again(self) -> None:
        self._again.set()

    def read(self) -> None:
        with TopicReader(self._settings, self._topic, from_start=True, timeout_s=ANSWER_S) as reader:
            self._again.clear()
            self.reached = {}
            self._begun()
            self.well()
            behind = True
            while not (self._stop.is_set() or self._again.is_set()):
                messages = reader.poll(POLL_S, BATCH)
                if messages:
                    self._take(messages)
                    for message in messages:
                        self.reached[message.partition() or 0] = (message.offset() or 0) + 1
                if behind and reader.caught_up:
                    behind = False
                    self._caught_up()


class EndsFeed(Feed):
    """How long the logs of impressions and clicks are, and whether topic `decisions` has begun anew."""

    def __init__(
        self,
        settings: Settings,
        decisions: TopicFeed,
        *,
        watched: Callable[[], bool],
        take: Callable[[Mapping[int, tuple[int, ...]]], None],
        heard: Callable[[str | None], None],
    ) -> None:
        super().__init__("ends", heard)
        self._settings, self._decisions = settings, decisions
        self._watched, self._take = watched, take

    def read(self) -> None:
        client = consumer(self._settings)
        try:
            partition_count(client, DECISIONS, ANSWER_S)
            with LogEnds(self._settings, (IMPRESSIONS, CLICKS)) as ends, LogEnds(self._settings, (DECISIONS,)) as log:
                while not self._stop.is_set():
                    partition_count(client, DECISIONS, ANSWER_S)  # answers sooner than the ends when nobody is there
                    reached = dict(self._decisions.reached)
                    self._take(ends.read())
                    held = log.read()
                    if any(held.get(partition, (0,))[0] < offset for partition, offset in reached.items()):
                        self._decisions.begin_again()
                    self.well()
                    self._stop.wait(WATCHED_ENDS_S if self._watched() else IDLE_ENDS_S)
        finally:
            client.close()


class CountsFeed(Feed):
    """The counters, what a replay knows and what drift monitors say, from Redis."""

    def __init__(
        self,
        settings: Settings,
        *,
        watched: Callable[[], bool],
        partitions: Callable[[], Sequence[int]],
        names: Callable[[], Sequence[str]],
        take: Callable[[Snapshot, Mapping[str, ReplayTruth]], None],
        see: Callable[[list[DriftSeen]], None],
        heard: Callable[[str | None], None],
    ) -> None:
        """partitions: those of `impressions`, none while unknown; names: experiments whose truth is asked for."""
        super().__init__("counts", heard)
        self._settings = settings
        self._watched, self._partitions, self._names, self._take = watched, partitions, names, take
        self._see, self._saw_s = see, -DRIFT_S

    def read(self) -> None:
        with connect(self._settings, timeout_s=ANSWER_S) as client:
            ping(client)
            store = ReplayStore(client, Keys(self._settings.prefix))
            drift = DriftBoard(client, Keys(self._settings.prefix))
            with LiveCounters(self._settings, known={}) as live:
                while not self._stop.is_set():
                    began_s = time.monotonic()
                    snapshot = live.snapshot(self._partitions() or None)
                    self._take(snapshot, store.truths(self._names()))
                    if began_s - self._saw_s >= DRIFT_S:
                        self._saw_s = began_s
                        self._see(drift.latest())
                    self.well()
                    pause_s = WATCHED_COUNTS_S if self._watched() else IDLE_COUNTS_S
                    self._stop.wait(max(pause_s / 5, began_s + pause_s - time.monotonic()))
