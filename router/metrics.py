"""Every metric of the router's HTTP service: names, kinds, units and labels are in `METRICS`, and nowhere else.

Labels have few values: routes and statuses are the service's own, experiments and variants those of the catalogue,
model versions those that served since the start. Library: prometheus-client.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Literal, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

__all__ = ["CONTENT_TYPE", "METRICS", "Described", "Metrics", "Reading"]

CONTENT_TYPE = CONTENT_TYPE_LATEST


class Described(NamedTuple):
    """One metric. `read` ones are looked up when somebody asks; the others are counted as things happen."""

    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    labels: tuple[str, ...]
    meaning: str
    buckets: tuple[float, ...] = ()
    read: bool = False


_SECONDS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_SCORES = tuple(step / 20 for step in range(1, 20))

METRICS: dict[str, Described] = {
    "sluice_http_requests_total": Described(
        "counter", "requests", ("route", "status"), "Requests answered; a route nobody knows is `other`"
    ),
    "sluice_http_request_seconds": Described(
        "histogram", "seconds", ("route",), "From the request's head to the answer's last byte", _SECONDS
    ),
    "sluice_assignments_total": Described(
        "counter", "assignments", ("experiment", "variant", "model_version"),
        "Units that were given a variant; the version of the variant's model where one ranks, else empty",
    ),
    "sluice_assignments_degraded_total": Described(
        "counter", "assignments", ("experiment",), "Those drawn by hash alone because Redis was away"
    ),
    "sluice_assignment_batch_seconds": Described(
        "histogram", "seconds", (), "One batch of assignments: drawing, Redis, exposure log", _SECONDS
    ),
    "sluice_ranking_batch_seconds": Described(
        "histogram", "seconds", (), "One batch of rankings by models: features and scores", _SECONDS
    ),
    "sluice_ranking_scores": Described(
        "histogram", "probability", ("experiment", "variant"), "Scores that models gave to the items answered", _SCORES
    ),
    "sluice_ranking_fallbacks_total": Described(
        "counter", "rankings", ("experiment", "variant"), "Rankings by the variant's fallback: its ranker failed"
    ),
    "sluice_shadow_requests_total": Described(
        "counter", "requests", ("experiment", "shadow", "outcome"),
        "Of a shadow: `compared`, failed (`raised`, `unusable`, `away`, `timeout`, `crash`), or `dropped` unasked",
    ),
    "sluice_events_total": Described(
        "counter", "events", ("topic", "outcome"),
        "Events: `accepted`; of `any` topic `rejected` (the event is at fault) or `refused` (nowhere to put it)",
    ),
    "sluice_waiting": Described("gauge", "items", ("queue",), "Of `assign`, `rank`, `shadow` and `kafka` (records)",
                               read=True),
    "sluice_spool_bytes": Described("gauge", "bytes", (), "On disk until Kafka is back", read=True),
    "sluice_records_lost_total": Described(
        "counter", "records", (), "Of the exposure log: neither Kafka nor the disk could take them", read=True
    ),
    "sluice_away": Described("gauge", "", ("server",), "1 while the service does without `redis`, `kafka`", read=True),
    "sluice_allocation_version": Described("gauge", "", ("experiment",), "Version of the allocation in use", read=True),
    "sluice_allocation_age_seconds": Described(
        "gauge", "seconds", ("experiment",), "Since this process took up the allocation in use", read=True
    ),
    "sluice_model_version": Described(
        "gauge", "", ("model", "version"), "1 for the version of each model that serves now", read=True
    ),
}  # fmt: skip

Reading = Iterable[tuple[str, tuple[str, ...], float]]
"""(metric, label values, value)"""


class Metrics:
    """The metrics of one service."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._counters: dict[str, Counter] = {}
        self._histograms: dict[str, Histogram] = {}
        for name, told in METRICS.items():
            if told.read:
                continue
            if told.kind == "counter":
                self._counters[name] = Counter(name, told.meaning, told.labels, registry=self._registry)
            else:
                self._histograms[name] = Histogram(
                    name, told.meaning, told.labels, buckets=told.buckets, registry=self._registry
                )
        # A metric finds its labels in a microsecond and a half; this is on the path of every request.
        self._bound: dict[tuple[str, ...], Counter | Histogram] = {}

    def count(self, name: str, *labels: str, by: float = 1) -> None:
        """Add to a counter."""
        bound = self._bound.get((name, *labels))
        if bound is None:
            metric = self._counters[name]
            bound = self._bound[(name, *labels)] = metric.labels(*labels) if labels else metric
        assert isinstance(bound, Counter)
        bound.inc(by)

    def observe(self, name: str, value: float, *labels: str) -> None:
        """Add one value to a histogram."""
        bound = self._bound.get((name, *labels))
        if bound is None:
            metric = self._histograms[name]
            bound = self._bound[(name, *labels)] = metric.labels(*labels) if labels else metric
        assert isinstance(bound, Histogram)
        bound.observe(value)

    def read_from(self, reading: Callable[[], Reading]) -> None:
        """Where the values of the metrics that are read come from."""
        self._registry.register(_Read(reading))

    def text(self) -> bytes:
        """All of them in Prometheus' text format (`CONTENT_TYPE`)."""
        return generate_latest(self._registry)


class _Read(Collector):
    def __init__(self, reading: Callable[[], Reading]) -> None:
        self._reading = reading

    def describe(self) -> Iterator[Metric]:
        return iter(_families().values())

    def collect(self) -> Iterator[Metric]:
        families = _families()
        for name, labels, value in self._reading():
            families[name].add_metric(labels, value)
        return iter(families.values())


def _families() -> dict[str, GaugeMetricFamily | CounterMetricFamily]:
    return {
        name: (CounterMetricFamily if told.kind == "counter" else GaugeMetricFamily)(
            name, told.meaning, labels=told.labels
        )
        for name, told in METRICS.items()
        if told.read
    }
