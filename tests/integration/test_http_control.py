"""The token, and experiments that are changed over HTTP."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from http_service import Running, serving

from infra import stack as stacks
from sluice.adapters import catalogue
from sluice.domain.experiment import Experiment, Variant
from sluice.settings import Settings

TOKEN = "open sesame"
BY = {"by": "ada", "why": "because"}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    with stacks.start("embedded", Settings(state=tmp_path_factory.mktemp("control"))) as stack:
        catalogue.apply(stack.settings, [Experiment(name="one", variants=(Variant(name="a"), Variant(name="b")))])
        yield stack.settings


@pytest.fixture(scope="module")
def api(settings: Settings) -> Iterator[Running]:
    with serving(replace(settings, token=TOKEN)) as running:
        yield running


@pytest.mark.parametrize("path", ["/experiments", "/metrics", "/docs", "/openapi.json", "/decisions", "/nope"])
@pytest.mark.parametrize("header", [None, "Bearer wrong", "Bearer", TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN}x"])
def test_without_the_token_nothing_is_told(api: Running, path: str, header: str | None) -> None:
    answer = httpx.get(api.url + path, headers={} if header is None else {"Authorization": header})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.headers["content-type"] == "application/problem+json"
    assert TOKEN not in answer.text


def test_the_scheme_is_known_in_any_case(api: Running) -> None:
    for scheme in ("Bearer", "bearer", "BEARER"):
        assert httpx.get(f"{api.url}/decisions", headers={"Authorization": f"{scheme} {TOKEN}"}).status_code == 200


def test_health_needs_no_token(api: Running) -> None:
    assert httpx.get(f"{api.url}/health").status_code == 200
    assert httpx.get(f"{api.url}/ready").status_code == 200


def test_the_document_says_where_the_token_goes(api: Running) -> None:
    paths = api.get("/openapi.json").json()["paths"]
    assert paths["/assign"]["post"]["security"] == [{"token": []}]
    assert "security" not in paths["/health"]["get"]


def test_the_token_is_never_shown(api: Running) -> None:
    assert TOKEN not in repr(api.service.settings)


def test_without_a_token_of_its_own_a_service_changes_nothing(settings: Settings, tmp_path: Any) -> None:
    with serving(replace(settings, state=tmp_path)) as open_api:
        answer = open_api.post("/experiments/one/pause", BY)
        assert answer.status_code == 403
        assert open_api.post("/experiments", {**BY, "experiment": {}}).status_code == 403
        assert catalogue.load(settings)["one"].state.status == "running"


def test_the_life_of_an_experiment(api: Running, settings: Settings, wait_until: Callable[..., Any]) -> None:
    config = {"name": "two", "variants": [{"name": "x", "ranker": "random"}, {"name": "y", "ranker": "popularity"}]}
    made = api.post("/experiments", {**BY, "experiment": config})
    assert made.status_code == 201, made.text
    assert made.json()["state"]["status"] == "draft"
    assert api.post("/experiments", {**BY, "experiment": config}).status_code == 409

    def given() -> dict[str, Any]:
        answer = api.post("/assign", {"units": [{"user_id": "u"}]}).json()
        return {one["experiment"]: one for one in answer["units"][0]["given"]}

    wait_until(lambda: given().get("two", {}).get("outside") == "draft", 10, "the draft is followed")
    started = api.post("/experiments/two/start", {**BY, "revision": 1})
    assert (started.status_code, started.json()["state"]["revision"]) == (200, 2)
    wait_until(lambda: given()["two"]["outside"] is None, 10, "the start is followed")
    late = api.post("/experiments/two/pause", {**BY, "revision": 1})
    assert late.status_code == 409
    assert "not at revision 1" in late.json()["detail"]
    assert api.post("/experiments/two/ship", {**BY, "variant": "y"}).status_code == 200
    wait_until(lambda: given()["two"] == {**given()["two"], "outside": "shipped", "variant": "y"}, 10, "the end")
    ranked = api.post("/rank", {"user_id": "u", "experiment": "two", "items": ["1", "2"]}).json()
    assert ranked["variant"] == "y"
    assert "two" not in {assignment[0] for assignment in ranked["assignments"]}
    assert api.post("/experiments/two/start", BY).status_code == 409
    last = catalogue.load(settings)["two"].state.changes[-1]
    assert (last.action, last.by, last.why, last.variant) == ("ship", "ada", "because", "y")


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("/experiments", {**BY, "experiment": {"name": "bad", "variants": [{"name": "a"}]}}, 422, "variants"),
        ("/experiments", {**BY, "experiment": 7}, 422, "mapping"),
        ("/experiments", {**BY, "experiment": {"name": "x" * 40_000}}, 422, "bytes"),
        ("/experiments", {"experiment": {}}, 422, "by"),
        ("/experiments/nope/pause", BY, 404, "nope"),
        ("/experiments/one/ship", BY, 422, "variant"),
        ("/experiments/one/pause", {"by": ""}, 422, "length"),
    ],
)
def test_what_is_wrong_is_said(api: Running, path: str, body: Any, status: int, said: str) -> None:
    answer = api.post(path, body)
    assert answer.status_code == status, answer.text
    assert said in answer.text
    assert api.post("/experiments/one/burn", BY).status_code == 404


def arms(*shares: int) -> list[dict[str, Any]]:
    return [{"name": name, "share": share} for name, share in zip("ab", shares, strict=True)]


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"name": "bad", "variants": arms(50, 40)}, "experiment.variants"),
        ({"name": "bad", "variants": arms(101, 0)}, "experiment.variants[0].share"),
        ({"name": "bad", "variants": arms(50, 50), "unit": "planet"}, "experiment.unit"),
        ({"name": "bad", "variants": arms(50, 50), "colour": 1}, "experiment"),
        ({"name": "bad", "variants": arms(50, 50), "bandit": {"floor": 0.9}}, "experiment.bandit.floor"),
    ],
)
def test_a_bad_experiment_names_its_field(api: Running, config: Any, field: str) -> None:
    answer = api.post("/experiments", {**BY, "experiment": config})
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == [field]


def test_layers_that_overlap_are_refused_when_the_second_one_starts(api: Running) -> None:
    for name in ("left", "right"):
        layer = {"name": "page", "range": [0.0, 0.6]}
        made = api.post("/experiments", {**BY, "experiment": {"name": name, "variants": arms(50, 50), "layer": layer}})
        assert made.status_code == 201, made.text
        answer = api.post(f"/experiments/{name}/start", BY)
    assert answer.status_code == 422
    assert "left" in answer.json()["detail"]
    assert "right" in answer.json()["detail"]
