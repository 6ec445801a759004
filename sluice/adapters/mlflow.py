"""Models in MLflow's registry: what an alias points to, and its files. Library: mlflow (imported when it is used).

A model of ours is read from its text files (`sluice.models`), never unpickled, and tried in a process of its own first.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sluice.domain.drift import DRIFT_FILE, Reference
from sluice.errors import ConfigError, ModelUnusable, TransportError
from sluice.models import MODEL_FILE, TrainedModel, check_model, read_model
from sluice.models.files import BOOSTER_FILE, CATALOGUE_FILE, MAX_FILE_BYTES
from sluice.models.trial import try_model
from sluice.settings import Settings, masked_url

__all__ = ["ARTIFACT", "DATABASES", "ModelRef", "ModelVersion", "Registry", "knock", "mlflow_errors", "parse_model_uri"]

ARTIFACT = "model"
"""Folder of our files among the artifacts of a logged MLflow model: `artifacts/model/sluice.json`."""
_URI = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[A-Za-z0-9_.-]+)|/(?P<version>[1-9]\d{0,8}))\Z")

DATABASES = ("postgresql", "mysql", "mssql")
"""How the address of a database server begins"""
_LONGEST = 300
_STALE_S = 3600
"""A download takes no longer: what is older was left by a process that was killed"""
_MLFLOW_DEFAULTS = {
    # Its own 7 retries take four minutes to say that a server is away.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


@dataclass(frozen=True)
class ModelRef:
    """`models:/name@alias` or `models:/name/3`."""

    name: str
    alias: str = ""
    version: str = ""

    def __str__(self) -> str:
        return f"models:/{self.name}@{self.alias}" if self.alias else f"models:/{self.name}/{self.version}"


@dataclass(frozen=True)
class ModelVersion:
    """One version of a registered model."""

    name: str
    version: str
    run_id: str
    tags: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return f"{self.name} version {self.version}"


def parse_model_uri(text: str) -> ModelRef:
    """Raises ConfigError when `text` is not the address of a registered model."""
    found = _URI.match(text)
    if not found:
        raise ConfigError(f"{text!r}: allowed are models:/NAME@ALIAS and models:/NAME/VERSION")
    return ModelRef(found["name"], found["alias"] or "", found["version"] or "")


@contextmanager
def mlflow_errors(uri: str) -> Iterator[None]:
    """Errors of MLflow, and of what it keeps its data in, become a TransportError of one line that tells no password.

    uri: where MLflow is.
    """
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, RequestException, SQLAlchemyError) as error:
        # From None, here and below: with --debug a chained error would print the password of the address.
        raise TransportError(f"MLflow at {masked_url(uri)}: {_reason(error, uri)}") from None


def knock(uri: str) -> None:
    """Fail at once, in words, where MLflow would retry a database for minutes or not catch the error.

    Raises ConfigError, and what SQLAlchemy raises (see `mlflow_errors`).
    """
    if not uri.startswith(DATABASES):
        return
    import sqlalchemy

    try:
        sqlalchemy.create_engine(uri).connect().close()
    except ModuleNotFoundError as error:
        raise ConfigError(f"SLUICE_MLFLOW: {error.name}, the driver of this database, is not installed") from error
    except ValueError:
        raise ConfigError(f"SLUICE_MLFLOW: {masked_url(uri)} is not the address of a database") from None


def _reason(error: Exception, uri: str) -> str:
    text = str(error)
    if any(sign in text for sign in ("Max retries exceeded", "Connection refused", "Read timed out")):
        return "does not answer"
    text = text.split("\n[SQL")[0].replace(uri, masked_url(uri))
    credentials = uri.partition("://")[2].rpartition("@")[0]
    if credentials:  # addresses below the given one
        text = text.replace(f"{credentials}@", f"{credentials.partition(':')[0]}:***@")
    return " ".join(text.split())[:_LONGEST]


class _NeverUsable(ModelUnusable):
    """What a version holds, which does not change."""


def _wanted(version: ModelVersion, files: Any) -> list[str]:
    """Paths of our files in `files`, an artifact repository. Nothing is downloaded."""
    folder = f"artifacts/{ARTIFACT}"
    listed = {one.path.rpartition("/")[2]: one for one in files.list_artifacts(folder)}
    if MODEL_FILE not in listed:
        if not files.list_artifacts():
            raise ModelUnusable(f"{version}: its files cannot be fetched: there are none")
        raise _NeverUsable(f"{version}: holds no {ARTIFACT}/{MODEL_FILE}: it was not registered by Sluice")
    ours = [listed[name] for name in (MODEL_FILE, CATALOGUE_FILE, BOOSTER_FILE, DRIFT_FILE) if name in listed]
    if sum(one.file_size or 0 for one in ours) > MAX_FILE_BYTES:
        raise _NeverUsable(f"{version}: larger than {MAX_FILE_BYTES // 2**20} MiB: its files are not fetched")
    return [f"{folder}/{one.path.rpartition('/')[2]}" for one in ours]


class Registry:
    """Reads the model registry. Versions that were fetched stay in the state folder."""

    def __init__(self, settings: Settings) -> None:
        """Connects at the first call."""
        self._uri = settings.mlflow_uri
        self._cache = settings.state / "models"
        self._refused: dict[tuple[str, str, str], str] = {}
        """Versions that will never be what is wanted, and why: they are not fetched again"""
        self._client: Any = None

    def resolve(self, ref: ModelRef) -> ModelVersion:
        """The version that `ref` points to now.

        Raises ModelUnusable when there is none, TransportError when MLflow does not answer.
        """
        if self._nothing_there():
            raise ModelUnusable(f"{ref}: MLflow at {masked_url(self._uri)} knows no such model")
        client = self._connected()
        from mlflow.exceptions import MlflowException

        with mlflow_errors(self._uri):
            try:
                if ref.alias:
                    found = client.get_model_version_by_alias(ref.name, ref.alias)
                else:
                    found = client.get_model_version(ref.name, ref.version)
            except MlflowException as error:
                if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    raise ModelUnusable(f"{ref}: MLflow at {masked_url(self._uri)} knows no such model") from None
                raise
        tags = tuple(sorted((str(key), str(value)) for key, value in (found.tags or {}).items()))
        return ModelVersion(found.name, str(found.version), found.run_id or "", tags)

    def load(self, version: ModelVersion) -> TrainedModel:
        """The model itself, which has not crashed a process that tried it.

        Raises ModelUnusable, TransportError when MLflow does not answer, ConfigError when a library is missing.
        """
        place = self.fetch(version)
        try_model(place / ARTIFACT, place / "tried")
        return read_model(place / ARTIFACT)

    def fetch(self, version: ModelVersion) -> Path:
        """The folder with our files of a version below `model`: downloaded once, and once more when it is damaged.

        Raises as `load`.
        """
        place = self._cache / re.sub(r"[^A-Za-z0-9_.-]", "_", f"{version.name}-{version.version}-{version.run_id}")
        try:
            check_model(place / ARTIFACT)
        except ModelUnusable:
            key = (version.name, version.version, version.run_id)
            if key in self._refused:
                raise ModelUnusable(self._refused[key]) from None
            shutil.rmtree(place, ignore_errors=True)
            try:
                self._download(version, place)
            except _NeverUsable as error:
                self._refused[key] = str(error)
                raise
        return place

    def reference(self, version: ModelVersion) -> Reference:
        """What drift of this version is seen by.

        Raises ModelUnusable when there is none with it, ConfigError when it cannot be read, and as `fetch`.
        """
        try:
            data = (self.fetch(version) / ARTIFACT / DRIFT_FILE).read_bytes()
        except FileNotFoundError:
            raise ModelUnusable(f"{version}: no reference of drift was logged with it: train it again") from None
        return Reference.load(data)

    def _download(self, version: ModelVersion, place: Path) -> None:
        client = self._connected()
        from mlflow.exceptions import MlflowException
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        with self._new_folder(version, place.parent) as folder:
            try:
                # Not `models:/…`: the process may have another registry set, and that one would be asked.
                with mlflow_errors(self._uri):
                    source = client.get_model_version_download_uri(version.name, version.version)
                files: Any = get_artifact_repository(source, tracking_uri=self._uri)
                for name in _wanted(version, files):
                    files.download_artifacts(name, folder)
            except (MlflowException, OSError) as error:
                raise ModelUnusable(f"{version}: its files cannot be fetched: {_reason(error, self._uri)}") from None
            fetched = Path(folder) / "artifacts"
            try:
                check_model(fetched / ARTIFACT)
            except ModelUnusable as error:
                raise _NeverUsable(str(error)) from error
            with suppress(OSError):  # another process was quicker
                fetched.rename(place)

    def _new_folder(self, version: ModelVersion, parent: Path) -> tempfile.TemporaryDirectory[str]:
        try:
            parent.mkdir(parents=True, exist_ok=True)
            for left in parent.glob("tmp*"):
                if left.stat().st_mtime < time.time() - _STALE_S:
                    shutil.rmtree(left, ignore_errors=True)
            return tempfile.TemporaryDirectory(dir=parent)
        except OSError as error:
            raise ModelUnusable(f"{version}: its files cannot be kept in {parent}: {error.strerror}") from error

    def _nothing_there(self) -> bool:
        """Whether there is no database yet: whoever only reads makes none."""
        scheme, _, path = self._uri.partition(":///")
        return scheme == "sqlite" and not Path(path).exists()

    def _connected(self) -> Any:
        if self._client is None:
            logger = logging.getLogger("mlflow")
            logger.setLevel(max(logger.level, logging.WARNING))
            for name, value in _MLFLOW_DEFAULTS.items():
                os.environ.setdefault(name, value)
            from mlflow import MlflowClient

            # After the import, which sets it. They warn of what models of ours do not use, and of every retry.
            for name in ("mlflow", "urllib3.connectionpool"):
                logging.getLogger(name).setLevel(logging.ERROR)
            with mlflow_errors(self._uri):
                knock(self._uri)
                self._client = MlflowClient(self._uri, self._uri)
        return self._client
