"""A CSV file with a row a unit: the sums that the stream would have kept. Library: pyarrow."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from analyzer.engine.bootstrap import Replicates, replicates, unit_keys
from analyzer.engine.cuped import CovariateMoments, covariate_moments
from analyzer.engine.moments import Floats, Moments, moments
from sluice.errors import ConfigError

__all__ = ["MAX_BYTES", "MAX_RESAMPLED", "MAX_VARIANTS", "SALT", "Resampled", "UnitRows", "read_unit_rows"]

MAX_BYTES = 1_000_000_000
MAX_VARIANTS = 32
MAX_RESAMPLED = 1_000_000
"""Units, which take a bootstrap half a minute; of more the mean is as good as normal"""
SALT = "compare"
"""Of the bootstrap: the same file gives the same interval"""
MOST = 1e12
"""Of impressions and of values in a row: the squares of larger ones would leave what sums can hold"""


_BEFORE = ("pre_impressions", "pre_clicks")


class Resampled(NamedTuple):
    """Replicates of the variants, (k, B + 1), of what was brought to whole numbers."""

    sums: Replicates
    step: float
    """Σc / Σn of the rows is this times that of the sums"""


class UnitRows(NamedTuple):
    """Sums over the units of each variant, arrays (k,)."""

    variants: list[str]
    """In order of appearance, the control first"""
    clicks: Moments
    values: Moments | None
    """With the value in the place of clicks; None when the file has no column `value`"""
    before: CovariateMoments | None
    """Clicks beside those before the experiment; None without the columns `pre_impressions` and `pre_clicks`"""
    clicks_resampled: Resampled | None
    """None without a column `unit`, and beyond `MAX_RESAMPLED` units"""
    values_resampled: Resampled | None
    without_impressions: int
    """Rows that were left out"""


def read_unit_rows(path: Path, control: str | None = None) -> UnitRows:
    """Columns `variant`, `impressions`, `clicks`; if there, `value`, `unit`, and `pre_impressions` with `pre_clicks`.

    Further ones are ignored.

    Raises ConfigError that names file, column and row when something cannot be: a gap, a number that is negative,
    broken or not finite, more clicks than impressions, a unit twice, fewer than two variants, a file beyond
    `MAX_BYTES`.
    """
    table = _table(path)
    names, index = _variants(table, path)
    n, c = (_numbers(table, name, path, whole=True) for name in ("impressions", "clicks"))
    v = _numbers(table, "value", path, whole=False) if "value" in table.column_names else None
    _refuse(c > n, path, "clicks", "more than impressions")
    before = _before(table, path)
    keys = _keys(table, path) if "unit" in table.column_names else None
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
    index, n, c, k = index[shown], n[shown], c[shown], len(names)
    v = None if v is None else v[shown]
    keys = None if keys is None or n.size > MAX_RESAMPLED else keys[shown]
    return UnitRows(
        names,
        _sums(index, n, c, k),
        None if v is None else _sums(index, n, v, k),
        None if before is None else covariate_moments(n, c, before[0][shown], before[1][shown], index, k),
        None if keys is None else _resampled(index, keys, n, c, k),
        None if keys is None or v is None else _resampled(index, keys, n, v, k),
        int((~shown).sum()),
    )


def _sums(index: NDArray[np.int64], n: Floats, c: Floats, k: int) -> Moments:
    parts = (np.ones_like(n), n, c, n * n, c * c, n * c)
    return moments(*(np.bincount(index, part, minlength=k) for part in parts))


def _resampled(index: NDArray[np.int64], keys: NDArray[np.uint64], n: Floats, c: Floats, k: int) -> Resampled:
    (n, n_step), (c, c_step) = _whole(n), _whole(c)
    arms = [replicates(keys[own], n[own], c[own]) for own in (index == i for i in range(k))]
    return Resampled(Replicates(*(np.stack(parts) for parts in zip(*arms, strict=True))), c_step / n_step)


def _whole(values: Floats) -> tuple[Floats, float]:
    """values ≈ whole numbers × step, the largest just below 2³⁶: so large that sums are still exact in doubles."""
    exponent = 36 - int(np.frexp(np.abs(values).max(initial=0))[1])
    return np.rint(np.ldexp(values, exponent)), 2.0**-exponent


def _before(table: Any, path: Path) -> tuple[Floats, Floats] | None:
    there = [name for name in _BEFORE if name in table.column_names]
    if not there:
        return None
    if len(there) == 1:
        raise ConfigError(f"--csv: {path}: {' and '.join(_BEFORE)} go together, there is only {there[0]}")
    n0, c0 = (_numbers(table, name, path, whole=True) for name in _BEFORE)
    _refuse(c0 > n0, path, "pre_clicks", "more than pre_impressions")
    return n0, c0


def _keys(table: Any, path: Path) -> NDArray[np.uint64]:
    column = table["unit"].combine_chunks()
    _refuse(column.is_null().to_numpy(zero_copy_only=False), path, "unit", "empty")
    repeated = np.ones(len(column), dtype=np.bool_)
    _, first = np.unique(column.dictionary_encode().indices.to_numpy(), return_index=True)
    repeated[first] = False
    _refuse(repeated, path, "unit", "that of an earlier row; a unit has one row")
    return unit_keys(column.to_pylist(), SALT)


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
                column_types={"variant": pa.string(), "unit": pa.string()}, null_values=[""], strings_can_be_null=True
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
    for name in ("value", "unit", *_BEFORE):
        if table.column_names.count(name) > 1:
            raise ConfigError(f"--csv: {path}: there is more than one column {name!r}")
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
