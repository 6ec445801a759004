"""`LiveCounters` over what `CounterStore` wrote: sums over partitions, unknown names, records by outcome."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from io import StringIO

import pytest
from event_logs import random_logs
from msgspec import json
from msgspec.structs import replace
from rich.console import Console, Group

import sluice
from sluice.adapters import catalogue
from sluice.adapters.counters import CounterStore, PartitionUpdate
from sluice.adapters.redis import connect
from sluice.console.counters import bucket_table, segment_tables
from sluice.domain.definitions import Definitions
from sluice.domain.experiment import Experiment, Variant
from sluice.live import OutcomeCounts
from sluice.names import Keys
from sluice.settings import Settings
from stream_processors.partition import PartitionCounter
from stream_processors.recount import recount

E = Experiment(name="e", variants=(Variant(name="a"), Variant(name="b")))


@pytest.fixture
def settings(make_stack: Callable[..., Settings]) -> Settings:
    return make_stack("embedded")


def write(settings: Settings, partition: int, rows: dict[Iterable[str], str], offsets: str = "10,5") -> None:
    """`rows`: (experiment, variant, allocation[, outcome]) or a record outcome → numbers, as a worker writes them."""
    counts = {
        "offsets": offsets,
        "low": "0,0",
        "start": "0,0",
        "definitions": Definitions(1000, 100, 100, 60_000).encode(),
        "time": f"{900 + partition},{800 + partition}",
        "gauges": "2,3",
        "outcomes": '["click","rating"]',
        **{(key if isinstance(key, str) else json.encode(tuple(key)).decode()): value for key, value in rows.items()},
    }
    update = PartitionUpdate(
        partition=partition, expected_offsets="", expected_definitions="", reset=False,
        counts=counts, units={}, buckets={},
    )  # fmt: skip
    with connect(settings) as client:
        assert CounterStore(client, Keys(settings.prefix)).commit([update]) == [None]


def test_nothing_counted_is_empty_and_an_experiment_is_zeros(settings: Settings) -> None:
    with sluice.LiveCounters(settings) as live:
        assert live.totals() == {}
        found = live.experiment("e")
        assert (found.known, found.impressions, found.clicks, found.variants) == (False, 0, 0, {})
        assert live.records() == sluice.RecordCounts(impressions={}, clicks={}, waiting=0, open=0)
        assert live.snapshot().watermark_ms is None


def test_sums_over_partitions_and_allocations(settings: Settings) -> None:
    catalogue.apply(settings, [E])
    write(settings, 0, {
        ("e", "a", "a=50,b=50"): "2,8,34", ("e", "a", "a=50,b=50", "click"): "3,5,11,0,0,0",
        ("e", "a", "a=90,b=10"): "1,2,4", ("e", "a", "a=90,b=10", "rating"): "2,4,4,7500,56250000,15000",
        "impressions.counted": "10", "clicks.late": "1",
    })  # fmt: skip
    write(settings, 3, {
        ("e", "a", "a=50,b=50"): "1,1,1", ("e", "a", "a=50,b=50", "click"): "1,1,1,0,0,0",
        ("e", "a", "a=90,b=10", "rating"): "0,0,0,0,0,0", ("e", "a", "a=90,b=10"): "0,0,0",
        "impressions.counted": "1", "clicks.unmatched": "4",
    }, offsets="7,8")  # fmt: skip
    with sluice.LiveCounters(settings) as live:
        snapshot = live.snapshot()
    found = snapshot.experiments["e"]
    a, b = found.variants["a"], found.variants["b"]
    assert (found.known, found.impressions, found.clicks) == (True, 11, 4)
    assert (a.known, a.units, a.impressions, a.clicks, a.ctr) == (True, 4, 11, 4, 4 / 11)
    assert a.outcomes == {"click": OutcomeCounts(4, 0.0), "rating": OutcomeCounts(2, 7.5)}
    assert a.cells["a=50,b=50"].impressions_squared == 35
    assert (b.known, b.impressions, b.ctr) == (True, 0, None)
    assert snapshot.offsets == {0: (10, 5), 3: (7, 8)}
    assert snapshot.watermark_ms == 800
    assert snapshot.records == sluice.RecordCounts(
        impressions={"counted": 11}, clicks={"late": 1, "unmatched": 4}, waiting=4, open=6
    )


def test_what_the_catalogue_does_not_know_is_marked(settings: Settings) -> None:
    catalogue.apply(settings, [E])
    write(settings, 0, {("e", "a", "a=100"): "1,1,1", ("e", "zz", "a=100"): "1,1,1", ("ghost", "a", "a=100"): "1,1,1"})
    with sluice.LiveCounters(settings) as live:
        found = live.totals()
    assert {name: (row.known, {v: r.known for v, r in row.variants.items()}) for name, row in found.items()} == {
        "e": (True, {"a": True, "b": True, "zz": False}),
        "ghost": (False, {"a": False}),
    }


def test_segments_are_parts_of_their_experiment(settings: Settings) -> None:
    catalogue.apply(settings, [replace(E, segments=("history",))])
    write(settings, 0, {
        ("e", "a", "a=100"): "2,5,13", ("e", "a", "a=100", "click"): "2,2,5,0,0,0",
        ("e@history=new", "a", "a=100"): "1,2,4", ("e@history=new", "a", "a=100", "click"): "1,1,2,0,0,0",
        ("e@history=old", "a", "a=100"): "1,3,9", ("e@history=old", "a", "a=100", "click"): "1,1,3,0,0,0",
        ("e@colour=red", "a", "a=100"): "1,3,9", ("ghost@history=new", "zz", "a=100"): "1,1,1",
    })  # fmt: skip
    write(settings, 1, {("e@history=new", "b", "a=100"): "1,4,16", ("e", "b", "a=100"): "1,4,16"})
    with sluice.LiveCounters(settings) as live:
        snapshot = live.snapshot()
        new = live.experiment("e@history=new")
        assert live.experiment("e@history=none").variants == {}
        assert live.experiment("e@none=new").variants == {}
    assert set(snapshot.experiments) == {"e", "ghost"}
    e, ghost = snapshot.experiments["e"], snapshot.experiments["ghost"]
    assert (e.known, e.impressions, e.clicks) == (True, 9, 2)
    assert {key: {value: part.known for value, part in parts.items()} for key, parts in e.segments.items()} == {
        "history": {"new": True, "old": True},
        "colour": {"red": False},
    }
    assert new == e.segments["history"]["new"]
    assert {name: (row.known, row.impressions, row.clicks) for name, row in new.variants.items()} == {
        "a": (True, 2, 1),
        "b": (True, 4, 0),
    }
    assert e.segments["history"]["old"].variants["b"].impressions == 0
    assert (ghost.known, ghost.impressions, ghost.segments["history"]["new"].impressions) == (False, 0, 1)
    text = StringIO()
    Console(file=text, width=80).print(Group(*segment_tables(e)))
    lines = [line.split() for line in text.getvalue().splitlines()]
    assert lines[0] == ["colour", "?", "variant", "units", "impressions", "clicks", "click", "rate"]
    assert lines[4:7] == [["new", "a", "1", "2", "1", "50.0", "%"], ["b", "1", "4", "0", "0.0", "%"],
                          ["old", "a", "1", "3", "1", "33.3", "%"]]  # fmt: skip


def test_counted_segments_do_not_make_the_catalogue_be_read_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue.apply(settings, [replace(E, segments=("history",))])
    write(settings, 0, {("e", "a", "a=100"): "1,1,1", ("e@history=new", "a", "a=100"): "1,1,1"})
    loads: list[Settings] = []
    load = catalogue.load

    def counted(given: Settings) -> dict[str, Experiment]:
        loads.append(given)
        return load(given)

    monkeypatch.setattr("sluice.live._RELOAD_S", 0.0)
    monkeypatch.setattr("sluice.live.catalogue.load", counted)
    with sluice.LiveCounters(settings) as live:
        for _ in range(3):
            live.totals()
    assert len(loads) == 1


def test_an_experiment_that_is_defined_later_becomes_known(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sluice.live._RELOAD_S", 0.0)
    write(settings, 0, {("e", "a", "a=100"): "1,1,1"})
    with sluice.LiveCounters(settings) as live:
        assert live.experiment("e").known is False
        catalogue.apply(settings, [E])
        assert live.experiment("e").known is True


def test_without_a_broker_nothing_is_called_unknown(settings: Settings) -> None:
    write(settings, 0, {("e", "a", "a=100"): "1,1,1"})
    with sluice.LiveCounters(Settings(redis=settings.redis)) as live:
        found = live.experiment("e")
        assert (found.known, found.variants["a"].known, found.impressions) == (None, None, 1)
    with sluice.LiveCounters(Settings(redis=settings.redis), known={"e": E}) as live:
        assert live.experiment("e").known is True


def test_another_prefix_sees_nothing(settings: Settings) -> None:
    write(settings, 0, {("e", "a", "a=100"): "1,1,1"})
    with sluice.LiveCounters(Settings(redis=settings.redis, prefix="other:")) as live:
        assert live.totals() == {}


@dataclass(frozen=True)
class Consumed:
    """A record as the Kafka client gives it."""

    at: int
    data: bytes | None

    def value(self) -> bytes | None:
        return self.data

    def key(self) -> bytes | None:
        return None

    def offset(self) -> int:
        return self.at

    def timestamp(self) -> tuple[int, int]:
        return 0, -1


def test_buckets_are_those_of_a_recount(settings: Settings) -> None:
    definitions = Definitions(1000, 100, 10**9, 1000)
    wanted: dict[tuple[str, int], Counter[str]] = {}
    with connect(settings) as client:
        store = CounterStore(client, Keys(settings.prefix))
        for partition in range(3):
            logs = [[value for _, value, _ in log] for log in random_logs(partition, 1500, definitions)]
            counter = PartitionCounter(partition, definitions, None)
            for start in range(0, max(map(len, logs)), 100):  # outcomes turn up later than the first buckets
                batches = [[Consumed(at, log[at]) for at in range(start, min(start + 100, len(log)))] for log in logs]
                counter.read_impressions(batches[0])
                counter.read_clicks(batches[1])
                update, _ = counter.prepare(store)
                assert store.commit([update]) == [None]
                counter.committed(update)
            impressions, clicks = ([(at, value, None) for at, value in enumerate(log)] for log in logs)
            again = recount(impressions, clicks, definitions)
            for (experiment, variant, start_ms), numbers in again.buckets.items():
                if experiment == "e":
                    sums = wanted.setdefault((variant, start_ms), Counter())
                    for outcome, (count, value) in numbers.items():
                        sums[outcome] += count
                        sums[f"{outcome} value"] += value
    with sluice.LiveCounters(settings) as live:
        found = live.buckets("e")
        assert live.buckets("nobody") == {}
        table = bucket_table(found)
        variants = live.experiment("e").variants
    got: dict[tuple[str, int], Counter[str]] = {}
    for variant, buckets in found.items():
        assert [bucket.start_ms for bucket in buckets] == sorted({bucket.start_ms for bucket in buckets})
        assert sum(bucket.impressions for bucket in buckets) == variants[variant].impressions
        for bucket in buckets:
            sums = got[variant, bucket.start_ms] = Counter({"": bucket.impressions})
            for outcome, total in bucket.outcomes.items():
                sums[outcome], sums[f"{outcome} value"] = total.count, round(total.value * 1000)
    assert len(wanted) > 10
    assert got == wanted  # counters are equal when they differ in zeros only
    text = StringIO()
    Console(file=text, width=80).print(table)
    lines = text.getvalue().splitlines()
    assert lines[0].split() == ["from", "(UTC)", "variant", "impressions", "clicks", "click", "rate"]
    assert max(map(len, lines)) <= 80


def test_the_table_shows_the_latest_buckets_and_says_that_there_are_more() -> None:
    buckets = [sluice.BucketCounts(start_ms=at * 3_600_000, impressions=at, outcomes={}) for at in range(1, 31)]
    text = StringIO()
    Console(file=text, width=80).print(bucket_table({"a": buckets}))
    lines = text.getvalue().splitlines()
    assert lines[1].split() == ["1970-01-01", "07:00:00", "a", "7", "0", "0.0", "%"]
    assert lines[-1] == "6 earlier buckets: --json shows all"


def test_no_redis_named_is_a_config_error() -> None:
    with pytest.raises(sluice.ConfigError, match="no Redis"):
        sluice.LiveCounters(Settings())
