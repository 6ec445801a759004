"""A monitor that makes its reference of what its version shows: when, of what, and that no order of rows matters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from sluice.domain.drift import (
    DriftOptions,
    DriftReport,
    Monitor,
    Outcomes,
    Reference,
    Rows,
    SettlingMonitor,
    make_reference,
    monitor_of,
    settling,
)
from sluice.errors import ConfigError

HOUR = 3_600_000
COLUMNS = ("user_history", "user_like_rate", "item_quality")
EACH = 4
"""Rows of a user in an hour"""
OPTIONS = DriftOptions(window_ms=HOUR, settle_users=50)


@dataclass
class World:
    """Users who are never the same: so many an hour, each shown `EACH` items."""

    seed: int
    users: int = 20
    quality: float = 0.0
    """Mean of what is shown: a model that shows other items than another one"""

    def hour(self, at: int) -> tuple[Rows, Outcomes]:
        rng, n = np.random.default_rng([self.seed, at]), self.users * EACH
        ids = [f"h{at}u{row // EACH}" for row in range(n)]
        liking = np.repeat(rng.normal(size=self.users), EACH)
        quality = rng.normal(size=n) + self.quality
        features = np.column_stack([np.repeat(rng.choice([0.0, 0.5], self.users), EACH), liking, quality])
        score = 1 / (1 + np.exp(-0.5 * liking - 0.5 * quality))
        at_ms = at * HOUR + rng.integers(0, HOUR, n)
        return Rows(ids, at_ms, features, score), Outcomes(ids, at_ms, features, score, rng.random(n) < score)


@pytest.fixture(scope="module")
def reference() -> Reference:
    """Of items that others had chosen"""
    made = make_reference(COLUMNS, *World(1, users=600).hour(0), {"item_quality": 1.0})
    return replace(made, shown_by="others")


def followed(monitor: Monitor | SettlingMonitor, world: World, hours: range) -> DriftReport:
    """The report after the last of the hours; outcomes are known an hour later."""
    for hour in hours:
        rows, outcomes = world.hour(hour)
        monitor.take(rows)
        monitor.take_outcomes(outcomes)
        report = monitor.close_until((hour + 1) * HOUR, hour * HOUR)
    return report


def test_what_others_chose_is_no_yardstick_and_what_itself_chose_is(reference: Reference) -> None:
    better = World(2, quality=1.0)
    misled = followed(Monitor(reference, "model", "2", OPTIONS), better, range(20))
    assert misled.drifted, "a better choice of items looks like drift"
    settled = followed(monitor_of(reference, "model", "2", OPTIONS), better, range(20))
    assert not settled.drifted
    assert settled.window.number == 17, "hours 3 to 19"
    quality = next(one for one in settled.features if one.name == "item_quality")
    assert abs(quality.effect or 0) < 0.1
    assert quality.importance == 1.0, "as at the training"
    own = monitor_of(replace(reference, shown_by="itself"), "model", "1", OPTIONS)
    assert isinstance(own, Monitor), "a reference of its own needs no settling"
    assert isinstance(monitor_of(own.reference, "model", "1", OPTIONS, of_part=True), SettlingMonitor)


def test_it_says_how_far_it_is_until_the_window_with_enough_users_is_closed(reference: Reference) -> None:
    # users  20 | 20 | 20 | ...      needed 50:  reference |----------------| watched ...
    monitor, world = SettlingMonitor(reference, "model", "2", OPTIONS), World(3)
    assert monitor.report().settling == settling.SettlingSeen(users=0, needed=50, rows=0, since_ms=0)
    reports = [followed(monitor, world, range(hour, hour + 1)) for hour in range(5)]
    told = [(one.settling.users, one.settling.rows) if one.settling else None for one in reports]
    assert told == [(0, 0), (20, 80), (40, 160), None, None]
    assert [one.settled_ms for one in reports] == [None, None, None, 3 * HOUR, 3 * HOUR]
    assert [one.window.number for one in reports] == [0, 0, 0, 1, 2]
    assert reports[-1].window.start_ms == 3 * HOUR
    assert not any(one.drifted for one in reports)


def test_what_changes_after_it_has_settled_is_drift(reference: Reference) -> None:
    monitor = SettlingMonitor(reference, "model", "2", replace(OPTIONS, settle_users=100))
    followed(monitor, World(4, quality=1.0), range(12))
    report = followed(monitor, World(4, quality=2.2), range(12, 40))
    assert next(one.name for one in report.features if one.drifted) == "item_quality"
    assert report.since_ms is not None and report.since_ms > 12 * HOUR
    assert report.settled_ms == 5 * HOUR


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), looks=st.lists(st.integers(0, 9), max_size=4))
def test_neither_order_nor_batches_nor_looks_change_what_it_says(
    reference: Reference, seed: int, looks: list[int]
) -> None:
    rng, world = np.random.default_rng(seed), World(5)
    hours = [world.hour(hour) for hour in range(10)]
    rows, outcomes = (joined(tables) for tables in zip(*hours, strict=True))
    whole, other = (SettlingMonitor(reference, "model", "2", OPTIONS) for _ in range(2))
    whole.take(rows)
    whole.take_outcomes(outcomes)
    # |--- hour 0 ---|--- hour 1 ---| …      `other` is told of the hours before each look, in any order
    bounds = [0, *sorted(set(looks) - {0}), 10]
    for begin, end in pairwise(bounds):
        for table, take in ((rows, other.take), (outcomes, other.take_outcomes)):
            places = np.flatnonzero((table.at_ms >= begin * HOUR) & (table.at_ms < end * HOUR))
            for part in np.array_split(rng.permutation(places), 3):
                take(at(table, part))
        other.close_until(end * HOUR)
    assert other.report() == whole.close_until(10 * HOUR)


def test_too_many_rows_end_the_reference_sooner(reference: Reference, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settling, "MAX_ROWS", 100)
    report = followed(SettlingMonitor(reference, "model", "2", OPTIONS), World(6), range(6))
    assert report.settled_ms is not None and HOUR < report.settled_ms < 2 * HOUR, "20 users of 4 rows, then 5 more"
    assert report.window.start_ms == 2 * HOUR, "a window is watched whole"


def test_many_rows_of_few_users_are_forgotten_and_it_is_said(
    reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settling, "MAX_ROWS", 100)
    monitor = SettlingMonitor(reference, "model", "2", OPTIONS)
    for hour in range(60):
        rows, outcomes = World(7, users=3).hour(hour)
        same = [user.partition("u")[2] for user in rows.user]
        monitor.take(rows._replace(user=same))
        monitor.take_outcomes(outcomes._replace(user=same))
        seen = monitor.close_until((hour + 1) * HOUR).settling
        assert seen is not None and seen.users <= 3 and seen.rows <= 100
    assert seen.since_ms > 50 * HOUR
    assert sum(len(one.score) for one in monitor._rows) <= 100
    report = followed(monitor, World(7), range(60, 70))
    assert report.settled_ms is not None, "with enough users it settles after all"


def test_rows_of_another_model_are_refused_while_it_settles(reference: Reference) -> None:
    rows, _ = World(8).hour(0)
    with pytest.raises(ConfigError, match="rows of 2 features, its reference has 3"):
        SettlingMonitor(reference, "model", "2").take(rows._replace(features=rows.features[:, :2]))


def joined(tables: Sequence[Any]) -> Any:
    users = [user for table in tables for user in table.user]
    return tables[0]._make([users, *map(np.concatenate, zip(*(table[1:] for table in tables), strict=True))])


def at(table: Any, places: np.ndarray) -> Any:
    return table._make([[table.user[place] for place in places], *(column[places] for column in table[1:])])
