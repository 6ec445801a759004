"""Subscriptions: a topic as an iterator of typed events, sync and async. Library: confluent-kafka, by the reader."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Generic, Literal, TypedDict, TypeVar, Unpack, overload

import msgspec

from sluice import names
from sluice.adapters.catalogue import Catalogue
from sluice.adapters.kafka import Message
from sluice.adapters.reader import TopicReader
from sluice.domain.events import (
    AssignmentMade,
    DeadLetter,
    DecisionMade,
    Heartbeat,
    ImpressionShown,
    OutcomeObserved,
    RawImpressionShown,
    StatsPublished,
)
from sluice.domain.experiment import Experiment
from sluice.domain.lifecycle_events import LifecycleEvent
from sluice.domain.rankings import SlateRanked
from sluice.domain.shadow import ShadowCompared
from sluice.errors import ConfigError, InvalidEvent
from sluice.settings import Settings

__all__ = ["EVENT_TYPES", "AsyncSubscription", "Malformed", "Subscription", "subscribe", "subscribe_async"]

log = logging.getLogger(__name__)

E = TypeVar("E")

# Topic → what its records are. Heartbeats share the topics of events and are left out of what a subscriber sees.
EVENT_TYPES: dict[str, Any] = {
    names.DECISIONS: DecisionMade,
    names.VARIANT_STATS: StatsPublished,
    names.ASSIGNMENTS: AssignmentMade,
    names.IMPRESSIONS: ImpressionShown | Heartbeat,
    names.RAW_IMPRESSIONS: RawImpressionShown | Heartbeat,
    names.CLICKS: OutcomeObserved | Heartbeat,
    names.SHADOW: ShadowCompared,
    names.RANKINGS: SlateRanked,
    names.DEAD_LETTERS: DeadLetter,
    names.EXPERIMENTS: Experiment,
    names.LIFECYCLE: LifecycleEvent,
}

_HAS_EXPERIMENT = (
    names.DECISIONS,
    names.VARIANT_STATS,
    names.ASSIGNMENTS,
    names.IMPRESSIONS,
    names.EXPERIMENTS,
    names.SHADOW,
    names.RANKINGS,
)

# A batch read waits out its whole timeout, so this is also the greatest delay a subscriber adds.
_POLL_S = 0.05


class Malformed(msgspec.Struct, frozen=True):
    """A record that was skipped, and why."""

    topic: str
    partition: int
    offset: int
    reason: str


class Options(TypedDict, total=False):
    """The keyword arguments of `subscribe`, for type checkers."""

    experiment: str | None
    from_start: bool
    follow: bool
    settings: Settings | None
    on_malformed: Callable[[Malformed], None] | None


class Subscription(Generic[E], Iterator[E]):
    """The events of one topic, in order within each partition. Iterate over it, or take what is there with `poll`.

    Use it as a context manager, or `close` it; `close` may be called from any thread and ends an
    iteration that waits. Only one thread may read.
    """

    def __init__(
        self,
        topic: str,
        *,
        experiment: str | None = None,
        from_start: bool = False,
        follow: bool = True,
        settings: Settings | None = None,
        on_malformed: Callable[[Malformed], None] | None = None,
    ) -> None:
        _check(topic, experiment)
        self.topic = topic
        self.experiment = experiment
        self.skipped = 0
        """Malformed records passed over so far."""
        self._follow = follow
        self._on_malformed = on_malformed
        self._decode = msgspec.json.Decoder(EVENT_TYPES[topic]).decode
        self._ready: deque[E] = deque()
        self._versions: dict[str, int] = {}
        """Experiment → its latest decision seen."""
        self._catalogue = Catalogue()
        self._lock = threading.Lock()
        self._closed = False
        self._reader = TopicReader(settings or Settings.load(), topic, from_start=from_start)

    def __next__(self) -> E:
        while True:
            try:
                return self._ready.popleft()
            except IndexError:
                if not self._fill(_POLL_S):
                    raise StopIteration from None

    @property
    def caught_up(self) -> bool:
        """Whether everything that the topic held when this was made has been read."""
        return self._reader.caught_up

    def poll(self, timeout_s: float = 0.0) -> list[E]:
        """The events that arrived within `timeout_s`, perhaps none. Raises TransportError like iteration."""
        self._fill(timeout_s)
        return [self._ready.popleft() for _ in range(len(self._ready))]

    def batches(self) -> Iterator[list[E]]:
        """The same events in the lists they arrived in, none empty: for those who handle many at once."""
        while self._fill(_POLL_S):
            if events := self.poll():
                yield events

    def _fill(self, timeout_s: float) -> bool:
        """Read once. False when nothing more will ever come."""
        with self._lock:
            if self._closed or (not self._follow and self._reader.caught_up):
                return False
            for message in self._reader.poll(timeout_s):
                try:
                    event = self._event(message)
                except InvalidEvent as error:
                    self._skip(message, str(error))
                else:
                    if event is not None:
                        self._ready.append(event)
        return True

    def _event(self, message: Message) -> E | None:
        """None for what is no event of this subscription. Raises InvalidEvent."""
        value = message.value()
        try:
            if self.topic == names.EXPERIMENTS:
                name = self._catalogue.offer(message.key(), value)
                if name not in self._catalogue.experiments:
                    return None  # a deletion, or of two changes made at once the one that does not stand
                event: Any = self._catalogue.experiments[name]
            elif value is None:
                if self.topic == names.VARIANT_STATS:
                    return None  # a deletion in a compacted topic
                raise InvalidEvent("empty record")
            else:
                event = self._decode(value)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ConfigError) as error:
            raise InvalidEvent(str(error)) from error
        if isinstance(event, Heartbeat) or (self.experiment is not None and not _concerns(event, self.experiment)):
            return None
        if isinstance(event, DecisionMade):
            # Of two analyzers that decided at once, the later record does not stand: docs/adr/decision-versions.md.
            if event.version <= self._versions.get(event.experiment, -1):
                return None
            self._versions[event.experiment] = event.version
        return event  # type: ignore[no-any-return]

    def _skip(self, message: Message, reason: str) -> None:
        self.skipped += 1
        found = Malformed(self.topic, message.partition() or 0, message.offset() or 0, reason)
        if self._on_malformed is not None:
            self._on_malformed(found)
        else:
            log.warning("topic %s [%d] %d: skipped: %s", found.topic, found.partition, found.offset, reason)

    def close(self) -> None:
        """End the subscription; what was read but not yet taken is dropped. Safe to call twice."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._ready.clear()
                self._reader.close()

    def __enter__(self) -> Subscription[E]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncSubscription(Generic[E], AsyncIterator[E]):
    """`Subscription` for asyncio: one thread of its own reads, the event loop never waits for the broker.

    It connects when it is entered or first iterated. A cancelled wait (`asyncio.wait_for(anext(events), 1)`)
    loses no event: what the thread had read by then is returned next.
    """

    def __init__(self, connect: Callable[[], Subscription[E]]) -> None:
        self._connect = connect
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sluice-subscribe")
        self._inner: Subscription[E] | None = None
        self._closed = False

    @property
    def skipped(self) -> int:
        """Malformed records passed over so far."""
        return self._inner.skipped if self._inner is not None else 0

    def _open(self) -> Subscription[E]:
        # In the thread. A cancelled first call may come again: connect once.
        if self._inner is None:
            self._inner = self._connect()
        return self._inner

    def _fill(self) -> bool:
        return self._open()._fill(_POLL_S)

    async def __anext__(self) -> E:
        loop = asyncio.get_running_loop()
        while not self._closed:
            if self._inner is not None and self._inner._ready:
                return self._inner._ready.popleft()
            if not await loop.run_in_executor(self._thread, self._fill):
                break
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """End the subscription; a wait in another task ends within the time of one read. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        closing = asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown(wait=False)  # after what it has to do
        await asyncio.shield(closing)

    def _close(self) -> None:
        if self._inner is not None:
            self._inner.close()

    async def __aenter__(self) -> AsyncSubscription[E]:
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._open)
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def _check(topic: str, experiment: str | None) -> None:
    if topic not in EVENT_TYPES:
        raise ConfigError(f"topic: {topic!r}: allowed are {', '.join(EVENT_TYPES)}")
    if experiment is not None and topic not in _HAS_EXPERIMENT:
        raise ConfigError(f"topic {topic}: its records name no experiment; those of {', '.join(_HAS_EXPERIMENT)} do")


def _concerns(event: object, experiment: str) -> bool:
    match event:
        case DecisionMade() | AssignmentMade() | ShadowCompared() | SlateRanked():
            return event.experiment == experiment
        case StatsPublished():
            return any(cell.experiment == experiment for cell in event.cells)
        case ImpressionShown():
            return any(assignment.experiment == experiment for assignment in event.assignments)
        case Experiment():
            return event.name == experiment
    return False


# fmt: off
@overload
def subscribe(topic: Literal["decisions"], **options: Unpack[Options]) -> Subscription[DecisionMade]: ...
@overload
def subscribe(topic: Literal["variant-stats"], **options: Unpack[Options]) -> Subscription[StatsPublished]: ...
@overload
def subscribe(topic: Literal["assignments"], **options: Unpack[Options]) -> Subscription[AssignmentMade]: ...
@overload
def subscribe(topic: Literal["impressions"], **options: Unpack[Options]) -> Subscription[ImpressionShown]: ...
@overload
def subscribe(topic: Literal["raw-impressions"], **options: Unpack[Options]) -> Subscription[RawImpressionShown]: ...
@overload
def subscribe(topic: Literal["clicks"], **options: Unpack[Options]) -> Subscription[OutcomeObserved]: ...
@overload
def subscribe(topic: Literal["dead-letters"], **options: Unpack[Options]) -> Subscription[DeadLetter]: ...
@overload
def subscribe(topic: Literal["experiments"], **options: Unpack[Options]) -> Subscription[Experiment]: ...
@overload
def subscribe(topic: Literal["lifecycle"], **options: Unpack[Options]) -> Subscription[LifecycleEvent]: ...
@overload
def subscribe(topic: str, **options: Unpack[Options]) -> Subscription[Any]: ...
# fmt: on
def subscribe(
    topic: str,
    *,
    experiment: str | None = None,
    from_start: bool = False,
    follow: bool = True,
    settings: Settings | None = None,
    on_malformed: Callable[[Malformed], None] | None = None,
) -> Subscription[Any]:
    """Subscribe to a topic: every record, to every subscriber, as a frozen typed event.

    topic: `decisions`, `variant-stats`, `assignments`, `impressions`, `raw-impressions`, `clicks`,
        `dead-letters`, `shadow`, `rankings`, `experiments` or `lifecycle`.
    experiment: only events of this experiment, on topics whose records name one.
    from_start: begin with the oldest record kept; otherwise with what is written after this call returned.
    follow: go on for ever; otherwise end at what the topic held when the subscription began.
    settings: where the broker is; from `SLUICE_*` or a running `sluice infra up` by default.
    on_malformed: called for each record that is no event of the topic; by default one log line each.

    Versions of an experiment's decisions only grow: a record of a second analyzer that does not stand is left out.

    Returns an iterator that is also a context manager. Raises ConfigError for wrong use, TransportError when
    no broker answers within 15 s.
    """
    return Subscription(
        topic, experiment=experiment, from_start=from_start, follow=follow, settings=settings, on_malformed=on_malformed
    )


# fmt: off
@overload
def subscribe_async(topic: Literal["decisions"], **options: Unpack[Options]) -> AsyncSubscription[DecisionMade]: ...
@overload
def subscribe_async(
    topic: Literal["variant-stats"], **options: Unpack[Options]) -> AsyncSubscription[StatsPublished]: ...
@overload
def subscribe_async(topic: Literal["assignments"], **options: Unpack[Options]) -> AsyncSubscription[AssignmentMade]: ...
@overload
def subscribe_async(
    topic: Literal["impressions"], **options: Unpack[Options]) -> AsyncSubscription[ImpressionShown]: ...
@overload
def subscribe_async(
    topic: Literal["raw-impressions"], **options: Unpack[Options]) -> AsyncSubscription[RawImpressionShown]: ...
@overload
def subscribe_async(topic: Literal["clicks"], **options: Unpack[Options]) -> AsyncSubscription[OutcomeObserved]: ...
@overload
def subscribe_async(topic: Literal["dead-letters"], **options: Unpack[Options]) -> AsyncSubscription[DeadLetter]: ...
@overload
def subscribe_async(topic: Literal["experiments"], **options: Unpack[Options]) -> AsyncSubscription[Experiment]: ...
@overload
def subscribe_async(topic: Literal["lifecycle"], **options: Unpack[Options]) -> AsyncSubscription[LifecycleEvent]: ...
@overload
def subscribe_async(topic: str, **options: Unpack[Options]) -> AsyncSubscription[Any]: ...
# fmt: on
def subscribe_async(
    topic: str,
    *,
    experiment: str | None = None,
    from_start: bool = False,
    follow: bool = True,
    settings: Settings | None = None,
    on_malformed: Callable[[Malformed], None] | None = None,
) -> AsyncSubscription[Any]:
    """`subscribe` for asyncio: `async with` and `async for`. Same arguments and errors.

    Raises ConfigError for wrong use at once; TransportError when it is entered or first iterated.
    `on_malformed` is called in the reading thread.
    """
    _check(topic, experiment)
    return AsyncSubscription(
        partial(subscribe, topic, experiment=experiment, from_start=from_start, follow=follow,
                settings=settings, on_malformed=on_malformed)
    )  # fmt: skip
