"""The counting worker on real brokers and a real Redis: exact whatever happens to it, and it says what happened."""

from __future__ import annotations

import os
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import msgspec
import pytest
import redis
from event_logs import (
    PARTITIONS,
    assert_dead_letters,
    assert_exact,
    both_logs,
    click,
    dead_letters,
    ends,
    heartbeats,
    impression,
    random_logs,
    recounted,
    snapshots,
    write,
)
from truncation import truncate

from infra import stack as stacks
from sluice.adapters.counters import CounterStore
from sluice.adapters.kafka import producer
from sluice.adapters.redis import connect
from sluice.domain.events import Assignment, Heartbeat, encode
from sluice.domain.statistics import OutcomeStatistics
from sluice.errors import LogTruncated, SluiceError, TransportError
from sluice.names import CLICKS, IMPRESSIONS, VARIANT_STATS, Keys
from sluice.settings import Settings
from stream_processors.partition import PartitionCounter
from stream_processors.verify import verify, verify_partition
from stream_processors.worker import CountingWorker, definitions_of

Wait = Callable[..., Any]
MakeStack = Callable[..., Settings]
WINDOW_MS, LATENESS_MS = 10_000, 1000
ALL = range(PARTITIONS)


def short(settings: Settings, **changed: Any) -> Settings:
    """A window that a test can leave behind."""
    return replace(settings, **{"window_ms": WINDOW_MS, "lateness_ms": LATENESS_MS, "bucket_ms": 60_000, **changed})


def stored(settings: Settings) -> CounterStore:
    return CounterStore(connect(settings), Keys(settings.prefix))


def integers(settings: Settings) -> list[Any]:
    """Everything that counts, of every partition."""
    found = []
    for partition in ALL:
        counts, buckets = stored(settings).read_all(partition)
        assert counts is not None
        found.append((counts.cells, counts.records, counts.waiting, buckets, counts.moved))
    return found


def records(settings: Settings) -> dict[str, int]:
    total: Counter[str] = Counter()
    for partition in ALL:
        counts = stored(settings).read(partition)
        total.update(counts.records if counts else {})
    return dict(total)


class Running:
    """A worker on a thread of its own, as the service runs it."""

    def __init__(self, settings: Settings, batch: int) -> None:
        self.stopping = threading.Event()
        self.failure: BaseException | None = None
        self.worker: CountingWorker | None = None
        self._settings, self._batch = settings, batch
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.worker = CountingWorker(self._settings, stopping=self.stopping.is_set)
            try:
                while not self.stopping.is_set():
                    self.worker.process(self.worker.poll(self._batch, 0.05))
            finally:
                self.worker.close()
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self.failure = error

    @property
    def totals(self) -> Any:
        return self.worker and self.worker.totals

    @property
    def owns(self) -> set[int]:
        return set(self.worker.state()["partitions"]) if self.worker else set()

    def stop(self) -> None:
        self.stopping.set()
        self._thread.join(60)
        assert not self._thread.is_alive()


@contextmanager
def counting(settings: Settings, batch: int = 1000) -> Iterator[Running]:
    running = Running(settings, batch)
    try:
        yield running
    finally:
        running.stop()
    if running.failure is not None:
        raise running.failure


def caught_up(settings: Settings, *runs: Running) -> Callable[[], bool]:
    """Whether everything that is in the logs now has been counted."""
    wanted, store = ends(both_logs(settings)), stored(settings)

    def done() -> bool:
        for running in runs:
            if running.failure is not None:
                raise running.failure
        return store.offsets(ALL) == wanted

    return done


def count_all(settings: Settings, wait_until: Wait, batch: int = 1000) -> None:
    with counting(settings, batch) as running:
        wait_until(caught_up(settings, running), 60, "everything counted")


def step(worker: CountingWorker) -> bool:
    worker.process(worker.poll(1000, 0.05))
    return False


# -- what is counted -----------------------------------------------------------------------------------


def test_a_log_made_by_hand(stack: Settings, wait_until: Wait) -> None:
    settings = short(stack)
    two = (Assignment("e", "a", "a=50,b=50", "u", 0.5), Assignment("f", "x", "", "s1", 1.0, "slate"))
    unknown = Assignment("nobody defined this", "nor this", "", "u")
    # seconds        10       11    12       21            30              59       60
    # impressions    1        2 2   3                                      4" 5     ♥    (4 is read after ♥: late)
    # clicks         1 1            buy(3)   2' buy(2)×2   9'                       ♥ 7  (7 waits)
    impressions = [
        ("u", impression(1, "u", 10_000, *two), -1),
        ("u", impression(2, "u", 11_000, *two), -1),
        ("u", impression(2, "u", 11_000, *two), -1),
        ("u", impression(3, "u", 12_000, unknown), -1),
        ("u", b"{", -1),
        *heartbeats(60_000),
        ("u", impression(4, "u", 58_999, *two), -1),
        ("u", impression(5, "u", 59_000, *two), -1),
    ]
    clicks = [
        ("u", click(1, "u", 10_500), -1),
        ("u", click(1, "u", 10_600), -1),
        ("u", click(3, "u", 12_000, "buy", -200), -1),
        ("u", click(2, "u", 21_001), -1),
        ("u", click(2, "u", 21_000, "buy", 700), -1),
        ("u", click(2, "u", 20_999, "buy", 700), -1),
        ("u", click(9, "u", 30_000), -1),
        *heartbeats(60_000),
        ("u", click(7, "u", 60_000), -1),
    ]
    write(settings, impressions, clicks)
    count_all(settings, wait_until)

    assert records(settings) == {
        "impressions.counted": 4,
        "impressions.duplicate": 1,
        "impressions.late": 1,
        "impressions.malformed": 1,
        "impressions.heartbeat": 4,
        "clicks.counted": 3,
        "clicks.duplicate": 2,
        "clicks.unmatched": 2,
        "clicks.heartbeat": 4,
    }
    assert sum(stored(settings).read(p).waiting for p in ALL) == 1  # type: ignore[union-attr]
    cells = {
        (cell.experiment, cell.variant): cell.statistics
        for partition in ALL
        for cell in stored(settings).read(partition).cells  # type: ignore[union-attr]
    }
    assert set(cells) == {("e", "a"), ("f", "x"), ("nobody defined this", "nor this")}
    user, slates = cells["e", "a"], cells["f", "x"]
    assert (user.units, user.impressions, user.impressions_squared) == (1, 3, 9)
    assert user.outcome("click") == OutcomeStatistics(1, 1, 3, 0, 0, 0)
    assert user.outcome("buy") == OutcomeStatistics(1, 1, 3, 700, 490_000, 2100)
    # Event times 10 s, 11 s and 59 s: three slates of one impression, whatever they are called.
    assert (slates.units, slates.impressions, slates.impressions_squared) == (3, 3, 3)
    assert cells["nobody defined this", "nor this"].outcome("buy").value == -200
    assert assert_exact(settings) > 50
    assert assert_dead_letters(settings, definitions_of(settings)) == 4


def test_every_kind_of_bad_record_is_a_dead_letter_with_its_bytes(stack: Settings, wait_until: Wait) -> None:
    settings = short(stack)
    good = impression(1, "u", 10_000)
    bad = [
        b"{not json", b"", None, b"\xff\xfe", b"[]", b"null", good[:-1], good + b"x", good.replace(b"10000", b"-1"),
        good.replace(b"10000", b"1700000000000000"), good.replace(b"10000", b'"10000"'), good.replace(b'"u"', b"7"),
        good.replace(b"10000", b"9999999999999"), encode(Heartbeat(at_ms=9_999_999_999_999)), b"x" * 65_537,
        os.urandom(900_000), good + b" " * 65_536,
    ]  # fmt: skip
    log = [("u", value, -1) for value in bad]
    binary = [("\udcff".encode("utf-8", "surrogatepass"), value, 1) for value in bad]
    write(settings, [*log, ("u", good, -1)], [*binary, ("u", click(1, "u", 10_000), -1), ("u", click(2, "u", 1), -1)])
    write(settings, heartbeats(100_000), [])
    count_all(settings, wait_until)
    assert records(settings) == {
        "impressions.malformed": len(bad),
        "clicks.malformed": len(bad),
        "impressions.counted": 1,
        "impressions.heartbeat": 4,
        "clicks.counted": 1,
        "clicks.late": 1,
    }
    assert_exact(settings)
    assert assert_dead_letters(settings, definitions_of(settings)) == 2 * len(bad) + 1
    assert len(dead_letters(settings)) == 2 * len(bad) + 1  # copies come only with restarts


@pytest.mark.slow
def test_a_random_log_in_the_middle_and_at_the_end(stack: Settings, wait_until: Wait) -> None:
    settings = short(stack)
    definitions = definitions_of(settings)
    impressions, clicks = random_logs(1, 20_000, definitions)
    half = len(impressions) // 2, len(clicks) // 3
    write(settings, impressions[: half[0]], clicks[: half[1]])
    store = stored(settings)
    with counting(settings, batch=300) as running:
        wait_until(lambda: running.totals and running.totals.commits > 20, 30, "some commits")
        assert_exact(settings)  # while it goes on
        write(settings, impressions[half[0] :], clicks[half[1] :])
        assert_exact(settings)
        wait_until(caught_up(settings, running), 60, "everything counted")
    assert assert_exact(settings) > 500
    assert assert_dead_letters(settings, definitions) > 300

    results = recounted(both_logs(settings), definitions)
    found = records(settings)
    for outcome in ("counted", "duplicate", "late", "malformed", "heartbeat"):
        for topic in (IMPRESSIONS, CLICKS):
            assert found[f"{topic}.{outcome}"] == sum(r.records[f"{topic}.{outcome}"] for r in results.values()) > 0
    assert found["clicks.unmatched"] > 0
    # The last snapshot of a partition is what Redis holds.
    last = snapshots(settings)
    assert set(last) == set(ALL)
    for partition, snapshot in last.items():
        counts = store.read(partition)
        assert counts is not None
        assert (snapshot.impressions_offset, snapshot.clicks_offset) == store.offsets([partition])[partition]
        assert snapshot.cells == tuple(cell for cell in counts.cells if cell.statistics.units)
        assert (snapshot.moved, snapshot.records) == (counts.moved, counts.records)
        assert sum(moved.units for moved in snapshot.moved) > 20
        assert (snapshot.at_ms, snapshot.watermark_ms) == (counts.at_ms, counts.watermark_ms)
        assert (snapshot.window_ms, snapshot.lateness_ms) == (WINDOW_MS, LATENESS_MS)


# -- several workers, restarts -------------------------------------------------------------------------


@pytest.mark.slow
def test_workers_that_come_and_go_share_the_partitions(stack: Settings, wait_until: Wait) -> None:
    settings = short(stack)
    impressions, clicks = random_logs(2, 8000, definitions_of(settings))
    parts = [(impressions[k : k + 1500], clicks[k : k + 1500]) for k in range(0, len(impressions), 1500)]
    with counting(settings, batch=100) as first:
        write(settings, *parts[0])
        wait_until(lambda: first.owns == set(ALL), 30, "the first worker owns all")
        with counting(settings, batch=100) as second:
            write(settings, *parts[1])
            wait_until(
                lambda: first.owns and second.owns and sorted([*first.owns, *second.owns]) == list(ALL),
                30,
                "both own something, and each partition has one owner",
            )
            assert_exact(settings)
            write(settings, *parts[2])
            first.stop()
            assert first.failure is None
            for part in parts[3:]:
                write(settings, *part)
            wait_until(lambda: second.owns == set(ALL), 30, "the second worker owns all")
            wait_until(caught_up(settings, second), 60, "everything counted")
    assert_exact(settings)
    assert_dead_letters(settings, definitions_of(settings))


def test_who_was_overtaken_is_fenced_and_goes_on_exactly(
    stack: Settings, wait_until: Wait, caplog: pytest.LogCaptureFixture
) -> None:
    settings = short(stack)
    impressions, clicks = random_logs(3, 1200, definitions_of(settings))
    write(settings, impressions[:300], clicks[:200])
    worker = CountingWorker(settings)
    store = stored(settings)
    try:
        wanted = ends(both_logs(settings))
        wait_until(lambda: step(worker) or store.offsets(ALL) == wanted, 30, "the first part")

        # Another one, with the same right to it, commits the next records behind its back.
        write(settings, impressions[300:500], clicks[200:400])
        logs = both_logs(settings)
        for partition in ALL:
            other = PartitionCounter(partition, worker.definitions, store.read(partition))
            assert other.rebuild is not None
            for topic, read, (low, high) in (
                (IMPRESSIONS, other.read_impressions, other.rebuild[0]),
                (CLICKS, other.read_clicks, other.rebuild[1]),
            ):
                read([m for m in logs[topic][partition] if low <= m.offset() < high])
            other.rebuilt(store)
            ahead = [m for m in logs[IMPRESSIONS][partition] if m.offset() >= other.offsets[0]][:20]
            assert ahead, "the log gives every partition something"
            other.read_impressions(ahead)
            update, _ = other.prepare(store)
            assert store.commit([update]) == [None]

        write(settings, impressions[500:], clicks[400:])
        wanted = ends(both_logs(settings))
        wait_until(lambda: step(worker) or store.offsets(ALL) == wanted, 30, "the rest")
        assert worker.totals.fenced == PARTITIONS
    finally:
        worker.close()
    assert sum("fenced: partition" in record.message for record in caplog.records) == PARTITIONS
    assert_exact(settings)


def test_a_batch_that_gets_lost_stops_the_counting(make_stack: Callable[..., Settings]) -> None:
    """Whoever drives the worker: going on behind it would leave a hole."""
    worker = CountingWorker(short(make_stack("embedded")))
    try:
        worker.process(worker.poll(10, 0.01))
        worker.poll(10, 0.01)
        with pytest.raises(TransportError, match="batch 2 was lost"):
            worker.process(worker.poll(10, 0.01))
    finally:
        worker.close()


@pytest.mark.slow
def test_an_emptied_redis_is_counted_again(stack: Settings, wait_until: Wait) -> None:
    settings = short(stack)
    impressions, clicks = random_logs(4, 3000, definitions_of(settings))
    write(settings, impressions[:-100], clicks[:-100])
    with counting(settings) as running:
        wait_until(caught_up(settings, running), 60, "everything counted")
        before = integers(settings)
        with connect(settings) as client:
            client.flushall()
        # Nothing new: who reads no record commits nothing, so one more must come before it notices.
        write(settings, impressions[-100:], clicks[-100:])
        wait_until(caught_up(settings, running), 60, "counted again")
        assert running.totals.fenced > 0
    assert_exact(settings)
    assert integers(settings) != before
    whole = integers(settings)
    with connect(settings) as client:
        client.flushall()
    count_all(settings, wait_until)
    assert integers(settings) == whole


@pytest.mark.slow
def test_other_definitions_are_counted_from_the_start(
    stack: Settings, wait_until: Wait, caplog: pytest.LogCaptureFixture
) -> None:
    settings = short(stack)
    impressions, clicks = random_logs(5, 3000, definitions_of(settings))
    write(settings, impressions, clicks)
    count_all(settings, wait_until)
    narrow = integers(settings)
    wide = short(settings, window_ms=10 * WINDOW_MS, bucket_ms=7000)
    # All is read, so nothing moves before a record comes.
    write(wide, heartbeats(0), [])
    count_all(wide, wait_until)
    assert "counting again from the log" in caplog.text
    assert all(stored(wide).read(p).definitions == definitions_of(wide) for p in ALL)  # type: ignore[union-attr]
    assert_exact(wide)
    assert records(wide)["clicks.counted"] > sum(found[1].get("clicks.counted", 0) for found in narrow)
    write(settings, heartbeats(0), [])
    count_all(settings, wait_until)
    assert_exact(settings)
    for now, then in zip(integers(settings), narrow, strict=True):
        assert (now[0], *now[2:]) == (then[0], *then[2:])


def test_counts_of_an_earlier_version_are_counted_again(stack: Settings, wait_until: Wait) -> None:
    settings = short(stack)
    write(settings, *random_logs(7, 1000, definitions_of(settings)))
    count_all(settings, wait_until)
    before, keys, client = integers(settings), Keys(settings.prefix), connect(settings)
    for partition in ALL:
        # As the version before wrote it: no version, and a unit apart in each cell.
        text = ",".join(definitions_of(settings).encode().split(",")[:4])
        client.hset(keys.counts(partition), "definitions", text)
        client.hset(keys.units(partition), '["by-user","a","","u1","u1"]', "5,1,0")
    with pytest.raises(SluiceError, match="counts again from the log"):
        verify(settings)
    write(settings, heartbeats(0), [])
    count_all(settings, wait_until)
    assert_exact(settings)
    for now, then in zip(integers(settings), before, strict=True):
        assert (now[0], *now[2:]) == (then[0], *then[2:])
    assert not any(client.hexists(keys.units(partition), '["by-user","a","","u1","u1"]') for partition in ALL)


def test_verify_compares_the_cohorts_of_the_last_snapshot(stack: Settings, wait_until: Wait) -> None:
    settings = short(stack)
    write(settings, *random_logs(8, 1000, definitions_of(settings)))
    count_all(settings, wait_until)
    assert_exact(settings)
    last = snapshots(settings)[0]
    assert last.delays is not None
    first, *others = last.delays.variants
    wrong = msgspec.structs.replace(first, ahead=first.ahead + 1)
    delays = msgspec.structs.replace(last.delays, variants=(wrong, *others))
    client = producer(settings)
    client.produce(VARIANT_STATS, encode(msgspec.structs.replace(last, delays=delays)), b"0")
    assert client.flush(30) == 0
    (difference,) = verify(settings)[0].differences
    assert difference.name == f"delays {first.experiment} {first.variant} ahead"
    assert (difference.stored, difference.recounted) == (first.ahead + 1, first.ahead)


@pytest.mark.slow
def test_many_restarts(stack: Settings, wait_until: Wait) -> None:
    """Each restart rebuilds the open window; the batches never end at the same place twice."""
    settings = short(stack)
    rng = random.Random(6)
    impressions, clicks = random_logs(6, 2400, definitions_of(settings))
    store, worker = stored(settings), CountingWorker(settings)
    try:
        wait_until(lambda: step(worker) or len(worker.state()["partitions"]) == PARTITIONS, 30, "all partitions")
        while impressions or clicks:
            a, b = rng.randrange(100, 700), rng.randrange(0, 500)
            write(settings, impressions[:a], clicks[:b])
            del impressions[:a], clicks[:b]
            wanted = ends(both_logs(settings))
            wait_until(lambda: step(worker) or store.offsets(ALL) == wanted, 30, "a part")  # noqa: B023
            for partition in ALL:
                worker._reload(partition)  # what a new process does, without the seconds a group takes
            assert_exact(settings)
        assert worker.totals.rebuilt > PARTITIONS
        assert worker.totals.fenced == 0
    finally:
        worker.close()
    assert_dead_letters(settings, definitions_of(settings))


# -- a log whose beginning is gone ---------------------------------------------------------------------


@pytest.mark.kafka
def test_a_truncated_log(make_stack: MakeStack, wait_until: Wait) -> None:
    settings = short(make_stack("local"))
    impressions, clicks = random_logs(7, 2000, definitions_of(settings))
    write(settings, impressions, clicks)
    gone = {topic: {p: len(logs[p]) // 3 for p in ALL} for topic, logs in both_logs(settings).items()}
    truncate(settings, gone)
    with pytest.raises(LogTruncated, match=r"impressions\[0\]: .* offset 0, the log starts at \d+; .*ACCEPT_TRUNC"):
        count_all(settings, wait_until)
    assert stored(settings).partitions() == []

    accepting = short(settings, accept_truncated=True)
    count_all(accepting, wait_until)
    for partition in ALL:
        counts = stored(settings).read(partition)
        assert counts is not None
        assert (counts.impressions_start, counts.clicks_start) == (
            gone[IMPRESSIONS][partition],
            gone[CLICKS][partition],
        )
    assert_exact(accepting)
    assert_exact(settings)

    # What is needed to rebuild or to verify goes, too: neither guesses.
    truncate(settings, {IMPRESSIONS: {p: of[0] for p, of in stored(settings).offsets(ALL).items()}})
    with pytest.raises(LogTruncated, match=r"impressions\[\d\]: offsets \d+ to \d+ are needed, the log holds"):
        count_all(accepting, wait_until)
    with pytest.raises(LogTruncated, match="are needed, the log holds"):
        verify(settings)


@pytest.mark.kafka
def test_a_log_that_is_truncated_before_it_was_read(make_stack: MakeStack, wait_until: Wait) -> None:
    """Retention has overtaken the workers: going on behind the hole would be a wrong count that nobody sees."""
    settings = short(make_stack("local"))
    write(settings, [(f"u{n}", impression(n, f"u{n}", 10_000 + n), -1) for n in range(200)], [])
    count_all(settings, wait_until)
    write(settings, [], [(f"u{n}", click(n, f"u{n}", 10_000 + n), -1) for n in range(200)])
    truncate(settings, {CLICKS: dict.fromkeys(ALL, 10)})
    with pytest.raises(LogTruncated, match=r"clicks\[\d\]: offset 0 is next, the log holds 10 to \d+"):
        count_all(settings, wait_until)
    assert {clicks for _, clicks in stored(settings).offsets(ALL).values()} == {0}


# -- memory --------------------------------------------------------------------------------------------


def test_at_the_memory_limit_only_the_topic_behind_is_read(
    stack: Settings, wait_until: Wait, caplog: pytest.LogCaptureFixture
) -> None:
    settings = short(stack, max_held=100)
    # The clicks topic is silent: impressions cannot be closed, so they must not be read for ever.
    impressions = [("u", impression(n, "u", n * 100), -1) for n in range(3000)]
    write(settings, impressions, [])
    store, worker = stored(settings), CountingWorker(settings)
    (partition,) = {p for p, messages in both_logs(settings)[IMPRESSIONS].items() if messages}
    wanted = ends(both_logs(settings))

    def read() -> int:
        worker.process(worker.poll(200, 0.05))
        return store.offsets([partition])[partition][0]

    try:
        wait_until(lambda: read() and worker.totals.stalled, 30, "a stall")
        stopped_at = read()
        for _ in range(20):
            assert read() == stopped_at < 1000
        assert worker.held >= settings.max_held
        assert worker.totals.stalled == [f"clicks[{partition}]"]
        assert worker.state()["partitions"][partition]["paused"] == IMPRESSIONS
        said = [record.message for record in caplog.records if "memory limit" in record.message]
        assert said == [
            f"memory limit of 100 held records: reading only clicks of partition {partition}; "
            "if that topic is silent, a heartbeat on it moves this on"
        ]
        # A heartbeat moves it on as far as it reaches.
        at = stopped_at * 100
        write(settings, [], [("", encode(Heartbeat(at_ms=at)), partition)])
        wait_until(lambda: read() > stopped_at, 30, "the heartbeat to move it on")
        assert_exact(settings)
        # And so do clicks, which all find their impressions.
        write(settings, [], [("u", click(n, "u", n * 100 + 50), -1) for n in range(at // 100, 3000)])
        wanted = ends(both_logs(settings))
        wait_until(lambda: read() and store.offsets(ALL) == wanted, 30, "everything")
        write(settings, heartbeats(10**6), heartbeats(10**6))
        wanted = ends(both_logs(settings))
        wait_until(lambda: read() and store.offsets(ALL) == wanted, 30, "the heartbeats")
        assert worker.held == 0
        assert worker.totals.stalled == []
        assert worker.state()["partitions"][partition]["paused"] == ""
    finally:
        worker.close()
    assert_exact(settings)
    assert records(settings)["impressions.counted"] == 3000


def test_who_is_fenced_at_the_memory_limit_reads_both_topics_again(stack: Settings, wait_until: Wait) -> None:
    settings = short(stack, max_held=50)
    write(settings, [("u", impression(n, "u", n), -1) for n in range(100)], [])
    store, worker = stored(settings), CountingWorker(settings)
    try:
        wait_until(lambda: step(worker) or worker.totals.stalled, 30, "a stall")
        with connect(settings) as client:
            client.flushall()
        # The commit is refused, and what is rebuilt is nothing: the limit is far away again.
        write(settings, [], [("", encode(Heartbeat(at_ms=10**6)), p) for p in ALL])
        wanted = ends(both_logs(settings))
        wait_until(lambda: step(worker) or store.offsets(ALL) == wanted, 30, "everything")
        assert worker.totals.fenced > 0
    finally:
        worker.close()
    assert_exact(settings)


def test_small_limits_stay_exact(stack: Settings, wait_until: Wait) -> None:
    settings = short(stack, max_held=60)
    impressions, clicks = random_logs(8, 2500, definitions_of(settings))
    end = 100 * (WINDOW_MS + LATENESS_MS)
    write(settings, [*impressions, *heartbeats(end)], [*clicks, *heartbeats(end)])
    count_all(settings, wait_until, batch=50)
    assert_exact(settings)
    assert_dead_letters(settings, definitions_of(settings))


# -- verify ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "field"),
    [
        ("counts", "impressions.counted"),
        ("counts", "clicks.malformed"),
        ("counts", '["by-user","a","a=50,b=50"]'),
        ("counts", '["by-slate","b","a=70,b=30","click"]'),
        ("buckets", '["by-slate","a",0]'),
        ("counts", '["ghost","a",""]'),
    ],
)
def test_verify_finds_a_number_that_was_changed(embedded_counts: Settings, key: str, field: str) -> None:
    settings, partition = embedded_counts, 2
    name = getattr(Keys(settings.prefix), key)(partition)
    with connect(settings) as client:
        before = client.hget(name, field)
        numbers = [int(number) for number in (before or b"0,0,0").split(b",")]  # type: ignore[union-attr]
        for place in range(len(numbers)):
            changed = [number + (n == place) for n, number in enumerate(numbers)]
            client.hset(name, field, ",".join(map(str, changed)))
            check = verify_partition(settings, stored(settings), partition)
            (difference,) = check.differences
            assert difference.stored - difference.recounted == 1
        client.hset(name, field, before) if before else client.hdel(name, field)
    assert not verify_partition(settings, stored(settings), partition).differences


def test_verify_finds_counters_that_were_deleted(embedded_counts: Settings) -> None:
    settings = embedded_counts
    name, field = Keys(settings.prefix).counts(1), '["by-slate","a","a=50,b=50"]'
    with connect(settings) as client:
        kept = {name: value for name, value in client.hgetall(name).items() if name.startswith(field[:-1].encode())}  # type: ignore[union-attr]
        client.hdel(name, *kept)
        (check,) = [check for check in verify(settings) if check.differences]
        assert {difference.stored for difference in check.differences} == {0}
        client.hset(name, mapping=kept)
    assert_exact(settings)


def test_verify_says_what_is_not_counted_yet(embedded_counts: Settings) -> None:
    def behind() -> int:
        return sum(check.not_counted for check in verify(embedded_counts))

    before = behind()
    write(embedded_counts, [("u1", impression("more", "u1", 5), -1)], [("u1", click("more", "u1", 6), -1)] * 2)
    assert behind() == before + 3


@pytest.fixture(scope="module")
def embedded_counts(tmp_path_factory: pytest.TempPathFactory, wait_until: Wait) -> Iterator[Settings]:
    """Counters of a random log on servers of their own: what others wrote to a shared log would make it late."""
    with stacks.start("embedded", Settings(state=tmp_path_factory.mktemp("tampered"))) as running:
        settings = short(running.settings, bucket_ms=10**9)
        impressions, clicks = random_logs(9, 3000, definitions_of(settings))
        write(settings, impressions, clicks)
        count_all(settings, wait_until)
        assert_exact(settings)
        yield settings


# -- servers that go away -------------------------------------------------------------------------------


def test_a_redis_without_memory_is_waited_for(
    make_stack: Callable[..., Settings], wait_until: Wait, caplog: pytest.LogCaptureFixture
) -> None:
    """It answers, but takes no writes: without a pause the worker would ask without end."""
    settings = short(make_stack("embedded"))
    impressions, clicks = random_logs(10, 2000, definitions_of(settings))
    write(settings, impressions[:600], clicks[:600])
    with connect(settings) as client, counting(settings) as running:
        wait_until(caught_up(settings, running), 60, "the first part")
        client.config_set("maxmemory", "1")
        client.config_resetstat()
        write(settings, impressions[600:], clicks[600:])
        wait_until(lambda: "commit failed" in caplog.text, 30, "the failure")
        wait_until(lambda: refused(client) >= 3, 30, "some attempts")
        began = refused(client)
        wait_until(lambda: refused(client) > began, 30, "the next attempt")
        client.config_set("maxmemory", "1gb")
        wait_until(caught_up(settings, running), 60, "everything counted")
        attempts = refused(client)
    assert attempts < 60
    assert sum("commit failed" in record.message for record in caplog.records) == 1
    assert sum("commits go on" in record.message for record in caplog.records) == 1
    assert_exact(settings)
    assert_dead_letters(settings, definitions_of(settings))


def refused(client: redis.Redis) -> int:
    errors = client.info("errorstats")
    return sum(int(value["count"]) for value in errors.values())  # type: ignore[union-attr]


def test_workers_of_another_prefix_count_everything_too(stack: Settings, wait_until: Wait) -> None:
    first, second = short(stack), short(stack, prefix="other:")
    write(first, *random_logs(3, 400, definitions_of(first)))
    with counting(first) as one, counting(second) as other:
        wait_until(caught_up(first, one), 60, "everything counted under the first prefix")
        wait_until(caught_up(second, other), 60, "everything counted under the second prefix")
    assert integers(first) == integers(second)
    assert_exact(second)
