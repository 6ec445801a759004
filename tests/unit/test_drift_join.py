"""Rankings and clicks joined for a drift monitor, in whatever order they are read."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.domain.drift import Outcomes, Reference, Rows, make_reference
from sluice.domain.events import OutcomeObserved
from sluice.domain.rankings import RankedItem, SlateRanked, columns_digest, pack_features
from sluice.features import VERSION
from stream_processors.drift_join import Joiner, Part
from stream_processors.drift_sample import UserSample, zeros_of

WINDOW, LATENESS = 100, 10
COLUMNS = ("a", "b")
FEATURES = np.array([1.0, np.nan], dtype=np.float32)


@pytest.fixture(scope="module")
def reference() -> Reference:
    rng = np.random.default_rng(0)
    users, at_ms = [f"u{n}" for n in range(40)], np.zeros(40, dtype=np.int64)
    rows = Rows(users, at_ms, rng.random((40, 2)), rng.random(40))
    return make_reference(COLUMNS, rows, Outcomes(*rows, rng.random(40) < 0.5))


@pytest.fixture
def joiner(reference: Reference) -> Joiner:
    return Joiner(reference, "m", "1", window_ms=WINDOW, lateness_ms=LATENESS, drift_window_ms=1)


def ranking(at_ms: int, impression: str, **changes: object) -> SlateRanked:
    item = RankedItem(item_id="i", impression_id=impression, score=0.5, shown=1.0, features=pack_features(FEATURES))
    fields = {
        "experiment": "e", "variant": "v", "model": "m", "model_version": "1", "features_version": VERSION,
        "columns": columns_digest(COLUMNS), "user_id": "u", "at_ms": at_ms, "items": (item,), **changes,
    }  # fmt: skip
    return SlateRanked(**fields)  # type: ignore[arg-type]


def click(at_ms: int, impression: str, outcome: str = "click", user_id: str = "u") -> OutcomeObserved:
    return OutcomeObserved(
        click_id=impression + outcome, user_id=user_id, impression_id=impression, at_ms=at_ms, outcome=outcome
    )


def clicked(joiner: Joiner) -> dict[int, bool]:
    """Time shown → whether clicked"""
    joiner.settle()
    found = list(joiner.outcomes())
    return {
        at: clicked for part in found for at, clicked in zip(part.at_ms.tolist(), part.clicked.tolist(), strict=True)
    }


def test_clicks_count_inside_the_window_whenever_they_are_read(joiner: Joiner) -> None:
    # impression |--window--|    x: in, y: at its end, z: behind, w: no click
    joiner.click(0, click(50, "x"))
    for at_ms, name in ((0, "x"), (1, "y"), (2, "z"), (3, "w")):
        joiner.ranking(0, ranking(at_ms, name))
    for at_ms, name in ((101, "y"), (103, "z")):
        joiner.click(0, click(at_ms, name))
    joiner.click(0, click(20, "w", outcome="purchase"))
    assert clicked(joiner) == {}, "a click may still come"
    joiner.time(0, WINDOW + LATENESS + 4)
    assert clicked(joiner) == {0: True, 1: True, 2: False, 3: False}
    (rows,) = joiner.rows()
    assert rows.at_ms.tolist() == [0, 1, 2, 3]
    assert rows.features.tobytes() == np.tile(FEATURES, 4).tobytes()
    assert not list(joiner.rows())


def test_the_slowest_partition_is_waited_for(joiner: Joiner) -> None:
    joiner.ranking(0, ranking(0, "x"))
    joiner.ranking(1, ranking(0, "y"))
    joiner.time(0, 1000)
    joiner.time(7, 0)  # a partition that never ranked is not
    assert clicked(joiner) == {}
    joiner.time(1, 1000)
    assert clicked(joiner) == {0: False}
    assert (joiner.rows_ms, joiner.outcomes_ms) == (990, 890)


def test_records_that_come_again_count_once(joiner: Joiner) -> None:
    for _ in range(2):
        joiner.ranking(0, ranking(0, "x"))
    joiner.time(0, 1000)
    joiner.settle()
    assert [len(part.at_ms) for part in (*joiner.rows(), *joiner.outcomes())] == [1, 1]
    joiner.ranking(0, ranking(0, "x"))
    joiner.time(0, 2000)
    joiner.settle()
    assert not [*joiner.rows(), *joiner.outcomes()]


@pytest.mark.parametrize(
    "changes",
    [{"model": "other"}, {"model_version": "2"}, {"random": True}, {"columns": "other"}, {"features_version": 99}],
)
def test_what_is_not_of_this_version_is_left_out(joiner: Joiner, changes: dict[str, object]) -> None:
    joiner.ranking(0, ranking(0, "x", **changes))
    joiner.time(0, 1000)
    joiner.settle()
    assert not [*joiner.rows(), *joiner.outcomes()]
    assert joiner.foreign == ("columns" in changes or "features_version" in changes)


def test_rows_wait_until_their_window_was_read(reference: Reference) -> None:
    # drift windows |0      200|200    400|   an outcome is known WINDOW and LATENESS after
    joiner = Joiner(reference, "m", "1", window_ms=WINDOW, lateness_ms=LATENESS, drift_window_ms=200)
    for at_ms, name in ((10, "x"), (190, "y"), (205, "z")):
        joiner.ranking(0, ranking(at_ms, name))
    told = []
    for now_ms in (209, 210, 309, 310):
        joiner.time(0, now_ms)
        joiner.settle()
        told.append([part.at_ms.tolist() for part in (*joiner.rows(), *joiner.outcomes())])
    assert told == [[], [[10, 190]], [], [[10, 190]]]


USERS = [f"u{n}" for n in range(60)]
MOST = 8
SHOWN = [(user, at_ms) for user in USERS for at_ms in (1, 900)] + [(user, 1500) for user in USERS[:MOST]]


@given(st.permutations(SHOWN), st.integers(0, len(SHOWN)))
def test_of_many_users_some_are_kept_with_all_they_did_in_whatever_order_they_are_read(
    reference: Reference, order: list[tuple[str, int]], look: int
) -> None:
    # drift windows |0  60 users  1000|1000  8 users  2000|
    joiner = Joiner(
        reference, "m", "1", window_ms=WINDOW, lateness_ms=2000, drift_window_ms=1000, most_users=MOST
    )  # fmt: skip
    for part in (order[:look], order[look:]):
        for user, at_ms in part:
            if not joiner.passes_over(0, user, at_ms):
                joiner.ranking(0, ranking(at_ms, f"{user}-{at_ms}", user_id=user))
        for user, at_ms in part:
            if at_ms > 1:
                joiner.click(0, click(at_ms + 50, f"{user}-{at_ms}", user_id=user))
        joiner.settle()
    joiner.time(0, 10_000)
    joiner.settle()
    rows = [pair for part in joiner.rows() for pair in zip(part.user, part.at_ms.tolist(), strict=True)]
    told = [
        three for part in joiner.outcomes()
        for three in zip(part.user, part.at_ms.tolist(), part.clicked.tolist(), strict=True)
    ]  # fmt: skip
    level = next(level for level in range(33) if sum(zeros_of(user) >= level for user in USERS) <= MOST)
    kept = [(user, at_ms) for user, at_ms in SHOWN if at_ms == 1500 or zeros_of(user) >= level]
    assert 0 < len(kept) - MOST <= 2 * MOST
    assert sorted(rows) == sorted(kept)
    assert sorted(told) == sorted((user, at_ms, at_ms > 1) for user, at_ms in kept)


def test_clicks_wait_for_the_users_of_any_window_they_may_belong_to() -> None:
    sample = UserSample(1000, most=1)
    for user in USERS:
        sample.add(0, user, zeros_of(user))
    assert not sample.keeps(999, 0) and sample.keeps(1000, 0)
    assert not sample.keeps_any(100, 999, 0) and sample.keeps_any(100, 1000, 0)
    sample.forget(1000)
    assert sample.keeps(999, 0)


@pytest.mark.parametrize(
    ("part", "shown_at", "name"),
    [
        (Part(), [1, 2, 3, 4], ""),
        (Part(variant="b"), [2, 4], "variant=b"),
        (Part(segment="history=new"), [3, 4], "history=new"),
        (Part("b", "history=new"), [4], "variant=b history=new"),
        (Part(segment="history"), [], "history"),
    ],
)
def test_a_part_is_what_its_variant_showed_to_its_segment(
    reference: Reference, part: Part, shown_at: list[int], name: str
) -> None:
    joiner = Joiner(reference, "m", "1", window_ms=WINDOW, lateness_ms=LATENESS, drift_window_ms=1, part=part)
    new = ("history=new",)
    for at_ms, (variant, segments) in enumerate([("a", ()), ("b", ()), ("a", new), ("b", new)], 1):
        joiner.ranking(0, ranking(at_ms, f"i{at_ms}", variant=variant, segments=segments))
    joiner.time(0, 1000)
    assert sorted(clicked(joiner)) == shown_at
    assert part.name == name
