"""Which segments the impressions of a request count in besides their experiments."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from sluice.domain.definitions import OTHER
from sluice.domain.events import MAX_ASSIGNMENTS
from sluice.domain.experiment import Experiment
from sluice.domain.segments import segment_name

__all__ = ["MAX_VALUES", "Segmenter"]

log = logging.getLogger(__name__)

MAX_VALUES = 100
"""Values of one attribute that are counted by name: whoever writes attributes must not crowd out other experiments"""


class Segmenter:
    """Names of segments. Remembers which values it has met: later ones than the first `MAX_VALUES` are `other`."""

    def __init__(self, experiments: Sequence[Experiment]) -> None:
        room = max(0, MAX_ASSIGNMENTS - len(experiments))
        wanted = [(experiment.name, key) for experiment in experiments for key in experiment.segments]
        # For all requests alike, or the segments of an attribute would no longer add up to their experiment.
        self._seen: dict[tuple[str, str], set[str]] = {place: set() for place in wanted[:room]}
        self._crowded: set[tuple[str, str]] = set()
        self._keys = {e.name: [key for key in e.segments if (e.name, key) in self._seen] for e in experiments}
        if wanted[room:]:
            log.warning(
                "an impression carries at most %d assignments: not counted are the segments %s",
                MAX_ASSIGNMENTS,
                ", ".join(f"{name}@{key}" for name, key in wanted[room:]),
            )

    def names(self, experiment: str, attributes: Mapping[str, str]) -> list[str]:
        """Names of the segments of `experiment` that a request with `attributes` belongs to, at most one a key."""
        return [self._name(experiment, key, attributes[key]) for key in self._keys[experiment] if key in attributes]

    def _name(self, experiment: str, key: str, value: str) -> str:
        name, seen = segment_name(experiment, key, value), self._seen[experiment, key]
        if name in seen:
            return name
        if len(seen) < MAX_VALUES:
            seen.add(name)
            return name
        if (experiment, key) not in self._crowded:
            self._crowded.add((experiment, key))
            log.warning(
                "experiment %s: %s has more than %d values: what else comes counts as `%s`",
                experiment, key, MAX_VALUES, OTHER,
            )  # fmt: skip
        return segment_name(experiment, key, OTHER)
