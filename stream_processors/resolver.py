"""The resolver: an existing click stream gets its assignments. `raw-impressions` → Redis → `impressions`.

Offsets are committed only after everything made of a batch is acknowledged. A repeat after a crash carries the
same ids, so the counting takes it for a duplicate. Libraries: confluent-kafka, msgspec.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from sluice.adapters.assignments import AssignmentStore
from sluice.adapters.catalogue import Catalogue, load
from sluice.adapters.kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
    consumer,
    partition_count,
    producer,
)
from sluice.adapters.metrics import Metrics
from sluice.adapters.reader import TopicReader
from sluice.adapters.redis import wait_for_redis
from sluice.domain.assignment import StoredAssignment
from sluice.domain.events import (
    MAX_EVENT_BYTES,
    Assignment,
    DeadLetter,
    Heartbeat,
    ImpressionShown,
    RawImpressionShown,
    UnitKind,
    encode,
)
from sluice.domain.experiment import Experiment
from sluice.errors import InvalidEvent, TransportError
from sluice.names import DEAD_LETTERS, EXPERIMENTS, IMPRESSIONS, MAX_LETTER_BYTES, RAW_IMPRESSIONS, Keys
from sluice.settings import Settings
from stream_processors.readings import Lags, end_of, lag_readings

__all__ = ["Output", "resolve_batch", "run_resolver"]

log = logging.getLogger(__name__)

BATCH = 2000
FLUSH_TIMEOUT_S = 60.0
FIRST_WAIT_S, LONGEST_WAIT_S = 0.1, 5.0

_decoder: msgspec.json.Decoder[RawImpressionShown | Heartbeat] = msgspec.json.Decoder(RawImpressionShown | Heartbeat)


@dataclass(frozen=True)
class Source:
    """One record of `raw-impressions` as it was read."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None


@dataclass
class Output:
    """What a batch becomes: (key, value, partition or −1 for the key's own), and what was counted."""

    impressions: list[tuple[bytes, bytes, int]] = field(default_factory=list)
    dead: list[tuple[bytes, bytes]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=lambda: {"resolved": 0, "unassigned": 0, "malformed": 0})


def resolve_batch(batch: Sequence[Source], experiments: Sequence[Experiment], store: AssignmentStore) -> Output:
    """Look every unit of the batch up in one round trip.

    An impression carries the assignments of those experiments that know its unit; with none of them it is a dead
    letter `unassigned`. Raises TransportError when Redis is away.
    """
    out = Output()
    found: list[tuple[Source, RawImpressionShown | Heartbeat]] = []
    units: dict[tuple[str, str], None] = {}
    for source in batch:
        try:
            event = _decode(source.value)
        except InvalidEvent as error:
            _bury(out, source, "malformed", str(error))
            continue
        found.append((source, event))
        if isinstance(event, RawImpressionShown):
            units.update(dict.fromkeys(_units(event, experiments)))
    known = dict(zip(units, store.lookup(list(units)), strict=True))
    for source, event in found:
        if isinstance(event, Heartbeat):
            out.impressions.append((b"", encode(event), source.partition))
        else:
            _resolve(out, source, event, experiments, known)
    return out


def run_resolver(settings: Settings, stop: threading.Event, metrics: Metrics | None = None) -> dict[str, int]:
    """Resolve until `stop` is set. Returns how many impressions were resolved, unassigned and malformed.

    `metrics` are told the same, and how far the log is ahead.

    Raises TransportError when a record cannot be delivered, or Redis or the broker is away at the start.
    """
    store = AssignmentStore(wait_for_redis(settings), Keys(settings.prefix))
    totals, told = Output().counts, metrics or Metrics("resolve")
    with _Experiments(settings) as experiments:
        # Tansu takes half the session timeout to let a member in.
        reader = consumer(settings, group=f"{settings.prefix}resolver", overrides={"session.timeout.ms": 6000})
        try:
            partition_count(reader, RAW_IMPRESSIONS)
            reached: dict[int, int] = {}
            lags: list[Lags] = [{}]
            reader.subscribe([RAW_IMPRESSIONS], on_revoke=lambda *_: reached.clear())
            sender = _Sender(settings)
            told.read_from(lambda: lag_readings("resolver", lags[0]), ready=lambda: True)
            while not stop.is_set():
                lags[0] = _lags(reader, reached)
                batch = [source for message in reader.consume(BATCH, 0.2) if (source := _source(message))]
                if not batch:
                    continue
                out = _patiently(batch, experiments, store, stop)
                if out is None:
                    break
                sender.send(out)
                ends = _ends(batch)
                _commit(reader, ends)
                reached |= ends
                for name, count in out.counts.items():
                    totals[name] += count
                    told.count("sluice_resolved_total", name, by=count)
                    if count and name != "resolved":
                        told.count("sluice_dead_letters_total", RAW_IMPRESSIONS, name, by=count)
        finally:
            told.stop_reading()
            reader.close()
    return totals


def _lags(reader: Consumer, reached: Mapping[int, int]) -> Lags:
    """reached: partition → next offset"""
    ends = {partition: end_of(reader, RAW_IMPRESSIONS, partition) for partition in reached}
    return {(RAW_IMPRESSIONS, p): max(0, end - reached[p]) for p, end in ends.items() if end is not None}


class _Experiments:
    """The catalogue as it stands now."""

    def __init__(self, settings: Settings) -> None:
        self._changes = TopicReader(settings, EXPERIMENTS, from_start=False)
        self._catalogue = Catalogue()
        self._catalogue.experiments = load(settings)

    def now(self) -> list[Experiment]:
        """Those that give assignments."""
        for message in self._changes.poll(0):
            self._catalogue.take(message)
        return [e for e in self._catalogue.experiments.values() if e.state.status == "running"]

    def __enter__(self) -> _Experiments:
        return self

    def __exit__(self, *_: object) -> None:
        self._changes.close()


class _Sender:
    def __init__(self, settings: Settings) -> None:
        self._producer = producer(settings, {"message.max.bytes": MAX_LETTER_BYTES})
        self._failure: str | None = None

    def send(self, out: Output) -> None:
        """Return once everything is acknowledged. Raises TransportError when something is not."""
        for key, value, partition in out.impressions:
            self._one(IMPRESSIONS, key, value, partition)
        for key, value in out.dead:
            self._one(DEAD_LETTERS, key, value, -1)
        missing = self._producer.flush(FLUSH_TIMEOUT_S)
        if self._failure is not None or missing:
            raise TransportError(f"a record could not be delivered: {self._failure or f'{missing} not acknowledged'}")

    def _one(self, topic: str, key: bytes, value: bytes, partition: int) -> None:
        while True:
            try:
                self._producer.produce(topic, value, key, partition, self._delivered)
                return
            except BufferError:
                self._producer.poll(0.1)

    def _delivered(self, error: KafkaError | None, _: Message) -> None:
        if error is not None:
            self._failure = error.str()


def _decode(value: bytes | None) -> RawImpressionShown | Heartbeat:
    if value is None:
        raise InvalidEvent("empty record")
    if len(value) > MAX_EVENT_BYTES:
        raise InvalidEvent(f"{len(value)} bytes exceed the limit of {MAX_EVENT_BYTES}")
    try:
        return _decoder.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidEvent(str(error)) from error


def _unit(event: RawImpressionShown, kind: UnitKind) -> str:
    """The unit's id, empty when the event does not say."""
    return {"user": event.user_id, "session": event.session_id, "slate": event.slate_id}[kind]


def _units(event: RawImpressionShown, experiments: Sequence[Experiment]) -> list[tuple[str, str]]:
    return [(e.name, unit) for e in experiments if (unit := _unit(event, e.unit))]


def _resolve(
    out: Output,
    source: Source,
    event: RawImpressionShown,
    experiments: Sequence[Experiment],
    known: dict[tuple[str, str], StoredAssignment | None],
) -> None:
    assignments = []
    for experiment in experiments:
        unit = _unit(event, experiment.unit)
        stored = known.get((experiment.name, unit))
        if stored is not None:
            assignments.append(
                Assignment(experiment.name, stored.variant, stored.allocation, unit, stored.propensity, experiment.unit)
            )
    if not assignments:
        units = ", ".join(f"{name}: {unit}" for name, unit in _units(event, experiments)) or "no experiment applies"
        _bury(out, source, "unassigned", units[:500])
        return
    impression = ImpressionShown(
        impression_id=event.impression_id,
        user_id=event.user_id,
        item_id=event.item_id,
        at_ms=event.at_ms,
        assignments=tuple(assignments),
        slate_id=event.slate_id,
        position=event.position,
    )
    out.impressions.append((source.key or event.user_id.encode(), encode(impression), -1))
    out.counts["resolved"] += 1


def _bury(out: Output, source: Source, reason: str, detail: str) -> None:
    letter = DeadLetter(
        topic=RAW_IMPRESSIONS,
        partition=source.partition,
        offset=source.offset,
        reason=reason,
        detail=detail,
        key=source.key or b"",
        value=source.value or b"",
    )
    out.dead.append((source.key or b"", encode(letter)))
    out.counts[reason] += 1


def _source(message: Message) -> Source | None:
    error = message.error()
    if error is not None:
        if error.fatal() or error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
            raise TransportError(f"topic {RAW_IMPRESSIONS}: {error.str()}")
        return None
    partition, offset = message.partition(), message.offset()
    assert partition is not None and offset is not None
    key, value = message.key(), message.value()
    return Source(partition, offset, _bytes(key), _bytes(value))


def _bytes(data: str | bytes | None) -> bytes | None:
    return data.encode() if isinstance(data, str) else data


def _patiently(
    batch: Sequence[Source], experiments: _Experiments, store: AssignmentStore, stop: threading.Event
) -> Output | None:
    """The batch resolved, however long Redis is away; None when `stop` is set meanwhile."""
    wait_s = FIRST_WAIT_S
    while not stop.is_set():
        try:
            return resolve_batch(batch, experiments.now(), store)
        except TransportError as error:
            if wait_s == FIRST_WAIT_S:
                log.warning("%s; retrying", error)
            stop.wait(wait_s)
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)
    return None


def _ends(batch: Sequence[Source]) -> dict[int, int]:
    """Partition → next offset"""
    ends: dict[int, int] = {}
    for source in batch:
        ends[source.partition] = max(ends.get(source.partition, 0), source.offset + 1)
    return ends


def _commit(reader: Consumer, ends: Mapping[int, int]) -> None:
    try:
        reader.commit(
            offsets=[TopicPartition(RAW_IMPRESSIONS, p, offset) for p, offset in ends.items()], asynchronous=False
        )
    except KafkaException as error:
        # The partition went to another resolver, or the broker is away: what is read again are duplicates.
        log.warning("offsets of %s not committed: %s", RAW_IMPRESSIONS, error.args[0].str())
