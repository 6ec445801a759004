"""How values look in a report: the same everywhere. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple

from sluice.domain.events import Interval

__all__ = ["Metric", "count", "duration", "lift", "lifts", "minus", "moment", "p_value", "probability", "shares"]

_UNITS = ((86_400_000, "days"), (3_600_000, "hours"), (60_000, "minutes"), (1000, "seconds"))


class Metric(NamedTuple):
    """The primary metric, as numbers of it are written: rates in percent, their differences in points."""

    outcome: str
    is_rate: bool

    @property
    def name(self) -> str:
        return f"{self.outcome} rate" if self.is_rate else f"{self.outcome} per impression"

    @property
    def unit(self) -> str:
        """Of differences"""
        return "points" if self.is_rate else f"of {self.outcome}"

    def value(self, number: float | None) -> str:
        if number is None:
            return "–"
        return minus(f"{100 * number:.2f} %" if self.is_rate else f"{number:.4g}")

    def difference(self, number: float | None) -> str:
        """With its sign, without its unit."""
        if number is None:
            return "–"
        return minus(f"{100 * number:+.2f}" if self.is_rate else f"{number:+.3g}")

    def size(self, number: float) -> str:
        """An amount that has no sign, with its unit."""
        shown = f"{100 * number:.2g}" if self.is_rate else f"{number:.3g}"
        return f"{shown} {self.unit}"

    def values(self, ends: Interval | None) -> str:
        if ends is None:
            return ""
        return f"{self.value(ends[0]).removesuffix(' %')} to {self.value(ends[1])}"

    def differences(self, ends: Interval | None) -> str:
        return "" if ends is None else f"{self.difference(ends[0])} to {self.difference(ends[1])}"


def minus(text: str) -> str:
    """With the typographic sign."""
    return text.replace("-", "−")


def count(number: float) -> str:
    return minus(f"{number:,.0f}")


def probability(number: float | None) -> str:
    """Never 0 or 1: a posterior is no proof."""
    if number is None:
        return "–"
    if number >= 0.9999:
        return "> 99.99 %"
    if number < 0.0001:
        return "< 0.01 %"
    return f"{100 * number:.2f} %"


def p_value(number: float | None) -> str:
    if number is None:
        return "–"
    if number < 0.0001:
        return "< 0.0001"
    return f"{number:.4f}" if number < 0.01 else f"{number:.3f}"


def lift(number: float | None) -> str:
    return "–" if number is None or not math.isfinite(number) else minus(f"{100 * number:+.1f} %")


def lifts(ends: Interval | None) -> str:
    return "" if ends is None else f"{lift(ends[0]).removesuffix(' %')} to {lift(ends[1])}"


def moment(at_ms: int) -> str:
    """UTC; `–` before the first event, and for what is no time."""
    try:
        return "–" if at_ms < 0 else f"{datetime.fromtimestamp(at_ms / 1000, UTC):%Y-%m-%d %H:%M} UTC"
    except (ValueError, OverflowError, OSError):
        return "–"


def duration(milliseconds: int) -> str:
    for size, name in _UNITS:
        if milliseconds >= 2 * size:
            return f"{milliseconds / size:,.0f} {name}"
    return f"{milliseconds:,} ms"


def shares(allocation: Mapping[str, int]) -> str:
    """`PolicyB 70 % · random 30 %`, largest first."""
    ordered = sorted(allocation.items(), key=lambda item: (-item[1], item[0]))
    # A share stays with its name at the end of a line.
    return " · ".join(f"{name}\u00a0{share}\u00a0%" for name, share in ordered)
