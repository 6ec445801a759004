"""Users and sessions that appear under a second variant stay in the cell of their first impression."""

from __future__ import annotations

from typing import Any

import pytest
from event_logs import click, impression
from one_partition import Partition

from sluice.domain.definitions import RULES, Definitions
from sluice.domain.events import Assignment, Heartbeat, MovedUnits, StatsPublished, encode
from sluice.errors import Fenced
from stream_processors.partition import PartitionCounter

BY = Definitions(1000, 100, 10**6, 500)


def under(variant: str, allocation: str = "a=50,b=50", unit: str = "u", kind: Any = "user") -> Assignment:
    return Assignment("e", variant, allocation, unit, 0.5, kind)


def cells(found: StatsPublished) -> dict[tuple[str, str], tuple[int, int, int]]:
    """(variant, allocation) → units, impressions, clicks."""
    return {
        (c.variant, c.allocation): (c.statistics.units, c.statistics.impressions, c.statistics.outcome("click").count)
        for c in found.cells
    }


@pytest.fixture
def partition() -> Partition:
    return Partition(BY)


@pytest.mark.parametrize("kind", ["user", "session"])
@pytest.mark.parametrize("restarted", [False, True])
def test_what_a_moved_unit_was_shown_is_counted_apart(partition: Partition, kind: Any, restarted: bool) -> None:
    partition.write(impressions=[impression(1, "u", 10, under("a", kind=kind))], clicks=[click(1, "u", 11)])
    partition.count()
    if restarted:
        partition.restart()
    shown = [impression(n, "u", 20, under("b", kind=kind)) for n in (2, 3)]
    back = impression(4, "u", 30, under("a", kind=kind))
    partition.write(impressions=[*shown, back], clicks=[click(2, "u", 21), click(4, "u", 31)])
    found = partition.count()
    assert cells(found) == {("a", "a=50,b=50"): (1, 2, 2)}
    assert found.moved == (MovedUnits(experiment="e", variant="b", units=1, impressions=2),)
    assert found.records["clicks.counted"] == 3


def test_a_new_allocation_of_the_same_variant_is_no_move(partition: Partition) -> None:
    partition.write(
        impressions=[
            impression(1, "u", 10, under("a")),
            impression(2, "u", 20, under("a", "a=70,b=30")),
            impression(3, "v", 20, under("a", "a=70,b=30", "v")),
        ],
        clicks=[click(2, "u", 21)],
    )
    found = partition.count()
    assert cells(found) == {("a", "a=50,b=50"): (1, 2, 1), ("a", "a=70,b=30"): (1, 1, 0)}
    assert found.moved == ()


def test_slates_do_not_move(partition: Partition) -> None:
    shown = [impression(n, "u", 10 * n, under(variant, kind="slate")) for n, variant in ((1, "a"), (2, "b"), (3, "a"))]
    partition.write(impressions=shown)
    assert cells(partition.count()) == {("a", "a=50,b=50"): (2, 2, 0), ("b", "a=50,b=50"): (1, 1, 0)}


def test_a_unit_of_another_user_or_experiment_is_another_unit(partition: Partition) -> None:
    other = Assignment("f", "b", "", "u", 0.5)
    partition.write(
        impressions=[
            impression(1, "u", 10, under("a")),
            impression(2, "v", 10, under("b")),
            impression(3, "u", 10, other),
        ]
    )
    found = partition.count()
    assert [(c.experiment, c.variant, c.statistics.units) for c in found.cells] == [
        ("e", "a", 1),
        ("e", "b", 1),
        ("f", "b", 1),
    ]
    assert found.moved == ()


def test_only_counted_impressions_decide_which_is_first(partition: Partition) -> None:
    """The one under b is earlier in event time, but late: it is no impression at all."""
    partition.write(
        impressions=[
            impression(1, "v", 1000, under("a", unit="v")),
            impression(2, "u", 10, under("b")),
            impression(3, "u", 1000, under("a")),
        ]
    )
    found = partition.count()
    assert cells(found) == {("a", "a=50,b=50"): (2, 2, 0)}
    assert found.moved == ()


def test_moved_units_are_in_no_bucket(partition: Partition) -> None:
    partition.write(impressions=[impression(1, "u", 10, under("a")), impression(2, "u", 20, under("b"))])
    partition.count()
    assert partition.store.read_all(0)[1] == {'["e","a",0]': (1,)}


def test_a_unit_that_the_store_lost_is_not_guessed(partition: Partition) -> None:
    partition.write(impressions=[impression(1, "u", 10, under("a"))])
    partition.count()
    partition.store._of[0].units.clear()
    partition.restart()
    partition.write(clicks=[click(1, "u", 11)])
    with pytest.raises(Fenced, match="unit"):
        partition.count()


def test_counts_of_an_earlier_version_are_counted_again(partition: Partition) -> None:
    """Version 1 kept a unit apart in each cell: its rows would be misread."""
    old = Definitions.decode("1000,100,1000000,500")
    assert old != BY
    assert (old.rules, BY.rules) == (1, RULES)
    assert [by.encode() for by in (old, BY)] == ["1000,100,1000000,500", f"1000,100,1000000,500,{RULES}"]
    partition.write(impressions=[impression(1, "u", 10, under("a"))])
    partition.count()
    hashes = partition.store._of[0]
    hashes.counts["definitions"] = "1000,100,1000000,500"
    hashes.units['["e","a","a=50,b=50","u","u"]'] = "7,7,7"
    stored = partition.store.read(0)
    assert stored is not None
    assert stored.definitions == old
    partition.counter = PartitionCounter(0, BY, stored)
    assert (partition.counter.reset, partition.counter.offsets) == (True, (0, 0))
    assert cells(partition.count()) == {("a", "a=50,b=50"): (1, 1, 0)}
    assert list(partition.store._of[0].units) == ['["e","u","u"]']


def test_a_late_impression_that_a_rebuild_reads_anew_decides_nothing(partition: Partition) -> None:
    """The rebuild starts after the record that made it late, so that it looks like the unit's first."""
    partition.write(impressions=[impression(1, "v", 5000, under("a", unit="v"))])
    partition.count()
    partition.write(impressions=[impression(2, "u", 10, under("b"))])
    assert partition.count().records["impressions.late"] == 1
    partition.write(impressions=[encode(Heartbeat(at_ms=50_000))], clicks=[encode(Heartbeat(at_ms=50_000))])
    partition.count()
    stored = partition.store.read(0)
    assert stored is not None
    assert stored.impressions_low == 1
    partition.restart()
    partition.write(impressions=[impression(3, "u", 50_000, under("a"))])
    found = partition.count()
    assert cells(found) == {("a", "a=50,b=50"): (2, 2, 0)}
    assert found.moved == ()
