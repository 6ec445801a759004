"""What a count means: the four numbers that, with the log, determine every counter. Library: msgspec."""

from __future__ import annotations

from msgspec import Struct

__all__ = ["MAX_CELLS", "MAX_OUTCOMES", "MAX_PAIRS", "OTHER", "Definitions"]

# Names come from the log, and a log may hold anything: past these limits a partition counts under `other`.
MAX_PAIRS = 10_000
"""(experiment, variant) pairs of a partition that are counted by name, in order of first counted impression."""
MAX_CELLS = 20_000
"""(experiment, variant, allocation) cells by name; a named pair's later allocations are counted as `other`."""
MAX_OUTCOMES = 60
"""Outcome names of a partition, in order of first appearance in its clicks."""
OTHER = "other"


class Definitions(Struct, frozen=True):
    """Milliseconds. Stored beside the counts: a worker that is started with others counts again from the log."""

    window_ms: int
    """A click belongs to an impression when 0 ≤ click − impression ≤ window (both ends included)."""
    lateness_ms: int
    """A record is late when its time < its topic's watermark − lateness (strict)."""
    skew_ms: int
    """A record is malformed when its time > the broker's timestamp + skew (strict)."""
    bucket_ms: int
    """Width of the time-bucketed counters, by event time of the impression."""

    def encode(self) -> str:
        return f"{self.window_ms},{self.lateness_ms},{self.skew_ms},{self.bucket_ms}"

    @classmethod
    def decode(cls, text: str) -> Definitions:
        return cls(*map(int, text.split(",")))
