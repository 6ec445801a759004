"""Topic `rankings` of the service: what a request knew, what it showed, and how likely that was. Library: asyncio.

The probability that an item was shown needs to know what the other variants would have shown: they are asked in the
same batch as the variant that answers, by the features of the same moment. So a recorded ranking of an experiment with
`rankings: true` costs one prediction by each of its models.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence

from router.courier import Courier
from router.rankers import top_k
from router.routing import Routed
from router.scoring import Job, Scored, Scoring
from router.spool import Record
from sluice.adapters.kafka import missing_topics
from sluice.domain.allocation import parse_allocation_key
from sluice.domain.api import RankedItem as Answered
from sluice.domain.events import encode
from sluice.domain.experiment import Experiment
from sluice.domain.rankings import RankedItem, SlateRanked, pack_features, records, segments_of, shown_probability
from sluice.features import VERSION
from sluice.names import RANKINGS
from sluice.settings import Settings

__all__ = ["RankingLog"]

log = logging.getLogger(__name__)


class RankingLog:
    """Asks the variants of an experiment and writes what came of it, without waiting for the broker."""

    def __init__(self, settings: Settings, scoring: Scoring, courier: Courier) -> None:
        """Raises TransportError when the broker is away."""
        self._scoring, self._courier = scoring, courier
        self._there = RANKINGS not in missing_topics(settings)
        if not self._there:
            # Sent all the same, they would pass for a broker that is away.
            log.warning("there is no topic %s: rankings are not logged; `sluice infra topics` creates it", RANKINGS)

    async def score(self, experiment: Experiment, routed: Routed | None, job: Job) -> dict[str, Scored]:
        """Variant → its scores: of the job's variant, and of every other one that the record needs."""
        shares, models = _shares(routed, job.variant), list(experiment.models)
        asked = [name for name, share in shares.items() if share and experiment.rankers[name] != "random"]
        names = list(dict.fromkeys([job.variant, *asked, *models[:1]]))
        jobs = [job if name == job.variant else job._replace(variant=name, shown=False) for name in names]
        return dict(zip(names, await asyncio.gather(*map(self._scoring.score, jobs)), strict=True))

    def write(
        self, experiment: Experiment, routed: Routed | None, job: Job, scored: Mapping[str, Scored],
        items: Sequence[Answered],
    ) -> None:  # fmt: skip
        """items: what was answered, best first. Nothing is written where no model could be asked."""
        own = scored[job.variant]
        knew = own.knew or next((one.knew for one in scored.values() if one.knew is not None), None)
        if knew is None or not self._there or self._courier.spooling:  # the disk is for what must not be lost
            return
        chance = {name for name, ranker in experiment.rankers.items() if ranker == "random"}
        tops = {name: {job.items[at] for at in top_k(one.scores, len(items))} for name, one in scored.items()}
        shares, by_chance = _shares(routed, job.variant), len(items) / len(job.items)
        place = {item: at for at, item in enumerate(job.items)}
        ranked = SlateRanked(
            experiment=job.experiment, variant=job.variant, model=own.knew.model if own.knew else "",
            model_version=own.version if own.knew else "", features_version=VERSION, columns=knew.columns,
            user_id=job.user_id, slate_id=job.slate_id, at_ms=job.at_ms, random=job.variant in chance,
            segments=() if routed is None else segments_of(routed.segments),
            items=tuple(
                [
                    RankedItem(
                        item_id=item.item_id, impression_id=item.impression_id,
                        score=item.score if own.knew else None,
                        shown=shown_probability(item.item_id, shares, tops, chance, by_chance),
                        features=pack_features(knew.features[place[item.item_id]]),
                    )
                    for item in items
                ]
            ),
        )  # fmt: skip
        self._courier.post([Record(RANKINGS, job.user_id, encode(record)) for record in records(ranked)])


def _shares(routed: Routed | None, variant: str) -> dict[str, int]:
    """The vector that the unit was drawn from. Outside the experiment its variant is shown for certain."""
    if routed is None or routed.assignment is None:
        return {variant: 100}
    return parse_allocation_key(routed.assignment.allocation)
