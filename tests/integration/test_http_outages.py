"""Redis and the broker are frozen, killed and brought back under a running service."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from http_service import Running, Servers, serving

from sluice.adapters import catalogue
from sluice.adapters.reader import TopicReader
from sluice.domain.events import AssignmentMade, OutcomeObserved, decode
from sluice.domain.experiment import Experiment, Variant
from sluice.names import ASSIGNMENTS, CLICKS
from sluice.settings import Settings

VARIANTS = (Variant(name="a", ranker="random"), Variant(name="b", ranker="popularity"))


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    made = Servers(Settings(state=tmp_path))
    catalogue.apply(made.settings, [Experiment(name="e", variants=VARIANTS)])
    yield made
    made.stop()


@pytest.fixture
def api(servers: Servers) -> Iterator[Running]:
    with serving(servers.settings) as running:
        yield running


def assign(api: Running, *users: str) -> tuple[dict[str, str], bool]:
    """(user → variant, degraded)"""
    answer = api.post("/assign", {"units": [{"user_id": user} for user in users]})
    assert answer.status_code == 200, answer.text
    told = answer.json()
    return {unit["user_id"]: unit["given"][0]["variant"] for unit in told["units"]}, told["degraded"]


def click(number: int) -> dict[str, Any]:
    return {"type": "outcome", "click_id": f"c{number}", "impression_id": "i", "user_id": "u", "at_ms": number}


def clicks(settings: Settings, count: int) -> list[int]:
    """Event times of the records on topic `clicks`, in their order, once there are `count`."""
    found: list[Any] = []
    with TopicReader(settings, CLICKS, from_start=True) as reader:
        for _ in range(1200):
            found += [decode(message.value(), OutcomeObserved) for message in reader.poll(0.05)]
            if len({one.at_ms for one in found}) >= count:
                return [one.at_ms for one in found]
    raise AssertionError(f"{len(found)} of {count} clicks")


@pytest.mark.parametrize("how", ["freeze", "kill"])
def test_redis_goes_and_comes_back(servers: Servers, api: Running, wait_until: Callable[..., Any], how: str) -> None:
    users = [f"u{n}" for n in range(100)]
    before, degraded = assign(api, *users)
    assert not degraded
    getattr(servers, how)("redis")
    wait_until(lambda: assign(api, "x")[1] and api.service.breaker.open, 10, "assignments without Redis")
    assert assign(api, *users) == (before, True), "the pure hash gives what Redis remembered"
    assert api.get("/ready").json()["redis"] == "away"
    assert api.metric("sluice_away", server="redis") == 1
    assert api.metric("sluice_assignments_degraded_total", experiment="e") >= 100
    answer = api.post("/rank", {"user_id": "u1", "items": ["1", "2"]}).json()
    assert answer["degraded"]
    problem = api.get("/counters/e")
    assert (problem.status_code, problem.headers["retry-after"]) == (503, "1")
    servers.thaw("redis") if how == "freeze" else servers.bring_back("redis")
    wait_until(lambda: not assign(api, "y")[1], 10, "Redis is used again")
    assert assign(api, *users) == (before, False)
    assert api.get("/ready").json()["redis"] == "ok"
    wait_until(lambda: api.service.courier.queued == 0, 10, "the exposure log is written")
    with TopicReader(servers.settings, ASSIGNMENTS, from_start=True) as reader:
        logged: Any = [decode(message.value(), AssignmentMade) for message in reader.rest()]
    flags = [one.degraded for one in logged if one.user_id == "u0"]
    assert flags[0] is False
    assert flags[-1] is False
    assert True in flags


@pytest.mark.slow
def test_a_pause_is_followed_while_redis_is_away_and_a_new_experiment_waits_for_it(
    servers: Servers, api: Running, wait_until: Callable[..., Any]
) -> None:
    def told(name: str) -> str | None:
        answer = api.post("/assign", {"units": [{"user_id": "u"}], "experiments": [name]})
        outside: str | None = (
            answer.json()["units"][0]["given"][0]["outside"] if answer.status_code == 200 else "unknown"
        )
        return outside

    assert told("e") is None
    servers.freeze("redis")
    catalogue.apply(servers.settings, [Experiment(name="a-new-one", variants=VARIANTS)])
    wait_until(lambda: told("a-new-one") is None, 10, "the new experiment is served")
    catalogue.change(servers.settings, "e", "pause", by="ada")
    wait_until(lambda: told("e") == "paused", 40, "the pause is followed")
    servers.thaw("redis")
    catalogue.change(servers.settings, "e", "start", by="ada")
    wait_until(lambda: told("e") is None, 40, "and everything after it")


@pytest.mark.parametrize("how", ["freeze", "kill"])
def test_the_broker_goes_and_comes_back(
    servers: Servers, api: Running, wait_until: Callable[..., Any], how: str
) -> None:
    broker_goes_and_comes_back(servers, api, wait_until, how)


@pytest.mark.kafka
def test_apache_kafka_goes_and_comes_back(local: Settings, tmp_path: Path, wait_until: Callable[..., Any]) -> None:
    servers = Servers(Settings(state=tmp_path), "local")
    try:
        catalogue.apply(servers.settings, [Experiment(name="e", variants=VARIANTS)])
        with serving(servers.settings) as api:
            broker_goes_and_comes_back(servers, api, wait_until, "freeze")
    finally:
        servers.stop()


def broker_goes_and_comes_back(servers: Servers, api: Running, wait_until: Callable[..., Any], how: str) -> None:
    def send(number: int) -> Any:
        return api.post("/events", {"events": [click(number)]})

    assert send(0).status_code == 202
    servers.freeze("broker") if how == "freeze" else servers.kill("broker")
    for number in range(1, 30):
        answer = send(number)
        assert (answer.status_code, answer.json()["accepted"]) == (202, 1)
    assert api.get("/ready").json()["kafka"] == "away"
    assert api.service.spool.bytes > 0
    assert api.metric("sluice_spool_bytes") == api.service.spool.bytes
    assert assign(api, "u1")[1] is False
    servers.thaw("broker") if how == "freeze" else servers.bring_back("broker")
    wait_until(lambda: not api.service.courier.spooling, 30, "the spool is sent")
    assert send(30).status_code == 202
    expected = list(range(31)) if how == "freeze" else list(range(1, 31))  # a new broker begins empty
    found = clicks(servers.settings, len(expected))
    # A record that was on its way when the broker went may be there twice.
    assert list(dict.fromkeys(found)) == expected
    assert found[-29:] == expected[-29:], "in the order in which they were taken in"
    assert api.service.spool.bytes == 0


def test_what_a_dead_router_spooled_is_sent_by_the_next_one(servers: Servers, wait_until: Callable[..., Any]) -> None:
    with serving(servers.settings) as first:
        servers.freeze("broker")
        for number in range(5):
            assert first.post("/events", {"events": [click(number)]}).status_code == 202
    servers.thaw("broker")
    with serving(servers.settings) as second:
        wait_until(lambda: not second.service.courier.spooling, 30, "the spool is sent")
    assert list(dict.fromkeys(clicks(servers.settings, 5))) == list(range(5))


def test_neither_broker_nor_disk_is_a_503_and_nothing_is_acknowledged(
    servers: Servers, wait_until: Callable[..., Any]
) -> None:
    with serving(servers.settings, spool_bytes=500) as api:
        servers.freeze("broker")
        answers = [api.post("/events", {"events": [click(number)]}) for number in range(6)]
        codes = [answer.status_code for answer in answers]
        assert codes == sorted(codes)
        assert {codes[0], codes[-1]} == {202, 503}
        assert answers[-1].headers["retry-after"] == "1"
        assert answers[-1].headers["content-type"] == "application/problem+json"
        assert assign(api, "u1")[1] is False, "assignments go on"
        servers.thaw("broker")
        wait_until(lambda: not api.service.courier.spooling, 30, "the spool is sent")
    taken = codes.count(202)
    assert set(clicks(servers.settings, taken)) >= set(range(taken))


def test_a_spool_that_is_deleted_meanwhile_stops_nothing_that_comes_later(
    servers: Servers, wait_until: Callable[..., Any]
) -> None:
    with serving(servers.settings) as api:
        servers.freeze("broker")
        assert api.post("/events", {"events": [click(0)]}).status_code == 202
        for segment in (servers.settings.state / "spool").glob("*.spool"):
            segment.unlink()
        servers.thaw("broker")
        wait_until(lambda: not api.service.courier.spooling, 30, "Kafka is used again")
        assert api.post("/events", {"events": [click(1)]}).status_code == 202
    assert 1 in clicks(servers.settings, 1)


def test_requests_do_not_wait_for_a_frozen_redis(servers: Servers, api: Running) -> None:
    assign(api, "u")
    servers.freeze("redis")
    answers: list[bool] = []

    def ask() -> None:
        for number in range(20):
            answers.append(assign(api, f"w{number}")[1])

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)  # less than 80 timeouts of ten seconds, by four threads
    assert len(answers) == 80
    assert all(answers[8:])
    servers.thaw("redis")


def test_a_router_starts_with_a_spool_of_its_own(servers: Servers, api: Running, tmp_path: Path) -> None:
    with serving(replace(servers.settings, state=tmp_path / "second")) as second:
        assert second.get("/health").status_code == 200
