"""`sluice lifecycle run` as a process: one leads, what it tells, and what it waits for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lives import ALIAS, NAME, PLAN, Stand
from ports import own_port
from prometheus_client.parser import text_string_to_metric_families
from watched import Watched

from sluice.adapters.lease import Lease
from sluice.adapters.lives import LifeBoard
from sluice.adapters.metrics import Metrics
from sluice.adapters.redis import connect
from sluice.domain.lifecycle_events import Approved, GatePassed, LifecycleEvent, Paused, Resumed
from sluice.errors import Conflict
from sluice.names import Keys
from sluice.settings import Settings
from training.lifecycle import Lifecycle
from training.lifecycle_journal import Journal
from training.lifecycle_process import Notes, Process
from training.lifecycle_status import led

Wait = Callable[..., Any]


@pytest.fixture
def stand(make_stack: Callable[..., Settings], mlflow_store: Callable[[Path], str], tmp_path: Path) -> Stand:
    return Stand(replace(make_stack("embedded"), mlflow=mlflow_store(tmp_path)), tmp_path)


@contextmanager
def process(stand: Stand, told: list[LifecycleEvent], who: str) -> Iterator[Process]:
    with ExitStack() as closing:
        client, keys = closing.enter_context(connect(stand.settings)), Keys(stand.settings.prefix)
        lease = closing.enter_context(Lease(client, keys.lifecycle(NAME, ALIAS), who))
        notes = Notes(LifeBoard(client, keys, NAME, ALIAS))
        journal = closing.enter_context(Journal(stand.settings, NAME, ALIAS))
        life = Lifecycle(stand.settings, PLAN, journal, clock_ms=lambda: stand.at_ms, tell=notes)
        closing.callback(life.close)
        yield Process(PLAN, journal, life, lease, Metrics("lifecycle"), notes, told.append)


def metric(of: Process, name: str) -> float:
    return next(value for known, _, value in of.readings() if known == f"sluice_lifecycle_{name}")


def test_of_two_processes_one_leads_and_the_other_takes_over(stand: Stand, wait_until: Wait) -> None:
    stand.trained()
    stand.judged(passed=True)
    told: tuple[list[LifecycleEvent], list[LifecycleEvent]] = ([], [])
    stop = threading.Event()
    with process(stand, told[1], "the second") as second:
        thread = threading.Thread(target=second.run, args=(stop,))
        try:
            with process(stand, told[0], "the first") as first:
                first.once()
                assert [type(event) for event in told[0]] == [GatePassed]  # and now waits for its canary
                with pytest.raises(Conflict, match=f"{NAME}@{ALIAS}: another `sluice lifecycle run` leads it"):
                    second.once()
                thread.start()
                wait_until(lambda: second.ready, 30, "it stands by, which is no fault")
                assert not second.leads
                found = led(stand.settings, NAME, ALIAS)
                assert found is not None and found.waits is not None
                assert (found.leader, found.waits.reason, found.waits.words) == (
                    "the first", "canary", "the canary of version 2: no decision on experiment films-2 yet"
                )  # fmt: skip
                stand.say(Paused(id="p", model=NAME, alias=ALIAS, at_ms=5, by="ada", why="a look"))
                wait_until(lambda: metric(second, "paused"), 30, "it reads the topic while it stands by")
                stand.say(Resumed(id="q", model=NAME, alias=ALIAS, at_ms=5, by="ada", why="fine"))
                stand.decide(1, "running", 5)
            wait_until(lambda: told[1], 30, "the second process leads")
            found = led(stand.settings, NAME, ALIAS)
            assert second.leads and found is not None and found.leader == "the second"
        finally:
            stop.set()
            thread.join()
    assert stand.kinds[-1] == "canary-advanced"
    assert stand.kinds == stand.records  # nothing was said twice


def test_who_gives_no_sign_of_life_leads_no_more(stand: Stand, wait_until: Wait) -> None:
    with connect(stand.settings) as client:
        dead = Lease(client, "life", seconds=0.2)  # never entered: nobody renews it, as after a kill
        assert dead.take()
        with Lease(client, "life", seconds=0.2) as heir:
            wait_until(heir.take, 10, "the lease of the dead one has expired")
            assert not Lease(client, "life", seconds=0.2).take()


@pytest.fixture
def run(
    stand: Stand, service_env: Callable[[Settings], dict[str, str]], tmp_path: Path
) -> Iterator[Callable[..., Watched]]:
    """`sluice lifecycle run` with a file of its own."""
    running: list[Watched] = []

    def start(*, mlflow: str = "", policy: str = "{cooldown_s: 0, shadow: false, canary: false}") -> Watched:
        env = {**service_env(stand.settings), "SLUICE_MLFLOW": mlflow or stand.settings.mlflow}
        folder = tmp_path / f"run {len(running)}"
        folder.mkdir()
        (folder / "life.yaml").write_text(f"{{name: films, model: {NAME}, alias: {ALIAS}, policy: {policy}}}")
        running.append(Watched(env, folder, "lifecycle", "run", str(folder / "life.yaml")))
        return running[-1]

    yield start
    for one in running:
        one.child.kill()
        one.child.wait()


def test_the_service_tells_of_the_life_and_of_itself(
    stand: Stand, run: Callable[..., Watched], wait_until: Wait
) -> None:
    stand.at_ms = time.time_ns() // 1_000_000  # by the service's clock an attempt of 1970 has taken too long
    stand.trained()
    stand.judged(passed=False)
    service = run(policy="{cooldown_s: 3600}")
    wait_until(service.ready, 120, "it leads")
    wait_until(lambda: stand.kinds[-1] == "gate-refused", 120, "the gate refuses")
    found = {
        (sample.name, *(sample.labels[name] for name in ("stage", "outcome", "version") if name in sample.labels)):
        sample.value for family in text_string_to_metric_families(service.get("/metrics")[1])
        for sample in family.samples if sample.labels.get("model") == NAME and sample.labels.get("alias") == ALIAS
    }  # fmt: skip
    assert found["sluice_lifecycle_stage", "ended"] == 1
    assert found["sluice_lifecycle_stage", "canary"] == 0
    assert found["sluice_lifecycle_attempts_total", "gate-refused"] == 1
    assert found["sluice_lifecycle_attempts_total", "promoted"] == 0
    assert found["sluice_lifecycle_version", "1"] == 1
    assert found["sluice_lifecycle_reversals_total",] == 0
    assert {one["service"] for one in service.lines} == {"lifecycle"}  # all of them JSON
    service.child.send_signal(signal.SIGTERM)
    assert service.child.wait(60) == 0


@contextmanager
def mlflow_server(store: str, port: int, artifacts: Path, wait_until: Wait) -> Iterator[None]:
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store, "--port", str(port)]
    command += ["--workers", "1", "--default-artifact-root", artifacts.as_uri()]
    env = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    quiet = subprocess.DEVNULL
    child = subprocess.Popen(command, env=env, start_new_session=True, stdout=quiet, stderr=quiet)

    def answers() -> bool:
        assert child.poll() is None
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=10) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    try:
        wait_until(answers, 240, "MLflow answers")
        yield
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_mlflow_that_goes_away_before_the_alias_is_moved_is_waited_for(
    stand: Stand, run: Callable[..., Watched], wait_until: Wait, tmp_path: Path
) -> None:
    stand.at_ms = time.time_ns() // 1_000_000
    attempt = stand.trained()
    stand.judged(passed=True)
    port = own_port()
    with mlflow_server(stand.settings.mlflow, port, tmp_path, wait_until):
        service = run(
            mlflow=f"http://127.0.0.1:{port}", policy="{approval: manual, shadow: false, canary: false, cooldown_s: 0}"
        )
        wait_until(lambda: stand.kinds[-1] == "gate-passed", 120, "the gate passes, and somebody must approve")
        wait_until(service.ready, 60, "it waits")
    approved = Approved(id="a", model=NAME, alias=ALIAS, at_ms=3, attempt=attempt, by="ada", why="looked at it")
    stand.say(approved)
    wait_until(lambda: service.get("/ready")[0] == 503, 120, "it says that it cannot")
    assert stand.alias == "1" and stand.kinds[-1] == "approved"
    with mlflow_server(stand.settings.mlflow, port, tmp_path, wait_until):
        wait_until(lambda: stand.kinds[-1] == "promoted", 120, "the promotion")
    assert stand.alias == "2"
    assert stand.records.count("promoted") == 1
    assert service.says("does not answer")
