"""Deterministic bucketing: a unit's place in [0, 1), the same in every process and for ever.

`bucket` is Sluice's own. `place`, `number`, `told` and `drawing` do it as other experimentation tools do, so that a
team that comes from one keeps every unit in its variant.
"""

from __future__ import annotations

from sluice.domain.bucketing.algorithms import (
    ALGORITHMS,
    Algorithm,
    AlgorithmName,
    Bucketing,
    Gate,
    drawing,
    number,
    place,
    told,
)
from sluice.domain.bucketing.hashes import bucket

__all__ = [
    "ALGORITHMS",
    "Algorithm",
    "AlgorithmName",
    "Bucketing",
    "Gate",
    "bucket",
    "drawing",
    "number",
    "place",
    "told",
]
