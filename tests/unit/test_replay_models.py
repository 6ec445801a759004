"""Models in a replay: what they show is, bit for bit, what training measured on the same slates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from movielens_files import write_movielens
from pyarrow import parquet
from registered_models import NAME, ModelsInMemory, likes

from producers.candidates import RankedSlates
from producers.scoring import LogModels
from producers.slates import Slates, cut_slates
from producers.sources import read_ratings
from router import make_ranker
from sluice.cli import main
from sluice.errors import ConfigError
from sluice.features import make_catalogue
from sluice.models import TrainedModel, read_model, write_model
from training.dataset import Dataset
from training.models import Examples
from training.prepare import PrepareOptions, prepare
from training.train import train_one

POLICIES = ("PolicyA", "PolicyB")
URIS = {name: f"models:/{NAME}@{name}" for name in POLICIES}
K = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_movielens(tmp_path_factory.mktemp("ml") / "tiny", users=40, items=120, each=60, seed=3)


@pytest.fixture(scope="module")
def data(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return prepare(str(folder), tmp_path_factory.mktemp("prepared"), PrepareOptions())[0]


@pytest.fixture(scope="module")
def examples(data: Dataset) -> Examples:
    return Examples.of(data)


@pytest.fixture(scope="module")
def slates(folder: Path) -> Slates:
    return cut_slates(read_ratings(str(folder)))


@pytest.fixture
def source(examples: Examples, tmp_path: Path) -> ModelsInMemory:
    """Both policies, written and read again as a registry would hold them."""
    made = ModelsInMemory()
    for name in POLICIES:
        model: Any = train_one(name, examples, examples.data.train).model
        write_model(tmp_path / name, TrainedModel(name, model.model, examples.data.catalogue))
        made.add(read_model(tmp_path / name), name)
    return made


def test_models_of_other_slates_are_told_and_unknown_ones_are_not(source: ModelsInMemory, slates: Slates) -> None:
    model = source.models[0]
    assert isinstance(model, TrainedModel)
    source.models[0] = replace(model, about={"slate_size": "10", "click_from": "3.5"})
    models = LogModels(slates, 4000, source, URIS)
    try:
        assert models.trained_otherwise({"slate_size": 10, "click_from": 3.5}) == []
        assert models.trained_otherwise({"slate_size": 5, "click_from": 4.0}) == [
            "--slate-size 5: models were trained otherwise (PolicyA with 10)",
            "--click-from 4: models were trained otherwise (PolicyA with 3.5)",
        ]
    finally:
        models.close()


def offline(examples: Examples, name: str, source: ModelsInMemory, slate: int) -> list[str]:
    """The best K of a slate, by the scores that evaluation sees."""
    low, high = examples.data.log.offsets[slate : slate + 2]
    model = source.models[source.aliases[name] - 1]
    assert isinstance(model, TrainedModel)
    best = np.argsort(-model.score(examples.features[low:high]), kind="stable")[:K]
    return [examples.data.log.items[code] for code in examples.data.log.item[low:high][best]]


def test_the_replay_shows_what_the_test_part_of_training_is_measured_by(
    data: Dataset, examples: Examples, slates: Slates, source: ModelsInMemory
) -> None:
    models = LogModels(slates, 4000, source, URIS)
    candidates = RankedSlates(slates, {"random": make_ranker("random", 0, {})}, k=K, models=models)
    first = int(len(slates) * 0.6)
    assert first == data.test_from
    block = candidates.block(first, len(slates))
    shown = candidates.shown(block)
    models.close()
    differ = 0
    for slate, answer in zip(block, shown, strict=True):
        for name in POLICIES:
            assert [item.item_id for item in answer[name]] == offline(examples, name, source, slate.number)
        differ += answer["PolicyA"] != answer["random"]
        assert [item.rating_milli for item in answer["PolicyA"]] == [
            slate.ratings_milli[item.place] for item in answer["PolicyA"]
        ]
    assert len(block) == len(data.test)
    assert differ > len(block) / 2


def test_a_share_of_the_slates_is_the_one_that_training_takes(folder: Path, data: Dataset, tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text("{name: rules, variants: [{name: random}, {name: popularity}]}")
    options = ["--experiment", str(tmp_path / "rules.yaml"), "--truth", str(tmp_path / "truth.parquet")]
    with pytest.raises(SystemExit) as stopped:
        main(["replay", "--data", str(folder), "--from-share", "0.6", *options])
    assert not stopped.value.code
    numbers = parquet.read_table(tmp_path / "truth.parquet")["slate"].to_pylist()
    assert numbers == list(range(data.test_from, data.test_from + len(data.test)))


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_scores_do_not_depend_on_the_batch(
    examples: Examples, slates: Slates, source: ModelsInMemory, size: int
) -> None:
    models = LogModels(slates, 4000, source, URIS)
    whole = models.scores(0, len(slates) - 1)
    for first in range(0, len(slates), size):
        last = min(first + size, len(slates)) - 1
        rows = slice(slates.offsets[first], slates.offsets[last + 1])
        part = models.scores(first, last)
        for name in POLICIES:
            assert part[name].tobytes() == whole[name][rows].tobytes()
    models.close()


def test_ratings_of_a_slate_and_of_later_ones_change_nothing_in_what_models_show(
    folder: Path, slates: Slates, source: ModelsInMemory
) -> None:
    number = len(slates) // 2
    honest = LogModels(slates, 4000, source, URIS)
    turned = slates.log.rating_milli.copy()
    hidden = slates.log.at_ms >= slates.at_ms[number]
    hidden[slates.rating[slates.offsets[number] : slates.offsets[number + 1]]] = True
    turned[hidden] = 5000 - turned[hidden]
    changed = replace(slates, log=replace(slates.log, rating_milli=turned))
    other = LogModels(changed, 4000, source, URIS)
    for name in POLICIES:
        assert honest.scores(number, number)[name].tobytes() == other.scores(number, number)[name].tobytes()
    assert (
        honest.scores(0, len(slates) - 1)["PolicyA"].tobytes() != other.scores(0, len(slates) - 1)["PolicyA"].tobytes()
    )
    honest.close(), other.close()


def test_a_model_of_another_catalogue_gets_features_of_its_own(
    slates: Slates, source: ModelsInMemory, wait_until: Callable[..., Any]
) -> None:
    models = LogModels(slates, 4000, source, URIS, poll_s=0.01)
    before = models.scores(0, 9)
    stranger = make_catalogue(["1", "2"], {"1": ("Noir",)}, {"1": "Old (1920)"})
    source.add(likes("item_history", stranger), "PolicyB")
    wait_until(lambda: models.scores(0, 9)["PolicyB"].tobytes() != before["PolicyB"].tobytes(), 10, "it serves")
    after = models.scores(0, 9)
    assert after["PolicyA"].tobytes() == before["PolicyA"].tobytes()
    assert np.isfinite(after["PolicyB"]).all()
    models.close()


def test_a_scale_that_the_features_do_not_have_is_one_line(slates: Slates, source: ModelsInMemory) -> None:
    ten_stars = replace(slates, log=replace(slates.log, rating_milli=2 * slates.log.rating_milli))
    with pytest.raises(ConfigError, match=r"tiny: trained models cannot rank it: rating_milli: 0 to 5000"):
        LogModels(ten_stars, 8000, source, URIS)
