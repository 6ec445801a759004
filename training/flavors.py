"""Our models as MLflow models: code and files instead of pickles, with signature and input example. Library: mlflow."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema
from mlflow.types.schema import Array, DataType

from sluice.adapters.mlflow import ARTIFACT
from sluice.domain.drift import DRIFT_FILE
from sluice.models import TrainedModel, write_model
from training.models import Examples, FeatureModel, Trained
from training.recommender_files import write_recommender
from training.recommenders import Recommender
from training.tracking import Subject, requirements

__all__ = ["log_files"]

_EXAMPLES = 10
_WORDS, _NUMBERS = Array(DataType.string), Array(DataType.double)
_SLATES = ModelSignature(
    Schema([ColSpec(_WORDS, "rated"), ColSpec(_NUMBERS, "stars"), ColSpec(_WORDS, "items")]),
    Schema([ColSpec(_NUMBERS, "scores")]),
)


def log_files(one: Trained, examples: Examples, subject: Subject) -> str:
    """Log the model itself to the active run; the id of MLflow's logged model."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / ARTIFACT
        if isinstance(one.model, FeatureModel):
            about = {"data": subject.dataset, "fingerprint": subject.fingerprint, "seed": str(subject.seed)}
            # `sluice replay` says so when its own options of these names differ.
            about |= {name: f"{examples.data.options[name]:g}" for name in ("slate_size", "click_from")}
            write_model(place, TrainedModel(one.name, one.model.model, examples.data.catalogue, about))
            if one.reference is not None:
                (place / DRIFT_FILE).write_bytes(one.reference.dump())
            columns = Schema([ColSpec("double", name) for name in examples.names])
            signature = ModelSignature(columns, Schema([ColSpec("double", "p_click")]))
            return _log(one.name, "pyfunc_policy.py", place, signature, _rows(examples), ("lightgbm",))
        assert isinstance(one.model, Recommender)
        write_recommender(place, one.name, one.model, examples.data.log.items)
        return _log(one.name, "pyfunc_recommender.py", place, _SLATES, _slates(examples), ("scikit-learn",))


def _log(
    name: str, code: str, place: Path, signature: ModelSignature, example: pd.DataFrame, packages: Sequence[str]
) -> str:
    logged: Any = mlflow.pyfunc.log_model(
        name=name,
        python_model=str(Path(__file__).with_name(code)),
        artifacts={ARTIFACT: str(place)},
        signature=signature,
        input_example=example,
        pip_requirements=requirements("numpy", "pandas", "scipy", *packages),
    )
    return str(logged.model_id)


def _rows(examples: Examples) -> pd.DataFrame:
    rows = examples.data.rows(examples.data.test)[:_EXAMPLES]
    return pd.DataFrame(examples.features[rows].astype(np.float64), columns=list(examples.names))


def _slates(examples: Examples) -> pd.DataFrame:
    """The first test slates of users who had rated before."""
    data, found = examples.data, []
    for slate in data.test.tolist():
        before = np.flatnonzero((data.log.user == data.log.user[slate]) & (data.log.end_ms < data.log.at_ms[slate]))
        if len(before):
            rows = data.rows(before)[-_EXAMPLES:]
            found.append({
                "rated": [data.log.items[item] for item in data.log.item[rows]],
                "stars": (data.log.rating_milli[rows] / 1000).tolist(),
                "items": [data.log.items[item] for item in data.log.item[data.rows(np.array([slate]))]],
            })  # fmt: skip
        if len(found) == 3:
            break
    return pd.DataFrame(found or [{"rated": [], "stars": [], "items": list(data.log.items[:3])}])
