"""Online results as runs in MLflow, beside the models that were served. Library: mlflow (imported when it is used).

Metrics are also logged against the model that a variant served, so that MLflow shows them on the page of that model,
beside what its training and its evaluation logged.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sluice.adapters.mlflow import DATABASES, knock, mlflow_errors
from sluice.errors import ConfigError
from sluice.settings import Settings, masked_url

__all__ = [
    "OnlineRun",
    "ServedModel",
    "artifact_place",
    "log_online",
    "make_database_folder",
    "mlflow_there",
    "served_model",
]

_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # stdout belongs to --json
    # Its own 7 retries take minutes to say that a server is away.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
_FILE = "sqlite:///"
_LONGEST_TAG = 5000


@dataclass(frozen=True)
class ServedModel:
    """What a variant is ranked with."""

    name: str
    """Of the registered model"""
    version: str
    run_id: str
    """Of the run that trained it; empty when MLflow does not know"""
    model_id: str
    """Of the logged model; empty for versions that were made from a path"""


@dataclass(frozen=True)
class OnlineRun:
    """What is logged of one decision."""

    experiment: str
    """In MLflow"""
    name: str
    key: Mapping[str, str]
    """Tags that say which run this is: the same are logged once, and their files replaced"""
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    of_models: Mapping[str, tuple[ServedModel, Mapping[str, float]]]
    """Variant → its model, and the metrics that are logged against it"""
    note: str


def mlflow_there(settings: Settings) -> bool:
    """Whether somebody uses MLflow here: a server is named, or there is a database already."""
    uri = settings.mlflow_uri
    return (bool(settings.mlflow) and not uri.startswith(_FILE)) or Path(uri.removeprefix(_FILE)).exists()


def served_model(settings: Settings, name: str, *, alias: str = "", version: str = "") -> ServedModel | None:
    """What an alias or a version stands for now; None when there is none.

    Raises TransportError when MLflow does not answer, ConfigError when it cannot be used.
    """
    from mlflow.exceptions import MlflowException

    with _client(settings) as client:
        try:
            found = client.get_model_version_by_alias(name, alias) if alias else client.get_model_version(name, version)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise
        # `models:/m-…`; versions that were made from a path have no logged model.
        scheme, _, place = str(found.source).partition(":/")
        logged = place if scheme == "models" and place.startswith("m-") else ""
        return ServedModel(found.name, str(found.version), found.run_id or "", logged)


def log_online(settings: Settings, run: OnlineRun, files: Path) -> str:
    """The id of the run with everything of it, and what lies in the folder `files` as artifacts.

    A run with the same key takes the files and nothing else. Raises as `served_model`.
    """
    from mlflow.entities import LoggedModelInput, Metric, Param, RunTag

    with _client(settings) as client:
        place = _experiment(client, settings, run.experiment)
        wanted = " and ".join(f"tags.`{name}` = '{value}'" for name, value in sorted(run.key.items()))
        before = client.search_runs([place], wanted, max_results=1)
        if before:
            run_id = str(before[0].info.run_id)
            client.log_artifacts(run_id, str(files))
            return run_id
        tags = {**run.key, **run.tags, "mlflow.source.name": "sluice report", "mlflow.note.content": run.note}
        made = client.create_run(
            place, run_name=run.name, tags={_name(key): value[:_LONGEST_TAG] for key, value in tags.items()}
        )
        run_id = str(made.info.run_id)
        at_ms = made.info.start_time
        metrics = [Metric(_name(key), value, at_ms, 0) for key, value in run.metrics.items()]
        params = [Param(_name(key), value) for key, value in run.params.items()]
        client.log_batch(run_id, metrics=metrics, params=params)
        for variant, (model, figures) in run.of_models.items():
            link = RunTag(_name(f"sluice.model_run.{variant}"), model.run_id)
            client.log_batch(run_id, tags=[link])
            if model.model_id:
                client.log_inputs(run_id, models=[LoggedModelInput(model.model_id)])
                for key, value in figures.items():
                    client.log_metric(run_id, key, value, model_id=model.model_id)
        client.log_artifacts(run_id, str(files))
        client.set_terminated(run_id)
        return run_id


def _name(text: str) -> str:
    """As MLflow takes it for a key."""
    return re.sub(r"[^\w./ -]", "_", text, flags=re.ASCII)


def artifact_place(settings: Settings, experiment: str) -> str | None:
    """Where the files of a new experiment lie: a server chooses, those of a database file lie beside it.

    MLflow itself would put them below the folder that the command happens to run in.
    """
    uri = settings.mlflow_uri
    if not uri.startswith((_FILE, *DATABASES)):
        return None
    beside = Path(uri.removeprefix(_FILE)).parent if uri.startswith(_FILE) else settings.state
    return (beside.absolute() / "mlruns" / experiment).as_uri()


@contextmanager
def _client(settings: Settings) -> Iterator[Any]:
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    uri = settings.mlflow_uri
    make_database_folder(uri)
    from mlflow import MlflowClient

    for logger in ("mlflow", "alembic", "urllib3.connectionpool"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    with mlflow_errors(uri):
        knock(uri)
        yield MlflowClient(uri, uri)


def make_database_folder(uri: str) -> None:
    """Of an SQLite file; nothing for other addresses. Raises ConfigError."""
    if uri.startswith(_FILE):
        folder = Path(uri.removeprefix(_FILE)).parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"MLflow's database: {folder}: cannot be made: {error.strerror}") from error


def _experiment(client: Any, settings: Settings, name: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is None:
        return str(client.create_experiment(name, artifact_location=artifact_place(settings, name)))
    if found.lifecycle_stage != "active":
        raise ConfigError(
            f"MLflow at {masked_url(settings.mlflow_uri)}: the experiment {name} was deleted: restore it with "
            f"`mlflow experiments restore -x {found.experiment_id}`"
        )
    return str(found.experiment_id)
