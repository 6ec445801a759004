"""Impressions by cohort and outcomes by delay, as snapshots tell of them. The schedules hold them to the recount."""

from __future__ import annotations

import msgspec
import pytest
from event_logs import click, impression
from one_partition import Partition

from sluice.domain.definitions import DELAY_BINS, MAX_COHORTS, Definitions
from sluice.domain.events import Assignment, DelayCohorts, Heartbeat, StatsPublished, VariantDelays, encode
from stream_processors import cohorts

BY = Definitions(1600, 100, 10**6, 500)
"""Cohorts of 100 ms"""


def under(variant: str, kind: str = "slate", experiment: str = "e") -> Assignment:
    return Assignment(experiment, variant, "", "u", 0.5, kind)  # type: ignore[arg-type]


def beat(at_ms: int) -> bytes:
    return encode(Heartbeat(at_ms=at_ms))


def told(partition: Partition) -> DelayCohorts:
    found = partition.count().delays
    assert found is not None
    return found


@pytest.mark.parametrize("kind", ["slate", "user"])
@pytest.mark.parametrize("restarted", [False, True])
def test_impressions_by_cohort_and_clicks_by_delay(kind: str, restarted: bool) -> None:
    # cohorts   |0   |100  |200 …        watermark 250
    # shown      10 99  100       310 (ahead)
    partition = Partition(BY)
    shown = [impression(n, f"u{n}", at, under("a", kind)) for n, at in enumerate((10, 99, 100, 310))]
    clicks = [click(0, "u0", 10), click(1, "u1", 198), click(1, "u1", 198), click(2, "u2", 200), beat(250)]
    partition.write(impressions=shown, clicks=[*clicks, click(2, "u2", 249, "rating", 4000)])
    found = told(partition)
    wanted = VariantDelays(experiment="e", variant="a", impressions=(2, 1), ahead=1, outcomes={"click": ((2,), (0, 1))})
    assert found == DelayCohorts(start_ms=0, cohort_ms=100, variants=(wanted,))
    if restarted:
        partition.restart()
        assert partition.counter.snapshot().delays == found


def test_a_delay_of_the_whole_window_is_in_the_last_bin() -> None:
    partition = Partition(BY)
    shown = [impression(n, "u", 0, under("a")) for n in (1, 2, 3)]
    clicks = [click(1, "u", 1600), click(2, "u", 1599), click(3, "u", 1499)]
    partition.write(impressions=[*shown, beat(1600)], clicks=clicks[::-1])
    (one,) = told(partition).variants
    assert one.outcomes == {"click": ((*[0] * 14, 1, 2),)}


@pytest.mark.parametrize(("window_ms", "width"), [(0, 1), (1, 1), (15, 1), (16, 1), (17, 2), (1_800_000, 112_500)])
def test_sixteen_bins_reach_over_any_window(window_ms: int, width: int) -> None:
    by = Definitions(window_ms, 0, 0, 1)
    assert by.cohort_ms == width
    assert window_ms <= DELAY_BINS * width < window_ms + 2 * DELAY_BINS


def test_cohorts_are_told_of_until_lateness_and_two_windows_have_passed() -> None:
    partition = Partition(BY)
    partition.write(impressions=[impression(1, "u", 150, under("a")), beat(3400)], clicks=[beat(3400)])
    assert told(partition).start_ms == 100
    assert [one.impressions for one in told_again(partition, 3400).variants] == [(1,)]
    assert told_again(partition, 3401) == DelayCohorts(start_ms=200, cohort_ms=100, variants=())


def told_again(partition: Partition, at_ms: int) -> DelayCohorts:
    partition.write(impressions=[beat(at_ms)], clicks=[beat(at_ms)])
    return told(partition)


def test_there_are_at_most_65_cohorts_however_late_records_may_be() -> None:
    partition = Partition(Definitions(1600, 10**6, 10**6, 500))
    partition.write(
        impressions=[impression(n, "u", 100 * n, under("a")) for n in range(200)], clicks=[beat(100 * 199 + 50)]
    )
    found = told(partition)
    (one,) = found.variants
    assert found.start_ms == 100 * (199 - MAX_COHORTS)
    assert one.impressions == (1,) * (MAX_COHORTS + 1)


def test_nothing_is_told_before_both_topics_had_an_event() -> None:
    partition = Partition(BY)
    partition.write(impressions=[impression(1, "u", 10, under("a"))])
    assert partition.count().delays is None


def test_what_a_moved_unit_was_shown_is_in_no_cohort() -> None:
    partition = Partition(BY)
    shown = [impression(1, "u", 10, under("a", "user")), impression(2, "u", 20, under("b", "user"))]
    partition.write(impressions=shown, clicks=[click(1, "u", 30), click(2, "u", 30)])
    partition.count()
    partition.restart()
    (one,) = told_again(partition, 40).variants
    assert one == VariantDelays(experiment="e", variant="a", impressions=(1,), outcomes={"click": ((1,),)})


def test_the_pairs_with_the_most_impressions_have_room(monkeypatch: pytest.MonkeyPatch) -> None:
    partition = Partition(BY)
    shown = [
        impression(f"{n}.{k}", "u", 10, under("a", experiment=f"e{n:02}")) for n in range(70) for k in range(n + 1)
    ]
    partition.write(impressions=shown, clicks=[beat(20)])
    found = told(partition)
    assert [one.experiment for one in found.variants] == [f"e{n:02}" for n in range(6, 70)]
    assert found.left_out == 6
    monkeypatch.setattr(cohorts, "MAX_NUMBERS", 3)
    fewer = partition.counter.snapshot().delays
    assert fewer is not None
    assert ([one.experiment for one in fewer.variants], fewer.left_out) == (["e67", "e68", "e69"], 67)


def test_the_outcomes_that_are_most_frequent_have_room() -> None:
    partition = Partition(BY)
    names = [f"o{n}" for n in range(6)]
    shown = [impression(n, "u", 10, under("a")) for n in range(6)]
    clicks = [click(n, "u", 15, name) for place, name in enumerate(names) for n in range(place + 1)]
    partition.write(impressions=shown, clicks=clicks)
    (one,) = told(partition).variants
    assert one.outcomes == {f"o{n}": ((n + 1,),) for n in range(2, 6)}


def test_snapshots_of_earlier_versions_decode() -> None:
    partition = Partition(BY)
    partition.write(impressions=[impression(1, "u", 10, under("a"))], clicks=[beat(10)])
    fields = msgspec.json.decode(encode(partition.count()))
    del fields["delays"], fields["moved"]
    old = msgspec.json.decode(msgspec.json.encode(fields), type=StatsPublished)
    assert (old.delays, old.moved) == (None, ())
