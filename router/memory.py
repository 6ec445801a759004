"""Sticky assignments in memory: for simulations and tests of one process."""

from __future__ import annotations

from collections.abc import Sequence

from sluice.domain.assignment import Claim, StoredAssignment

__all__ = ["MemoryAssignments"]


class MemoryAssignments:
    """First writer wins, for as long as the object lives: a simulation has no clock, so nothing expires."""

    def __init__(self) -> None:
        self._stored: dict[tuple[str, str], StoredAssignment] = {}

    def claim(self, claims: Sequence[Claim]) -> list[tuple[StoredAssignment, bool]]:
        """(assignment in force, made by this call) of every claim, in order."""
        answers = []
        for claim in claims:
            key = (claim.experiment, claim.unit)
            made = key not in self._stored
            answers.append((self._stored.setdefault(key, claim.wanted), made))
        return answers

    def replace(self, claims: Sequence[tuple[Claim, StoredAssignment]]) -> list[tuple[StoredAssignment, bool]]:
        """As `claim`, but each also overwrites the assignment it is paired with, if that still stands."""
        answers = []
        for claim, old in claims:
            key = (claim.experiment, claim.unit)
            made = self._stored.get(key, old) == old
            if made:
                self._stored[key] = claim.wanted
            answers.append((self._stored[key], made))
        return answers
