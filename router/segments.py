"""Which segments the impressions of a request count in besides their experiments."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from sluice.domain.definitions import OTHER
from sluice.domain.events import MAX_ASSIGNMENTS, Assignment
from sluice.domain.experiment import Experiment
from sluice.domain.segments import segment_name

__all__ = ["MAX_VALUES", "Segmenter"]

log = logging.getLogger(__name__)

MAX_VALUES = 40
"""Values of one attribute that are counted by name: whoever writes attributes must not crowd out other experiments"""


class Segmenter:
    """Which segments there are. It remembers the values it has met: what comes after `MAX_VALUES` is `other`."""

    def __init__(self, experiments: Sequence[Experiment]) -> None:
        self._seen: dict[tuple[str, str], set[str]] = {}
        self._crowded: set[tuple[str, str]] = set()
        self._left_out: list[tuple[str, str]] = []
        self._experiments = 0
        self.follow(experiments)

    def follow(self, experiments: Sequence[Experiment]) -> None:
        """These are the experiments from now on; values that were met are remembered."""
        room = max(0, MAX_ASSIGNMENTS - len(experiments))
        wanted = [(experiment.name, key) for experiment in experiments for key in experiment.segments]
        # For all requests alike, or the segments of an attribute would no longer add up to their experiment.
        counted = wanted[:room]
        for place in counted:
            self._seen.setdefault(place, set())
        self._keys = {e.name: [key for key in e.segments if (e.name, key) in counted] for e in experiments}
        if wanted[room:] and wanted[room:] != self._left_out:
            log.warning(
                "an impression carries at most %d assignments: not counted are the segments %s",
                MAX_ASSIGNMENTS,
                ", ".join(f"{name}@{key}" for name, key in wanted[room:]),
            )
        self._left_out = wanted[room:]
        if len(experiments) > MAX_ASSIGNMENTS > self._experiments:
            log.warning(
                "%d experiments give assignments, and an impression carries at most %d: not counted are those of %s",
                len(experiments), MAX_ASSIGNMENTS, ", ".join(e.name for e in experiments[MAX_ASSIGNMENTS:]),
            )  # fmt: skip
        self._experiments = len(experiments)

    def parts(self, assignment: Assignment, attributes: Mapping[str, str]) -> tuple[Assignment, ...]:
        """`assignment` under the name of each segment that a request with `attributes` belongs to, one a key."""
        name = assignment.experiment
        keys = self._keys.get(name)
        if not keys:
            return ()
        return tuple(
            [replace(assignment, experiment=self._name(name, k, attributes[k])) for k in keys if k in attributes]
        )

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
