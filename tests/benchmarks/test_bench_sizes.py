"""Bytes behind the sizing table of docs/operations.md, measured: `pytest tests/benchmarks/test_bench_sizes.py -s`.

Redis: what `INFO memory` grows by, over many keys. Worker: resident memory. Kafka: bytes of the segments on disk, with
our producer's compression. Other versions of Redis and of Python may take a little more than the page says.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sluice.adapters.assignments import AssignmentStore
from sluice.adapters.counters import CounterStore
from sluice.adapters.features import FeatureKeeping
from sluice.adapters.kafka import producer
from sluice.adapters.redis import connect
from sluice.domain.assignment import Claim, StoredAssignment
from sluice.domain.definitions import Definitions
from sluice.domain.events import Assignment, ImpressionShown, OutcomeObserved, encode
from sluice.features import ItemState, UserState
from sluice.names import CLICKS, IMPRESSIONS, Keys
from sluice.settings import Settings
from stream_processors.bench import generate
from stream_processors.partition import PartitionCounter

ROOT = Path(__file__).parents[2]
UNITS = 100_000
ALLOCATION = "PolicyA=34,PolicyB=33,random=33"
WAITING = """
from pathlib import Path
from sluice.domain.definitions import Definitions
from sluice.domain.events import OutcomeObserved, encode
from stream_processors.partition import PartitionCounter

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

class LogEntry:
    __slots__ = ("_offset", "_value")

    def __init__(self, offset, value):
        self._offset, self._value = offset, value

    def value(self):
        return self._value

    def key(self):
        return b"u"

    def offset(self):
        return self._offset

    def timestamp(self):
        return (2, 2 * 10**12)

def record(number):
    name = f"5v0t.{number:x}.0"
    click = OutcomeObserved(click_id=name + "c", impression_id=name, user_id="user-1", at_ms=10**12)
    return LogEntry(number, encode(click))

counter, count = PartitionCounter(0, Definitions(10**9, 60_000, 300_000, 3_600_000), None), 500_000
before = resident()
for base in range(0, count, 10_000):
    counter.read_clicks([record(base + index) for index in range(10_000)])
assert counter.held == count
print((resident() - before) / count)
"""
"""Clicks without impressions; in a process of its own, where nothing else leaves room that is taken for free."""


class LogEntry:
    """A record as the consumer hands it over."""

    __slots__ = ("_offset", "_value")

    def __init__(self, offset: int, value: bytes) -> None:
        self._offset, self._value = offset, value

    def value(self) -> bytes:
        return self._value

    def key(self) -> bytes:
        return b"u"

    def offset(self) -> int:
        return self._offset

    def timestamp(self) -> tuple[int, int]:
        return (2, 2 * 10**12)


def documented(row: str) -> float:
    """Bytes that the page states for `row` of its table."""
    page = (ROOT / "docs/operations.md").read_text()
    found = re.search(rf"^\| {re.escape(row)} \| ([\d,]+) \|", page, re.MULTILINE)
    assert found, f"docs/operations.md has no row {row!r}"
    return float(found[1].replace(",", ""))


def check(row: str, measured: float) -> None:
    said = documented(row)
    print(f"{row}: {measured:.0f} bytes measured, {said:.0f} documented")
    assert said / 3 < measured <= 1.25 * said, row


@pytest.fixture
def settings(make_stack: Callable[..., Settings]) -> Settings:
    return make_stack("embedded")


@contextmanager
def growth(client: Any, count: int) -> Iterator[list[float]]:
    """Afterwards holds the bytes that Redis grew by, for each of `count`."""
    result: list[float] = []
    before = client.info("memory")["used_memory"]
    yield result
    result.append((client.info("memory")["used_memory"] - before) / count)


@pytest.mark.slow
def test_a_sticky_assignment(settings: Settings) -> None:
    client, wanted = connect(settings), StoredAssignment("PolicyA", ALLOCATION, 7, 0.34)
    store = AssignmentStore(client, Keys(settings.prefix))
    store.claim([Claim("checkout", "first", wanted, 10**9)])
    with growth(client, UNITS) as size:
        for base in range(0, UNITS, 10_000):
            units = [f"user-{base + index:08d}" for index in range(10_000)]
            store.claim([Claim("checkout", unit, wanted, 10**9) for unit in units])
    check("a sticky assignment", size[0])


@pytest.mark.slow
def test_the_totals_of_a_unit(settings: Settings) -> None:
    client = connect(settings)
    store = CounterStore(client, Keys(settings.prefix))
    counter = PartitionCounter(0, Definitions(10**9, 60_000, 300_000, 3_600_000), None)
    with growth(client, UNITS) as size:
        for base in range(0, UNITS, 10_000):
            impressions, clicks = [], []
            for index in range(base, base + 10_000):
                user, name = f"user-{index:08d}", f"5v0t.{index:x}.0"
                made = (Assignment("checkout", "PolicyA", ALLOCATION, user, 0.34, "user"),)
                shown = ImpressionShown(impression_id=name, user_id=user, item_id="m", at_ms=10**12, assignments=made)
                hit = OutcomeObserved(click_id=f"{name}c", impression_id=name, user_id=user, at_ms=10**12)
                impressions.append(LogEntry(index, encode(shown)))
                clicks.append(LogEntry(index, encode(hit)))
            counter.read_impressions(impressions)  # type: ignore[arg-type]
            counter.read_clicks(clicks)  # type: ignore[arg-type]
            update, _ = counter.prepare(store)
            assert store.commit([update]) == [None]
            counter.committed(update)
    assert client.hlen(Keys(settings.prefix).units(0)) == UNITS
    check("the totals of a user or session", size[0])


@pytest.mark.slow
def test_the_features_of_a_user(settings: Settings) -> None:
    client, count = connect(settings), 20_000
    traits = {f"genre:Genre {number}": [120, 431, -1234] for number in range(18)}
    traits |= {f"decade:{1930 + 10 * number}": [120, 431, -1234] for number in range(9)}
    user = UserState(count=165, likes=80, rating=578_000, leniency=-12_345, last_ms=1_500_000_000_000, traits=traits)
    with growth(client, count) as size:
        users = {f"user-{number:08d}": user for number in range(count)}
        FeatureKeeping(client, Keys(settings.prefix)).write_all(users, {}, 0)
    check("the features of a user, 27 genres and decades rated", size[0])


@pytest.mark.slow
def test_the_features_of_an_item(settings: Settings) -> None:
    client, count = connect(settings), 20_000
    with growth(client, count) as size:
        items = {f"{number}": ItemState.new(f"{number}") for number in range(count)}
        FeatureKeeping(client, Keys(settings.prefix)).write_all({}, items, 0)
    check("the features of an item", size[0])


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
def test_a_click_that_waits_for_its_impression() -> None:
    done = subprocess.run([sys.executable, "-c", WAITING], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    check("a waiting click", float(done.stdout))


@pytest.mark.slow
@pytest.mark.kafka
def test_an_event_on_the_disk_of_the_broker(make_stack: Callable[..., Settings]) -> None:
    settings = make_stack("local")
    client, written, as_json = producer(settings), {IMPRESSIONS: 0, CLICKS: 0}, {IMPRESSIONS: 0, CLICKS: 0}
    for number, (topic, key, value) in enumerate(generate(200_000)):
        client.produce(topic, value, key)
        written[topic] += 1
        as_json[topic] += len(value)
        if number % 1000 == 0:
            client.poll(0)
            client.flush(0.05)
    assert client.flush(60) == 0
    for topic, row in ((IMPRESSIONS, "an impression"), (CLICKS, "a click")):
        check(f"{row} as JSON", as_json[topic] / written[topic])
        segments = settings.state.rglob(f"{topic}-[0-9]*/*.log")
        check(f"{row} in the log, compressed", sum(path.stat().st_size for path in segments) / written[topic])
