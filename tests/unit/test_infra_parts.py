"""What `infra` decides before it starts anything."""

from __future__ import annotations

import fcntl
import platform
import re
import threading
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest

from infra import redis_server, server, stack, state, tansu
from infra.kafka import jars
from infra.server import ServerDied
from sluice.errors import ConfigError, TransportError
from sluice.settings import INFRA_FILE, Settings


def test_a_broker_binary_we_have_not_seen_is_not_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert tansu.binary(tmp_path).name == "tansu"
    monkeypatch.setitem(tansu.SHA256, (platform.system(), platform.machine()), "0" * 64)
    with pytest.raises(ConfigError, match="SHA-256 differs"):
        tansu.binary(tmp_path)


def test_a_machine_without_a_binary_is_told_what_to_use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(ConfigError, match="riscv64: use --infra local or external"):
        tansu.binary(tmp_path)


def test_an_unknown_mode_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="allowed are embedded, local, external"):
        stack.start("cloud", Settings(state=tmp_path))


def test_no_redis_server_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no redis-server"):
        redis_server.start(None, tmp_path, tmp_path / "log", 1, memory="1mb", persist=False)


def test_no_java_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with pytest.raises(ConfigError, match="needs Java 17 or later"):
        jars.java()
    assert "Java" in jars.missing()


def test_an_old_java_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    old = tmp_path / "java"
    old.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\" 2019-01-15' >&2\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with pytest.raises(ConfigError, match="is 11"):
        jars.java()


def test_an_installed_kafka_is_used_unless_it_is_too_old(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    libs = tmp_path / "libs"
    libs.mkdir()
    monkeypatch.setenv("KAFKA_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    (libs / "kafka_2.13-3.9.1.jar").touch()
    with pytest.raises(ConfigError, match="no `mvn`"):
        jars.find()
    (libs / "kafka_2.13-4.1.1.jar").touch()
    assert jars.find() == libs


def test_a_server_that_ends_at_once_is_named_with_its_last_words(tmp_path: Path) -> None:
    command = ["/bin/sh", "-c", "echo no room left; exit 3"]
    started = server.start("thing", "nowhere", command, tmp_path / "log", cwd=tmp_path)
    with pytest.raises(ServerDied, match="thing ended with code 3 before it answered: no room left"):
        server.wait_for(started, lambda: False, deadline_s=10)


def test_a_server_that_never_answers_is_ended(tmp_path: Path) -> None:
    started = server.start("thing", "nowhere", ["/bin/sleep", "100"], tmp_path / "log", cwd=tmp_path)
    with pytest.raises(TransportError, match=r"does not answer at nowhere within 0\.1 s"):
        server.wait_for(started, lambda: False, deadline_s=0.1)
    assert not started.alive


def test_servers_are_not_started_from_a_thread_that_may_end(tmp_path: Path) -> None:
    caught: list[Exception] = []

    def attempt() -> None:
        try:
            server.start("thing", "nowhere", ["/bin/true"], tmp_path / "log", cwd=tmp_path)
        except RuntimeError as error:
            caught.append(error)

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    assert "main thread" in str(caught[0])


def test_servers_do_not_see_our_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LISTENER_URL", "tcp://0.0.0.0:9092")  # Tansu would obey it
    started = server.start("thing", "nowhere", ["/usr/bin/env"], tmp_path / "log", cwd=tmp_path)
    started.process.wait(10)
    assert "PATH=" in (tmp_path / "log").read_text()
    assert "LISTENER_URL" not in (tmp_path / "log").read_text()


def test_every_setting_is_in_the_manual_with_its_default() -> None:
    manual = (Path(__file__).parents[2] / "docs/operations.md").read_text()
    for field in fields(Settings):
        row = re.search(rf"^\| `SLUICE_{field.name.upper()}` \|([^|]*)\|", manual, re.MULTILINE)
        assert row is not None, field.name
        if type(field.default) is int:
            assert row[1].strip() == str(field.default), field.name


def test_service_env_carries_every_number(service_env: Callable[[Settings], dict[str, str]]) -> None:
    made = Settings(kafka="host:1", redis="redis://host:2/0", partitions=8, lateness_ms=0, prefix="other:")
    assert Settings.load(service_env(made)) == made


def test_the_lock_says_who_runs_not_the_file(tmp_path: Path) -> None:
    (tmp_path / INFRA_FILE).write_text('{"kafka": "127.0.0.1:1", "pid": 1}')
    assert state.holder(tmp_path) is None
    with state.hold(tmp_path):
        found = state.holder(tmp_path)
        assert found is not None and found.ready is None  # the file is of another process
        with pytest.raises(ConfigError, match="sluice infra down"):
            state.hold(tmp_path)
    assert state.holder(tmp_path) is None


def test_a_holder_that_has_not_said_who_it_is_is_waited_for(tmp_path: Path) -> None:
    """Its process id must not be guessed: a signal to process 0 would end ourselves."""
    with state.hold(tmp_path) as lock:
        lock.truncate(0)
        later = threading.Timer(0.1, lambda: (lock.write("4711\n"), lock.flush()))
        later.start()
        found = state.holder(tmp_path)
        later.join()
    assert found is not None and found.pid == 4711


def test_whoever_only_looks_does_not_take_the_place(tmp_path: Path) -> None:
    """On a busy machine an instant can be long."""
    with state.hold(tmp_path):
        pass
    with (tmp_path / state.LOCK_FILE).open() as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        later = threading.Timer(2 * state.ENDING_S, lambda: fcntl.flock(looking, fcntl.LOCK_UN))
        later.start()
        with state.hold(tmp_path):
            later.join()
