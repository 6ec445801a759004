"""What every variant would show on every slate: the replay's source of truth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from producers.slates import Slate, Slates
from router import Context, Ranker, top_k

__all__ = ["CANDIDATE", "LIKED_MILLI", "Candidates", "Floats", "Known", "RankedSlates", "Scorer", "Shown"]

Floats = NDArray[np.float64]

LIKED_MILLI = 4000
"""A rating from here on is a click, unless the replay is told otherwise."""


CANDIDATE = "@candidate"
"""Stands for the version of a release among the variants; no variant has such a name"""


class Shown(NamedTuple):
    """One item that a variant shows. `place` is its index in the slate, the same for every variant."""

    place: int
    item_id: str
    rating_milli: int


class Known(NamedTuple):
    """What was known of the items of a slate when it was ranked, in their order."""

    features: NDArray[np.float32]
    """(n, f) in the order of the model's columns"""
    columns: str
    """Digest of the names of the columns"""
    scores: Sequence[float] | None = None
    """By the variant's model; None: a rule ranked"""
    model: str = ""
    version: str = ""


class Candidates(Protocol):
    """Slates in event-time order and, for each, what every variant shows. The port of all sources of a replay."""

    name: str
    ratings: int
    dropped: int
    at_ms: NDArray[np.int64]
    """(s,) request time of every slate, ascending"""

    @property
    def fingerprint(self) -> str:
        """Changes with anything that changes a slate or its outcomes."""

    def block(self, start: int, stop: int) -> Sequence[Slate]:
        """Slates start … stop − 1."""

    def shown(self, slates: Sequence[Slate]) -> list[Mapping[str, Sequence[Shown]]]:
        """For each slate: variant → its top k, best first.

        Slates must be asked for in order, from call to call as well; some may be left out.
        """

    def known(self, slate: Slate, variant: str) -> Known | None:
        """Of a slate of the last call of `shown`, what the model of `variant` knew, or the first model for a rule.

        None where there are no models.
        """


class Scorer(Protocol):
    """The models among the variants: they score whole blocks of slates."""

    variants: Sequence[str]

    def scores(self, first: int, last: int) -> Mapping[str, Floats]:
        """Variant → scores of all items of the slates first … last, slate by slate."""

    def known(self, variant: str, number: int) -> Known:
        """Of slate `number`, by the versions that `scores` used last; for a rule, by the first model."""

    def release(self, uri: str | None) -> None:
        """Score this version too, as `CANDIDATE`, from the next block on; None: no more. Raises SluiceError."""

    def took_us(self, variant: str) -> int:
        """Microseconds that the latest block took a slate, by the model of `variant`."""


class RankedSlates:
    """Slates of a ratings log, ranked point-in-time: nothing that ended at or after a request is known to it."""

    def __init__(
        self,
        slates: Slates,
        rankers: Mapping[str, Ranker],
        *,
        k: int,
        liked_milli: int = LIKED_MILLI,
        models: Scorer | None = None,
    ) -> None:
        """`rankers`: variant → its own rule, fresh. `models` score the other variants."""
        self.name = slates.log.name
        self.ratings = len(slates.log)
        self.dropped = slates.dropped
        self.at_ms = slates.at_ms
        self._slates = slates
        self._rankers = dict(rankers)
        self._models = models
        self._k = k
        self._liked_milli = liked_milli
        self._by_end = np.argsort(slates.end_ms, kind="stable")
        self._end_ms = slates.end_ms[self._by_end]
        self._observed = 0

    @property
    def models(self) -> Scorer | None:
        return self._models

    @property
    def fingerprint(self) -> str:
        names = [*self._rankers, *(self._models.variants if self._models else ())]
        return f"{self._slates.log.fingerprint}:{len(self._slates)}:{self._k}:{','.join(names)}"

    def block(self, start: int, stop: int) -> Sequence[Slate]:
        """Slates start … stop − 1."""
        return self._slates.block(start, stop)

    def shown(self, slates: Sequence[Slate]) -> list[Mapping[str, Sequence[Shown]]]:
        """For each slate: variant → its top k, best first, from what had ended before the slate was requested."""
        if not slates:
            return []
        first, offsets = slates[0].number, self._slates.offsets
        scored = self._models.scores(first, slates[-1].number) if self._models else {}
        answers: list[Mapping[str, Sequence[Shown]]] = []
        for slate in slates:
            answer = {name: self._best(slate, scores) for name, scores in self._ranked(slate)}
            low, high = (offsets[slate.number : slate.number + 2] - offsets[first]).tolist()
            answer |= {name: self._best(slate, scores[low:high].tolist()) for name, scores in scored.items()}
            answers.append(answer)
        return answers

    def known(self, slate: Slate, variant: str) -> Known | None:
        """Of a slate of the last call of `shown`: what the model of `variant`, or the first one, knew."""
        return self._models.known(variant, slate.number) if self._models else None

    def _ranked(self, slate: Slate) -> Iterator[tuple[str, Sequence[float]]]:
        """(variant, scores) of every rule."""
        self._observe_until(slate.at_ms)
        context = Context(slate.slate_id, slate.at_ms)
        for variant, ranker in self._rankers.items():
            yield variant, ranker.rank(slate.user_id, slate.items, context)

    def _best(self, slate: Slate, scores: Sequence[float]) -> list[Shown]:
        return [Shown(i, slate.items[i], slate.ratings_milli[i]) for i in top_k(scores, self._k)]

    def _observe_until(self, at_ms: int) -> None:
        """Tell the rankers every outcome of the slates that ended before `at_ms`, in order of their end."""
        stop = int(np.searchsorted(self._end_ms, at_ms, side="left"))
        while self._observed < stop:
            upto = min(stop, self._observed + 1024)
            ended = self._by_end[self._observed : upto]
            for slate, end_ms in zip(
                self._slates.take(ended), self._end_ms[self._observed : upto].tolist(), strict=True
            ):
                for item, rating in zip(slate.items, slate.ratings_milli, strict=True):
                    liked = rating >= self._liked_milli
                    for ranker in self._rankers.values():
                        ranker.observe(slate.user_id, item, liked, end_ms)
            self._observed = upto
