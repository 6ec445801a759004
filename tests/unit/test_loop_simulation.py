"""The loop in memory: what it compares, and that nothing is promoted which the gate refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from movielens_files import write_movielens

from producers.worlds import Drift, Poison
from sluice.features import batch_features
from training.dataset import Dataset
from training.loop_simulation import Rules, World, run, worlds
from training.loop_truth import Course, around, changed, course, dataset
from training.model_tests import Bounds
from training.models import Examples, fit_policy_a

CHANGE = 0.5
# Small: what is tested is not how much a loop wins back.
RULES = Rules(bounds=Bounds(min_effective_rows=20, max_row_us=1e6), again=40, attempts=3, release=20)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder: Path = tmp_path_factory.mktemp("ml") / "tiny"
    return str(write_movielens(folder, users=120, items=150, each=80, seed=1))


@pytest.fixture(scope="module")
def data(source: str) -> Dataset:
    return dataset(source, 0.3)


@pytest.fixture(scope="module")
def world(data: Dataset, source: str) -> World:
    (made,) = worlds(data, source, Drift(amplitude=2.0, at=CHANGE), None, [4], RULES)
    return made


def test_only_what_comes_after_the_change_is_another_world(data: Dataset, source: str) -> None:
    there = changed(data, source, Drift(at=CHANGE, seed=2))
    begin = data.log.offsets[int(len(data.log) * CHANGE)]
    assert (there.log.liked[:begin] == data.log.liked[:begin]).all()
    assert (there.log.liked[begin:] != data.log.liked[begin:]).any()
    assert there.test_from == data.test_from


def test_rates_are_those_of_the_best_three_of_every_slate(data: Dataset, source: str) -> None:
    there = changed(data, source, Drift(at=CHANGE, seed=2))
    examples = Examples(there, batch_features(there.log, data.catalogue))
    stale, other = fit_policy_a(examples, data.train[:100]), fit_policy_a(examples, data.train)
    total = len(data.log)
    found = course(examples, stale, other, "PolicyA", Course(data.test_from, total // 2, total - 200, total))

    def rate(model: object, slates: range) -> tuple[int, int]:
        clicks = shown = 0
        for slate in slates:
            rows = np.arange(*there.log.offsets[slate : slate + 2])
            best = rows[np.argsort(-model.score(examples.features[rows]), kind="stable")[:3]]  # type: ignore[attr-defined]
            clicks, shown = clicks + int(there.log.liked[best].sum()), shown + len(best)
        return clicks, shown

    before, after = range(data.test_from, total // 2), range(total - 200, total)
    assert (found.before.clicks, found.before.impressions) == rate(stale, before)
    assert (found.stale.clicks, found.stale.impressions) == rate(stale, after)
    assert (found.promoted.clicks, found.promoted.impressions) == rate(other, after)
    between = range(total // 2, total - 200)
    assert found.lost_clicks == rate(other, between)[0] - rate(stale, between)[0]
    assert found.behind_fresh == pytest.approx(found.fresh.ctr - found.promoted.ctr)
    assert found.behind_fresh_error > 0


def test_what_is_shown_has_the_probability_that_is_logged(world: World) -> None:
    data = world.examples.data
    logged = world.logged(data.test_from, len(data.log) - 1)
    assert abs(logged.random.mean() - RULES.random) < 0.1
    # Weighted by 1 / probability, what was shown speaks for all items of its slates.
    rows = np.diff(data.log.offsets)[data.test_from : len(data.log) - 1].sum()
    assert (1 / logged.shown).sum() == pytest.approx(rows, rel=0.15)


def test_a_change_is_seen_and_answered_or_refused_with_reasons(world: World) -> None:
    found = run(world, int(len(world.examples.data.log) * CHANGE))
    assert not found.false_alarm
    if found.truth is None:
        assert found.attempts == 0 or found.reasons
    else:
        assert found.promoted is not None and found.detected is not None
        assert found.promoted >= found.detected + RULES.release
        assert found.truth.slates["between"] == found.promoted


def test_clicks_that_are_turned_over_are_sent_and_not_true(data: Dataset, source: str) -> None:
    poison = Poison(share=0.5, at=CHANGE)
    (bad,) = worlds(data, source, Drift(amplitude=2.0, at=CHANGE), poison, [4], RULES)
    assert (bad.examples.liked != bad.truth.liked).mean() > 0.1
    assert bad.examples.features is bad.truth.features


@pytest.mark.parametrize(
    ("told", "found"),
    [
        ([("1", 0)], ("1", None)),
        ([("1", 0), ("3", 70)], ("1", ("3", 70, 100))),
        ([("1", 0), ("3", 70), ("4", 90)], ("1", ("3", 70, 90))),
        ([("1", 0), ("3", 40), ("4", 90)], ("3", ("4", 90, 100))),  # a false alarm before the change
        ([("1", 0), ("3", 40)], ("3", None)),
        ([("1", 0), ("3", 100)], ("1", None)),  # when the log had ended
    ],
)
def test_versions_around_the_change(
    told: list[tuple[str, int]], found: tuple[str, tuple[str, int, int] | None]
) -> None:
    assert around(told, 50, 100) == found
