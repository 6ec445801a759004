"""Models to follow: small ones, a registry in memory, and MLflow's with whatever version is wanted."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sluice.adapters.mlflow import ARTIFACT, ModelRef, ModelVersion
from sluice.errors import ModelUnusable
from sluice.features import Catalogue, names
from sluice.models import Linear, TrainedModel, write_model

NAME = "movielens_ctr_ab"


def likes(feature: str, catalogue: Catalogue, *, sign: float = 1.0) -> TrainedModel:
    """Ranks by one feature alone."""
    columns = names(catalogue.genres)
    weights = np.array([sign if name == feature else 0.0 for name in columns])
    zeros, ones = np.zeros(len(columns)), np.ones(len(columns))
    return TrainedModel(f"by {feature}", Linear(zeros, ones, weights, 0.0), catalogue)


class ModelsInMemory:
    """A registry: versions are added, aliases are moved, and it can be away (port `ModelSource`)."""

    def __init__(self) -> None:
        self.models: list[TrainedModel | Exception] = []
        self.aliases: dict[str, int] = {}
        self.away: Exception | None = None
        self.loads = 0
        self.asked = 0

    def add(self, model: TrainedModel | Exception, alias: str) -> None:
        """The next version, which `alias` points to from now on."""
        self.models.append(model)
        self.aliases[alias] = len(self.models)

    def resolve(self, ref: ModelRef) -> ModelVersion:
        self.asked += 1
        if self.away is not None:
            raise self.away
        number = int(ref.version) if ref.version else self.aliases.get(ref.alias, 0)
        if not 1 <= number <= len(self.models):
            raise ModelUnusable(f"{ref}: no such model")
        return ModelVersion(ref.name, str(number), f"run{number}")

    def load(self, version: ModelVersion) -> TrainedModel:
        self.loads += 1
        model = self.models[int(version.version) - 1]
        if isinstance(model, Exception):
            raise model
        return model


def register(uri: str, folder: Path, alias: str, model: TrainedModel) -> str:
    """Make `model` the next version in MLflow's registry at `uri`, its files in `folder`, and move `alias` to it."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    client = MlflowClient(uri, uri)
    try:
        client.get_registered_model(NAME)
    except MlflowException:
        client.create_registered_model(NAME)
    place = folder / f"{alias}-{len(client.search_model_versions(f'name={NAME!r}'))}"
    write_model(place / "artifacts" / ARTIFACT, model)
    version = client.create_model_version(NAME, source=place.as_uri())
    client.set_registered_model_alias(NAME, alias, version.version)
    return str(version.version)
