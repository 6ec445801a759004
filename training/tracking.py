"""Runs in MLflow: where training and evaluation are remembered. Library: mlflow (imported when it is used).

One experiment; one run per training with a nested run per model, baseline, and study; one run per evaluation. Metric
names are the same for all of them (`test_auc`, `test_auc_low`, …), so that sorting and comparing work in the UI.
"""

from __future__ import annotations

import logging
import os
import platform
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from sluice.adapters.mlflow import knock, mlflow_errors
from sluice.adapters.mlflow_runs import artifact_place, make_database_folder
from sluice.errors import ConfigError
from sluice.features import VERSION
from sluice.models.files import FORMAT
from sluice.settings import Settings, masked_url

__all__ = [
    "EXPERIMENT", "LoggedModel", "Subject", "Tracking", "TrainingRun", "environment", "find_training", "log_report",
    "requirements",
]  # fmt: skip

EXPERIMENT = "movielens_ctr"
PACKAGES = ("lightgbm", "mlflow", "numpy", "optuna", "pandas", "pyarrow", "scikit-learn", "scipy", "sluice-experiments")
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",  # nobody is told what is trained here
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # stdout belongs to --json
    # A server that goes away is said within seconds; MLflow's own 7 retries take minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}
_ABOUT = {
    "mlflow.experimentKind": "custom_model_development",  # or the UI opens with pages about prompts and traces
    "mlflow.note.content": (
        "Which model is best, with which parameters, and why. One run per training, with a run per model, baseline and "
        "study below it. Sort by `test_auc` (overall) or `test_ctr_at_1` (clicks on what is shown first); "
        "`…_low` and `…_high` bound each with 95 %. `sluice.kind` tells what a run is: training, model, baseline, "
        "study, trial, evaluation."
    ),
}
_FIRST_CALL = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}


class Subject(NamedTuple):
    """What a run is about; tags of it and of all runs nested in it."""

    dataset: str
    fingerprint: str
    seed: int

    @property
    def name(self) -> str:
        """`ml-100k 65d85790`"""
        return f"{self.dataset} {self.fingerprint[:8]}"

    @property
    def tags(self) -> dict[str, str]:
        return {
            "sluice.dataset": self.dataset, "sluice.fingerprint": self.fingerprint, "sluice.seed": str(self.seed),
            "sluice.features_version": str(VERSION), "sluice.model_format": str(FORMAT),
        }  # fmt: skip


class LoggedModel(NamedTuple):
    run_id: str
    model_uri: str
    """`models:/m-…`: what a version of a registered model is made from"""


class TrainingRun(NamedTuple):
    """A training as MLflow remembers it."""

    run_id: str
    models: Mapping[str, LoggedModel]
    """By name: `PolicyA`, …"""


class Tracking:
    """The experiment in MLflow. Runs that end with an exception are marked FAILED."""

    def __init__(self, settings: Settings, experiment: str = EXPERIMENT) -> None:
        """Connects, and makes the experiment when it is new.

        Raises TransportError when MLflow does not answer (within seconds), ConfigError when it cannot be used.
        """
        for name, value in _QUIET.items():
            os.environ.setdefault(name, value)
        self.uri = settings.mlflow_uri
        self._shown = masked_url(self.uri)
        import mlflow

        logging.getLogger("mlflow").setLevel(logging.ERROR)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        with self.errors(), _environ(_FIRST_CALL):
            make_database_folder(self.uri)
            knock(self.uri)
            mlflow.set_tracking_uri(self.uri)
            mlflow.set_registry_uri(self.uri)
            self.client = mlflow.MlflowClient(self.uri, self.uri)
            found = self.client.get_experiment_by_name(experiment)
            if found is not None and found.lifecycle_stage != "active":
                raise ConfigError(
                    f"MLflow at {self._shown}: the experiment {experiment} was deleted: restore it with "
                    f"`mlflow experiments restore -x {found.experiment_id}`"
                )
            place = None if found else artifact_place(settings, experiment)
            self.experiment_id = (
                found.experiment_id
                if found
                else str(self.client.create_experiment(experiment, artifact_location=place))
            )

    @contextmanager
    def run(
        self, name: str, kind: str, subject: Subject, *, note: str = "", tags: Mapping[str, str] | None = None,
        parent: str = "",
    ) -> Iterator[str]:  # fmt: skip
        """The id of a new run, which is the active run inside: `mlflow.log_…` go to it.

        kind: `training`, `model`, `baseline`, `study`, `trial`, `router`, `evaluation`. note: Markdown, what it is.
        """
        import mlflow

        os.environ.pop("MLFLOW_RUN_ID", None)  # of `mlflow run`: belongs to the project, not to one of our runs
        known = {
            **subject.tags, "sluice.kind": kind, "mlflow.source.name": "sluice", "mlflow.source.type": "LOCAL",
            **(tags or {}),
        }  # fmt: skip
        with (
            self.errors(),
            mlflow.start_run(
                experiment_id=self.experiment_id, run_name=name, nested=True, parent_run_id=parent or None, tags=known,
                description=note or None,
            ) as run,
        ):  # fmt: skip
            yield str(run.info.run_id)

    @contextmanager
    def errors(self) -> Iterator[None]:
        """MLflow's errors inside become one line."""
        with mlflow_errors(self.uri), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield


def find_training(settings: Settings, fingerprint: str, seed: int) -> TrainingRun | None:
    """The latest training of these data that came to its end, with features and models as they are defined now.

    Raises TransportError and ConfigError as `Tracking`.
    """
    tracking = Tracking(settings)
    about = Subject("", fingerprint, seed).tags
    wanted = [f"tags.`{name}` = '{value}'" for name, value in about.items() if value]
    with tracking.errors():
        found = tracking.client.search_runs(
            [tracking.experiment_id],
            " and ".join([*wanted, "tags.`sluice.kind` = 'training'", "attributes.status = 'FINISHED'"]),
            order_by=["attributes.start_time DESC"],
            max_results=1,
        )
        if not found:
            return None
        run_id = str(found[0].info.run_id)
        nested = tracking.client.search_runs([tracking.experiment_id], f"tags.`mlflow.parentRunId` = '{run_id}'")
    models = {
        run.data.tags["sluice.model"]: LoggedModel(str(run.info.run_id), run.data.tags["sluice.model_uri"])
        for run in nested
        if "sluice.model_uri" in run.data.tags
    }
    return TrainingRun(run_id, models)


def log_report(
    settings: Settings, subject: Subject, metrics: Mapping[str, float], folder: Path, *, note: str = ""
) -> str:
    """An evaluation as a run of its own, with the files of `folder`; its id. Raises as `Tracking`."""
    tracking = Tracking(settings)
    with tracking.run(f"evaluate {subject.name}", "evaluation", subject, note=note) as run_id:
        import mlflow

        mlflow.log_metrics(dict(metrics))
        mlflow.log_artifacts(str(folder))
    return run_id


def environment() -> dict[str, str]:
    """Python, platform, and the versions of what results depend on."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def requirements(*packages: str) -> list[str]:
    """Of a logged model, as installed here. Given, for MLflow would find them out by running the model."""
    known = environment()
    return [f"{name}=={known[name]}" for name in ("sluice-experiments", "mlflow", *packages) if name in known]


@contextmanager
def _environ(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
