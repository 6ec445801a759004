"""What `sluice bench route` ranks with: boosted trees of a usual size, and states of users and items in Redis.

Libraries: LightGBM, MLflow, numpy.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from sluice.adapters.features import FeatureKeeping
from sluice.adapters.mlflow import ARTIFACT, parse_model_uri
from sluice.adapters.redis import connect
from sluice.features import Catalogue, ItemState, UserState, make_catalogue, names
from sluice.models import Linear, TrainedModel, Trees, write_model
from sluice.models.trees import lightgbm
from sluice.names import Keys
from sluice.settings import Settings

__all__ = ["register_model", "write_states"]

TREES, LEAVES, ROWS = 200, 31, 20_000
GENRES = ("Action", "Comedy", "Crime", "Drama", "Romance", "Sci-Fi", "Thriller", "War")


def register_model(settings: Settings, folder: Path, uri: str) -> None:
    """Train trees on noise, which gives them their full size, and let the alias of `uri` point to them."""
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    ref, catalogue = parse_model_uri(uri), _catalogue()
    columns = len(names(catalogue.genres))
    rng = np.random.default_rng(1)
    table = rng.normal(size=(ROWS, columns)).astype(np.float32)
    labels = table @ rng.normal(size=columns) + rng.normal(size=ROWS) > 0
    library = lightgbm()
    given = {"objective": "binary", "num_leaves": LEAVES, "verbose": -1, "num_threads": 1, "seed": 1}
    booster = library.train(given, library.Dataset(table, labels), TREES)
    start = Linear(np.zeros(columns), np.ones(columns), np.zeros(columns), 0.0)
    write_model(folder / "artifacts" / ARTIFACT, TrainedModel("bench", Trees(start, booster), catalogue))
    client = MlflowClient(settings.mlflow_uri, settings.mlflow_uri)
    client.create_registered_model(ref.name)
    version = client.create_model_version(ref.name, source=folder.as_uri())
    client.set_registered_model_alias(ref.name, ref.alias, version.version)


def write_states(settings: Settings, users: int, items: int) -> None:
    """Users and items with some past."""
    rng = np.random.default_rng(2)
    with connect(settings) as client:
        keeping = FeatureKeeping(client, Keys(settings.prefix))
        keeping.write_all(
            {f"u{n}": _user(rng) for n in range(users)}, {f"m{n}": _item(rng, n) for n in range(items)}, 0
        )


def _user(rng: np.random.Generator) -> UserState:
    count = int(rng.integers(1, 300))
    traits = {f"genre:{genre}": [count, 100, 50] for genre in GENRES[: int(rng.integers(1, len(GENRES)))]}
    return UserState(count=count, likes=count // 2, rating=3500 * count, last_ms=1, traits=traits)


def _item(rng: np.random.Generator, number: int) -> ItemState:
    state = ItemState.new(f"m{number}")
    state.count = int(rng.integers(1, 300))
    state.likes, state.rating = state.count // 2, 3500 * state.count
    return state


def _catalogue() -> Catalogue:
    items = [f"m{number}" for number in range(5_000)]
    genres = {item: (GENRES[n % len(GENRES)], GENRES[(n // 8) % len(GENRES)]) for n, item in enumerate(items)}
    return make_catalogue(items, genres, {item: f"{item} ({1950 + n % 70})" for n, item in enumerate(items)})
