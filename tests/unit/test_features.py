"""The features' definition, and that batch and online agree bit for bit."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slate_logs import make_log, online_features

from sluice.features import (
    ItemState,
    OnlineFeatures,
    SlateLog,
    SlateRequest,
    UserState,
    batch_features,
    feature_rows,
    feature_table,
    make_catalogue,
    names,
    release_year,
    tastes,
)

HOUR = 3_600_000
DAY = 24 * HOUR
START = 852_076_800_000  # 1997-01-01


def small() -> tuple[SlateLog, dict[str, int]]:
    """Two users and one item, Fargo (1996), Drama.

    u0  [5]-------|                slate 0, ends after 1 h
    u1      [2]-|                  slate 1, requested at 0.5 h
    u1                 [3]|        slate 2, requested at 2 h: knows both
    """
    log = SlateLog(
        user=np.array([0, 1, 1]),
        at_ms=START + np.array([0, HOUR // 2, 2 * HOUR]),
        end_ms=START + np.array([HOUR, HOUR * 3 // 4, 2 * HOUR]),
        offsets=np.arange(4),
        item=np.zeros(3, dtype=np.int64),
        liked=np.array([True, False, False]),
        rating_milli=np.array([5000, 2000, 3000]),
        items=["7"],
    )
    return log, {name: place for place, name in enumerate(names(("Drama",)))}


FARGO = make_catalogue(["7"], {"7": ("Drama",)}, {"7": "Fargo (1996)"})


def test_values_of_a_small_log_by_hand() -> None:
    log, column = small()
    first, second, third = batch_features(log, FARGO).astype(np.float64)

    for row in (first, second):  # neither slate had ended when the second was requested
        assert row[column["user_new"]] == row[column["item_new"]] == 1
        assert row[column["user_like_rate"]] == row[column["item_like_rate"]] == 0.5
        assert row[column["user_rating"]] == row[column["item_rating"]] == 3.5
        assert row[column["user_gap"]] == row[column["item_gap"]] == 1
    assert third[column["user_history"]] == pytest.approx(1 / 21)
    assert third[column["item_history"]] == pytest.approx(2 / 22)
    assert third[column["user_like_rate"]] == pytest.approx(4 / 9)
    assert third[column["item_like_rate"]] == pytest.approx(3.5 / 7)
    assert third[column["user_rating"]] == pytest.approx((2 + 17.5) / 6)
    assert third[column["item_rating"]] == pytest.approx((5 + 2 + 17.5) / 7)
    assert third[column["user_last_like_rate"]] == 0
    # u1 ended first: 2000 − (2000 + 17500) / 6 = −1250; u0 gave 5000 − (5000 + 17500) / 6 = 1250.
    assert third[column["item_quality"]] == 0
    # u1's rating came when the item had no quality yet: 2000 − 3500 in 1 + 5 observations.
    assert third[column["user_leniency"]] == pytest.approx(-0.25)
    assert third[column["genre_level"]] == third[column["genre_taste"]] == pytest.approx(-0.25)
    assert third[column["decade_taste"]] == pytest.approx(-0.25)
    assert third[column["user_gap"]] == pytest.approx((1.25 / 24) / (1.25 / 24 + 30))
    assert third[column["item_gap"]] == pytest.approx((1 / 24) / (1 / 24 + 30))
    assert third[column["item_presence"]] == pytest.approx((1.25 / 24) / (1.25 / 24 + 365), rel=1e-5)
    assert third[column["item_age"]] == pytest.approx(1 / 21, rel=1e-3)
    assert third[column["genre=Drama"]] == third[column["item_genres"]] == third[column["item_year_known"]] == 1


def test_outcomes_of_the_moment_of_a_request_are_not_known_to_it() -> None:
    log, column = small()
    at_end = replace(log, at_ms=log.at_ms - np.array([0, 0, HOUR]))  # exactly when slate 0 ends
    assert batch_features(at_end, FARGO)[2, column["item_history"]] == pytest.approx(1 / 21)
    later = replace(log, at_ms=at_end.at_ms + np.array([0, 0, 1]))
    assert batch_features(later, FARGO)[2, column["item_history"]] == pytest.approx(2 / 22)


def test_batch_and_online_agree_bit_for_bit_on_ten_thousand_events() -> None:
    log, catalogue = make_log(2000, seed=1)
    assert len(log.item) >= 10_000
    batch = batch_features(log, catalogue)
    assert batch.tobytes() == online_features(log, catalogue).tobytes()
    assert np.isfinite(batch).all()
    constant = (batch == batch[0]).all(axis=0)
    assert not constant.any(), [name for name, same in zip(names(catalogue.genres), constant, strict=True) if same]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), slates=st.integers(1, 25), users=st.integers(1, 4), items=st.integers(3, 30))
def test_batch_and_online_agree_on_any_log(seed: int, slates: int, users: int, items: int) -> None:
    log, catalogue = make_log(slates, seed=seed, users=users, items=items, size=3)
    assert batch_features(log, catalogue).tobytes() == online_features(log, catalogue).tobytes()


def test_an_item_that_is_twice_in_a_slate_counts_twice_on_both_sides() -> None:
    log, catalogue = make_log(60, seed=3, users=3, items=8, size=5)
    twice = replace(log, item=log.item - log.item % 2)
    assert batch_features(twice, catalogue).tobytes() == online_features(twice, catalogue).tobytes()


@pytest.mark.skipif(not os.environ.get("SLUICE_DATA"), reason="needs real ratings: set SLUICE_DATA")
def test_batch_and_online_agree_on_real_ratings() -> None:
    from producers.movielens import read_movielens
    from producers.slates import cut_slates

    cut = cut_slates(read_movielens(Path(os.environ["SLUICE_DATA"])))
    rows = cut.offsets[1500]
    rating = cut.log.rating_milli[cut.rating[:rows]].astype(np.int64)
    log = SlateLog(
        user=cut.user[:1500].astype(np.int64), at_ms=cut.at_ms[:1500], end_ms=cut.end_ms[:1500],
        offsets=cut.offsets[:1501], item=cut.log.item[cut.rating[:rows]].astype(np.int64), liked=rating >= 4000,
        rating_milli=rating, items=cut.log.items,
    )  # fmt: skip
    catalogue = make_catalogue(cut.log.items, cut.log.genres)
    assert batch_features(log, catalogue).tobytes() == online_features(log, catalogue).tobytes()


def test_states_survive_a_redis_hash() -> None:
    log, catalogue = make_log(200, seed=5)
    online = OnlineFeatures(catalogue)
    for slate in range(150):
        rows = slice(log.offsets[slate], log.offsets[slate + 1])
        items = [log.items[code] for code in log.item[rows]]
        outcomes = log.liked[rows].tolist(), log.rating_milli[rows].tolist()
        online.observe(str(log.user[slate]), items, *outcomes, int(log.end_ms[slate]))
    copy = OnlineFeatures(catalogue)

    def stored(fields: dict[str, bytes]) -> dict[bytes, bytes]:
        return {name.encode(): value for name, value in fields.items()}

    copy.users = {user: UserState.from_hash(stored(state.to_hash())) for user, state in online.users.items()}
    copy.items = {item: ItemState.from_hash(item, stored(state.to_hash())) for item, state in online.items.items()}
    at_ms = int(log.at_ms[-1]) + DAY
    for user in sorted(online.users):
        assert copy.rows(user, log.items, at_ms).tobytes() == online.rows(user, log.items, at_ms).tobytes()
    assert max(sum(map(len, state.to_hash().values())) for state in online.users.values()) < 1000
    nobody, nothing = UserState.from_hash({}), ItemState.from_hash("9", {})
    assert (nobody.count, nothing.count) == (0, 0)
    assert (nothing.vector == tastes.start("9")).all()


def test_many_slates_at_once_have_the_rows_of_each_alone() -> None:
    log, catalogue = make_log(300, seed=8)
    online = OnlineFeatures(catalogue)
    for slate in range(250):
        rows = slice(log.offsets[slate], log.offsets[slate + 1])
        outcomes = log.liked[rows].tolist(), log.rating_milli[rows].tolist()
        online.observe(str(log.user[slate]), [log.items[code] for code in log.item[rows]], *outcomes, 10**12 + slate)
    requests = []
    for slate in range(250, 300):
        items = [log.items[code] for code in log.item[log.offsets[slate] : log.offsets[slate + 1]]] + ["new"]
        states = [online.items.get(item) or ItemState.new(item) for item in items]
        user = online.users.get(str(log.user[slate]) if slate % 5 else "new", UserState())
        requests.append(SlateRequest(user, items, states, 10**12 + slate * DAY))
    together = feature_table(catalogue, requests)
    alone = [feature_rows(catalogue, *request) for request in requests]
    assert together.tobytes() == np.concatenate(alone).tobytes()
    with pytest.raises(ValueError, match="items"):
        feature_table(catalogue, [*requests, SlateRequest(UserState(), [], [], 0)])


def test_rows_change_nothing() -> None:
    log, catalogue = make_log(50, seed=6)
    online = OnlineFeatures(catalogue)
    online.observe("1", log.items[:3], [True, False, True], [4000, 1000, 5000], 10)
    before = online.rows("1", log.items[:5], 1000)
    online.rows("unknown", ["never seen"], 1000)
    assert online.rows("1", log.items[:5], 1000).tobytes() == before.tobytes()
    assert set(online.users) == {"1"}


def test_sums_of_the_taste_vectors_stay_exact_at_their_limits() -> None:
    at_limit = np.full((1000, tastes.DIMENSIONS), tastes.LIMIT)
    assert float(at_limit.ravel() @ at_limit.ravel()) <= 2**53
    items, user = tastes.learn(at_limit, at_limit[0], np.full(1000, -5000.0))
    assert np.abs(items).max() <= tastes.LIMIT
    assert np.abs(user).max() <= tastes.LIMIT
    assert (items == np.rint(items)).all()


def test_tastes_learn_what_users_have_in_common() -> None:
    """Two camps rate two kinds of items opposite ways: after a while the camps' users match their kind."""
    rng = np.random.default_rng(0)
    items = np.array([tastes.start(str(item)) for item in range(20)])
    users = {user: np.zeros(tastes.DIMENSIONS) for user in range(30)}
    kind = np.arange(20) % 2 * 2 - 1
    for _ in range(40):
        for user in users:
            own = rng.choice(20, 5, replace=False)
            items[own], users[user] = tastes.learn(items[own], users[user], 1000.0 * kind[own] * (user % 2 * 2 - 1))
    assert (np.sign(tastes.matches(items, users[1])) == kind).all()
    assert (np.sign(tastes.matches(items, users[0])) == -kind).all()


@pytest.mark.parametrize(
    ("title", "year"),
    [
        ("Toy Story (1995)", 1995),
        ("Shanghai Triad (Yao a yao yao dao waipo qiao) (1995)", 1995),
        ("1984 (Nineteen Eighty-Four) (1984)", 1984),
        ("Babylon 5", 0),
        ("", 0),
        ("Death Note: Desu nôto (2006–2007)", 2006),
        ("(3000)", 0),
    ],
)
def test_release_year(title: str, year: int) -> None:
    assert release_year(title) == year


def test_a_catalogue_keeps_the_most_frequent_genres_in_a_fixed_order() -> None:
    genres = {str(i): tuple(f"g{j:02}" for j in range(i, 40)) for i in range(40)}
    catalogue = make_catalogue(genres, genres)
    assert catalogue.genres == tuple(f"g{j:02}" for j in range(8, 40))
    assert catalogue.facts("39").genres == (31,)
    assert catalogue.facts("absent").year == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"offsets": np.array([0, 1, 1, 3])}, "offsets"),
        ({"at_ms": START + np.array([5, 4, 6])}, "at_ms"),
        ({"end_ms": np.zeros(3, dtype=np.int64)}, "end_ms"),
        ({"rating_milli": np.array([5000, 5500, 0])}, "rating_milli"),
    ],
)
def test_wrong_logs_are_refused(change: dict[str, np.ndarray], message: str) -> None:
    log, _ = small()
    with pytest.raises(ValueError, match=message):
        batch_features(replace(log, **change), FARGO)


def test_wrong_slates_are_refused() -> None:
    online = OnlineFeatures(FARGO)
    with pytest.raises(ValueError, match="lengths 2, 1, 2"):
        online.observe("1", ["7", "8"], [True], [1, 2], 0)
    with pytest.raises(ValueError, match="ratings_milli"):
        online.observe("1", ["7"], [True], [5001], 0)
    with pytest.raises(ValueError, match="items"):
        online.rows("1", [], 0)
