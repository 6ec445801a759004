"""Comparisons of a shadow: what one says, sums that add, figures against other programs."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.stats import kendalltau

from sluice.console.shadow import words
from sluice.domain.shadow import (
    BINS,
    Agreement,
    Failure,
    ShadowCompared,
    ShadowKey,
    ShadowSums,
    compare,
    figures,
    latency_ms,
    score_bins,
)

KEY = ShadowKey("e", "a", "1", "next", "2")
scores = st.lists(st.floats(0, 1), min_size=1, max_size=12)


def record(
    user: str = "u", *, shadow_us: int = 2000, served_us: int = 1000, error: Failure = "",
    agreement: Agreement | None = None, dropped: int = 0,
) -> ShadowCompared:  # fmt: skip
    return ShadowCompared(
        experiment="e", variant="a", version="1", shadow="next", shadow_version="2", user_id=user, slate_id="s",
        at_ms=1, served_us=served_us, error=error, shadow_us=None if error else shadow_us,
        agreement=None if error else agreement or compare((0.3, 0.2, 0.1), (0.3, 0.1, 0.2), 1), dropped=dropped,
    )  # fmt: skip


def summed(records: list[ShadowCompared]) -> ShadowSums:
    sums = ShadowSums()
    for one in records:
        sums.take(one)
    return sums


def test_the_same_scores_agree_and_reversed_ones_do_not() -> None:
    ascending = [n / 10 for n in range(6)]
    same, opposite = compare(ascending, ascending, 2), compare(ascending, ascending[::-1], 2)
    assert (same.common, same.kendall) == (2, 1.0)
    assert (opposite.common, opposite.kendall) == (0, -1.0)


@pytest.mark.parametrize(("top", "k"), [(1, 1), (5, 5), (6, 3), (99, 3), (0, 3)])
def test_where_all_were_answered_half_are_compared(top: int, k: int) -> None:
    assert compare([0.1] * 6, [0.2] * 6, top).top == k


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9)), min_size=2, max_size=30))
def test_the_rank_correlation_is_scipys(pairs: list[tuple[int, int]]) -> None:
    served, shadow = [a / 10 for a, _ in pairs], [b / 10 for _, b in pairs]
    wanted = float(kendalltau(served, shadow).statistic)
    assert compare(served, shadow, 1).kendall == (None if math.isnan(wanted) else pytest.approx(wanted))


def test_one_item_or_equal_scores_have_no_rank_correlation() -> None:
    assert compare([0.5], [0.1], 1).kendall is None
    assert compare([0.5, 0.5], [0.1, 0.2], 1).kendall is None


def test_scores_that_do_not_match_are_refused() -> None:
    with pytest.raises(ValueError, match="2 scores beside 1"):
        compare([0.1, 0.2], [0.1], 1)
    with pytest.raises(ValueError, match="0 scores"):
        compare([], [], 1)


@given(scores)
def test_every_score_falls_into_one_bin(found: list[float]) -> None:
    assert sum(score_bins(found)) == len(found)
    assert score_bins([-3.0, 7.0])[0] == score_bins([-3.0, 7.0])[BINS - 1] == 1


@given(st.lists(st.tuples(st.sampled_from("abc"), scores, st.integers(1, 10**7), st.integers(0, 3),
                          st.sampled_from(["", "raised", "timeout"])), max_size=12), st.integers(0, 12))  # fmt: skip
def test_sums_add_in_any_order(rows: list[tuple[str, list[float], int, int, Failure]], cut: int) -> None:
    records = [
        record(user, agreement=compare(found, found[::-1], 1), shadow_us=us, dropped=dropped, error=error)
        for user, found, us, dropped, error in rows
    ]
    merged = summed(records[cut:])
    merged.merge(summed(records[:cut]))
    whole = summed(records)
    assert merged == whole
    assert summed(records[::-1]) == whole
    told = figures(KEY, whole)
    assert told.requests == told.compared + sum(told.errors.values()) == len(rows)


@given(st.lists(st.integers(1, 10**8), min_size=1, max_size=50), st.sampled_from([0.5, 0.95, 0.99]))
def test_a_latency_is_right_within_five_percent(microseconds: list[int], share: float) -> None:
    sums = summed([record(shadow_us=us) for us in microseconds])
    exact = sorted(microseconds)[max(1, math.ceil(share * len(microseconds))) - 1] / 1000
    assert latency_ms(sums.shadow_us, share) == pytest.approx(exact, rel=0.05)


def test_the_distance_is_that_of_all_scores_together() -> None:
    rng = np.random.default_rng(1)
    served, shadow = rng.beta(2, 5, size=(40, 8)), rng.beta(3, 3, size=(40, 8))
    sums = summed([record(agreement=compare(list(a), list(b), 3)) for a, b in zip(served, shadow, strict=True)])
    bins = [np.histogram(both, BINS, (0, 1))[0] for both in (served, shadow)]
    assert figures(KEY, sums).score_distance == pytest.approx(float(jensenshannon(*bins, base=2)))


def test_intervals_hold_the_truth_although_users_repeat_themselves() -> None:
    """Each user answers twenty times alike: an interval over requests would hold it in half of the trials or less."""
    rng, held, trials = random.Random(7), 0, 120
    alike, opposite = compare((0.2, 0.1), (0.2, 0.1), 1), compare((0.2, 0.1), (0.1, 0.2), 1)
    for _ in range(trials):
        sums = ShadowSums()
        for user in range(200):
            told = record(f"u{user}", agreement=alike if rng.random() < 0.7 else opposite)
            for _ in range(20):
                sums.take(told)
        overlap = figures(KEY, sums).overlap
        assert overlap.interval is not None
        held += overlap.interval[0] <= 0.7 <= overlap.interval[1]
    assert held / trials > 0.88  # binomial: 95 % of 120 lies above with probability 0.999


def test_nothing_compared_is_told_without_figures() -> None:
    told = figures(KEY, summed([record(error="timeout", dropped=4)]))
    assert (told.overlap.mean, told.score_distance, told.shadow_ms) == (None, None, {})
    assert words(told) == [
        "e: shadow next (version 2) beside a (version 1)",
        "  compared    0 of 1 requests asked; 4 more were dropped unasked",
        "  errors      100.00 % (timeout 1)",
    ]


def test_words_say_which_is_faster() -> None:
    lines = words(figures(KEY, summed([record(f"u{n}") for n in range(50)])))
    assert any("p99" in line and "slower" in line for line in lines)
    assert any("100.0 % (100.0 % to 100.0 %)" in line for line in lines)
