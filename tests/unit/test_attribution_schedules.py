"""The counting guarantee by brute force: small logs × interleavings × batches × restarts × a second worker.

Every integer is compared with the independent recount at every commit. A failure prints the seed; the
log and the schedule follow from it.
"""

from __future__ import annotations

import os
import random
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import msgspec
import pytest
from memory_store import MemoryStore

from sluice.domain.definitions import Definitions
from sluice.domain.events import Assignment, Heartbeat, ImpressionShown, OutcomeObserved, StatsPublished, encode
from sluice.errors import Fenced
from stream_processors import counting
from stream_processors import recount as recounting
from stream_processors.partition import PartitionCounter
from stream_processors.recount import Delays, Recount, recount

ALL_LOGS = 6500
LOGS = int(os.environ.get("SLUICE_TEST_LOGS", ALL_LOGS))
SCHEDULES_PER_LOG = 16


class Entry:
    """A record of a log, with the methods of a consumed message."""

    __slots__ = ("_offset", "_timestamp", "_value")

    def __init__(self, offset: int, value: bytes | None, timestamp: int) -> None:
        self._offset, self._value, self._timestamp = offset, value, timestamp

    def value(self) -> bytes | None:
        return self._value

    def key(self) -> bytes | None:
        return b"user"

    def offset(self) -> int:
        return self._offset

    def timestamp(self) -> tuple[int, int]:
        return (2, self._timestamp)


def assignments_pool() -> list[tuple[Assignment, ...]]:
    def made(experiment: str, variant: str, unit: str, kind: str, allocation: str = "a=50,b=50") -> Assignment:
        return Assignment(experiment, variant, allocation, unit, 0.5, kind)

    return [
        (made("e", "a", "s1", "slate"),),
        (made("e", "a", "s1", "slate"),),
        (made("e", "b", "s2", "slate"),),
        (made("e", "a", "u", "user"),),
        (made("e", "a", "s1", "slate"), made("f", "x", "u", "user")),
        (made("e", "a", "u", "user", "a=70,b=30"), made("f", "x", "s1", "slate")),
        (made("e", "b", "u", "user", "a=70,b=30"),),
        (made("e", "c", "u", "session"), made("f", "y", "u", "user")),
        (),
    ]


def make_logs(rng: random.Random) -> tuple[list[Entry], list[Entry], Definitions]:
    scale = rng.choice((1, 1, 100))
    lateness, window = rng.choice((0, 1, 2)) * scale, rng.choice((0, 1, 2, 4)) * scale
    definitions = Definitions(window, lateness, 3 * scale, rng.choice((1, 3, 1000)) * scale)
    span = rng.choice((3, 8, 20))
    drift = rng.choice((0.0, 1.0, 2.0))
    ids = "ab" if rng.random() < 0.7 else "abc"
    pool = assignments_pool()

    def time(index: int) -> int:
        base = rng.randrange(span) + int(drift * index)
        return base * scale + (rng.randrange(scale) if rng.random() < 0.3 else 0)

    def one(index: int, clicks: bool) -> tuple[bytes | None, int]:
        at = time(index)
        dice = rng.random()
        broker = at + rng.choice((0, 0, 0, 0, -2 * scale, -3 * scale, -4 * scale))
        if dice < 0.04:
            return rng.choice((None, b"{", b"[]", b'{"type":"impression"}', b'{"type":"heartbeat","at_ms":-1}')), broker
        if dice < 0.14:
            return encode(Heartbeat(at_ms=at)), broker
        if clicks:
            value = rng.choice((None, None, None, 500, -3))
            event = OutcomeObserved(
                click_id=rng.choice(("c1", "c2")),
                impression_id=rng.choice(ids),
                user_id="u",
                at_ms=at,
                outcome=rng.choice(("click", "click", "buy")),
                value_milli=value,
            )
            return encode(event), broker
        user = rng.choice(("u", "u", "v"))
        made = rng.choice(pool)
        if dice > 0.98:
            made = (made + made) or made
        return encode(
            ImpressionShown(impression_id=rng.choice(ids), user_id=user, item_id="i", at_ms=at, assignments=made)
        ), broker

    def log(clicks: bool) -> list[Entry]:
        offset, entries = 0, []
        for index in range(rng.randrange(0 if clicks else 1, 9)):
            offset += rng.choice((0, 0, 0, 2))  # compaction and transactions leave gaps
            value, broker = one(index, clicks)
            entries.append(Entry(offset, value, broker))
            offset += 1
        return entries

    return log(False), log(True), definitions


class Worker:
    """What the service does with a PartitionCounter, without a broker."""

    def __init__(
        self, store: MemoryStore, logs: tuple[list[Entry], list[Entry]], definitions: Definitions, dead: set
    ) -> None:
        self.store, self.logs, self.dead = store, logs, dead
        self.counter = PartitionCounter(0, definitions, store.read(0))
        if self.counter.rebuild:
            (a0, a1), (b0, b1) = self.counter.rebuild
            self.counter.read_clicks([e for e in logs[1] if b0 <= e.offset() < b1])
            self.counter.read_impressions([e for e in logs[0] if a0 <= e.offset() < a1])
            self.counter.rebuilt(store)

    def read(self, topic: int, count: int) -> bool:
        start = self.counter.offsets[topic]
        batch = [entry for entry in self.logs[topic] if entry.offset() >= start][:count]
        if not batch:
            return False
        (self.counter.read_clicks if topic else self.counter.read_impressions)(batch)
        return True

    def commit(self) -> bool:
        try:
            update, rejected = self.counter.prepare(self.store)
        except Fenced:
            return False
        self.dead |= {(r.topic, r.offset, r.reason) for r in rejected}
        assert update.counts["offsets"] != update.expected_offsets or update.reset, "a commit must move an offset"
        if self.store.commit([update]) == [None]:
            self.counter.committed(update)
            return True
        return False


def told_delays(snapshot: StatsPublished) -> dict[tuple[str, str], Delays]:
    """(experiment, variant) → what a snapshot says of its cohorts, in the words of the recount."""
    told: dict[tuple[str, str], Delays] = {}
    if snapshot.delays is None:
        return told
    start, width = snapshot.delays.start_ms, snapshot.delays.cohort_ms
    for one in snapshot.delays.variants:
        delays = told[one.experiment, one.variant] = Delays(ahead=one.ahead)
        for place, count in enumerate(one.impressions):
            delays.impressions[start + place * width] = count
        for name, cohorts in one.outcomes.items():
            for place, bins in enumerate(cohorts):
                for delay_bin, count in enumerate(bins):
                    delays.outcomes[name][start + place * width, delay_bin] = count
    return told


def expected_state(result: Recount) -> dict[str, object]:
    return {
        "records": {name: count for name, count in sorted(result.records.items()) if count},
        "cells": result.cells,
        "outcomes": result.outcomes,
        "buckets": result.buckets,
        "moved": result.moved,
        "waiting": result.waiting,
        "names": result.outcome_names,
    }


def stored_state(store: MemoryStore) -> dict[str, object]:
    counts, stored_buckets = store.read_all(0)
    assert counts is not None
    cells, outcomes = {}, {}
    for cell in counts.cells:
        key = (cell.experiment, cell.variant, cell.allocation)
        sums = cell.statistics
        cells[key] = (sums.units, sums.impressions, sums.impressions_squared)
        for name, outcome in sums.outcomes.items():
            outcomes[key, name] = msgspec.structs.astuple(outcome)
    buckets = {}
    for field, (n, *rest) in stored_buckets.items():
        experiment, variant, start = msgspec.json.decode(field)
        bucket = buckets[experiment, variant, start] = {"": (n, 0)}
        for name, c, v in zip(counts.outcomes, rest[::2], rest[1::2], strict=False):
            if c:
                bucket[name] = (c, v)
    return {
        "records": counts.records,
        "cells": cells,
        "outcomes": outcomes,
        "buckets": buckets,
        "moved": {(moved.experiment, moved.variant): (moved.units, moved.impressions) for moved in counts.moved},
        "waiting": counts.waiting,
        "names": list(counts.outcomes),
    }


def run_log(seed: int) -> int:
    """Many schedules of one log; the number of commits compared. In some, names run out."""
    rng = random.Random(seed)
    with pytest.MonkeyPatch.context() as patch:
        if seed % 5 == 0:
            for name, limit in (("MAX_PAIRS", rng.choice((1, 2))), ("MAX_CELLS", rng.choice((1, 3)))):
                patch.setattr(counting, name, limit)
                patch.setattr(recounting, name, limit)
        return run_schedules(seed, rng)


def run_schedules(seed: int, rng: random.Random) -> int:
    impressions, clicks, definitions = make_logs(rng)
    logs = (impressions, clicks)
    memo: dict[tuple[int, int, Definitions], tuple[dict[str, object], set, dict[tuple[str, str], Delays]]] = {}

    def truth(a: int, b: int, by: Definitions) -> tuple[dict[str, object], set, dict[tuple[str, str], Delays]]:
        if (a, b, by) not in memo:
            rows = [
                [(e.offset(), e.value(), e.timestamp()[1]) for e in log if e.offset() < end]
                for log, end in zip(logs, (a, b), strict=True)
            ]
            result = recount(*rows, by)
            memo[a, b, by] = expected_state(result), result.rejected, result.delays
        return memo[a, b, by]

    def started() -> Worker:
        worker = Worker(store, logs, by, dead)
        told, wanted = told_delays(worker.counter.snapshot()), truth(*worker.counter.offsets, by)[2]
        assert told == wanted, f"{where} rebuilt at {worker.counter.offsets}\ntold {told}\nwanted {wanted}"
        return worker

    end = tuple(log[-1].offset() + 1 if log else 0 for log in logs)
    compared = 0
    for schedule in range(SCHEDULES_PER_LOG):
        by = definitions
        store = MemoryStore()
        dead: set[tuple[str, int, str]] = set()
        where = f"seed={seed} schedule={schedule}"
        workers = [started()]
        other_definitions = rng.random() < 0.05
        for _ in range(200):
            action = rng.random()
            which = rng.randrange(len(workers))
            worker = workers[which]
            if action < 0.08:
                workers[which] = started()  # killed before it could commit
                continue
            if action < 0.13 and len(workers) == 1:
                workers.append(started())
                continue
            if action < 0.14 and other_definitions:
                by = Definitions(by.window_ms + 1, by.lateness_ms + 1, by.skew_ms, by.bucket_ms)
                workers = [started()]
                dead.clear()
                other_definitions = False
                continue
            moved = worker.read(rng.randrange(2), rng.choice((1, 1, 2, 3, 9)))
            if rng.random() < 0.5:
                moved |= worker.read(rng.randrange(2), rng.choice((1, 2, 9)))
            if moved:
                if not worker.commit():
                    workers[which] = started()  # fenced: drop everything, rebuild
                    continue
                counts = store.read(0)
                at = (counts.impressions_offset, counts.clicks_offset)
                wanted, rejected, delays = truth(*at, by)
                found = stored_state(store)
                assert found == wanted, f"{where} offsets={at}\nstored {found}\nwanted {wanted}"
                assert dead >= rejected, f"{where}: not among the dead letters: {rejected - dead}"
                told = told_delays(worker.counter.snapshot())
                assert told == delays, f"{where} offsets={at}\ntold {told}\nwanted {delays}"
                compared += 1
                if at == end:
                    assert dead == rejected, f"{where}: dead letters {dead ^ rejected}"
                    break
        else:
            raise AssertionError(f"{where}: never finished")
    return compared


def run_range(start: int, stop: int) -> int:
    return sum(run_log(seed) for seed in range(start, stop))


@pytest.mark.slow
def test_every_integer_at_every_commit_of_100_000_schedules():
    step = 125
    ranges = [(start, min(start + step, LOGS)) for start in range(0, LOGS, step)]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        compared = sum(pool.map(run_range, *zip(*ranges, strict=True)))
    schedules = LOGS * SCHEDULES_PER_LOG
    print(f"{schedules} schedules, {compared} commits compared")
    assert schedules >= 100_000 or LOGS != ALL_LOGS
    assert compared >= 2 * schedules


@pytest.mark.parametrize("seed", range(20))
def test_one_log_in_process(seed):
    assert run_log(seed) > 0
