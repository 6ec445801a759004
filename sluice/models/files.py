"""A model as a folder of text files: `sluice.json`, `catalogue.json` and, for trees, `booster.txt`.

Reading them runs no code of theirs. LightGBM, though, crashes on a booster that is cut off or damaged, which would end
the process that serves: `sluice.json` holds the digests of the other files, and what differs is not read. This finds
accidents; a booster that was forged with its digest is found by `sluice.models.trial`. Library: msgspec.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
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

__all__ = [
    "BOOSTER_FILE", "CATALOGUE_FILE", "FORMAT", "MAX_FILE_BYTES", "MODEL_FILE", "TrainedModel", "check_model",
    "read_model", "write_model",
]  # fmt: skip

MODEL_FILE, CATALOGUE_FILE, BOOSTER_FILE = "sluice.json", "catalogue.json", "booster.txt"
MAX_FILE_BYTES = 256 * 1024 * 1024
FORMAT = 2
"""2: with digests of the files beside `sluice.json`"""
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """What ranks a slate: scores of features, and the catalogue that the features are made with."""

    name: str
    model: Linear | Trees
    catalogue: Catalogue
    about: Mapping[str, str] = field(default_factory=dict)
    """Where it comes from: data, fingerprint, seed, and of which slates: slate_size, click_from"""

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
    sha256: dict[str, str] = {}
    """Name of each other file → digest of it"""


class _Catalogue(Struct, frozen=True):
    genres: tuple[str, ...]
    items: dict[str, tuple[Annotated[int, Meta(ge=0, le=9999)], tuple[Annotated[int, Meta(ge=0)], ...]]]
    """Item id → (year, indices of its genres)"""


def write_model(folder: Path, trained: TrainedModel) -> None:
    """Write `trained` to `folder`, which may exist."""
    model = trained.model
    start = model.start if isinstance(model, Trees) else model
    items = {item: (facts.year, facts.genres) for item, facts in trained.catalogue.items.items()}
    files = {CATALOGUE_FILE: msgspec.json.encode(_Catalogue(trained.catalogue.genres, items))}
    if isinstance(model, Trees):
        files[BOOSTER_FILE] = model.booster.model_to_string().encode()
    record = _Model(
        format=FORMAT, name=trained.name, features_version=VERSION, columns=trained.columns,
        mean=tuple(start.mean.tolist()), scale=tuple(start.scale.tolist()), weights=tuple(start.weights.tolist()),
        intercept=start.intercept, trees=isinstance(model, Trees), about=dict(trained.about),
        sha256={name: sha256(data).hexdigest() for name, data in files.items()},
    )  # fmt: skip
    files[MODEL_FILE] = msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n"
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)


def read_model(folder: Path) -> TrainedModel:
    """What `write_model` wrote. Raises ModelUnusable when it cannot be served, in one line."""
    record = _record(folder)
    known = _decode(folder / CATALOGUE_FILE, _checked(folder / CATALOGUE_FILE, record), _Catalogue)
    if any(place >= len(known.genres) for _, genres in known.items.values() for place in genres):
        raise ModelUnusable(f"{record.name}: {CATALOGUE_FILE}: items have genres that it does not name")
    catalogue = Catalogue(known.genres, {item: ItemFacts(genres, year) for item, (year, genres) in known.items.items()})
    if record.columns != names(catalogue.genres):
        raise ModelUnusable(f"{record.name}: its columns are not those of its catalogue")
    mean, scale, weights = (np.array(values) for values in (record.mean, record.scale, record.weights))
    if {len(mean), len(scale), len(weights)} != {len(record.columns)} or not (scale > 0).all():
        raise ModelUnusable(f"{record.name}: {MODEL_FILE}: needs {len(record.columns)} means, scales > 0 and weights")
    start = Linear(mean, scale, weights, record.intercept)
    model = Trees(start, _booster(folder, record)) if record.trees else start
    return TrainedModel(record.name, model, catalogue, record.about)


def check_model(folder: Path) -> None:
    """Raises ModelUnusable unless `folder` holds what `write_model` wrote, in the format that this program serves."""
    record = _record(folder)
    for name in (CATALOGUE_FILE, BOOSTER_FILE) if record.trees else (CATALOGUE_FILE,):
        _checked(folder / name, record)


def _record(folder: Path) -> _Model:
    record = _decode(folder / MODEL_FILE, _bytes(folder / MODEL_FILE), _Model)
    if (record.format, record.features_version) != (FORMAT, VERSION):
        raise ModelUnusable(
            f"{record.name}: format {record.format} with features {record.features_version}; "
            f"this program serves format {FORMAT} with features {VERSION}: train it again"
        )
    return record


def _booster(folder: Path, record: _Model) -> object:
    text = _checked(folder / BOOSTER_FILE, record).decode("utf-8", errors="replace")
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


def _checked(path: Path, record: _Model) -> bytes:
    data = _bytes(path)
    if sha256(data).hexdigest() != record.sha256.get(path.name):
        raise ModelUnusable(f"{record.name}: {path.name}: not what was written with {MODEL_FILE}")
    return data


def _decode(path: Path, data: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ModelUnusable(f"{path}: {error}") from error


def _bytes(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ModelUnusable(f"{path}: larger than {MAX_FILE_BYTES} bytes")
        return path.read_bytes()
    except OSError as error:
        raise ModelUnusable(f"{path}: {(error.strerror or str(error)).lower()}") from error
