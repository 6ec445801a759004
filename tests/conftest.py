"""Servers for tests: `stack` (fresh, on both brokers), `make_stack`, the shared `embedded` and `local`, and waiting.

| fixture | gives | isolation |
|---|---|---|
| `embedded`, `local` | `Settings`, topics exist | one for the whole session: use names of your own |
| `stack` | `Settings`, topics empty, Redis empty; the test runs once for each broker | nothing is left of other tests |
| `make_stack(mode, …)` | `Settings` of servers of your own, as many as you call for | servers end with the test |
| `service_env(settings)` | environment for a child process that shall use these servers | |
| `mlflow_store(folder)` | address of an empty database of MLflow in `folder` | a file of its own |
| `wait_until(condition, deadline_s, what)` | returns what the condition returned, once that is true | |
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from confluent_kafka.admin import AdminClient

from infra import stack as stacks
from infra.kafka import jars
from sluice.adapters.kafka import ensure_topics
from sluice.adapters.redis import connect
from sluice.names import TOPICS
from sluice.settings import Settings

KEPT = "SLUICE_DATA"
PATIENT = stacks.Options(deadline_s=120)
PATIENCE_S = 60.0
"""No test fails sooner for having waited: a machine may be busy, and a deadline that is kept costs nothing."""

# Tests assert what is right, not how long it takes on whatever machine they run on. Hypothesis' own profile for CI also
# takes the same examples every time.
hypothesis.settings.register_profile("sluice", deadline=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "sluice")


@pytest.fixture(scope="session", autouse=True)
def _no_outer_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests must not touch the servers of whoever runs them, neither by environment nor by a running `infra up`."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("SLUICE_") and name != KEPT]:
            patch.delenv(name)
        patch.setenv("SLUICE_STATE", str(tmp_path_factory.mktemp("no-infra")))
        yield


def pytest_configure() -> None:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # nobody is told that tests run
    # In the background a shell starts programs with Ctrl-C ignored, and their children inherit it; tests send it.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    long: Counter[Path] = Counter()
    for item in items:
        if "local" in getattr(item, "fixturenames", ()):
            item.add_marker("kafka")
        long[item.path] += any(item.get_closest_marker(name) for name in ("slow", "kafka"))
    # Files with much to wait for first: at the end of a run on two cores, neither waits long for the other.
    items.sort(key=lambda item: -long[item.path])


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    with stacks.start("embedded", Settings(state=tmp_path_factory.mktemp("embedded")), PATIENT) as running:
        yield running.settings


@pytest.fixture(scope="session")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    _need_kafka()
    with stacks.start("local", Settings(state=tmp_path_factory.mktemp("local")), PATIENT) as running:
        yield running.settings


@pytest.fixture
def make_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Settings]]:
    """`make_stack("embedded", partitions=8, lateness_ms=0)`: further arguments are fields of Settings."""
    running: list[stacks.Stack] = []

    def make(mode: str, **given: Any) -> Settings:
        if mode == "local":
            _need_kafka()
        settings = Settings(**{"state": tmp_path_factory.mktemp(mode), **given})
        running.append(stacks.start(mode, settings, PATIENT))
        return running[-1].settings

    yield make
    for stack in reversed(running):
        stack.stop()


@pytest.fixture(params=["embedded", pytest.param("local", marks=pytest.mark.kafka)])
def stack(request: pytest.FixtureRequest) -> Settings:
    """Empty topics and an empty Redis, on each broker in turn."""
    if request.param == "embedded":  # a new one takes a third of a second
        made = request.getfixturevalue("make_stack")("embedded")
        assert isinstance(made, Settings)
        return made
    settings = request.getfixturevalue("local")
    assert isinstance(settings, Settings)
    _empty(settings)
    return settings


@pytest.fixture(scope="session")
def service_env() -> Callable[[Settings], dict[str, str]]:
    def make(settings: Settings) -> dict[str, str]:
        numbers = {
            f"SLUICE_{field.name.upper()}": str(int(value))
            for field in fields(Settings)
            if isinstance(value := getattr(settings, field.name), int)
        }
        return {
            **os.environ,
            **numbers,
            "SLUICE_KAFKA": settings.kafka,
            "SLUICE_REDIS": settings.redis,
            "SLUICE_STATE": str(settings.state),
            "SLUICE_PREFIX": settings.prefix,
        }

    return make


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., Any]:
    """Instead of sleeping: return the first true result of `condition`, or fail saying `what` did not happen."""

    def wait(condition: Callable[[], Any], deadline_s: float, what: str) -> Any:
        deadline_s = max(deadline_s, PATIENCE_S)
        deadline = time.monotonic() + deadline_s
        while True:
            found = condition()
            if found:
                return found
            if time.monotonic() >= deadline:
                pytest.fail(f"not within {deadline_s:g} s: {what}")
            time.sleep(0.01)

    return wait


@pytest.fixture(scope="session")
def mlflow_store(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], str]:
    """Copies of one: making its forty tables takes MLflow seconds."""
    empty = tmp_path_factory.mktemp("mlflow") / "mlflow.db"

    def make(folder: Path) -> str:
        if not empty.exists():
            from mlflow import MlflowClient

            uri = f"sqlite:///{empty}"
            MlflowClient(uri, uri).search_registered_models(max_results=1)
        folder.mkdir(parents=True, exist_ok=True)
        return f"sqlite:///{shutil.copy(empty, folder / empty.name)}"

    return make


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state folder of its own, for tests that start `sluice infra`."""
    return tmp_path / "state"


def _need_kafka() -> None:
    reason = jars.missing()
    if reason and os.environ.get("CI"):
        pytest.fail(f"CI skips nothing: {reason}")
    if reason:
        pytest.skip(reason)


def _empty(settings: Settings) -> None:
    """As after a fresh start, but without the three seconds it takes."""
    with connect(settings) as redis:
        redis.flushall()
    admin = AdminClient({"bootstrap.servers": settings.kafka})
    names = {topic.name for topic in TOPICS}
    there = sorted(names & set(admin.list_topics(timeout=10).topics))
    if there:
        for future in admin.delete_topics(there, operation_timeout=30).values():
            future.result(30)
    deadline = time.monotonic() + 30
    while names & set(admin.list_topics(timeout=10).topics):
        assert time.monotonic() < deadline, "the broker did not delete its topics"
        time.sleep(0.01)
    ensure_topics(settings)
