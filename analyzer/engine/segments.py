"""The same comparison within segments of the traffic: exploratory, corrected for looking in many places. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from analyzer.engine.evaluate import table
from analyzer.engine.moments import Moments, effective_units, inverse_propensity
from analyzer.engine.multiplicity import benjamini_hochberg, holm
from analyzer.engine.sequential import contrasts
from sluice.domain.events import SegmentResult, SegmentSums, StatsCell
from sluice.domain.experiment import Experiment

__all__ = ["MOST_SEGMENTS", "compare_segments", "segment_sums"]

MOST_SEGMENTS = 40
"""Segments of one experiment that are looked at: those with the most impressions"""


def segment_sums(
    experiment: Experiment, cells: Mapping[tuple[str, str], Iterable[StatsCell]]
) -> tuple[SegmentSums, ...]:
    """Cells of each segment (key, value) → sums of its variants, weighted; in order of (key, value, variant)."""
    names = [variant.name for variant in experiment.variants]
    found: list[tuple[float, list[SegmentSums]]] = []
    for (key, value), of in cells.items():
        counted = table([(of, names)], experiment.primary, experiment.measure)
        weighted = inverse_propensity(*counted.usable())
        numbers = [part[0].tolist() for part in weighted]
        sums = [
            SegmentSums(
                key=key, value=value, variant=name, units=int(units), impressions=n, outcomes=c,
                impressions_squared=nn, outcomes_squared=cc, impressions_outcomes=nc,
            )
            for name, units, n, c, nn, cc, nc in zip(names, *numbers, strict=True)
        ]  # fmt: skip
        found.append((float(counted.cells.n.sum()), sums))
    found.sort(key=lambda item: (-item[0], item[1][0].key, item[1][0].value))
    kept = [sums for _, of in found[:MOST_SEGMENTS] for sums in of]
    return tuple(sorted(kept, key=lambda one: (one.key, one.value, names.index(one.variant))))


def compare_segments(experiment: Experiment, sums: Iterable[SegmentSums], digits: int) -> tuple[SegmentResult, ...]:
    """Every variant against the control within every segment that has enough effective units in both."""
    segments: dict[tuple[str, str], dict[str, SegmentSums]] = {}
    for one in sums:
        segments.setdefault((one.key, one.value), {})[one.variant] = one
    names = [experiment.control_name]
    names += [variant.name for variant in experiment.variants if variant.name not in names]
    whole = {place: of for place, of in segments.items() if of.keys() >= set(names)}
    if not whole:
        return ()
    numbers = [
        [
            (s.units, s.impressions, s.outcomes, s.impressions_squared, s.outcomes_squared, s.impressions_outcomes)
            for s in (of[name] for name in names)
        ]
        for of in whole.values()
    ]
    arms = Moments(*np.moveaxis(np.array(numbers, dtype=np.float64), -1, 0))
    enough = effective_units(arms) >= experiment.stopping.least_units
    values = experiment.measure == "value"
    # Two arms at a time: the correction for many comparisons comes afterwards, over all of them.
    found = []
    for place, name in enumerate(names[1:], start=1):
        pair = Moments(*(part[:, [0, place]] for part in arms))
        against = contrasts(pair, 0, alpha=experiment.stopping.alpha, tau=experiment.planned_effect, values=values)
        for row, (key, value) in enumerate(whole):
            interval = (float(against.low[row, 1]), float(against.high[row, 1]))
            # Without ends nothing is known yet, and a record could not hold them.
            if enough[row, 0] and enough[row, place] and np.isfinite(interval).all():
                found.append(
                    (
                        key,
                        value,
                        name,
                        int(pair.units[row, 1]),
                        float(against.difference[row, 1]),
                        interval,
                        float(against.p[row, 1]),
                    )
                )
    if not found:
        return ()
    p = np.array([one[-1] for one in found])
    return tuple(
        SegmentResult(
            key=key, value=value, variant=name, units=units, difference=round(difference, digits),
            interval=(round(interval[0], digits), round(interval[1], digits)), p=float(f"{alone:.{digits}g}"),
            p_holm=float(f"{family:.{digits}g}"), p_fdr=float(f"{rate:.{digits}g}"),
        )
        for (key, value, name, units, difference, interval, alone), family, rate in sorted(
            zip(found, holm(p), benjamini_hochberg(p), strict=True), key=lambda item: item[0][:3]
        )
    )  # fmt: skip
