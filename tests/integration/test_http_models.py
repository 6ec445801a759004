"""Rankings by registered models over HTTP: versions that move, and what happens without features."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from http_service import Running, Servers, serving
from registered_models import NAME, likes, register

from sluice import subscribe
from sluice.adapters import catalogue
from sluice.adapters.features import FeatureKeeping
from sluice.adapters.redis import connect
from sluice.domain.experiment import Experiment, Variant
from sluice.domain.rankings import SlateRanked, columns_digest, have_columns
from sluice.features import ItemState, make_catalogue, names
from sluice.names import Keys
from sluice.settings import Settings

CATALOGUE = make_catalogue(["1", "2", "3"], {"1": ("Drama",)}, {"1": "One (1989)"})
VARIANTS = tuple(Variant(name=name, ranker=f"models:/{NAME}@PolicyA") for name in ("a", "b"))


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory, mlflow_store: Callable[[Path], str]) -> Iterator[Servers]:
    made = Servers(Settings(state=tmp_path_factory.mktemp("models")))
    mlflow_store(made.settings.state)
    yield made
    made.stop()


@pytest.fixture(scope="module")
def api(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    settings = servers.settings
    register(settings.mlflow_uri, tmp_path_factory.mktemp("v1"), "PolicyA", likes("item_history", CATALOGUE))
    catalogue.apply(settings, [Experiment(name="m", variants=VARIANTS)])
    with connect(settings) as client:
        states = {item: ItemState.new(item) for item in ("1", "2", "3")}
        for item, count in (("1", 5), ("2", 50), ("3", 500)):
            states[item].count, states[item].rating = count, 4000 * count
        FeatureKeeping(client, Keys(settings.prefix)).write_all({}, states, 0)
    with serving(settings) as running:
        yield running


def rank(api: Running) -> tuple[list[str], str, bool]:
    """(items in order, version of the model, fallback)"""
    answer = api.post("/rank", {"user_id": "u", "items": ["2", "1", "3"]})
    assert answer.status_code == 200, answer.text
    told: Any = answer.json()
    return [item["item_id"] for item in told["items"]], told["model_version"], told["fallback"]


def test_the_model_ranks_with_features_of_redis_and_its_alias_is_followed(
    api: Running, servers: Servers, tmp_path: Path, wait_until: Callable[..., Any]
) -> None:
    assert rank(api) == (["3", "2", "1"], "1", False)
    assert api.get("/ready").json()["models"] == {f"models:/{NAME}@PolicyA": "1"}
    register(servers.settings.mlflow_uri, tmp_path, "PolicyA", likes("item_history", CATALOGUE, sign=-1.0))
    wait_until(lambda: rank(api)[1] == "2", 30, "the new version serves")
    assert rank(api) == (["1", "2", "3"], "2", False)
    assert api.metric("sluice_model_version", model=f"models:/{NAME}@PolicyA", version="2") == 1
    assert api.metric("sluice_ranking_scores_count", experiment="m") >= 3


def test_without_features_the_order_of_the_request_stands(
    api: Running, servers: Servers, wait_until: Callable[..., Any]
) -> None:
    servers.freeze("redis")
    wait_until(lambda: rank(api)[2], 10, "rankings without Redis")
    assert rank(api) == (["2", "1", "3"], "", True)
    servers.thaw("redis")
    wait_until(lambda: not rank(api)[2], 10, "rankings with Redis")


def test_a_model_that_is_not_there_stops_nobody_and_is_served_as_soon_as_it_is(
    api: Running, servers: Servers, tmp_path: Path, wait_until: Callable[..., Any]
) -> None:
    missing = f"models:/{NAME}@Nobody"
    catalogue.apply(servers.settings, [Experiment(name="n", variants=(VARIANTS[0], Variant(name="z", ranker=missing)))])
    with serving(replace(servers.settings, state=tmp_path, mlflow=servers.settings.mlflow_uri)) as started:
        told = started.get("/ready").json()
        assert (told["status"], list(told["unserved"])) == ("ready", [missing])
        assert "Nobody" in told["unserved"][missing]
        for running in (api, started):
            wait_until(lambda running=running: ("z", True) in variants_of(running), 10, "the fallback ranks")
            assert variants_of(running) == {(VARIANTS[0].name, False), ("z", True)}
        register(servers.settings.mlflow_uri, tmp_path, "Nobody", likes("item_history", CATALOGUE))
        wait_until(lambda: started.get("/ready").json()["unserved"] == {}, 60, "the model is tried again")
        assert variants_of(started) == {(VARIANTS[0].name, False), ("z", False)}


def variants_of(running: Running) -> set[tuple[str, bool]]:
    """(variant, fallback) that some users meet in experiment n"""
    told = [
        running.post("/rank", {"user_id": f"u{n}", "items": ["1", "2"], "experiment": "n"}).json() for n in range(40)
    ]
    return {(one["variant"], one["fallback"]) for one in told}


def test_recorded_rankings_are_logged_with_what_the_other_variants_would_have_shown(
    api: Running, servers: Servers, tmp_path: Path, wait_until: Callable[..., Any]
) -> None:
    register(servers.settings.mlflow_uri, tmp_path, "Forward", likes("item_history", CATALOGUE))
    variants = (
        Variant(name="random", share=20),
        Variant(name="old", ranker=f"models:/{NAME}@Forward", share=30),
        Variant(name="less", ranker=f"models:/{NAME}/2", share=50),
    )
    catalogue.apply(
        servers.settings, [Experiment(name="logged", variants=variants, rankings=True, segments=("history",))]
    )
    wait_until(lambda: "logged" in [e.name for e in api.service.router.experiments], 10, "the experiment is known")
    wait_until(lambda: len(api.service.scoring.versions()) >= 3, 30, "its models are loaded")
    shown: dict[str, Any] = {}
    with subscribe("rankings", experiment="logged", settings=servers.settings) as rankings:
        for number in range(40):
            body = {"user_id": f"r{number}", "items": ["2", "1", "3"], "experiment": "logged", "top": 1, "record": True}
            body["attributes"] = {"history": "new"}
            answer = api.post("/rank", body).json()
            shown[answer["slate_id"]] = answer
        seen: dict[str, SlateRanked] = {}

        def complete() -> bool:
            seen.update((record.slate_id, record) for record in rankings.poll(0.1))
            return seen.keys() == shown.keys()

        wait_until(complete, 20, "all rankings are logged")
    assert {record.variant for record in seen.values()} == {"random", "old", "less"}
    # `old` shows item 3, `less` shows item 1, and `random` each of the three.
    expected = {"1": 0.5 + 0.2 / 3, "2": 0.2 / 3, "3": 0.3 + 0.2 / 3}
    for slate_id, record in seen.items():
        (item,), (told,) = record.items, shown[slate_id]["items"]
        assert (item.item_id, item.impression_id) == (told["item_id"], told["impression_id"])
        assert item.shown == pytest.approx(expected[item.item_id])
        assert record.segments == ("history=new",)
        assert have_columns([item], len(names(CATALOGUE.genres)))
        assert record.columns == columns_digest(names(CATALOGUE.genres))
        assert (item.score is None) == record.random == (record.variant == "random")
