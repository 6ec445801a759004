"""Cutting a log into slates."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.ratings import RatingsLog
from producers.slates import base36, cut_slates
from sluice.errors import ConfigError

MINUTE_MS = 60_000


def log_of(rows: list[tuple[int, int, int, int]]) -> RatingsLog:
    """Rows of (user, item, stars, minute)."""
    user, item, stars, minute = (np.array(column) for column in zip(*rows, strict=True))
    return RatingsLog(
        name="made",
        user=user.astype(np.int32),
        item=item.astype(np.int32),
        rating_milli=(stars * 1000).astype(np.int32),
        at_ms=minute.astype(np.int64) * MINUTE_MS,
        users=[f"u{n}" for n in range(int(user.max()) + 1)],
        items=[f"i{n}" for n in range(int(item.max()) + 1)],
    )


def test_consecutive_ratings_form_slates_and_a_short_rest_is_dropped() -> None:
    # user 0, minutes: 0 1 2 | 3 4 5 | 6      (the rest has 1 item, no more than top-k)
    # user 1, minutes:   1 2 | 2              not reached: sizes 3 → one slate
    rows = [(0, n, 4, n) for n in range(7)] + [(1, 10 + n, 3, m) for n, m in enumerate((1, 2, 2))]
    slates = cut_slates(log_of(rows), size=3, top_k=1)
    got = [(s.user_id, s.at_ms // MINUTE_MS, sorted(s.items)) for s in slates.block(0, 99)]
    assert got == [("u0", 0, ["i0", "i1", "i2"]), ("u1", 1, ["i10", "i11", "i12"]), ("u0", 3, ["i3", "i4", "i5"])]
    assert (slates.dropped, slates.dropped_ratings) == (1, 1)
    assert (slates.end_ms // MINUTE_MS).tolist() == [2, 2, 5]


def test_a_short_rest_with_more_than_top_k_items_stays() -> None:
    slates = cut_slates(log_of([(0, n, 4, n) for n in range(5)]), size=3, top_k=1)
    assert [len(s.items) for s in slates.block(0, 9)] == [3, 2]
    assert slates.dropped == 0


def test_sessions_end_with_a_pause_longer_than_the_gap() -> None:
    # minutes 0 1 | 40 41 (a pause of 39) | 71 (exactly the gap: same session)
    rows = [(0, n, 4, m) for n, m in enumerate((0, 1, 40, 41, 71, 72))]
    slates = cut_slates(log_of(rows), size=2, top_k=1)
    assert [s.session_id for s in slates.block(0, 9)] == ["u0.0", "u0.1", "u0.1"]


def test_the_first_slate_of_a_user_is_new_and_the_others_are_returning() -> None:
    # minutes: u0 at 0, 3, 3; u1 at 1, 4
    rows = [(0, n, 4, m) for n, m in enumerate((0, 0, 3, 3, 3, 3))] + [(1, n, 4, m) for n, m in enumerate((1, 1, 4, 4))]
    slates = cut_slates(replace(log_of(rows), about={"u1": {"gender": "F"}}), size=2, top_k=1)
    assert [(s.user_id, s.at_ms // MINUTE_MS, dict(s.attributes)) for s in slates.block(0, 9)] == [
        ("u0", 0, {"history": "new"}),
        ("u1", 1, {"history": "new", "gender": "F"}),
        ("u0", 3, {"history": "returning"}),
        ("u0", 3, {"history": "returning"}),
        ("u1", 4, {"history": "returning", "gender": "F"}),
    ]


def test_ids_do_not_depend_on_what_is_replayed_and_are_short() -> None:
    slates = cut_slates(log_of([(u, n, 4, n) for u in range(4) for n in range(6)]), size=3, top_k=1)
    assert slates.block(2, 5) == slates.block(0, 8)[2:5]
    assert [s.slate_id for s in slates.block(0, 8)] == [base36(n) for n in range(8)]
    assert len(base36(25_000_000)) <= 5


def test_the_order_within_a_slate_follows_the_seed_alone() -> None:
    rows = [(0, n, 1 + n % 5, n) for n in range(10)]
    one, same, other = (cut_slates(log_of(rows), seed=seed).block(0, 1)[0].items for seed in (1, 1, 2))
    assert one == same
    assert one != other
    assert sorted(one) == sorted(other)
    # Changing the ratings leaves the order alone.
    turned = cut_slates(log_of([(u, i, 6 - s, t) for u, i, s, t in rows]), seed=1).block(0, 1)[0]
    assert turned.items == one


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9), st.integers(1, 5), st.integers(0, 50)), min_size=4),
    st.integers(2, 5),
)
def test_every_rating_is_in_one_slate_or_counted_as_dropped(rows: list[tuple[int, int, int, int]], size: int) -> None:
    log = log_of(rows)
    try:
        slates = cut_slates(log, size=size, top_k=1)
    except ConfigError:
        assert max(Counter(user for user, *_ in rows).values()) == 1  # no user has more than top-k ratings
        return
    assert len(set(slates.rating.tolist())) == len(slates.rating)
    assert len(slates.rating) + slates.dropped_ratings == len(log)
    assert (np.diff(slates.at_ms) >= 0).all()
    assert (slates.end_ms >= slates.at_ms).all()
    for slate, low, high in zip(slates.block(0, 10**6), slates.offsets, slates.offsets[1:], strict=False):
        members = slates.rating[low:high]
        assert {log.users[u] for u in log.user[members]} == {slate.user_id}
        assert log.at_ms[members].min() == slate.at_ms


@pytest.mark.parametrize(("size", "top_k"), [(3, 3), (3, 4), (3, 0), (2000, 3)])
def test_sizes_that_leave_nothing_to_choose_are_refused(size: int, top_k: int) -> None:
    with pytest.raises(ConfigError, match="--slate-size"):
        cut_slates(log_of([(0, n, 4, n) for n in range(5)]), size=size, top_k=top_k)


def test_a_log_without_a_slate_is_an_error() -> None:
    with pytest.raises(ConfigError, match="nothing to rank"):
        cut_slates(log_of([(u, 0, 4, 0) for u in range(5)]), size=3, top_k=1)
