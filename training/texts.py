"""What MovieLens sets say of their items in words: titles, and tags that users gave."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from producers.archive import Archive, open_archive
from producers.movielens import is_movielens
from sluice.errors import ConfigError

__all__ = ["Tag", "Texts", "read_texts"]


class Tag(NamedTuple):
    item: str
    words: str
    at_ms: int


class Texts(NamedTuple):
    titles: dict[str, str]
    """Item id → title with the year of release; empty where a data set has none"""
    tags: list[Tag]


def read_texts(path: Path) -> Texts:
    """Titles and tags of the data set at `path`; both empty when it is no MovieLens set.

    Raises ConfigError, naming file and line, when a line is malformed.
    """
    if not is_movielens(path):
        return Texts({}, [])
    with open_archive(path) as archive:
        titles: dict[str, str] = {}
        for name, separator in (("movies.csv", ","), ("movies.dat", "::"), ("u.item", "|")):
            if name in archive.names:
                titles = {row[0]: row[1] for _, row in _rows(archive, name, separator, 2)}
                break
        tags = []
        for name, separator in (("tags.csv", ","), ("tags.dat", "::")):
            if name in archive.names:
                tags = [_tag(f"{path}/{name}, line {line}", row) for line, row in _rows(archive, name, separator, 4)]
                break
    return Texts(titles, tags)


def _tag(label: str, row: list[str]) -> Tag:
    if not row[-1].strip().isdecimal():
        raise ConfigError(f"{label}: {row[-1]!r}: timestamps are whole seconds")
    return Tag(row[1], row[2], int(row[-1]) * 1000)


def _rows(archive: Archive, name: str, separator: str, fields: int) -> Iterator[tuple[int, list[str]]]:
    with archive.open(name) as stream:
        data = stream.read()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")  # ml-100k and ml-1m
    lines: Iterator[tuple[int, list[str]]]
    if separator == ",":
        # A quote that is never closed makes a field of the rest of the file; the reader refuses such long ones.
        reader = csv.reader(io.StringIO(text, newline=""))
        lines = islice(((reader.line_num, row) for row in reader), 1, None)  # without the header
    else:
        lines = (
            (number, line.rstrip("\r").split(separator)) for number, line in enumerate(text.split("\n"), 1) if line
        )
    number = 0
    try:
        for number, row in lines:
            if len(row) < fields:
                raise ConfigError(f"{archive.path}/{name}, line {number}: expected {fields} fields, got {len(row)}")
            yield number, row
    except csv.Error as error:
        raise ConfigError(f"{archive.path}/{name}, after line {number}: {error}") from error
