"""`sluice process` and the Faust worker as processes of their own, and servers that go away under them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from event_logs import PARTITIONS, assert_dead_letters, assert_exact, both_logs, ends, heartbeats, random_logs, write
from ports import own_port

from infra import redis_server
from infra.server import Server
from sluice.adapters.counters import CounterStore
from sluice.adapters.redis import RedisError, connect
from sluice.names import Keys
from sluice.settings import Settings
from stream_processors.app import build
from stream_processors.worker import definitions_of

Wait = Callable[..., Any]
SLUICE = [sys.executable, "-m", "sluice"]
FAUST = [sys.executable, "-m", "faust", "-A", "stream_processors.app", "worker", "-l", "info"]


@pytest.fixture
def spawn(
    service_env: Callable[[Settings], dict[str, str]], tmp_path: Path
) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """`spawn(settings, command, log)`: a child whose output goes to `log` below tmp_path; killed at the latest here."""
    children: list[subprocess.Popen[bytes]] = []

    def start(settings: Settings, command: list[str], log: str = "log") -> subprocess.Popen[bytes]:
        with (tmp_path / log).open("ab") as out:
            child = subprocess.Popen(
                command, env=service_env(settings), stdout=out, stderr=out, cwd=tmp_path, start_new_session=True
            )
        children.append(child)
        return child

    yield start
    for child in children:
        if child.poll() is None:
            os.kill(child.pid, signal.SIGCONT)
            child.kill()
        child.wait()


def short(settings: Settings, **changed: Any) -> Settings:
    return replace(settings, **{"window_ms": 10_000, "lateness_ms": 1000, **changed})


def offsets(settings: Settings) -> dict[int, tuple[int, int]]:
    return CounterStore(connect(settings), Keys(settings.prefix)).offsets(range(PARTITIONS))


def wait_counted(settings: Settings, child: subprocess.Popen[bytes], wait_until: Wait) -> None:
    wanted = ends(both_logs(settings))

    def done() -> bool:
        assert child.poll() is None, "the worker ended"
        return offsets(settings) == wanted

    wait_until(done, 60, "everything counted")


def page(port: int) -> Any:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/state/", timeout=30) as answer:
            return json.load(answer)
    except OSError:
        return None


def stop(child: subprocess.Popen[bytes]) -> int:
    child.send_signal(signal.SIGTERM)
    return child.wait(60)


@pytest.mark.slow
@pytest.mark.parametrize("which", ["sluice process", "python -m stream_processors", "faust worker"])
def test_each_way_to_start_it_counts_and_shows_its_state(
    make_stack: Callable[..., Settings], spawn: Callable[..., Any], wait_until: Wait, tmp_path: Path, which: str
) -> None:
    settings, port = short(make_stack("embedded")), own_port()
    command = {
        "sluice process": [*SLUICE, "process", "--web-port", str(port), "--batch", "100"],
        "python -m stream_processors": [sys.executable, "-m", "stream_processors", "--web-port", str(port)],
        "faust worker": FAUST,
    }[which]
    impressions, clicks = random_logs(20, 1500, definitions_of(settings))
    write(settings, impressions, clicks)
    child = spawn(settings, command)
    wait_counted(settings, child, wait_until)
    assert_exact(settings)
    if which != "faust worker":
        state = wait_until(lambda: page(port), 20, "the page")
        assert {int(p): tuple(found["offsets"]) for p, found in state["partitions"].items()} == offsets(settings)
        assert state["experiments"] == []
        assert state["records"] == len(impressions) + len(clicks)
        assert state["fenced"] == 0
        assert state["commits"] > 0
    assert stop(child) == 0
    assert_dead_letters(settings, definitions_of(settings))
    log = (tmp_path / "log").read_text()
    assert "Traceback" not in log
    assert "counting partitions [0, 1, 2, 3]" in log
    assert [entry.name for entry in tmp_path.iterdir()] == ["log"], "a worker leaves no files where it is started"


@pytest.mark.slow
def test_a_rebalance_inside_faust_loses_no_batch(make_stack: Callable[..., Settings]) -> None:
    """Faust then suspends and empties its channels, with whatever was on the way from the feed to the agent."""
    settings = short(make_stack("embedded"))
    impressions, clicks = random_logs(26, 3000, definitions_of(settings))
    write(settings, impressions, clicks)
    wanted = ends(both_logs(settings))

    async def count() -> int:
        application, rounds = build(settings, batch_size=25), 0
        async with asyncio.timeout(200), application:
            while await asyncio.to_thread(offsets, settings) != wanted:
                application.flow_control.suspend()
                application.flow_control.clear()
                await asyncio.sleep(0)
                application.flow_control.resume()
                rounds += 1
        return rounds

    assert asyncio.run(count()) > 20
    assert_exact(settings)
    assert_dead_letters(settings, definitions_of(settings))


def test_the_page_is_served_on_this_machine_only(
    make_stack: Callable[..., Settings], spawn: Callable[..., Any], wait_until: Wait
) -> None:
    settings, port = make_stack("embedded"), own_port()
    spawn(settings, [*SLUICE, "process", "--web-port", str(port)])
    wait_until(lambda: page(port), 30, "the page")
    listening = [
        line.split()
        for table in ("/proc/net/tcp", "/proc/net/tcp6")
        if Path(table).exists()
        for line in Path(table).read_text().splitlines()[1:]
    ]
    if not listening:
        pytest.skip("no list of sockets on this system")
    addresses = {fields[1] for fields in listening if fields[3] == "0A" and fields[1].endswith(f":{port:04X}")}
    assert addresses == {f"0100007F:{port:04X}"}


@pytest.mark.slow
def test_without_servers_it_says_so_and_ends(embedded: Settings, spawn: Callable[..., Any], tmp_path: Path) -> None:
    nobody = own_port()
    away = {
        "no-broker": (replace(embedded, kafka=f"127.0.0.1:{nobody}"), "sluice: no Kafka broker answers at"),
        "no-redis": (replace(embedded, redis=f"redis://:secret@127.0.0.1:{nobody}/0"), "sluice: no Redis answers at"),
    }
    children = {name: spawn(settings, [*SLUICE, "process"], name) for name, (settings, _) in away.items()}
    for name, child in children.items():
        assert child.wait(120) == 1
        (line,) = (tmp_path / name).read_text().splitlines()
        assert line.startswith(away[name][1])
        assert f"127.0.0.1:{nobody}" in line
        assert "within 15 s" in line
        assert "secret" not in line


@pytest.mark.slow
def test_what_stops_the_counting_ends_the_process(
    make_stack: Callable[..., Settings], spawn: Callable[..., Any], wait_until: Wait, tmp_path: Path
) -> None:
    """Redis says that more was counted than the log holds: the log was lost, and no number may be guessed."""
    settings, other = short(make_stack("embedded")), short(make_stack("embedded"))
    impressions, clicks = random_logs(21, 600, definitions_of(settings))
    write(settings, impressions, clicks)
    child = spawn(settings, [*SLUICE, "process"])
    wait_counted(settings, child, wait_until)
    assert stop(child) == 0
    write(other, impressions[:40], clicks[:40])
    child = spawn(replace(settings, kafka=other.kafka), [*SLUICE, "process"], "lost")
    assert child.wait(120) == 1
    lines = (tmp_path / "lost").read_text().splitlines()
    errors = [line for line in lines if "are needed, the log holds" in line]
    assert len(errors) == 1, lines
    assert not any("Traceback" in line for line in lines), lines


@contextmanager
def own_redis(folder: Path, port: int) -> Iterator[Server]:
    """A Redis that keeps its data when it is killed."""
    executable = redis_server.bundled() or redis_server.installed()
    server = redis_server.start(executable, folder, folder / "redis.log", port, memory="256mb", persist=True)
    try:
        yield server
    finally:
        server.graceful = False
        if server.alive:
            os.kill(server.pid, signal.SIGCONT)
        server.stop()


def warnings(log: Path, *words: str) -> list[str]:
    return [line for line in log.read_text().splitlines() if any(word in line for word in words)]


def cpu_s(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.slow
def test_a_redis_that_is_killed_and_comes_back_loses_nothing(
    make_stack: Callable[..., Settings], spawn: Callable[..., Any], wait_until: Wait, tmp_path: Path
) -> None:
    stack, port, log = make_stack("embedded"), own_port(), tmp_path / "log"
    folder = stack.state / "own-redis"
    folder.mkdir()
    with own_redis(folder, port) as server:
        settings = short(stack, redis=server.address)
        impressions, clicks = random_logs(22, 4000, definitions_of(settings))
        write(settings, impressions[:1000], clicks[:800])
        child = spawn(settings, [*SLUICE, "process", "--batch", "100"])
        wait_counted(settings, child, wait_until)
        server.process.kill()
        server.process.wait()
        write(settings, impressions[1000:], clicks[800:])
        wait_until(lambda: warnings(log, "trying again until it answers"), 30, "the warning")
        before = cpu_s(child.pid), len(log.read_text().splitlines())
        # Some seconds of waiting, told by the clients that knock: the port is ours to listen on meanwhile.
        assert knocks(port, 4) >= 4
        assert cpu_s(child.pid) - before[0] < 1.5
        assert len(log.read_text().splitlines()) == before[1], "one line, not one for every attempt"
    with own_redis(folder, port):
        wait_counted(settings, child, wait_until)
        assert_exact(settings)
        assert_dead_letters(settings, definitions_of(settings))
        assert len(warnings(log, "trying again until it answers")) == 1
        assert len(warnings(log, "went on after")) == 1
        assert stop(child) == 0
    assert "Traceback" not in log.read_text()


def knocks(port: int, wanted: int) -> int:
    """Connections that come in at a port and are turned away."""
    import socket

    with socket.create_server(("127.0.0.1", port)) as door:
        door.settimeout(30)
        for count in range(wanted):
            try:
                door.accept()[0].close()
            except TimeoutError:
                return count
    return wanted


@pytest.mark.slow
def test_a_redis_that_hangs_for_a_while_loses_nothing(
    make_stack: Callable[..., Settings], spawn: Callable[..., Any], wait_until: Wait, tmp_path: Path
) -> None:
    """It is stopped for longer than a client waits for an answer, so what it did with the last call is unknown."""
    stack, log = make_stack("embedded"), tmp_path / "log"
    folder = stack.state / "own-redis"
    folder.mkdir()
    with own_redis(folder, own_port()) as server:
        settings = short(stack, redis=server.address)
        impressions, clicks = random_logs(23, 4000, definitions_of(settings))
        write(settings, impressions[:1000], clicks[:800])
        child = spawn(settings, [*SLUICE, "process", "--batch", "100"])
        wait_counted(settings, child, wait_until)
        os.kill(server.pid, signal.SIGSTOP)
        write(settings, impressions[1000:], clicks[800:])
        wait_until(lambda: warnings(log, "commit failed"), 60, "the warning")
        os.kill(server.pid, signal.SIGCONT)
        wait_counted(settings, child, wait_until)
        assert_exact(settings)
        assert_dead_letters(settings, definitions_of(settings))
        assert len(warnings(log, "commit failed")) == 1
        assert stop(child) == 0
    assert "Traceback" not in log.read_text()


@pytest.mark.slow
@pytest.mark.kafka
def test_a_worker_that_was_frozen_is_overtaken_and_fenced(
    make_stack: Callable[..., Settings], spawn: Callable[..., Any], wait_until: Wait, tmp_path: Path
) -> None:
    """A zombie: the group takes its partitions away while it sleeps, and it wakes with records in its hands.

    On Kafka only: Tansu 0.6 never lets a member that it gave up join again.
    """
    settings = short(make_stack("local"))
    impressions, clicks = random_logs(24, 3000, definitions_of(settings))
    write(settings, impressions[:500], clicks[:500])
    frozen = spawn(settings, [*SLUICE, "process", "--batch", "50"], "frozen")
    wait_counted(settings, frozen, wait_until)
    write(settings, impressions[500:1000], clicks[500:700])
    start = sum(map(sum, offsets(settings).values()))
    os.kill(frozen.pid, signal.SIGSTOP)
    other = spawn(settings, [*SLUICE, "process", "--batch", "50"], "other")
    write(settings, impressions[1000:], clicks[700:])
    wait_counted(settings, other, wait_until)
    assert sum(map(sum, offsets(settings).values())) > start
    assert_exact(settings)
    os.kill(frozen.pid, signal.SIGCONT)
    write(settings, heartbeats(10**6), heartbeats(10**6))
    wait_counted(settings, other, wait_until)
    assert frozen.poll() is None
    assert_exact(settings)
    assert stop(other) == 0
    write(settings, heartbeats(10**6 + 1), [])
    wait_counted(settings, frozen, wait_until)
    assert stop(frozen) == 0
    assert_exact(settings)
    assert_dead_letters(settings, definitions_of(settings))


@pytest.mark.slow
def test_verify_as_a_command(
    make_stack: Callable[..., Settings], spawn: Callable[..., Any], wait_until: Wait, tmp_path: Path
) -> None:
    settings = short(make_stack("embedded"))
    impressions, clicks = random_logs(25, 600, definitions_of(settings))
    write(settings, impressions, clicks)
    child = spawn(settings, [*SLUICE, "process"])
    wait_counted(settings, child, wait_until)
    assert stop(child) == 0

    assert spawn(settings, [*SLUICE, "verify"], "exact").wait(120) == 0
    lines = (tmp_path / "exact").read_text().splitlines()
    assert len(lines) == PARTITIONS + 1
    assert lines[-1] == "verify: exact"
    assert all(line.endswith("integers, 0 differ") for line in lines[:-1])
    assert spawn(settings, [*SLUICE, "verify", "--json"], "json").wait(120) == 0
    told = json.loads((tmp_path / "json").read_text())
    assert told["verify"] == "exact"
    assert [tuple(p[name] for name in ("impressions_offset", "clicks_offset")) for p in told["partitions"]] == list(
        offsets(settings).values()
    )

    with connect(settings) as client:
        client.hincrby(Keys(settings.prefix).counts(3), "impressions.counted", 1)
    assert spawn(settings, [*SLUICE, "verify"], "differs").wait(120) == 1
    lines = (tmp_path / "differs").read_text().splitlines()
    assert lines[-1] == "verify: differs"
    (line,) = [line for line in lines if "stored" in line]
    assert line.startswith("  partition 3: records impressions.counted: stored ")
    away = replace(settings, redis=f"redis://127.0.0.1:{own_port()}/0")
    assert spawn(away, [*SLUICE, "verify"], "away").wait(120) == 1
    (line,) = (tmp_path / "away").read_text().splitlines()
    assert line.startswith("sluice: ")
    with pytest.raises(RedisError):
        connect(away).ping()
