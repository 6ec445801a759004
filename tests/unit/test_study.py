"""The study of parameters: what its folds may see, what it remembers, and that the best is what is trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from movielens_files import write_movielens

from sluice.settings import Settings
from training.dataset import Dataset
from training.models import PARAMS_A, PARAMS_B, Examples
from training.prepare import PrepareOptions, prepare
from training.session import Session, run_training
from training.study import FOLDS, SPACES, rolling_folds, tune
from training.tracking import Subject, Tracking

TRIALS = 2


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, mlflow_store: Callable[[Path], str]) -> Settings:
    made = Settings(state=tmp_path_factory.mktemp("state"))
    mlflow_store(made.state)
    return made


@pytest.fixture(scope="module")
def prepared(settings: Settings) -> tuple[Dataset, Path]:
    source = write_movielens(settings.state / "ml-tiny", users=40, each=60)
    return prepare(str(source), settings.state / "training", PrepareOptions())


@pytest.fixture(scope="module")
def session(settings: Settings, prepared: tuple[Dataset, Path]) -> tuple[Session, list[tuple[str, float | None]]]:
    steps: list[tuple[str, float | None]] = []

    def progress(name: str, share: float | None = None) -> None:
        steps.append((name, share))

    return run_training(Tracking(settings), *prepared, trials=TRIALS, notice=print, progress=progress), steps


def below(settings: Settings, run_id: str) -> dict[str, Any]:
    tracking = Tracking(settings)
    found = tracking.client.search_runs([tracking.experiment_id], f"tags.`mlflow.parentRunId` = '{run_id}'")
    return {run.info.run_name: run for run in found}


def test_folds_fit_on_what_had_ended_and_never_see_the_test_part(prepared: tuple[Dataset, Path]) -> None:
    data = prepared[0]
    folds = rolling_folds(Examples.of(data))
    assert len(folds) == FOLDS
    for fold in folds:
        assert data.log.end_ms[fold.fit].max() < data.log.at_ms[fold.measure].min()
        assert set(fold.fit) | set(fold.measure) <= set(data.train)
    measured = np.concatenate([fold.measure for fold in folds])
    assert np.all(np.diff(measured) > 0)
    assert measured[-1] == data.train[-1]


def test_every_trial_is_a_run_below_its_study(
    settings: Settings, session: tuple[Session, list[tuple[str, float | None]]]
) -> None:
    done, steps = session
    runs = below(settings, done.run.run_id)
    for policy, defaults in (("PolicyA", PARAMS_A), ("PolicyB", PARAMS_B)):
        study = runs[f"{policy} study"]
        trials = below(settings, study.info.run_id)
        assert sorted(trials) == [f"{policy} trial {number:03}" for number in range(TRIALS)]
        first = trials[f"{policy} trial 000"].data.params
        assert first == {name: str(defaults[name]) for name in first}
        losses = {name: run.data.metrics["rolling_log_loss"] for name, run in trials.items()}
        best = min(losses, key=lambda name: losses[name])
        assert study.data.metrics["rolling_log_loss"] == losses[best]
        assert study.data.metrics["default_log_loss"] == losses[f"{policy} trial 000"]
        chosen = trials[best].data.params
        assert chosen.items() <= study.data.params.items()
        assert chosen.items() <= runs[policy].data.params.items()
        assert (f"{policy}: trial 2 of {TRIALS}", 1 / TRIALS) in steps
    tracking = Tracking(settings)
    files = {one.path for one in tracking.client.list_artifacts(runs["PolicyB study"].info.run_id)}
    assert files == {"history.png", "parameter_importances.png", "trials.csv"}
    assert runs["PolicyB"].data.params["start_C"] == runs["PolicyA"].data.params["C"]


def test_a_seed_fixes_what_is_tried(
    settings: Settings, prepared: tuple[Dataset, Path], session: tuple[Session, list[tuple[str, float | None]]]
) -> None:
    tracking, data = Tracking(settings), prepared[0]
    found = below(settings, session[0].run.run_id)
    subject = Subject("again", data.fingerprint, 0)
    with tracking.run("again", "training", subject) as parent:
        again = tune(
            tracking, parent, subject, Examples.of(data), trials=TRIALS, progress=lambda name, share=None: None
        )
    for policy in SPACES:
        known = found[policy].data.params
        assert {name: str(value) for name, value in again[policy].items()}.items() <= known.items()
