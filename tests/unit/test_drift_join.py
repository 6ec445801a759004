"""Rankings and clicks joined for a drift monitor, in whatever order they are read."""

from __future__ import annotations

import numpy as np
import pytest

from sluice.domain.drift import Outcomes, Reference, Rows, make_reference
from sluice.domain.events import OutcomeObserved
from sluice.domain.rankings import RankedItem, SlateRanked, columns_digest, pack_features
from sluice.features import VERSION
from stream_processors.drift_join import Joiner

WINDOW, LATENESS = 100, 10
COLUMNS = ("a", "b")
FEATURES = np.array([1.0, np.nan], dtype=np.float32)


@pytest.fixture(scope="module")
def reference() -> Reference:
    rng = np.random.default_rng(0)
    users, at_ms = [f"u{n}" for n in range(40)], np.zeros(40, dtype=np.int64)
    rows = Rows(users, at_ms, rng.random((40, 2)), rng.random(40))
    return make_reference(COLUMNS, rows, Outcomes(*rows, rng.random(40) < 0.5))


@pytest.fixture
def joiner(reference: Reference) -> Joiner:
    return Joiner(reference, "m", "1", window_ms=WINDOW, lateness_ms=LATENESS)


def ranking(at_ms: int, impression: str, **changes: object) -> SlateRanked:
    item = RankedItem(item_id="i", impression_id=impression, score=0.5, shown=1.0, features=pack_features(FEATURES))
    fields = {
        "experiment": "e", "variant": "v", "model": "m", "model_version": "1", "features_version": VERSION,
        "columns": columns_digest(COLUMNS), "user_id": "u", "at_ms": at_ms, "items": (item,), **changes,
    }  # fmt: skip
    return SlateRanked(**fields)  # type: ignore[arg-type]


def click(at_ms: int, impression: str, outcome: str = "click") -> OutcomeObserved:
    return OutcomeObserved(
        click_id=impression + outcome, user_id="u", impression_id=impression, at_ms=at_ms, outcome=outcome
    )


def clicked(joiner: Joiner) -> dict[int, bool]:
    """Time shown → whether clicked"""
    joiner.settle()
    found = joiner.outcomes()
    return {} if found is None else dict(zip(found.at_ms.tolist(), found.clicked.tolist(), strict=True))


def test_clicks_count_inside_the_window_whenever_they_are_read(joiner: Joiner) -> None:
    # impression |--window--|    x: in, y: at its end, z: behind, w: no click
    joiner.click(0, click(50, "x"))
    for at_ms, name in ((0, "x"), (1, "y"), (2, "z"), (3, "w")):
        joiner.ranking(0, ranking(at_ms, name))
    for at_ms, name in ((101, "y"), (103, "z")):
        joiner.click(0, click(at_ms, name))
    joiner.click(0, click(20, "w", outcome="purchase"))
    assert clicked(joiner) == {}, "a click may still come"
    joiner.time(0, WINDOW + LATENESS + 4)
    assert clicked(joiner) == {0: True, 1: True, 2: False, 3: False}
    rows = joiner.rows()
    assert rows is not None and rows.at_ms.tolist() == [0, 1, 2, 3]
    assert rows.features.tobytes() == np.tile(FEATURES, 4).tobytes()
    assert joiner.rows() is None


def test_the_slowest_partition_is_waited_for(joiner: Joiner) -> None:
    joiner.ranking(0, ranking(0, "x"))
    joiner.ranking(1, ranking(0, "y"))
    joiner.time(0, 1000)
    joiner.time(7, 0)  # a partition that never ranked is not
    assert clicked(joiner) == {}
    joiner.time(1, 1000)
    assert clicked(joiner) == {0: False}
    assert (joiner.rows_ms, joiner.outcomes_ms) == (990, 890)


def test_records_that_come_again_count_once(joiner: Joiner) -> None:
    for _ in range(2):
        joiner.ranking(0, ranking(0, "x"))
    joiner.time(0, 1000)
    joiner.settle()
    assert [len(part.at_ms) for part in (joiner.rows(), joiner.outcomes()) if part is not None] == [1, 1]
    joiner.ranking(0, ranking(0, "x"))
    assert joiner.rows() is None


@pytest.mark.parametrize(
    "changes",
    [{"model": "other"}, {"model_version": "2"}, {"random": True}, {"columns": "other"}, {"features_version": 99}],
)
def test_what_is_not_of_this_version_is_left_out(joiner: Joiner, changes: dict[str, object]) -> None:
    joiner.ranking(0, ranking(0, "x", **changes))
    assert joiner.rows() is None
    assert joiner.foreign == ("columns" in changes or "features_version" in changes)
