"""Logs whose drift is known, and the replays that measure the drift monitor."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from movielens_files import write_movielens

from producers.sources import read_ratings
from training.dataset import Dataset
from training.drift_reference import SHOWN
from training.drift_replays import Replay
from training.drift_retrained import retrained
from training.drift_simulation import simulate
from training.drift_worlds import change_of, dropped_clicks, missing, permuted, permuted_tastes, shifted
from training.prepare import PrepareOptions, make_dataset
from training.texts import read_texts


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_movielens(tmp_path_factory.mktemp("data") / "tiny", users=300, items=120, each=40, seed=2)


@pytest.fixture(scope="module")
def data(folder: Path) -> Dataset:
    return make_dataset(read_ratings(str(folder)), read_texts(folder), PrepareOptions())


def test_permuted_users_keep_their_slates_and_their_pace(data: Dataset) -> None:
    other = permuted(data, np.random.default_rng(1))
    assert (np.diff(other.log.at_ms) >= 0).all()
    for user in range(len(data.users)):
        before, after = (np.flatnonzero(one.log.user == user) for one in (data, other))
        assert np.diff(data.log.at_ms[before]).tolist() == np.diff(other.log.at_ms[after]).tolist()
        assert data.log.item[data.rows(before)].tolist() == other.log.item[other.rows(after)].tolist()
    first = [np.sort([log.at_ms[log.user == user].min() for user in range(300)]) for log in (data.log, other.log)]
    assert (first[0] == first[1]).all()


def test_permuted_tastes_change_ratings_behind_the_change_only(data: Dataset) -> None:
    other = permuted_tastes(data, 1.2, np.random.default_rng(1))
    row = data.log.offsets[change_of(data)]
    assert (other.log.rating_milli[:row] == data.log.rating_milli[:row]).all()
    assert (other.log.rating_milli[row:] != data.log.rating_milli[row:]).mean() > 0.5
    assert abs(other.log.liked[row:].mean() - data.log.liked[row:].mean()) < 0.1
    assert (other.log.liked == (other.log.rating_milli >= 4000)).all()


def test_planted_changes_are_as_large_as_asked_for(data: Dataset) -> None:
    replay, rng = Replay.of(data), np.random.default_rng(1)
    rows, outcomes = replay.rows, replay.outcomes
    assert len(rows.score) == SHOWN * len(data.test)
    after_ms = int(data.log.at_ms[change_of(data)])
    after = rows.at_ms >= after_ms
    moved = shifted(rows, after_ms, 3, 0.5).features - rows.features
    assert moved[after, 3] == pytest.approx(0.5 * rows.features[:, 3].std(), rel=1e-3)
    assert not moved[~after].any()
    gone = np.isnan(missing(rows, after_ms, 3, 0.5, rng).features[:, 3])
    assert not gone[~after].any() and 0.4 < gone[after].mean() < 0.6
    fewer = dropped_clicks(outcomes, after_ms, 0.1, rng).clicked
    assert (fewer[~after] == outcomes.clicked[~after]).all()
    assert outcomes.clicked[after].mean() - fewer[after].mean() == pytest.approx(0.1, abs=0.04)


def test_a_retrained_version_shows_what_comes_after_the_log_it_was_trained_from(data: Dataset) -> None:
    replay, first = retrained(data, 0), Replay.of(data)
    after_ms = int(data.log.at_ms[change_of(data)])
    assert replay.rows.at_ms.min() == after_ms and len(replay.rows.score) == SHOWN * len(data.test) / 2
    later = first.rows.at_ms >= after_ms
    assert (replay.rows.at_ms == first.rows.at_ms[later]).all()
    assert (replay.rows.score != first.rows.score[later]).any(), "it is another model"
    shown = SHOWN * (change_of(data) - data.test_from)
    assert replay.reference.rows < shown / 2, "half of what it learned from, and not what it is tested on"


@pytest.mark.slow
def test_the_simulation_prints_its_figures(folder: Path) -> None:
    found = CliRunner().invoke(
        simulate,
        f"--data {folder} --replays 2 --retrained 1 --planted 1 --tuning 1 --settle 20 --json",
        catch_exceptions=False,
    )
    told = json.loads(found.stdout)
    for name in ("monitor", "settled"):
        found_share = told["false_alarms"][name]
        assert found_share["replays"] == 2
        low, high = found_share["interval"]
        assert low <= found_share["share"] <= high
    assert told["retrained"]["settled"]["replays"] == 1
    assert len(told["changes"]) == 12
    assert set(told["changes"]["tastes by 0.8 stars"]) == {"monitor", "settled", "ks", "adwin", "page_hinkley"}
