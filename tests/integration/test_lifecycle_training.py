"""A log that does not fit the version in force: the attempt ends with the reason, and that version serves on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from mlflow import MlflowClient
from movielens_files import write_movielens
from registered_models import NAME, likes, register

from producers.service import ReplayOptions
from producers.service import replay as run_replay
from producers.slates import cut_slates
from producers.sources import read_ratings
from sluice.adapters.mlflow import ModelRef, Registry
from sluice.domain.experiment import Experiment, Variant
from sluice.domain.lifecycle import Policy, next_step
from sluice.domain.lifecycle_events import Abandoned, Aborted, RetrainRequested
from sluice.domain.lifecycle_waits import Waits
from sluice.features import make_catalogue
from sluice.settings import Settings
from training.lifecycle import Lifecycle
from training.lifecycle_journal import Journal
from training.lifecycle_plan import Plan

ALIAS = "PolicyA"
EXPERIMENT = Experiment(
    name="logged",
    rankings=True,
    variants=(Variant(name="random", share=30), Variant(name="PolicyA", ranker=f"models:/{NAME}@{ALIAS}", share=70)),
)
PLAN = Plan(name="films", model=NAME, alias=ALIAS, policy=Policy(cooldown_s=3600))


@pytest.mark.slow
def test_a_log_that_does_not_fit_the_version_in_force_ends_the_attempt(
    make_stack: Callable[..., Settings], service_env: Callable[[Settings], dict[str, str]], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, mlflow_store: Callable[[Path], str],
) -> None:  # fmt: skip
    settings = replace(make_stack("embedded"), mlflow=mlflow_store(tmp_path))
    folder = write_movielens(tmp_path / "tiny", users=20, items=100, each=40, seed=4)
    ratings = cut_slates(read_ratings(str(folder))).log
    first = replace(likes("item_like_rate", make_catalogue(ratings.items, ratings.genres)), name="PolicyA")
    other = replace(likes("item_like_rate", make_catalogue(["1"], {"1": ("Noir",)})), name="PolicyA")
    register(settings.mlflow_uri, tmp_path / "1", ALIAS, first)
    run_replay(settings, [EXPERIMENT], ReplayOptions(data=str(folder)), stop=threading.Event(), notice=lambda _: None)
    for name, value in {**service_env(settings), "SLUICE_MLFLOW": settings.mlflow}.items():
        monkeypatch.setenv(name, value)  # for the process that trains
    register(settings.mlflow_uri, tmp_path / "2", ALIAS, other)  # by hand: it knows other genres
    registry, client = Registry(settings), MlflowClient(settings.mlflow_uri, settings.mlflow_uri)
    with Journal(settings, NAME, ALIAS) as journal:
        life = Lifecycle(settings, PLAN, journal, clock_ms=lambda: 2000)
        asked = RetrainRequested(id="r1", model=NAME, alias=ALIAS, at_ms=1000, against="2", reason="a look", by="ada")
        journal.append(asked)
        ended = life.turn()
        assert isinstance(ended, Abandoned)
        assert "rankings of the log have features of other columns" in ended.reasons[0]
        assert life.turn() is None
        in_force = registry.resolve(ModelRef(NAME, alias=ALIAS))
        assert in_force.version == journal.state.in_force == "2"
        assert registry.load(in_force).columns == other.columns != first.columns
        # The first one fits, and has seen nothing since then.
        client.set_registered_model_alias(NAME, ALIAS, "1")
        journal.append(msgspec.structs.replace(asked, id="r2", against="1", since_ms=9_000_000_000_000))
        ended = life.turn()
        assert isinstance(ended, Abandoned) and "nothing to learn from" in ended.reasons[0]
        assert next_step(journal.state, 2000, PLAN.policy) is None
        life.close()

        def hear(told: Waits) -> None:
            if told.words.startswith("train:") and journal.state.running is not None:
                journal.append(Aborted(id="a", model=NAME, alias=ALIAS, at_ms=2000, attempt="r3", by="ada", why="no"))

        journal.append(msgspec.structs.replace(asked, id="r3", against="1"))
        life = Lifecycle(settings, PLAN, journal, clock_ms=lambda: 2000, tell=hear)
        assert life.turn() is None  # the training was ended with its attempt
        assert journal.state.attempt is not None and journal.state.attempt.outcome == "aborted"
        life.close()

        journal.append(msgspec.structs.replace(asked, id="r4", against="1"))
        trains = threading.Event()
        life = Lifecycle(
            settings, PLAN, journal, clock_ms=lambda: 2000, stopping=trains.is_set,
            tell=lambda told: trains.set() if told.words.startswith("train:") else None,
        )  # fmt: skip
        assert life.turn() is None  # this process was asked to stop
        assert journal.state.running is not None and journal.state.running.stage == "requested"
        assert len(client.search_model_versions(f"name = '{NAME}'")) == 2
        life.close()
