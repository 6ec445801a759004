"""Drift over HTTP: what monitors last said, and batches of rows beside the reference of a registered model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from http_service import Running, Servers, serving
from msgspec.structs import replace
from registered_models import NAME, likes, register

from sluice.adapters.drift import KEPT, DriftBoard
from sluice.adapters.lease import Lease
from sluice.adapters.lives import LifeBoard
from sluice.adapters.mlflow import ARTIFACT
from sluice.adapters.redis import connect
from sluice.domain.api_drift import MAX_CHECKED, DriftSeen
from sluice.domain.drift import DRIFT_FILE, Outcomes, Rows, check, make_reference
from sluice.domain.lifecycle_waits import WaitsTold
from sluice.features import make_catalogue, names
from sluice.names import Keys
from sluice.settings import Settings

CATALOGUE = make_catalogue(["1"], {"1": ("Drama",)}, {"1": "One (1989)"})
COLUMNS = names(CATALOGUE.genres)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory, mlflow_store: Callable[[Path], str]) -> Iterator[Servers]:
    made = Servers(Settings(state=tmp_path_factory.mktemp("drift")))
    mlflow_store(made.settings.state)
    yield made
    made.stop()


@pytest.fixture(scope="module")
def api(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    uri, folder = servers.settings.mlflow_uri, tmp_path_factory.mktemp("files")
    register(uri, folder, "Bare", likes("item_history", CATALOGUE))
    register(uri, folder, "Known", likes("item_history", CATALOGUE))
    place = next(folder.glob("Known-*")) / "artifacts" / ARTIFACT / DRIFT_FILE
    rows = shown(np.random.default_rng(1), 300)
    outcomes = Outcomes(*rows, clicked=np.random.default_rng(2).random(len(rows.score)) < rows.score)
    place.write_bytes(make_reference(COLUMNS, rows, outcomes).dump())
    with serving(servers.settings) as running:
        yield running


def shown(rng: np.random.Generator, users: int, shift: float = 0.0) -> Rows:
    n = users * 4
    features = rng.normal(size=(n, len(COLUMNS))) + shift
    return Rows([f"u{row // 4}" for row in range(n)], np.zeros(n, dtype=np.int64), features, rng.random(n))


def body(rows: Rows, model: str = f"{NAME}@Known", **more: Any) -> dict[str, Any]:
    told = [
        {"user_id": user, "features": features.tolist(), "score": float(score)}
        for user, features, score in zip(rows.user, rows.features, rows.score, strict=True)
    ]
    return {"model": model, "rows": told, **more}


def refused(api: Running, status: int, asked: dict[str, Any]) -> dict[str, str]:
    answer = api.post("/drift-check", asked)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
    (error,) = answer.json()["errors"]
    return {"kind": answer.json()["type"], **error}


def test_a_batch_like_the_training_has_not_drifted_and_another_has(api: Running) -> None:
    same = api.post("/drift-check", body(shown(np.random.default_rng(3), 200)))
    assert same.status_code == 200, same.text
    told: Any = same.json()
    assert (told["model"], told["version"], told["drifted"], told["window"]["rows"]) == (NAME, "2", False, 800)
    other: Any = api.post("/drift-check", body(shown(np.random.default_rng(3), 200, shift=1.0))).json()
    assert other["drifted"] and other["features"][0]["effect"] > 0.3


def test_columns_may_come_in_another_order_and_values_may_be_missing(api: Running) -> None:
    rows = shown(np.random.default_rng(4), 50)
    order = np.random.default_rng(5).permutation(len(COLUMNS))
    asked = body(rows._replace(features=rows.features[:, order]), columns=[COLUMNS[place] for place in order])
    plain, mixed = api.post("/drift-check", body(rows)).json(), api.post("/drift-check", asked).json()
    assert plain == mixed
    for row in asked["rows"]:
        row["features"][0] = None
    missing: Any = api.post("/drift-check", asked).json()
    assert {one["name"]: one["missing"] for one in missing["features"]}[COLUMNS[order[0]]] == 1.0


def test_what_cannot_be_compared_is_refused_in_words(api: Running) -> None:
    rows = shown(np.random.default_rng(6), 30)
    assert refused(api, 404, body(rows, f"{NAME}@Nobody"))["kind"] == "urn:sluice:unknown-model"
    bare = refused(api, 404, body(rows, f"{NAME}/1"))
    assert bare["kind"] == "urn:sluice:no-reference" and "train it again" in bare["detail"]
    few = refused(api, 422, body(shown(np.random.default_rng(6), 5)))
    assert few["field"] == "rows" and "at least 20" in few["detail"]
    narrow = refused(api, 422, body(rows._replace(features=rows.features[:, 1:])))
    assert narrow["field"] == "rows[0].features"
    strange = refused(api, 422, body(rows, columns=["x", *COLUMNS[1:]]))
    assert strange["field"] == "columns" and COLUMNS[0] in strange["detail"]
    assert refused(api, 422, body(rows, "no name"))["field"] == "model"
    many = {"model": f"{NAME}/1", "rows": [{"user_id": "u", "features": [1], "score": 0}] * (MAX_CHECKED + 1)}
    assert refused(api, 422, many)["field"] == "rows"


def test_what_a_life_waits_for_is_told_while_somebody_leads_it(api: Running, servers: Servers) -> None:
    keys = Keys(servers.settings.prefix)
    nobody = {"leader": None, "waits": None}
    assert api.get("/lifecycle/m@a").json() == nobody
    told = {"reason": "cooldown", "words": "of the last one", "until_ms": 9, "at_ms": 5}
    with connect(servers.settings) as client:
        LifeBoard(client, keys, "m", "a").put(msgspec.convert(told, WaitsTold))
        assert api.get("/lifecycle/m@a").json() == nobody
        with Lease(client, keys.lifecycle("m", "a"), "vm, process 7") as lease:
            assert lease.take()
            assert api.get("/lifecycle/m@a").json() == {"leader": "vm, process 7", "waits": told}
            assert api.get("/lifecycle/m@b").json() == nobody
            client.set(keys.life_told("m", "a"), b'{"at_ms": 1}')  # of another release
            assert api.get("/lifecycle/m@a").json() == {"leader": "vm, process 7", "waits": None}
    for wrong in ("m", "m@", "@a", "m@a@b"):
        answer = api.get(f"/lifecycle/{wrong}")
        assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")


def test_what_monitors_said_last_is_told_the_latest_first(api: Running, servers: Servers) -> None:
    assert api.get("/drift").json() == {"drift": []}
    rows = shown(np.random.default_rng(7), 60)
    reference = make_reference(COLUMNS, rows, Outcomes(*rows, clicked=rows.score > 0.5))
    with connect(servers.settings) as client:
        board = DriftBoard(client, Keys(servers.settings.prefix))
        client.hset(Keys(servers.settings.prefix).drift, "of/0", b"{}")
        for number in range(1, KEPT + 3):
            board.put(DriftSeen(checked_ms=number, report=check(reference, rows, "m", str(number))))
        other = check(reference, rows, "other", "1")
        board.put(DriftSeen(checked_ms=99, report=other))
        board.put(DriftSeen(checked_ms=98, report=replace(other, part="history=new")))
    told: Any = api.get("/drift").json()["drift"]
    assert [one["report"]["version"] for one in told] == ["1", "1", *(str(n) for n in range(KEPT + 2, 4, -1))]
    seen: Any = api.get("/drift?model=other").json()["drift"]
    assert [(one["checked_ms"], one["report"]["part"]) for one in seen] == [(99, ""), (98, "history=new")]
    assert api.get("/drift?model=none").json() == {"drift": []}
    # A reader that asks while Redis is away is told so; the service lives.
    servers.freeze("redis")
    refusals = [api.get("/drift"), api.get("/lifecycle/m@a")]
    servers.thaw("redis")
    for answer in refusals:
        assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
