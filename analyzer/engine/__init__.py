"""Statistics of streaming experiments, pure: no I/O, no clock, no randomness. Everything from sums that add.

Formulas, sources and error bounds: docs/statistics.md.
"""

from __future__ import annotations

from analyzer.engine.bandit import thompson_shares
from analyzer.engine.bayes import Comparison, compare, credible_intervals
from analyzer.engine.decide import Case, Previous, Snapshot, decide, decide_many, recompute
from analyzer.engine.evidence import ClusteredRate, clustered_rate, merge_cells
from analyzer.engine.sample_ratio import sample_ratio
from analyzer.engine.segments import segment_sums

__all__ = [
    "Case",
    "ClusteredRate",
    "Comparison",
    "Previous",
    "Snapshot",
    "clustered_rate",
    "compare",
    "credible_intervals",
    "decide",
    "decide_many",
    "merge_cells",
    "recompute",
    "sample_ratio",
    "segment_sums",
    "thompson_shares",
]
