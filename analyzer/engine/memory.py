"""What moves the traffic where that is not simply everything counted: rates that drift, clicks still to come. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from analyzer.engine.drift import Span, advance, discounted, windowed
from analyzer.engine.evaluate import Learned
from sluice.domain.epochs import Epoch
from sluice.domain.events import DelayEvidence, StatsCell
from sluice.domain.experiment import Experiment

__all__ = ["Memory", "remember"]

WORTH_SAYING = 0.01
"""Share of impressions with an open window from which the reasons name it"""


class Memory(NamedTuple):
    history: tuple[Epoch, ...]
    """For the record; empty where nothing is forgotten"""
    learned: Learned | None
    notes: tuple[str, ...]


def remember(
    experiment: Experiment,
    cells: Sequence[StatsCell],
    at_ms: int,
    delay: DelayEvidence | None,
    before: tuple[Epoch, ...],
) -> Memory:
    """The history with this evidence, and the counts as the bandit weighs them."""
    rule = experiment.bandit
    forgets = rule.half_life_s is not None or rule.window_s is not None
    if not forgets and delay is None:
        return Memory((), None, ())
    shown = dict.fromkeys((variant.name for variant in experiment.variants), 0)
    counted = dict.fromkeys(shown, 0)
    for cell in cells:
        if cell.variant in shown:
            shown[cell.variant] += cell.statistics.impressions
            counted[cell.variant] += cell.statistics.outcome(experiment.primary).count
    total = max(sum(shown.values()), 1)
    n, c, notes = [float(count) for count in shown.values()], [float(count) for count in counted.values()], []
    history: tuple[Epoch, ...] = ()
    if forgets:
        history, n, c = _recent(experiment, max(at_ms, 0), list(shown.values()), c, before)
        notes.append(f"Traffic follows recent evidence: {100 * sum(n) / total:.3g} % of all impressions.")
    inflation = [1.0] * len(n)
    if delay is not None:
        # What is open is recent, so it is missing in full from the recent evidence, too.
        missing = [shown[name] - delay.impressions[name] for name in shown]
        n = [max(have - less, 0.0) for have, less in zip(n, missing, strict=True)]
        inflation = [delay.inflation[name] for name in shown]
        if sum(missing) >= WORTH_SAYING * total:
            notes.append(
                f"Clicks are still to come: in what moves the traffic, the impressions so far count for "
                f"{100 * (1 - sum(missing) / total):.3g} %."
            )
    return Memory(history, Learned(tuple(n), tuple(c), tuple(inflation)), tuple(notes))


def _recent(
    experiment: Experiment, at_ms: int, n: list[int], c: list[float], before: tuple[Epoch, ...]
) -> tuple[tuple[Epoch, ...], list[float], list[float]]:
    """The history at `at_ms`, and impressions and outcomes as they weigh."""
    rule = experiment.bandit
    if rule.half_life_s is not None:
        length_ms = 1000 * rule.half_life_s
        history = advance(before, at_ms, n, c, Span.of_half_life(length_ms))
        weighed = discounted(history, at_ms, length_ms)
    else:
        length_ms = 1000 * (rule.window_s or 1)
        history = advance(before, at_ms, n, c, Span.of_window(length_ms))
        weighed = windowed(history, at_ms, length_ms)
    return history, weighed[0].tolist(), weighed[1].tolist()
