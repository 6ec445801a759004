"""Assignments and allocations as metrics: what was drawn, what was to be drawn, and by what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from router.routing import Router
from sluice.adapters.metrics import Metrics, Reading
from sluice.domain.allocation import parse_allocation_key
from sluice.domain.events import AssignmentMade

__all__ = ["allocation_readings", "count_assignments"]


def count_assignments(
    metrics: Metrics, made: Sequence[AssignmentMade], version: Callable[[str, str], str] = lambda *_: ""
) -> None:
    """Count one batch of the exposure log. version: of the model that ranks for (experiment, variant).

    Each draw adds the shares of the allocation it was made with to what was to be drawn: so the two can be compared
    at any time, however the allocation moves.
    """
    # Who was assigned before, or is held out, was not drawn.
    found = Counter([(one.experiment, one.variant, "" if one.sticky else one.allocation) for one in made])
    drawn: Counter[tuple[str, str]] = Counter()
    for (experiment, variant, allocation), number in found.items():
        metrics.count("sluice_assignments_total", experiment, variant, version(experiment, variant), by=number)
        if allocation:
            metrics.count("sluice_assignments_drawn_total", experiment, variant, by=number)
            drawn[experiment, allocation] += number
    for (experiment, allocation), number in drawn.items():
        for variant, percent in parse_allocation_key(allocation).items():
            metrics.count("sluice_assignments_expected_total", experiment, variant, by=number * percent / 100)


def allocation_readings(router: Router) -> Reading:
    """The allocations in use, and for how long."""
    for experiment in router.experiments:
        name = experiment.name
        try:
            version, shares = router.allocation(name)
            age_s = router.allocation_age_s(name)
        except KeyError:
            continue  # deleted this moment
        yield "sluice_allocation_version", (name,), version
        yield "sluice_allocation_age_seconds", (name,), age_s
        for variant, percent in shares.items():
            yield "sluice_allocation_share", (name, variant), percent / 100
