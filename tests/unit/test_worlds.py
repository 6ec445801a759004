"""Planted changes: what they touch, what they leave, and how they are asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from movielens_files import write_movielens

from producers.slates import Slates, cut_slates
from producers.sources import read_ratings
from producers.worlds import Drift, Poison, drifted, parse_drift, parse_poison, poisoned
from sluice.errors import ConfigError


@pytest.fixture(scope="module")
def slates(tmp_path_factory: pytest.TempPathFactory) -> Slates:
    folder: Path = tmp_path_factory.mktemp("log")
    return cut_slates(read_ratings(str(write_movielens(folder / "small"))))


def ratings(slates: Slates) -> np.ndarray:
    """Slate by slate."""
    return slates.log.rating_milli[slates.rating].astype(np.int64)


def test_nothing_changes_before_the_change(slates: Slates) -> None:
    changed = drifted(slates, Drift(at=0.7, seed=3))
    begin = slates.offsets[int(len(slates) * 0.7)]
    assert (ratings(changed)[:begin] == ratings(slates)[:begin]).all()
    assert (ratings(changed)[begin:] != ratings(slates)[begin:]).mean() > 0.3
    assert changed.rating is slates.rating and changed.log.at_ms is slates.log.at_ms


def test_tastes_change_and_the_click_rate_hardly_does(slates: Slates) -> None:
    changed = drifted(slates, Drift(at=0.0, amplitude=1.0))
    before, after = ratings(slates) >= 4000, ratings(changed) >= 4000
    assert abs(before.mean() - after.mean()) < 0.08
    assert set(np.unique(ratings(changed))) <= set(range(500, 5001, 500))
    # What a genre was worth says little about what it is worth now: that is what a stale model loses by.
    genres = [slates.log.genres[slates.log.items[item]] for item in slates.log.item[slates.rating].tolist()]
    names = {name for known in genres for name in known}
    rows = [np.array([name in known for known in genres]) for name in names]
    assert max(abs(before[one].mean() - after[one].mean()) for one in rows) > 0.1


def test_a_rating_moves_with_the_genres_of_its_item(slates: Slates) -> None:
    changed = drifted(slates, Drift(at=0.0, seed=1))
    same = ratings(slates) == 3000  # far from both ends
    items, moved = slates.log.item[slates.rating][same], ratings(changed)[same]
    assert len(np.unique(np.stack((items, moved)), axis=1).T) == len(np.unique(items))
    assert len(np.unique(moved)) > 2


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_equal_seeds_give_equal_worlds(slates: Slates, seed: int) -> None:
    one, other = (drifted(slates, Drift(seed=seed)) for _ in range(2))
    assert (ratings(one) == ratings(other)).all()
    assert (ratings(one) != ratings(drifted(slates, Drift(seed=seed + 1)))).any()


def test_poison_turns_whole_users_over(slates: Slates) -> None:
    poison = Poison(share=0.4, at=0.5, seed=2)
    changed = poisoned(slates, poison, 4000)
    begin = slates.offsets[int(len(slates) * 0.5)]
    clicked, now = ratings(slates) >= 4000, ratings(changed) >= 4000
    user = np.repeat(slates.user, np.diff(slates.offsets))
    assert (clicked[:begin] == now[:begin]).all()
    late = np.arange(len(user)) >= begin
    turned = [(now != clicked)[late & (user == one)] for one in np.unique(user[late])]
    assert all(one.all() or not one.any() for one in turned)
    assert 0.2 < np.mean([one.all() for one in turned]) < 0.6


def test_a_share_of_nobody_or_of_everybody(slates: Slates) -> None:
    assert (ratings(poisoned(slates, Poison(share=0.0, at=0.0), 4000)) == ratings(slates)).all()
    every = ratings(poisoned(slates, Poison(share=1.0, at=0.0), 4000))
    assert ((every >= 4000) == (ratings(slates) < 4000)).all()


def test_a_changed_log_has_another_fingerprint(slates: Slates) -> None:
    changed = drifted(slates, Drift())
    assert changed.log.fingerprint != slates.log.fingerprint != drifted(slates, Drift(seed=1)).log.fingerprint


def test_what_is_asked_for() -> None:
    assert parse_drift("genres") == Drift()
    assert parse_drift("genres:amplitude=0.8, at=0.6,seed=3") == Drift(amplitude=0.8, at=0.6, seed=3)
    assert parse_poison("share=0.25,seed=7") == Poison(share=0.25, seed=7)


@pytest.mark.parametrize(
    "text", ["", "films", "genres:amplitude=9", "genres:at=1.5", "genres:seed=1.5", "genres:at=", "genres:x=1"]
)
def test_a_drift_that_cannot_be(text: str) -> None:
    with pytest.raises(ConfigError, match="--drift"):
        parse_drift(text)


@pytest.mark.parametrize("text", ["share=2", "users=1", "share"])
def test_a_poison_that_cannot_be(text: str) -> None:
    with pytest.raises(ConfigError, match="--poison"):
        parse_poison(text)


def test_a_log_without_genres_cannot_drift(slates: Slates) -> None:
    plain = replace(slates, log=replace(slates.log, genres={}))
    with pytest.raises(ConfigError, match="no genres"):
        drifted(plain, Drift())
