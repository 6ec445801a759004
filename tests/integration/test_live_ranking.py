"""Live requests: features as Redis tells them, equal to those of training, and models that score many at once."""

from __future__ import annotations

from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray
from slate_logs import make_log

from router.ranking import LiveRanking, RankRequest
from sluice.adapters.features import FeatureKeeping, FeatureStore
from sluice.adapters.redis import connect
from sluice.domain.definitions import Definitions
from sluice.domain.events import Assignment, Heartbeat, ImpressionShown, OutcomeObserved, encode
from sluice.errors import ModelUnusable, TransportError
from sluice.features import Catalogue, OnlineFeatures, SlateLog, batch_features, names
from sluice.models import Linear, TrainedModel
from sluice.names import Keys
from sluice.settings import Settings
from stream_processors.feature_keeper import FeatureKeeper

DEFINITIONS = Definitions(3_600_000, 1000, 1000, 1000)
MADE = (Assignment("e", "a", "a=100", "u"),)
_names = count()


class Noting:
    """A model that keeps the features it was asked to score."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self.seen: list[NDArray[np.float32]] = []

    def score(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        self.seen.append(features)
        return np.zeros(len(features))


@pytest.fixture
def keys() -> Keys:
    return Keys(f"ranking{next(_names)}:")


def linear(catalogue: Catalogue, seed: int) -> TrainedModel:
    size, rng = len(names(catalogue.genres)), np.random.default_rng(seed)
    return TrainedModel("A", Linear(np.zeros(size), np.ones(size), rng.normal(size=size), 0.1), catalogue)


def items_of(log: SlateLog, slate: int) -> list[str]:
    return [log.items[code] for code in log.item[log.offsets[slate] : log.offsets[slate + 1]]]


def events_of(log: SlateLog) -> list[tuple[int, int, bytes]]:
    """(event time, topic, event): every item of every slate shown, rated, and clicked when it was liked."""
    events: list[tuple[int, int, bytes]] = []
    for slate in range(len(log)):
        user, at_ms, end_ms = str(log.user[slate]), int(log.at_ms[slate]), int(log.end_ms[slate])
        rows = range(log.offsets[slate], log.offsets[slate + 1])
        for row, item in zip(rows, items_of(log, slate), strict=True):
            shown = ImpressionShown(
                impression_id=f"i{row}", user_id=user, item_id=item, at_ms=at_ms, assignments=MADE, slate_id=f"s{slate}"
            )
            events.append((at_ms, 0, encode(shown)))
            for outcome, value in (("rating", int(log.rating_milli[row])), ("click", None)):
                if value is not None or log.liked[row]:
                    told = OutcomeObserved(
                        click_id=f"{outcome}{row}", impression_id=f"i{row}", user_id=user, at_ms=end_ms,
                        outcome=outcome, value_milli=value,
                    )  # fmt: skip
                    events.append((end_ms, 1, encode(told)))
    return sorted(events, key=lambda event: event[0])


def test_features_of_a_live_request_are_those_of_training(embedded: Settings, keys: Keys) -> None:
    """Through events, the keeper and Redis, bit for bit, when the stream shows everything."""
    log, catalogue = make_log(250, seed=11, users=12, items=60)
    wanted, events = batch_features(log, catalogue), events_of(log)
    with connect(embedded) as client:
        store = FeatureStore(client, keys)
        store.put_catalogue(catalogue)
        keeper = FeatureKeeper(store, FeatureKeeping(client, keys), DEFINITIONS, lambda: 0)
        assert keeper.take_up([(0, 0)])

        def read(topic: int, event: bytes) -> None:
            offset = keeper.joiner.offset(topic, 0)
            record = SimpleNamespace(value=lambda: event, key=bytes, offset=lambda: offset, timestamp=lambda: (0, 0))
            keeper.read(topic, 0, [record])

        live, model, done = LiveRanking(store), Noting(catalogue), 0
        for slate in range(len(log)):
            at_ms = int(log.at_ms[slate])
            while done < len(events) and events[done][0] < at_ms:
                read(*events[done][1:])
                done += 1
            for topic in (0, 1):  # what lies before the request is final
                read(topic, encode(Heartbeat(at_ms=at_ms + DEFINITIONS.lateness_ms)))
            while keeper.learn(0):
                pass
            live.score([RankRequest(str(log.user[slate]), items_of(log, slate), at_ms, model)])
    assert len(model.seen) == len(log)
    assert np.concatenate(model.seen).tobytes() == wanted.tobytes()
    assert not (wanted == wanted[0]).all(axis=0).any()


def test_many_requests_of_several_models_are_scored_as_each_alone(embedded: Settings, keys: Keys) -> None:
    log, catalogue = make_log(200, seed=12)
    online = OnlineFeatures(catalogue)
    for slate in range(len(log)):
        rows = slice(log.offsets[slate], log.offsets[slate + 1])
        outcomes = log.liked[rows].tolist(), log.rating_milli[rows].tolist()
        online.observe(str(log.user[slate]), items_of(log, slate), *outcomes, int(log.end_ms[slate]))
    at_ms = int(log.end_ms.max()) + 1
    models = [linear(catalogue, 0), linear(Catalogue(catalogue.genres[:2], {}), 1)]
    rng = np.random.default_rng(0)
    requests = [
        RankRequest(str(rng.integers(60)), [str(i) for i in rng.integers(90, 240, size)], at_ms, models[size % 2])
        for size in rng.integers(1, 12, 50).tolist()
    ]
    noting = Noting(catalogue)
    with connect(embedded) as client:
        FeatureKeeping(client, keys).write_all(online.users, online.items, at_ms)
        live = LiveRanking(FeatureStore(client, keys))
        together = live.score(requests)
        for request, scores in zip(requests, together, strict=True):
            (alone,) = live.score([request])
            assert scores.shape == (len(request.items),)
            np.testing.assert_allclose(scores, alone, rtol=1e-12)
            features = online.rows(request.user_id, request.items, at_ms)
            if request.model is models[0]:
                np.testing.assert_allclose(scores, models[0].score(features), rtol=1e-12)
        live.score([request._replace(model=noting) for request in requests])
        assert live.score([]) == []
    assert len(noting.seen) == 1, "one call for the model, whatever the number of requests"
    assert len({float(scores[0]) for scores in together}) > 30


def test_strangers_are_ranked_and_nonsense_is_refused(embedded: Settings, keys: Keys) -> None:
    catalogue = Catalogue(("Drama",), {})
    with connect(embedded) as client:
        live, model = LiveRanking(FeatureStore(client, keys)), linear(catalogue, 0)
        (scores,) = live.score([RankRequest("nobody", ["x", "y", "x", ""], 0, model)])
        assert np.isfinite(scores).all()
        assert scores[0] == scores[2]
        with pytest.raises(ValueError, match="items"):
            live.score([RankRequest("nobody", [], 0, model)])
        for answer in (np.array([np.nan, 1.0]), np.array([1.0])):
            broken = SimpleNamespace(catalogue=catalogue, score=lambda features, answer=answer: answer)
            with pytest.raises(ModelUnusable):
                live.score([RankRequest("nobody", ["x", "y"], 0, broken)])


def test_a_redis_that_is_away_is_said(keys: Keys) -> None:
    live = LiveRanking(FeatureStore(connect(Settings(redis="redis://127.0.0.1:1/0")), keys))
    with pytest.raises(TransportError):
        live.score([RankRequest("u", ["x"], 0, linear(Catalogue(), 0))])
