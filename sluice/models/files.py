"""A model as a folder of text files: `sluice.json`, `catalogue.json` and, for trees, `booster.txt`.

Reading them runs no code of theirs, so a model may come from a registry that others write to. Library: msgspec.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from sluice.errors import ModelUnusable
from sluice.features import VERSION, Catalogue, names
from sluice.features.catalogue import ItemFacts
from sluice.models.linear import Floats, Linear
from sluice.models.trees import Trees, lightgbm

__all__ = ["BOOSTER_FILE", "CATALOGUE_FILE", "MODEL_FILE", "TrainedModel", "read_model", "write_model"]

MODEL_FILE, CATALOGUE_FILE, BOOSTER_FILE = "sluice.json", "catalogue.json", "booster.txt"
MAX_FILE_BYTES = 256 * 1024 * 1024
FORMAT = 1
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """What ranks a slate: scores of features, and the catalogue that the features are made with."""

    name: str
    model: Linear | Trees
    catalogue: Catalogue
    about: Mapping[str, str] = field(default_factory=dict)
    """Where it comes from: data, fingerprint, seed"""

    @property
    def columns(self) -> tuple[str, ...]:
        """Of the features that `score` takes"""
        return names(self.catalogue.genres)

    def score(self, features: NDArray[np.float32]) -> Floats:
        """features (m, f) → (m,) P(click), float64"""
        return self.model.score(features)


class _Model(Struct, frozen=True, kw_only=True):
    format: int
    name: str
    features_version: int
    columns: Annotated[tuple[str, ...], Meta(min_length=1, max_length=10_000)]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[float, ...]
    intercept: float
    trees: bool
    about: dict[str, str] = {}


class _Catalogue(Struct, frozen=True):
    genres: tuple[str, ...]
    items: dict[str, tuple[int, tuple[int, ...]]]
    """Item id → (year, indices of its genres)"""


def write_model(folder: Path, trained: TrainedModel) -> None:
    """Write `trained` to `folder`, which may exist."""
    model = trained.model
    start = model.start if isinstance(model, Trees) else model
    record = _Model(
        format=FORMAT, name=trained.name, features_version=VERSION, columns=trained.columns,
        mean=tuple(start.mean.tolist()), scale=tuple(start.scale.tolist()), weights=tuple(start.weights.tolist()),
        intercept=start.intercept, trees=isinstance(model, Trees), about=dict(trained.about),
    )  # fmt: skip
    items = {item: (facts.year, facts.genres) for item, facts in trained.catalogue.items.items()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MODEL_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n")
    (folder / CATALOGUE_FILE).write_bytes(msgspec.json.encode(_Catalogue(trained.catalogue.genres, items)))
    if isinstance(model, Trees):
        (folder / BOOSTER_FILE).write_text(model.booster.model_to_string(), encoding="utf-8")


def read_model(folder: Path) -> TrainedModel:
    """What `write_model` wrote. Raises ModelUnusable when it cannot be served, in one line."""
    record = _read(folder / MODEL_FILE, _Model)
    known = _read(folder / CATALOGUE_FILE, _Catalogue)
    catalogue = Catalogue(known.genres, {item: ItemFacts(genres, year) for item, (year, genres) in known.items.items()})
    if (record.format, record.features_version) != (FORMAT, VERSION):
        raise ModelUnusable(
            f"{record.name}: format {record.format} with features {record.features_version}; "
            f"this program serves format {FORMAT} with features {VERSION}: train it again"
        )
    if record.columns != names(catalogue.genres):
        raise ModelUnusable(f"{record.name}: its columns are not those of its catalogue")
    mean, scale, weights = (np.array(values) for values in (record.mean, record.scale, record.weights))
    if {len(mean), len(scale), len(weights)} != {len(record.columns)} or not (scale > 0).all():
        raise ModelUnusable(f"{record.name}: {MODEL_FILE}: needs {len(record.columns)} means, scales > 0 and weights")
    start = Linear(mean, scale, weights, record.intercept)
    model = Trees(start, _booster(folder, record)) if record.trees else start
    return TrainedModel(record.name, model, catalogue, record.about)


def _booster(folder: Path, record: _Model) -> object:
    text = _bytes(folder / BOOSTER_FILE).decode("utf-8", errors="replace")
    library = lightgbm()
    try:
        booster = library.Booster(model_str=text)
    except library.basic.LightGBMError as error:
        raise ModelUnusable(f"{record.name}: {BOOSTER_FILE}: {error}") from error
    if booster.num_feature() != len(record.columns):
        raise ModelUnusable(
            f"{record.name}: {BOOSTER_FILE}: {booster.num_feature()} features, expected {len(record.columns)}"
        )
    return booster


def _read(path: Path, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(_bytes(path), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ModelUnusable(f"{path}: {error}") from error


def _bytes(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ModelUnusable(f"{path}: larger than {MAX_FILE_BYTES} bytes")
        return path.read_bytes()
    except OSError as error:
        raise ModelUnusable(f"{path}: {(error.strerror or str(error)).lower()}") from error
