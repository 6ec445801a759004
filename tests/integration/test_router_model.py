"""The router as an MLflow model: its answers are those of the policies and of the online features."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from movielens_files import write_movielens
from trainings import log_policies

from sluice.domain.bucketing import bucket
from sluice.features import OnlineFeatures, learn_log
from sluice.models import Linear, Trees
from sluice.settings import Settings
from training.dataset import Dataset
from training.models import Examples, fit_policy_a, fit_policy_b
from training.prepare import PrepareOptions, prepare
from training.register import register
from training.tracking import Tracking

URI = "models:/movielens_ctr_router@router"


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, mlflow_store: Callable[[Path], str]) -> Settings:
    made = Settings(state=tmp_path_factory.mktemp("state"))
    mlflow_store(made.state)
    return made


@pytest.fixture(scope="module")
def data(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    source = write_movielens(tmp_path_factory.mktemp("data") / "ml-tiny")
    return prepare(str(source), settings.state / "training", PrepareOptions())[0]


@pytest.fixture(scope="module")
def policies(data: Dataset) -> dict[str, Linear | Trees]:
    examples = Examples.of(data)
    return {
        "PolicyA": fit_policy_a(examples, data.train).model,
        "PolicyB": fit_policy_b(examples, data.train)[0].model,
    }


@pytest.fixture(scope="module")
def router(settings: Settings, data: Dataset, policies: dict[str, Linear | Trees]) -> Any:
    tracking = Tracking(settings)
    log_policies(tracking, Examples.of(data), policies)
    register(settings, tracking, data, settings.state, notice=print)
    return mlflow.pyfunc.load_model(URI)


@pytest.fixture(scope="module")
def online(data: Dataset) -> OnlineFeatures:
    return learn_log(data.log, data.users, data.catalogue)


def requests(data: Dataset) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    users = [*data.users[:30], "nobody", "ünknown"]
    items = [[*rng.choice(data.log.items, rng.integers(1, 12), replace=False), "never seen"] for _ in users]
    at_ms = int(data.log.end_ms.max()) + rng.integers(1, 10**9, len(users))
    return pd.DataFrame({"user_id": users, "items": items, "at_ms": at_ms})


def test_answers_are_those_of_the_policies_and_the_online_features(
    router: Any, data: Dataset, policies: dict[str, Linear | Trees], online: OnlineFeatures
) -> None:
    asked = requests(data)
    answers = router.predict(asked)
    assert set(answers["variant"]) == {"PolicyA", "PolicyB"}
    for (user, items, at_ms), answer in zip(
        asked.itertuples(index=False), answers.itertuples(index=False), strict=True
    ):
        assert answer.variant == ("PolicyA" if bucket("movielens_ctr_ab", user) < 0.5 else "PolicyB")
        expected = policies[answer.variant].score(online.rows(user, items, at_ms))
        assert answer.items == [items[place] for place in np.argsort(-expected, kind="stable")]
        assert answer.scores == sorted(expected, reverse=True)


def test_shares_and_salt_are_given_with_the_request(router: Any, data: Dataset) -> None:
    asked = requests(data)
    for share, expected in ((100, {"PolicyA"}), (0, {"PolicyB"})):
        answers = router.predict(asked, params={"allocation": f"PolicyA={share},PolicyB={100 - share}"})
        assert set(answers["variant"]) == expected
    salted = router.predict(asked, params={"salt": "another", "allocation": "PolicyA=20,PolicyB=80"})["variant"]
    assert list(salted) == ["PolicyA" if bucket("another", user) < 0.2 else "PolicyB" for user in asked["user_id"]]


def test_without_a_time_a_request_comes_just_after_the_log(router: Any, data: Dataset) -> None:
    asked = requests(data)
    untimed = router.predict(asked.drop(columns="at_ms"))
    timed = router.predict(asked.assign(at_ms=int(data.log.end_ms.max()) + 1))
    pd.testing.assert_frame_equal(untimed, timed)


@pytest.mark.parametrize(
    ("items", "params", "words"),
    [
        ([[]], {}, "one candidate at least"),
        ([["1"]], {"allocation": "PolicyA=50,PolicyB=49"}, "sum to 100"),
        ([["1"]], {"allocation": "PolicyA=50,PolicyC=50"}, "as PolicyA=50,PolicyB=50"),
        ([["1"]], {"allocation": "half"}, "whole percents"),
        (["1"], {}, "items"),
    ],
)
def test_what_cannot_be_answered_is_refused(router: Any, items: list[Any], params: dict[str, str], words: str) -> None:
    with pytest.raises(mlflow.MlflowException, match=words):
        router.predict(pd.DataFrame({"user_id": ["1"], "items": items}), params=params)


def test_it_holds_no_pickle_and_needs_nothing_beside_it(router: Any, tmp_path: Path) -> None:
    place = Path(mlflow.artifacts.download_artifacts(URI, dst_path=str(tmp_path)))
    files = {str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()}
    assert not [name for name in files if name.endswith((".pkl", ".pickle", ".joblib"))]
    assert {"artifacts/PolicyA/sluice.json", "artifacts/PolicyB/booster.txt", "artifacts/states.parquet"} <= files
    example = json.loads((place / "input_example.json").read_text())
    assert example["columns"] == ["user_id", "items", "at_ms"]
    assert router.metadata.signature.outputs.input_names() == ["variant", "items", "scores"]


@pytest.fixture
def served(settings: Settings, router: Any, wait_until: Callable[..., Any], tmp_path: Path) -> Iterator[str]:
    """`mlflow models serve` on a free port; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    scripts = Path(sys.executable).parent
    # It starts `uvicorn` by name: what an activated environment has on its path.
    env = {**os.environ, "MLFLOW_TRACKING_URI": settings.mlflow_uri, "PATH": f"{scripts}:{os.environ['PATH']}"}
    command = ["mlflow", "models", "serve", "-m", URI, "--env-manager", "local", "-h", "127.0.0.1", "-p", str(port)]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [str(scripts / command[0]), *command[1:]], env=env, stdout=log, stderr=log, start_new_session=True
        )
    address = f"http://127.0.0.1:{port}"

    def up() -> bool:
        assert process.poll() is None, (tmp_path / "log").read_text()
        try:
            with urllib.request.urlopen(f"{address}/ping", timeout=60) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    try:
        wait_until(up, 120, "the model server answers")
        yield address
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # it leaves its server behind when only it is ended
        process.wait(30)


@pytest.mark.slow
def test_it_is_served_by_mlflow(served: str, router: Any, data: Dataset) -> None:
    def ask(body: object) -> tuple[int, Any]:
        request = urllib.request.Request(
            f"{served}/invocations", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    asked = requests(data)
    records = json.loads(asked.to_json(orient="records"))
    status, answer = ask({"dataframe_records": records})
    assert status == 200
    assert answer["predictions"] == router.predict(asked).to_dict(orient="records")
    status, answer = ask({"dataframe_records": records[:2], "params": {"allocation": "PolicyA=0,PolicyB=100"}})
    assert (status, {one["variant"] for one in answer["predictions"]}) == (200, {"PolicyB"})
    status, answer = ask({"dataframe_records": [{"user_id": "1", "items": []}]})
    assert status == 400
    assert "one candidate at least" in answer["message"]
