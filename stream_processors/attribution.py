"""Attribution of clicks to impressions within one partition, as a function of its two logs alone.

Pure: records come in as objects with confluent-kafka's `Message` methods, and nothing is read but their
value, key, offset and broker timestamp. However the two topics are interleaved, batched or restarted,
the counters at offsets (a, b) are those of `stream_processors.recount` on impressions[:a] and clicks[:b].

    impression |--------- window ---------|   click: ^ counts   ' unmatched   " late (its own watermark)
               first                  first + window

The vocabulary (late, duplicate, eligible, unmatched, watermark, low-water) is defined in docs/counting.md.

Library: msgspec (small structs without garbage-collector headers).
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from msgspec import Struct

from sluice.domain.definitions import DELAY_BINS, MAX_OUTCOMES, OTHER, Definitions
from sluice.domain.events import MAX_EVENT_BYTES, DelayCohorts, Heartbeat, MovedUnits, OutcomeObserved, StatsCell
from stream_processors.counting import Counting
from stream_processors.decoding import (
    MALFORMED,
    Record,
    decode_click,
    decode_impression,
    offset_of,
    parse_assignments,
    size_problem,
)
from stream_processors.low_water import NEVER, Marks
from stream_processors.rows import Rows

__all__ = ["Attribution", "Rejected", "Settled"]


class Rejected(Struct, frozen=True):
    """A record on its way to the dead letters."""

    topic: str
    offset: int
    reason: str
    detail: str
    key: bytes
    value: bytes


class Settled(Struct, frozen=True):
    """What a batch changed: new totals of stored rows, and the records that were rejected."""

    units: dict[str, str]
    buckets: dict[str, str]
    rejected: list[Rejected]


class _Open(Struct, gc=False, eq=False):
    """An impression that may still be clicked or repeated."""

    first: int
    last: int
    """Largest time of a non-late record of this id in this window"""
    rows: Rows
    seen: int = 0
    """Bit i: outcome i without a value was counted"""
    valued: str | set[str] | None = None
    """`outcome:click_id` of counted outcomes with a value; one is the common case and costs no set"""


class _Waiting(Struct, gc=False, eq=False):
    """A click whose impression has not been read yet."""

    impression_id: str
    at_ms: int
    outcome: int
    click_id: str
    amount: int | None
    offset: int
    key: bytes
    value: bytes
    settled: bool = False


class Attribution:
    """The state of one partition between two commits. Not thread-safe."""

    def __init__(
        self,
        definitions: Definitions,
        *,
        impressions_offset: int = 0,
        clicks_offset: int = 0,
        outcomes: Iterable[str] = (),
        records: dict[str, int] | None = None,
        cells: Iterable[StatsCell] = (),
        moved: Iterable[MovedUnits] = (),
    ) -> None:
        """Starts at the given offsets with what the store holds for them; `rebuild` comes next if they are not 0."""
        self.definitions = definitions
        self.impressions_offset = impressions_offset
        self.clicks_offset = clicks_offset
        self.impressions_watermark = NEVER
        self.clicks_watermark = NEVER
        self.outcomes: dict[str, int] = {name: index for index, name in enumerate(outcomes)}
        self.records: dict[str, int] = dict(records or {})
        self.counting = Counting(cells, moved, tuple(self.outcomes))
        self.emitting = True
        self._open: dict[str, _Open] = {}
        self._reopened: dict[str, list[_Open]] = {}
        self._waiting: dict[str, list[_Waiting]] = {}
        self.waiting_count = 0
        self._rejected: list[Rejected] = []
        # Queues by time, in steps: when a step is due, what is in it is looked at once.
        self._step = max(1, (definitions.lateness_ms + definitions.window_ms) // 64)
        self._cohort_ms = definitions.cohort_ms
        self._closing: dict[int, list[str]] = {}
        self._slates_closing: dict[int, list[str]] = {}
        self._releasing: dict[int, list[_Waiting]] = {}
        self._impression_marks = Marks(impressions_offset, self._step)
        self._click_marks = Marks(clicks_offset, self._step)

    @property
    def open_count(self) -> int:
        return len(self._open) + len(self._reopened)

    @property
    def watermark(self) -> int:
        """The smaller of the two topics' watermarks."""
        return min(self.impressions_watermark, self.clicks_watermark)

    # -- reading -----------------------------------------------------------------------------------

    def read_impressions(self, records: Iterable[Record]) -> None:
        """Read the next records of the impressions log, in its order."""
        self._impression_marks.add(self.impressions_offset, self.impressions_watermark)
        counting, opened, waiting = self.counting, self._open, self._waiting
        make_rows, emitting = counting.rows, self.emitting
        skew, bucket_ms, step = self.definitions.skew_ms, self.definitions.bucket_ms, self._step
        cohort_ms = self._cohort_ms
        margin = self.definitions.lateness_ms
        reach = margin + self.definitions.window_ms
        watermark = self.impressions_watermark
        counted = duplicate = late = malformed = heartbeats = run = 0
        rows: Rows = ()
        last_raw, last_user, last_at = None, "", -1
        queue: list[str] = []
        slates: list[str] = []
        queue_from = queue_to = -1
        record = None
        for record in records:
            data = record.value()
            try:
                if data is None or len(data) > MAX_EVENT_BYTES:
                    raise msgspec.ValidationError(size_problem(data))
                event = decode_impression(data)
                at = event.at_ms
                if at > record.timestamp()[1] + skew and record.timestamp()[0]:
                    raise msgspec.ValidationError("event time lies beyond the broker's timestamp plus the skew")
                if type(event) is Heartbeat:
                    heartbeats += 1
                    if at > watermark:
                        watermark = at
                    continue
                raw = event.assignments
                if raw != last_raw:
                    made = parse_assignments(raw)
            except MALFORMED as error:
                malformed += 1
                self._reject("impressions", record, "malformed", str(error))
                continue
            if at > watermark:
                watermark = at
            elif at < watermark - margin:
                late += 1
                self._reject("impressions", record, "late", f"{watermark - at} ms behind the watermark")
                if raw != last_raw:
                    last_raw, last_user = raw, ""
                continue
            key = event.impression_id
            known = opened.get(key)
            if known is not None:
                if known.last >= watermark - reach:
                    duplicate += 1
                    if at > known.last:
                        known.last = at
                    if raw != last_raw:
                        last_raw, last_user = raw, ""
                    continue
                # The id came back after its window: the old entry may still wait for the clicks topic.
                self._reopened.setdefault(key, []).append(known)
            counted += 1
            if raw != last_raw or at != last_at or event.user_id != last_user:
                if run:
                    counting.add_impressions(rows, run)
                    run = 0
                last_raw, last_user, last_at = raw, event.user_id, at
                if not queue_from <= at < queue_to:
                    queue_from = at - at % step
                    queue_to = queue_from + step
                    queue = self._closing.setdefault(queue_from, [])
                    slates = self._slates_closing.setdefault(queue_from, [])
                rows = make_rows(made, last_user, at, at - at % bucket_ms, at - at % cohort_ms, emitting, slates)
            run += 1
            # `last_at` is equal and is shared by the whole slate.
            entry = opened[key] = _Open(last_at, last_at, rows)
            queue.append(key)
            if waiting and key in waiting:
                if run:
                    counting.add_impressions(rows, run)
                    run = 0
                self._join(key, entry)
        if run:
            counting.add_impressions(rows, run)
        if record is not None:
            self.impressions_offset = offset_of(record) + 1
        self.impressions_watermark = watermark
        self._tally("impressions.counted", counted)
        self._tally("impressions.duplicate", duplicate)
        self._tally("impressions.late", late)
        self._tally("impressions.malformed", malformed)
        self._tally("impressions.heartbeat", heartbeats)

    def read_clicks(self, records: Iterable[Record]) -> None:
        """Read the next records of the clicks log, in its order."""
        self._click_marks.add(self.clicks_offset, self.clicks_watermark)
        opened, names = self._open, self.outcomes
        apply, add_outcome = self._apply, self.counting.add_outcome
        skew, window, margin = self.definitions.skew_ms, self.definitions.window_ms, self.definitions.lateness_ms
        cohort_ms, last_bin = self._cohort_ms, DELAY_BINS - 1
        watermark = self.clicks_watermark
        counted = duplicate = late = malformed = heartbeats = 0
        record = None
        for record in records:
            data = record.value()
            try:
                if data is None or len(data) > MAX_EVENT_BYTES:
                    raise msgspec.ValidationError(size_problem(data))
                event = decode_click(data)
                at = event.at_ms
                if at > record.timestamp()[1] + skew and record.timestamp()[0]:
                    raise msgspec.ValidationError("event time lies beyond the broker's timestamp plus the skew")
            except MALFORMED as error:
                malformed += 1
                self._reject("clicks", record, "malformed", str(error))
                continue
            if at > watermark:
                watermark = at
            if type(event) is Heartbeat:
                heartbeats += 1
                continue
            if at < watermark - margin:
                late += 1
                self._reject("clicks", record, "late", f"{watermark - at} ms behind the watermark")
                continue
            outcome = names.get(event.outcome)
            if outcome is None:
                outcome = self._name(event.outcome)
                if outcome < 0:
                    continue
            key = event.impression_id
            entry = opened.get(key)
            if entry is None or not 0 <= (delay := at - entry.first) <= window:
                entry = self._other_window(key, at)
                if entry is None:
                    self._wait(event, outcome, record)
                    continue
                delay = at - entry.first
            amount = event.value_milli
            if amount is None:
                # The common case of `_apply`, without its call.
                bit = 1 << outcome
                if entry.seen & bit:
                    duplicate += 1
                else:
                    entry.seen |= bit
                    counted += 1
                    delay_bin = delay // cohort_ms
                    add_outcome(entry.rows, outcome, delay_bin if delay_bin < last_bin else last_bin)
            elif apply(entry, outcome, event.click_id, amount, at):
                counted += 1
            else:
                duplicate += 1
        if record is not None:
            self.clicks_offset = offset_of(record) + 1
        self.clicks_watermark = watermark
        self._tally("clicks.counted", counted)
        self._tally("clicks.duplicate", duplicate)
        self._tally("clicks.late", late)
        self._tally("clicks.malformed", malformed)
        self._tally("clicks.heartbeat", heartbeats)

    # -- joining -----------------------------------------------------------------------------------

    def _apply(self, entry: _Open, outcome: int, click_id: str, amount: int | None, at: int) -> bool:
        """Count an eligible click of `entry` unless it was counted before."""
        if amount is None:
            bit = 1 << outcome
            if entry.seen & bit:
                return False
            entry.seen |= bit
            delay_bin = min((at - entry.first) // self._cohort_ms, DELAY_BINS - 1)
            self.counting.add_outcome(entry.rows, outcome, delay_bin)
            return True
        name = f"{outcome}:{click_id}"
        valued = entry.valued
        if valued is None:
            entry.valued = name
        elif type(valued) is set:
            if name in valued:
                return False
            valued.add(name)
        elif valued == name:
            return False
        else:
            entry.valued = {valued, name}  # type: ignore[arg-type]
        self.counting.add_value(entry.rows, outcome, amount)
        return True

    def _other_window(self, key: str, at: int) -> _Open | None:
        """An earlier window of an id that came back. Windows of one id are disjoint, so at most one fits."""
        for entry in self._reopened.get(key, ()):
            if 0 <= at - entry.first <= self.definitions.window_ms:
                return entry
        return None

    def _wait(self, event: OutcomeObserved, outcome: int, record: Record) -> None:
        click = _Waiting(
            event.impression_id,
            event.at_ms,
            outcome,
            event.click_id,
            event.value_milli,
            offset_of(record),
            record.key() or b"",
            record.value() or b"",
        )
        self._waiting.setdefault(click.impression_id, []).append(click)
        self._releasing.setdefault(click.at_ms - click.at_ms % self._step, []).append(click)
        self.waiting_count += 1

    def _join(self, key: str, entry: _Open) -> None:
        """The impression has arrived: its waiting clicks that are eligible, in the order of their log."""
        window = self.definitions.window_ms
        kept = []
        for click in self._waiting[key]:
            if 0 <= click.at_ms - entry.first <= window:
                click.settled = True
                self.waiting_count -= 1
                first = self._apply(entry, click.outcome, click.click_id, click.amount, click.at_ms)
                self._tally("clicks.counted" if first else "clicks.duplicate", 1)
            else:
                kept.append(click)
        if kept:
            self._waiting[key] = kept
        else:
            del self._waiting[key]

    def _name(self, name: str) -> int:
        """Index of an outcome met for the first time; −1 for one that was never counted (see `Counting._cell`)."""
        if not self.emitting:
            return self.outcomes.get(OTHER, -1) if len(self.outcomes) > MAX_OUTCOMES else -1
        if name not in self.outcomes and len(self.outcomes) >= MAX_OUTCOMES:
            name = OTHER
        return self.outcomes.setdefault(name, len(self.outcomes))

    # -- closing -----------------------------------------------------------------------------------

    def release(self) -> None:
        """Declare unmatched every waiting click that no impression can reach any more. Before every commit."""
        limit = self.impressions_watermark - self.definitions.lateness_ms
        due: list[_Waiting] = []
        for start in [start for start in self._releasing if start < limit]:
            waiting = [click for click in self._releasing.pop(start) if not click.settled]
            due += [click for click in waiting if click.at_ms < limit]
            kept = [click for click in waiting if click.at_ms >= limit]
            if kept:
                self._releasing[start] = kept
        for click in due:
            click.settled = True
            if self.emitting:
                detail = "no impression of this id within the window before it"
                self._rejected.append(Rejected("clicks", click.offset, "unmatched", detail, click.key, click.value))
        for key in {click.impression_id for click in due}:
            left = [click for click in self._waiting[key] if not click.settled]
            if left:
                self._waiting[key] = left
            else:
                del self._waiting[key]
        self.waiting_count -= len(due)
        self._tally("clicks.unmatched", len(due))

    def settle(self) -> Settled:
        """Finish the batch: totals and sums move on, closed impressions are forgotten.

        After `release`, and, unless rebuilding, after what `counting.to_load` names was loaded.
        """
        units, buckets = self.counting.settle(self.emitting)
        rejected, self._rejected = self._rejected, []
        self._forget_closed()
        return Settled(units, buckets, rejected)

    def _forget_closed(self) -> None:
        limit = self.watermark - self.definitions.lateness_ms - self.definitions.window_ms
        opened, step = self._open, self._step
        for start in [start for start in self._closing if start + step <= limit]:
            for key in self._closing.pop(start):
                entry = opened.pop(key, None)
                if entry is not None and entry.last >= limit:
                    # Repeated, or opened again: it stays, and is looked at again in its time.
                    opened[key] = entry
                    self._closing.setdefault(entry.last - entry.last % step, []).append(key)
        for start in [start for start in self._slates_closing if start + step <= limit]:
            for key in self._slates_closing.pop(start):
                self.counting.slates.pop(key, None)
        if self._reopened:
            for key, entries in list(self._reopened.items()):
                kept = [entry for entry in entries if entry.last >= limit]
                if kept:
                    self._reopened[key] = kept
                else:
                    del self._reopened[key]
        self.counting.forget_idle()
        if self.watermark > NEVER:
            self.counting.cohorts.forget(self.definitions.cohorts_at(self.watermark)[0])

    def delays(self) -> DelayCohorts | None:
        """As of the last `settle`; None before both topics had an event."""
        if self.watermark == NEVER:
            return None
        return self.counting.cohorts.published(self.definitions, self.watermark, tuple(self.outcomes))

    # -- restarting --------------------------------------------------------------------------------

    def begin_rebuild(self, impressions_low: int, clicks_low: int) -> tuple[int, int]:
        """Go back to the low-waters with emission off. Returns the offsets to read up to, exclusive."""
        stored = self.impressions_offset, self.clicks_offset
        self.emitting = False
        self.impressions_offset, self.clicks_offset = impressions_low, clicks_low
        self._impression_marks = Marks(impressions_low, self._step)
        self._click_marks = Marks(clicks_low, self._step)
        return stored

    def end_rebuild(self, impressions_offset: int, clicks_offset: int) -> None:
        """Everything up to the stored offsets has been read again: release silently, then go on.

        Before it, `counting.load` takes the units that the store has of those that `counting.to_load` names.
        """
        self.release()
        self.settle()
        self.impressions_offset, self.clicks_offset = impressions_offset, clicks_offset
        self.emitting = True

    def low_water(self) -> tuple[int, int]:
        """(impressions, clicks) offsets from which a rebuild gives this state again."""
        limit = self.watermark - self.definitions.reach_back_ms
        return self._impression_marks.low(limit), self._click_marks.low(limit)

    # -- helpers -----------------------------------------------------------------------------------

    def _tally(self, name: str, count: int) -> None:
        if count and self.emitting:
            self.records[name] = self.records.get(name, 0) + count

    def _reject(self, topic: str, record: Record, reason: str, detail: str) -> None:
        if self.emitting:
            rejected = Rejected(topic, offset_of(record), reason, detail, record.key() or b"", record.value() or b"")
            self._rejected.append(rejected)
