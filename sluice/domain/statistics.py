"""Sufficient statistics that add: the integers from which every estimate is computed.

Library: msgspec.
"""

from __future__ import annotations

from msgspec import Struct

__all__ = ["CellStatistics", "OutcomeStatistics"]


class OutcomeStatistics(Struct, frozen=True):
    """Sums over the units of one cell, for one outcome. c and v are a unit's count and value, n its impressions."""

    count: int = 0
    """Σ c"""
    count_squared: int = 0
    """Σ c²"""
    count_impressions: int = 0
    """Σ n·c"""
    value: int = 0
    """Σ v, in thousandths"""
    value_squared: int = 0
    """Σ v², in millionths"""
    value_impressions: int = 0
    """Σ n·v, in thousandths"""

    def __add__(self, other: OutcomeStatistics) -> OutcomeStatistics:
        return OutcomeStatistics(
            self.count + other.count,
            self.count_squared + other.count_squared,
            self.count_impressions + other.count_impressions,
            self.value + other.value,
            self.value_squared + other.value_squared,
            self.value_impressions + other.value_impressions,
        )


class CellStatistics(Struct, frozen=True):
    """Sums over the units of one (experiment, variant, allocation). `a + b` are the sums over both."""

    units: int = 0
    """Units with at least one impression"""
    impressions: int = 0
    """Σ n"""
    impressions_squared: int = 0
    """Σ n²"""
    outcomes: dict[str, OutcomeStatistics] = {}

    def __add__(self, other: CellStatistics) -> CellStatistics:
        merged = dict(self.outcomes)
        for name, outcome in other.outcomes.items():
            merged[name] = merged[name] + outcome if name in merged else outcome
        return CellStatistics(
            self.units + other.units,
            self.impressions + other.impressions,
            self.impressions_squared + other.impressions_squared,
            merged,
        )

    def outcome(self, name: str) -> OutcomeStatistics:
        """The sums of outcome `name`; zeros when it was never counted."""
        return self.outcomes.get(name, OutcomeStatistics())
