"""Slates with their outcomes, in the one order in which the features learn them. Pure: no I/O, no clock.

What is learned is a function of the log alone, however the topics and partitions were interleaved, batched or
restarted. As in the counting, every topic partition has its own watermark W, the largest event time read so far on
well-formed records (heartbeats too), and records older than W − lateness are ignored. Everything up to
`final_ms = min W − lateness − 1` over all partitions of both topics is therefore known for good.

A slate is what one user was shown under one `slate_id` at one event time; an impression without `slate_id` is a slate
of its own. It ends with its last rating when every impression has one, else when its attribution window closes.

    impressions  a b c                      slate (a, b, c), shown at s
    clicks            a3   b5  c4           ends with c's rating: graded
    clicks            a3   b5       |s + w  c was never rated: ends with its window, clicked or not

Ended slates come out in order of (end, shown at, slate, user) once their end is final. Of a repeated impression the
first counts, as does the first rating; outcomes count within the window. An item without a rating has 5 stars when it
was clicked and 0 when it was not.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar

import msgspec
from msgspec import Raw, Struct

from sluice.domain.definitions import Definitions
from sluice.domain.events import MAX_EVENT_BYTES, Heartbeat, OutcomeObserved
from sluice.features.definition import MAX_RATING_MILLI, VERSION
from stream_processors.decoding import MALFORMED, Record, decode_click, decode_impression, offset_of, parse_assignments
from stream_processors.low_water import NEVER, Marks

__all__ = ["MAX_SLATE_ITEMS", "EndedSlate", "Order", "Resume", "SlateJoiner"]

MAX_SLATE_ITEMS = 1000
"""Of one slate the first so many are learned."""
CLICK, RATING = "click", "rating"
E = TypeVar("E")

Order = tuple[int, int, int, str, str, int, bool]
"""Of a slate: end, shown at, name of the slate by length and text (numbers in order), user, partition, whether it is
an impression of its own. Event times in ms."""


Key = tuple[int, str, str, int, bool]
"""Of a slate: shown at, name, user, partition, whether it is an impression of its own"""


class EndedSlate(NamedTuple):
    """What the features learn at once, in the form of `observe_slate`."""

    order: Order
    user: str
    items: tuple[str, ...]
    liked: tuple[bool, ...]
    ratings_milli: tuple[int, ...]

    @property
    def end_ms(self) -> int:
        return self.order[0]


class Resume(Struct, frozen=True, kw_only=True):
    """Where a successor reads on, when it holds the states of all slates up to `applied`."""

    applied: Order | None = None
    floor_ms: int = NEVER
    """Slates shown before are applied, or can no longer come"""
    impressions: tuple[int, ...] = ()
    """Next offset by partition: all that slates shown from `floor_ms` on need comes from there on"""
    clicks: tuple[int, ...] = ()
    slates: int = 0
    """Applied so far"""
    features_version: int = VERSION
    rules: tuple[int, int] | None = None
    """Window and lateness that slates ended by"""

    @classmethod
    def after(cls, until_ms: int) -> Resume:
        """Reads everything, and leaves out slates that had ended by `until_ms`."""
        return cls(applied=(until_ms, 2**62, 0, "", "", 0, False))


class _Open:
    """A slate that has not ended."""

    __slots__ = ("at_ms", "clicks", "closed", "grades", "items", "key")

    def __init__(self, key: Key) -> None:
        self.key = key
        self.at_ms = key[0]
        self.items: dict[str, str] = {}
        """Impression → item, in the order of the log"""
        self.grades: dict[str, tuple[int, int]] = {}
        """Impression → (at, thousandths) of its first rating"""
        self.clicks: dict[str, int] = {}
        """Impression → earliest click"""
        self.closed = False

    @property
    def graded(self) -> bool:
        """Every impression has a rating."""
        return len(self.grades) == len(self.items)


class _Topic:
    """One topic of one partition: where it is read, and its watermark."""

    __slots__ = ("marks", "offset", "watermark")

    def __init__(self, offset: int, step_ms: int) -> None:
        self.offset, self.watermark = offset, NEVER
        self.marks = Marks(offset, step_ms)


class _Partition:
    def __init__(self, impressions: _Topic, clicks: _Topic) -> None:
        self.impressions = impressions
        self.clicks = clicks
        self.open: dict[Key, _Open] = {}
        self.of_impression: dict[str, list[_Open]] = {}
        self.early: dict[str, list[OutcomeObserved]] = {}
        """Impression → its outcomes, in the order of the log, while it may still come"""
        self.early_until: list[tuple[int, str]] = []


class SlateJoiner:
    """All partitions of `impressions` and `clicks`. Feed records in the order of each log, then take what ended."""

    def __init__(self, definitions: Definitions, starts: Sequence[tuple[int, int]], resume: Resume) -> None:
        """starts: first offsets of (impressions, clicks) by partition, where `resume` names none."""
        self._window, self._lateness = definitions.window_ms, definitions.lateness_ms
        self._skew = definitions.skew_ms
        self._step = max(1, (self._window + self._lateness) // 16)
        self._partitions = [
            _Partition(
                *(
                    _Topic(known[p] if p < len(known) else first, self._step)
                    for known, first in zip((resume.impressions, resume.clicks), firsts, strict=True)
                )
            )
            for p, firsts in enumerate(starts)
        ]
        self._applied = resume.applied
        self._floor_ms = resume.floor_ms
        self._rules = (self._window, self._lateness)
        if self._applied is not None and resume.rules not in (None, self._rules):
            # Slates that are open now would end at other times: rather leave them out than learn one twice.
            self._floor_ms = max(self._floor_ms, self._applied[0] + 1)
        self._slates = resume.slates
        # (end, …) of open slates, also ends that no longer hold; and when open slates were shown.
        self._ends: list[tuple[Order, int, _Open]] = []
        self._shown: list[tuple[int, int, _Open]] = []
        self._made = 0

    # -- reading -----------------------------------------------------------------------------------

    def read_impressions(self, partition: int, records: Iterable[Record]) -> None:
        """Read the next records of the impressions log of one partition."""
        own = self._partitions[partition]
        topic = own.impressions
        topic.marks.add(topic.offset, topic.watermark)
        last_raw: Raw | bytes = b""
        for record in records:
            topic.offset = offset_of(record) + 1
            event = _decoded(record, decode_impression, self._skew)
            if event is None:
                continue
            if type(event) is not Heartbeat and event.assignments != last_raw:
                try:
                    parse_assignments(event.assignments)
                except MALFORMED:
                    continue
                last_raw = event.assignments
            topic.watermark = max(topic.watermark, event.at_ms)
            if (
                type(event) is not Heartbeat
                and event.at_ms >= topic.watermark - self._lateness
                and event.at_ms >= self._floor_ms
            ):
                name = event.slate_id or event.impression_id
                key = (event.at_ms, name, event.user_id, partition, not event.slate_id)
                self._show(own, key, event.impression_id, event.item_id)
        self._forget_early(own)

    def read_clicks(self, partition: int, records: Iterable[Record]) -> None:
        """Read the next records of the clicks log of one partition."""
        own = self._partitions[partition]
        topic = own.clicks
        topic.marks.add(topic.offset, topic.watermark)
        for record in records:
            topic.offset = offset_of(record) + 1
            event = _decoded(record, decode_click, self._skew)
            if event is None:
                continue
            topic.watermark = max(topic.watermark, event.at_ms)
            if type(event) is Heartbeat or event.at_ms < topic.watermark - self._lateness or not _told(event):
                continue
            for slate in own.of_impression.get(event.impression_id, ()):
                self._tell(slate, event)
            if event.at_ms >= own.impressions.watermark - self._lateness:
                own.early.setdefault(event.impression_id, []).append(event)
                heapq.heappush(own.early_until, (event.at_ms, event.impression_id))

    def _show(self, own: _Partition, key: Key, impression: str, item: str) -> None:
        slate = own.open.get(key)
        if slate is None:
            slate = own.open[key] = _Open(key)
            heapq.heappush(self._shown, (slate.at_ms, self._next(), slate))
            self._push(slate, slate.at_ms + self._window)
        elif impression in slate.items or len(slate.items) >= MAX_SLATE_ITEMS:
            return
        slate.items[impression] = item
        own.of_impression.setdefault(impression, []).append(slate)
        for event in own.early.get(impression, ()):
            self._tell(slate, event)

    def _tell(self, slate: _Open, event: OutcomeObserved) -> None:
        impression, at_ms = event.impression_id, event.at_ms
        if not slate.at_ms <= at_ms <= slate.at_ms + self._window:
            return
        if event.outcome == CLICK:
            slate.clicks[impression] = min(at_ms, slate.clicks.get(impression, at_ms))
        elif impression not in slate.grades and event.value_milli is not None:
            slate.grades[impression] = (at_ms, event.value_milli)
            if slate.graded:
                self._push(slate, self._end(slate))

    def _push(self, slate: _Open, end_ms: int) -> None:
        """A slate is pushed with every end it may have; the one that does not hold is passed over."""
        heapq.heappush(self._ends, (self._order(slate, end_ms), self._next(), slate))

    def _next(self) -> int:
        self._made += 1
        return self._made

    def _forget_early(self, own: _Partition) -> None:
        """An outcome whose impression would be late by now has either met it or waits in vain."""
        limit = own.impressions.watermark - self._lateness
        while own.early_until and own.early_until[0][0] < limit:
            _, impression = heapq.heappop(own.early_until)
            left = [event for event in own.early.get(impression, ()) if event.at_ms >= limit]
            if left:
                own.early[impression] = left
            else:
                own.early.pop(impression, None)

    # -- what has ended ----------------------------------------------------------------------------

    @property
    def final_ms(self) -> int:
        """Nothing of an event time up to this one can still come; below 0 until every topic partition has spoken."""
        return min(self._watermark(*place) for place in self.places()) - self._lateness - 1

    def behind(self) -> tuple[int, int]:
        """(0 for impressions and 1 for clicks, partition) that all others wait for."""
        return min(self.places(), key=lambda place: self._watermark(*place))

    def ahead(self, topic: int, partition: int) -> int:
        """Event time in ms by which this one is ahead of the one behind."""
        return self._watermark(topic, partition) - self._watermark(*self.behind())

    def places(self) -> list[tuple[int, int]]:
        """(0 for impressions and 1 for clicks, partition), all of them."""
        return [(topic, p) for p in range(len(self._partitions)) for topic in (0, 1)]

    def offset(self, topic: int, partition: int) -> int:
        """Next record to read."""
        return self._topic(topic, partition).offset

    def skip_to(self, topic: int, partition: int, offset: int) -> None:
        """Read on from `offset`, whatever lay before."""
        own = self._topic(topic, partition)
        own.offset, own.marks = offset, Marks(offset, self._step)

    @property
    def open(self) -> int:
        """Slates held."""
        return sum(len(own.open) for own in self._partitions)

    def ended(self, limit: int) -> list[EndedSlate]:
        """The next slates to learn, at most `limit`, in order. Each comes once: whoever takes them applies them."""
        final_ms = self.final_ms
        found: list[EndedSlate] = []
        while self._ends and self._ends[0][0][0] <= final_ms and len(found) < limit:
            order, _, slate = heapq.heappop(self._ends)
            if slate.closed or order[0] != self._end(slate):
                continue
            self._close(slate)
            if self._applied is None or order > self._applied:
                self._applied = order
                self._slates += 1
                found.append(self._learned(slate, order))
        return found

    def resume(self) -> Resume:
        """For a successor that holds everything `ended` has given."""
        while self._shown and self._shown[0][2].closed:
            heapq.heappop(self._shown)
        oldest = self._shown[0][0] if self._shown else self.final_ms + 1
        # Never back: the offsets only reach as far as the floor that they were taken with. What is read again from
        # there needs no watermark from before, which is < floor: a slate shown from the floor on is late or not
        # by what comes after.
        self._floor_ms = max(self._floor_ms, min(oldest, self.final_ms + 1))
        return Resume(
            applied=self._applied,
            floor_ms=self._floor_ms,
            impressions=tuple(own.impressions.marks.low(self._floor_ms) for own in self._partitions),
            clicks=tuple(own.clicks.marks.low(self._floor_ms) for own in self._partitions),
            slates=self._slates,
            rules=self._rules,
        )

    def _topic(self, topic: int, partition: int) -> _Topic:
        own = self._partitions[partition]
        return own.clicks if topic else own.impressions

    def _watermark(self, topic: int, partition: int) -> int:
        return self._topic(topic, partition).watermark

    def _end(self, slate: _Open) -> int:
        if slate.graded:
            return max(at_ms for at_ms, _ in slate.grades.values())
        return slate.at_ms + self._window

    def _order(self, slate: _Open, end_ms: int) -> Order:
        at_ms, name, user, partition, single = slate.key
        return end_ms, at_ms, len(name), name, user, partition, single

    def _close(self, slate: _Open) -> None:
        slate.closed = True
        own = self._partitions[slate.key[3]]
        del own.open[slate.key]
        for impression in slate.items:
            others = [other for other in own.of_impression[impression] if other is not slate]
            if others:
                own.of_impression[impression] = others
            else:
                del own.of_impression[impression]

    def _learned(self, slate: _Open, order: Order) -> EndedSlate:
        end_ms = order[0]
        liked = tuple(slate.clicks.get(impression, end_ms + 1) <= end_ms for impression in slate.items)
        ratings = tuple(
            slate.grades[impression][1] if impression in slate.grades else MAX_RATING_MILLI * one
            for impression, one in zip(slate.items, liked, strict=True)
        )
        return EndedSlate(order, slate.key[2], tuple(slate.items.values()), liked, ratings)


def _told(event: OutcomeObserved) -> bool:
    """Whether the outcome says something to the features."""
    if event.outcome == RATING:
        return event.value_milli is not None and 0 <= event.value_milli <= MAX_RATING_MILLI
    return event.outcome == CLICK


def _decoded(record: Record, decode: Callable[[bytes], E], skew_ms: int) -> E | None:
    """None when the record is malformed, as the counting understands it."""
    data = record.value()
    if data is None or len(data) > MAX_EVENT_BYTES:
        return None
    try:
        event = decode(data)
    except MALFORMED:
        return None
    kind, stamp_ms = record.timestamp()
    at_ms: int = event.at_ms  # type: ignore[attr-defined]
    return None if kind and at_ms > stamp_ms + skew_ms else event


encode_resume = msgspec.json.Encoder().encode
decode_resume = msgspec.json.Decoder(Resume).decode
