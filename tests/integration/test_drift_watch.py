"""`sluice drift` on a log that a replay wrote."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from movielens_files import write_movielens
from registered_models import NAME, likes, register

from producers.service import ReplayOptions
from producers.service import replay as run_replay
from producers.sources import read_ratings
from sluice.adapters.kafka import producer
from sluice.adapters.mlflow import ARTIFACT, ModelRef, Registry
from sluice.adapters.reader import TopicReader
from sluice.domain.drift import DRIFT_FILE, DriftOptions
from sluice.domain.events import OutcomeObserved, clicks_decoder
from sluice.domain.experiment import Experiment, Variant
from sluice.domain.lifecycle_events import DriftDetected, LifecycleEvent
from sluice.domain.rankings import SlateRanked
from sluice.errors import ConfigError, ModelUnusable
from sluice.settings import Settings
from stream_processors.drift import DriftWatch, detected, publish
from stream_processors.drift_command import drift
from training.drift_reference import reference_of
from training.models import Examples, FeatureModel
from training.prepare import PrepareOptions, make_dataset
from training.texts import read_texts

EXPERIMENT = Experiment(
    name="logged",
    rankings=True,
    segments=("history",),
    variants=(Variant(name="random", share=30), Variant(name="PolicyA", ranker=f"models:/{NAME}@PolicyA", share=70)),
)
HOUR = 3_600_000


@pytest.fixture
def log(
    make_stack: Callable[..., Settings], service_env: Callable[[Settings], dict[str, str]], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, mlflow_store: Callable[[Path], str],
) -> Settings:  # fmt: skip
    """Settings of a broker that holds a whole replay with rankings, by a model with a reference."""
    settings = replace(make_stack("embedded"), mlflow=mlflow_store(tmp_path))
    folder = write_movielens(tmp_path / "tiny", users=60, items=150, each=80, seed=4)
    data = make_dataset(read_ratings(str(folder)), read_texts(folder), PrepareOptions())
    examples = Examples.of(data)
    model = replace(likes("item_like_rate", data.catalogue), name="PolicyA")
    register(settings.mlflow_uri, tmp_path / "files", "PolicyA", model)
    place = next((tmp_path / "files").glob("*")) / "artifacts" / ARTIFACT / DRIFT_FILE
    reference = reference_of(examples, data.train, lambda slates: FeatureModel(model.model))
    place.write_bytes(reference.dump())
    run_replay(settings, [EXPERIMENT], ReplayOptions(data=str(folder)), stop=threading.Event(), notice=lambda _: None)
    for name, value in service_env(settings).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SLUICE_MLFLOW", settings.mlflow)
    return settings


def served(settings: Settings) -> tuple[list[SlateRanked], set[str]]:
    """Slates of the model, and all impressions that were clicked inside the attribution window."""
    slates, clicks, shown = [], {}, {}
    with TopicReader(settings, "rankings", from_start=True) as reader:
        for message in reader.rest():
            slates.append(msgspec.json.decode(message.value() or b"", type=SlateRanked))
            shown |= {item.impression_id: slates[-1].at_ms for item in slates[-1].items}
    with TopicReader(settings, "clicks", from_start=True) as reader:
        for message in reader.rest():
            event = clicks_decoder.decode(message.value() or b"")
            if isinstance(event, OutcomeObserved) and event.outcome == "click":
                clicks.setdefault(event.impression_id, event.at_ms)
    clicked = {one for one, at_ms in clicks.items() if 0 <= at_ms - shown[one] <= settings.window_ms}
    return [slate for slate in slates if slate.model == NAME], clicked


def test_a_watch_sees_what_was_served_and_what_became_of_it(log: Settings) -> None:
    registry = Registry(log)
    version = registry.resolve(ModelRef(NAME, alias="PolicyA"))
    watch = DriftWatch(log, registry, version, DriftOptions(window_ms=HOUR))
    report = watch.advance()
    assert (report.model, report.version) == (NAME, "1")
    slates, clicked = served(log)
    monitor = watch._watched.monitor
    closed = [slate for slate in slates if slate.at_ms < (monitor.rows.closed_ms or 0)]
    known = [slate for slate in slates if slate.at_ms < (monitor.outcomes.closed_ms or 0)]
    assert len(closed) > 50
    # The report is of the latest windows only.
    recent = [slate for slate in closed if slate.at_ms >= report.window.start_ms]
    assert report.window.rows == sum(len(slate.items) for slate in recent)
    latest = [slate for slate in known if slate.at_ms >= monitor.outcome_track.recent[0].begin_ms]
    assert report.performance.impressions == sum(len(slate.items) for slate in latest)
    assert report.performance.clicks == sum(item.impression_id in clicked for slate in latest for item in slate.items)
    assert report.window.late == 0
    # Nothing new: nothing changes. Started again: the same.
    assert watch.advance() == report
    again = DriftWatch(log, registry, version, DriftOptions(window_ms=HOUR))
    assert again.advance(lambda: False).window.number == 0, "a look that was given up says nothing"
    assert again.advance() == report


def test_a_record_of_the_future_closes_no_window(log: Settings, caplog: pytest.LogCaptureFixture) -> None:
    registry = Registry(log)
    watch = DriftWatch(log, registry, registry.resolve(ModelRef(NAME, alias="PolicyA")), DriftOptions(window_ms=HOUR))
    report = watch.advance()
    slate = served(log)[0][-1]
    client = producer(log)
    for partition in range(log.partitions):  # or the slowest partition would hold time back
        for topic, event in (
            ("rankings", msgspec.structs.replace(slate, slate_id="ahead", at_ms=5_000_000_000_000)),
            ("clicks", OutcomeObserved(click_id="c", user_id="u", impression_id="ahead", at_ms=5_000_000_000_000)),
        ):
            client.produce(topic, msgspec.json.encode(event), "key", partition)
    assert client.flush(30) == 0
    assert watch.advance() == report
    assert watch.malformed == 2 * log.partitions
    assert f"{watch.malformed} records are malformed" in caplog.text
    caplog.clear()
    assert watch.advance() == report
    assert not caplog.text, "each is told once"


def test_the_command_prints_one_object(log: Settings) -> None:
    found = CliRunner().invoke(drift, ["--json", "--window", "1"], catch_exceptions=False)
    told = msgspec.json.decode(found.stdout)
    assert {"model", "version", "window", "features", "performance", "drifted"} <= told.keys()
    assert {"name", "psi", "ks", "p_value", "effect", "drifted"} <= told["features"][0].keys()
    shown = CliRunner().invoke(drift, [f"{NAME}@PolicyA", "--window", "1"], catch_exceptions=False).stdout
    assert "version 1 has drifted" in shown  # features begin anew in a replay: they are not those of the training
    for wrong, error in ((f"{NAME}@Nobody", ModelUnusable), ("nothing", ConfigError)):
        with pytest.raises(error):
            CliRunner().invoke(drift, [wrong], catch_exceptions=False, standalone_mode=False)


def test_parts_are_watched_apart_and_a_segment_settles(log: Settings) -> None:
    def asked(*more: str) -> dict[str, Any]:
        found = CliRunner().invoke(drift, [f"{NAME}@PolicyA", "--window", "1", *more, "--json"], catch_exceptions=False)
        return msgspec.json.decode(found.stdout)

    whole, all_of_it = asked(), asked("--variant", "PolicyA")
    assert (whole["part"], all_of_it["part"]) == ("", "variant=PolicyA")
    assert whole["features"] == all_of_it["features"], "only this variant ranks by the model"
    assert asked("--variant", "random")["window"]["number"] == 0
    new, old = asked("--segment", "history=new"), asked("--segment", "history=returning", "--settle", "20")
    assert new["settling"]["needed"] == 100 and new["settling"]["users"] > 0 and not new["drifted"]
    assert new["window"]["number"] == 0
    assert old["settling"] is None and old["settled_ms"] is not None
    assert 0 < old["window"]["rows"] < whole["window"]["rows"] * whole["window"]["number"]
    shown = CliRunner().invoke(drift, [f"{NAME}@PolicyA", "--window", "1", "--segment", "history=new"]).stdout
    assert "(history=new) is settling:" in shown and "of 100 users" in shown
    with pytest.raises(ConfigError, match="KEY=VALUE is wanted"):
        CliRunner().invoke(drift, ["--segment", "new"], catch_exceptions=False, standalone_mode=False)


def test_drift_is_published_once_with_an_id_of_its_own(log: Settings) -> None:
    registry = Registry(log)
    watch = DriftWatch(log, registry, registry.resolve(ModelRef(NAME, version="1")), DriftOptions(window_ms=HOUR))
    report = watch.advance()
    assert detected(msgspec.structs.replace(report, since_ms=None, began_ms=None), "PolicyA", 5) == []
    event, again = detected(report, "PolicyA", 5)[0], detected(watch.advance(), "PolicyA", 6)[0]
    assert isinstance(event, DriftDetected) and event.id == again.id
    assert event.since_ms < event.until_ms and "slate_taste" in event.features
    publish(producer(log), event)
    with TopicReader(log, "lifecycle", from_start=True) as reader:
        (message,) = reader.rest()
    assert message.key() == NAME.encode()
    assert msgspec.json.decode(message.value() or b"", type=LifecycleEvent) == event
