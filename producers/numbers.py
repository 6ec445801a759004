"""Fast reading of delimited lines of plain numbers, strict about every line. Library: numpy."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import IO

import numpy as np
from numpy.typing import NDArray

from sluice.errors import ConfigError

__all__ = ["read_numbers"]

CHUNK_BYTES = 32 * 1024 * 1024
MAX_SHOWN = 80


def read_numbers(
    stream: IO[bytes], label: str, *, separator: bytes, columns: int, header: bytes | None
) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Lines of exactly `columns` numbers → (number of the first line, (n, columns) float64), chunk by chunk.

    `header`: the first line when there must be one; it is compared without regard to case and dropped.
    Raises ConfigError that names `label`, the line and what is wrong with it.
    """
    line = 1
    if header is not None:
        first = stream.readline(4096).removeprefix(b"\xef\xbb\xbf").strip()
        if first.lower() != header.lower():
            raise ConfigError(f"{label}, line 1: {_shown(first)}: expected the header {header.decode()!r}")
        line = 2
    begin, rest = line, b""
    while chunk := stream.read(CHUNK_BYTES):
        whole, newline, rest = (rest + chunk).rpartition(b"\n")
        if newline:
            table = _parse(whole, label, line, separator, columns)
            yield line, table
            line += len(table)
    if rest.strip():
        yield line, _parse(rest, label, line, separator, columns)
    elif line == begin:
        raise ConfigError(f"{label}: no lines")


def _parse(text: bytes, label: str, first_line: int, separator: bytes, columns: int) -> NDArray[np.float64]:
    text = text.replace(b"\r\n", b"\n").rstrip(b"\n\r ")
    if separator != b",":
        text = text.replace(separator, b",")
    flat = text.replace(b"\n", b",")
    values = _numbers(flat)
    rows = text.count(b"\n") + 1
    if values is not None and len(values) == rows * columns and _rectangular(text, rows, columns):
        return values.reshape(rows, columns)
    for number, row in enumerate(text.split(b"\n"), first_line):
        fields = row.split(b",")
        if len(fields) != columns:
            raise ConfigError(f"{label}, line {number}: {_shown(row)}: expected {columns} fields, got {len(fields)}")
        for value in fields:
            if not _is_number(value):
                raise ConfigError(f"{label}, line {number}: {_shown(value)}: not a number")
    raise ConfigError(f"{label}, from line {first_line}: not lines of {columns} numbers")


def _numbers(flat: bytes) -> NDArray[np.float64] | None:
    with warnings.catch_warnings():
        # numpy stops at what is no number and says so by a warning; the caller finds the line.
        warnings.simplefilter("error")
        try:
            return np.fromstring(flat, dtype=np.float64, sep=",")
        except (DeprecationWarning, ValueError):
            return None


def _rectangular(text: bytes, rows: int, columns: int) -> bool:
    """True when every line has its own separators: two broken lines must not make up for each other."""
    data = np.frombuffer(text, dtype=np.uint8)
    separators = np.flatnonzero(data == ord(","))
    if len(separators) != rows * (columns - 1):
        return False
    ends = np.append(np.flatnonzero(data == ord("\n")), len(data))
    by_row = separators.reshape(rows, columns - 1)
    return bool((by_row[:, -1] < ends).all() and (by_row[1:, 0] > ends[:-1]).all())


def _is_number(value: bytes) -> bool:
    try:
        return bool(np.isfinite(float(value)))
    except ValueError:
        return False


def _shown(data: bytes) -> str:
    return repr(data[:MAX_SHOWN].decode("utf-8", "replace"))
