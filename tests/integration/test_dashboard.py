"""The dashboard's server over a real broker and Redis."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from dashboard_server import Watcher, serving, writer
from decisions import record
from http_service import Servers
from lives_told import drift_seen

from analyzer.service import build
from sluice.adapters import catalogue
from sluice.adapters.checkpoints import ReplayStore, ReplayTruth
from sluice.adapters.drift import DriftBoard
from sluice.adapters.redis import connect
from sluice.domain.events import encode
from sluice.domain.experiment import load_experiments
from sluice.domain.lifecycle_events import ModelTrained, RetrainRequested
from sluice.names import EXPERIMENTS, LIFECYCLE, Keys
from sluice.settings import Settings

Wait = Callable[..., Any]
NAME = "demo"


@pytest.fixture
def settings(make_stack: Callable[..., Settings]) -> Settings:
    return make_stack("embedded")


@pytest.fixture
def write(settings: Settings) -> Callable[..., None]:
    return writer(settings)


@pytest.fixture
def client(settings: Settings) -> Iterator[httpx.Client]:
    with serving(settings) as found:
        yield found


def detail(client: httpx.Client, name: str = NAME) -> dict[str, Any]:
    found = client.get(f"/api/experiments/{name}")
    assert found.status_code == 200, found.text
    answer: dict[str, Any] = found.json()
    return answer


def version_of(client: httpx.Client, name: str = NAME) -> int:
    found = client.get(f"/api/experiments/{name}")
    return (found.json()["decision"] or {"version": 0})["version"] if found.status_code == 200 else 0


def test_a_decision_is_seen_soon(client: httpx.Client, write: Callable[..., None], wait_until: Wait) -> None:
    watcher = Watcher(client)
    wait_until(lambda: watcher.of("hello"), 5, "the stream begins")
    written_s = []
    for version in range(1, 9):
        written_s.append(time.time())
        write(record(version))
        wait_until(partial(watcher.has, version), 5, f"decision {version} is told")
    told_s = [at_s for _, kind, _, at_s in watcher.events if kind == "decision"]
    # The quickest: that it is structure which takes time, and not a machine that does something else.
    assert min(told - written for told, written in zip(told_s, written_s, strict=True)) < 0.5
    last = watcher.of("decision")[-1]
    assert last["decision"]["version"] == 8 and last["points"]["variants"]["b"]["impressions"] == [80]
    assert last["decision"]["density"]["a"]["x"] and last["decision"]["reasons"] == ["No winner yet."]
    wait_until(lambda: [e["entry"]["version"] for e in watcher.of("experiment")][-1:] == [8], 5, "the list follows")


def test_an_experiment_and_its_past(client: httpx.Client, write: Callable[..., None], wait_until: Wait) -> None:
    write(*(record(version, allocation_version=version // 100) for version in range(1, 1001)))
    write(b"no json", b'{"experiment":"demo"}', record(3))
    wait_until(lambda: version_of(client) == 1000, 10, "all are read")
    wait_until(lambda: client.get("/api/experiments").json()["skipped"] == 2, 5, "what is no decision is counted")
    shown = detail(client)
    versions = shown["series"]["version"]
    assert len(versions) <= 600 and {1, 100, 200, 900, 1000} <= set(versions) and shown["series"]["decisions"] == 1000
    assert (shown["entry"]["status"], shown["entry"]["defined"], shown["state"]) == ("unknown", False, None)
    for version in (1, 2, 517, 999, 1000):  # those that no point stands for as well
        then = client.get(f"/api/experiments/{NAME}/decisions/{version}").json()
        assert (then["version"], then["results"][0]["impressions"]) == (version, 10 * version)
    page = client.get(f"/api/experiments/{NAME}/decisions", params={"limit": 3}).json()
    assert [line["version"] for line in page["decisions"]] == [1000, 999, 998] and page["more"]
    old = client.get(f"/api/experiments/{NAME}/decisions", params={"limit": 50, "before": 21}).json()
    assert [line["version"] for line in old["decisions"]] == list(range(20, 0, -1)) and not old["more"]
    none = client.get(f"/api/experiments/{NAME}/decisions", params={"before": 1}).json()
    assert none == {"decisions": [], "more": False}


def test_what_is_not_there_is_said(client: httpx.Client, write: Callable[..., None], wait_until: Wait) -> None:
    assert client.get("/api/experiments").json()["experiments"] == []
    write(record(4))
    wait_until(lambda: version_of(client) == 4, 5, "it is read")
    for path, status, words in (
        ("/api/experiments/none", 404, "no experiment 'none'; there are: demo"),
        (f"/api/experiments/{NAME}/decisions/9", 404, "experiment 'demo' has no decision 9; it has 4 to 4"),
        (f"/api/experiments/{NAME}/decisions/9/explain", 404, "has no decision 9"),
        (f"/api/experiments/{NAME}/decisions/x", 400, "version: "),
        (f"/api/experiments/{NAME}/decisions?limit=0", 400, "limit: "),
        ("/nowhere", 404, "GET /nowhere: Not Found"),
    ):
        found = client.get(path)
        assert found.status_code == status and words in found.json()["error"], path


def test_hostile_names_are_only_names(client: httpx.Client, write: Callable[..., None], wait_until: Wait) -> None:
    name = '<script>"/../=1'
    write(record(1, name), experiment=name)
    path = f"/api/experiments/{httpx.QueryParams({'x': name})}".replace("x=", "").replace("+", "%20")
    wait_until(lambda: client.get(path).status_code == 200, 5, "it is known")
    assert client.get(path).json()["name"] == name
    assert client.get(f"{path}/decisions/1").json()["experiment"] == name
    found = client.get(f"{path}/export.csv")
    assert found.headers["content-disposition"] == 'attachment; filename="_script_.._1.csv"'
    assert found.headers["x-content-type-options"] == "nosniff" and found.text.startswith("version,at_ms,")


def test_the_catalogue_is_shown(settings: Settings, client: httpx.Client, wait_until: Wait) -> None:
    (experiment,) = load_experiments("name: home\nvariants: [{name: x}, {name: y}]\nprimary: buy", "test")
    watcher = Watcher(client, "home")
    wait_until(lambda: watcher.of("hello"), 5, "the stream begins")
    catalogue.apply(settings, [experiment], by="somebody", why="to see")
    wait_until(lambda: any(e["entry"]["name"] == "home" for e in watcher.of("experiment")), 5, "it is told")
    catalogue.change(settings, "home", "pause", by="else", why="enough")
    wait_until(lambda: watcher.of("experiment")[-1]["entry"]["status"] == "paused", 5, "the change is told")
    shown = detail(client, "home")
    assert [(c["by"], c["why"], c["action"]) for c in shown["state"]["changes"]] == [
        ("somebody", "to see", "apply"), ("else", "enough", "pause"),
    ]  # fmt: skip
    assert (shown["decision"], shown["series"]["version"], shown["entry"]["metric"]) == (None, [], "buy")
    assert shown["counters"]["variants"]["x"] == {"impressions": 0, "clicks": 0, "ctr": None, "units": 0}


def test_a_deleted_experiment_is_told_once(settings: Settings, client: httpx.Client, wait_until: Wait) -> None:
    (experiment,) = load_experiments("name: gone\nvariants: [{name: x}, {name: y}]", "test")
    watcher = Watcher(client, "gone")
    catalogue.apply(settings, [experiment])
    wait_until(lambda: client.get("/api/experiments/gone").status_code == 200, 5, "it is known")
    writer(settings, EXPERIMENTS)(None, experiment="gone")
    wait_until(lambda: watcher.of("experiment")[-1:] == [{"entry": None, "name": "gone"}], 5, "it is told")
    assert client.get("/api/experiments/gone").status_code == 404


def test_the_truth_of_a_replay_gives_the_regret(
    settings: Settings, client: httpx.Client, write: Callable[..., None], wait_until: Wait
) -> None:
    write(record(2))
    with connect(settings) as redis:
        truth = ReplayTruth(slates=9, true_rates={"a": 0.5, "b": 0.6}, regret=3, regret_fixed_split=4.5)
        ReplayStore(redis, Keys(settings.prefix)).save_truth(NAME, truth)
    wait_until(lambda: version_of(client) and detail(client)["truth"], 10, "the truth is known")
    shown = detail(client)
    assert (shown["truth"]["best"], shown["truth"]["regret"], shown["series"]["regret"]) == ("b", 3, [2.0])
    assert client.get(f"/api/experiments/{NAME}/export.json").json()["truth"]["slates"] == 9


def test_the_lives_of_models_are_shown(settings: Settings, client: httpx.Client, wait_until: Wait) -> None:
    write = writer(settings, LIFECYCLE)
    said = {"model": "films", "alias": "champion", "at_ms": 1000}
    write(encode(RetrainRequested(id="r", against="1", reason="asked for", by="ada", **said)), b"junk")
    lives = lambda: client.get("/api/models").json()["lives"]  # noqa: E731
    wait_until(lambda: [life["in_force"] for life in lives()] == ["1"], 10, "the request is known")
    watcher = Watcher(client)
    wait_until(lambda: watcher.of("hello"), 5, "the stream begins")
    write(encode(ModelTrained(id="t", attempt="r", version="2", rows=7, **said)))
    wait_until(lambda: watcher.of("lifecycle"), 5, "what happens is told")
    (told,) = watcher.of("lifecycle")[-1]["lives"]
    assert [event["words"] for event in told["events"]] == [
        "Version 2 is trained, on 7 rows", "Retraining, against version 1",
    ]  # fmt: skip
    with connect(settings) as redis:
        DriftBoard(redis, Keys(settings.prefix)).put(drift_seen("films", "1", drifted=True))
    wait_until(lambda: lives()[0]["drift"], 15, "drift is shown")
    assert lives()[0]["drift"]["drifted"] is True and client.get("/api/experiments").json()["skipped"] == 1
    wait_until(lambda: watcher.of("lifecycle")[-1]["lives"][0]["drift"], 5, "drift is told")


def test_fifty_viewers_see_the_same(client: httpx.Client, write: Callable[..., None], wait_until: Wait) -> None:
    watchers = [Watcher(client) for _ in range(50)]
    wait_until(lambda: all(watcher.of("hello") for watcher in watchers), 20, "all streams begin")
    for version in range(1, 31):
        write(record(version))
    wait_until(lambda: all(watcher.versions[-1:] == [30] for watcher in watchers), 20, "all have the last")
    assert {tuple(watcher.versions) for watcher in watchers} == {tuple(range(1, 31))}
    ids = {tuple(i for i, kind, _, _ in watcher.events if kind == "decision") for watcher in watchers}
    assert len(ids) == 1


def test_a_viewer_goes_on_where_it_was(client: httpx.Client, write: Callable[..., None], wait_until: Wait) -> None:
    first, second = Watcher(client), Watcher(client)
    wait_until(lambda: first.of("hello") and second.of("hello"), 5, "the streams begin")
    write(record(1))
    wait_until(lambda: first.versions == [1] == second.versions, 5, "decision 1 is told")
    last = first.events[-1][0]
    write(record(2))
    wait_until(lambda: second.versions == [1, 2], 5, "decision 2 is told")
    back = Watcher(client, last_id=last)
    wait_until(lambda: back.versions == [2], 5, "what was missed is told")
    assert back.of("hello")[0]["resumed"] is True


def test_after_a_restart_the_page_is_told_to_reload(
    settings: Settings, write: Callable[..., None], wait_until: Wait
) -> None:
    with serving(settings) as client:
        port = client.base_url.port or 0
        watcher = Watcher(client)
        wait_until(lambda: watcher.of("hello"), 5, "the stream begins")
        write(record(1))
        wait_until(lambda: watcher.versions == [1], 5, "decision 1 is told")
        last = watcher.events[-1][0]
    assert watcher.ended.wait(60)
    write(record(2))
    with serving(settings, port=port) as client:
        again = Watcher(client, last_id=last)
        wait_until(lambda: again.of("hello"), 5, "the stream begins anew")
        assert again.of("hello")[0]["resumed"] is False
        assert again.of("hello")[0]["server"] != watcher.of("hello")[0]["server"]
        assert detail(client)["decision"]["version"] == 2


def test_a_viewer_that_does_not_read_holds_up_nobody(
    client: httpx.Client, write: Callable[..., None], wait_until: Wait
) -> None:
    watcher = Watcher(client)
    with client.stream("GET", f"/api/stream?experiment={NAME}") as lazy:
        wait_until(lambda: watcher.of("hello"), 5, "the stream begins")
        for version in range(1, 401):
            write(record(version))
        wait_until(lambda: watcher.versions[-1:] == [400], 20, "who reads has the last")
        seen = list(_until(lazy.iter_lines(), '"decision":{"experiment":"demo","version":400,'))
    told = [msgspec.json.decode(line.removeprefix("data: ")) for line in seen if '"points":' in line]
    versions = [version for event in told for version in event["points"]["version"]]
    assert versions[-1] == 400, "what comes last comes in any case"
    assert versions == list(range(1, 401)) or "event: reload" in seen, "what is left out is told"


def _until(lines: Iterator[str], text: str) -> Iterator[str]:
    for line in lines:
        yield line
        if text in line:
            return


def test_a_browser_that_goes_away_is_forgotten(client: httpx.Client, wait_until: Wait) -> None:
    viewers = lambda: client.get("/ready").json()["viewers"]  # noqa: E731
    with client.stream("GET", f"/api/stream?experiment={NAME}") as answer:
        lines = answer.iter_lines()
        next(lines)
        assert viewers() == 1
        told = client.get("/metrics").text
        assert "sluice_dashboard_viewers 1.0" in told and 'sluice_http_requests_total{route="/ready"' in told
    wait_until(lambda: viewers() == 0, 10, "it is forgotten")


def test_servers_that_are_away_are_said_and_come_back(tmp_path_factory: Any, wait_until: Wait) -> None:
    servers = Servers(Settings(state=tmp_path_factory.mktemp("servers")))
    try:
        write = writer(servers.settings)
        write(record(1))
        with serving(servers.settings) as client:
            sources = lambda: client.get("/api/experiments").json()["sources"]  # noqa: E731
            servers.kill("redis")
            wait_until(lambda: not sources()["redis"]["ok"], 20, "Redis is said to be away")
            assert sources()["redis"]["error"] and client.get("/ready").status_code == 503
            assert client.get("/").status_code == 200 and detail(client)["decision"]["version"] == 1
            servers.bring_back("redis")
            wait_until(lambda: sources()["redis"]["ok"], 20, "Redis is back")
            watcher = Watcher(client)
            servers.kill("kafka")
            wait_until(lambda: not sources()["kafka"]["ok"], 20, "Kafka is said to be away")
            wait_until(lambda: any(not s["sources"]["kafka"]["ok"] for s in watcher.of("status")), 5, "viewers know")
            servers.bring_back("kafka")
            wait_until(lambda: sources()["kafka"]["ok"], 30, "Kafka is back")
            writer(servers.settings)(record(1, reasons=("Of the new log.",)))
            wait_until(
                lambda: version_of(client) and detail(client)["decision"]["reasons"] == ["Of the new log."],
                20, "the log that began anew is shown",
            )  # fmt: skip
    finally:
        servers.stop()


def test_the_page_is_there_before_its_servers(tmp_path_factory: Any) -> None:
    nowhere = Settings(kafka="127.0.0.1:9", redis="redis://127.0.0.1:9/0", state=tmp_path_factory.mktemp("nowhere"))
    with serving(nowhere, ready=False) as client:
        assert client.get("/health").status_code == client.get("/").status_code == 200
        found = client.get("/api/experiments").json()
        assert not found["sources"]["kafka"]["ok"] and found["experiments"] == []


def test_explain_gives_the_same_bytes(
    settings: Settings, service_env: Callable[[Settings], dict[str, str]], wait_until: Wait, tmp_path: Path
) -> None:
    env = service_env(settings)
    file = tmp_path / "demo.yaml"
    file.write_text("name: demo\nvariants: [{name: a}, {name: b}]\nunit: slate\n")
    worker = subprocess.Popen([sys.executable, "-m", "sluice", "process", "--loglevel", "error"], env=env,
                              stdout=subprocess.DEVNULL)  # fmt: skip
    try:
        replay = ["replay", "--json", "--data", "synthetic:slates=300,users=30", "--experiment", str(file)]
        subprocess.run([sys.executable, "-m", "sluice", *replay], env=env, check=True, stdout=subprocess.DEVNULL)
        analyzer = build(settings, every_ms=10, timeout_s=15)
        thread = threading.Thread(target=analyzer.run)
        thread.start()
        with serving(settings) as client:
            try:
                wait_until(
                    lambda: version_of(client) and detail(client)["entry"]["impressions"] == 900,
                    60,
                    "all is decided on",
                )
            finally:
                analyzer.stop()
                thread.join(60)
            version = version_of(client)
            found = client.get(f"/api/experiments/demo/decisions/{version}/explain", timeout=60).json()
            assert (found["matches"], found["version"], found["difference"]) == (True, version, None), found
            assert found["command"] == f"sluice explain {version} --experiment demo"
            assert found["record"]["version"] == version and "the same bytes" in found["text"]
            assert client.get(f"/api/experiments/demo/decisions/{version}/explain").json() == found

            def counted() -> bool:  # looked up every two seconds while nobody watches
                variants = (detail(client)["counters"] or {"variants": {}})["variants"]
                return sum(variant["impressions"] for variant in variants.values()) == 900

            wait_until(counted, 60, "the live counters")
    finally:
        worker.terminate()
        worker.wait(60)
