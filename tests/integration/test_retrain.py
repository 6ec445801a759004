"""`sluice retrain` on a log that a replay wrote: a version without alias, the same for the same offsets."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from movielens_files import write_movielens
from registered_models import NAME, likes, register

from producers.service import ReplayOptions
from producers.service import replay as run_replay
from producers.slates import cut_slates
from producers.sources import read_ratings
from sluice.adapters.mlflow import ModelRef, Registry
from sluice.domain.experiment import Experiment, Variant
from sluice.errors import ConfigError, LogTruncated, ModelUnusable, SluiceError
from sluice.features import make_catalogue
from sluice.settings import Settings
from training.retrain import Job, model_hash
from training.retrain_process import retrain_apart

EXPERIMENT = Experiment(
    name="logged",
    rankings=True,
    variants=(Variant(name="random", share=30), Variant(name="PolicyA", ranker=f"models:/{NAME}@PolicyA", share=70)),
)


@pytest.fixture
def log(
    make_stack: Callable[..., Settings], service_env: Callable[[Settings], dict[str, str]], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, mlflow_store: Callable[[Path], str],
) -> Settings:  # fmt: skip
    """Settings of a broker that holds a whole replay with rankings, by a model that is in force."""
    settings = replace(make_stack("embedded"), mlflow=mlflow_store(tmp_path))
    folder = write_movielens(tmp_path / "tiny", users=60, items=150, each=80, seed=4)
    ratings = cut_slates(read_ratings(str(folder))).log
    model = replace(likes("item_like_rate", make_catalogue(ratings.items, ratings.genres)), name="PolicyA")
    register(settings.mlflow_uri, tmp_path / "files", "PolicyA", model)
    run_replay(settings, [EXPERIMENT], ReplayOptions(data=str(folder)), stop=threading.Event(), notice=lambda _: None)
    for name, value in service_env(settings).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SLUICE_MLFLOW", settings.mlflow)
    return settings


@pytest.mark.slow
def test_a_version_is_made_once_for_an_attempt_and_no_alias_moves(log: Settings) -> None:
    job = Job(model=NAME, alias="PolicyA", experiment="logged", attempt="attempt1", cause="drift1")
    steps: list[str] = []
    made = retrain_apart(job, seconds=120, progress=lambda name, share=None: steps.append(name))
    assert (made.against, made.version, made.policy) == ("1", "2", "PolicyA")
    assert made.passed is not None and made.figures["auc"] > 0.5
    assert 0.15 < made.random_share < 0.45
    assert {"log", "training", "MLflow"} <= set(steps)
    assert retrain_apart(job, seconds=120).version == "2"  # as after a kill: what was registered is found
    registry = Registry(log)
    assert registry.resolve(ModelRef(NAME, alias="PolicyA")).version == "1"
    version = registry.resolve(ModelRef(NAME, version="2"))
    tags = dict(version.tags)
    assert (tags["sluice.attempt"], tags["sluice.cause"]) == ("attempt1", "drift1")
    assert tags["sluice.model_hash"] == made.model_hash == model_hash(registry.load(version))
    assert registry.reference(version).columns == registry.load(version).columns  # its drift can be watched
    assert registry.reference(version).shown_by == "others"
    again = retrain_apart(Job(model=NAME, alias="PolicyA", experiment="logged", offsets=made.offsets), seconds=120)
    assert (again.version, again.model_hash, again.rows_hash) == ("3", made.model_hash, made.rows_hash)


def test_what_cannot_be_done_is_said_in_one_line(log: Settings) -> None:
    dry = Job(model=NAME, alias="PolicyA", dry_run=True)
    held = retrain_apart(dry, seconds=60)
    assert (held.version, held.passed) == ("", None)
    partition, (_, stop) = next(iter(held.offsets["clicks"].items()))
    more = {**held.offsets, "clicks": {**held.offsets["clicks"], partition: (0, stop + 7)}}
    with pytest.raises(LogTruncated, match=rf"clicks\[{partition}\]: offsets {stop} to {stop + 7} are missing"):
        retrain_apart(Job(model=NAME, alias="PolicyA", offsets=more, dry_run=True), seconds=60)
    with pytest.raises(ModelUnusable, match="knows no such model"):
        retrain_apart(Job(model=NAME, alias="Nobody", dry_run=True), seconds=60)
    with pytest.raises(ConfigError, match="nothing to learn from"):
        retrain_apart(Job(model=NAME, alias="PolicyA", since_ms=9_000_000_000_000, dry_run=True), seconds=60)
    with pytest.raises(SluiceError, match=r"longer than 0.05 s"):
        retrain_apart(dry, seconds=0.05)
