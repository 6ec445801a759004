"""Prepared data: typed Parquet files and a manifest that ties them to exact bytes. Library: pyarrow."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet

from sluice.errors import ConfigError
from sluice.features import Catalogue, SlateLog, make_catalogue
from sluice.features.definition import Ints

__all__ = ["MANIFEST", "Dataset", "load_dataset", "write_dataset"]

MANIFEST = "fingerprint.json"
TRAIN, GAP, TEST = "train", "gap", "test"


@dataclass(frozen=True, eq=False)
class Dataset:
    """A log in slates, what is known of its items and users, and where its test part begins."""

    name: str
    fingerprint: str
    """Of the ratings, genres, titles, tags and options: 16 hex digits"""
    log: SlateLog
    users: Sequence[str]
    titles: Mapping[str, str]
    genres: Mapping[str, tuple[str, ...]]
    tags: Mapping[str, str]
    """Item id → tags given before the first test request, as one text"""
    about: Mapping[str, Mapping[str, str]]
    """User id → attributes, where known"""
    test_from: int
    """First slate of the test part"""
    options: Mapping[str, Any] = field(default_factory=dict)
    """It was prepared with: `slate_size`, `click_from`, …"""

    @cached_property
    def catalogue(self) -> Catalogue:
        return make_catalogue(self.log.items, self.genres, self.titles)

    @cached_property
    def train(self) -> Ints:
        """Slates before the test part whose outcomes were known when that began."""
        begin = self.log.at_ms[self.test_from]
        return np.flatnonzero(self.log.end_ms[: self.test_from] < begin)

    @cached_property
    def test(self) -> Ints:
        return np.arange(self.test_from, len(self.log))

    def rows(self, slates: Ints) -> Ints:
        """The rows of these slates, slate by slate."""
        sizes = np.diff(self.log.offsets)[slates]
        ends = np.cumsum(sizes)
        return np.repeat(self.log.offsets[slates] - ends + sizes, sizes) + np.arange(ends[-1] if len(ends) else 0)

    @property
    def parts(self) -> NDArray[np.str_]:
        """(s,) `train`, `test`, or `gap`: before the test part, but not yet ended when that began."""
        parts = np.full(len(self.log), GAP, dtype=object)
        parts[self.train], parts[self.test] = TRAIN, TEST
        return parts.astype(str)


def write_dataset(data: Dataset, folder: Path) -> None:
    """Write `data` to the new folder `folder`. Raises ConfigError when that is impossible."""
    log = data.log
    slate = np.repeat(np.arange(len(log)), np.diff(log.offsets))
    impressions = pa.table({
        "slate": pa.array(slate, pa.int32()),
        "user": _words(data.users, log.user[slate]),
        "item": _words(log.items, log.item),
        "at_ms": pa.array(log.at_ms[slate]),
        "end_ms": pa.array(log.end_ms[slate]),
        "rating_milli": pa.array(log.rating_milli, pa.int32()),
        "liked": pa.array(log.liked),
        "part": pa.array(data.parts[slate]).dictionary_encode(),
    })  # fmt: skip
    items = pa.table(
        {
            "item": pa.array(list(log.items)),
            "title": pa.array([data.titles.get(item, "") for item in log.items]),
            "genres": pa.array([list(data.genres.get(item, ())) for item in log.items], pa.list_(pa.string())),
            "tags": pa.array([data.tags.get(item, "") for item in log.items]),
        }
    )
    attributes = sorted({name for known in data.about.values() for name in known})
    users = pa.table(
        {
            "user": pa.array(list(data.users)),
            **{name: pa.array([data.about.get(user, {}).get(name) for user in data.users]) for name in attributes},
        }
    )
    tables = {"impressions.parquet": impressions, "items.parquet": items, "users.parquet": users}
    part = folder.with_name(folder.name + ".part")
    try:
        part.mkdir(parents=True, exist_ok=True)
        for name, table in tables.items():
            parquet.write_table(table, part / name, compression="zstd")
        manifest = {
            "fingerprint": data.fingerprint, "name": data.name, "options": dict(data.options),
            "test_from": data.test_from, "slates": len(log), "impressions": len(log.item),
            "users": len(data.users), "items": len(log.items),
            "train_slates": len(data.train), "test_slates": len(data.test), "sha256": _digests(part, tables),
        }  # fmt: skip
        (part / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
        part.rename(folder)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written: {error.strerror or error}") from error


def load_dataset(folder: Path) -> Dataset:
    """What `write_dataset` wrote. Raises ConfigError when it is not there, incomplete or was changed since."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        if _digests(folder, manifest["sha256"]) != manifest["sha256"]:
            raise ConfigError(f"{folder}: changed since it was prepared: remove the folder and prepare again")
        impressions, items, users = (
            parquet.read_table(folder / f"{name}.parquet") for name in ("impressions", "items", "users")
        )
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise ConfigError(f"{folder}: no prepared data: {error}") from error
    ids, names = items["item"].to_pylist(), users["user"].to_pylist()
    slate = impressions["slate"].to_numpy()
    first = np.flatnonzero(np.diff(slate, prepend=-1))
    log = SlateLog(
        user=_codes(impressions["user"], names)[first],
        at_ms=impressions["at_ms"].to_numpy()[first],
        end_ms=impressions["end_ms"].to_numpy()[first],
        offsets=np.append(first, len(slate)).astype(np.int64),
        item=_codes(impressions["item"], ids),
        liked=impressions["liked"].to_numpy(),
        rating_milli=impressions["rating_milli"].to_numpy().astype(np.int64),
        items=ids,
    )
    about = {
        row.pop("user"): {name: value for name, value in row.items() if value is not None} for row in users.to_pylist()
    }
    return Dataset(
        name=manifest["name"],
        fingerprint=manifest["fingerprint"],
        log=log,
        users=names,
        titles=dict(zip(ids, items["title"].to_pylist(), strict=True)),
        genres={item: tuple(genres) for item, genres in zip(ids, items["genres"].to_pylist(), strict=True)},
        tags={item: words for item, words in zip(ids, items["tags"].to_pylist(), strict=True) if words},
        about={user: known for user, known in about.items() if known},
        test_from=manifest["test_from"],
        options=manifest["options"],
    )


def _words(values: Sequence[str], codes: NDArray[np.integer]) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), pa.array(list(values)))


def _codes(column: pa.ChunkedArray, ids: Sequence[str]) -> Ints:
    """Codes by `ids`, whatever dictionary the file uses."""
    encoded = column.combine_chunks().dictionary_encode() if column.num_chunks else column
    place = {name: index for index, name in enumerate(ids)}
    codes = np.array([place[name] for name in encoded.dictionary.to_pylist()], dtype=np.int64)
    return np.asarray(codes[encoded.indices.to_numpy()])


def _digests(folder: Path, names: Mapping[str, Any]) -> dict[str, str]:
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
