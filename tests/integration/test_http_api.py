"""The router over HTTP on a real broker and a real Redis."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
from http_service import Running, decision_of, serving

from infra import stack as stacks
from sluice.adapters import catalogue
from sluice.adapters.kafka import producer
from sluice.adapters.reader import TopicReader
from sluice.adapters.redis import connect
from sluice.adapters.telemetry import METRICS
from sluice.domain.api import MAX_BODY_BYTES
from sluice.domain.events import AssignmentMade, Heartbeat, ImpressionShown, OutcomeObserved, decode
from sluice.domain.experiment import Experiment, Variant
from sluice.names import ASSIGNMENTS, CLICKS, DECISIONS, IMPRESSIONS, Keys
from sluice.settings import Settings

PLAIN = Experiment(name="plain", variants=(Variant(name="a", ranker="random"), Variant(name="b", ranker="popularity")))
OTHER = Experiment(name="other", variants=(Variant(name="x", ranker="random"), Variant(name="y", ranker="affinity")))


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    with stacks.start("embedded", Settings(state=tmp_path_factory.mktemp("http"))) as stack:
        catalogue.apply(stack.settings, [PLAIN, OTHER])
        yield stack.settings


@pytest.fixture(scope="module")
def api(settings: Settings) -> Iterator[Running]:
    with serving(settings) as running:
        yield running


def problem(answer: Any, status: int, field: str | None = None) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    told: dict[str, Any] = answer.json()
    assert told["status"] == status
    assert told["title"]
    assert told["detail"]
    if field is not None:
        assert [error["field"] for error in told["errors"]] == [field]
    return told


def written(settings: Settings, topic: str, count: int, act: Callable[[], None], kind: Any) -> list[Any]:
    """The first `count` records of `topic` after `act`."""
    with TopicReader(settings, topic, from_start=False) as reader:
        act()
        found: list[Any] = []
        for _ in range(1200):
            told = [decode(message.value(), kind | Heartbeat) for message in reader.poll(0.05)]
            found += [one for one in told if not isinstance(one, Heartbeat)]
            if len(found) >= count:
                return found
    raise AssertionError(f"{len(found)} of {count} records on {topic}")


def test_units_are_assigned_sticky_and_exposed(api: Running, settings: Settings) -> None:
    body = {"units": [{"user_id": f"s{n}"} for n in range(50)], "experiments": ["plain"]}
    answers: list[Any] = []
    made = written(settings, ASSIGNMENTS, 50, lambda: answers.append(api.post("/assign", body).json()), AssignmentMade)
    (first,) = answers
    assert not first["degraded"]
    again = api.post("/assign", body).json()
    given = {unit["user_id"]: unit["given"][0] for unit in first["units"]}
    assert {one["variant"] for one in given.values()} == {"a", "b"}
    assert not any(one["sticky"] for one in given.values())
    for unit in again["units"]:
        (one,) = unit["given"]
        assert one == {**given[unit["user_id"]], "sticky": True}
        assert unit["assignments"] == [["plain", one["variant"], "a=50,b=50", unit["user_id"], 0.5, "user"]]
    assert {(one.user_id, one.variant) for one in made} == {(user, one["variant"]) for user, one in given.items()}
    assert {one.experiment for one in made} == {"plain"}
    assert not any(one.degraded for one in made)


def test_all_experiments_answer_unless_some_are_named(api: Running) -> None:
    (unit,) = api.post("/assign", {"units": [{"user_id": "all"}]}).json()["units"]
    assert sorted(one["experiment"] for one in unit["given"]) == ["other", "plain"]


def test_an_experiment_by_sessions_fails_nobody_who_has_none(
    api: Running, settings: Settings, wait_until: Callable[..., Any]
) -> None:
    catalogue.apply(settings, [Experiment(name="by-session", variants=PLAIN.variants, unit="session")])
    try:
        wait_until(lambda: api.get("/experiments/by-session").status_code == 200, 10, "the experiment is served")
        user, session = {"user_id": "u"}, {"user_id": "u", "session_id": "s"}
        answer = api.post("/assign", {"units": [user, user]}).json()
        names = {one["experiment"] for unit in answer["units"] for one in unit["given"]}
        assert names
        assert "by-session" not in names
        given = api.post("/assign", {"units": [session]}).json()["units"][0]["given"]
        assert ("by-session", "s") in [(one["experiment"], one["unit"]) for one in given]
        problem(api.post("/assign", {"units": [session, user]}), 422, "units[1].session_id")
        problem(api.post("/assign", {"units": [user], "experiments": ["by-session"]}), 422, "units[0].session_id")
        ranked = api.post("/rank", {**user, "experiment": "plain", "items": ["1", "2"]})
        assert ranked.status_code == 200, ranked.text
        problem(api.post("/rank", {**user, "experiment": "by-session", "items": ["1"]}), 422, "session_id")
    finally:
        catalogue.change(settings, "by-session", "stop", by="ada")
        wait_until(
            lambda: api.get("/experiments/by-session").json()["experiment"]["state"]["status"] == "stopped",
            10,
            "stopped",
        )


def test_ranking_records_impressions_that_the_answer_names(api: Running, settings: Settings) -> None:
    body = {"user_id": "r1", "experiment": "plain", "items": ["10", "20", "30", "40"], "top": 3, "record": True}
    answers: list[Any] = []
    shown = written(settings, IMPRESSIONS, 3, lambda: answers.append(api.post("/rank", body)), ImpressionShown)
    answer = answers[0].json()
    assert answers[0].status_code == 200
    assert (answer["recorded"], answer["fallback"], answer["degraded"]) == (True, False, False)
    assert len({item["item_id"] for item in answer["items"]}) == 3
    scores = [item["score"] for item in answer["items"]]
    assert scores == sorted(scores, reverse=True)
    assert [(one.impression_id, one.item_id, one.position) for one in sorted(shown, key=lambda one: one.position)] == [
        (item["impression_id"], item["item_id"], item["position"]) for item in answer["items"]
    ]
    assert {one.at_ms for one in shown} == {answer["at_ms"]}
    assert {carried.experiment for carried in shown[0].assignments} == {"plain", "other"}


def test_the_same_slate_has_the_same_impressions(api: Running) -> None:
    body = {"user_id": "r2", "experiment": "plain", "items": ["1", "2"], "slate_id": "mine"}
    first, second = (api.post("/rank", body).json()["items"] for _ in range(2))
    assert first == second
    assert {item["impression_id"] for item in first} == {"mine-0", "mine-1"}


def test_a_ranker_that_cannot_rank_leaves_the_order_and_is_an_error_of_the_variant(
    api: Running, settings: Settings
) -> None:
    before = api.metric("sluice_ranking_fallbacks_total", experiment="other", variant="y")
    user = next(
        f"f{n}" for n in range(99)
        if api.post("/assign", {"units": [{"user_id": f"f{n}"}], "experiments": ["other"]})
        .json()["units"][0]["given"][0]["variant"] == "y"
    )  # fmt: skip
    body = {"user_id": user, "experiment": "other", "items": ["3", "1", "2"], "record": True}
    answers: list[Any] = []
    errors = written(settings, CLICKS, 3, lambda: answers.append(api.post("/rank", body).json()), OutcomeObserved)
    assert answers[0]["fallback"]
    assert [item["item_id"] for item in answers[0]["items"]] == ["3", "1", "2"]
    assert {one.outcome for one in errors} == {"error"}
    assert {one.impression_id for one in errors} == {item["impression_id"] for item in answers[0]["items"]}
    assert api.metric("sluice_ranking_fallbacks_total", experiment="other", variant="y") == before + 1


@pytest.mark.parametrize("rule", ["random", "popularity"])
def test_the_fallback_of_a_variant_ranks_when_its_ranker_cannot(api: Running, settings: Settings, rule: str) -> None:
    name = f"fallen-{rule}"
    variants = (Variant(name="a", ranker="affinity", fallback=rule), Variant(name="b", ranker=rule))
    catalogue.apply(settings, [Experiment(name=name, salt="fallen", seed=7, variants=variants)])
    deadline = time.monotonic() + 60
    while api.get(f"/experiments/{name}").status_code != 200:
        assert time.monotonic() < deadline, "the router does not follow"
    told: dict[str, dict[str, Any]] = {}
    for n in range(99):
        body = {"user_id": f"g{n}", "experiment": name, "items": list("12345678"), "slate_id": "same"}
        answer = api.post("/rank", body).json()
        told.setdefault(answer["variant"], answer)
    assert (told["a"]["fallback"], told["b"]["fallback"]) == (True, False)
    order = {variant: [item["item_id"] for item in one["items"]] for variant, one in told.items()}
    assert order["a"] == order["b"]
    assert rule == "popularity" or order["a"] != list("12345678")


def test_events_are_on_the_broker_when_they_are_acknowledged(api: Running, settings: Settings) -> None:
    events = [
        {"type": "outcome", "click_id": f"there-{n}", "impression_id": f"i{n}", "user_id": f"u{n}", "at_ms": n}
        for n in range(20)
    ]
    answer = api.post("/events", {"events": events})
    assert (answer.status_code, answer.json()) == (202, {"accepted": 20, "rejected": []})
    # What is acknowledged is there: what the topic holds now is enough.
    found: set[str] = set()
    with TopicReader(settings, CLICKS, from_start=True) as reader:
        while not reader.caught_up:
            found |= {json.loads(message.value() or b"{}").get("click_id", "") for message in reader.poll(0.1)}
    assert found >= {event["click_id"] for event in events}


def test_silent_partitions_get_heartbeats_while_events_of_now_come_in(api: Running, settings: Settings) -> None:
    def beats(topic: str, at_ms: int) -> None:
        event = {"type": "outcome", "click_id": "h", "impression_id": "h", "user_id": "h", "at_ms": at_ms}
        with TopicReader(settings, topic, from_start=False) as reader:
            assert api.post("/events", {"events": [event]}).status_code == 202
            told: dict[int, int] = {}
            for _ in range(600):
                for message in reader.poll(0.1):
                    heard = decode(message.value(), cast(Any, Heartbeat | OutcomeObserved))
                    if isinstance(heard, Heartbeat):
                        told[message.partition() or 0] = heard.at_ms
                if len(told) == settings.partitions:
                    break
        assert sorted(told) == list(range(settings.partitions))
        assert all(at_ms - 10_000 < beat <= at_ms + 30_000 for beat in told.values())

    for topic in (IMPRESSIONS, CLICKS):
        beats(topic, time.time_ns() // 1_000_000)


def test_bad_events_are_named_and_reject_no_other(api: Running) -> None:
    good = {"type": "outcome", "click_id": "c", "impression_id": "i", "user_id": "u", "at_ms": 1}
    bad = [
        {"type": "impression"},
        {"type": "heartbeat", "at_ms": 1},
        7,
        {**good, "at_ms": -1},
        {**good, "value_milli": 1.5},
        {**good, "at_ms": 1.0, "deep": json.loads("[" * 900 + "]" * 900)},
    ]
    answer = api.post("/events", {"events": [good, *bad, good]})
    assert answer.status_code == 202
    assert answer.json()["accepted"] == 2
    assert [one["index"] for one in answer.json()["rejected"]] == [1, 2, 3, 4, 5, 6]
    told = problem(api.post("/events", {"events": bad}), 422)
    assert [error["field"] for error in told["errors"]] == [f"events[{n}]" for n in range(6)]


@pytest.mark.parametrize(
    ("path", "body", "status", "field"),
    [
        ("/assign", {"units": []}, 422, "units"),
        ("/assign", {"units": [{"user_id": ""}]}, 422, "units[0].user_id"),
        ("/assign", {"units": [{"user_id": "u"}] * 1001}, 422, "units"),
        ("/assign", {"units": [{"user_id": "u"}], "experiments": ["nope"]}, 404, "experiments[0]"),
        ("/assign", {"units": [{"user_id": "u", "colour": 1}]}, 422, "units[0]"),
        ("/rank", {"user_id": "u", "experiment": "plain", "items": []}, 422, "items"),
        ("/rank", {"user_id": "u", "experiment": "plain", "items": ["1", "1"]}, 422, "items"),
        ("/rank", {"user_id": "u", "experiment": "plain", "items": [str(n) for n in range(10_000)]}, 422, "items"),
        ("/rank", {"user_id": "u", "experiment": "plain", "items": ["1"], "top": 0}, 422, "top"),
        ("/rank", {"user_id": "u", "experiment": "nope", "items": ["1"]}, 404, "experiment"),
        ("/rank", {"user_id": "u", "items": ["1"]}, 422, "experiment"),
        ("/events", {"events": []}, 422, "events"),
        ("/events", {}, 422, ""),
    ],
)
def test_what_is_wrong_is_named(api: Running, path: str, body: Any, status: int, field: str) -> None:
    problem(api.post(path, body), status, field)


@pytest.mark.parametrize("path", ["/assign", "/rank", "/events"])
def test_bodies_that_are_no_json_of_ours(api: Running, path: str) -> None:
    json_type = {"Content-Type": "application/json"}
    problem(api.http.post(path, content=b"{"), 415)
    problem(api.http.post(path, content=b"{}", headers={"Content-Type": "text/plain"}), 415)
    for content in (b"", b"{", b"\xff", b"NaN"):
        problem(api.http.post(path, content=content, headers=json_type), 400)
    for content in (b"[]", b"[" * 100_000):
        problem(api.http.post(path, content=content, headers=json_type), 422)
    problem(api.http.post(path, content=b" " * (MAX_BODY_BYTES + 1), headers=json_type), 413)
    chunks = iter([b" " * 65_536] * 20)  # no length announced
    problem(api.http.post(path, content=chunks, headers=json_type), 413)


def test_unknown_paths_and_methods_are_problems_too(api: Running) -> None:
    problem(api.get("/nope"), 404)
    answer = api.get("/assign")
    problem(answer, 405)
    assert answer.headers["allow"] == "POST"
    problem(api.get("/experiments/nope"), 404, "name")
    problem(api.get("/counters/nope"), 404, "name")


def test_a_foreign_value_under_one_unit_spoils_no_other_request(api: Running, settings: Settings) -> None:
    with connect(settings) as redis:
        redis.set(Keys(settings.prefix).assignment("plain", "spoiled"), b"?")
    codes: dict[str, int] = {}

    def ask(user: str) -> None:
        codes[user] = api.post("/assign", {"units": [{"user_id": user}], "experiments": ["plain"]}).status_code

    threads = [threading.Thread(target=ask, args=(user,)) for user in ("spoiled", *(f"fine{n}" for n in range(20)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert codes == {"spoiled": 500, **{f"fine{n}": 200 for n in range(20)}}


def test_an_experiment_that_comes_later_is_counted_as_known(
    api: Running, settings: Settings, wait_until: Callable[..., Any]
) -> None:
    assert api.get("/counters/plain").json()["known"]
    catalogue.apply(settings, [Experiment(name="later", variants=(Variant(name="a"), Variant(name="b")))])
    wait_until(lambda: api.get("/experiments/later").status_code == 200, 10, "the experiment is followed")
    assert api.get("/counters/later").json()["known"]
    catalogue.change(settings, "later", "stop", by="test")


def test_experiments_and_counters_are_read(api: Running) -> None:
    found = api.get("/experiments").json()["experiments"]
    assert [one["experiment"]["name"] for one in found][-2:] == ["other", "plain"]
    one = api.get("/experiments/plain").json()
    assert one in found
    assert (one["allocation"], one["allocation_version"]) == ({"a": 50, "b": 50}, 0)
    assert api.get("/counters/plain").json()["variants"].keys() == {"a", "b"}


def test_decisions_are_answered_and_streamed(api: Running, settings: Settings, wait_until: Callable[..., Any]) -> None:
    client = producer(settings)

    def publish(version: int, shares: dict[str, int]) -> None:
        client.produce(DECISIONS, decision_of("plain", version, shares), "plain")
        assert client.flush(10) == 0

    publish(1, {"a": 60, "b": 40})
    wait_until(lambda: api.service.board.end >= 0, 10, "the first decision")
    heard: list[tuple[int, Any]] = []
    listening = threading.Event()

    def listen(last: int | None, count: int) -> None:
        headers = {} if last is None else {"Last-Event-ID": str(last)}
        with api.http.stream("GET", "/decisions/stream", headers=headers) as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            offset = -1
            for line in stream.iter_lines():
                listening.set()
                if line.startswith("id: "):
                    offset = int(line[4:])
                elif line.startswith("data: "):
                    heard.append((offset, json.loads(line[6:])))
                    if len(heard) == count:
                        return

    thread = threading.Thread(target=listen, args=(None, 2))
    thread.start()
    assert listening.wait(60)
    publish(2, {"a": 70, "b": 30})
    publish(2, {"a": 1, "b": 99})  # of a second analyzer: does not stand
    publish(3, {"a": 80, "b": 20})
    thread.join(60)
    assert [told["version"] for _, told in heard] == [2, 3]
    (latest,) = api.get("/decisions").json()["decisions"]
    assert (latest["experiment"], latest["version"]) == ("plain", 3)
    assert api.get("/decisions?experiment=other").json() == {"decisions": []}
    wait_until(
        lambda: api.get("/experiments/plain").json()["allocation"] == {"a": 80, "b": 20}, 10, "the allocation follows"
    )
    missed = heard[-1:]
    last = heard[0][0]
    heard.clear()
    listen(last, 1)
    assert heard == missed
    problem(api.get("/decisions/stream", headers={"Last-Event-ID": "x"}), 422, "Last-Event-ID")


def test_state_of_the_service(api: Running) -> None:
    assert api.get("/health").json() == {"status": "ok"}
    ready = api.get("/ready").json()
    assert (ready["status"], ready["redis"], ready["kafka"], ready["spool_bytes"]) == ("ready", "ok", "ok", 0)


def test_metrics_are_those_that_are_described(api: Running) -> None:
    api.post("/assign", {"units": [{"user_id": "m"}]})
    lines = api.get("/metrics").text.splitlines()
    kinds = {line.split()[2]: line.split()[3] for line in lines if line.startswith("# TYPE sluice_")}
    assert kinds == {name: told.kind for name, told in METRICS.items() if "router" in told.services}
    assert api.metric("sluice_http_requests_total", route="/assign", status="200") >= 1
    assert api.metric("sluice_allocation_version", experiment="other") == 0
    assert api.metric("sluice_variant_info", experiment="other", role="control") == 1
    assert api.metric("sluice_ready") == 1
    drawn, expected = [
        sum(api.metric(f"sluice_assignments_{what}_total", experiment="other", variant=name) for name in ("x", "y"))
        for what in ("drawn", "expected")
    ]
    assert drawn == expected >= 1


def test_the_page_needs_nothing_from_elsewhere(api: Running) -> None:
    page = api.get("/docs")
    assert page.status_code == 200
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "<script" not in page.text
    assert all(f"<code>{path}</code>" in page.text for path in api.get("/openapi.json").json()["paths"])
