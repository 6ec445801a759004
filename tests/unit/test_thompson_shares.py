"""Shares from probabilities: whole percents, the floor kept exactly, small moves suppressed."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analyzer.engine.bandit import moved_enough, thompson_shares

weights = st.lists(st.one_of(st.just(0.0), st.floats(1e-12, 1.0)), min_size=2, max_size=20).filter(lambda w: sum(w) > 0)


@given(weights, st.integers(0, 50))
def test_shares_sum_to_100_and_respect_the_floor(p: list[float], percent: int) -> None:
    floor = min(percent / 100, 1 / len(p))
    shares = thompson_shares({f"v{i}": value for i, value in enumerate(p)}, floor)
    assert sum(shares.values()) == 100
    assert min(shares.values()) >= min(math.ceil(100 * floor - 1e-9), 100 // len(p))


@given(weights, st.integers(0, 5))
def test_a_better_variant_never_gets_less(p: list[float], percent: int) -> None:
    shares = thompson_shares({f"v{i}": value for i, value in enumerate(p)}, percent / 100)
    ordered = [shares[f"v{i}"] for i in sorted(range(len(p)), key=lambda i: p[i])]
    # Equal exact shares may differ by the one point that rounding hands out.
    assert all(later >= earlier - 1 for earlier, later in pairwise(ordered))


@pytest.mark.parametrize(
    ("p", "floor", "expected"),
    [
        ({"a": 0.0, "b": 1.0}, 0.05, {"a": 5, "b": 95}),
        ({"a": 0.3, "b": 0.7}, 0.05, {"a": 30, "b": 70}),
        ({"a": 0.3, "b": 0.7}, 0.5, {"a": 50, "b": 50}),
        ({"a": 0.02, "b": 0.49, "c": 0.49}, 0.06, {"a": 6, "b": 47, "c": 47}),
        # Lifting a to the floor pushes b below it: both are lifted.
        ({"a": 0.0, "b": 0.101, "c": 0.899}, 0.1, {"a": 10, "b": 10, "c": 80}),
        ({"a": 1.0, "b": 0.0, "c": 0.0}, 1 / 3, {"a": 34, "b": 33, "c": 33}),
        # Floors take everything, and rounding lifts every variant.
        ({"a": 0.2, "b": 0.2, "c": 1e-17, "d": 0.2, "e": 1e-320}, 0.2, dict.fromkeys("abcde", 20)),
        ({"a": 0.999, "b": 0.001}, 0.0, {"a": 100, "b": 0}),
        ({"a": 0.5, "b": 0.5, "c": 0.0}, 0.015, {"a": 49, "b": 49, "c": 2}),
    ],
)
def test_examples(p: dict[str, float], floor: float, expected: dict[str, int]) -> None:
    assert thompson_shares(p, floor) == expected


@pytest.mark.parametrize(
    ("p", "floor"), [({}, 0.0), ({"a": 0.0}, 0.0), ({"a": -1.0, "b": 2.0}, 0.0), ({"a": 1.0, "b": 0.0}, 0.51)]
)
def test_impossible_arguments_are_refused(p: dict[str, float], floor: float) -> None:
    with pytest.raises(ValueError, match=r"p_best|floor"):
        thompson_shares(p, floor)


def test_a_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="p_best"):
        thompson_shares({"a": float("nan"), "b": 1.0}, 0.0)


def test_only_moves_of_min_change_points_count() -> None:
    assert not moved_enough({"a": 51, "b": 49}, {"a": 50, "b": 50}, 2)
    assert moved_enough({"a": 52, "b": 48}, {"a": 50, "b": 50}, 2)
    assert moved_enough({"a": 50, "c": 50}, {"a": 50, "b": 50}, 50)
