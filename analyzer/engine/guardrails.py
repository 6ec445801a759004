"""Guardrails: outcomes that must not get worse than the control's by more than a margin (non-inferiority). Pure.

Each is judged by its own confidence sequence, α shared over the variants and not over the guardrails: a veto should
come rather too early than too late.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from analyzer.engine.evaluate import table
from analyzer.engine.moments import Moments, effective_units, inverse_propensity
from analyzer.engine.sequential import Contrasts, contrasts
from sluice.domain.events import GuardrailResult, StatsCell
from sluice.domain.experiment import Experiment

__all__ = ["breached", "check_guardrails", "one_disagrees"]


def check_guardrails(experiment: Experiment, cells: Iterable[StatsCell], digits: int) -> tuple[GuardrailResult, ...]:
    """One result for every guardrail and variant but the control.

    `passed`: the confidence sequence lies above −margin; `breached`: it lies below; `open`: neither, or too few units.
    """
    names = [experiment.control_name]
    names += [variant.name for variant in experiment.variants if variant.name not in names]
    cells = tuple(cells)
    found = []
    for guardrail in experiment.guardrails:
        counted = table([(cells, names)], guardrail.outcome, "rate")
        weighted = inverse_propensity(*counted.usable())
        # The effect to plan for is the margin: that of the primary metric may have another unit.
        against, drawn = (
            contrasts(arms, 0, alpha=experiment.stopping.alpha, tau=guardrail.margin)
            for arms in (weighted, one_disagrees(weighted))
        )
        enough = bool((effective_units(weighted) >= experiment.stopping.least_units).all())
        sign = 1.0 if guardrail.better == "higher" else -1.0
        for place, name in enumerate(names[1:], start=1):
            low, high = _ends(against, place, sign)
            status = "passed" if low > -guardrail.margin else "breached" if high < -guardrail.margin else "open"
            if not math.isfinite(high - low):
                low, high = _ends(drawn, place, sign)
                # It draws the control as well: good enough for a veto, not for leave.
                status = "breached" if high < -guardrail.margin else "open"
            known = enough and math.isfinite(high - low)
            found.append(
                GuardrailResult(
                    outcome=guardrail.outcome,
                    variant=name,
                    margin=guardrail.margin,
                    difference=round(sign * float(against.difference[0, place]), digits) + 0.0 if known else None,
                    interval=(round(low, digits), round(high, digits)) if known else None,
                    status=status if known else "open",  # type: ignore[arg-type]
                )
            )
    return tuple(found)


def _ends(against: Contrasts, place: int, sign: float) -> tuple[float, float]:
    low, high = sorted(sign * float(end[0, place]) for end in (against.low, against.high))
    return low, high


def one_disagrees(arms: Moments) -> Moments:
    """Where all units agree (no error, or nothing but errors), one more average unit that does not.

    Units that all agree do not show how units differ, so nothing could be said of the variants that are broken most.
    With the unit the rate is drawn towards the other end, and has a variance: a breach comes later, not sooner.
    """
    none, all_ = arms.c == 0, arms.c == arms.n
    alone = (arms.units > 0) & (none | all_)
    g = np.where(alone, arms.units, 1.0)
    n, nn = np.where(alone, arms.n / g, 0.0), np.where(alone, arms.nn / g, 0.0)
    return arms + Moments(alone * 1.0, n, np.where(none, n, 0.0), nn, np.where(none, nn, 0.0), np.where(none, nn, 0.0))


def breached(found: Iterable[GuardrailResult]) -> frozenset[str]:
    """The variants that some guardrail has put out: they get no traffic and cannot be chosen."""
    return frozenset(one.variant for one in found if one.status == "breached")
