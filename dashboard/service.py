"""The dashboard without HTTP: feeds fill the board, what changes becomes events. `Service(settings)` wires it.

Threads read and decode; everything else happens in the event loop, so nothing needs a lock.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

from dashboard.board import Arrived, Board, Known
from dashboard.explaining import Explainer
from dashboard.feeds import CountsFeed, EndsFeed, Feed, TopicFeed
from dashboard.hub import Hub
from dashboard.live import WAITING, Live, now_ms
from dashboard.lives import Lives
from dashboard.lookups import Lookups, wall_ms
from dashboard.records import read_decision
from dashboard.timeline import Place
from sluice.adapters.catalogue import Catalogue
from sluice.adapters.checkpoints import ReplayTruth
from sluice.adapters.kafka import Message
from sluice.adapters.metrics import Metrics, Reading
from sluice.domain.api_drift import DriftSeen
from sluice.domain.events import decode
from sluice.domain.experiment import Experiment
from sluice.domain.lifecycle_events import LifecycleEvent
from sluice.errors import InvalidEvent
from sluice.live import Snapshot
from sluice.names import DECISIONS, EXPERIMENTS, LIFECYCLE
from sluice.settings import Settings

__all__ = ["Service"]

TICK_S = 0.25
"""Between two events of the same counters, or of the same line of the list"""
STATUS_S = 5.0
"""Between two events `status` when nothing changes"""
LAG_S = 1.0
TAKEN_S = 1.0
MOST_TRUTHS = 200
"""Experiments of which it is asked whether a replay knows their truth"""


class Service:
    """Reads `decisions`, `experiments`, `lifecycle` and Redis; writes nothing."""

    def __init__(self, settings: Settings) -> None:
        """Raises ConfigError when no broker or no Redis is configured."""
        settings.require_kafka(), settings.require_redis()
        self.settings = settings
        self.server = secrets.token_hex(4)
        self.board = Board()
        self.lives = Lives()
        self.live = Live(now_ms())
        self.hub = Hub(self.server)
        self.lookups = Lookups(settings)
        self.explainer = Explainer(settings)
        self._names: tuple[str, ...] = ()
        self._partitions: tuple[int, ...] = ()
        self._problems: dict[str, str | None] = {}
        self._dirty: set[str] = set()
        self._counted = False
        self._told_s, self._told_status = 0.0, ""
        self._caught_up: set[str] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ticking: asyncio.Task[None] | None = None
        self._feeds = self._make_feeds()
        self.metrics = Metrics("dashboard")
        self.metrics.read_from(self._readings, ready=lambda: self.ready, away=self._away)

    @property
    def ready(self) -> bool:
        """Both topics were read to their end, and both servers answer."""
        sources = self.live.sources
        return self._caught_up >= {DECISIONS, EXPERIMENTS} and sources.kafka.ok and sources.redis.ok

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        for feed in self._feeds:
            feed.start()
        self._ticking = asyncio.create_task(self._tick())

    async def close(self) -> None:
        """End streams, children and threads."""
        self.hub.close()
        for feed in self._feeds:
            feed.stop()
        if self._ticking is not None:
            self._ticking.cancel()
            await asyncio.gather(self._ticking, return_exceptions=True)
        await self.explainer.close()
        for feed in self._feeds:
            await asyncio.to_thread(feed.join, 5.0)

    def decision_event(self, known: Known, after: int) -> dict[str, Any]:
        """The latest decision, and the points of all after a version."""
        points = known.timeline.series(after=after, true_rates=self.live.true_rates(known.name))
        return {"experiment": known.name, "decision": known.view, "points": points}

    def entry_event(self, known: Known) -> dict[str, Any]:
        return {"entry": known.entry(), "experiment": known.configured, "state": known.state}

    def counters_event(self, known: Known) -> dict[str, Any]:
        counters = self.live.counters(known.name, known.primary, known.variants)
        return {"experiment": known.name, "counters": counters, "truth": self.live.truths.get(known.name)}

    def _readings(self) -> Reading:
        yield "sluice_dashboard_viewers", (), self.hub.viewers
        yield "sluice_dashboard_dropped_total", (), self.hub.lost

    def _away(self) -> dict[str, bool]:
        return {"kafka": not self.live.sources.kafka.ok, "redis": not self.live.sources.redis.ok}

    # What the feeds read, in their threads.

    def _make_feeds(self) -> list[Feed]:
        watched: Callable[[], bool] = lambda: self.hub.viewers > 0  # noqa: E731
        catalogue = _CatalogueReading(partial(self._post, self._define), partial(self._post, self._defined_all))
        decisions = TopicFeed(
            self.settings, DECISIONS, take=self._read_decisions,
            begun=partial(self._post, self._begin_again),
            caught_up=partial(self._post, self._reached_end, DECISIONS),
            heard=self._hearing("decisions"),
        )  # fmt: skip
        experiments = TopicFeed(
            self.settings, EXPERIMENTS, take=catalogue.take, begun=catalogue.begin, caught_up=catalogue.end,
            heard=self._hearing("experiments"),
        )  # fmt: skip
        # Of a broker without this topic everything else is shown.
        self._lives_feed = TopicFeed(
            self.settings, LIFECYCLE, take=self._read_lives, begun=partial(self._post, self._begin_lives_again),
            caught_up=lambda: None, heard=lambda _: None,
        )  # fmt: skip
        ends = EndsFeed(
            self.settings, decisions, watched=watched, take=partial(self._post, self._take_ends),
            heard=self._hearing("ends"),
        )  # fmt: skip
        counts = CountsFeed(
            self.settings, watched=watched, partitions=lambda: self._partitions, names=lambda: self._names,
            take=partial(self._post, self._take_counts), see=partial(self._post, self._see_drift),
            heard=partial(self._post, self._heard_redis),
        )  # fmt: skip
        return [decisions, experiments, self._lives_feed, ends, counts]

    def _read_decisions(self, messages: list[Message]) -> None:
        arrived, skipped = [], 0
        for message in messages:
            place = Place(message.partition() or 0, message.offset() or 0, wall_ms(message))
            try:
                arrived.append(Arrived(read_decision(message.value()), place))
            except InvalidEvent:
                skipped += 1
        taken = threading.Event()
        self._post(self._take_decisions, arrived, skipped)
        self._post(taken.set)
        taken.wait(TAKEN_S)  # of a long log no more is decoded than is taken

    def _read_lives(self, messages: list[Message]) -> None:
        events, skipped = [], 0
        for message in messages:
            try:
                events.append(cast(LifecycleEvent, decode(message.value() or b"", cast(Any, LifecycleEvent))))
            except InvalidEvent:
                skipped += 1
        self._post(self._take_lives, events, skipped)

    def _hearing(self, feed: str) -> Callable[[str | None], None]:
        self._problems[feed] = WAITING
        return partial(self._post, self._heard_kafka, feed)

    def _post(self, function: Callable[..., None], *arguments: Any) -> None:
        """Let the event loop do it."""
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(function, *arguments)

    # In the event loop.

    def _take_decisions(self, arrived: list[Arrived], skipped: int) -> None:
        self.board.skipped += skipped
        moved = self.board.take_decisions(arrived)
        watched = self.hub.watched()
        for name, versions in moved.items():
            known = self.board.find(name)
            assert known is not None
            if name not in watched or DECISIONS not in self._caught_up:
                self.hub.passed_over(name)
            else:
                self.hub.publish("decision", self.decision_event(known, versions[0] - 1), experiment=name)
        self._changed(moved)

    def _define(self, name: str, experiment: Experiment | None, at_ms: int) -> None:
        if self.board.define(name, experiment, at_ms) is None:
            self.hub.forget(f"entry:{name}")
            self.hub.publish("experiment", {"entry": None, "name": name})
        self._changed([name])

    def _defined_all(self, names: frozenset[str]) -> None:
        """The catalogue was read to its end: what it does not hold was deleted meanwhile."""
        for name in self.board.names():
            known = self.board.find(name)
            if known is not None and known.defined is not None and name not in names:
                self._define(name, None, 0)
        self._reached_end(EXPERIMENTS)

    def _reached_end(self, topic: str) -> None:
        self._caught_up.add(topic)
        self.hub.publish("reload", {"experiment": None})

    def _take_lives(self, events: list[LifecycleEvent], skipped: int) -> None:
        self.board.skipped += skipped
        self._tell_lives(self.lives.take(events))

    def _see_drift(self, seen: list[DriftSeen]) -> None:
        self._tell_lives(self.lives.see(seen))

    def _tell_lives(self, models: set[str]) -> None:
        for model in models:
            event = {"model": model, "lives": self.lives.views(model)}
            self.hub.publish("lifecycle", event, subject=f"lives:{model}")

    def _begin_lives_again(self) -> None:
        self.lives.forget_events()
        self.hub.publish("reload", {"experiment": None})

    def _begin_again(self) -> None:
        self._lives_feed.begin_again()
        self._caught_up.discard(DECISIONS)
        self.board.forget_decisions()
        self.lookups.forget()
        self.explainer.forget()
        self.hub.publish("reload", {"experiment": None})
        self._changed(self.board.names())

    def _changed(self, names: Any) -> None:
        self._dirty.update(names)
        self._names = tuple(self.board.names()[:MOST_TRUTHS])

    def _take_ends(self, ends: Mapping[int, tuple[int, ...]]) -> None:
        self._partitions = tuple(ends)
        self.live.take_ends(ends)

    def _take_counts(self, snapshot: Snapshot, truths: Mapping[str, ReplayTruth]) -> None:
        self._counted |= self.live.take_counts(snapshot, truths, now_ms(), time.monotonic())

    def _heard_redis(self, error: str | None) -> None:
        self.live.heard("redis", error, now_ms())

    def _heard_kafka(self, feed: str, error: str | None) -> None:
        self._problems[feed] = error
        self.live.heard(
            "kafka", next((found for found in self._problems.values() if found is not None), None), now_ms()
        )

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            for name in self._dirty:
                known = self.board.find(name)
                if known is not None:
                    self.hub.publish("experiment", self.entry_event(known), subject=f"entry:{name}")
            self._dirty.clear()
            if self._counted:
                self._counted = False
                for name in self.hub.watched():
                    known = self.board.find(name)
                    if known is not None:
                        event = self.counters_event(known)
                        self.hub.publish("counters", event, experiment=name, subject=f"counters:{name}")
            self._tell_status()

    def _tell_status(self) -> None:
        sources, lag = self.live.sources, self.live.lag()
        passed_s = time.monotonic() - self._told_s
        said, numbers = repr(sources), repr((lag.events, lag.events_per_s))
        before, _, told_numbers = self._told_status.partition("\n")
        if said != before or passed_s >= STATUS_S or (numbers != told_numbers and passed_s >= LAG_S):
            self._told_s, self._told_status = time.monotonic(), f"{said}\n{numbers}"
            self.hub.publish("status", {"sources": sources, "lag": lag, "now_ms": now_ms()}, subject="status")


class _CatalogueReading:
    """Topic `experiments`, in the thread of its feed."""

    def __init__(
        self, define: Callable[[str, Experiment | None, int], None], all_defined: Callable[[frozenset[str]], None]
    ) -> None:
        self._define, self._all_defined = define, all_defined
        self._catalogue = Catalogue()

    def begin(self) -> None:
        self._catalogue = Catalogue()

    def take(self, messages: list[Message]) -> None:
        for message in messages:
            name = self._catalogue.take(message)
            if name is not None:
                self._define(name, self._catalogue.experiments.get(name), wall_ms(message))

    def end(self) -> None:
        self._all_defined(frozenset(self._catalogue.experiments))
