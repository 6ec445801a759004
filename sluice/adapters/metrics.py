"""Counts, reads and writes down the metrics of `sluice.adapters.telemetry`. Library: prometheus-client.

What is told once a batch or a request is counted as it happens; everything else is read, when somebody asks, from
what the service keeps anyway, so that being watched costs the work nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from sluice.adapters import kafka, redis
from sluice.adapters.telemetry import METRICS, Described, Service
from sluice.domain.experiment import Experiment

__all__ = ["CONTENT_TYPE", "Metrics", "Reading", "experiment_readings", "servers_away"]

CONTENT_TYPE = CONTENT_TYPE_LATEST

Reading = Iterable[tuple[str, tuple[str, ...], float]]
"""(metric, label values, value)"""
Source = Callable[[], Reading]


def servers_away() -> dict[str, bool]:
    """Server → whether the clients of this process do without it, as their last calls went."""
    return {"redis": redis.is_away(), "kafka": kafka.is_away()}


def experiment_readings(experiments: Iterable[Experiment]) -> Reading:
    """What stands in the catalogue."""
    for one in experiments:
        yield "sluice_experiment_info", (one.name, one.state.status), 1
        for variant in one.variants:
            role = "control" if variant.name == one.control_name else "treatment"
            yield "sluice_variant_info", (one.name, variant.name, role, variant.ranker or variant.name), 1


class Metrics:
    """The metrics of one service of this process. Safe to use from several threads."""

    def __init__(self, service: Service) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._told = {name: told for name, told in METRICS.items() if service in told.services}
        self._counters: dict[str, Counter] = {}
        self._histograms: dict[str, Histogram] = {}
        for name, told in self._told.items():
            if told.read:
                continue
            if told.kind == "counter":
                self._counters[name] = Counter(name, told.meaning, told.labels, registry=self.registry)
            else:
                self._histograms[name] = Histogram(
                    name, told.meaning, told.labels, buckets=told.buckets, registry=self.registry
                )
        # A metric finds its labels in a microsecond and a half; this is on the path of every request.
        self._bound: dict[tuple[str, ...], Counter | Histogram] = {}
        self._service = service
        self._source: Source = lambda: ()
        self._ready: Callable[[], bool] = lambda: False
        self._away: Callable[[], Mapping[str, bool]] = servers_away
        self._reading = threading.Lock()
        ProcessCollector(registry=self.registry)
        self.registry.register(_Read({name: told for name, told in self._told.items() if told.read}, self._read))

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

    def read_from(
        self,
        source: Source,
        *,
        ready: Callable[[], bool],
        away: Callable[[], Mapping[str, bool]] = servers_away,
    ) -> None:
        """Where the values that are read come from, on the thread of whoever asks; `ready` is what `/ready` says."""
        with self._reading:
            self._source, self._ready, self._away = source, ready, away

    def stop_reading(self) -> None:
        """Once this returns nothing is read any more: call it before what is read from is closed."""
        self.read_from(lambda: (), ready=lambda: False)

    def is_ready(self) -> bool:
        """Whether the service does its work."""
        with self._reading:
            return self._ready()

    def text(self) -> bytes:
        """All of them in Prometheus' text format (`CONTENT_TYPE`)."""
        return generate_latest(self.registry)

    def _read(self) -> Reading:
        with self._reading:
            found = list(self._source())
            found += [
                ("sluice_info", (self._service, version("sluice-experiments")), 1),
                ("sluice_ready", (), self._ready()),
                ("sluice_redis_errors_total", (), redis.failed_calls()),
            ]
            found += [("sluice_away", (server,), away) for server, away in self._away().items()]
        return found + [("sluice_kafka_errors_total", (name,), count) for name, count in kafka.errors_told().items()]


class _Read(Collector):
    def __init__(self, told: Mapping[str, Described], source: Source) -> None:
        self._told = told
        self._source = source

    def describe(self) -> Iterator[Metric]:
        return iter(self._families().values())

    def collect(self) -> Iterator[Metric]:
        families = self._families()
        for name, labels, value in self._source():
            families[name].add_metric(labels, value)
        return iter(families.values())

    def _families(self) -> dict[str, GaugeMetricFamily | CounterMetricFamily]:
        return {
            name: (CounterMetricFamily if told.kind == "counter" else GaugeMetricFamily)(
                name, told.meaning, labels=told.labels
            )
            for name, told in self._told.items()
        }
