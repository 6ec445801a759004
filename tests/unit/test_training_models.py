"""Models: what they may see, what they learn, and that a seed fixes them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from movielens_files import write_movielens
from openmp import without_openmp
from sklearn.metrics import roc_auc_score

from sluice.features.definition import Ints
from training.dataset import Dataset
from training.evaluate import BASELINES, compare, evaluate, figures
from training.metrics import auc_within_slates
from training.models import Examples, FeatureModel, Model, Trained, fit_policy_a, fit_policy_b, validation_split
from training.prepare import PrepareOptions, prepare
from training.recommenders import ItemBased, fit_content_based, fit_item_based
from training.train import MODELS, train_all, train_one


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("models")
    return prepare(str(write_movielens(folder / "set", users=80)), folder / "out", PrepareOptions())[0]


@pytest.fixture(scope="module")
def examples(data: Dataset) -> Examples:
    return Examples.of(data)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Examples:
    """Enough rows that an AUC of 0.5 has a standard error below 0.008."""
    folder = tmp_path_factory.mktemp("many")
    source = write_movielens(folder / "set", users=150, each=100)
    return Examples.of(prepare(str(source), folder / "out", PrepareOptions())[0])


@pytest.fixture(scope="module")
def trained(data: Dataset) -> list[Trained]:
    notices: list[str] = []
    _, models, seconds = train_all(data, notice=notices.append)
    assert notices == []
    assert seconds > 0
    return models


def relabelled(examples: Examples, rating_milli: Ints) -> Examples:
    """The log with other outcomes, and its features."""
    log = replace(examples.data.log, rating_milli=rating_milli, liked=rating_milli >= 4000)
    return Examples.of(replace(examples.data, log=log))


def test_every_model_finds_the_planted_tastes(examples: Examples, trained: list[Trained]) -> None:
    assert [one.name for one in trained] == list(MODELS)
    results = evaluate(examples, trained, examples.data.test)
    assert list(results) == [*MODELS, *BASELINES]
    found = figures(results, draws=50)
    value = {name: one.values for name, one in found.items()}
    assert 0.45 < value["random"]["auc"] < 0.55
    assert value["best_possible"]["auc"] == 1
    for name in MODELS:
        assert value[name]["auc"] > value["popularity"]["auc"], name
        assert value[name]["ctr_at_1"] > value["random"]["ctr_at_1"] + 0.05, name
        assert value[name]["log_loss"] < np.log(2), name
        low, high = found[name].intervals["auc"]
        assert low < value[name]["auc"] < high
    assert value["PolicyA"]["auc"] > 0.7
    assert value["PolicyB"]["auc"] > 0.7
    difference = compare(results, "PolicyB", "random", draws=50)
    assert difference.values["auc"] == pytest.approx(difference.auc_test.estimate)
    assert difference.auc_test.p_value < 1e-6
    assert difference.intervals["ctr_at_1"][0] > 0
    assert "log_loss" not in difference.values


def test_what_is_returned_says_how_it_was_made(examples: Examples, trained: list[Trained]) -> None:
    for one in trained:
        assert one.params["seed"] == 0
        assert one.params["train_slates"] == len(examples.data.train)
        assert 0.5 < one.validation["auc"] < 1
    a, b = trained[0], trained[1]
    assert 1 <= b.params["rounds"] <= b.params["max_rounds"]
    for one in (a, b):
        assert set(one.importance) == set(examples.names)
        assert list(one.importance.values()) == sorted(one.importance.values(), reverse=True)


def test_contributions_add_up_to_the_log_odds(examples: Examples, trained: list[Trained]) -> None:
    features = examples.features[examples.data.rows(examples.data.test)]
    for one in trained[:2]:
        assert isinstance(one.model, FeatureModel)
        score = one.model.score(features)
        rest = np.log(score / (1 - score)) - one.model.contributions(features).sum(axis=1)
        assert rest == pytest.approx(rest[0], abs=1e-4)  # in single precision


def test_a_seed_fixes_every_model(examples: Examples, trained: list[Trained]) -> None:
    for one in trained:
        again = train_one(one.name, examples, examples.data.train)
        test = examples.data.test
        assert again.model.predict(examples, test).tobytes() == one.model.predict(examples, test).tobytes(), one.name
        assert again.validation == one.validation


def test_models_do_not_change_with_outcomes_of_the_test_part(examples: Examples, trained: list[Trained]) -> None:
    data = examples.data
    other = data.log.rating_milli.copy()
    after = data.log.offsets[data.test_from]
    other[after:] = 5000 - other[after:]
    changed = relabelled(examples, other)
    # Slates up to the first of the test part, which itself is scored by what came before.
    slates = np.append(data.train, data.test_from)
    for one in trained:
        again = train_one(one.name, changed, data.train)
        assert again.model.predict(changed, slates).tobytes() == one.model.predict(examples, slates).tobytes(), one.name


def test_a_recommender_knows_only_histories_that_had_ended(examples: Examples) -> None:
    """Scores of a slate do not change with its own outcomes or later ones; similarities are fixed."""
    data = examples.data
    for model in (fit_item_based(examples, data.train), fit_content_based(examples, data.train)):
        for slate in (data.test_from, data.test_from + 30, len(data.log) - 1):
            other = data.log.rating_milli.copy()
            other[data.log.offsets[slate] :] = 5000 - other[data.log.offsets[slate] :]
            changed = relabelled(examples, other)
            own = np.array([slate])
            assert model.predict(changed, own).tobytes() == model.predict(examples, own).tobytes()


def test_similarities_are_shrunk_cosines_of_levels(examples: Examples) -> None:
    data = examples.data
    model = fit_item_based(examples, data.train)
    assert isinstance(model, ItemBased)
    assert np.diff(model.similar.indptr).max() <= 100
    rows = data.rows(data.train)
    user = np.repeat(data.log.user[data.train], np.diff(data.log.offsets)[data.train])
    table = np.full((len(data.users), len(data.log.items)), np.nan)
    table[user, data.log.item[rows]] = data.log.rating_milli[rows] / 1000
    means = np.array([own[~np.isnan(own)].mean() if (~np.isnan(own)).any() else 0 for own in table])
    levels = table - means[:, None]
    for first, second in [(3, 7), (0, 149), (20, 20)]:
        both = ~np.isnan(levels[:, first] + levels[:, second])
        norms = [np.sqrt(np.nansum(levels[:, item] ** 2)) for item in (first, second)]
        cosine = (levels[both, first] * levels[both, second]).sum() / (norms[0] * norms[1])
        expected = cosine * both.sum() / (both.sum() + 10) if first != second else 0
        found = model.similar[first, second]
        near = np.abs(model.similar[first].data)
        assert found == pytest.approx(expected) or abs(expected) <= near.min()


def test_the_validation_part_begins_after_the_rest_has_ended(data: Dataset) -> None:
    early, late = validation_split(data, data.train)
    assert data.log.end_ms[early].max() < data.log.at_ms[late].min()
    assert len(late) == pytest.approx(0.2 * len(data.train), abs=1)
    assert set(early.tolist()) | set(late.tolist()) <= set(data.train.tolist())


def test_labels_shuffled_within_users_leave_nothing_to_rank_by(many: Examples) -> None:
    """A user's rate survives the shuffle, so that AUC over all rows stays high; inside a slate there is nothing."""
    data, rng = many.data, np.random.default_rng(1)
    user = np.repeat(data.log.user, np.diff(data.log.offsets))
    # Sorted by (user, place) and by (user, random): rows change places with others of their user.
    own, drawn = np.argsort(user, kind="stable"), np.lexsort((rng.random(len(user)), user))
    shuffled = data.log.rating_milli.copy()
    shuffled[own] = data.log.rating_milli[drawn]
    for model, test in _fitted(relabelled(many, shuffled)):
        rows = test.data.rows(data.test)
        offsets = np.concatenate(([0], np.cumsum(np.diff(data.log.offsets)[data.test])))
        score = model.predict(test, data.test)
        assert auc_within_slates(test.liked[rows], offsets, score) == pytest.approx(0.5, abs=0.02)
        assert roc_auc_score(test.liked[rows], score) > 0.55


def test_labels_shuffled_over_all_leave_nothing(many: Examples) -> None:
    shuffled = np.random.default_rng(2).permutation(many.data.log.rating_milli)
    for model, test in _fitted(relabelled(many, shuffled)):
        results = evaluate(test, [Trained("one", model, {}, {})], test.data.test)
        assert figures(results, draws=2)["one"].values["auc"] == pytest.approx(0.5, abs=0.02)


def _fitted(examples: Examples) -> list[tuple[Model, Examples]]:
    train = examples.data.train
    return [(fit_policy_a(examples, train), examples), (fit_policy_b(examples, train)[0], examples)]


def test_without_openmp_the_rest_is_trained_and_one_line_says_what_to_install(
    data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_openmp(monkeypatch)
    notices: list[str] = []
    _, models, _ = train_all(data, notice=notices.append)
    assert [one.name for one in models] == [name for name in MODELS if name != "PolicyB"]
    assert len(notices) == 1
    assert "apt-get install libgomp1" in notices[0]


def test_the_tiny_log_of_one_slate_a_user(tmp_path: Path) -> None:
    source = write_movielens(tmp_path / "set", users=30, items=600, each=5)  # most items were never rated
    data, _ = prepare(str(source), tmp_path / "out", PrepareOptions(slate_size=5))
    notices: list[str] = []
    examples, models, _ = train_all(data, notice=notices.append)
    for one in models:
        assert np.isfinite(one.model.predict(examples, data.test)).all()
    assert notices == []
