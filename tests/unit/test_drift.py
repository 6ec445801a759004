"""Histories add up to the totals, stay short, and weigh by age."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analyzer.engine.drift import Span, advance, discount_weights, discounted, windowed
from sluice.domain.epochs import Epoch

HOUR = 3_600_000
looks = st.lists(
    st.tuples(st.integers(1, 40 * HOUR), st.integers(0, 1000), st.integers(0, 1000), st.integers(0, 500)), min_size=1
)


def run(steps: list[tuple[int, int, int, int]], span: Span) -> tuple[tuple[Epoch, ...], int, tuple[int, int]]:
    history: tuple[Epoch, ...] = ()
    at = a = b = clicks = 0
    for later, more_a, more_b, more_clicks in steps:
        at, a, b, clicks = at + later, a + more_a, b + more_b, clicks + more_clicks
        history = advance(history, at, (a, b), (clicks, clicks), span)
    return history, at, (a, b)


@given(looks, st.sampled_from([Span.of_half_life(8 * HOUR), Span.of_window(24 * HOUR)]))
def test_a_history_adds_up_and_is_bounded(steps: list[tuple[int, int, int, int]], span: Span) -> None:
    history, at, totals = run(steps, span)
    assert tuple(map(sum, zip(*(epoch.impressions for epoch in history), strict=True))) == totals
    assert len(history) <= span.keep_ms / span.epoch_ms + 2
    assert all(earlier.end_ms <= later.start_ms for earlier, later in pairwise(history))
    assert sum(epoch.end_ms <= at - span.keep_ms for epoch in history) <= 2  # merged, and the last if nothing came


@given(looks)
def test_an_endless_half_life_forgets_nothing(steps: list[tuple[int, int, int, int]]) -> None:
    history, at, totals = run(steps, Span.of_half_life(8 * HOUR))
    assert discounted(history, at, 1e18)[0] == pytest.approx(totals, rel=1e-6)
    assert windowed(history, at, 1e18)[0] == pytest.approx(totals)


def test_evidence_weighs_half_after_a_half_life_and_nothing_after_the_window() -> None:
    # |--- 800 of a ---|--- 800 of b ---|      each 8 h, even
    span = Span.of_half_life(8 * HOUR)
    history: tuple[Epoch, ...] = ()
    for hour in range(17):
        n = (100 * min(hour, 8), 100 * max(hour - 8, 0))
        history = advance(history, hour * HOUR, n, (n[0] // 10, n[1] // 5), span)
    n, c = discounted(history, 16 * HOUR, 8 * HOUR)
    # ∫ 2^(−t/8) dt over an interval of one half-life is 8/(2 ln 2) hours.
    assert n == pytest.approx([800 / (4 * np.log(2)), 800 / (2 * np.log(2))], rel=1e-9)
    assert c == pytest.approx(n * [0.1, 0.2])
    n, c = windowed(history, 16 * HOUR, 4 * HOUR)
    assert n == pytest.approx([0, 400])
    n, _ = windowed(history, 16 * HOUR, 9 * HOUR)
    assert n == pytest.approx([100, 800])


@given(st.integers(0, 10**9), st.integers(0, 10**9), st.integers(0, 10**9))
def test_the_weight_of_an_epoch_is_the_mean_over_its_moments(start: int, length: int, ago: int) -> None:
    moments = start + (np.arange(2000) + 0.5) / 2000 * length
    at = start + length + ago
    expected = np.mean(2.0 ** (-(at - moments) / 1e8))
    assert discount_weights(start, start + length, at, 1e8) == pytest.approx(expected, rel=1e-5)


def test_after_a_change_the_new_rate_is_learned_and_all_evidence_keeps_the_old_one() -> None:
    history: tuple[Epoch, ...] = ()
    span = Span.of_half_life(4 * HOUR)
    clicks = 0.0
    for hour in range(1, 81):
        clicks += 1000 * (0.2 if hour <= 40 else 0.1)
        history = advance(history, hour * HOUR, (1000 * hour,), (clicks,), span)
    n, c = discounted(history, 80 * HOUR, 4 * HOUR)
    assert c[0] / n[0] == pytest.approx(0.1, rel=0.02)
    assert clicks / 80_000 == pytest.approx(0.15)
    assert len(history) <= 26


def test_a_look_without_news_changes_nothing() -> None:
    span = Span.of_window(10)
    history = advance((), 5, (3,), (1,), span)
    assert advance(history, 5, (3,), (1,), span) == history
    assert advance(history, 500, (3,), (1,), span) == history
    assert windowed(history, 500, 10) == (0, 0)


@pytest.mark.parametrize(
    ("n", "at", "c"),
    [((5, 5, 5), 20, 2), ((1, 9), 20, 2), ((9, 9), 3, 2), ((9, 9), 20, 1)],
    ids=["other variants", "fewer counted", "earlier", "fewer outcomes, recounted with a shorter window"],
)
def test_a_history_of_other_evidence_is_dropped(n: tuple[int, ...], at: int, c: int) -> None:
    history = advance((), 10, (5, 5), (2, 2), Span.of_window(10))
    started_over = advance(history, at, n, (c,) * len(n), Span.of_window(10))
    assert started_over == (Epoch(start_ms=at, end_ms=at, impressions=n, outcomes=(c,) * len(n)),)


def test_a_history_survives_its_record() -> None:
    history, _, _ = run([(HOUR, 5, 6, 1), (HOUR, 5, 6, 1)], Span.of_window(3 * HOUR))
    assert msgspec.json.decode(msgspec.json.encode(history), type=tuple[Epoch, ...]) == history


def test_impossible_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="half_life_ms"):
        Span.of_half_life(0)
    with pytest.raises(ValueError, match="window_ms"):
        Span.of_window(float("inf"))
    with pytest.raises(ValueError, match="impressions"):
        advance((), 0, (-1,), (0,), Span.of_window(1))
    with pytest.raises(ValueError, match="outcomes"):
        advance((), 0, (1,), (float("nan"),), Span.of_window(1))
    with pytest.raises(ValueError, match="history"):
        discounted((), 0, 1.0)
