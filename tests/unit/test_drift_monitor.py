"""The drift monitor: what it must see, what it must not, and that neither order nor a crash changes a bit."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluice.domain.drift import (
    DriftOptions,
    DriftReport,
    Monitor,
    Outcomes,
    Reference,
    Rows,
    check,
    make_reference,
)
from sluice.domain.drift.reference import GROWING
from sluice.errors import ConfigError
from sluice.features.definition import BASE_NAMES

HOUR = 3_600_000
COLUMNS = ("user_history", "user_like_rate", "item_quality", "genre=Drama")


@dataclass
class World:
    """What users are shown: 5 rows a visit, in the hour `at`; what differs between users stays with them."""

    rng: np.random.Generator
    first: int = 0

    def visit(self, users: int, at: int) -> tuple[Rows, Outcomes]:
        rng, n = self.rng, 5
        ids = [f"u{self.first + number // n}" for number in range(users * n)]
        self.first += users
        of_user = np.repeat(rng.normal(size=(users, 2)), n, axis=0)
        history = np.repeat(rng.choice([0.0, 0.3, 0.6, 0.9], size=users), n)
        features = np.column_stack([
            history, 0.5 + 0.1 * of_user[:, 0] + 0.2 * history, rng.normal(size=users * n), rng.random(users * n) < 0.4,
        ])  # fmt: skip
        score = 1 / (1 + np.exp(-(0.5 * of_user[:, 0] + 0.7 * features[:, 2])))
        clicked = rng.random(users * n) < 1 / (1 + np.exp(-(0.5 * of_user.sum(axis=1) + 0.7 * features[:, 2])))
        at_ms = at * HOUR + rng.integers(0, HOUR, users * n)
        return Rows(ids, at_ms, features, score), Outcomes(ids, at_ms, features, score, clicked)


@pytest.fixture(scope="module")
def reference() -> Reference:
    rows, outcomes = World(np.random.default_rng(1), first=10_000).visit(600, 0)
    return make_reference(COLUMNS, rows, outcomes, {"item_quality": 1.0})


OPTIONS = DriftOptions(window_ms=HOUR)


def watched(reference: Reference, hours: int, change: object = None, users: int = 40, seed: int = 2) -> DriftReport:
    """change: (rows, outcomes) → the same of the other world, from the middle on."""
    world, monitor = World(np.random.default_rng(seed)), Monitor(reference, "model", "1", OPTIONS)
    for hour in range(hours):
        rows, outcomes = world.visit(users, hour)
        if callable(change) and hour >= hours // 2:
            rows, outcomes = change(rows, outcomes)
        monitor.take(rows)
        monitor.take_outcomes(outcomes)
    return monitor.close_until(hours * HOUR)


def with_column(rows: Rows, column: int, values: object) -> Rows:
    features = rows.features.copy()
    features[:, column] = values
    return rows._replace(features=features)


def test_without_a_change_nothing_is_alarmed(reference: Reference) -> None:
    reports = [watched(reference, 10, users=30, seed=seed) for seed in range(20)]
    assert sum(report.drifted for report in reports) == 0
    assert reports[0].window.number == 10
    assert {one.name for one in reports[0].features} == {*COLUMNS, "score"}
    assert all(0 < one.p_value <= 1 for one in reports[0].features)
    assert reports[0].performance.measures[0].value == pytest.approx(reports[0].performance.click_rate)


@pytest.mark.parametrize(
    ("column", "change"),
    [
        ("item_quality", lambda rows: rows.features[:, 2] + 1.0),
        ("item_quality", lambda rows: rows.features[:, 2] * 0.2),
        ("item_quality", lambda rows: np.zeros(len(rows.score))),
        ("item_quality", lambda rows: np.where(np.arange(len(rows.score)) % 4, rows.features[:, 2], np.nan)),
        ("genre=Drama", lambda rows: np.ones(len(rows.score))),
        ("genre=Drama", lambda rows: np.where(np.arange(len(rows.score)) % 4, rows.features[:, 3], 0.5)),
        ("user_history", lambda rows: np.full(len(rows.score), np.nan)),
    ],
    ids=["shift", "narrower", "frozen", "missing", "frozen flag", "new category", "growing missing"],
)
def test_a_feature_that_changes_is_named(reference: Reference, column: str, change: object) -> None:
    assert callable(change)
    report = watched(
        reference, 20, lambda rows, outcomes: (with_column(rows, COLUMNS.index(column), change(rows)), outcomes)
    )
    assert column in [one.name for one in report.features if one.drifted]
    first = next(one for one in report.features if one.name == column)
    assert report.drifted and first.since_ms is not None and first.began_ms is not None
    assert first.since_ms > 10 * HOUR, "not before the change"
    assert report.since_ms == min(one.since_ms for one in report.features if one.since_ms is not None)
    assert not report.performance.drifted


def test_what_grows_by_construction_is_no_drift(reference: Reference) -> None:
    report = watched(reference, 20, lambda rows, outcomes: (with_column(rows, 0, 0.9), outcomes))
    assert not any(one.drifted for one in report.features if one.name == "user_history")


def test_fewer_clicks_are_drift_of_performance_not_of_features(reference: Reference) -> None:
    report = watched(
        reference,
        20,
        lambda rows, outcomes: (rows, outcomes._replace(clicked=outcomes.clicked & (outcomes.score > 0.5))),
    )
    assert report.performance.drifted and report.drifted
    assert report.performance.click_rate < report.performance.expected_click_rate - 0.1
    calibration = {one.name: one for one in report.performance.measures}["calibration"]
    assert calibration.drifted and calibration.since_ms is not None and calibration.since_ms > 10 * HOUR
    assert calibration.effect is not None and calibration.effect < 0


def test_a_feature_that_means_something_else_now_is_named(reference: Reference) -> None:
    def change(rows: Rows, outcomes: Outcomes) -> tuple[Rows, Outcomes]:
        return rows, outcomes._replace(clicked=outcomes.features[:, 3] > 0)

    found = {one.name: one for one in watched(reference, 20, change).features}
    assert found["genre=Drama"].drifted
    assert found["genre=Drama"].relation_p_value < 1e-3
    assert found["genre=Drama"].p_value > 0.01, "its distribution is what it was"


def test_a_user_who_comes_back_counts_once(reference: Reference) -> None:
    # One odd user, again and again: evidence of one user, whatever the number of rows and windows.
    monitor = Monitor(reference, "model", "1", OPTIONS)
    rows, outcomes = World(np.random.default_rng(3)).visit(1, 0)
    odd = with_column(rows, 2, 5.0)
    for hour in range(200):
        monitor.take(odd._replace(at_ms=odd.at_ms + hour * HOUR))
        monitor.take_outcomes(outcomes._replace(at_ms=odd.at_ms + hour * HOUR, clicked=np.zeros(5, dtype=bool)))
    assert not monitor.close_until(200 * HOUR).drifted


def test_outcomes_are_judged_when_their_own_time_has_come(reference: Reference) -> None:
    monitor, (rows, outcomes) = Monitor(reference, "model", "1", OPTIONS), World(np.random.default_rng(4)).visit(30, 0)
    monitor.take(rows)
    early = monitor.close_until(HOUR, 0)
    assert (early.window.number, early.performance.impressions, early.performance.click_rate) == (1, 0, None)
    monitor.take_outcomes(outcomes)
    late = monitor.close_until(2 * HOUR, HOUR)
    assert late.performance.impressions == 150
    assert late.window.late == 0
    monitor.take(rows)
    assert monitor.report().window.late == 150
    assert monitor.close_until(3 * HOUR).window.number == 1


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), parts=st.integers(1, 4))
def test_order_and_partitions_change_no_bit(reference: Reference, seed: int, parts: int) -> None:
    rng = np.random.default_rng(seed)
    world = World(np.random.default_rng(5))
    visits = [world.visit(8, hour) for hour in range(4)]
    whole = Monitor(reference, "model", "1", OPTIONS)
    monitors = [Monitor(reference, "model", "1", OPTIONS) for _ in range(parts)]
    for rows, outcomes in visits:
        whole.take(rows)
        whole.take_outcomes(outcomes)
    for place in rng.permutation(4):
        rows, outcomes = visits[place]
        for part, monitor in zip(np.array_split(rng.permutation(40), parts), monitors, strict=True):
            users = [rows.user[row] for row in part]
            monitor.take(Rows(users, rows.at_ms[part], rows.features[part], rows.score[part]))
            monitor.take_outcomes(
                Outcomes(users, rows.at_ms[part], rows.features[part], rows.score[part], outcomes.clicked[part])
            )
    for other in monitors[1:]:
        monitors[0].merge(other)
    assert monitors[0].close_until(4 * HOUR) == whole.close_until(4 * HOUR)


def test_a_reference_comes_back_from_its_file(reference: Reference) -> None:
    assert Reference.load(reference.dump()) == reference


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"format": 99}, "train the model again"),
        ({"columns": ["a", "b"]}, "not those of its columns"),
        ({"age": "nobody"}, "none of its columns"),
        ({"age_edges": [0.1]}, "every age and bin"),
        ({"performance": None}, "performance"),
    ],
)
def test_a_reference_that_cannot_be_used_is_refused(reference: Reference, change: dict[str, object], told: str) -> None:
    data = msgspec.json.encode(msgspec.json.decode(reference.dump()) | change)
    with pytest.raises(ConfigError, match=told):
        Reference.load(data)
    with pytest.raises(ConfigError, match=r"drift\.json"):
        Reference.load(data[:-20])


def test_rows_of_another_model_are_refused(reference: Reference) -> None:
    rows, _ = World(np.random.default_rng(7)).visit(2, 0)
    with pytest.raises(ConfigError, match="rows of 3 features, its reference has 4"):
        Monitor(reference, "model", "1").take(rows._replace(features=rows.features[:, :3]))


def test_too_few_users_make_no_reference() -> None:
    rows, outcomes = World(np.random.default_rng(8)).visit(5, 0)
    with pytest.raises(ConfigError, match="5 users; at least 20"):
        make_reference(COLUMNS, rows, outcomes)


def test_a_batch_is_checked_at_once(reference: Reference) -> None:
    rows, _ = World(np.random.default_rng(9)).visit(200, 7)
    assert not check(reference, rows, "model", "1").drifted
    report = check(reference, with_column(rows, 2, rows.features[:, 2] + 1.5), "model", "1")
    assert [one.name for one in report.features if one.drifted] == ["item_quality"]


def test_growing_features_are_features() -> None:
    assert set(BASE_NAMES) >= GROWING


def test_options_that_make_no_sense_are_refused(reference: Reference) -> None:
    for options in (
        DriftOptions(alpha=0), DriftOptions(window_ms=0), DriftOptions(features=0), DriftOptions(settle_users=19),
    ):  # fmt: skip
        with pytest.raises(ConfigError):
            Monitor(reference, "model", "1", options)
