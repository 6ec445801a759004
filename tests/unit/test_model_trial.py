"""A model that would crash whoever loads it crashes a child process first, and is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import lightgbm
import numpy as np
import pytest

from sluice.errors import ModelUnusable
from sluice.features import make_catalogue, names
from sluice.models import MODEL_FILE, Linear, TrainedModel, Trees, trial, write_model
from sluice.models.files import BOOSTER_FILE
from sluice.models.trial import try_model

CATALOGUE = make_catalogue(["1"], {"1": ("Drama",)}, {"1": "Glory (1989)"})
COLUMNS = len(names(CATALOGUE.genres))
LINEAR = Linear(np.zeros(COLUMNS), np.ones(COLUMNS), np.ones(COLUMNS), 0.0)


@pytest.fixture(scope="module")
def booster() -> lightgbm.Booster:
    table = np.random.default_rng(1).normal(size=(400, COLUMNS)).astype(np.float32)
    data = lightgbm.Dataset(table, table[:, 0] > table[:, 1])
    return lightgbm.train({"objective": "binary", "verbose": -1, "num_threads": 1}, data, 5)


@pytest.fixture
def folder(booster: lightgbm.Booster, tmp_path: Path) -> Path:
    write_model(tmp_path / "model", TrainedModel("PolicyX", Trees(LINEAR, booster), CATALOGUE))
    return tmp_path / "model"


def forge(folder: Path, change: Callable[[str], str]) -> None:
    """Change the booster, and the digest with it."""
    data = change((folder / BOOSTER_FILE).read_text()).encode()
    record = json.loads((folder / MODEL_FILE).read_text())
    record["sha256"][BOOSTER_FILE] = sha256(data).hexdigest()
    (folder / BOOSTER_FILE).write_bytes(data)
    (folder / MODEL_FILE).write_text(json.dumps(record))


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[: len(text) // 2],
        lambda text: re.sub(r"left_child=\S+", "left_child=9999999", text, count=1),
    ],
    ids=["cut off", "a node far away"],
)
def test_a_forged_booster_crashes_the_child_alone(change: Callable[[str], str], folder: Path, tmp_path: Path) -> None:
    forge(folder, change)
    with pytest.raises(ModelUnusable, match="crashed while loading") as error:
        try_model(folder, tmp_path / "passed")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "passed").exists()


def test_a_booster_that_goes_round_in_circles_is_ended(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "LIMIT_S", 4)
    forge(folder, lambda text: re.sub(r"(left_child=)\S+", r"\g<1>0", text, count=1))
    with pytest.raises(ModelUnusable, match=r"not loaded and tried within 4 s|SIGALRM"):
        try_model(folder, tmp_path / "passed")


def test_what_passed_is_tried_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try_model(folder, tmp_path / "passed")
    monkeypatch.setattr(trial.sys, "executable", "/nonexistent")
    try_model(folder, tmp_path / "passed")
    forge(folder, lambda text: text + "\n")  # another model
    with pytest.raises(ModelUnusable, match="cannot be tried: No such file"):
        try_model(folder, tmp_path / "passed")


def test_a_model_without_trees_needs_no_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial.sys, "executable", "/nonexistent")
    write_model(tmp_path / "model", TrainedModel("PolicyX", LINEAR, CATALOGUE))
    try_model(tmp_path / "model", tmp_path / "passed")
