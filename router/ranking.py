"""Ranking of live requests by trained models: features from Redis, one predict a model. Libraries: numpy, redis-py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from sluice.adapters.features import FeatureStore
from sluice.errors import ModelUnusable
from sluice.features import Catalogue, SlateRequest, feature_table

__all__ = ["LiveRanking", "RankRequest", "Ranked", "Scorer"]

Floats = NDArray[np.float64]


class Scorer(Protocol):
    """What a trained model offers (`sluice.models.TrainedModel`)."""

    @property
    def catalogue(self) -> Catalogue: ...

    def score(self, features: NDArray[np.float32]) -> Floats:
        """(m, f) → (m,)"""


class RankRequest(NamedTuple):
    """Candidates that a model shall score for a user."""

    user_id: str
    items: Sequence[str]
    at_ms: int
    model: Scorer


class Ranked(NamedTuple):
    """What a model said of the k items of a request, and of what."""

    scores: Floats
    """(k,) finite, higher is better"""
    features: NDArray[np.float32]
    """(k, f) as they were served"""


class LiveRanking:
    """Scores with the states as they stand in Redis at the moment of the call. As thread-safe as its store."""

    def __init__(self, store: FeatureStore) -> None:
        self._store = store

    def score(self, requests: Sequence[RankRequest]) -> list[Floats]:
        """The scores of `rank`."""
        return [ranked.scores for ranked in self.rank(requests)]

    def rank(self, requests: Sequence[RankRequest]) -> list[Ranked]:
        """Scores and features of every request's items; requests may go to different models.

        One round trip to Redis for all users and items, one `score` call for each model. A request that two models
        answer is given twice. Unknown users and items are new ones. Raises ValueError when a request has no items,
        TransportError when Redis is away, ModelUnusable when a model answers with something that orders nothing.
        """
        if not requests:
            return []
        users = list(dict.fromkeys(request.user_id for request in requests))
        items = list(dict.fromkeys(item for request in requests for item in request.items))
        user_states, item_states = self._store.read(users, items)
        by_user = dict(zip(users, user_states, strict=True))
        by_item = dict(zip(items, item_states, strict=True))
        of_model: dict[int, list[int]] = {}
        for place, request in enumerate(requests):
            of_model.setdefault(id(request.model), []).append(place)
        ranked: dict[int, Ranked] = {}
        for places in of_model.values():
            model = requests[places[0]].model
            slates = [
                SlateRequest(by_user[r.user_id], r.items, [by_item[item] for item in r.items], r.at_ms)
                for r in (requests[place] for place in places)
            ]
            table = feature_table(model.catalogue, slates)
            found = model.score(table)
            bounds = np.cumsum([len(slate.items) for slate in slates])
            if found.shape != (bounds[-1],) or not np.isfinite(found).all():
                raise ModelUnusable(f"a model answered {found.shape} scores for {bounds[-1]} items, or not finite ones")
            parts = zip(np.split(found, bounds[:-1]), np.split(table, bounds[:-1]), strict=True)
            ranked |= zip(places, [Ranked(*part) for part in parts], strict=True)
        return [ranked[place] for place in range(len(requests))]
