"""`sluice infra` as a person and as a parent process use it: real processes, real signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from infra import supervisor
from sluice.adapters.kafka import producer
from sluice.adapters.reader import TopicReader
from sluice.adapters.redis import connect
from sluice.names import DECISIONS
from sluice.settings import Settings

SLUICE = [sys.executable, "-m", "sluice", "infra"]
Wait = Callable[..., Any]
Run = Callable[..., "subprocess.CompletedProcess[str]"]
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
both = pytest.mark.parametrize("mode", ["embedded", pytest.param("local", marks=pytest.mark.kafka)])


@pytest.fixture
def env(state: Path) -> dict[str, str]:
    return {**os.environ, "SLUICE_STATE": str(state)}


@pytest.fixture
def infra(env: dict[str, str], state: Path) -> Iterator[Run]:
    def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*SLUICE, *arguments], env={**env, **more}, capture_output=True, text=True, timeout=120, check=False
        )

    yield run
    supervisor.down(state)  # not by the command: what this tests may be broken


@pytest.fixture
def foreground(env: dict[str, str]) -> Iterator[Callable[..., tuple[subprocess.Popen[str], dict[str, Any]]]]:
    """Start `sluice infra run`; give the process and the line it printed."""
    running: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> tuple[subprocess.Popen[str], dict[str, Any]]:
        process = subprocess.Popen(
            [*SLUICE, "run", *arguments], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        running.append(process)
        assert process.stdout is not None
        return process, json.loads(process.stdout.readline())

    yield start
    for process in running:
        process.kill()
        process.communicate()


def lives(pid: int) -> bool:
    """Not counting what only waits to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def listening(pid: int) -> set[str]:
    """Addresses (hexadecimal, as the kernel writes them) this process listens on."""
    sockets = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            sockets.add(str(link.readlink()))
        except FileNotFoundError:
            continue
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and f"socket:[{words[9]}]" in sockets:
                found.add(words[1].rpartition(":")[0])
    return found


def runs_of(state: Path) -> list[int]:
    """The `sluice infra run` processes of a state folder."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            ours = f"SLUICE_STATE={state}".encode() in (process / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if ours and words[3:5] == [b"infra", b"run"] and lives(int(process.name)):
            found.append(int(process.name))
    return found


@both
def test_up_status_down(infra: Run, state: Path, mode: str, wait_until: Wait) -> None:
    assert infra("status").returncode == 1
    first = infra("up", "--infra", mode)
    assert first.returncode == 0, first.stderr
    written = json.loads((state / "infra.json").read_text())
    assert written["infra"] == mode
    assert written["kafka"].startswith("127.0.0.1:")
    assert (state / "infra.json").stat().st_mode & 0o077 == 0

    status = infra("status", "--json")
    assert status.returncode == 0, status.stdout
    found = json.loads(status.stdout)
    assert found["up"] and found["kafka"]["answers"] and found["redis"]["answers"]
    assert set(found["pids"]) == {"sluice infra", *written["pids"]}

    again = infra("up", "--infra", mode, "--json")
    assert json.loads(again.stdout) == written
    other = infra("up", "--infra", "local" if mode == "embedded" else "embedded")
    assert other.returncode == 2
    assert "down" in other.stderr and len(other.stderr.splitlines()) == 1

    assert infra("down").stdout == "stopped\n"
    assert not (state / "infra.json").exists()
    assert not any(lives(pid) for pid in written["pids"].values())
    wait_until(lambda: not lives(written["pid"]), 10, "the end of the process that ran them")
    assert infra("down").stdout.startswith("nothing was running")


def test_two_that_start_at_once_share_the_servers(infra: Run, env: dict[str, str]) -> None:
    starts = [
        subprocess.Popen([*SLUICE, "up", "--json"], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [start.communicate(timeout=120) for start in starts]
    assert [start.returncode for start in starts] == [0, 0], said
    assert said[0][0] == said[1][0]
    if sys.platform == "linux":
        # The one that came second has gone: it would start servers of its own once these are down.
        assert runs_of(Path(env["SLUICE_STATE"])) == [json.loads(said[0][0])["pid"]]


@on_linux
@both
def test_servers_listen_on_the_loopback_address_only(foreground: Callable[..., Any], mode: str) -> None:
    _, ready = foreground("--infra", mode)
    for name, pid in ready["pids"].items():
        # 0100007F: 127.0.0.1; 0000…FFFF00000100007F: the same written as IPv6, as Java does.
        found = listening(pid)
        assert found and all(address.endswith("0100007F") for address in found), (name, found)


@on_linux
@both
def test_nothing_outlives_a_killed_supervisor(foreground: Callable[..., Any], wait_until: Wait, mode: str) -> None:
    process, ready = foreground("--infra", mode)
    assert all(lives(pid) for pid in ready["pids"].values())
    process.send_signal(signal.SIGKILL)
    wait_until(lambda: not any(lives(pid) for pid in ready["pids"].values()), 10, "the servers end")


@on_linux
def test_nothing_outlives_a_killed_parent(env: dict[str, str], state: Path, wait_until: Wait) -> None:
    script = "import subprocess, sys; subprocess.Popen(sys.argv[1:]).wait()"
    parent = subprocess.Popen([sys.executable, "-c", script, *SLUICE, "run"], env=env, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    ready = json.loads(parent.stdout.readline())
    parent.kill()
    parent.wait()
    wait_until(lambda: not any(lives(pid) for pid in [ready["pid"], *ready["pids"].values()]), 10, "all end")
    assert not (state / "infra.json").exists()
    parent.stdout.close()


@on_linux
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_everything_in_order(foreground: Callable[..., Any], state: Path, number: int) -> None:
    process, ready = foreground()
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    assert not any(lives(pid) for pid in ready["pids"].values())
    assert not (state / "infra.json").exists()
    assert not (state / "kafka").exists()


def test_a_server_that_dies_ends_the_run_with_a_reason(foreground: Callable[..., Any]) -> None:
    process, ready = foreground()
    os.kill(ready["pids"]["redis-server"], signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.startswith("sluice: redis-server ended by itself") and len(errors.splitlines()) == 1


def test_what_a_killed_run_left_does_not_stop_the_next(foreground: Callable[..., Any], infra: Run, state: Path) -> None:
    process, _ = foreground()
    process.kill()
    process.wait()
    assert (state / "infra.json").exists()
    assert infra("status").returncode == 1
    assert infra("up").returncode == 0
    assert infra("status").returncode == 0


def test_a_taken_port_is_named(infra: Run, embedded: Settings) -> None:
    said = infra("up", "--redis-port", str(urlsplit(embedded.redis).port))
    assert said.returncode == 1
    assert "redis-server ended" in said.stderr and "in use" in said.stderr, said.stderr
    assert len(said.stderr.splitlines()) == 1


def test_a_state_folder_that_cannot_be_is_one_line(infra: Run) -> None:
    said = infra("up", SLUICE_STATE="/dev/null")
    assert said.returncode == 2
    assert said.stderr.startswith("sluice: SLUICE_STATE: /dev/null: ") and len(said.stderr.splitlines()) == 1


def test_external_only_checks(infra: Run, embedded: Settings) -> None:
    missing = infra("up", "--infra", "external")
    assert missing.returncode == 2 and "SLUICE_KAFKA" in missing.stderr
    given = {"SLUICE_KAFKA": embedded.kafka, "SLUICE_REDIS": embedded.redis}
    checked = infra("up", "--infra", "external", "--json", **given)
    assert json.loads(checked.stdout)["pids"] == {}
    status = json.loads(infra("status", "--json", **given).stdout)
    assert status["up"] and status["infra"] == "external"
    away = infra("status", "--json", SLUICE_KAFKA="127.0.0.1:1", SLUICE_REDIS="redis://:secret@127.0.0.1:1/0")
    assert away.returncode == 1
    assert "secret" not in away.stdout and json.loads(away.stdout)["redis"]["error"]


def test_the_embedded_broker_cannot_persist(infra: Run) -> None:
    said = infra("up", "--persist")
    assert said.returncode == 2 and "--infra local" in said.stderr


@pytest.mark.kafka
@pytest.mark.slow
def test_local_data_survives_when_asked_to(infra: Run, state: Path) -> None:
    for turn in range(2):
        up = infra("up", "--infra", "local", "--persist")
        assert up.returncode == 0, up.stderr
        settings = Settings.load({"SLUICE_STATE": str(state)})
        with TopicReader(settings, DECISIONS, from_start=True) as reader:
            assert sum(reader.ends.values()) == turn
        with connect(settings) as redis:
            assert redis.get("kept") == (b"yes" if turn else None)
            redis.set("kept", "yes")
        client = producer(settings)
        client.produce(DECISIONS, b"{}", b"experiment")
        assert client.flush(10) == 0
        assert infra("down").returncode == 0


@on_linux
def test_where_the_kernel_cannot_a_parent_watches(tmp_path: Path, wait_until: Wait) -> None:
    """The way of macOS, run here: the launcher stays, and ends the server when our process has gone."""
    note = tmp_path / "pids"
    script = f"""
import subprocess, sys, time, os
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from infra import launcher
if sys.argv[1:] == ["launcher"]:
    sys.exit(launcher.watched(os.getppid(), ["/bin/sh", "-c", "echo $PPID $$ > {note}.new; mv {note}.new {note}; exec sleep 100"]))
subprocess.Popen([sys.executable, __file__, "launcher"]).wait()
"""  # noqa: E501
    (tmp_path / "parent.py").write_text(script)
    parent = subprocess.Popen([sys.executable, str(tmp_path / "parent.py")])
    wait_until(note.exists, 10, "the server runs")
    pids = [int(word) for word in note.read_text().split()]
    assert all(lives(pid) for pid in pids)
    parent.kill()
    parent.wait()
    wait_until(lambda: not any(lives(pid) for pid in pids), 10, "launcher and server end")
