"""The uniform slice beside the bandit: who is in it, what they are drawn from, and that nothing moves them."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from router import AssignmentRequest, MemoryAssignments, Router
from sluice.domain.allocation import allocation_key, equal_percents
from sluice.domain.bucketing import bucket
from sluice.domain.events import Assignment, UnitKind
from sluice.domain.experiment import Bandit, Experiment, Variant

UNITS = 20_000
MOVED = {"a": 5, "b": 95}


def experiment(reserve: float, unit: UnitKind = "user", salt: str = "", names: str = "ab") -> Experiment:
    variants = tuple(Variant(name=name) for name in names)
    return Experiment(name="e", unit=unit, salt=salt, variants=variants, bandit=Bandit(reserve=reserve))


def requests(count: int) -> list[AssignmentRequest]:
    return [AssignmentRequest(f"u{n}", {"session": f"s{n}", "slate": f"r{n}"}, n) for n in range(count)]


def drawn(found: Experiment, shares: dict[str, int] | None = None, count: int = UNITS) -> list[tuple[Assignment, int]]:
    """(assignment, version) of every unit from a fresh router with the allocation `shares` in force."""
    router = Router([found], MemoryAssignments())
    if shares is not None:
        assert router.update("e", 4, shares)
    return [(answer.assignment, answer.version) for (answer,) in router.assign(requests(count))]


@pytest.mark.parametrize("unit", ["user", "session", "slate"])
@pytest.mark.parametrize("reserve", [0.05, 0.2, 0.5])
def test_its_share_is_drawn_uniformly_and_the_others_as_the_allocation_says(reserve: float, unit: UnitKind) -> None:
    made = drawn(experiment(reserve, unit), MOVED)
    cells = Counter((one.allocation, one.propensity, version, one.variant) for one, version in made)
    uniform, moved = ("a=50,b=50", 0.5, 0), ("a=5,b=95", 4)
    assert set(cells) == {(*uniform, "a"), (*uniform, "b"), (moved[0], 0.05, 4, "a"), (moved[0], 0.95, 4, "b")}
    reserved = cells[*uniform, "a"] + cells[*uniform, "b"]
    # Four standard deviations of the binomial each.
    assert abs(reserved - reserve * UNITS) < 4 * math.sqrt(UNITS * reserve * (1 - reserve))
    assert abs(cells[*uniform, "a"] - reserved / 2) < 4 * math.sqrt(reserved / 4)
    others = UNITS - reserved
    assert abs(cells["a=5,b=95", 0.05, 4, "a"] - 0.05 * others) < 4 * math.sqrt(others * 0.05 * 0.95)


def test_membership_is_independent_of_the_place_in_the_allocation() -> None:
    table = [[0] * 10, [0] * 10]
    for one, version in drawn(experiment(0.3), MOVED):
        table[version == 0][int(bucket("e", one.unit) * 10)] += 1
    assert stats.chi2_contingency(table).pvalue > 1e-4


def test_no_allocation_moves_a_reserved_unit_in_or_out_or_elsewhere() -> None:
    before, after = drawn(experiment(0.2)), drawn(experiment(0.2), {"a": 99, "b": 1})
    members = {one.unit for one, version in after if version == 0}
    assert 0 < len(members) < UNITS
    assert [one for one in before if one[0].unit in members] == [one for one in after if one[0].unit in members]
    others = Counter(one.variant for one, _ in after if one.unit not in members)
    assert 0 < others["b"] < others["a"] / 20


def test_it_is_the_same_after_a_restart_and_sticky_within_one() -> None:
    assert drawn(experiment(0.2), MOVED, 500) == drawn(experiment(0.2), MOVED, 500)
    router = Router([experiment(0.2)], MemoryAssignments())
    first = router.assign(requests(500))
    router.update("e", 1, MOVED)
    again = router.assign(requests(500))
    assert [a.assignment for (a,) in first] == [a.assignment for (a,) in again]
    assert all(a.sticky for (a,) in again)


def test_another_salt_reserves_others() -> None:
    one, other = (
        {a.unit for a, version in drawn(experiment(0.2, salt=salt), MOVED, 2000) if version == 0}
        for salt in ("", "other")
    )
    assert len(one & other) == pytest.approx(2000 * 0.04, abs=4 * math.sqrt(2000 * 0.04 * 0.96))


def test_without_a_reserve_nothing_changes() -> None:
    made = drawn(experiment(0.0), MOVED)
    assert {(one.allocation, version) for one, version in made} == {("a=5,b=95", 4)}


def test_three_variants_share_the_key_of_the_equal_start() -> None:
    start = drawn(experiment(0.0, names="cab"), count=300)
    reserved = {one.allocation for one, version in drawn(experiment(0.5, names="cab"), {"a": 5, "b": 5, "c": 90}, 300)
                if version == 0}  # fmt: skip
    assert reserved == {one.allocation for one, _ in start} == {"a=33,b=33,c=34"}


@settings(max_examples=50, deadline=None)
@given(
    reserve=st.floats(0, 0.5),
    weights=st.lists(st.integers(0, 100), min_size=2, max_size=6).filter(sum),
    unit=st.sampled_from(["user", "session", "slate"]),
)
def test_every_assignment_says_what_it_was_drawn_from(reserve: float, weights: list[int], unit: UnitKind) -> None:
    names = "abcdef"[: len(weights)]
    parts = [100 * weight // sum(weights) for weight in weights]
    parts[parts.index(max(parts))] += 100 - sum(parts)
    shares = dict(zip(names, parts, strict=True))
    found = experiment(reserve, unit, names=names)
    for one, version in drawn(found, shares, 100):
        reserved = bucket("e/reserve", one.unit) < reserve
        shown = equal_percents([name for name, share in shares.items() if share])
        said = dict.fromkeys(shares, 0) | shown if reserved else shares
        assert (one.allocation, version) == (allocation_key(said), 0 if reserved else 4)
        assert one.propensity == said[one.variant] / 100 > 0


def test_a_variant_without_a_share_is_not_shown_to_the_reserve_either() -> None:
    given = drawn(experiment(0.5, names="abc"), {"a": 100, "b": 0, "c": 0}, 300)
    assert {one.variant for one, _ in given} == {"a"}
    assert {one.allocation for one, version in given if version == 0} == {"a=100,b=0,c=0"}
