"""Deterministic bucketing: a unit's place in [0, 1), the same in every process and for ever.

Library: hashlib (BLAKE2b).
"""

from __future__ import annotations

from hashlib import blake2b

__all__ = ["bucket"]

_SCALE = 2.0**-53


def bucket(salt: str, unit: str) -> float:
    """Place of `unit` in [0, 1) under `salt`: 53 bits of BLAKE2b, so exact in a double and uniform.

    Different salts give independent places. The separator cannot occur in UTF-8 text, so
    ("ab", "c") and ("a", "bc") differ.
    """
    digest = blake2b(salt.encode() + b"\xff" + unit.encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) * _SCALE
