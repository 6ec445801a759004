"""GrowthBook's own steps from a bucket to a variation, bit for bit: weights, coverage, ranges.

Source: GrowthBook, "Build Your Own SDK" (docs.growthbook.io/lib/build-your-own), version 0.7.1 of its cases.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["bucket_ranges", "choose_variation", "equal_weights"]

Range = tuple[float, float]


def equal_weights(count: int) -> list[float]:
    """`count` equal weights; none for less than one."""
    return [1 / count] * max(count, 0) if count else []


def bucket_ranges(count: int, coverage: float = 1.0, weights: Sequence[float] | None = None) -> list[Range]:
    """One [start, end) in [0, 1] a variation, each covered in its first part.

    coverage: cut to [0, 1]. weights: fractions; taken as equal when there are not `count` of them, or when their sum
    is not within 0.01 of 1. Sums are those of doubles, one by one, as they decide which side a bucket falls.
    """
    coverage = min(max(coverage, 0.0), 1.0)
    if weights is None or len(weights) != count or not 0.99 <= sum(weights) <= 1.01:
        weights = equal_weights(count)
    ranges, cumulated = [], 0.0
    for weight in weights:
        ranges.append((cumulated, cumulated + coverage * weight))
        cumulated += weight
    return ranges


def choose_variation(bucket: float, ranges: Sequence[Range]) -> int:
    """Index of the first range that holds `bucket`, -1 when none does."""
    return next((index for index, (start, end) in enumerate(ranges) if start <= bucket < end), -1)
