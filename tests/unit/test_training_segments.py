"""Intervals that hold together: their coverage in a simulation; segments and groups of a small log."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from slate_logs import GENRES, make_log

from training.dataset import Dataset
from training.delong import areas
from training.fairness import fairness
from training.metrics import Scored
from training.models import Examples
from training.segments import Segment, attributes_of, segment_figures, segments, shown_first
from training.simultaneous import Estimated, area, ratio, simultaneous
from training.train import scored


@pytest.fixture(scope="module")
def examples() -> Examples:
    log, _ = make_log(1200, seed=4, users=90)
    genres = {item: (GENRES[place % 5],) for place, item in enumerate(log.items)}
    about = {str(u): {"gender": "F" if u % 3 else "M", "age": ("18-24", "25-34", "35-44")[u % 3]} for u in range(80)}
    data = Dataset(
        name="planted", fingerprint="0" * 16, log=log, users=[str(u) for u in range(90)], titles={}, genres=genres,
        tags={}, about=about, test_from=400,
    )  # fmt: skip
    return Examples.of(data)


def test_error_of_an_area_is_that_of_delong_with_clusters() -> None:
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(200), 20)
    score = rng.normal(size=4000) + rng.normal(size=200)[user]
    liked = score + rng.normal(size=4000) > 0
    found = area(liked, score, user, 200)
    expected = areas(liked, score[None], user)
    assert found.value == pytest.approx(expected.auc[0])
    (alone,) = simultaneous([found])
    # 1.972: Student's t with 199 degrees of freedom; the critical value is drawn, hence the tolerance.
    assert (alone.high - alone.low) / 2 == pytest.approx(1.972 * np.sqrt(expected.covariance[0, 0]), rel=0.03)


def test_intervals_hold_together() -> None:
    """Twelve rates of overlapping parts of 60 users: all of them are covered in about 95 of 100 worlds."""
    truth, users, rows, worlds = 0.4, 60, 30, 150
    rng = np.random.default_rng(1)
    user = np.repeat(np.arange(users), rows)
    parts = rng.random((12, users * rows)) < rng.uniform(0.1, 0.9, (12, 1))
    held = 0
    for world in range(worlds):
        own = np.clip(truth + rng.normal(0, 0.15, users), 0, 1)
        liked = (rng.random(users * rows) < own[user]).astype(np.float64)
        found = [ratio(liked[part], np.ones(int(part.sum())), user[part], users) for part in parts]
        held += all(one.low <= truth <= one.high for one in simultaneous(found, seed=world))
    assert 0.90 <= held / worlds <= 0.99  # three standard errors around 0.95


def test_a_family_is_wider_than_one_and_narrower_than_bonferroni_when_correlated() -> None:
    rng = np.random.default_rng(2)
    shared = rng.normal(size=500)
    many = [Estimated(0.0, shared + 0.2 * rng.normal(size=500), 500) for _ in range(20)]
    widths = [one.high - one.low for one in simultaneous(many)]
    lone = [simultaneous([one])[0] for one in many]
    ratios = np.array(widths) / [one.high - one.low for one in lone]
    assert (ratios > 1.02).all()
    assert (ratios < 3.02 / 1.96).all()  # Bonferroni of 20: 3.02


def test_equal_figures_have_no_error() -> None:
    one = ratio(np.array([1.0, 0.0]), np.ones(2), np.array([0, 1]), 2)
    (found,) = simultaneous([one - one])
    assert found == (0, 0, 0)
    assert not found.excludes_zero
    assert simultaneous([]) == []


def test_classes_that_are_missing_are_said() -> None:
    with pytest.raises(ValueError, match="one class"):
        area(np.ones(3, dtype=bool), np.arange(3.0), np.arange(3), 3)
    with pytest.raises(ValueError, match="sums to 0"):
        ratio(np.zeros(3), np.zeros(3), np.arange(3), 3)


def test_tiers_share_out_all_rows(examples: Examples) -> None:
    slates = np.arange(len(examples.data.log))
    found = segments(examples, slates)
    for kind in ("user history", "item popularity"):
        own = np.stack([one.rows for one in found if one.kind == kind])
        assert (own.sum(axis=0) == 1).all()
    (new,) = (one for one in found if one.name == "no rating yet")
    assert (new.rows == (examples.column("user_new")[examples.data.rows(slates)] == 1)).all()
    known = np.stack([one.rows for one in found if one.kind == "gender"]).sum(axis=0)
    assert 0 < known.mean() < 1  # ten users have said nothing


def test_a_planted_difference_is_found_where_it_is(examples: Examples) -> None:
    data, slates = examples.data, examples.data.test
    rng = np.random.default_rng(3)
    liked = examples.liked[data.rows(slates)]
    noise = liked + rng.normal(0, 1.5, len(liked))
    women = next(one for one in segments(examples, slates) if (one.kind, one.name) == ("gender", "F"))
    worse = np.where(women.rows, rng.random(len(liked)), noise)
    figures, _ = segment_figures(
        scored(examples, slates, noise), scored(examples, slates, worse), segments(examples, slates)
    )
    by_name = {(one.kind, one.name): one for one in figures}
    assert by_name["gender", "F"].auc_difference.low > 0
    assert by_name["gender", "M"].auc_difference == (0, 0, 0)
    assert by_name["gender", "F"].users + by_name["gender", "M"].users == 80


def test_small_segments_are_named_not_judged(examples: Examples) -> None:
    slates = examples.data.test
    model = scored(examples, slates, np.random.default_rng(0).random(len(examples.data.rows(slates))))
    few = Segment("genre", "Rare", np.arange(len(model.liked)) < 5)
    assert segment_figures(model, model, [few]) == ([], [few])


def test_first_places_of_every_slate(examples: Examples) -> None:
    slates = examples.data.test
    score = np.random.default_rng(0).random(len(examples.data.rows(slates)))
    model = scored(examples, slates, score)
    shown = shown_first(model, 1)
    for low, high in zip(model.offsets[:-1], model.offsets[1:], strict=True):
        assert np.flatnonzero(shown[low:high]).tolist() == [int(score[low:high].argmax())]


def by_groups(examples: Examples, score: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Scored:
    return scored(examples, examples.data.test, score)


def test_a_group_that_is_served_worse_is_found(examples: Examples) -> None:
    data, slates = examples.data, examples.data.test
    liked = examples.liked[data.rows(slates)].astype(np.float64)
    women = attributes_of(data)["gender"] == "F"
    row_user = np.repeat(data.log.user[slates], np.diff(data.log.offsets)[slates])
    score = np.where(women[row_user], -liked, liked)  # the worst order for women, the best for all others
    found, small = fairness(by_groups(examples, score), data, slates)
    assert small == []
    (gender,) = (one for one in found if one.attribute == "gender")
    assert gender.group == "M"  # the smaller one of two; the other is its mirror
    assert gender.difference[1].low > 0
    assert gender.gain_difference[1].low > 0
    assert gender.rates[1] > gender.chance[1]
    assert {one.group for one in found if one.attribute == "age"} == {"18-24", "25-34", "35-44"}


def test_chance_alone_treats_all_alike(examples: Examples) -> None:
    score = np.random.default_rng(5).random(len(examples.data.rows(examples.data.test)))
    found, _ = fairness(by_groups(examples, score), examples.data, examples.data.test)
    assert not any(one.gain_difference[k].excludes_zero for one in found for k in (1, 3))


def test_without_groups_there_is_nothing(examples: Examples) -> None:
    unknown = replace(examples.data, about={})
    score = np.random.default_rng(5).random(len(examples.data.rows(examples.data.test)))
    assert fairness(by_groups(examples, score), unknown, unknown.test) == ([], [])
