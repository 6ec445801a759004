"""Allocations: the shares with which new assignments go to variants, in whole percents.

Equal vectors share one key, so that the cells counted by (variant, allocation) stay few and
inverse-propensity sums are exact integers times 100 / percent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate

from sluice.errors import InvalidEvent

__all__ = ["allocation_key", "choose", "equal_percents", "parse_allocation_key", "whole_percents"]


def allocation_key(shares: Mapping[str, int]) -> str:
    """`{"b": 70, "a": 30}` → `"a=30,b=70"`: the same text for equal vectors, whatever their order."""
    return ",".join(f"{name}={shares[name]}" for name in sorted(shares))


def parse_allocation_key(key: str) -> dict[str, int]:
    """Inverse of `allocation_key`. Raises InvalidEvent when the text is not one: events carry what others wrote."""
    try:
        shares = {name: int(share) for name, _, share in (part.rpartition("=") for part in key.split(","))}
    except ValueError as error:
        raise InvalidEvent(f"not an allocation: {key[:80]!r}") from error
    if not all(0 <= share <= 100 for share in shares.values()):
        raise InvalidEvent(f"not an allocation: {key[:80]!r}")
    return shares


def equal_percents(names: Sequence[str]) -> dict[str, int]:
    """Equal whole percents that sum to 100; where they do not divide it, earlier names get one more."""
    base, rest = divmod(100, len(names))
    return {name: base + (index < rest) for index, name in enumerate(names)}


def whole_percents(weights: Mapping[str, float]) -> dict[str, int]:
    """Weights (≥ 0, not all 0) → whole percents that sum to 100, by largest remainder.

    Ties go to the earlier name of the mapping, so equal input gives equal output.
    """
    total = sum(weights.values())
    if not total > 0 or min(weights.values()) < 0:
        raise ValueError(f"weights must be ≥ 0 and not all 0, got {dict(weights)}")
    exact = {name: 100 * weight / total for name, weight in weights.items()}
    shares = {name: int(value) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: shares[name] - exact[name])
    for name in by_remainder[: 100 - sum(shares.values())]:
        shares[name] += 1
    return shares


def choose(shares: Mapping[str, int], place: float) -> str:
    """The variant whose interval of cumulated shares holds `place` in [0, 1), in order of name."""
    names = sorted(shares)
    for name, upper in zip(names, accumulate(shares[name] for name in names), strict=True):
        if place * 100 < upper:
            return name
    raise ValueError(f"shares sum to {sum(shares.values())}, not 100")
