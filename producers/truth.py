"""What every variant would have earned on every slate, as a file: for simulations and evaluation off line.

| column | type | meaning |
|---|---|---|
| `slate` | int64 | place in event-time order within the whole log |
| `at_ms` | int64 | when it was requested |
| `user_id` | string | |
| `shown.VARIANT` | int16 | impressions of VARIANT, had it ranked this slate |
| `clicks.VARIANT` | int16 | how many of them are clicked |

The metadata of the file's schema name the source: `sluice.data`. Library: pyarrow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

import numpy as np

from producers.candidates import Candidates
from producers.totals import result_of
from sluice.errors import ConfigError

__all__ = ["write_truth"]

BATCH = 1000


def write_truth(
    path: Path,
    candidates: Candidates,
    variants: Sequence[str],
    *,
    first: int,
    stop: int,
    liked_milli: int,
    progress: Callable[[int, int, int], None] = lambda first, next_, last: None,
) -> dict[str, object]:
    """Write slates first … stop − 1 to a Parquet file and return what is in it. Raises ConfigError."""
    pa, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    numbers: list[int] = []
    at_ms: list[int] = []
    users: list[str] = []
    rows: list[list[int]] = []
    for start in range(first, stop, BATCH):
        block = candidates.block(start, min(stop, start + BATCH))
        for slate, shown_by in zip(block, candidates.shown(block), strict=True):
            result = result_of(slate.number, variants[0], shown_by, (), liked_milli)
            numbers.append(slate.number)
            at_ms.append(slate.at_ms)
            users.append(slate.user_id)
            rows.append(
                [result.impressions_by_variant[name] for name in variants]
                + [result.clicks_by_variant[name] for name in variants]
            )
        progress(first, min(stop, start + BATCH), stop)
    table = np.array(rows, dtype=np.int16).T
    columns = {"slate": pa.array(numbers, pa.int64()), "at_ms": pa.array(at_ms, pa.int64()), "user_id": pa.array(users)}
    titles = [f"{kind}.{name}" for kind in ("shown", "clicks") for name in variants]
    columns |= {title: pa.array(column) for title, column in zip(titles, table, strict=True)}
    try:
        parquet.write_table(pa.table(columns).replace_schema_metadata({"sluice.data": candidates.name}), path)
    except OSError as error:
        raise ConfigError(f"--truth: {path}: {(error.strerror or str(error)).lower()}") from error
    shown, clicks = table[: len(variants)].sum(axis=1), table[len(variants) :].sum(axis=1)
    return {
        "data": candidates.name,
        "slates": len(rows),
        "users": len(set(users)),
        "variants": {
            name: {"impressions": int(n), "clicks": int(c)}
            for name, n, c in zip(variants, shown.tolist(), clicks.tolist(), strict=True)
        },
        "file": str(path),
    }
