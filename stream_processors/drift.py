"""Watches versions of models on the topics `rankings` and `clicks`. Libraries: confluent-kafka, msgspec.

What a monitor knows is a function of the log: a watch that is started again reads it again and says the same.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import NamedTuple, TypeVar

import msgspec

from sluice.adapters.kafka import KafkaException, Producer, consumer, end_offsets, partition_count
from sluice.adapters.metrics import Reading
from sluice.adapters.mlflow import ModelRef, ModelVersion, Registry
from sluice.adapters.reader import read_range
from sluice.domain.drift import DriftOptions, DriftReport, Monitor, PerformanceMeasure
from sluice.domain.events import MAX_EVENT_BYTES, OutcomeObserved, clicks_decoder
from sluice.domain.lifecycle import event_id
from sluice.domain.lifecycle_events import DriftDetected
from sluice.domain.rankings import SlateRanked
from sluice.errors import LogTruncated, ModelUnusable, TransportError
from sluice.names import CLICKS, LIFECYCLE, RANKINGS
from sluice.settings import Settings
from stream_processors.drift_join import Joiner

__all__ = ["DriftWatch", "Following", "detected", "latest_served", "publish"]

log = logging.getLogger(__name__)

T = TypeVar("T")
_rankings = msgspec.json.Decoder(SlateRanked)


class _Watched(NamedTuple):
    joiner: Joiner
    monitor: Monitor


class DriftWatch:
    """The monitor of one version, and how far it has read."""

    def __init__(self, settings: Settings, registry: Registry, version: ModelVersion, options: DriftOptions) -> None:
        """Raises ModelUnusable when no reference was logged with the version, TransportError."""
        reference = registry.reference(version)
        self._settings, self.version = settings, version
        self._watched = _Watched(
            Joiner(
                reference, version.name, version.version, window_ms=settings.window_ms,
                lateness_ms=settings.lateness_ms,
            ),
            Monitor(reference, version.name, version.version, options),
        )  # fmt: skip
        self._next: dict[tuple[str, int], int] = {}
        self.malformed = 0
        self.rows = 0
        """That were shown, and taken"""
        self.checked_s = 0.0
        self.report = self._watched.monitor.report()

    def advance(self) -> DriftReport:
        """Read what the log holds now. Raises TransportError."""
        joiner, monitor = self._watched
        # Where clicks end is asked first: what they follow is then read before them.
        ends = {topic: _marks(self._settings, topic) for topic in (CLICKS, RANKINGS)}
        for partition, value in self._values(RANKINGS, ends[RANKINGS]):
            slate = self._decoded(_rankings, value)
            if slate is not None:
                joiner.ranking(partition, slate)
        if (rows := joiner.rows()) is not None:
            monitor.take(rows)
            self.rows += len(rows.score)
        for partition, value in self._values(CLICKS, ends[CLICKS]):
            event = self._decoded(clicks_decoder, value)
            if isinstance(event, OutcomeObserved):
                joiner.click(partition, event)
            elif event is not None:
                joiner.time(partition, event.at_ms)
        joiner.settle()
        if (outcomes := joiner.outcomes()) is not None:
            monitor.take_outcomes(outcomes)
        self.report = monitor.close_until(joiner.rows_ms, joiner.outcomes_ms)
        self.checked_s = time.time()
        if joiner.foreign:
            log.warning("%s: %d rankings have features of other columns", self.version, joiner.foreign)
            joiner.foreign = 0
        return self.report

    def readings(self) -> Reading:
        """For `/metrics`, on any thread."""
        report, labels = self.report, (self.version.name, self.version.version)
        yield "sluice_drift_drifted", labels, float(report.drifted)
        for one in report.features:
            if one.effect is not None:
                yield "sluice_drift_effect", (*labels, one.name), one.effect
        if self.checked_s:
            yield "sluice_drift_checked_timestamp_seconds", labels, self.checked_s

    def _values(self, topic: str, marks: dict[int, tuple[int, int]]) -> Iterator[tuple[int, bytes]]:
        for partition, (low, high) in marks.items():
            start = self._next.get((topic, partition), low)
            if start < low:
                text = f"{topic}[{partition}]: offset {start} is next, the log holds {low} to {high}"
                raise LogTruncated(f"{text}: start again to go on with what is there")
            for batch in read_range(self._settings, topic, partition, start, high):
                for message in batch:
                    yield partition, message.value() or b""
            self._next[topic, partition] = max(start, high)

    def _decoded(self, decoder: msgspec.json.Decoder[T], value: bytes) -> T | None:
        try:
            if len(value) > MAX_EVENT_BYTES:
                raise msgspec.DecodeError("too large")
            return decoder.decode(value)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self.malformed += 1
            return None


class Following:
    """The version that an alias points to, whichever that is, and what of its drift is published."""

    def __init__(self, settings: Settings, registry: Registry, ref: ModelRef, options: DriftOptions) -> None:
        """Raises as `DriftWatch`."""
        self._settings, self._registry, self._ref, self._options = settings, registry, ref, options
        self.watch = DriftWatch(settings, registry, registry.resolve(ref), options)
        self._told: set[str] = set()
        self._without = ""
        """Version that the alias points to and that has no reference"""

    def advance(self, now_ms: int) -> tuple[DriftReport, DriftDetected | None]:
        """The report, and the event that is to be published of it. Raises TransportError.

        Drift is published when it is seen, and once more when the version is seen to do worse than before.
        """
        self._follow()
        report = self.watch.advance()
        event = detected(report, self._ref.alias, now_ms)
        return report, None if event is None or event.id in self._told else event

    def published(self, event: DriftDetected) -> None:
        """It need not be published again."""
        self._told.add(event.id)

    def readings(self) -> Reading:
        """For `/metrics`, on any thread."""
        return self.watch.readings()

    def _follow(self) -> None:
        version = self._registry.resolve(self._ref) if self._ref.alias else self.watch.version
        if version.version in (self.watch.version.version, self._without):
            return
        try:
            self.watch = DriftWatch(self._settings, self._registry, version, self._options)
        except ModelUnusable as error:
            self._without = version.version
            log.warning("%s: its drift is not watched", error)
            return
        self._without = ""
        log.info("%s is watched: %s moved", version, self._ref)


def latest_served(settings: Settings) -> tuple[str, str] | None:
    """Model and version that ranked last, by event time; None when none did."""
    latest, found = -1, None
    for partition, (low, high) in _marks(settings, RANKINGS).items():
        for batch in read_range(settings, RANKINGS, partition, low, high):
            for message in batch:
                try:
                    slate = _rankings.decode(message.value() or b"")
                except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                    continue
                if slate.model and slate.at_ms > latest:
                    latest, found = slate.at_ms, (slate.model, slate.model_version)
    return found


def detected(report: DriftReport, alias: str, at_ms: int) -> DriftDetected | None:
    """What is published of a report; None while nothing drifted. The same drift has the same id, whoever says it."""
    if report.since_ms is None or report.began_ms is None:
        return None
    features = tuple(one.name for one in report.features if one.drifted)
    measures = {one.name: one.effect for one in report.features if one.drifted and one.effect is not None}
    performance = [one for one in report.performance.measures if one.drifted and one.value is not None]
    measures |= {one.name: one.value for one in performance if one.value is not None}
    reasons = [f"{one.name}: {one.value:.3f} instead of {one.expected:.3f}" for one in performance]
    reasons += [f"{name} is not what it was" for name in features[:10]]
    worse = any(map(_is_worse, performance))
    return DriftDetected(
        id=event_id("drift", report.model, report.version, report.since_ms, *(["worse"] if worse else [])),
        model=report.model, alias=alias, at_ms=at_ms, version=report.version, since_ms=report.began_ms,
        until_ms=report.since_ms, features=features, performance=report.performance.drifted, worse=worse,
        measures=measures, reasons=tuple(reasons),
    )  # fmt: skip


def _is_worse(one: PerformanceMeasure) -> bool:
    if one.value is None:
        return False
    return one.value > one.expected if one.name == "log_loss" else one.value < one.expected


def publish(client: Producer, event: DriftDetected) -> None:
    """Raises TransportError unless the broker has it."""
    failed: list[str] = []
    client.produce(
        LIFECYCLE, key=event.model.encode(), value=msgspec.json.encode(event),
        on_delivery=lambda error, _: failed.append(str(error)) if error else None,
    )  # fmt: skip
    if client.flush(30) or failed:
        raise TransportError(f"topic {LIFECYCLE}: {', '.join(failed) or 'not acknowledged within 30 s'}")


def _marks(settings: Settings, topic: str) -> dict[int, tuple[int, int]]:
    client = consumer(settings)
    try:
        return dict(end_offsets(client, topic, range(partition_count(client, topic))))
    except KafkaException as error:
        raise TransportError(f"topic {topic}: {error.args[0].str()}") from error
    finally:
        client.close()
