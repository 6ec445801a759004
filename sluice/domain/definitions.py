"""What a count means: the numbers that, with the log, determine every counter. Library: msgspec."""

from __future__ import annotations

from msgspec import Struct

__all__ = ["MAX_CELLS", "MAX_OUTCOMES", "MAX_PAIRS", "OTHER", "RULES", "Definitions"]
__all__ += ["DELAY_BINS", "MAX_COHORTS"]

RULES = 2
"""Version of docs/counting.md and of what the store holds: 2 keeps units that moved in one arm; 1 wrote no version."""

# Names come from the log, and a log may hold anything: past these limits a partition counts under `other`.
MAX_PAIRS = 10_000
"""(experiment, variant) pairs of a partition that are counted by name, in order of first counted impression."""
MAX_CELLS = 20_000
"""(experiment, variant, allocation) cells by name; a named pair's later allocations are counted as `other`."""
MAX_OUTCOMES = 60
"""Outcome names of a partition, in order of first appearance in its clicks."""
OTHER = "other"
DELAY_BINS = 16
"""The window in parts: widths of cohorts of impressions, and of the delays of outcomes"""
MAX_COHORTS = 64
"""Cohorts that begin before the watermark's and are told of, at most: four windows"""


class Definitions(Struct, frozen=True):
    """Milliseconds, and the version of the rules.

    Stored beside the counts: a worker that is started with others counts again from the log.
    """

    window_ms: int
    """A click belongs to an impression when 0 ≤ click − impression ≤ window (both ends included)."""
    lateness_ms: int
    """A record is late when its time < its topic's watermark − lateness (strict)."""
    skew_ms: int
    """A record is malformed when its time > the broker's timestamp + skew (strict)."""
    bucket_ms: int
    """Width of the time-bucketed counters, by event time of the impression."""
    rules: int = RULES

    @property
    def cohort_ms(self) -> int:
        """Width of the cohorts and of the delay bins: a 16th of the window, rounded up."""
        return max(1, -(-self.window_ms // DELAY_BINS))

    def cohorts_at(self, watermark_ms: int) -> tuple[int, int]:
        """Starts of the first and the last cohort that are told of: back to watermark − (lateness + 2·window)."""
        width = self.cohort_ms
        last = watermark_ms // width * width
        oldest = max(0, watermark_ms - self.lateness_ms - 2 * self.window_ms, last - MAX_COHORTS * width)
        return -(-oldest // width) * width, last

    @property
    def reach_back_ms(self) -> int:
        """A rebuild that begins at a watermark this far behind the smaller one gives every state again."""
        return 2 * (self.lateness_ms + self.window_ms) + self.window_ms

    def encode(self) -> str:
        """The text that the store compares: `decode(text).encode() == text`."""
        rules = f",{self.rules}" if self.rules > 1 else ""
        return f"{self.window_ms},{self.lateness_ms},{self.skew_ms},{self.bucket_ms}{rules}"

    @classmethod
    def decode(cls, text: str) -> Definitions:
        window, lateness, skew, bucket, *rules = map(int, text.split(","))
        return cls(window, lateness, skew, bucket, *rules or [1])
