"""Watches versions of models on the topics `rankings` and `clicks`. Libraries: confluent-kafka, msgspec.

What a monitor knows is a function of the log: a watch that is started again reads it again and says the same.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias

import msgspec

from sluice.adapters.kafka import KafkaException, Message, Producer, consumer, end_offsets, partition_count
from sluice.adapters.metrics import Reading
from sluice.adapters.mlflow import ModelRef, ModelVersion, Registry
from sluice.adapters.reader import read_range
from sluice.domain.drift import (
    DriftOptions,
    DriftReport,
    Monitor,
    PerformanceMeasure,
    SettlingMonitor,
    monitor_of,
)
from sluice.domain.events import OutcomeObserved, TimeMs, clicks_decoder, decoded
from sluice.domain.lifecycle import event_id
from sluice.domain.lifecycle_events import Breach, DriftDetected
from sluice.domain.rankings import SlateRanked
from sluice.errors import LogTruncated, ModelUnusable, TransportError
from sluice.names import CLICKS, LIFECYCLE, RANKINGS
from sluice.settings import Settings
from stream_processors.drift_join import WHOLE, Joiner, Part

__all__ = ["DriftWatch", "Following", "Told", "detected", "latest_served", "publish", "said_of"]

log = logging.getLogger(__name__)

Told: TypeAlias = DriftDetected | Breach


class _Head(msgspec.Struct, tag_field="type", tag="ranking", gc=False):
    """What tells whose ranking it is, and which model ranked last"""

    user_id: str
    at_ms: TimeMs
    model: str = ""
    model_version: str = ""


_heads = msgspec.json.Decoder(_Head)
_rankings = msgspec.json.Decoder(SlateRanked)


class _Watched(NamedTuple):
    joiner: Joiner
    monitor: Monitor | SettlingMonitor


class DriftWatch:
    """The monitor of one version, or of a part of what it shows, and how far it has read."""

    def __init__(
        self, settings: Settings, registry: Registry, version: ModelVersion, options: DriftOptions, part: Part = WHOLE
    ) -> None:
        """Raises ModelUnusable when no reference was logged with the version, TransportError."""
        reference = registry.reference(version)
        self._settings, self.version, self._part = settings, version, part
        self._watched = _Watched(
            Joiner(
                reference, version.name, version.version, window_ms=settings.window_ms,
                lateness_ms=settings.lateness_ms, drift_window_ms=options.window_ms, part=part,
            ),
            # A variant gets a share by chance, so its users are like all; a segment differs by what it is.
            monitor_of(reference, version.name, version.version, options, of_part=bool(part.segment)),
        )  # fmt: skip
        self._next: dict[tuple[str, int], int] = {}
        self.malformed = 0
        self.records = 0
        """That were read"""
        self.checked_s = 0.0
        self.report = self._named(self._watched.monitor.report())

    def advance(self, go_on: Callable[[], bool] = lambda: True) -> DriftReport:
        """Read what the log holds now. Raises TransportError.

        go_on: asked after each piece of work. When it says no, the look is given up, and the report is the last one.
        """
        (joiner, monitor), malformed = self._watched, self.malformed
        # Where clicks end is asked first: what they follow is then read before them.
        ends = {topic: _marks(self._settings, topic) for topic in (CLICKS, RANKINGS)}
        for topic, take in ((RANKINGS, self._ranking), (CLICKS, self._click)):
            for partition, batch in self._batches(topic, ends[topic]):
                for message in batch:
                    take(partition, message)
                self.records += len(batch)
                if not go_on():
                    return self.report
        joiner.settle()
        for rows in joiner.rows():
            monitor.take(rows)
            go_on()
        for outcomes in joiner.outcomes():
            monitor.take_outcomes(outcomes)
            go_on()
        self.report = self._named(monitor.close_until(joiner.rows_ms, joiner.outcomes_ms))
        self.checked_s = time.time()
        if joiner.foreign:
            log.warning("%s: %d rankings have features of other columns", self.version, joiner.foreign)
            joiner.foreign = 0
        if self.malformed > malformed:
            text = "%s: %d records are malformed, or lie ahead of the broker's clock"
            log.warning(text, self.version, self.malformed - malformed)
        return self.report

    def readings(self) -> Reading:
        """For `/metrics`, on any thread."""
        report, labels = self.report, (self.version.name, self.version.version, self._part.name)
        yield "sluice_drift_drifted", labels, float(report.drifted)
        yield "sluice_drift_settling", labels, float(report.settling is not None)
        for one in report.features:
            if one.effect is not None:
                yield "sluice_drift_effect", (*labels, one.name), one.effect
        if self.checked_s:
            yield "sluice_drift_checked_timestamp_seconds", labels, self.checked_s

    def _named(self, report: DriftReport) -> DriftReport:
        return msgspec.structs.replace(report, part=self._part.name)

    def _batches(self, topic: str, marks: dict[int, tuple[int, int]]) -> Iterator[tuple[int, list[Message]]]:
        for partition, (low, high) in marks.items():
            start = self._next.get((topic, partition), low)
            if start < low:
                text = f"{topic}[{partition}]: offset {start} is next, the log holds {low} to {high}"
                raise LogTruncated(f"{text}: begin again, to go on with what is there")
            for batch in read_range(self._settings, topic, partition, start, high):
                yield partition, batch
            self._next[topic, partition] = max(start, high)

    def _ranking(self, partition: int, message: Message) -> None:
        joiner, value = self._watched.joiner, message.value()
        head = decoded(_heads, value)
        if head is None or self._ahead(message, head.at_ms):
            self.malformed += 1
        elif not joiner.passes_over(partition, head.user_id, head.at_ms):
            slate = decoded(_rankings, value)
            if slate is None:
                self.malformed += 1
            else:
                joiner.ranking(partition, slate)

    def _click(self, partition: int, message: Message) -> None:
        joiner, event = self._watched.joiner, decoded(clicks_decoder, message.value())
        if event is None or self._ahead(message, event.at_ms):
            self.malformed += 1
        elif isinstance(event, OutcomeObserved):
            joiner.click(partition, event)
        else:
            joiner.time(partition, event.at_ms)

    def _ahead(self, message: Message, at_ms: int) -> bool:
        """Beyond the broker's clock, which is malformed as in the counts: it would close all windows for ever."""
        kind, stamp_ms = message.timestamp()
        return bool(kind) and at_ms > stamp_ms + self._settings.skew_ms


class Following:
    """The version that an alias points to, whichever that is, and what of its drift is published."""

    def __init__(
        self, settings: Settings, registry: Registry, ref: ModelRef, options: DriftOptions, part: Part = WHOLE
    ) -> None:
        """Raises as `DriftWatch`."""
        self._settings, self._registry, self._ref, self._options, self._part = settings, registry, ref, options, part
        self.watch = DriftWatch(settings, registry, registry.resolve(ref), options, part)
        self._told: set[str] = set()
        self._without = ""
        """Version that the alias points to and that has no reference"""

    def advance(self, now_ms: int, go_on: Callable[[], bool] = lambda: True) -> tuple[DriftReport, list[Told]]:
        """The report, and the events that are to be published of it. go_on: as of `DriftWatch`. Raises TransportError.

        Of a part nothing is published: the life of a model is of all that it shows.
        """
        self._follow()
        report = self.watch.advance(go_on)
        events = [] if report.part else detected(report, self._ref.alias, now_ms)
        return report, [event for event in events if event.id not in self._told]

    def published(self, event: Told) -> None:
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
            self.watch = DriftWatch(self._settings, self._registry, version, self._options, self._part)
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
                head = decoded(_heads, message.value())
                if head is not None and head.model and head.at_ms > latest:
                    latest, found = head.at_ms, (head.model, head.model_version)
    return found


def detected(report: DriftReport, alias: str, at_ms: int) -> list[Told]:
    """What is published of a report; nothing while nothing drifted. The same has the same id, whoever says it.

    Drift of a version is one event. When the version is seen to do worse only later, a breach says that: it takes back
    a version that was promoted lately, and asks for no other training.
    """
    if report.since_ms is None or report.began_ms is None:
        return []
    features = tuple(one.name for one in report.features if one.drifted)
    measures = {one.name: one.effect for one in report.features if one.drifted and one.effect is not None}
    performance = [one for one in report.performance.measures if one.drifted and one.value is not None]
    values = {one.name: one.value for one in performance if one.value is not None}
    reasons = [f"{one.name}: {one.value:.3f} instead of {one.expected:.3f}" for one in performance]
    worse = [one.since_ms for one in performance if _is_worse(one)]
    found: list[Told] = [
        DriftDetected(
            id=event_id("drift", report.model, report.version, report.since_ms), model=report.model, alias=alias,
            at_ms=at_ms, version=report.version, since_ms=report.began_ms, until_ms=report.since_ms, features=features,
            performance=report.performance.drifted, worse=report.since_ms in worse, measures=measures | values,
            reasons=(*reasons, *(f"{name} is not what it was" for name in features[:10])),
        )
    ]  # fmt: skip
    if worse and report.since_ms not in worse:
        found.append(
            Breach(
                id=event_id("worse", report.model, report.version, report.since_ms), model=report.model, alias=alias,
                at_ms=at_ms, cause=found[0].id, version=report.version, reason="; ".join(reasons), measures=values,
            )
        )  # fmt: skip
    return found


def _is_worse(one: PerformanceMeasure) -> bool:
    if one.value is None:
        return False
    return one.value > one.expected if one.name == "log_loss" else one.value < one.expected


def said_of(event: Told) -> str:
    """In words, for a log"""
    if isinstance(event, DriftDetected):
        return f"has drifted: {'; '.join(event.reasons)}"
    return f"does worse than it let expect: {event.reason}"


def publish(client: Producer, event: Told) -> None:
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
