"""A drift monitor goes with the alias from version to version, and says which drift is for the worse."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from registered_models import NAME, likes, register

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


def test_a_monitor_goes_where_the_alias_goes_if_there_is_a_reference(
    make_stack: Callable[..., Settings], mlflow_store: Callable[[Path], str], tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    settings = replace(make_stack("embedded"), mlflow=mlflow_store(tmp_path))

    def version(folder: str, *, with_reference: bool) -> None:
        register(settings.mlflow_uri, tmp_path / folder, "PolicyA", MODEL)
        if with_reference:
            place = next((tmp_path / folder).glob("*")) / "artifacts" / ARTIFACT / DRIFT_FILE
            place.write_bytes(reference().dump())

    version("1", with_reference=True)
    following = Following(settings, Registry(settings), ModelRef(NAME, alias="PolicyA"), DriftOptions())
    assert following.advance(1)[0].version == "1"
    version("2", with_reference=False)
    assert [following.advance(1)[0].version for _ in range(2)] == ["1", "1"]
    told = [record.message for record in caplog.records if "not watched" in record.message]
    assert len(told) == 1 and "version 2: no reference of drift was logged" in told[0]  # said once
    version("3", with_reference=True)
    assert following.advance(1)[0].version == "3"


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
    event = detected(report(measure), "PolicyA", 10)
    calm = detected(report(msgspec.structs.replace(measure, drifted=False)), "PolicyA", 10)
    assert event is not None and calm is not None
    assert (event.worse, calm.worse, event.performance) == (worse, False, True)
    assert (event.id == calm.id) is not worse  # drift that gets worse is an event of its own
