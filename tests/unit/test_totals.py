"""Which snapshot of a partition counts, and which record is none."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from analyzer.engine import decide
from analyzer.totals import Totals, parse_snapshot
from sluice.domain.events import DelayCohorts, MovedUnits, StatsCell, StatsPublished, VariantDelays, encode
from sluice.domain.experiment import Experiment, Variant
from sluice.domain.statistics import CellStatistics, OutcomeStatistics
from sluice.errors import InvalidEvent


def cell(name: str, units: int, clicks: int = 0) -> StatsCell:
    statistics = CellStatistics(units, units, units, {"click": OutcomeStatistics(clicks, clicks, clicks)})
    return StatsCell(experiment=name, variant="a", allocation="a=50,b=50", statistics=statistics)


def stats(partition: int, offsets: tuple[int, int], *cells: StatsCell, lateness_ms: int = 0) -> StatsPublished:
    return StatsPublished(
        partition=partition,
        impressions_offset=offsets[0],
        clicks_offset=offsets[1],
        window_ms=1000,
        lateness_ms=lateness_ms,
        at_ms=offsets[0],
        watermark_ms=0,
        cells=cells,
        records={},
    )


def impossible(units: int, impressions: int, squared: int) -> bytes:
    statistics = CellStatistics(units, impressions, squared)
    return encode(stats(0, (1, 1), StatsCell(experiment="x", variant="a", allocation="", statistics=statistics)))


def experiment(name: str, **changes: Any) -> Experiment:
    return Experiment(name=name, variants=(Variant(name="a"), Variant(name="b")), **changes)


def units(totals: Totals, name: str) -> int:
    return sum(cell.statistics.units for cell in totals.snapshot(experiment(name)).cells)


def test_partitions_add_up() -> None:
    totals = Totals()
    assert totals.offer(stats(0, (5, 5), cell("x", 3))) == {"x"}
    assert totals.offer(stats(1, (7, 2), cell("x", 4), cell("y", 1))) == {"x", "y"}
    found = totals.snapshot(experiment("x"))
    assert units(totals, "x") == 7
    assert found.offsets == {0: (5, 5), 1: (7, 2)}
    assert found.at_ms == 7
    assert totals.experiments == {"x", "y"}


def test_only_what_changed_is_reported() -> None:
    totals = Totals()
    totals.offer(stats(0, (5, 5), cell("x", 3), cell("y", 1)))
    assert totals.offer(stats(0, (6, 5), cell("x", 3), cell("y", 2))) == {"y"}
    assert totals.offer(stats(0, (7, 5), cell("y", 2))) == {"x"}


@pytest.mark.parametrize("offsets", [(5, 5), (4, 5), (5, 0), (0, 0)])
def test_a_snapshot_that_holds_less_is_left_out(offsets: tuple[int, int]) -> None:
    totals = Totals()
    totals.offer(stats(0, (5, 5), cell("x", 3)))
    assert totals.offer(stats(0, offsets, cell("x", 1))) == set()
    assert units(totals, "x") == 3


def test_a_recount_counts_once_it_has_come_as_far_in_any_interleaving() -> None:
    totals = Totals()
    totals.offer(stats(0, (100, 100), cell("x", 90)))
    assert totals.offer(stats(0, (120, 50), cell("x", 95))) == set()
    assert totals.offer(stats(0, (120, 90), cell("x", 96))) == {"x"}


def test_other_definitions_replace_at_once() -> None:
    totals = Totals()
    totals.offer(stats(0, (5, 5), cell("x", 3)))
    assert totals.offer(stats(0, (1, 1), cell("x", 1), lateness_ms=9)) == {"x"}
    assert units(totals, "x") == 1


def test_an_experiment_that_was_never_counted_is_empty() -> None:
    assert Totals().snapshot(experiment("x")) == ((), {}, -1, (), (), None, None)


def test_a_snapshot_is_read_back() -> None:
    good = stats(0, (5, 5), cell("x", 3, 2))
    assert parse_snapshot(encode(good)) == good


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (b"", "truncated"),
        (b"\xff", "malformed"),
        (b'{"type":"impression"}', "impression"),
        (encode(stats(-1, (0, 0))), "≥ 0"),
        (encode(stats(0, (-1, 0))), "≥ 0"),
        (encode(stats(0, (1, 1), cell("x", 3, -1))), "≥ 0"),
        (
            impossible(0, 3, 3),
            "no 0 units",
        ),
        (
            impossible(5, 3, 3),
            "does not hold",
        ),
        (
            impossible(2, 9, 40),
            "no 2 units",
        ),
    ],
)
def test_what_no_counting_can_give_is_refused(bad: bytes, words: str) -> None:
    with pytest.raises(InvalidEvent, match=words):
        parse_snapshot(bad)


def test_an_empty_record_is_refused() -> None:
    with pytest.raises(InvalidEvent, match="empty"):
        parse_snapshot(None)


def test_segments_belong_to_their_experiment() -> None:
    totals = Totals()
    cells = [cell("x", 10, 20), cell("x@history=new", 4, 8), cell("x@device=tv", 10, 20), cell("y@history=new", 1, 2)]
    assert totals.offer(stats(0, (5, 5), *cells)) == {"x"}
    totals.offer(stats(1, (5, 5), cell("x", 3, 3), cell("x@history=new", 3, 3)))
    assert totals.experiments == {"x"}
    found = totals.snapshot(experiment("x", segments=("history",))).segments
    assert [(one.key, one.value, one.variant, one.units) for one in found] == [
        ("history", "new", "a", 7),
        ("history", "new", "b", 0),
    ]
    assert totals.snapshot(experiment("x")).segments == ()


def test_moved_units_add_up_over_partitions() -> None:
    totals = Totals()
    for partition, (units, shown) in enumerate([(2, 9), (1, 4)]):
        moved = (MovedUnits(experiment="x", variant="b", units=units, impressions=shown),)
        snapshot = msgspec.structs.replace(stats(partition, (5, 5), cell("x", 3)), moved=moved)
        assert parse_snapshot(encode(snapshot)) == snapshot
        totals.offer(snapshot)
    (found,) = totals.snapshot(experiment("x")).moved
    assert (found.variant, found.units, found.impressions) == ("b", 3, 13)
    assert totals.snapshot(experiment("y")).moved == ()


def delayed(cohorts: int, clicks: tuple[int, ...], total: int, *, ahead: int = 0) -> StatsPublished:
    """Window 160 ms, cohorts of 10 ms; each cohort has 100 impressions of `a`, whose clicks take 0 to 160 ms evenly."""
    one = VariantDelays(
        experiment="x", variant="a", impressions=(100,) * cohorts, ahead=ahead,
        outcomes={"click": tuple((clicks[place],) * min(cohorts - place, 16) for place in range(cohorts))},
    )  # fmt: skip
    found = sum(clicks[place] * min(cohorts - place, 16) for place in range(cohorts))
    held = stats(0, (5, 5), cell("x", total, found))
    return msgspec.structs.replace(
        held, window_ms=160, watermark_ms=10 * cohorts,
        delays=DelayCohorts(start_ms=0, cohort_ms=10, variants=(one,)),
    )  # fmt: skip


def test_open_windows_count_by_the_chance_that_their_click_is_there() -> None:
    totals = Totals()
    totals.offer(parse_snapshot(encode(delayed(32, (2,) * 32, 3200, ahead=0))))
    found = totals.snapshot(experiment("x")).delay
    assert found is not None
    assert not found.immature
    # Sixteen cohorts are open, aged 0 to 160 ms evenly, and delays are even: half of their 1,600 impressions count.
    assert found.impressions["a"] == pytest.approx(2400, rel=0.02)
    assert found.impressions["b"] == 0
    assert found.inflation["a"] >= 1


def test_impressions_ahead_of_the_watermark_do_not_count_yet() -> None:
    totals = Totals()
    totals.offer(delayed(32, (2,) * 32, 3700, ahead=500))
    found = totals.snapshot(experiment("x")).delay
    assert found is not None
    assert found.impressions["a"] == pytest.approx(2400, rel=0.02)


def test_before_the_oldest_impression_is_as_old_as_the_window_nothing_is_decided() -> None:
    totals = Totals()
    totals.offer(delayed(8, (2,) * 8, 800))
    found = totals.snapshot(experiment("x"))
    assert found.delay is not None
    assert found.delay.immature
    both = (*found.cells, msgspec.structs.replace(found.cells[0], variant="b"))
    decision = decide(experiment("x"), found._replace(cells=both))
    assert decision.verdict == "insufficient-data"


@pytest.mark.parametrize(
    ("snapshot", "words"),
    [
        (delayed(32, (2,) * 32, 3100), "more impressions than were counted"),
        (delayed(32, (-1,) * 32, 3200), "≥ 0"),
        (delayed(32, (2,) * 32, 3200, ahead=-1), "≥ 0"),
    ],
)
def test_cohorts_that_no_counting_can_give_are_refused(snapshot: StatsPublished, words: str) -> None:
    with pytest.raises(InvalidEvent, match=words):
        parse_snapshot(encode(snapshot))


def test_without_cohorts_everything_counts_in_full() -> None:
    totals = Totals()
    totals.offer(stats(0, (5, 5), cell("x", 3)))
    assert totals.snapshot(experiment("x")).delay is None
    short_of_room = delayed(32, (2,) * 32, 3200)
    assert short_of_room.delays is not None
    totals.offer(short_of_room)
    assert totals.snapshot(experiment("x")).delay is not None
    less = msgspec.structs.replace(short_of_room.delays, left_out=1)
    totals.offer(msgspec.structs.replace(short_of_room, impressions_offset=9, delays=less))
    assert totals.snapshot(experiment("x")).delay is None


def test_a_recount_by_newer_rules_replaces_at_once() -> None:
    totals = Totals()
    totals.offer(stats(0, (500, 500), cell("x", 3)))
    assert totals.offer(delayed(32, (2,) * 32, 3200)) == {"x"}
    assert units(totals, "x") == 3200


def test_quiet_hours_do_not_make_old_evidence_immature() -> None:
    """All that the last two windows saw is fresh, but most impressions are older than that."""
    totals = Totals()
    totals.offer(delayed(8, (2,) * 8, 50_000))
    found = totals.snapshot(experiment("x")).delay
    assert found is not None
    assert not found.immature
    assert 49_200 <= found.impressions["a"] <= 50_000
    assert found.inflation["a"] < 1.2
