"""The MovieLens layouts, each as a folder or a zip.

| data set | ratings | items | users |
|---|---|---|---|
| ml-100k | `u.data`, tabs | `u.item`, pipes, Latin-1, 19 genre flags; `u.genre` | `u.user`, pipes, years of age |
| ml-1m | `ratings.dat`, `::` | `movies.dat`, `::`, Latin-1 | `users.dat`, `::`, age groups |
| ml-10M100K | `ratings.dat`, `::`, half stars | `movies.dat`, `::`, UTF-8 | |
| ml-latest-small, ml-20m, ml-25m, ml-32m | `ratings.csv` with header | `movies.csv` with header | |

Source: the README of each data set at grouplens.org/datasets/movielens.
"""

from __future__ import annotations

import csv
import io
from bisect import bisect
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from producers.archive import Archive, open_archive
from producers.numbers import read_numbers
from producers.ratings import RatingsLog
from sluice.errors import ConfigError

__all__ = ["is_movielens", "read_movielens"]

# File of the ratings → (separator, header).
_LAYOUTS: dict[str, tuple[bytes, bytes | None]] = {
    "ratings.csv": (b",", b"userId,movieId,rating,timestamp"),
    "ratings.dat": (b"::", None),
    "u.data": (b"\t", None),
}
NO_GENRES = "(no genres listed)"
EARLIEST_S, LATEST_S = 631_152_000, 2_145_916_800
"""1990 to 2038: other timestamps are mistakes."""
MAX_ID = 2**31 - 1
# Those of ml-1m, whose file names each by its first year, and the first one by 1.
AGES = (18, 25, 35, 45, 50, 56)
AGE_GROUPS = ("under-18", "18-24", "25-34", "35-44", "45-49", "50-55", "56-and-over")
# File of the ratings → (file of the users, separator, place of the gender, place of the age).
_USERS = {"ratings.dat": ("users.dat", "::", 1, 2), "u.data": ("u.user", "|", 2, 1)}


def is_movielens(path: Path) -> bool:
    """True when `path` is a folder or zip with the ratings of a known layout."""
    if not path.is_dir() and not (path.is_file() and path.suffix.lower() == ".zip"):
        return False
    with open_archive(path) as archive:
        return any(name in archive.names for name in _LAYOUTS)


def read_movielens(path: Path) -> RatingsLog:
    """The ratings at `path`, a folder or a zip, with the genres of the items and, where it has them, users' attributes.

    Raises ConfigError, naming file, line and value, when the layout is unknown or a line is malformed.
    """
    with open_archive(path) as archive:
        name = next((name for name in _LAYOUTS if name in archive.names), None)
        if name is None:
            raise ConfigError(f"{path}: no MovieLens ratings: expected one of {', '.join(_LAYOUTS)}")
        separator, header = _LAYOUTS[name]
        label = f"{path}/{name}"
        chunks = []
        with archive.open(name) as stream:
            for line, table in read_numbers(stream, label, separator=separator, columns=4, header=header):
                _check(table, label, line)
                table[:, 2] *= 1000
                # All four fit, and 25 million ratings should not need a gigabyte.
                chunks.append(np.rint(table).astype(np.int32))
        users, items, rating_milli, time_s = np.concatenate(chunks).T
        user_ids, user = np.unique(users, return_inverse=True)
        item_ids, item = np.unique(items, return_inverse=True)
        return RatingsLog(
            name=path.name.removesuffix(".zip"),
            user=user.astype(np.int32),
            item=item.astype(np.int32),
            rating_milli=np.ascontiguousarray(rating_milli),
            at_ms=time_s.astype(np.int64) * 1000,
            users=[str(number) for number in user_ids.tolist()],
            items=[str(number) for number in item_ids.tolist()],
            genres=_genres(archive),
            about=_about(archive, name),
        )


def _check(table: NDArray[np.float64], label: str, first_line: int) -> None:
    rating, time = table[:, 2], table[:, 3]
    rules = [
        (_whole(table[:, :2]) & (table[:, :2] >= 0) & (table[:, :2] <= MAX_ID), "ids are whole numbers from 0"),
        ((rating >= 0.5) & (rating <= 5) & _whole(rating * 2), "ratings go from 0.5 to 5 by 0.5"),
        ((time >= EARLIEST_S) & (time <= LATEST_S) & _whole(time), "timestamps are seconds of 1990–2037"),
    ]  # fmt: skip
    for valid, rule in rules:
        rows = valid.all(axis=1) if valid.ndim == 2 else valid
        if not rows.all():
            row = int(np.argmin(rows))
            shown = ", ".join(f"{value:.10g}" for value in table[row])
            raise ConfigError(f"{label}, line {first_line + row}: {shown}: {rule}")


def _whole(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.asarray(values == np.floor(values))


def _genres(archive: Archive) -> dict[str, tuple[str, ...]]:
    if "movies.csv" in archive.names:
        return _genres_of_csv(archive)
    if "movies.dat" in archive.names:
        return _genres_of_dat(archive)
    if "u.item" in archive.names:
        return _genres_of_100k(archive)
    return {}


def _text(archive: Archive, name: str) -> str:
    with archive.open(name) as stream:
        data = stream.read()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        # ml-100k and ml-1m are Latin-1, ml-10M100K and later ones UTF-8; Latin-1 titles are hardly ever valid UTF-8.
        return data.decode("latin-1")


def _lines(archive: Archive, name: str) -> list[str]:
    # Not splitlines(): Latin-1 titles may hold what Unicode takes for a line break.
    return _text(archive, name).replace("\r\n", "\n").rstrip("\n").split("\n")


def _split(genres: str) -> tuple[str, ...]:
    return tuple(genre for genre in genres.strip().split("|") if genre and genre != NO_GENRES)


def _genres_of_csv(archive: Archive) -> dict[str, tuple[str, ...]]:
    label = f"{archive.path}/movies.csv"
    rows = csv.reader(io.StringIO(_text(archive, "movies.csv"), newline=""))
    found = {}
    try:
        for row in rows:
            if len(row) != 3:
                raise ConfigError(
                    f"{label}, line {rows.line_num}: {','.join(row)[:80]!r}: expected 3 fields, got {len(row)}"
                )
            found[row[0]] = _split(row[2])
    except csv.Error as error:  # a quote that is never closed makes one field of the rest of the file
        raise ConfigError(f"{label}, line {rows.line_num}: {error}") from error
    found.pop("movieId", None)
    return found


def _genres_of_dat(archive: Archive) -> dict[str, tuple[str, ...]]:
    found = {}
    for number, line in enumerate(_lines(archive, "movies.dat"), 1):
        movie, _, rest = line.partition("::")
        _, separator, genres = rest.rpartition("::")
        if not separator:
            raise ConfigError(f"{archive.path}/movies.dat, line {number}: {line[:80]!r}: expected id::title::genres")
        found[movie] = _split(genres)
    return found


def _genres_of_100k(archive: Archive) -> dict[str, tuple[str, ...]]:
    names: dict[int, str] = {}
    if "u.genre" in archive.names:
        for line in _lines(archive, "u.genre"):
            genre, _, index = line.rpartition("|")
            if index.strip().isdigit():
                names[int(index)] = genre
    found = {}
    for number, line in enumerate(_lines(archive, "u.item"), 1):
        movie, *rest = line.split("|")
        flags = rest[-19:]
        if len(rest) < 22 or not set(flags) <= {"0", "1"}:
            raise ConfigError(
                f"{archive.path}/u.item, line {number}: {line[:80]!r}: expected 24 fields ending in 19 flags"
            )
        # Genre 0 is called "unknown": no genre.
        found[movie] = tuple(names.get(i, str(i)) for i, flag in enumerate(flags) if flag == "1" and i)
    return found


def _about(archive: Archive, ratings: str) -> dict[str, dict[str, str]]:
    """User id → `gender` and `age` group, where the layout has a file of users."""
    name, separator, gender_at, age_at = _USERS.get(ratings, ("", "", 0, 0))
    if name not in archive.names:
        return {}
    found = {}
    for number, line in enumerate(_lines(archive, name), 1):
        fields = line.split(separator)
        if len(fields) != 5 or fields[gender_at] not in ("F", "M") or not fields[age_at].isdecimal():
            order = separator.join(("id", "age", "gender") if gender_at > age_at else ("id", "gender", "age"))
            raise ConfigError(
                f"{archive.path}/{name}, line {number}: {line[:80]!r}: expected 5 fields that begin with {order}"
            )
        found[fields[0]] = {"gender": fields[gender_at], "age": AGE_GROUPS[bisect(AGES, int(fields[age_at]))]}
    return found
