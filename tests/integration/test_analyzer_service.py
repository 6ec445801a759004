"""Snapshots in, decisions out: the analyzer on a real broker and a real Redis."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from ports import own_port

from analyzer import service
from analyzer.service import Analyzer, build
from infra import redis_server
from sluice.adapters import catalogue
from sluice.adapters.allocations import AllocationStore
from sluice.adapters.kafka import Message, producer
from sluice.adapters.reader import TopicReader
from sluice.adapters.redis import connect
from sluice.domain.events import (
    DeadLetter,
    DecisionMade,
    DelayCohorts,
    StatsCell,
    StatsPublished,
    VariantDelays,
    encode,
)
from sluice.domain.experiment import Experiment, load_experiments
from sluice.domain.statistics import CellStatistics, OutcomeStatistics
from sluice.domain.status import Action
from sluice.names import DEAD_LETTERS, DECISIONS, VARIANT_STATS, Keys
from sluice.settings import Settings

Wait = Callable[..., Any]

YAML = """
name: films
unit: slate
variants: [{name: a}, {name: b}]
stopping: {least_units: 100}
"""


def experiment(text: str = YAML) -> Experiment:
    return load_experiments(text, "test")[0]


def cell(variant: str, units: int, clicks: int, name: str = "films", allocation: str = "a=50,b=50") -> StatsCell:
    """Units of one impression each."""
    outcomes = {"click": OutcomeStatistics(clicks, clicks, clicks)}
    statistics = CellStatistics(units, units, units, outcomes)
    return StatsCell(experiment=name, variant=variant, allocation=allocation, statistics=statistics)


def stats(partition: int, offset: int, *cells: StatsCell, window_ms: int = 1000) -> bytes:
    return encode(
        StatsPublished(
            partition=partition,
            impressions_offset=offset,
            clicks_offset=offset,
            window_ms=window_ms,
            lateness_ms=0,
            at_ms=offset,
            watermark_ms=offset,
            cells=cells,
            records={},
        )
    )


def send(settings: Settings, *records: tuple[bytes, bytes], topic: str = VARIANT_STATS) -> None:
    out = producer(settings)
    for key, value in records:
        out.produce(topic, key=key, value=value)
    assert out.flush(20) == 0


def read_all(settings: Settings, topic: str) -> list[Message]:
    messages = []
    with TopicReader(settings, topic, from_start=True) as reader:
        while not reader.caught_up:
            messages += reader.poll(0.1)
    return messages


def decisions(settings: Settings, name: str = "films") -> list[DecisionMade]:
    found = [msgspec.json.decode(m.value() or b"", type=DecisionMade) for m in read_all(settings, DECISIONS)]
    return [decision for decision in found if decision.experiment == name]


def units(decision: DecisionMade) -> int:
    return sum(result.units for result in decision.results)


@contextmanager
def running(analyzer: Analyzer) -> Iterator[Analyzer]:
    failures: list[BaseException] = []

    def work() -> None:
        try:
            analyzer.run()
        except BaseException as error:  # noqa: BLE001 - told to the test below
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield analyzer
    finally:
        analyzer.stop()
        thread.join(60)
        assert not thread.is_alive()
    assert not failures


@pytest.fixture
def settings(make_stack: Callable[..., Settings]) -> Settings:
    made = make_stack("embedded")
    catalogue.apply(made, [experiment()])
    return made


def latest(settings: Settings, wait_until: Wait, wanted_units: int, name: str = "films") -> DecisionMade:
    def there() -> DecisionMade | None:
        # Of equal versions the first stands, and max() returns the first.
        found = max(decisions(settings, name), key=lambda decision: decision.version, default=None)
        return found if found is not None and units(found) == wanted_units else None

    decision = wait_until(there, 20, f"a decision on {wanted_units} units")
    assert isinstance(decision, DecisionMade)
    return decision


def young(at_ms: int) -> bytes:
    """2 × 500 slates of the time 1,000, of 16,000 milliseconds window, as they are seen at `at_ms`."""
    delays = DelayCohorts(
        start_ms=1000,
        cohort_ms=1000,
        variants=tuple(
            VariantDelays(experiment="films", variant=name, impressions=(500,), outcomes={"click": ((100,),)})
            for name in ("a", "b")
        ),
    )
    snapshot = msgspec.json.decode(stats(0, 10, cell("a", 500, 100), cell("b", 500, 100)), type=StatsPublished)
    return encode(
        msgspec.structs.replace(
            snapshot, impressions_offset=at_ms, window_ms=16_000, at_ms=at_ms, watermark_ms=at_ms, delays=delays
        )
    )


def test_without_new_counts_a_decision_follows_once_no_more_clicks_can_come(
    settings: Settings, wait_until: Wait
) -> None:
    with running(build(settings, every_ms=20)):
        send(settings, (b"0", young(2_500)))
        first = latest(settings, wait_until, 1000)
        assert first.delay is not None
        assert first.delay.immature
        send(settings, (b"0", young(3_000)))  # a heartbeat: time goes on
        send(settings, (b"0", young(40_000)))
        second = wait_until(
            lambda: next((one for one in decisions(settings) if one.version > first.version), None), 20, "a decision"
        )
        assert second.evidence == first.evidence
        assert not (second.delay and second.delay.immature)
        send(settings, (b"0", young(41_000)), (b"1", stats(1, 1)))
        send(settings, (b"1", stats(1, 2, cell("a", 1, 1))))
        third = latest(settings, wait_until, 1001)
    assert third.version == second.version + 1, "what is mature stays decided"


def test_partitions_add_up_and_the_allocation_reaches_redis(stack: Settings, wait_until: Wait) -> None:
    catalogue.apply(stack, [experiment()])
    store = AllocationStore(connect(stack), Keys(stack.prefix))
    with running(build(stack, every_ms=20)):
        send(stack, (b"0", stats(0, 10, cell("a", 300, 60), cell("b", 280, 90))), (b"1", stats(1, 7, cell("b", 10, 4))))
        decision = latest(stack, wait_until, 590)
        stored = wait_until(lambda: store.get("films") == (1, decision.allocation), 10, "the allocation in Redis")
    assert stored
    assert decision.verdict == "ship"
    assert decision.offsets == {"0": (10, 10), "1": (7, 7)}
    assert decision.at_ms == 10
    assert [(r.variant, r.units, r.outcomes) for r in decision.results] == [("a", 300, 60), ("b", 290, 94)]
    assert decision.allocation["b"] > 90
    assert decision.allocation_version == 1


def test_a_restart_goes_on_where_the_last_version_was_and_repeats_nothing(settings: Settings, wait_until: Wait) -> None:
    send(settings, (b"0", stats(0, 10, cell("a", 300, 60), cell("b", 280, 90))))
    with running(build(settings, every_ms=20)):
        first = latest(settings, wait_until, 580)
    again = build(settings, every_ms=20)
    with running(again):
        assert again.ready.wait(60)
        send(settings, (b"0", stats(0, 20, cell("a", 301, 60), cell("b", 280, 90))))
        second = latest(settings, wait_until, 581)
    assert second.version == first.version + 1
    assert second.previous_allocation == first.allocation
    assert second.allocation_version == first.allocation_version
    assert again.decisions == 1


def test_an_experiment_applied_while_running_is_decided_on(settings: Settings, wait_until: Wait) -> None:
    with running(build(settings, every_ms=20)) as analyzer:
        assert analyzer.ready.wait(60)
        send(settings, (b"0", stats(0, 10, cell("a", 300, 60, "later"), cell("b", 280, 90, "later"))))
        catalogue.apply(settings, [experiment(YAML.replace("films", "later"))])
        assert latest(settings, wait_until, 580, "later").verdict == "ship"
        # A changed configuration is a reason to decide again on the same counts.
        catalogue.apply(settings, [experiment(YAML.replace("films", "later").replace("100", "1000"))])
        wait_until(lambda: decisions(settings, "later")[-1].verdict == "insufficient-data", 20, "a new decision")


@pytest.mark.parametrize("action", ["pause", "stop", "ship"])
def test_nothing_is_decided_on_what_does_not_run(settings: Settings, wait_until: Wait, action: Action) -> None:
    catalogue.apply(settings, [experiment(YAML.replace("films", "other"))])

    def count(offset: int, clicks: int) -> None:
        """Of both experiments, in one snapshot: they are decided on in one go, `films` first."""
        both = [cell(v, 300, clicks, name) for name in ("films", "other") for v in "ab"]
        send(settings, (b"0", stats(0, offset, *both)))

    with running(build(settings, every_ms=20)):
        count(10, 60)
        before = latest(settings, wait_until, 600)
        latest(settings, wait_until, 600, "other")
        catalogue.change(settings, "films", action, by="ann", variant="b" if action == "ship" else "")
        catalogue.apply(settings, [experiment(YAML.replace("films", "marker"))])
        send(settings, (b"1", stats(1, 1, cell("a", 1, 0, "marker"))))
        latest(settings, wait_until, 1, "marker")  # read after the change, from the same topic
        count(20, 70)
        wait_until(lambda: decisions(settings, "other")[-1].offsets["0"] == (20, 20), 20, "a decision on the other")
    assert decisions(settings)[-1] == before
    with running(build(settings, every_ms=20)) as restarted:
        assert restarted.ready.wait(60)
        count(30, 80)
        wait_until(lambda: decisions(settings, "other")[-1].offsets["0"] == (30, 30), 20, "a decision on the other")
        assert decisions(settings)[-1] == before
        if action == "pause":
            catalogue.change(settings, "films", "start", by="ann")
            wait_until(lambda: decisions(settings)[-1].offsets["0"] == (30, 30), 20, "decisions go on")
            assert decisions(settings)[-1].version == before.version + 1
            assert decisions(settings)[-1].config_hash == before.config_hash


def test_only_snapshots_that_hold_more_count_unless_the_definitions_changed(
    settings: Settings, wait_until: Wait
) -> None:
    with running(build(settings, every_ms=20)):
        send(settings, (b"0", stats(0, 10, cell("a", 300, 60), cell("b", 280, 90))))
        latest(settings, wait_until, 580)
        send(settings, (b"0", stats(0, 9, cell("a", 1, 0))), (b"1", stats(1, 1, cell("a", 2, 0))))
        latest(settings, wait_until, 582)
        send(settings, (b"0", stats(0, 3, cell("a", 30, 6), window_ms=2000)))
        latest(settings, wait_until, 32)


@pytest.mark.parametrize(
    "bad", [b"\xff{", b"[]", stats(0, 99, cell("a", -1, 0)), stats(0, 99, cell("a", 5, -1)), stats(-1, 99)]
)
def test_a_malformed_snapshot_becomes_a_dead_letter(settings: Settings, wait_until: Wait, bad: bytes) -> None:
    with running(build(settings, every_ms=20)) as analyzer:
        send(settings, (b"k", bad), (b"0", stats(0, 10, cell("a", 300, 60), cell("b", 280, 90))))
        latest(settings, wait_until, 580)
        assert analyzer.malformed == 1
    letters = [msgspec.json.decode(m.value() or b"", type=DeadLetter) for m in read_all(settings, DEAD_LETTERS)]
    assert [(x.topic, x.offset, x.key, x.value, x.reason) for x in letters] == [
        (VARIANT_STATS, 0, b"k", bad, "malformed")
    ]


def test_many_malformed_snapshots_do_not_hold_decisions_up(
    settings: Settings, wait_until: Wait, caplog: pytest.LogCaptureFixture
) -> None:
    send(settings, *[(b"k", b"[]")] * 2000, (b"0", stats(0, 10, cell("a", 300, 60), cell("b", 280, 90))))
    with running(build(settings, every_ms=20)) as analyzer:
        latest(settings, wait_until, 580)
        assert analyzer.malformed == 2000
    assert len(read_all(settings, DEAD_LETTERS)) == 2000
    assert len([line for line in caplog.messages if "is no snapshot" in line]) < 20


def test_of_two_analyzers_one_stands_by_until_the_other_is_gone(
    settings: Settings, wait_until: Wait, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(service, "STANDBY_S", 0.5)
    caplog.set_level(logging.WARNING)
    with running(build(settings, every_ms=10)) as one, running(build(settings, every_ms=10)) as two:
        assert one.ready.wait(60)
        assert two.ready.wait(60)
        for offset in range(1, 6):
            send(settings, (b"0", stats(0, offset, cell("a", offset, 0))))
            latest(settings, wait_until, offset)
        wait_until(lambda: "another analyzer decides on films" in caplog.text, 10, "one steps aside")
        standing = one if one.decisions > two.decisions else two
        standing.stop()
        send(settings, (b"0", stats(0, 9, cell("a", 9, 0))))
        latest(settings, wait_until, 9)
    versions = [decision.version for decision in decisions(settings)]
    standing_versions = [v for i, v in enumerate(versions) if v > max(versions[:i], default=0)]
    assert standing_versions == list(range(1, max(versions) + 1))
    # Both may have written at the same moment once: the later record does not stand, and whoever wrote it stops.
    assert len(versions) - len(standing_versions) <= 1


def test_decisions_go_on_without_redis_and_allocations_follow(
    settings: Settings, wait_until: Wait, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    port = own_port()
    away = Settings(kafka=settings.kafka, redis=f"redis://127.0.0.1:{port}/0", state=tmp_path)
    store = AllocationStore(connect(away), Keys(away.prefix))
    with running(Analyzer(away, store, every_ms=20, timeout_s=15)):
        send(settings, (b"0", stats(0, 10, cell("a", 300, 60), cell("b", 280, 90))))
        latest(settings, wait_until, 580)
        send(settings, (b"0", stats(0, 11, cell("a", 300, 60), cell("b", 290, 90))))
        decision = latest(settings, wait_until, 590)
        wait_until(lambda: "decisions go on" in caplog.text, 10, "the log line")
        server = redis_server.start(
            redis_server.bundled(), tmp_path / "r", tmp_path / "log", port, memory="64mb", persist=False
        )
        try:
            wait_until(lambda: store.get("films") is not None, 20, "the allocation in Redis")
            assert store.get("films") == (decision.allocation_version, decision.allocation)
        finally:
            server.stop()
    assert caplog.text.count("decisions go on") == 1


def test_a_version_that_redis_outlived_is_not_reused(settings: Settings, wait_until: Wait) -> None:
    store = AllocationStore(connect(settings), Keys(settings.prefix))
    store.put("films", 7, {"a": 20, "b": 80})
    send(settings, (b"0", stats(0, 10, cell("a", 300, 90), cell("b", 280, 50))))
    with running(build(settings, every_ms=20)):
        decision = latest(settings, wait_until, 580)
        wait_until(lambda: store.get("films") == (8, decision.allocation), 10, "the allocation in Redis")
    assert decision.version == 1
    assert decision.previous_allocation == {"a": 20, "b": 80}


def sluice(settings: Settings, env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sluice", *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)


def test_explain_computes_the_same_bytes_or_exits_1(
    settings: Settings, wait_until: Wait, service_env: Callable[[Settings], dict[str, str]]
) -> None:
    env = service_env(settings)
    with running(build(settings, every_ms=20)):
        send(settings, (b"0", stats(0, 10, cell("a", 30, 6), cell("b", 28, 9))))
        latest(settings, wait_until, 58)
        send(settings, (b"0", stats(0, 20, cell("a", 300, 60), cell("b", 280, 90))))
        last = latest(settings, wait_until, 580)
    shown = sluice(settings, env, "explain")
    assert shown.returncode == 0, shown.stderr
    assert "reproduced: yes" in shown.stdout
    assert "Ship b" in shown.stdout
    assert "Against the control" in shown.stdout
    assert max(map(len, shown.stdout.splitlines())) <= 80, "everything has room in 80 columns"
    as_json = sluice(settings, env, "explain", "1", "--experiment", "films", "--json")
    answer = msgspec.json.decode(as_json.stdout)
    assert as_json.returncode == 0
    assert answer["reproduced"] is True
    assert answer["decision"]["version"] == 1

    forged = msgspec.structs.replace(last, version=last.version + 1, allocation={"a": 50, "b": 50})
    send(settings, (b"films", encode(forged)), topic=DECISIONS)
    shown = sluice(settings, env, "explain", str(forged.version))
    assert shown.returncode == 1
    assert "reproduced: no" in shown.stdout
    missing = sluice(settings, env, "explain", "99")
    assert missing.returncode == 1
    assert missing.stderr == "sluice: experiment films has no decision 99\n"


def test_the_command_survives_kill_and_ends_cleanly(
    settings: Settings, wait_until: Wait, service_env: Callable[[Settings], dict[str, str]], tmp_path: Path
) -> None:
    def start() -> subprocess.Popen[bytes]:
        with (tmp_path / "log").open("ab") as log:
            command = [sys.executable, "-m", "analyzer", "--every-ms", "20"]
            return subprocess.Popen(command, env=service_env(settings), stderr=log)

    process = start()
    try:
        send(settings, (b"0", stats(0, 10, cell("a", 300, 60), cell("b", 280, 90))))
        first = latest(settings, wait_until, 580)
        os.kill(process.pid, signal.SIGKILL)
        process.wait(60)
        process = start()
        send(settings, (b"0", stats(0, 11, cell("a", 300, 60), cell("b", 281, 90))))
        second = latest(settings, wait_until, 581)
        assert second.version > first.version
        process.terminate()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait(60)
    versions = [decision.version for decision in decisions(settings)]
    assert versions == sorted(set(versions))
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_a_broker_that_is_away_at_the_start_is_one_clear_line(
    service_env: Callable[[Settings], dict[str, str]], tmp_path: Path
) -> None:
    kafka = f"127.0.0.1:{own_port()}"
    away = Settings(kafka=kafka, redis="redis://127.0.0.1:1/0", state=tmp_path)
    shown = sluice(away, service_env(away), "analyze", "--deadline", "1")
    assert shown.returncode == 1
    (line,) = shown.stderr.strip().splitlines()
    assert line.startswith(f"sluice: no Kafka broker answers at {kafka} within 1 s")
