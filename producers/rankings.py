"""Topic `rankings` of a replay: what was known of the items that were shown, and how likely each was to be shown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

from producers.candidates import CANDIDATE, Candidates, Shown
from producers.releases import Turn
from producers.slates import Slate, base36
from router import Routed
from sluice.domain.allocation import parse_allocation_key
from sluice.domain.events import encode
from sluice.domain.experiment import Experiment
from sluice.domain.rankings import RankedItem, SlateRanked, pack_features, records, segments_of, shown_probability
from sluice.features import VERSION

__all__ = ["RankingLog"]

_allocation = lru_cache(64)(parse_allocation_key)


class RankingLog:
    """Makes the records of one experiment, the one whose variants rank."""

    def __init__(self, experiment: Experiment, candidates: Candidates) -> None:
        self._experiment, self._candidates = experiment.name, candidates
        self._chance = frozenset(name for name, ranker in experiment.rankers.items() if ranker == "random")

    def records(
        self, slate: Slate, slate_id: str, answer: Routed, everything: Mapping[str, Sequence[Shown]],
        turn: Turn | None = None,
    ) -> Iterator[bytes]:  # fmt: skip
        """Of a slate of the block that was ranked last. everything: variant → what it would have shown.

        turn: what a release did with the slate.
        """
        ranked_by = CANDIDATE if turn is not None and turn.shown else answer.variant
        known = self._candidates.known(slate, ranked_by)
        if known is None:
            return
        shown = everything[ranked_by]
        # The vector that the unit was drawn from. A unit outside the experiment is shown the control for certain.
        made = answer.assignment
        shares: dict[str, float] = dict(_allocation(made.allocation)) if made is not None else {answer.variant: 100}
        if turn is not None and turn.share:
            released = shares.get(turn.variant, 0)
            shares |= {turn.variant: released * (1 - turn.share), CANDIDATE: released * turn.share}
        tops = {name: {item.item_id for item in everything[name]} for name, share in shares.items() if share}
        items = tuple(
            [
                RankedItem(
                    item_id=item.item_id,
                    impression_id=f"{slate_id}.{base36(item.place)}",
                    score=None if known.scores is None else known.scores[item.place],
                    shown=shown_probability(item.item_id, shares, tops, self._chance, len(shown) / len(slate.items)),
                    features=pack_features(known.features[item.place]),
                )
                for item in shown
            ]
        )
        ranked = SlateRanked(
            experiment=self._experiment, variant=answer.variant, model=known.model, model_version=known.version,
            features_version=VERSION, columns=known.columns, user_id=slate.user_id, slate_id=slate_id,
            at_ms=slate.at_ms, random=answer.variant in self._chance, items=items,
            segments=segments_of(answer.segments),
        )  # fmt: skip
        for record in records(ranked):
            yield encode(record)
