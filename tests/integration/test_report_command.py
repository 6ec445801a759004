"""`sluice report` beside a broker and a Redis, after a replay, and when something of it is missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from online_evidence import decisions, experiment
from ports import own_port

from dashboard.report_reading import read_evidence
from sluice.adapters import catalogue
from sluice.adapters.kafka import producer
from sluice.domain.events import DecisionMade, encode
from sluice.domain.experiment import Experiment
from sluice.errors import ConfigError, SluiceError
from sluice.live import LiveCounters
from sluice.names import DECISIONS
from sluice.settings import Settings
from sluice.subscription import subscribe

Wait = Callable[..., Any]
Env = Callable[[Settings], dict[str, str]]
REPLAYED = """
name: tiny
unit: slate
stopping: {least_units: 20}
variants: [{name: random}, {name: popularity}]
"""


@pytest.fixture
def settings(make_stack: Callable[..., Settings]) -> Settings:
    made = make_stack("embedded", partitions=2)
    assert isinstance(made, Settings)
    return made


def sluice(env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sluice", *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)


@contextmanager
def running(env: dict[str, str], *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "sluice", *arguments], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


def publish(settings: Settings, it: Experiment, *records: bytes) -> None:
    catalogue.apply(settings, [it])
    client = producer(settings)
    for value in records:
        client.produce(DECISIONS, key=it.name, value=value)
    assert client.flush(10) == 0


def named(name: str) -> Experiment:
    return msgspec.structs.replace(experiment(), name=name)


def latest(settings: Settings, name: str) -> DecisionMade | None:
    with subscribe("decisions", experiment=name, from_start=True, follow=False, settings=settings) as found:
        return max(found, key=lambda one: one.version, default=None)


@pytest.mark.slow
def test_a_replay_becomes_a_page_that_mlflow_keeps(
    settings: Settings, service_env: Env, wait_until: Wait, tmp_path: Path
) -> None:
    env, file = service_env(settings), tmp_path / "tiny.yaml"
    file.write_text(REPLAYED)
    with ExitStack() as stack:
        stack.enter_context(running(env, "process", "--loglevel", "error"))
        stack.enter_context(running(env, "analyze"))
        applied = sluice(env, "experiment", "apply", str(file))
        assert applied.returncode == 0, applied.stderr
        replay = sluice(env, "replay", "--experiment", str(file), "--data", "synthetic:slates=900,users=60")
        assert replay.returncode == 0, replay.stderr
        with LiveCounters(settings, known={}) as live:

            def decided() -> bool:
                made, counted = latest(settings, "tiny"), live.experiment("tiny").impressions
                return made is not None and sum(one.impressions for one in made.results) == counted == 2700

            wait_until(decided, 60, "a decision on everything that was replayed")
    out, pictures = tmp_path / "tiny.html", tmp_path / "pictures"
    made = sluice(env, "report", "tiny", "--out", str(out), "--charts", str(pictures), "--mlflow", "--json")
    assert made.returncode == 0, made.stderr
    said = json.loads(made.stdout)
    decision = latest(settings, "tiny")
    assert decision is not None
    assert (said["decision"], said["verdict"]) == (decision.version, decision.verdict)
    page = out.read_text()
    assert said["headline"] in page and "counted 2,700" in page and "<h2>Course</h2>" in page
    assert sorted(path.name for path in pictures.iterdir()) == sorted(said["charts"]) != []
    again = sluice(env, "report", "tiny", "--out", str(tmp_path / "again.html"), "--mlflow", "--json")
    assert (tmp_path / "again.html").read_bytes() == out.read_bytes()
    assert json.loads(again.stdout)["mlflow_run"] == said["mlflow_run"]
    _check_run(settings, said)


def _check_run(settings: Settings, said: dict[str, Any]) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(settings.mlflow_uri, settings.mlflow_uri)
    run = client.get_run(said["mlflow_run"])
    assert client.get_experiment(run.info.experiment_id).name == "sluice/tiny"
    assert run.info.status == "FINISHED"
    assert run.data.params["config_hash"] == said["config_hash"]
    assert run.data.tags["sluice.verdict"] == said["verdict"]
    by_variant = {one["variant"]: one for one in said["results"]}
    assert run.data.metrics["popularity.rate"] == by_variant["popularity"]["rate"]
    assert run.data.metrics["random.units"] == by_variant["random"]["units"]
    assert {one.path for one in client.list_artifacts(run.info.run_id)} == {"report.html", "decision.json", "charts"}


def test_an_earlier_decision_and_records_that_cannot_be_read(settings: Settings) -> None:
    it = named("earlier")
    made = decisions(it)
    records = [encode(one) for one in made]
    twice = encode(msgspec.structs.replace(made[1], verdict="ship"))
    publish(settings, it, *records[:2], b"{", twice, *records[2:])
    whole, third = read_evidence(settings, "earlier"), read_evidence(settings, "earlier", 3)
    assert (whole.decision.version, whole.record, whole.later) == (5, records[-1], 5)
    assert (whole.malformed, whole.course.passed_over, whole.course.count) == (1, 1, 5)
    assert (third.decision.version, third.record, third.later, third.course.count) == (3, records[2], 5, 3)
    assert whole.written_ms > 0 and whole.counters is not None
    with pytest.raises(SluiceError, match="has no decision 99; the latest one is 5"):
        read_evidence(settings, "earlier", 99)


def test_what_is_not_there_is_said_in_one_line(settings: Settings) -> None:
    publish(settings, named("silent"))
    with pytest.raises(SluiceError, match="silent has no decision yet"):
        read_evidence(settings, "silent")
    with pytest.raises(ConfigError, match=r"'nobody': nobody knows it; there are: .*silent"):
        read_evidence(settings, "nobody")


def test_thousands_of_decisions_are_kept_as_hundreds_of_points(settings: Settings) -> None:
    it = named("long")
    (last,) = decisions(it, (1000,))
    many = (msgspec.structs.replace(last, version=number, at_ms=last.at_ms + number) for number in range(1, 5001))
    publish(settings, it, *map(encode, many))
    found = read_evidence(settings, "long")
    assert (found.course.count, found.decision.version) == (5000, 5000)
    assert len(found.course.points.all()) <= 401


def test_without_redis_the_page_says_what_it_does_not_know(
    settings: Settings, service_env: Env, tmp_path: Path
) -> None:
    it = named("alone")
    publish(settings, it, *(encode(one) for one in decisions(it)))
    env = {**service_env(settings), "SLUICE_REDIS": f"redis://127.0.0.1:{own_port()}/0"}
    made = sluice(env, "report", "alone", "--out", str(tmp_path / "alone.html"), "--no-mlflow")
    assert made.returncode == 0, made.stderr
    assert "Ship PolicyA (alone, decision 5)" in made.stdout
    assert "the counters could not be read" in (tmp_path / "alone.html").read_text()


def test_a_broker_that_is_away_is_one_line(tmp_path: Path) -> None:
    env = {**os.environ, "SLUICE_KAFKA": f"127.0.0.1:{own_port()}", "SLUICE_REDIS": "redis://127.0.0.1:1/0"}
    failed = sluice(env, "report", "films", "--out", str(tmp_path / "x.html"))
    assert failed.returncode == 1
    assert failed.stderr.strip().splitlines()[-1].startswith("sluice: no Kafka broker answers")
    assert not (tmp_path / "x.html").exists()


def test_mlflow_that_is_away_takes_no_page_away(settings: Settings, service_env: Env, tmp_path: Path) -> None:
    it = named("unlogged")
    publish(settings, it, *(encode(one) for one in decisions(it)))
    env = {**service_env(settings), "SLUICE_MLFLOW": f"http://127.0.0.1:{own_port()}"}
    out = tmp_path / "page.html"
    made = sluice(env, "report", "unlogged", "--out", str(out))
    assert made.returncode == 0 and out.exists()
    assert "sluice: not logged: MLflow at" in made.stderr
    refused = sluice(env, "report", "unlogged", "--out", str(tmp_path / "none.html"), "--mlflow")
    assert refused.returncode == 1 and "does not answer" in refused.stderr
