"""What a training leaves in MLflow, on a real store: runs, figures, files, and models that score as they did."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from movielens_files import write_movielens

from sluice.adapters.mlflow import ModelVersion, Registry, parse_model_uri
from sluice.cli import main
from sluice.errors import ConfigError, ModelUnusable, TransportError
from sluice.settings import Settings
from training.dataset import Dataset
from training.evaluate import BASELINES
from training.models import Examples
from training.prepare import PrepareOptions, prepare
from training.recommender_files import read_recommender, write_recommender
from training.recommenders import fit_content_based, fit_item_based
from training.session import Session, run_training
from training.tracking import Subject, Tracking, find_training, log_report, requirements
from training.train import MODELS, train_one


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_movielens(tmp_path_factory.mktemp("data") / "ml-tiny", users=50, each=60)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(state=tmp_path_factory.mktemp("state"))


@pytest.fixture(scope="module")
def prepared(source: Path, settings: Settings) -> tuple[Dataset, Path]:
    return prepare(str(source), settings.state / "training", PrepareOptions())


@pytest.fixture(scope="module")
def session(settings: Settings, prepared: tuple[Dataset, Path]) -> Session:
    notices: list[str] = []
    done = run_training(Tracking(settings), *prepared, notice=notices.append)
    assert notices == []
    return done


@pytest.fixture(scope="module")
def examples(prepared: tuple[Dataset, Path]) -> Examples:
    return Examples.of(prepared[0])


def nested(settings: Settings, session: Session) -> dict[str, Any]:
    tracking = Tracking(settings)
    found = tracking.client.search_runs(
        [tracking.experiment_id], f"tags.`mlflow.parentRunId` = '{session.run.run_id}'", order_by=["start_time ASC"]
    )
    return {run.info.run_name: run for run in found}


def test_every_model_and_baseline_is_a_run_with_figures_of_the_same_names(settings: Settings, session: Session) -> None:
    runs = nested(settings, session)
    assert set(runs) == {*MODELS, *BASELINES} - {"best_possible"}
    names = {"test_auc", "test_auc_low", "test_auc_high", "test_ctr_at_1", "test_ndcg_at_3"}
    assert all(names <= set(run.data.metrics) for run in runs.values())
    assert len({frozenset(runs[name].data.metrics) for name in MODELS}) == 1
    for name, run in runs.items():
        assert run.info.status == "FINISHED"
        assert run.data.metrics["test_auc"] == session.report[name]["auc"]
        assert run.data.metrics["test_auc_low"] == session.report[name]["intervals"]["auc"][0]
        assert "mlflow.note.content" in run.data.tags
    for name in MODELS:
        assert 0.5 < runs[name].data.metrics["validation_auc"] < 1
        assert runs[name].data.tags["sluice.kind"] == "model"


def test_a_run_says_what_it_was_made_of(settings: Settings, session: Session, prepared: tuple[Dataset, Path]) -> None:
    data = prepared[0]
    tracking = Tracking(settings)
    for run_id in (session.run.run_id, session.run.models["PolicyB"].run_id):
        run = tracking.client.get_run(run_id)
        wanted = {"sluice.fingerprint": data.fingerprint, "sluice.dataset": "ml-tiny", "sluice.seed": "0"}
        assert wanted.items() <= run.data.tags.items()
        (given,) = run.inputs.dataset_inputs
        assert (given.dataset.name, given.dataset.digest) == ("ml-tiny", data.fingerprint)
    params = run.data.params
    assert (params["learning_rate"], params["seed"], params["fingerprint"]) == ("0.05", "0", data.fingerprint)
    files = {one.path for one in tracking.client.list_artifacts(run_id)}
    assert files == {
        "confusion_matrix.json", "confusion_matrix.png", "environment.json", "feature_importance.csv",
        "feature_importance.png",
    }  # fmt: skip
    place = Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path="", tracking_uri=tracking.uri))
    cells = json.loads((place / "confusion_matrix.json").read_text())
    assert sum(cells[f"{was}_{sign}"] for was in ("true", "false") for sign in ("positive", "negative")) == len(
        data.rows(data.test)
    )
    assert (cells["true_positive"] + cells["true_negative"]) / len(data.rows(data.test)) == pytest.approx(
        run.data.metrics["test_accuracy"]
    )
    lines = (place / "feature_importance.csv").read_text().splitlines()
    sizes = [float(line.rpartition(",")[2]) for line in lines[1:]]
    assert lines[0] == "feature,importance"
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 0
    assert (place / "feature_importance.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((place / "environment.json").read_text())["numpy"] == np.__version__


@pytest.mark.parametrize("name", ["PolicyA", "PolicyB"])
def test_a_policy_loaded_again_scores_to_the_last_bit(session: Session, examples: Examples, name: str) -> None:
    loaded = mlflow.pyfunc.load_model(session.run.models[name].model_uri)
    trained = train_one(name, examples, examples.data.train)
    rows = examples.data.rows(examples.data.test)
    table = pd.DataFrame(examples.features[rows], columns=list(examples.names))
    found = loaded.predict(table)["p_click"].to_numpy()
    assert found.tobytes() == trained.model.predict(examples, examples.data.test).tobytes()
    assert len(np.unique(found)) > 100
    assert loaded.metadata.get_input_schema().input_names() == list(examples.names)
    assert loaded.metadata.get_output_schema().input_names() == ["p_click"]
    assert len(loaded.predict(loaded.input_example)) == len(loaded.input_example)


@pytest.mark.parametrize("name", ["item_based", "content"])
def test_a_recommender_loaded_again_gives_the_same_scores_from_what_a_user_rated(
    session: Session, examples: Examples, name: str
) -> None:
    data = examples.data
    loaded = mlflow.pyfunc.load_model(session.run.models[name].model_uri)
    fit = {"item_based": fit_item_based, "content": fit_content_based}[name]
    slates = data.test[::5]
    rows = []
    for slate in slates.tolist():
        before = np.flatnonzero((data.log.user == data.log.user[slate]) & (data.log.end_ms < data.log.at_ms[slate]))
        known, asked = (
            data.rows(before[np.argsort(data.log.end_ms[before], kind="stable")]),
            data.rows(np.array([slate])),
        )
        rows.append({
            "rated": [data.log.items[item] for item in data.log.item[known]],
            "stars": (data.log.rating_milli[known] / 1000).tolist(),
            "items": [data.log.items[item] for item in data.log.item[asked]],
        })  # fmt: skip
    found = np.concatenate(loaded.predict(pd.DataFrame(rows))["scores"].to_list())
    np.testing.assert_allclose(found, fit(examples, data.train).predict(examples, slates), rtol=1e-12)
    assert len(np.unique(found)) > 20


def test_a_recommender_knows_what_to_do_with_what_it_does_not_know(session: Session) -> None:
    loaded = mlflow.pyfunc.load_model(session.run.models["item_based"].model_uri)
    asked = pd.DataFrame([{"rated": ["no such"], "stars": [5.0], "items": ["1", "nor this"]},
                          {"rated": [], "stars": [], "items": ["1", "nor this"]}])  # fmt: skip
    scores = loaded.predict(asked)["scores"]
    assert all(0 < score < 1 for row in scores for score in row)
    with pytest.raises(ValueError, match="belong together"):
        loaded.predict(pd.DataFrame([{"rated": ["1"], "stars": [5.0, 4.0], "items": ["1"]}]))


def test_what_is_logged_can_be_registered_and_served(settings: Settings, session: Session) -> None:
    tracking = Tracking(settings)
    logged = session.run.models["PolicyB"]
    version = mlflow.register_model(logged.model_uri, "served")
    tracking.client.set_registered_model_alias("served", "now", version.version)
    registry = Registry(settings)
    found = registry.resolve(parse_model_uri("models:/served@now"))
    model = registry.load(found)
    assert (found.run_id, model.name) == (logged.run_id, "PolicyB")
    assert model.about["fingerprint"] == Subject("", model.about["fingerprint"], 0).fingerprint
    assert (model.about["slate_size"], model.about["click_from"]) == ("10", "4")


def test_the_latest_training_of_these_data_is_found(
    settings: Settings, session: Session, prepared: tuple[Dataset, Path]
) -> None:
    fingerprint = prepared[0].fingerprint
    assert find_training(settings, fingerprint, 0) == session.run
    assert set(session.run.models) == set(MODELS)
    assert find_training(settings, fingerprint, 1) is None
    assert find_training(settings, "0" * 16, 0) is None


def test_a_run_that_dies_is_failed_and_is_not_found(settings: Settings) -> None:
    tracking, subject = Tracking(settings), Subject("d", "1" * 16, 0)

    def dies() -> None:
        with tracking.run("d", "training", subject) as parent:
            runs.append(parent)
            with tracking.run("PolicyA", "model", subject, parent=parent) as child:
                runs.append(child)
                raise ZeroDivisionError

    runs: list[str] = []
    with pytest.raises(ZeroDivisionError):
        dies()
    assert [tracking.client.get_run(run).info.status for run in runs] == ["FAILED", "FAILED"]
    assert find_training(settings, "1" * 16, 0) is None
    with tracking.run("d", "training", subject) as parent:
        assert find_training(settings, "1" * 16, 0) is None  # has not come to its end yet
    assert find_training(settings, "1" * 16, 0) == (parent, {})


def test_a_report_is_a_run_with_its_files(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("<p>")
    subject = Subject("ml-tiny", "2" * 16, 0)
    run_id = log_report(settings, subject, {"test_auc": 0.75}, tmp_path, note="What it says")
    tracking = Tracking(settings)
    run = tracking.client.get_run(run_id)
    assert (run.info.run_name, run.data.metrics) == ("evaluate ml-tiny 22222222", {"test_auc": 0.75})
    assert run.data.tags["sluice.kind"] == "evaluation"
    assert [one.path for one in tracking.client.list_artifacts(run_id)] == ["report.html"]


def test_requirements_are_exact() -> None:
    found = requirements("numpy", "no-such-package")
    assert f"numpy=={np.__version__}" in found
    assert all("==" in line for line in found)
    assert not any(line.startswith("no-such") for line in found)


def test_a_server_that_does_not_answer_is_found_before_any_work(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens
        address = f"http://user:secret@127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setenv("SLUICE_MLFLOW", address)
        with pytest.raises(SystemExit) as ended:
            main(["train", "--data", str(source), "--out", str(tmp_path / "out")])
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (1, "")
    assert err.splitlines() == [f"sluice: MLflow at {address.replace('secret', '***')}: does not answer"]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("uri", "error", "text"),
    [
        ("sqlite:///{folder}/text.db", TransportError, "file is not a database"),
        ("sqlite:////proc/none/mlflow.db", ConfigError, "cannot be made: No such file or directory"),
        ("nonsense://u:secret@x", TransportError, r"nonsense://u:\*\*\*@x"),
        ("http://u:secret@127.0.0.1:port", TransportError, r"Invalid url: http://u:\*\*\*@127.0.0.1:port/api"),
        ("postgresql+nodriver://u:secret@127.0.0.1:9/x", TransportError, "nodriver"),
        ("postgresql://u:secret@127.0.0.1:port/x", ConfigError, "is not the address of a database"),
    ],
)
def test_a_store_that_cannot_be_used_is_one_line(tmp_path: Path, uri: str, error: type[Exception], text: str) -> None:
    (tmp_path / "text.db").write_text("not a database, but long enough to be looked at " * 10)
    with pytest.raises(error, match=text) as raised:
        Tracking(Settings(state=tmp_path, mlflow=uri.format(folder=tmp_path)))
    assert "\n" not in str(raised.value)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("uri", "error", "text"),
    [
        ("sqlite:///{folder}/text.db", TransportError, "file is not a database"),
        ("nonsense://u:secret@x", TransportError, r"nonsense://u:\*\*\*@x"),
        ("http://u:secret@127.0.0.1:port", TransportError, r"Invalid url: http://u:\*\*\*@127.0.0.1:port/api"),
        ("postgresql://u:secret@127.0.0.1:port/x", ConfigError, "is not the address of a database"),
    ],
)
def test_a_registry_that_cannot_be_asked_is_one_line(
    tmp_path: Path, uri: str, error: type[Exception], text: str
) -> None:
    (tmp_path / "text.db").write_text("not a database, but long enough to be looked at " * 10)
    registry = Registry(Settings(state=tmp_path, mlflow=uri.format(folder=tmp_path)))
    with pytest.raises(error, match=text) as raised:
        registry.resolve(parse_model_uri("models:/movielens_ctr_ab@PolicyA"))
    assert "\n" not in str(raised.value)
    assert "secret" not in str(raised.value)


def test_a_model_that_cannot_be_kept_is_unusable(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    registry = Registry(Settings(state=tmp_path / "file", mlflow=settings.mlflow_uri))
    with pytest.raises(ModelUnusable, match=r"its files cannot be kept in .*: Not a directory"):
        registry.load(ModelVersion("a", "1", "b"))


def test_files_lie_beside_the_database_wherever_a_command_runs(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    elsewhere = Settings(state=tmp_path / "other", mlflow=settings.mlflow_uri)
    tracking = Tracking(elsewhere, "beside")
    place = tracking.client.get_experiment(tracking.experiment_id).artifact_location
    assert place == (settings.state / "mlruns" / "beside").as_uri()
    log_report(elsewhere, Subject("d", "3" * 16, 0), {"test_auc": 0.5}, Path(__file__).parent / "no-files", note="")
    assert list(tmp_path.iterdir()) == []


def test_a_deleted_experiment_is_not_used(settings: Settings) -> None:
    tracking = Tracking(settings, "gone")
    tracking.client.delete_experiment(tracking.experiment_id)
    with pytest.raises(ConfigError, match=f"mlflow experiments restore -x {tracking.experiment_id}"):
        Tracking(settings, "gone")


def test_broken_files_of_a_recommender_are_refused_in_one_line(examples: Examples, tmp_path: Path) -> None:
    model = fit_content_based(examples, examples.data.train)
    write_recommender(tmp_path, "content", model, examples.data.log.items)
    read, items = read_recommender(tmp_path)
    assert items == list(examples.data.log.items)
    scores = read.predict(examples, examples.data.test)
    np.testing.assert_array_equal(scores, model.predict(examples, examples.data.test))
    (tmp_path / "arrays.npz").write_bytes(b"PK")
    with pytest.raises(ModelUnusable, match="no recommender of ours"):
        read_recommender(tmp_path)
