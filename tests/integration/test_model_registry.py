"""Models fetched from MLflow: damaged copies are mended, what never serves is looked at once, nothing is too big."""

from __future__ import annotations

import json
import os
import shutil
import traceback
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import lightgbm
import numpy as np
import pytest
from registered_models import NAME, likes, register

from sluice.adapters import mlflow as adapter
from sluice.adapters.mlflow import ModelVersion, Registry, mlflow_errors, parse_model_uri
from sluice.errors import ModelUnusable, TransportError
from sluice.features import make_catalogue, names
from sluice.models import MODEL_FILE
from sluice.models.files import CATALOGUE_FILE
from sluice.settings import Settings

CATALOGUE = make_catalogue(["1"], {"1": ("Drama",)}, {"1": "Glory (1989)"})


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory, mlflow_store: Callable[[Path], str]) -> str:
    return mlflow_store(tmp_path_factory.mktemp("store"))


@pytest.fixture
def source(uri: str, tmp_path: Path) -> Path:
    """Where the registered files lie."""
    register(uri, tmp_path / "files", "PolicyA", likes("item_history", CATALOGUE))
    return next((tmp_path / "files").glob("*/artifacts/model"))


@pytest.fixture
def registry(uri: str, tmp_path: Path) -> Registry:
    return Registry(Settings(state=tmp_path / "state", mlflow=uri))


def version(registry: Registry) -> ModelVersion:
    return registry.resolve(parse_model_uri(f"models:/{NAME}@PolicyA"))


@pytest.mark.parametrize("name", [MODEL_FILE, CATALOGUE_FILE])
def test_a_damaged_copy_is_fetched_once_more(name: str, registry: Registry, source: Path) -> None:
    found = version(registry)
    copy = registry.fetch(found) / "model" / name
    copy.write_bytes(copy.read_bytes()[:-9])
    assert registry.load(found).name == "by item_history"
    shutil.rmtree(source)  # what is whole is not asked for again
    assert registry.load(found).name == "by item_history"


def test_damaged_at_its_source_a_model_is_given_up(registry: Registry, source: Path) -> None:
    whole = (source / CATALOGUE_FILE).read_bytes()
    (source / CATALOGUE_FILE).write_bytes(whole[:-9])
    found = version(registry)
    for _ in range(2):
        with pytest.raises(ModelUnusable, match="not what was written with"):
            registry.load(found)
        (source / CATALOGUE_FILE).write_bytes(whole)  # not looked at again: a version does not change


def test_files_that_are_away_for_a_while_are_asked_for_again(registry: Registry, source: Path) -> None:
    found = version(registry)
    away = source.parent.rename(source.parent.with_name("away"))
    shutil.move(away, source.parents[2] / "away")
    with pytest.raises(ModelUnusable, match="cannot be fetched"):
        registry.load(found)
    shutil.move(source.parents[2] / "away", source.parent)
    assert registry.load(found).name == "by item_history"


def test_a_model_that_is_not_ours_is_refused_by_its_listing_and_not_looked_at_again(
    registry: Registry, source: Path, tmp_path: Path
) -> None:
    hidden = source.rename(source.with_name("other"))
    found = version(registry)
    with pytest.raises(ModelUnusable, match="not registered by Sluice"):
        registry.load(found)
    hidden.rename(source)
    with pytest.raises(ModelUnusable, match="not registered by Sluice"):
        registry.load(found)
    assert list((tmp_path / "state" / "models").iterdir()) == []


def test_only_our_files_are_fetched_and_none_that_are_too_large(
    registry: Registry, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source / "huge.bin").write_bytes(b"0" * 100_000)
    found = version(registry)
    with monkeypatch.context() as patch:
        patch.setattr(adapter, "MAX_FILE_BYTES", 100)
        with pytest.raises(ModelUnusable, match="larger than 0 MiB"):
            registry.load(found)
    other = Registry(Settings(state=tmp_path / "state", mlflow=registry._uri))
    found_names = {path.name for path in (other.fetch(found) / "model").iterdir()}
    assert found_names == {MODEL_FILE, CATALOGUE_FILE}


def test_what_a_killed_download_left_is_removed_and_one_under_way_is_not(
    registry: Registry, source: Path, tmp_path: Path
) -> None:
    left, busy = tmp_path / "state" / "models" / "tmpleft", tmp_path / "state" / "models" / "tmpbusy"
    for place in (left, busy):
        place.mkdir(parents=True)
        (place / "file").write_text("")
    os.utime(left, (0, 0))
    registry.load(version(registry))
    assert (left.exists(), busy.exists()) == (False, True)


def test_a_forged_model_is_refused_and_the_process_lives(registry: Registry, source: Path) -> None:
    table = np.random.default_rng(0).normal(size=(400, len(names(CATALOGUE.genres))))
    whole = lightgbm.train({"objective": "binary", "verbose": -1}, lightgbm.Dataset(table, table[:, 0] > 0), 5)
    text = whole.model_to_string()
    booster = text[: len(text) // 2].encode()
    record = json.loads((source / MODEL_FILE).read_text())
    record |= {"trees": True, "sha256": record["sha256"] | {"booster.txt": sha256(booster).hexdigest()}}
    (source / "booster.txt").write_bytes(booster)
    (source / MODEL_FILE).write_text(json.dumps(record))
    with pytest.raises(ModelUnusable, match="crashed while loading"):
        registry.load(version(registry))


def test_a_password_is_in_no_traceback() -> None:
    from sqlalchemy.exc import SQLAlchemyError

    address = "postgresql://u:secret@host/x"
    with pytest.raises(TransportError) as raised, mlflow_errors(address):
        raise SQLAlchemyError(f"cannot connect to {address}")
    assert "secret" not in "".join(traceback.format_exception(raised.value))
