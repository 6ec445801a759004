"""From the delay cohorts of all partitions to what the open windows are worth: the evidence of a decision. Pure.

Library: numpy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from analyzer.engine.delay import delay_aware
from sluice.domain.definitions import DELAY_BINS
from sluice.domain.events import DelayEvidence, StatsPublished, VariantDelays
from sluice.domain.experiment import Experiment

__all__ = ["delay_evidence"]


def delay_evidence(
    experiment: Experiment, totals: Mapping[str, tuple[int, int]], partitions: Iterable[StatsPublished]
) -> DelayEvidence | None:
    """What the impressions of every variant weigh, those whose window is open by the chance that their click is there.

    totals: variant → (impressions, outcomes) of everything counted. None where nothing can be said: values instead of
    rates, a partition that tells no cohorts, or none of a variant (it had no room) or of the outcome.
    """
    if experiment.measure != "rate":
        return None
    names = [variant.name for variant in experiment.variants]
    shown: list[list[int]] = [[] for _ in names]
    clicked: list[list[tuple[int, ...]]] = [[] for _ in names]
    ages: list[tuple[int, int]] = []
    window = 0
    for held in partitions:
        delays = held.delays
        if delays is None:
            return None
        found = {one.variant: one for one in delays.variants if one.experiment == experiment.name}
        if delays.left_out and found.keys() != set(names):
            return None
        if not found:
            continue
        width = delays.cohort_ms
        window = DELAY_BINS * width
        count = max(len(one.impressions) for one in found.values())
        starts = [delays.start_ms + place * width for place in range(count)]
        # Impressions after the watermark's cohort are one more cohort, younger than nothing.
        ages += [(max(held.watermark_ms - start - width, 0), max(held.watermark_ms - start, 1)) for start in starts]
        ages.append((-2 * width, -width))
        for place, name in enumerate(names):
            rows = _rows(found.get(name), experiment.primary, count)
            if rows is None:
                return None
            shown[place] += rows[0]
            clicked[place] += rows[1]
    if not ages:
        return None
    n, c = zip(*(totals[name] for name in names), strict=True)
    young, old = np.array(ages, dtype=np.float64).T
    known = delay_aware(n, c, shown, clicked, young, old, float(window))
    return DelayEvidence(
        immature=bool(known.immature),
        impressions={name: _significant(value) for name, value in zip(names, known.impressions, strict=True)},
        inflation={name: _significant(value) for name, value in zip(names, known.inflation, strict=True)},
    )


def _rows(one: VariantDelays | None, outcome: str, count: int) -> tuple[list[int], list[tuple[int, ...]]] | None:
    """Impressions and outcomes by delay of `count` cohorts and of those ahead; None where the outcome had no room."""
    nothing = (0,) * DELAY_BINS
    if one is None:
        return [0] * (count + 1), [nothing] * (count + 1)
    if outcome not in one.outcomes and len(one.outcomes) >= 4:
        return None
    impressions = [*one.impressions, *[0] * (count - len(one.impressions)), one.ahead]
    bins: Sequence[tuple[int, ...]] = one.outcomes.get(outcome, ())
    delays = [(*row, *nothing[len(row) :]) for row in bins]
    return impressions, [*delays, *[nothing] * (count + 1 - len(delays))]


def _significant(value: float) -> float:
    return float(f"{value:.12g}")
