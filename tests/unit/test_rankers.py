"""Ranking rules: what they compute, and that a slate never sees its own or later outcomes."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from producers.candidates import LIKED_MILLI, RankedSlates
from producers.movielens import read_movielens
from producers.ratings import RatingsLog
from producers.slates import cut_slates
from router.rankers import RANKERS, Affinity, Context, Popularity, Random, Ranker, make_ranker, top_k
from sluice.errors import ConfigError

GENRES = {"comedy": ("Comedy",), "drama": ("Drama",), "both": ("Comedy", "Drama")}
NOW = Context("s", 0)


def random_log(seed: int, users: int = 12, count: int = 1500) -> RatingsLog:
    rng = np.random.default_rng(seed)
    user = rng.integers(0, users, count).astype(np.int32)
    # Many equal times, so that slates overlap, touch and tie.
    at_ms = (rng.integers(0, 400, count) * 1000).astype(np.int64)
    item = rng.integers(0, 40, count).astype(np.int32)
    return RatingsLog(
        name="random",
        user=user,
        item=item,
        rating_milli=(rng.integers(1, 6, count) * 1000).astype(np.int32),
        at_ms=at_ms,
        users=[str(n) for n in range(users)],
        items=[str(n) for n in range(40)],
        genres={str(n): (f"g{n % 5}", f"h{n % 3}") for n in range(40)},
    )


def shown_items(log: RatingsLog, number: int | None = None) -> list[dict[str, list[str]]]:
    source = RankedSlates(
        cut_slates(log, size=6, top_k=2), {name: make_ranker(name, 7, log.genres) for name in RANKERS}, k=2
    )
    slates = source.block(0, len(source.at_ms))
    return [
        {variant: [item.item_id for item in items] for variant, items in shown.items()}
        for shown in source.shown(slates if number is None else slates[: number + 1])
    ]


@pytest.mark.parametrize("seed", range(4))
def test_ratings_of_a_slate_and_of_later_ones_change_nothing_in_its_ranking(seed: int) -> None:
    log = random_log(seed)
    slates = cut_slates(log, size=6, top_k=2)
    rng = np.random.default_rng(seed)
    honest = shown_items(log)
    for number in rng.integers(0, len(slates), 12).tolist():
        # Everything rated at or after the request is turned round, this slate's ratings among it.
        turned = log.rating_milli.copy()
        hidden = log.at_ms >= slates.at_ms[number]
        hidden[slates.rating[slates.offsets[number] : slates.offsets[number + 1]]] = True
        turned[hidden] = 6000 - turned[hidden]
        changed = RatingsLog(log.name, log.user, log.item, turned, log.at_ms, log.users, log.items, log.genres)
        assert shown_items(changed, number)[number] == honest[number]


def test_a_slate_in_progress_is_not_known_yet() -> None:
    # user 0 rates item 0 well   |0----------9|          (ends at 9)
    # user 1 asks                       ^5        ^10     (at 5 nothing is known, at 10 all is)
    rows = [(0, n, 5 if n == 0 else 1, t) for n, t in ((0, 0), (1, 9))]
    rows += [(1, n, 3, t) for n, t in ((1, 5), (0, 6), (1, 10), (0, 11))]
    user, item, stars, second = (np.array(column) for column in zip(*rows, strict=True))
    log = RatingsLog(
        "made", user.astype(np.int32), item.astype(np.int32), (stars * 1000).astype(np.int32),
        second.astype(np.int64) * 1000, ["0", "1"], ["0", "1"],
    )  # fmt: skip
    ranker = Popularity()
    source = RankedSlates(cut_slates(log, size=2, top_k=1), {"p": ranker}, k=1)
    first, second_slate, third = source.block(0, 3)
    source.shown([first])
    source.shown([second_slate])
    assert ranker.overall == 0.5
    source.shown([third])
    assert ranker.overall == (1 + 1) / (4 + 2)
    assert source.shown([third])[0]["p"][0].item_id == "0"


def test_popularity_is_the_smoothed_click_rate() -> None:
    ranker = Popularity()
    assert list(ranker.rank("u", ["a", "b"], NOW)) == [0.5, 0.5]
    for liked in (True, True, False):
        ranker.observe("u", "a", liked, 0)
    overall = (2 + 1) / (3 + 2)
    assert list(ranker.rank("u", ["a", "b"], NOW)) == pytest.approx([(2 + 5 * overall) / (3 + 5), overall])


def test_affinity_prefers_the_genres_the_user_likes() -> None:
    ranker = Affinity(GENRES)
    for _ in range(10):
        ranker.observe("fan", "comedy", True, 0)
        ranker.observe("fan", "drama", False, 0)
        ranker.observe("foe", "comedy", False, 0)
        ranker.observe("foe", "drama", True, 0)
    comedy, drama, both, unknown = ranker.rank("fan", ["comedy", "drama", "both", "new"], NOW)
    assert comedy > both > drama
    assert both == pytest.approx(unknown)
    comedy, drama, *_ = ranker.rank("foe", ["comedy", "drama"], NOW)
    assert drama > comedy
    # By hand, for one who likes most things: rate(item) + shrunk(genre) − shrunk(user), as the docstring says.
    for liked in (True, True, True, False):
        ranker.observe("glad", "comedy", liked, 0)
    overall = (23 + 1) / (44 + 2)
    item = (13 + 5 * overall) / (24 + 5)
    user = (3 + 8 * overall) / (4 + 8)
    genre = (3 + 4 * user) / (4 + 4)
    assert ranker.rank("glad", ["comedy"], NOW)[0] == pytest.approx(item + genre - user)


def test_to_a_stranger_equally_popular_items_are_equal() -> None:
    ranker = Affinity(GENRES)
    for liked in (True, False):
        ranker.observe("fan", "comedy", liked, 0)
        ranker.observe("fan", "drama", not liked, 0)
    assert len({round(s, 12) for s in ranker.rank("stranger", ["comedy", "drama"], NOW)}) == 1


def test_random_is_a_function_of_seed_and_slate() -> None:
    items = [str(n) for n in range(10)]
    one = Random(1).rank("u", items, Context("s1", 0))
    asked_before = Random(1)
    asked_before.rank("u", items, Context("s2", 0))
    assert asked_before.rank("v", items, Context("s1", 9)) == one
    assert Random(2).rank("u", items, Context("s1", 0)) != one
    firsts = [top_k(Random(1).rank("u", items, Context(str(n), 0)), 1)[0] for n in range(2000)]
    assert min(np.bincount(firsts, minlength=10)) > 140  # 200 expected, sd 13.4


@pytest.mark.parametrize("name", sorted(RANKERS))
def test_every_ranker_keeps_the_protocol(name: str) -> None:
    ranker: Ranker = make_ranker(name, 3, GENRES)
    ranker.observe("u", "comedy", True, 5)
    items = ["comedy", "never seen", "drama"]
    before = list(ranker.rank("u", items, NOW))
    assert len(before) == 3
    assert all(np.isfinite(before))
    assert list(ranker.rank("u", items, NOW)) == before, "ranking must not learn"
    assert list(ranker.rank("u", [], NOW)) == []
    assert list(pickle.loads(pickle.dumps(ranker)).rank("u", items, NOW)) == before  # noqa: S301 - our own bytes


def test_an_unknown_ranker_is_named_with_what_is_allowed() -> None:
    with pytest.raises(ConfigError, match="'best': allowed are affinity, popularity, random and models:/NAME@ALIAS"):
        make_ranker("best", 0, {})


def test_equal_scores_keep_the_order_of_the_slate() -> None:
    assert top_k([0.5, 0.7, 0.5, 0.7], 3) == [1, 3, 0]


@pytest.mark.skipif(not os.environ.get("SLUICE_DATA"), reason="needs real ratings: set SLUICE_DATA")
def test_on_real_ratings_each_rule_beats_the_one_before() -> None:
    log = read_movielens(Path(os.environ["SLUICE_DATA"]))
    source = RankedSlates(cut_slates(log), {n: make_ranker(n, 1, log.genres) for n in RANKERS}, k=1)
    slates = source.block(0, len(source.at_ms))
    late = int(0.6 * len(slates))
    hits = dict.fromkeys(RANKERS, 0)
    for slate, shown in zip(slates, source.shown(slates), strict=True):
        for name, (best,) in shown.items():
            hits[name] += slate.number >= late and best.rating_milli >= LIKED_MILLI
    rates = {name: count / (len(slates) - late) for name, count in hits.items()}
    assert rates["random"] + 0.05 < rates["popularity"] < rates["affinity"]
