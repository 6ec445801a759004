"""The router's model in MLflow: what it is made of, and its signature. Library: mlflow."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import mlflow
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import Array, DataType

from sluice.features import learn_log
from sluice.models.states import STATES_FILE, write_states
from training.dataset import Dataset
from training.tracking import requirements

__all__ = ["log_router"]

SIGNATURE = ModelSignature(
    inputs=Schema([
        ColSpec("string", "user_id"), ColSpec(Array(DataType.string), "items"),
        ColSpec("long", "at_ms", required=False),
    ]),
    outputs=Schema([
        ColSpec("string", "variant"), ColSpec(Array(DataType.string), "items"),
        ColSpec(Array(DataType.double), "scores"),
    ]),
    params=ParamSchema([ParamSpec("allocation", "string", ""), ParamSpec("salt", "string", "movielens_ctr_ab")]),
)  # fmt: skip


def log_router(policies: Mapping[str, Path], data: Dataset) -> str:
    """Log the router to the active run. policies: name → folder of its model's files. Returns the model's id.

    Users and items begin with what all of the log in `data` says of them.
    """
    with tempfile.TemporaryDirectory() as folder:
        # MLflow names what it copies by the last part of its path, and all policies lie in folders of one name.
        artifacts = {name: shutil.copytree(place, Path(folder) / name) for name, place in policies.items()}
        artifacts[STATES_FILE] = Path(folder) / STATES_FILE
        write_states(artifacts[STATES_FILE], learn_log(data.log, data.users, data.catalogue))
        logged = mlflow.pyfunc.log_model(
            name="router",
            python_model=str(Path(__file__).with_name("pyfunc_router.py")),
            artifacts={name: str(place) for name, place in artifacts.items()},
            signature=SIGNATURE,
            input_example=_example(data),
            pip_requirements=requirements("numpy", "scipy", "pandas", "pyarrow", "lightgbm"),
        )
    return str(logged.model_id)


def _example(data: Dataset) -> pd.DataFrame:
    """The first test slate, and a user nobody knows."""
    slate = data.test_from
    codes = data.log.item[data.log.offsets[slate] : data.log.offsets[slate + 1]]
    items = [data.log.items[code] for code in codes]
    at_ms = int(data.log.end_ms.max()) + 1
    known = data.users[int(data.log.user[slate])]
    return pd.DataFrame({"user_id": [known, "somebody new"], "items": [items, items], "at_ms": [at_ms, at_ms]})
