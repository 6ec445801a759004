"""What moves the traffic where that is not simply everything counted: rates that drift. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from analyzer.engine.drift import Span, advance, discounted, windowed
from analyzer.engine.evaluate import Learned
from sluice.domain.epochs import Epoch
from sluice.domain.events import StatsCell
from sluice.domain.experiment import Experiment

__all__ = ["Memory", "remember"]


class Memory(NamedTuple):
    history: tuple[Epoch, ...]
    """For the record; empty where nothing is forgotten"""
    learned: Learned | None
    notes: tuple[str, ...]


def remember(experiment: Experiment, cells: Sequence[StatsCell], at_ms: int, before: tuple[Epoch, ...]) -> Memory:
    """The history with this evidence, and the counts as the bandit weighs them."""
    rule = experiment.bandit
    if rule.half_life_s is None and rule.window_s is None:
        return Memory((), None, ())
    shown = dict.fromkeys((variant.name for variant in experiment.variants), 0)
    counted = dict.fromkeys(shown, 0)
    for cell in cells:
        if cell.variant in shown:
            shown[cell.variant] += cell.statistics.impressions
            counted[cell.variant] += cell.statistics.outcome(experiment.primary).count
    n, c = list(shown.values()), [float(count) for count in counted.values()]
    at_ms = max(at_ms, 0)
    if rule.half_life_s is not None:
        length_ms, kind, span = 1000 * rule.half_life_s, "half-life", Span.of_half_life(1000 * rule.half_life_s)
    else:
        length_ms = 1000 * (rule.window_s or 1)
        kind, span = "window", Span.of_window(length_ms)
    history = advance(before, at_ms, n, c, span)
    weighed = (discounted if kind == "half-life" else windowed)(history, at_ms, length_ms)
    learned = Learned(tuple(weighed[0].tolist()), tuple(weighed[1].tolist()), (1.0,) * len(n))
    kept = float(weighed[0].sum()) / max(sum(n), 1)
    length = f"a {kind} of {length_ms // 1000:,} s"
    note = f"Traffic follows recent evidence, with {length}: it holds {100 * kept:.3g} % of all impressions."
    return Memory(history, learned, (note,))
