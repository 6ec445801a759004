"""A replay with registered models as a process of its own: a moved alias is served at once, and no slate is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from movielens_files import write_movielens
from registered_models import NAME, likes, register

from producers.candidates import RankedSlates
from producers.scoring import LogModels
from producers.slates import Slates, cut_slates
from producers.sources import read_ratings
from sluice.adapters.kafka import Message
from sluice.adapters.mlflow import Registry
from sluice.adapters.reader import TopicReader
from sluice.errors import ModelUnusable
from sluice.features import Catalogue, make_catalogue
from sluice.names import IMPRESSIONS
from sluice.settings import Settings

EXPERIMENT = f"""
name: models
unit: slate
variants: [{{name: random}}, {{name: PolicyA, ranker: "models:/{NAME}@PolicyA"}}]
"""
SLATES, K = 240, 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ratings, and what MLflow keeps."""
    folder = tmp_path_factory.mktemp("models")
    write_movielens(folder / "tiny", users=40, items=120, each=60, seed=3)
    (folder / "models.yaml").write_text(EXPERIMENT)
    return folder


@pytest.fixture(scope="module")
def slates(folder: Path) -> Slates:
    return cut_slates(read_ratings(str(folder / "tiny")))


@pytest.fixture(scope="module")
def catalogue(slates: Slates) -> Catalogue:
    return make_catalogue(slates.log.items, slates.log.genres)


@pytest.fixture(scope="module")
def uri(folder: Path, catalogue: Catalogue, mlflow_store: Callable[[Path], str]) -> str:
    """A registry whose versions 1 and 2 rank in opposite orders; PolicyA is the first, Other the second."""
    uri = mlflow_store(folder)
    assert register(uri, folder, "PolicyA", likes("item_history", catalogue)) == "1"
    assert register(uri, folder, "Other", likes("item_history", catalogue, sign=-1.0)) == "2"
    return uri


@pytest.fixture
def alias(uri: str) -> Iterator[Callable[[str], None]]:
    """Moves PolicyA, which points to version 1 again after the test."""
    from mlflow import MlflowClient

    client = MlflowClient(uri, uri)
    yield lambda version: client.set_registered_model_alias(NAME, "PolicyA", version)
    client.set_registered_model_alias(NAME, "PolicyA", "1")


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def replay(folder: Path, uri: str, service_env: Callable[[Settings], dict[str, str]]) -> Iterator[Start]:
    running: list[subprocess.Popen[str]] = []

    def start(settings: Settings | None, *options: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "producers", "--json", "--data", str(folder / "tiny")]
        command += ["--experiment", str(folder / "models.yaml"), *options]
        env = {**(dict(os.environ) if settings is None else service_env(settings)), "SLUICE_MLFLOW": uri}
        running.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.communicate()


def expected(slates: Slates, settings: Settings, version: str) -> list[tuple[str, ...]]:
    """What this version shows, slate by slate."""
    models = LogModels(slates, 4000, Registry(settings), {"it": f"models:/{NAME}/{version}"})
    candidates = RankedSlates(slates, {}, k=K, models=models)
    return [tuple(item.item_id for item in shown["it"]) for shown in candidates.shown(candidates.block(0, len(slates)))]


def shown_by_slate(messages: list[Message]) -> list[tuple[str, tuple[str, ...]]]:
    """(variant, items) of every slate, in their order; what was sent twice counts once."""
    slates: dict[int, tuple[str, dict[str, str]]] = {}
    for message in messages:
        event = json.loads(message.value() or b"")
        if event["type"] == "impression":
            number = int(event["slate_id"].rpartition(".")[2], 36)
            _, items = slates.setdefault(number, (event["assignments"][0][1], {}))
            assert items.setdefault(event["impression_id"], event["item_id"]) == event["item_id"]
    return [(variant, tuple(items.values())) for _, (variant, items) in sorted(slates.items())]


@pytest.mark.slow
def test_an_alias_moved_in_the_middle_is_served_without_losing_a_slate(
    make_stack: Callable[..., Settings], slates: Slates, uri: str, replay: Start, alias: Callable[[str], None],
    wait_until: Callable[..., Any],
) -> None:  # fmt: skip
    settings = make_stack("embedded", mlflow=uri)
    process = replay(settings, "--speed", "24/s", "--delay", "none")
    with TopicReader(settings, IMPRESSIONS, from_start=True) as reader:
        found: list[Message] = []

        def read(count: int) -> bool:
            found.extend(reader.poll(0.02))
            return len(found) >= count

        wait_until(lambda: read(K * 20), 60, "the first slates")
        alias("2")
        out, err = process.communicate(timeout=150)
        wait_until(lambda: read(K * SLATES), 30, "all slates")
    assert process.returncode == 0, err
    assert json.loads(out)["slates"] == SLATES
    told = [json.loads(line)["message"] for line in err.splitlines()]
    assert told == [f"variant PolicyA: {NAME} version 2 serves now, before it version 1"]
    first, second = (expected(slates, settings, version) for version in ("1", "2"))
    answers = shown_by_slate(found)
    assert len(answers) == SLATES
    by_model = [number for number, (variant, _) in enumerate(answers) if variant == "PolicyA"]
    served = [(answers[n][1] == first[n], answers[n][1] == second[n]) for n in by_model]
    assert all(one or other for one, other in served), "every slate is ranked by one of the versions"
    # Ties apart, one version up to some slate and the other from there on.
    last_of_first = max(place for place, (one, other) in enumerate(served) if one and not other)
    first_of_second = min(place for place, (one, other) in enumerate(served) if other and not one)
    assert last_of_first < first_of_second
    assert first_of_second < len(served) - 10, "it took less than the rest of the replay"


@pytest.mark.slow
def test_a_kill_and_a_restart_show_and_count_the_same(
    make_stack: Callable[..., Settings], slates: Slates, uri: str, replay: Start, wait_until: Callable[..., Any]
) -> None:
    out, err = replay(make_stack("embedded", mlflow=uri)).communicate(timeout=150)
    assert err == ""
    whole = json.loads(out)
    settings = make_stack("embedded", mlflow=uri)
    process = replay(settings, "--speed", "60/s")
    with TopicReader(settings, IMPRESSIONS, from_start=True) as reader:
        found: list[Message] = []
        wait_until(lambda: found.extend(reader.poll(0.02)) or len(found) >= K * SLATES // 2, 60, "half of the slates")
        process.kill()
        process.communicate()
        out, err = replay(settings).communicate(timeout=150)
        rest = json.loads(out)
        wait_until(lambda: found.extend(reader.poll(0.02)) or len(shown_by_slate(found)) == SLATES, 30, "all slates")
    assert 0 < rest["resumed_from"] < SLATES
    assert {name: rest[name] for name in ("slates", "impressions", "clicks", "variants", "regret")} == {
        name: whole[name] for name in ("slates", "impressions", "clicks", "variants", "regret")
    }
    best = expected(slates, settings, "1")
    answers = enumerate(shown_by_slate(found))
    assert all(items == best[number] for number, (variant, items) in answers if variant == "PolicyA")


@pytest.mark.parametrize(
    ("env", "code", "words"),
    [
        ({}, 2, "variant PolicyA: models:/movielens_ctr_ab@PolicyA: MLflow at sqlite:///"),
        ({"SLUICE_MLFLOW": "http://127.0.0.1:9"}, 1, "MLflow at http://127.0.0.1:9"),
    ],
    ids=["no such alias", "away"],
)
def test_models_that_cannot_be_had_at_the_start_are_one_line(
    folder: Path, tmp_path: Path, env: dict[str, str], code: int, words: str
) -> None:
    command = [sys.executable, "-m", "sluice", "replay", "--data", str(folder / "tiny"), "--experiment"]
    command += [str(folder / "models.yaml"), "--truth", str(tmp_path / "truth.parquet")]
    outer = {**os.environ, "SLUICE_STATE": str(tmp_path), **env}
    done = subprocess.run(command, env=outer, capture_output=True, text=True, timeout=150)
    assert done.returncode == code
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "truth.parquet").exists()


def test_models_come_from_the_registry_as_they_were_written(
    folder: Path, uri: str, catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sluice.adapters.mlflow import parse_model_uri

    monkeypatch.chdir(tmp_path)
    registry = Registry(Settings(state=tmp_path / "state", mlflow=uri))
    version = registry.resolve(parse_model_uri(f"models:/{NAME}@Other"))
    assert (version.name, version.version) == (NAME, "2")
    found = registry.load(version)
    assert (found.name, found.catalogue) == ("by item_history", catalogue)
    assert not (tmp_path / "mlflow.db").exists(), "no other registry is asked"
    with pytest.raises(ModelUnusable, match="knows no such model"):
        registry.resolve(parse_model_uri(f"models:/{NAME}@Nobody"))
