"""The live counters, read from Redis and summed over the partitions."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from operator import add

import msgspec
from msgspec import Struct

from sluice.adapters import catalogue
from sluice.adapters.counters import CounterStore, PartitionCounts
from sluice.adapters.redis import RedisError, wait_for_redis
from sluice.domain.events import VALUE_SCALE, StatsCell
from sluice.domain.experiment import Experiment
from sluice.domain.segments import parse_segment
from sluice.domain.statistics import CellStatistics
from sluice.errors import SluiceError, TransportError
from sluice.names import Keys
from sluice.settings import Settings

__all__ = [
    "BucketCounts",
    "ExperimentCounts",
    "LiveCounters",
    "OutcomeCounts",
    "RecordCounts",
    "Snapshot",
    "VariantCounts",
]

log = logging.getLogger(__name__)

_RELOAD_S = 5.0


class OutcomeCounts(Struct, frozen=True):
    """One named outcome of one variant."""

    count: int
    value: float
    """Sum of the values that came with it; 0 for outcomes without a value."""


class VariantCounts(Struct, frozen=True, kw_only=True):
    """Totals of one variant over all allocations."""

    variant: str
    known: bool | None
    """Whether the catalogue has this variant; None when the catalogue could not be read."""
    units: int
    """Summed over allocations. A user or session counts once, where it was seen first; every request is a slate."""
    impressions: int
    clicks: int
    ctr: float | None
    """clicks / impressions; None before the first impression."""
    outcomes: dict[str, OutcomeCounts]
    cells: dict[str, CellStatistics]
    """Allocation key → the exact sums every estimate is computed from."""


class ExperimentCounts(Struct, frozen=True, kw_only=True):
    """Totals of one experiment, or of one segment of it (then `experiment` is a name like `demo@history=new`)."""

    experiment: str
    known: bool | None
    """Whether the catalogue has this experiment, and this attribute with it; None when it could not be read."""
    impressions: int
    clicks: int
    variants: dict[str, VariantCounts]
    """In order of name; the variants the catalogue has are there from the start, with zeros."""
    segments: dict[str, dict[str, ExperimentCounts]] = {}
    """Attribute → value → totals of that part. They add up to the experiment where every request has the attribute."""


class BucketCounts(Struct, frozen=True, kw_only=True):
    """What one variant counted in one stretch of event time (`SLUICE_BUCKET_MS`, an hour by default).

    Clicks and other outcomes belong to the bucket of their impression, so every rate compares like with like.
    """

    start_ms: int
    impressions: int
    outcomes: dict[str, OutcomeCounts]
    """Only those that were counted in this bucket."""


class RecordCounts(Struct, frozen=True, kw_only=True):
    """What became of every record read, and what is still open."""

    impressions: dict[str, int]
    """Outcome (`counted`, `duplicate`, `late`, `malformed`, …) → records of topic `impressions`."""
    clicks: dict[str, int]
    """The same of topic `clicks`, with `unmatched`."""
    waiting: int
    """Clicks that wait for their impression: a gauge, in no outcome yet."""
    open: int
    """Impressions whose attribution window is open."""


class Snapshot(Struct, frozen=True, kw_only=True):
    """One reading: each partition is of one moment, with the offsets its counters include."""

    experiments: dict[str, ExperimentCounts]
    records: RecordCounts
    offsets: dict[int, tuple[int, int]]
    """Partition → next (impressions, clicks) offset counted."""
    watermark_ms: int | None
    """The smallest watermark: all event time before it has been seen on both topics. None before any event."""

    def experiment(self, name: str) -> ExperimentCounts | None:
        """Totals of an experiment, or of a segment by its name (`demo@history=new`); None where there are none."""
        segment = parse_segment(name)
        if segment is None:
            return self.experiments.get(name)
        whole = self.experiments.get(segment.experiment)
        return whole and whole.segments.get(segment.key, {}).get(segment.value)


class LiveCounters:
    """Reads the counters of every experiment. `sluice.LiveCounters().experiment("demo").variants["b"].ctr`.

    Every call reads Redis anew. The catalogue, which says which experiments and variants were defined, is read from
    Kafka at first use and again when something unknown turns up; without a broker `known` is None.
    """

    def __init__(self, settings: Settings | None = None, *, known: Mapping[str, Experiment] | None = None) -> None:
        """`known`: the catalogue, for those who have it. Raises TransportError when no Redis answers in 15 s."""
        self._settings = settings or Settings.load()
        self._client = wait_for_redis(self._settings)
        self._store = CounterStore(self._client, Keys(self._settings.prefix))
        self._given = known
        self._catalogue: Mapping[str, Experiment] | None = known
        self._loaded_at: float | None = None

    def experiment(self, name: str) -> ExperimentCounts:
        """Totals of one experiment, or of a segment by its name; zeros when nothing was counted for it."""
        found = self.snapshot().experiment(name)
        if found is not None:
            return found
        known = None if self._catalogue is None else False
        return ExperimentCounts(experiment=name, known=known, impressions=0, clicks=0, variants={})

    def totals(self) -> dict[str, ExperimentCounts]:
        """Name → totals of every experiment that was counted or defined, in order of name."""
        return self.snapshot().experiments

    def records(self) -> RecordCounts:
        """What became of every record of both topics."""
        return self.snapshot().records

    def buckets(self, experiment: str) -> dict[str, list[BucketCounts]]:
        """Variant → its counts over event time, in order; empty when nothing was counted. Empty buckets are left out.

        `experiment` may be a segment's name.
        Raises TransportError when Redis is away.
        """
        sums: dict[tuple[str, int], Counter[tuple[str, str]]] = {}
        try:
            for partition in self._store.partitions():
                counts, vectors = self._store.read_all(partition)
                if counts is not None:
                    _add_buckets(sums, experiment, counts.outcomes, vectors)
        except RedisError as error:
            raise TransportError(f"cannot read the counters: {error}") from error
        found: dict[str, list[BucketCounts]] = {}
        for (variant, start_ms), numbers in sorted(sums.items()):
            outcomes = {
                name: OutcomeCounts(numbers[name, "c"], numbers[name, "v"] / VALUE_SCALE)
                for name, kind in sorted(numbers)
                if kind == "c" and numbers[name, "c"]
            }
            bucket = BucketCounts(start_ms=start_ms, impressions=numbers["", "n"], outcomes=outcomes)
            found.setdefault(variant, []).append(bucket)
        return found

    def snapshot(self, partitions: Iterable[int] | None = None) -> Snapshot:
        """Everything, in one reading. Raises TransportError when Redis is away.

        partitions: those to read. To find out which there are, all keys are looked through: too much for four times a
        second.
        """
        try:
            wanted = self._store.partitions() if partitions is None else partitions
            counts = [found for p in wanted if (found := self._store.read(p)) is not None]
        except RedisError as error:
            raise TransportError(f"cannot read the counters: {error}") from error
        cells = sum_cells(cell for partition in counts for cell in partition.cells)
        self._refresh({(experiment, variant) for experiment, variant, _ in cells})
        marks = [partition.watermark_ms for partition in counts if partition.watermark_ms >= 0]
        return Snapshot(
            experiments=_experiments(cells, self._catalogue),
            records=_records(counts),
            offsets={c.partition: (c.impressions_offset, c.clicks_offset) for c in counts},
            watermark_ms=min(marks, default=None),
        )

    def _refresh(self, counted: set[tuple[str, str]]) -> None:
        if self._given is not None or not self._settings.kafka:
            return
        known = self._catalogue
        complete = known is not None and all(variant in (_defined(name, known) or ()) for name, variant in counted)
        now = time.monotonic()
        if complete or (self._loaded_at is not None and now - self._loaded_at < _RELOAD_S):
            return
        try:
            self._catalogue = catalogue.load(self._settings)
        except SluiceError as error:
            log.warning("the catalogue cannot be read, so unknown experiments are not marked: %s", error)
        self._loaded_at = time.monotonic()

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> LiveCounters:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _add_buckets(
    sums: dict[tuple[str, int], Counter[tuple[str, str]]],
    experiment: str,
    names: Sequence[str],
    vectors: Mapping[str, Sequence[int]],
) -> None:
    """Add one partition's vectors `n,c₀,v₀,c₁,v₁,…`; those written before an outcome was first seen are shorter."""
    for field, (n, *rest) in vectors.items():
        name, variant, start_ms = msgspec.json.decode(field, type=tuple[str, str, int])
        if name != experiment:
            continue
        numbers = sums.setdefault((variant, start_ms), Counter())
        numbers["", "n"] += n
        for outcome, c, v in zip(names, rest[::2], rest[1::2], strict=False):
            numbers[outcome, "c"] += c
            numbers[outcome, "v"] += v


def sum_cells(cells: Iterable[StatsCell]) -> dict[tuple[str, str, str], CellStatistics]:
    """(experiment, variant, allocation) → sums over partitions, in order of key."""
    groups: dict[tuple[str, str, str], list[CellStatistics]] = {}
    for cell in cells:
        groups.setdefault((cell.experiment, cell.variant, cell.allocation), []).append(cell.statistics)
    return {key: reduce(add, groups[key]) for key in sorted(groups)}


def _defined(name: str, known: Mapping[str, Experiment]) -> tuple[str, ...] | None:
    """The variants that the catalogue has under the name of an experiment or segment; None when it has no such."""
    segment = parse_segment(name)
    experiment = known.get(name if segment is None else segment.experiment)
    if experiment is None or (segment is not None and segment.key not in experiment.segments):
        return None
    return tuple(variant.name for variant in experiment.variants)


def _experiments(
    cells: Mapping[tuple[str, str, str], CellStatistics], known: Mapping[str, Experiment] | None
) -> dict[str, ExperimentCounts]:
    counted: dict[str, dict[str, dict[str, CellStatistics]]] = {name: {} for name in known or ()}
    for (name, variant, allocation), statistics in cells.items():
        counted.setdefault(name, {}).setdefault(variant, {})[allocation] = statistics
    totals = {name: _experiment(name, counted[name], known) for name in sorted(counted)}
    found: dict[str, ExperimentCounts] = {}
    segments: dict[str, dict[str, dict[str, ExperimentCounts]]] = {}
    for name, total in totals.items():
        segment = parse_segment(name)
        if segment is None:
            found[name] = total
        else:
            segments.setdefault(segment.experiment, {}).setdefault(segment.key, {})[segment.value] = total
    for name, parts in segments.items():
        found[name] = msgspec.structs.replace(found.get(name) or _experiment(name, {}, known), segments=parts)
    return dict(sorted(found.items()))


def _experiment(
    name: str, counted: Mapping[str, Mapping[str, CellStatistics]], known: Mapping[str, Experiment] | None
) -> ExperimentCounts:
    defined = None if known is None else _defined(name, known)
    rows = {
        variant: _variant(variant, counted.get(variant, {}), None if known is None else variant in (defined or ()))
        for variant in sorted({*counted, *(defined or ())})
    }
    return ExperimentCounts(
        experiment=name,
        known=None if known is None else defined is not None,
        impressions=sum(row.impressions for row in rows.values()),
        clicks=sum(row.clicks for row in rows.values()),
        variants=rows,
    )


def _variant(name: str, cells: Mapping[str, CellStatistics], known: bool | None) -> VariantCounts:
    total = sum(cells.values(), CellStatistics())
    clicks = total.outcome("click").count
    return VariantCounts(
        variant=name,
        known=known,
        units=total.units,
        impressions=total.impressions,
        clicks=clicks,
        ctr=clicks / total.impressions if total.impressions else None,
        outcomes={
            outcome: OutcomeCounts(sums.count, sums.value / VALUE_SCALE)
            for outcome, sums in sorted(total.outcomes.items())
        },
        cells=dict(cells),
    )


def _records(counts: Iterable[PartitionCounts]) -> RecordCounts:
    topics: dict[str, dict[str, int]] = {"impressions": {}, "clicks": {}}
    waiting = opened = 0
    for partition in counts:
        waiting += partition.waiting
        opened += partition.open
        for key, number in partition.records.items():
            topic, _, outcome = key.partition(".")
            found = topics.setdefault(topic, {})
            found[outcome] = found.get(outcome, 0) + number
    return RecordCounts(impressions=topics["impressions"], clicks=topics["clicks"], waiting=waiting, open=opened)
