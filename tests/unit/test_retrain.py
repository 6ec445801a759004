"""Training data from the log, and what a model trained from it must show."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.special import expit

from sluice.errors import ConfigError, ModelUnusable
from sluice.features import Catalogue, names
from sluice.features.catalogue import ItemFacts
from sluice.models import TrainedModel
from training.metrics import Scored, point
from training.model_tests import Bounds, Holdout, behaviour, judge
from training.models import FeatureModel
from training.retrain import model_hash
from training.retrain_data import MAX_WEIGHT, effective_share, join
from training.retrain_log import Logged, Row, fingerprint_of, missing
from training.retrain_process import error_name, follow
from training.train import train_one
from training.weighted import Shown, figures

CATALOGUE = Catalogue(("Drama", "War"), {f"i{n}": ItemFacts((n % 2,), 1990) for n in range(40)})
COLUMNS = names(CATALOGUE.genres)
WINDOW = 1000
SHOWN = 3


def logged(slates: int = 400, seed: int = 0, **changes: Any) -> Logged:
    """A log in which the item's click rate says how likely a click is."""
    rng = np.random.default_rng(seed)
    features = rng.random((slates * SHOWN, len(COLUMNS))).astype(np.float32)
    features[:, -2:] = 0
    liked = rng.random(len(features)) < expit(6 * (features[:, COLUMNS.index("item_like_rate")] - 0.5))
    rows, shown_ms, clicks_ms = [], {}, {}
    for number in range(slates):
        at_ms, items = 10 * number, []
        for place in range(SHOWN):
            impression, row = f"s{number:05}.{place}", number * SHOWN + place
            items.append((f"i{rng.integers(40)}", impression, 0.3, None))
            shown_ms[impression] = at_ms
            if liked[row]:
                clicks_ms[impression] = [at_ms + int(rng.integers(0, WINDOW + 1))]
        rows.append(Row(0, "e", f"u{number % 37}", f"s{number}", at_ms, number % 5 == 0, "1", tuple(items),
                        number * SHOWN))  # fmt: skip
    made = Logged(rows, features, shown_ms, clicks_ms, {0: 10 * slates + 2 * WINDOW})
    return replace(made, **changes)


def joined(log: Logged, **options: Any) -> Any:
    return join(log, CATALOGUE, window_ms=WINDOW, holdout=0.25, name="log", fingerprint="f", options={}, **options)


def test_the_order_of_the_log_is_no_part_of_the_data() -> None:
    log = logged()
    rng = np.random.default_rng(1)
    shuffled = replace(log, slates=[log.slates[at] for at in rng.permutation(len(log.slates))])
    one, other = joined(log), joined(shuffled)
    assert one.rows_hash == other.rows_hash
    assert np.array_equal(one.examples.features, other.examples.features)
    changed = replace(log, clicks_ms={**log.clicks_ms, "s00007.1": [70]} if "s00007.1" not in log.clicks_ms else {})
    assert joined(changed).rows_hash != one.rows_hash


# impression 0 |------ window ------| 1000        clicks at 0 and 1000 are in, at -1 and 1001 out
@pytest.mark.parametrize(("click_ms", "clicked"), [(0, True), (1000, True), (-1, False), (1001, False)])
def test_clicks_count_from_the_impression_to_the_end_of_its_window(click_ms: int, clicked: bool) -> None:
    log = logged(clicks_ms={"s00050.1": [500 + click_ms]})
    found = joined(log)
    assert found.examples.liked.sum() == clicked


def test_what_may_still_be_clicked_and_what_was_never_shown_is_left_out() -> None:
    log = logged()
    open_until = replace(log, watermark_ms={0: 10 * 300 + WINDOW})
    found = joined(open_until)
    assert len(found.data.log) == 300  # strictly before the watermark
    assert found.dropped == {"may still be clicked": 100 * SHOWN}
    unseen = replace(log, shown_ms={key: at for key, at in log.shown_ms.items() if not key.endswith(".2")})
    assert joined(unseen).dropped == {"have no impression": 400}
    with pytest.raises(ConfigError, match="nothing to learn from: 1,200 may still be clicked"):
        joined(replace(log, watermark_ms={}))


def test_the_hold_out_comes_later_and_no_outcome_of_the_rest_was_open_when_it_began() -> None:
    data = joined(logged()).data
    begins = data.log.at_ms[data.test[0]]
    assert (data.log.end_ms[data.train] < begins).all()
    assert len(data.train) < data.test[0]  # a gap as long as the window
    assert data.catalogue is CATALOGUE


def test_weights_are_clipped_and_their_worth_is_that_of_kish() -> None:
    log = logged()
    log.slates[0] = replace(log.slates[0], items=tuple((a, b, 0.001, d) for a, b, _, d in log.slates[0].items))
    weight = joined(log, weighted=True).examples.weight
    assert weight.max() == MAX_WEIGHT
    assert weight.min() == pytest.approx(1 / 0.3)
    assert effective_share(np.ones(7)) == 1
    assert effective_share(np.array([1.0, 0.0, 0.0, 0.0])) == 0.25


@pytest.mark.parametrize("policy", ["PolicyA", "PolicyB"])
def test_the_same_rows_give_the_same_model_and_weights_another_one(policy: str) -> None:
    rng = np.random.default_rng(2)
    log = logged(800)
    log.slates[:] = [
        replace(slate, items=tuple((a, b, float(rng.uniform(0.1, 1)), d) for a, b, _, d in slate.items))
        for slate in log.slates
    ]
    hashes = []
    for weighted in (False, False, True):
        data = joined(log, weighted=weighted)
        made = train_one(policy, data.examples, data.data.train).model
        assert isinstance(made, FeatureModel)
        hashes.append(model_hash(TrainedModel(policy, made.model, CATALOGUE)))
    assert hashes[0] == hashes[1] != hashes[2]


def test_what_the_log_does_not_hold_is_named() -> None:
    wanted = {"clicks": {0: (5, 20), 1: (0, 3)}}
    assert missing(wanted, {"clicks": {0: (0, 30), 1: (0, 3)}}) == []
    assert missing(wanted, {"clicks": {0: (8, 15), 1: (0, 3)}}) == [
        "clicks[0]: offsets 5 to 8 are missing", "clicks[0]: offsets 15 to 20 are missing",
    ]  # fmt: skip
    assert missing(wanted, {"clicks": {0: (0, 30)}}) == ["clicks[1]: offsets 0 to 3 are missing"]
    assert fingerprint_of(wanted, {"a": 1}) != fingerprint_of(wanted, {"a": 2})


def test_without_weights_figures_are_those_of_the_evaluation() -> None:
    rng = np.random.default_rng(3)
    score, user = rng.random(900), np.repeat(np.arange(30), 30)
    liked = rng.random(900) < score
    own = figures(Shown(liked, user, np.ones(900)), {"m": score})["m"]
    known = point(Scored(liked, np.arange(0, 901, 10), np.repeat(np.arange(30), 3), score))
    for name in ("auc", "log_loss", "accuracy", "f1"):
        assert own[name].value == pytest.approx(known[name])
        assert own[name].low < own[name].value < own[name].high


def test_weights_tell_of_whole_slates_what_variants_chose_to_show_hides() -> None:
    rng = np.random.default_rng(4)
    slates, size, k = 6000, 10, 3
    truth = rng.random((slates, size))
    liked = rng.random((slates, size)) < truth
    score = np.clip(truth + rng.normal(0, 0.2, truth.shape), 0.01, 0.99)
    best = np.argsort(-score, axis=1)[:, :k]
    by_model = np.zeros((slates, size), dtype=bool)
    np.put_along_axis(by_model, best, True, axis=1)
    by_chance = rng.permuted(np.tile(np.arange(size) < k, (slates, 1)), axis=1)
    shown = np.where((rng.random(slates) < 0.2)[:, None], by_chance, by_model)
    propensity = 0.8 * by_model + 0.2 * k / size
    user = np.repeat(np.arange(slates), size).reshape(slates, size)
    whole = figures(Shown(liked.ravel(), user.ravel() % 300, np.ones(liked.size)), {"m": score.ravel()})["m"]
    part = Shown(liked[shown], user[shown] % 300, 1 / propensity[shown])
    weighted = figures(part, {"m": score[shown]})["m"]
    plain = figures(replace(part, weight=np.ones(shown.sum())), {"m": score[shown]})["m"]
    for name in ("auc", "log_loss", "accuracy"):
        assert weighted[name].low < whole[name].value < weighted[name].high
    assert plain["auc"].high < whole["auc"].value


@pytest.fixture(scope="module")
def holdout() -> Holdout:
    data = joined(logged(1500, seed=5))
    rows = data.data.rows(data.data.test)
    user = np.repeat(data.data.log.user[data.data.test], SHOWN)
    return Holdout(
        Shown(data.examples.liked[rows], np.unique(user, return_inverse=True)[1], 1 / data.shown[rows]),
        data.examples.features[rows], COLUMNS, 0.2, {"first": np.arange(len(rows)) % 2 == 0},
    )  # fmt: skip


RATE = COLUMNS.index("item_like_rate")
SMALL = Bounds(min_segment_users=20)


def good(features: Any) -> Any:
    return expit(6 * (features[:, RATE].astype(np.float64) - 0.5))


def changed(holdout: Holdout, **fields: Any) -> Holdout:
    return replace(holdout, **fields)


def words(holdout: Holdout, candidate: Any, present: Any = good, row_us: float = 1.0, **bounds: Any) -> str:
    made: Mapping[str, Any] = {"min_segment_users": 20, **bounds}
    return " | ".join(judge(holdout, candidate, present, row_us=row_us, bounds=Bounds(**made)).refusals)


def test_a_model_as_good_as_the_one_in_force_passes(holdout: Holdout) -> None:
    verdict = judge(holdout, good, good, row_us=1.0, bounds=SMALL)
    assert verdict.passed, verdict.refusals
    assert verdict.figures["auc_change"] == 0
    assert judge(holdout, good, None, row_us=1.0, bounds=SMALL).passed


def test_a_model_is_refused_for_each_thing_that_it_does_not_show(holdout: Holdout) -> None:
    rng = np.random.default_rng(6)
    chance = rng.random(len(holdout.features))
    assert "AUC may fall" in words(holdout, lambda f: np.resize(chance, len(f)))
    assert "auc" in words(holdout, lambda f: np.resize(chance, len(f)), None)
    # Good enough as it looks, and not for certain.
    assert "may lie below" in words(holdout, good, None, sure_auc=judge(holdout, good, None, row_us=1.0).figures["auc"])
    assert "f1" in words(holdout, lambda f: good(f) / 3, None)
    assert "calibration error" in words(holdout, lambda f: 0.5 + 0.499 * good(f), None)
    assert "µs" in words(holdout, good, row_us=90.0)
    assert "not probabilities" in words(holdout, lambda f: good(f) * np.nan)
    assert "ordered by chance" in words(changed(holdout, random=0.0), good)
    assert "200 are needed" in words(
        changed(holdout, shown=replace(holdout.shown, weight=np.where(chance < 0.01, 1000.0, 1.0))), good
    )

    def worse_for_some(features: Any) -> Any:
        score = good(features)
        return np.where(np.arange(len(score)) % 2 == 0, 1 - score, score) if len(score) == len(chance) else score

    assert "group first: AUC falls" in words(holdout, worse_for_some)


def test_behaviour_is_tested_where_figures_are_silent(holdout: Holdout) -> None:
    genre = COLUMNS.index("genre=War")
    assert behaviour(holdout, good) == []
    assert "a higher item_like_rate lowers the score" in behaviour(holdout, lambda f: 1 - good(f))[0]
    assert "rows beside it" in behaviour(holdout, lambda f: good(f) * np.linspace(1, 0.9, len(f)))[0]
    assert "genre=War, which no shown item has" in behaviour(holdout, lambda f: good(f) - 0.01 * f[:, genre])[0]
    new = COLUMNS.index("user_new")
    assert "new users and items" in behaviour(holdout, lambda f: np.where(f[:, new] == 1.0, 0.999, good(f)))[0]


def test_an_error_of_a_training_reaches_its_parent_as_the_kind_it_is() -> None:
    class Never(ModelUnusable):
        pass

    assert error_name(Never("x")) == "ModelUnusable"
    assert error_name(MemoryError()) == "MemoryError"
    assert error_name(ZeroDivisionError()) == "ZeroDivisionError"


@pytest.mark.parametrize(("said", "error"), [(b"", "ConfigError"), (b'{"result":{"mod', None)])
def test_what_a_training_that_was_killed_did_not_say_to_its_end_is_no_answer(said: bytes, error: str | None) -> None:
    steps: list[str] = []
    lines = io.BytesIO(b'{"step":"log","share":0.5}\n{"error":"ConfigError"}\n' + said)
    last = follow(lines, lambda name, share=None: steps.append(name))
    assert (steps, last and last.error) == (["log"], error)
