"""Releases of a model that is replayed: who of its slates is shown the candidate, and what a shadow would have shown.

`sluice lifecycle` releases a version by an experiment of its own, between the alias (its control) and the version.
Slates that the experiment of the replay gives to a variant with that alias are drawn once more by the release; both
stand on their impressions. While a release has a shadow, the candidate scores the same slates and nobody is shown them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from producers.candidates import CANDIDATE, Scorer
from producers.slates import Slate
from router import AssignmentRequest, Routed, Router
from sluice.domain.allocation import parse_allocation_key
from sluice.domain.experiment import Experiment
from sluice.domain.shadow import ShadowCompared, compare
from sluice.errors import SluiceError

__all__ = ["Candidate", "Releases", "Turn"]

log = logging.getLogger(__name__)


class Candidate(NamedTuple):
    """The version of a release."""

    release: str
    name: str
    """Of its variant, or of the shadow"""
    uri: str
    shadow: bool


class Turn(NamedTuple):
    """What a release did with a slate."""

    variant: str
    """The one that is released"""
    share: float
    """Of its slates, 0 to 1, that are shown the candidate"""
    routed: Routed | None = None
    """None: another variant ranks the slate"""
    shown: bool = False
    """Whether the candidate is"""


class Releases:
    """Of the experiment that ranks."""

    def __init__(self, ranking: Experiment, router: Router, scores: Scorer, *, top_k: int) -> None:
        """router: follows the catalogue."""
        self._ranking, self._router, self._scores, self._top_k = ranking, router, scores, top_k
        self.candidate: Candidate | None = None
        self._refused: Candidate | None = None
        self.variant = ""
        """The variant of the ranking experiment that is released"""

    def follow(self) -> None:
        """See what is released now. Between two blocks."""
        found = self._found()
        if found is None or found[1] == self._refused:
            wanted = None
        else:
            self.variant, wanted = found
        if wanted == self.candidate:
            return
        try:
            if wanted is None or self.candidate is None or wanted.uri != self.candidate.uri:
                self._scores.release(wanted.uri if wanted is not None else None)
            self.candidate = wanted
        except SluiceError as error:
            log.warning("%s: its candidate is not shown: %s", wanted.release if wanted else "release", error)
            self.candidate, self._refused = None, wanted

    def turns(self, requests: Sequence[AssignmentRequest], routed: Sequence[Sequence[Routed]]) -> list[Turn | None]:
        """What the release did with each slate of a batch; None while there is none."""
        candidate = self.candidate
        if candidate is None:
            return [None] * len(requests)
        now = self._share(self._router.allocation(candidate.release)[1])
        turns: list[Turn | None] = [Turn(self.variant, now)] * len(requests)
        places = [place for place, answer in enumerate(routed) if answer[0].variant == self.variant]
        answers = self._router.assign([requests[place] for place in places], only={candidate.release})
        for place, answer in zip(places, answers, strict=True):
            if answer and (made := answer[0].assignment) is not None:
                shown = not candidate.shadow and answer[0].variant == candidate.name
                turns[place] = Turn(self.variant, self._share(parse_allocation_key(made.allocation)), answer[0], shown)
        return turns

    def compared(self, slate: Slate, slate_id: str, turn: Turn) -> ShadowCompared | None:
        """What a shadow would have shown of a slate of the latest block; None when there is none."""
        candidate, scores = self.candidate, self._scores
        if candidate is None or not candidate.shadow or turn.routed is None:
            return None
        served, shadow = (scores.known(name, slate.number) for name in (self.variant, CANDIDATE))
        assert served.scores is not None and shadow.scores is not None
        return ShadowCompared(
            experiment=candidate.release, variant=turn.routed.variant, version=served.version, shadow=candidate.name,
            shadow_version=shadow.version, user_id=slate.user_id, slate_id=slate_id, at_ms=slate.at_ms,
            served_us=scores.took_us(self.variant), shadow_us=scores.took_us(CANDIDATE),
            agreement=compare(served.scores, shadow.scores, self._top_k),
        )  # fmt: skip

    def close(self) -> None:
        self._router.close()

    def _share(self, allocation: Mapping[str, int]) -> float:
        candidate = self.candidate
        return 0.0 if candidate is None or candidate.shadow else allocation.get(candidate.name, 0) / 100

    def _found(self) -> tuple[str, Candidate] | None:
        """(released variant, candidate) of the first running experiment that is a release."""
        for experiment in self._router.experiments:
            if experiment.name == self._ranking.name or experiment.state.status != "running":
                continue
            alias = experiment.models.get(experiment.control_name, "")
            variants = [name for name, uri in self._ranking.models.items() if uri == alias]
            if not variants:
                continue
            if experiment.shadow:
                one = experiment.shadow[0]
                return variants[0], Candidate(experiment.name, one.name, one.ranker, True)
            others = [(name, uri) for name, uri in experiment.models.items() if name != experiment.control_name]
            if len(experiment.variants) == 2 and others:
                return variants[0], Candidate(experiment.name, *others[0], False)
        return None
