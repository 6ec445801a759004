"""Every service as a process of its own: it tells the metrics of the table, and logs JSON without secrets."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from sluice.adapters import catalogue
from sluice.adapters.features import FeatureStore
from sluice.adapters.kafka import producer
from sluice.adapters.redis import connect
from sluice.adapters.telemetry import METRICS, Service
from sluice.domain.experiment import Experiment, Guardrail, Variant
from sluice.features import make_catalogue
from sluice.names import VARIANT_STATS, Keys
from sluice.settings import Settings

Wait = Callable[..., Any]
TOKEN = "a-token-nobody-shall-see"
DEMO = Experiment(
    name="seen",
    unit="slate",
    variants=(Variant(name="a", ranker="random"), Variant(name="b", ranker="popularity")),
    guardrails=(Guardrail(outcome="rating", margin=0.01),),
)
REPLAY = ("--data", "synthetic:slates=30000,users=60,a=0.4,b=0.6", "--speed", "400/s", "--delay", "none")
COMMANDS: dict[Service, tuple[str, ...]] = {
    "process": ("process",),
    "features": ("features",),
    "resolve": ("resolve",),
    "analyze": ("analyze",),
    "router": ("route", "--port", "0"),
    "replay": ("replay", *REPLAY),
}
SILENT: dict[Service, set[str]] = {
    "process": {"sluice_kafka_errors_total"},
    "features": {"sluice_kafka_errors_total"},
    "resolve": {"sluice_kafka_errors_total"},
    "analyze": {"sluice_kafka_errors_total", "sluice_canary_step"},
    "router": {
        "sluice_kafka_errors_total", "sluice_assignments_degraded_total", "sluice_shadow_requests_total",
        "sluice_model_version", "sluice_ranking_scores", "sluice_ranking_fallbacks_total", "sluice_events_total",
    },
    "replay": {"sluice_kafka_errors_total"},
}  # fmt: skip
"""Of what did not happen here there is nothing to tell"""


class Services:
    """The processes, their logs and their metrics."""

    def __init__(self, env: dict[str, str], folder: Path, wait_until: Wait) -> None:
        self._env, self._folder, self._wait_until = env, folder, wait_until
        self.running: dict[Service, subprocess.Popen[bytes]] = {}
        self._urls: dict[Service, str] = {}

    def start(self, service: Service, *more: str) -> None:
        command = [sys.executable, "-m", "sluice", *COMMANDS[service], "--metrics-port", "0", *more]
        with (self._folder / f"{service}.log").open("wb") as err, (self._folder / f"{service}.out").open("wb") as out:
            self.running[service] = subprocess.Popen(command, env=self._env, stdout=out, stderr=err)
        self._wait_until(lambda: self._address(service), 60, f"{service} tells where its metrics are")

    def _address(self, service: Service) -> bool:
        for line in self.lines(service):
            if line["message"].startswith("metrics at "):
                self._urls[service] = line["message"].removeprefix("metrics at ").removesuffix("/metrics")
        assert self.running[service].poll() is None, self.log(service)
        return service in self._urls

    def log(self, service: Service) -> str:
        return (self._folder / f"{service}.log").read_text(encoding="utf-8")

    def lines(self, service: Service) -> list[dict[str, Any]]:
        """Every whole line of its log."""
        return [json.loads(line) for line in self.log(service).splitlines(keepends=True) if line.endswith("\n")]

    def get(self, service: Service, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(self._urls[service] + path, timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def families(self, service: Service) -> dict[str, Any]:
        """Name as in the table → family; only those with samples."""
        found = text_string_to_metric_families(self.get(service, "/metrics")[1])
        return {
            f"{family.name}_total" if family.type == "counter" else family.name: family
            for family in found
            if family.samples and family.name.startswith("sluice_")
        }

    def value(self, service: Service, name: str, **labels: str) -> float:
        """Sum of the samples that have these labels."""
        family = self.families(service).get(name)
        samples = [] if family is None else family.samples
        return sum(float(s.value) for s in samples if s.name == name and labels.items() <= s.labels.items())


@pytest.fixture
def services(
    make_stack: Callable[..., Settings],
    service_env: Callable[[Settings], dict[str, str]],
    tmp_path: Path,
    wait_until: Wait,
) -> Iterator[tuple[Settings, Services]]:
    settings = make_stack("embedded", window_ms=10_000, lateness_ms=1000)
    found = Services({**service_env(settings), "SLUICE_TOKEN": TOKEN}, tmp_path, wait_until)
    yield settings, found
    for child in found.running.values():
        if child.poll() is None:
            child.kill()
        child.wait()


def send(settings: Settings, **records: bytes) -> None:
    out = producer(settings)
    for topic, value in records.items():
        out.produce(topic.replace("_", "-"), value, b"u")
    assert out.flush(10) == 0


def ask(url: str, path: str, body: dict[str, Any]) -> None:
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {TOKEN}"}
    with urllib.request.urlopen(urllib.request.Request(url + path, json.dumps(body).encode(), headers), timeout=60):
        pass


def test_each_service_tells_what_the_table_says(
    services: tuple[Settings, Services], wait_until: Wait, tmp_path: Path
) -> None:
    settings, of = services
    catalogue.apply(settings, [DEMO])
    with connect(settings) as client:
        FeatureStore(client, Keys(settings.prefix)).put_catalogue(make_catalogue(["m1"], {"m1": ("Drama",)}))
    started: tuple[Service, ...] = ("process", "features", "resolve", "analyze", "router")
    for service in started:
        of.start(service)
    for service in started:
        wait_until(lambda name=service: of.get(name, "/ready") == (200, "ready\n"), 60, f"{service} is ready")
        assert of.get(service, "/health") == (200, "ok\n")
        assert of.get(service, "/nope")[0] == 404
    yaml = tmp_path / "seen.yaml"
    yaml.write_text("{name: seen, unit: slate, variants: [{name: a, ranker: random}, {name: b, ranker: popularity}]}")
    of.start("replay", "--experiment", str(yaml))
    send(settings, clicks=b"{not json", raw_impressions=b"{not json", variant_stats=b"{not json")
    url = str((tmp_path / "router.out").read_text()).split(" at ")[1].split(" ")[0]
    ask(url, "/assign", {"units": [{"user_id": "m", "slate_id": "s"}]})
    for user in range(20):  # long ago: now would be later than all that the replay sends
        body = {"user_id": f"u{user}", "items": ["m1"], "experiment": "seen", "at_ms": 1000, "record": True}
        ask(url, "/rank", body)

    wait_until(lambda: of.value("analyze", "sluice_outcomes_total", outcome="click") > 50, 60, "clicks are counted")
    wait_until(lambda: of.value("process", "sluice_dead_letters_total", reason="malformed") == 1, 30, "one is buried")
    for name in ("resolve", "analyze"):
        wait_until(lambda one=name: of.value(one, "sluice_dead_letters_total") >= 1, 30, f"a dead letter of {name}")
    wait_until(lambda: of.value("process", "sluice_consumer_lag_records", group="shadow") == 0, 30, "shadows are read")
    for service in COMMANDS:
        told = {name for name, one in METRICS.items() if service in one.services} - SILENT[service]
        wait_until(
            lambda one=service, wanted=told: set(of.families(one)) >= wanted, 30,
            f"{service} tells all of {sorted(told - set(of.families(service)))}",
        )  # fmt: skip
        for name, family in of.families(service).items():
            described = METRICS[name]
            assert family.type == described.kind, name
            for sample in family.samples:
                assert set(sample.labels) - {"le"} == set(described.labels), name
    assert of.value("analyze", "sluice_variant_info", role="control", variant="a") == 1
    assert of.value("replay", "sluice_assignments_drawn_total") > 0

    for service, child in of.running.items():
        child.send_signal(signal.SIGTERM)
        assert child.wait(60) == 0, of.log(service)
        assert TOKEN not in of.log(service)
        for line in of.lines(service):
            assert {"ts", "level", "logger", "service", "message"} <= line.keys()
            assert line["service"] == service
    assert any(line.get("partitions") == [0, 1, 2, 3] for line in of.lines("process"))
    assert any(line.get("experiment") == "seen" for line in of.lines("router"))
    assert any(line.get("topic") == VARIANT_STATS and "offset" in line for line in of.lines("analyze"))


def test_an_address_that_is_taken_or_wrong_is_told_in_one_line(
    services: tuple[Settings, Services], service_env: Callable[[Settings], dict[str, str]]
) -> None:
    settings, of = services
    of.start("analyze")
    taken = of._urls["analyze"].removeprefix("http://")
    for given, words in ((taken, "address already in use"), ("nowhere", "allowed is host:port")):
        done = subprocess.run(
            [sys.executable, "-m", "sluice", "route", "--port", "0"],
            env={**service_env(settings), "SLUICE_METRICS": given}, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 2
        assert [words in line for line in done.stderr.splitlines() if line.startswith("sluice: ")] == [True]
