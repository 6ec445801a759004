"""A CSV file with a row a unit: the sums that the stream would have kept. Library: pyarrow."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from analyzer.engine.moments import Floats, Moments, moments
from sluice.errors import ConfigError

__all__ = ["MAX_BYTES", "MAX_VARIANTS", "UnitRows", "read_unit_rows"]

MAX_BYTES = 1_000_000_000
MAX_VARIANTS = 32
MOST = 1e12
"""Of impressions and of values in a row: the squares of larger ones would leave what sums can hold"""


class UnitRows(NamedTuple):
    """Sums over the units of each variant, arrays (k,)."""

    variants: list[str]
    """In order of appearance, the control first"""
    clicks: Moments
    values: Moments | None
    """With the value in the place of clicks; None when the file has no column `value`"""
    without_impressions: int
    """Rows that were left out"""


def read_unit_rows(path: Path, control: str | None = None) -> UnitRows:
    """Columns `variant`, `impressions`, `clicks` and, if there, `value`; further ones are ignored.

    Raises ConfigError that names file, column and row when something cannot be: a gap, a number that is negative,
    broken or not finite, more clicks than impressions, fewer than two variants, a file beyond `MAX_BYTES`.
    """
    table = _table(path)
    names, index = _variants(table, path)
    n, c = (_numbers(table, name, path, whole=True) for name in ("impressions", "clicks"))
    v = _numbers(table, "value", path, whole=False) if "value" in table.column_names else None
    _refuse(c > n, path, "clicks", "more than impressions")
    if control is not None:
        if control not in names:
            raise ConfigError(f"--control: {path} has no variant {control!r}, only {', '.join(names)}")
        first = names.index(control)
        order = [first, *(i for i in range(len(names)) if i != first)]
        names, index = [names[i] for i in order], np.argsort(order)[index]
    if len(names) < 2:
        raise ConfigError(
            f"--csv: {path}: at least two variants are needed, there is only {', '.join(names) or 'none'}"
        )
    shown = n > 0
    index, n, c = index[shown], n[shown], c[shown]
    return UnitRows(
        names,
        _sums(index, n, c, len(names)),
        None if v is None else _sums(index, n, v[shown], len(names)),
        int((~shown).sum()),
    )


def _sums(index: NDArray[np.int64], n: Floats, c: Floats, k: int) -> Moments:
    parts = (np.ones_like(n), n, c, n * n, c * c, n * c)
    return moments(*(np.bincount(index, part, minlength=k) for part in parts))


def _table(path: Path) -> Any:
    import pyarrow as pa
    from pyarrow import csv

    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ConfigError(f"--csv: {path} has {size:,} bytes; at most {MAX_BYTES:,} are read")
        table = csv.read_csv(
            path,
            # Only an empty field is missing: NA may be a variant.
            convert_options=csv.ConvertOptions(
                column_types={"variant": pa.string()}, null_values=[""], strings_can_be_null=True
            ),
        )
    except OSError as error:
        raise ConfigError(f"--csv: {path}: {error.strerror or error}") from error
    except pa.ArrowInvalid as error:
        raise ConfigError(f"--csv: {path}: {error}") from error
    for name in ("variant", "impressions", "clicks"):
        if table.column_names.count(name) != 1:
            raise ConfigError(
                f"--csv: {path}: one column {name!r} is needed, there are: {', '.join(table.column_names)}"
            )
    return table


def _variants(table: Any, path: Path) -> tuple[list[str], NDArray[np.int64]]:
    column = table["variant"].combine_chunks()
    _refuse(column.is_null().to_numpy(zero_copy_only=False), path, "variant", "empty")
    encoded = column.dictionary_encode()
    names = encoded.dictionary.to_pylist()
    if len(names) > MAX_VARIANTS:
        raise ConfigError(f"--csv: {path}: {len(names):,} variants; at most {MAX_VARIANTS}. Is it the right column?")
    return names, encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)


def _numbers(table: Any, name: str, path: Path, *, whole: bool) -> Floats:
    import pyarrow as pa

    column = table[name].combine_chunks()
    try:
        values = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ConfigError(f"--csv: {path}: column {name!r}: {error}") from error
    _refuse(~np.isfinite(values), path, name, "empty or not finite")
    _refuse(np.abs(values) > MOST, path, name, f"beyond {MOST:g}")
    if whole:
        _refuse((values < 0) | (values != np.rint(values)), path, name, "not a whole number ≥ 0")
    return np.asarray(values, dtype=np.float64)


def _refuse(bad: NDArray[np.bool_], path: Path, name: str, why: str) -> None:
    if bad.any():
        # The header is row 1.
        raise ConfigError(f"--csv: {path}: row {int(np.argmax(bad)) + 2}: {name} is {why}")
