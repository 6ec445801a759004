"""Models as files: what is read scores as what was written, and what is unfit is refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import lightgbm
import numpy as np
import pytest

from sluice.errors import ModelUnusable
from sluice.features import make_catalogue, names
from sluice.models import MODEL_FILE, Linear, TrainedModel, Trees, read_model, write_model
from sluice.models.files import BOOSTER_FILE, CATALOGUE_FILE

CATALOGUE = make_catalogue(["1", "é"], {"1": ("Drama", "War")}, {"1": "Glory (1989)"})
COLUMNS = len(names(CATALOGUE.genres))


def linear(seed: int = 0) -> Linear:
    rng = np.random.default_rng(seed)
    return Linear(rng.normal(size=COLUMNS), rng.uniform(0.5, 2, COLUMNS), rng.normal(size=COLUMNS), 0.25)


def features(rows: int = 50) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(rows, COLUMNS)).astype(np.float32)


def trees() -> Trees:
    table = features(400)
    data = lightgbm.Dataset(table, table[:, 0] > table[:, 1])
    booster = lightgbm.train({"objective": "binary", "verbose": -1, "num_threads": 1}, data, 5)
    return Trees(linear(), booster)


@pytest.mark.parametrize("make", [linear, trees])
def test_what_is_read_scores_to_the_last_bit_as_what_was_written(
    make: Callable[[], Linear | Trees], tmp_path: Path
) -> None:
    written = TrainedModel("PolicyX", make(), CATALOGUE, {"fingerprint": "ab"})
    write_model(tmp_path / "model", written)
    read = read_model(tmp_path / "model")
    assert (read.name, read.catalogue, read.about) == ("PolicyX", CATALOGUE, {"fingerprint": "ab"})
    assert read.columns == names(CATALOGUE.genres)
    table = features()
    assert read.score(table).tobytes() == written.score(table).tobytes()
    assert len(set(read.score(table))) > 10


def test_the_log_odds_are_those_of_the_formula_and_do_not_depend_on_the_batch() -> None:
    model, table = linear(), features(1001)
    expected = model.intercept + ((table - model.mean) / model.scale) @ model.weights
    np.testing.assert_allclose(model.log_odds(table), expected, rtol=1e-9, atol=1e-9)
    single = np.concatenate([model.log_odds(row[None]) for row in table])
    assert single.tobytes() == model.log_odds(table).tobytes()
    assert model.log_odds(np.asfortranarray(table)).tobytes() == single.tobytes()
    np.testing.assert_allclose(model.intercept + model.contributions(table).sum(axis=1), expected, rtol=1e-9, atol=1e-9)


def changed(field: str, value: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        record = json.loads((folder / MODEL_FILE).read_text())
        (folder / MODEL_FILE).write_text(json.dumps(record | {field: value}))

    return change


def cut(file: Path) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])


def forged(folder: Path, catalogue: bytes) -> None:
    digests = json.loads((folder / MODEL_FILE).read_text())["sha256"]
    (folder / CATALOGUE_FILE).write_bytes(catalogue)
    changed("sha256", digests | {CATALOGUE_FILE: sha256(catalogue).hexdigest()})(folder)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: (folder / MODEL_FILE).unlink(), "no such file"),
        (lambda folder: (folder / CATALOGUE_FILE).write_text("[]"), "catalogue.json"),
        (lambda folder: (folder / MODEL_FILE).write_bytes(b"\xff{"), "sluice.json"),
        (changed("features_version", 99), "train it again"),
        (changed("format", 1), "format 1 .* serves format 2 .*: train it again"),
        (changed("columns", ["a"]), "not those of its catalogue"),
        (lambda folder: (folder / MODEL_FILE).write_text('{"x":' + "[" * 100_000), "recursion"),
        (changed("weights", [1.0]), "means, scales > 0 and weights"),
        (changed("scale", [0.0] * COLUMNS), "means, scales > 0 and weights"),
        (lambda folder: (folder / BOOSTER_FILE).write_text("tree\nnonsense"), "booster.txt"),
        (lambda folder: (folder / BOOSTER_FILE).unlink(), "no such file"),
        (changed("sha256", {}), "catalogue.json: not what was written with sluice.json"),
        # LightGBM itself would read beyond what is cut off here, or divide by zero, and end the process.
        (lambda folder: cut(folder / BOOSTER_FILE), "booster.txt: not what was written with sluice.json"),
        (
            lambda folder: forged(folder, b'{"genres":["Drama","War"],"items":{"1":[1989,[0,2]]}}'),
            "genres that it does",
        ),
        (lambda folder: forged(folder, b'{"genres":["Drama","War"],"items":{"1":[1989,[-1]]}}'), "Expected `int` >= 0"),
    ],
)
def test_what_is_unfit_is_refused(spoil: Callable[[Path], None], words: str, tmp_path: Path) -> None:
    write_model(tmp_path, TrainedModel("PolicyX", trees(), CATALOGUE))
    spoil(tmp_path)
    with pytest.raises(ModelUnusable, match=words) as error:
        read_model(tmp_path)
    assert "\n" not in str(error.value)
