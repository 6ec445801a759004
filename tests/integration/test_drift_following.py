"""A drift monitor goes with the alias from version to version, and says which drift is for the worse."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from mlflow import MlflowClient
from registered_models import NAME, likes, register
from truncation import truncate
from watched import Watched

from sluice.adapters.kafka import producer
from sluice.adapters.mlflow import ARTIFACT, ModelRef, Registry
from sluice.domain.drift import (
    DRIFT_FILE,
    DriftOptions,
    DriftReport,
    Monitor,
    Outcomes,
    PerformanceMeasure,
    Reference,
    Rows,
    make_reference,
)
from sluice.domain.lifecycle_events import Breach, DriftDetected
from sluice.features import make_catalogue
from sluice.settings import Settings
from stream_processors.drift import Following, detected

CATALOGUE = make_catalogue(["1", "2", "3"], {"1": ("Drama",)}, {})
MODEL = likes("item_history", CATALOGUE)


def reference() -> Reference:
    rng = np.random.default_rng(0)
    users = [f"u{n % 40}" for n in range(400)]
    features = rng.random((400, len(MODEL.columns))).astype(np.float32)
    score, at_ms = rng.random(400), np.arange(400)
    outcomes = Outcomes(users, at_ms, features, score, rng.random(400) < score)
    return make_reference(MODEL.columns, Rows(users, at_ms, features, score), outcomes)


def add_reference(files: Path) -> None:
    (next(files.glob("*")) / "artifacts" / ARTIFACT / DRIFT_FILE).write_bytes(reference().dump())


def test_a_monitor_goes_where_the_alias_goes_if_there_is_a_reference(
    make_stack: Callable[..., Settings], mlflow_store: Callable[[Path], str], tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    settings = replace(make_stack("embedded"), mlflow=mlflow_store(tmp_path))

    def version(folder: str, *, with_reference: bool) -> None:
        register(settings.mlflow_uri, tmp_path / folder, "PolicyA", MODEL)
        if with_reference:
            add_reference(tmp_path / folder)

    version("1", with_reference=True)
    following = Following(settings, Registry(settings), ModelRef(NAME, alias="PolicyA"), DriftOptions())
    assert following.advance(1)[0].version == "1"
    version("2", with_reference=False)
    assert [following.advance(1)[0].version for _ in range(2)] == ["1", "1"]
    told = [record.message for record in caplog.records if "not watched" in record.message]
    assert len(told) == 1 and "version 2: no reference of drift was logged" in told[0]  # said once
    version("3", with_reference=True)
    assert following.advance(1)[0].version == "3"


def test_a_monitor_that_follows_waits_for_the_first_model(
    make_stack: Callable[..., Settings], mlflow_store: Callable[[Path], str], tmp_path: Path,
    service_env: Callable[[Settings], dict[str, str]], wait_until: Callable[..., Any],
) -> None:  # fmt: skip
    settings = replace(make_stack("embedded"), mlflow=mlflow_store(tmp_path))
    env = {**service_env(settings), "SLUICE_MLFLOW": settings.mlflow}
    client = MlflowClient(settings.mlflow_uri, settings.mlflow_uri)
    service = Watched(env, tmp_path, "drift", f"{NAME}@PolicyA", "--follow", "--every", "0.1")
    try:
        wait_until(lambda: service.says("knows no such model; trying again"), 60, "it says what it waits for")
        assert service.get("/ready")[0] == 503
        register(settings.mlflow_uri, tmp_path / "1", "PolicyA", MODEL)
        wait_until(lambda: service.says("version 1: no reference of drift"), 60, "it says that this is none to watch")
        assert service.get("/ready")[0] == 503
        register(settings.mlflow_uri, tmp_path / "2", "Other", MODEL)
        add_reference(tmp_path / "2")
        client.set_registered_model_alias(NAME, "PolicyA", "2")
        wait_until(service.ready, 60, "it watches")
        assert f'sluice_drift_drifted{{model="{NAME}",part="",version="2"}} 0.0' in service.get("/metrics")[1]
        assert service.says("drift is not watched") == 2  # each reason once
        client.delete_registered_model_alias(NAME, "PolicyA")
        wait_until(lambda: service.get("/ready")[0] == 503, 60, "it says that there is nothing to follow any more")
        service.child.send_signal(signal.SIGTERM)
        assert service.child.wait(60) == 0
    finally:
        service.child.kill()
        service.child.wait()


@pytest.mark.kafka
def test_a_monitor_that_retention_has_overtaken_begins_anew(
    make_stack: Callable[..., Settings], mlflow_store: Callable[[Path], str], tmp_path: Path,
    service_env: Callable[[Settings], dict[str, str]], wait_until: Callable[..., Any],
) -> None:  # fmt: skip
    settings = replace(make_stack("local"), mlflow=mlflow_store(tmp_path))
    register(settings.mlflow_uri, tmp_path / "1", "PolicyA", MODEL)
    add_reference(tmp_path / "1")
    env = {**service_env(settings), "SLUICE_MLFLOW": settings.mlflow}
    service = Watched(env, tmp_path, "drift", f"{NAME}@PolicyA", "--follow", "--every", "0.1")
    try:
        wait_until(service.ready, 60, "it watches")
        service.child.send_signal(signal.SIGSTOP)  # it looks ten times a second: not while this is going on
        client = producer(settings)
        for n in range(10):
            client.produce("rankings", b"no ranking", str(n), 0)
        assert client.flush(30) == 0
        truncate(settings, {"rankings": {0: 5}})
        service.child.send_signal(signal.SIGCONT)
        wait_until(lambda: service.says("rankings[0]: offset 0 is next, the log holds 5 to 10"), 60, "it says so")
        wait_until(service.ready, 60, "it watches what is there")
        assert service.says("offset 0 is next") == 1
    finally:
        service.child.kill()
        service.child.wait()


def report(*measures: PerformanceMeasure) -> DriftReport:
    found = Monitor(reference(), NAME, "1", DriftOptions()).report()
    performance = msgspec.structs.replace(found.performance, measures=measures, drifted=True)
    return msgspec.structs.replace(found, performance=performance, drifted=True, since_ms=9, began_ms=5)


@pytest.mark.parametrize(
    ("name", "value", "worse"),
    [("click_rate", 0.4, True), ("click_rate", 0.6, False), ("log_loss", 0.6, True), ("log_loss", 0.4, False)],
)
def test_fewer_clicks_and_more_log_loss_are_for_the_worse(name: str, value: float, worse: bool) -> None:
    measure = PerformanceMeasure(
        name=name, value=value, expected=0.5, effect=0.1, p_value=0.001, drifted=True, since_ms=9, began_ms=5
    )
    (event,) = detected(report(measure), "PolicyA", 10)
    (calm,) = detected(report(msgspec.structs.replace(measure, drifted=False)), "PolicyA", 10)
    assert isinstance(event, DriftDetected) and isinstance(calm, DriftDetected)
    assert (event.worse, calm.worse, event.performance) == (worse, False, True)
    assert event.id == calm.id  # one drift is one event


def test_drift_that_gets_worse_later_is_a_breach_and_no_other_drift() -> None:
    measure = PerformanceMeasure(
        name="click_rate", value=0.4, expected=0.5, effect=0.1, p_value=0.001, drifted=True, since_ms=12, began_ms=5
    )
    drifted, breach = detected(report(measure), "PolicyA", 10)
    assert isinstance(drifted, DriftDetected) and isinstance(breach, Breach)
    assert not drifted.worse, "when it was seen it did no worse"
    assert (breach.version, breach.cause, breach.measures) == ("1", drifted.id, {"click_rate": 0.4})
    assert breach.reason == "click_rate: 0.400 instead of 0.500" and breach.id != drifted.id
    assert [one.id for one in detected(report(measure), "PolicyA", 99)] == [drifted.id, breach.id]
    better = msgspec.structs.replace(measure, value=0.6)
    assert len(detected(report(better), "PolicyA", 10)) == 1
