"""Logs in files: Parquet, Feather (Arrow) and CSV, only the columns that are asked for. Library: pyarrow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
from pyarrow import csv, dataset, parquet

from analyzer.ope import Fields
from sluice.errors import ConfigError

__all__ = ["read_log", "write_log"]

FORMATS = {".parquet": "parquet", ".feather": "feather", ".arrow": "feather", ".csv": "csv", ".tsv": "csv"}


def read_log(path: Path, fields: Callable[[Sequence[str]], Fields]) -> pa.Table:
    """The columns of the file at `path` that `fields` chooses from its names. Raises ConfigError, in one line."""
    name = path.name.lower().removesuffix(".gz")
    form = FORMATS.get(Path(name).suffix)
    if form is None:
        raise ConfigError(f"{path}: read are files that end in {', '.join(FORMATS)}")
    if not path.exists():
        raise ConfigError(f"{path}: no such file")
    try:
        if form == "csv":
            return _csv(path, "\t" if name.endswith(".tsv") else ",", fields)
        source = dataset.dataset(path, format=form)
        return source.to_table(columns=_once(path, source.schema.names, fields).names)
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error


def write_log(path: Path, table: pa.Table) -> None:
    """Parquet. Raises ConfigError when the file cannot be written."""
    try:
        parquet.write_table(table, path, compression="zstd")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror or error}") from error


def _once(path: Path, names: Sequence[str], fields: Callable[[Sequence[str]], Fields]) -> Fields:
    wanted = fields(names)
    for name in wanted.names:
        if names.count(name) > 1:
            raise ConfigError(f"{path}: {names.count(name)} columns are called {name!r}")
    return wanted


def _csv(path: Path, delimiter: str, fields: Callable[[Sequence[str]], Fields]) -> pa.Table:
    parsing = csv.ParseOptions(delimiter=delimiter)
    with csv.open_csv(path, parse_options=parsing) as head:
        wanted = _once(path, head.schema.names, fields)
    types = dict.fromkeys([wanted.propensity, wanted.reward, *wanted.predictions.values()], pa.float64())
    types |= dict.fromkeys(wanted.text, pa.string())
    # Only an empty field is missing: NA may be a variant.
    converting = csv.ConvertOptions(
        include_columns=wanted.names, column_types=types, null_values=[""], strings_can_be_null=True
    )
    return csv.read_csv(path, parse_options=parsing, convert_options=converting)
