"""What a monitor is given: rows that one version of a model showed, and what became of them. Library: numpy."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["CELLS", "Outcomes", "Rows", "cells_of", "with_score"]

CELLS = 1 << 14
"""Users are told apart by a hash with so many values: memory stays bounded, and blocks of users are independent too."""

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
Bools: TypeAlias = NDArray[np.bool_]


class Rows(NamedTuple):
    """m items that a version showed, in any order."""

    user: Sequence[str]
    at_ms: Ints
    features: NDArray[np.floating]
    """(m, columns) as they were served; NaN where one was missing"""
    score: Floats


class Outcomes(NamedTuple):
    """m items that a version showed and whose attribution window is closed, in any order."""

    user: Sequence[str]
    at_ms: Ints
    """When they were shown"""
    features: NDArray[np.floating]
    """(m, columns)"""
    score: Floats
    clicked: Bools


def cells_of(users: Sequence[str]) -> Ints:
    """(m,) The cell of each user, in [0, CELLS)."""
    known: dict[str, int] = {}
    return np.array(
        [known[u] if u in known else known.setdefault(u, zlib.crc32(u.encode()) % CELLS) for u in users], dtype=np.int64
    )


def with_score(rows: Rows | Outcomes) -> NDArray[np.float32]:
    """(m, columns + 1) features, and the score as the last of them."""
    return np.column_stack([rows.features, rows.score]).astype(np.float32)
