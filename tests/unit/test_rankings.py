"""What is logged of rankings: features as the model got them, and probabilities under which weights tell the truth."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from movielens_files import write_movielens
from numpy.typing import NDArray
from registered_models import NAME, ModelsInMemory, likes

from producers.candidates import RankedSlates
from producers.rankings import RankingLog
from producers.scoring import LogModels
from producers.slates import Slates, cut_slates, slate_log
from producers.sources import read_ratings
from router import AssignmentRequest, MemoryAssignments, Router, make_ranker
from sluice.domain.events import MAX_EVENT_BYTES, encode
from sluice.domain.experiment import Experiment, Variant
from sluice.domain.rankings import (
    MAX_RANKED,
    RankedItem,
    SlateRanked,
    columns_digest,
    have_columns,
    pack_features,
    records,
    shown_probability,
    unpack_features,
)
from sluice.errors import ConfigError
from sluice.features import batch_features, make_catalogue, names

K, SIZE = 3, 10
EXPERIMENT = Experiment(
    name="m",
    unit="slate",
    segments=("half",),
    rankings=True,
    variants=(
        Variant(name="chance", ranker="random", share=20),
        Variant(name="liked", ranker=f"models:/{NAME}@liked", share=50),
        Variant(name="new", ranker=f"models:/{NAME}@new", share=30),
    ),
)


@pytest.fixture(scope="module")
def slates(tmp_path_factory: pytest.TempPathFactory) -> Slates:
    folder = write_movielens(tmp_path_factory.mktemp("ml") / "tiny", users=60, items=120, each=80, seed=5)
    return cut_slates(read_ratings(str(folder)), size=SIZE)


def half(number: int) -> str:
    return "first" if number < 100 else "second"


@pytest.fixture
def logged(slates: Slates) -> Iterator[list[tuple[int, SlateRanked]]]:
    """(slate, its record) of a whole replay"""
    ratings = slates.log
    catalogue = make_catalogue(ratings.items, ratings.genres)
    source = ModelsInMemory()
    source.add(likes("item_like_rate", catalogue), "liked")
    source.add(likes("item_history", catalogue, sign=-1.0), "new")
    models = LogModels(slates, 4000, source, EXPERIMENT.models)
    candidates = RankedSlates(slates, {"chance": make_ranker("random", 0, {})}, k=K, models=models)
    log, found = RankingLog(EXPERIMENT, candidates), []
    with Router([EXPERIMENT], MemoryAssignments()) as router:
        for start in range(0, len(slates), 64):
            block = candidates.block(start, min(start + 64, len(slates)))
            asked = [
                AssignmentRequest(s.user_id, {"slate": s.slate_id}, s.at_ms, {"half": half(s.number)}) for s in block
            ]
            for slate, answer, everything in zip(block, router.assign(asked), candidates.shown(block), strict=True):
                for record in log.records(slate, slate.slate_id, answer[0], everything):
                    found.append((slate.number, msgspec.json.decode(record, type=SlateRanked)))
    models.close()
    yield found


def test_features_and_scores_are_those_that_the_models_ranked_by(
    slates: Slates, logged: list[tuple[int, SlateRanked]]
) -> None:
    catalogue = make_catalogue(slates.log.items, slates.log.genres)
    log = slate_log(slates, 4000)
    features, columns = batch_features(log, catalogue), names(catalogue.genres)
    by = {"liked": columns.index("item_like_rate"), "new": columns.index("item_history")}
    seen = set()
    for number, record in logged:
        low, high = log.offsets[number : number + 2]
        place = {log.items[code]: row for row, code in zip(range(low, high), log.item[low:high], strict=True)}
        assert record.columns == columns_digest(columns)
        assert record.random == (record.variant == "chance")
        assert record.segments == (f"half={half(number)}",)
        for item in record.items:
            row = features[place[item.item_id]]
            assert unpack_features(item.features, len(columns)).tobytes() == row.tobytes()
            if record.random:
                assert (record.model, item.score) == ("", None)
            else:
                weight = 1 if record.variant == "liked" else -1
                assert item.score == pytest.approx(1 / (1 + np.exp(-weight * float(row[by[record.variant]]))))
        seen.add(record.variant)
    assert seen == {"chance", "liked", "new"}
    assert len(logged) == len(slates)


def test_weights_of_what_was_shown_speak_for_whole_slates(logged: list[tuple[int, SlateRanked]]) -> None:
    weights = np.array([sum(1 / item.shown for item in record.items) for _, record in logged])
    # Horvitz and Thompson 1952: the weights of a sample sum up to the size of what it was drawn from.
    error = weights.std() / np.sqrt(len(weights))
    assert abs(weights.mean() - SIZE) < 4 * error
    assert error < 1


@given(arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 5)), elements=st.floats(width=32)))
def test_features_are_read_as_they_were_served_to_the_bit(table: NDArray[np.float32]) -> None:
    # What is not a number too: that is how a missing value is told.
    items = tuple(
        [RankedItem(item_id="i", impression_id="j", score=None, shown=1, features=pack_features(row)) for row in table]
    )
    slate = SlateRanked(experiment="e", variant="v", features_version=1, user_id="u", at_ms=0, items=items)
    read = msgspec.json.decode(encode(slate), type=SlateRanked).items
    width = table.shape[1]
    assert [have_columns(read, other) for other in (width - 1, width, width + 1)] == [False, True, False]
    assert unpack_features(b"".join([item.features for item in read]), width).tobytes() == table.tobytes()


def test_half_a_feature_is_none() -> None:
    item = RankedItem(item_id="i", impression_id="j", score=None, shown=1, features=bytes(7))
    assert not have_columns([item], 1) and not have_columns([item], 2)


shares = st.lists(st.integers(0, 100), min_size=3, max_size=3).filter(lambda found: sum(found) > 0)


@given(shares, st.integers(1, 9), st.data())
def test_probabilities_of_the_items_of_a_slate_sum_up_to_what_is_shown(
    weights: list[int], k: int, data: st.DataObject
) -> None:
    total = sum(weights)
    percents = {"chance": weights[0], "a": weights[1], "b": weights[2]}
    items = [str(n) for n in range(10)]
    tops = {name: set(data.draw(st.permutations(items))[:k]) for name in ("a", "b")}
    found = [shown_probability(item, percents, tops, {"chance"}, k / 10) for item in items]
    if total <= 100:
        assert sum(found) == pytest.approx(k * total / 100)
    assert all(0 <= one <= 1 for one in found)


def test_a_long_slate_becomes_records_that_an_event_may_be_as_large_as() -> None:
    item = RankedItem(item_id="i" * 128, impression_id="j" * 128, score=1 / 3, shown=1 / 3,
                      features=pack_features(np.full(64, 1 / 3, dtype=np.float32)))  # fmt: skip
    slate = SlateRanked(experiment="e" * 64, variant="v" * 64, model="m" * 256, features_version=1, user_id="u" * 128,
                        slate_id="s" * 128, at_ms=9_999_999_999_999, items=(item,) * 100)  # fmt: skip
    parts = list(records(slate))
    assert [len(part.items) for part in parts] == [MAX_RANKED, MAX_RANKED, MAX_RANKED, 100 - 3 * MAX_RANKED]
    assert max(len(encode(part)) for part in parts) <= MAX_EVENT_BYTES


def test_an_experiment_of_rules_has_nothing_to_log() -> None:
    from sluice.domain.experiment import load_experiments

    text = "{name: r, rankings: true, variants: [{name: random}, {name: popularity}]}"
    with pytest.raises(ConfigError, match=r"rankings: true: needs a variant that is a model"):
        load_experiments(text, "r.yaml")
