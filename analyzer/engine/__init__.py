"""Statistics of streaming experiments, pure: no I/O, no clock, no randomness. Everything from sums that add.

Formulas, sources and error bounds: docs/statistics.md.
"""

from __future__ import annotations

from analyzer.engine.bandit import thompson_shares
from analyzer.engine.bayes import Comparison, compare, credible_intervals
from analyzer.engine.decide import Previous, Snapshot, decide, recompute
from analyzer.engine.evidence import ClusteredRate, clustered_rate, merge_cells
from analyzer.engine.sample_ratio import sample_ratio

__all__ = [
    "ClusteredRate",
    "Comparison",
    "Previous",
    "Snapshot",
    "clustered_rate",
    "compare",
    "credible_intervals",
    "decide",
    "merge_cells",
    "recompute",
    "sample_ratio",
    "thompson_shares",
]
