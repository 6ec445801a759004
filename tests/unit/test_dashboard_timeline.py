"""Decisions over time in bounded memory: what is kept, what is drawn, where the rest is found."""

from __future__ import annotations

from decisions import decision
from hypothesis import given
from hypothesis import strategies as st

from dashboard.records import Recorded, read_decision
from dashboard.timeline import MAX_POINTS, Place, Timeline, chosen
from sluice.domain.events import encode


def recorded(version: int, allocation_version: int = 1, verdict: str = "continue") -> Recorded:
    return read_decision(encode(decision(version, allocation_version=allocation_version, verdict=verdict)))


def filled(versions: list[int], changes: set[int], room: int) -> Timeline:
    """Decision k stands at offset 3k; the allocation moves at `changes`."""
    timeline, allocation = Timeline(room), 1
    for place, version in enumerate(versions):
        allocation += version in changes
        assert timeline.offer(recorded(version, allocation), Place(0, 3 * place, 5 * place))
    return timeline


@given(
    flags=st.lists(st.booleans(), min_size=1, max_size=300),
    gaps=st.lists(st.integers(1, 50), min_size=300, max_size=300),
    points=st.integers(2, 60),
)
def test_what_is_drawn(flags: list[bool], gaps: list[int], points: int) -> None:
    versions = [sum(gaps[: row + 1]) for row in range(len(flags))]
    rows = chosen(versions, flags, points)
    assert rows == sorted(set(rows)) and len(rows) <= points
    assert {0, len(flags) - 1} <= set(rows)
    musts = {0, len(flags) - 1} | {row for row, flag in enumerate(flags) if flag}
    if len(musts) <= points:
        assert musts <= set(rows)
    if len(flags) <= points:
        assert len(rows) == len(flags)


@given(
    gaps=st.lists(st.integers(1, 3), min_size=1, max_size=120),
    changes=st.sets(st.integers(1, 360), max_size=40),
    room=st.integers(8, 40),
)
def test_what_is_kept_is_bounded_and_finds_the_rest(gaps: list[int], changes: set[int], room: int) -> None:
    versions = [sum(gaps[: row + 1]) for row in range(len(gaps))]
    timeline = filled(versions, changes, room)
    assert len(timeline) <= room
    assert (timeline.first_version, timeline.last_version, timeline.decisions) == (versions[0], versions[-1], len(gaps))
    kept = timeline.series(points=room).version
    moved = {version for version in versions[1:] if version in changes}
    if len(moved) <= room // 2 - 2:
        assert moved <= set(kept)
    for place, version in enumerate(versions):
        start, stop = timeline.bracket(version, version)
        assert start <= 3 * place < stop
    first, last = versions[len(versions) // 3], versions[2 * len(versions) // 3]
    start, stop = timeline.bracket(first, last)
    assert start <= 3 * versions.index(first) <= 3 * versions.index(last) < stop


def test_columns_are_those_of_the_records() -> None:
    series = filled([1, 2, 3], {3}, 100).series(true_rates={"a": 0.5, "b": 0.6})
    assert (series.version, series.wall_ms, series.allocation_version) == ((1, 2, 3), (0, 5, 10), (1, 1, 2))
    assert series.variants["b"].impressions == (10, 20, 30) and series.variants["b"].rate == (0.6, 0.6, 0.6)
    assert series.variants["a"].lower == (0.45, 0.45, 0.45) and series.variants["a"].allocation == (50, 50, 50)
    assert series.regret == (1.0, 2.0, 3.0)  # of a's impressions each cost a tenth of a click


def test_a_few_rates_tell_the_course() -> None:
    timeline = filled(list(range(1, 101)), set(), 200)
    assert timeline.rates("b", 32) == (0.6,) * 32
    assert timeline.rates("c", 32) == timeline.rates(None, 32) == Timeline().rates("b", 32) == ()
    unknown = read_decision(b'{"experiment":"demo","version":101,"results":[{"variant":"b"}]}')
    assert timeline.offer(unknown, Place(0, 400, 0))
    assert len(timeline.rates("b", 200)) == 100


def test_of_one_time_only() -> None:
    timeline = filled(list(range(1, 11)), set(), 100)
    assert timeline.series(after=7).version == (8, 9, 10)
    assert timeline.series(until=2).version == (1, 2)
    assert timeline.series(after=3, until=3).version == ()


def test_a_version_that_does_not_grow_does_not_stand() -> None:
    timeline = filled([5], set(), 100)
    assert not timeline.offer(recorded(5, 2), Place(0, 9, 9)) and not timeline.offer(recorded(4), Place(0, 10, 9))
    assert timeline.series().version == (5,) and timeline.decisions == 1


def test_a_variant_that_comes_later_has_no_past() -> None:
    timeline = Timeline()
    timeline.offer(read_decision(encode(decision(1, results=(), allocation={"a": 100}))), Place(0, 0, 0))
    timeline.offer(recorded(2), Place(0, 1, 0))
    assert timeline.series().variants["b"].impressions == (None, 20)
    assert timeline.series().variants["a"].allocation == (100, 50)


def test_changes_alone_do_not_fill_the_memory() -> None:
    timeline = Timeline(64)
    one = recorded(1)
    for version in range(1, 5000):
        changed = Recorded(**{**{f: getattr(one, f) for f in one.__struct_fields__},
                              "version": version, "allocation_version": version})  # fmt: skip
        timeline.offer(changed, Place(0, version, version))
        assert len(timeline) <= 64
    assert len(timeline) > 16 and timeline.series().version[0] == 1 and timeline.series().version[-1] == 4999


def test_an_hour_at_ten_a_second_keeps_its_bound() -> None:
    timeline = Timeline()
    one = recorded(1)
    for version in range(1, 36_001):
        offered = Recorded(**{**{f: getattr(one, f) for f in one.__struct_fields__}, "version": version})
        timeline.offer(offered, Place(0, version, version))
    assert MAX_POINTS // 4 < len(timeline) <= MAX_POINTS
    drawn = timeline.series()
    assert 500 <= len(drawn.version) <= 600 and drawn.decisions == 36_000
    gaps = [after - before for before, after in zip(drawn.version, drawn.version[1:], strict=False)]
    assert max(gaps) <= 4 * 36_000 / 600
