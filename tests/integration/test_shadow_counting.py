"""Sums of shadow comparisons are a function of the log: after kills, with two at once, after Redis forgot all."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from click.testing import CliRunner

from sluice.adapters.kafka import producer
from sluice.adapters.redis import connect
from sluice.adapters.shadow import ShadowStore
from sluice.console.shadow import shadow
from sluice.domain.events import encode
from sluice.domain.shadow import ShadowCompared, ShadowFigures, ShadowKey, ShadowSums, compare, figures
from sluice.errors import Fenced
from sluice.names import SHADOW, Keys
from sluice.settings import Settings
from stream_processors.shadow import ShadowCounter, run_shadow

Wait = Callable[..., Any]
RUN = "import threading; from stream_processors.shadow import *; from sluice.settings import Settings; "
RUN += "run_shadow(Settings.load(), threading.Event(), {})"


def made(count: int, seed: int) -> list[ShadowCompared]:
    rng = random.Random(seed)
    return [
        ShadowCompared(
            experiment=rng.choice("ef"), variant=rng.choice("ab"), version="1", shadow="next",
            shadow_version=rng.choice("12"), user_id=f"u{rng.randrange(50)}", slate_id=str(number), at_ms=number,
            served_us=rng.randrange(1, 9999), shadow_us=rng.randrange(1, 9999), dropped=rng.randrange(3),
            agreement=compare([rng.random() for _ in range(5)], [rng.random() for _ in range(5)], 2),
        )
        for number in range(count)
    ]  # fmt: skip


def write(settings: Settings, records: Sequence[ShadowCompared]) -> None:
    out = producer(settings)
    for record in records:
        out.produce(SHADOW, encode(record), record.user_id)
    assert out.flush(20) == 0


def expected(records: Sequence[ShadowCompared]) -> list[ShadowFigures]:
    sums: dict[ShadowKey, ShadowSums] = {}
    for record in records:
        sums.setdefault(ShadowKey.of(record), ShadowSums()).take(record)
    return [figures(key, sums[key]) for key in sorted(sums)]


@contextmanager
def store(settings: Settings) -> Iterator[ShadowStore]:
    with connect(settings) as client:
        yield ShadowStore(client, Keys(settings.prefix))


def counted(settings: Settings) -> int:
    with store(settings) as found:
        return sum(one.requests for one in found.figures())


def exact(settings: Settings, records: Sequence[ShadowCompared]) -> bool:
    with store(settings) as found:
        return found.figures() == expected(records)


@contextmanager
def counting(settings: Settings) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=run_shadow, args=(settings, stop, {}))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(60)


def test_sums_reports_and_a_redis_that_forgot_all(stack: Settings, wait_until: Wait, monkeypatch: Any) -> None:
    records = made(300, 1)
    write(stack, records[:200])
    producer_of_noise = producer(stack)
    producer_of_noise.produce(SHADOW, b"{", "u1")
    assert producer_of_noise.flush(20) == 0
    with counting(stack):
        wait_until(lambda: exact(stack, records[:200]), 20, "the first are counted")
        with connect(stack) as client:
            client.flushall()
        write(stack, records[200:])
        wait_until(lambda: exact(stack, records), 30, "all are counted anew")
    for name in ("kafka", "redis", "state"):
        monkeypatch.setenv(f"SLUICE_{name.upper()}", str(getattr(stack, name)))
    told = CliRunner().invoke(shadow, ["report", "e", "--json"])
    assert told.exit_code == 0, told.output
    rows = json.loads(told.stdout)["shadows"]
    assert {row["experiment"] for row in rows} == {"e"}
    assert sum(row["compared"] for row in rows) == sum(record.experiment == "e" for record in records)
    assert "e: shadow next (version 1) beside a (version 1)" in CliRunner().invoke(shadow, ["report"]).output
    assert CliRunner().invoke(shadow, ["report", "nobody"]).exit_code != 0


def test_whoever_was_overtaken_counts_nothing(make_stack: Callable[..., Settings], wait_until: Wait) -> None:
    settings = make_stack("embedded", partitions=1)
    records = made(40, 2)
    write(settings, records[:20])
    with ShadowCounter(settings) as counter, store(settings) as found:
        wait_until(counter.step, 20, "the first are counted")
        offset, sums = found.load(0)
        assert offset == 20
        found.commit(0, offset, offset + 20, sums)  # by another one, which read on
        write(settings, records[20:])
        with pytest.raises(Fenced, match="another worker has moved it on from offset 20"):
            wait_until(counter.step, 20, "the next ones")
        assert found.load(0) == (40, sums)


@pytest.mark.slow
def test_counts_are_exact_after_kills(
    make_stack: Callable[..., Settings], service_env: Callable[[Settings], dict[str, str]], wait_until: Wait
) -> None:
    settings = make_stack("embedded")
    records = made(2000, 3)
    for number in range(2):
        part = records[1000 * number : 1000 * (number + 1)]
        child = subprocess.Popen([sys.executable, "-c", RUN], env=service_env(settings))
        try:
            # Writing while it counts, so that the kill falls between any two of its steps.
            for start in range(0, 1000, 50):
                write(settings, part[start : start + 50])
            wait_until(lambda before=1000 * number: counted(settings) > before, 30, "counting has begun")
        finally:
            child.kill()
            child.wait()
    with counting(settings):
        wait_until(lambda: counted(settings) >= len(records), 30, "all are counted")
    assert exact(settings, records)
