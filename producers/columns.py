"""Any CSV or Parquet log with its columns mapped. Libraries: numpy; pyarrow for Parquet."""

from __future__ import annotations

import csv
import datetime
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from producers.ratings import RatingsLog
from sluice.errors import ConfigError

__all__ = ["is_table", "parse_columns", "read_table", "to_ms"]

REQUIRED = ("user", "item", "rating", "time")
OPTIONAL = ("genres",)
MAX_ID = 128
MAX_RATING = 1_000_000.0
# Numbers below are seconds, numbers from here on milliseconds: 10^11 s is the year 5138, 10^11 ms is 1973.
MILLISECONDS_FROM = 10**11


def parse_columns(text: str) -> dict[str, str]:
    """`user=uid,item=movie,rating=stars,time=ts` → meaning → column. Raises ConfigError."""
    columns = {}
    for part in text.split(","):
        meaning, separator, column = part.partition("=")
        if not separator or meaning.strip() not in REQUIRED + OPTIONAL or not column:
            raise ConfigError(f"--columns: {part!r}: allowed are {', '.join(f'{n}=…' for n in REQUIRED + OPTIONAL)}")
        columns[meaning.strip()] = column.strip()
    missing = [name for name in REQUIRED if name not in columns]
    if missing:
        raise ConfigError(f"--columns: {missing[0]} is missing: expected {', '.join(f'{n}=…' for n in REQUIRED)}")
    return columns


def is_table(path: Path) -> bool:
    """True for a file that looks like CSV or Parquet by its name."""
    return path.is_file() and path.suffix.lower() in (".csv", ".tsv", ".parquet")


def to_ms(value: object) -> int:
    """Seconds or milliseconds since 1970, or ISO 8601 (UTC unless it says otherwise) → ms. Raises ValueError."""
    if isinstance(value, datetime.datetime):
        moment = value if value.tzinfo else value.replace(tzinfo=datetime.UTC)
        return round(moment.timestamp() * 1000)
    text = str(value).strip()
    try:
        number = float(text)
    except ValueError:
        return to_ms(datetime.datetime.fromisoformat(text))
    ms = round(number) if number >= MILLISECONDS_FROM else round(number * 1000)
    if not 0 <= ms <= 9_999_999_999_999:
        raise ValueError(f"{text} is no time since 1970")
    return ms


def read_table(path: Path, columns: Mapping[str, str]) -> RatingsLog:
    """The log at `path`; `columns` maps user, item, rating, time and perhaps genres (`a|b`) to its columns.

    Times as `to_ms` takes them. Raises ConfigError, naming file, line and value.
    """
    rows = _parquet(path, columns) if path.suffix.lower() == ".parquet" else _csv(path, columns)
    users: dict[str, int] = {}
    items: dict[str, int] = {}
    genres: dict[str, tuple[str, ...]] = {}
    user, item, rating_milli, at_ms = [], [], [], []
    for line, (user_id, item_id, rating, time, *rest) in rows:
        try:
            if user_id is None or item_id is None:
                raise ValueError("user and item must not be null")
            if not (0 < len(str(user_id)) <= MAX_ID and 0 < len(str(item_id)) <= MAX_ID):
                raise ValueError(f"ids have 1 to {MAX_ID} characters, got {str(user_id)[:80]!r}, {str(item_id)[:80]!r}")
            stars = float(rating)
            if not abs(stars) <= MAX_RATING:
                raise ValueError(f"rating {rating!r}: allowed are numbers from −{MAX_RATING:g} to {MAX_RATING:g}")
            at_ms.append(to_ms(time))
        except (ValueError, TypeError, OverflowError) as error:
            raise ConfigError(f"{path}, line {line}: {error}") from error
        rating_milli.append(round(stars * 1000))
        user.append(users.setdefault(str(user_id), len(users)))
        item.append(items.setdefault(str(item_id), len(items)))
        if rest and str(item_id) not in genres:
            genres[str(item_id)] = tuple(filter(None, str(rest[0] or "").split("|")))
    if not user:
        raise ConfigError(f"{path}: no ratings")
    return RatingsLog(
        name=path.name,
        user=_column(user, np.int32),
        item=_column(item, np.int32),
        rating_milli=_column(rating_milli, np.int32),
        at_ms=_column(at_ms, np.int64),
        users=list(users),
        items=list(items),
        genres=genres,
    )


def _wanted(path: Path, columns: Mapping[str, str], there: Sequence[str]) -> list[str]:
    wanted = [columns[name] for name in REQUIRED + OPTIONAL if name in columns]
    for name in wanted:
        if name not in there:
            raise ConfigError(f"{path}: no column {name!r}: it has {', '.join(map(str, there))[:200]}")
    return wanted


def _csv(path: Path, columns: Mapping[str, str]) -> Iterable[tuple[int, Sequence[Any]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
            header = next(rows, [])
            places = [header.index(name) for name in _wanted(path, columns, header)]
            for row in rows:
                if len(row) != len(header):
                    raise ConfigError(f"{path}, line {rows.line_num}: expected {len(header)} fields, got {len(row)}")
                yield rows.line_num, [row[place] for place in places]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error


def _parquet(path: Path, columns: Mapping[str, str]) -> Iterable[tuple[int, Sequence[Any]]]:
    try:
        arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError as error:
        raise ConfigError(f"{path}: reading Parquet needs pyarrow: pip install pyarrow") from error
    try:
        with parquet.ParquetFile(path) as file:
            wanted = _wanted(path, columns, file.schema_arrow.names)
            line = 0
            for batch in file.iter_batches(columns=wanted):
                for row in zip(*(batch.column(name).to_pylist() for name in wanted), strict=True):
                    line += 1
                    yield line, row
    except (OSError, arrow.ArrowException) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error


def _column(values: list[int], dtype: Any) -> NDArray[Any]:
    return np.array(values, dtype=dtype)
