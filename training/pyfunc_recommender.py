"""A recommender as an MLflow model, logged as this code, JSON and NumPy arrays (no pickle). Library: mlflow.

A row is a slate: what the user rated before, and the candidates. Out come P(click) of the candidates.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

from sluice.adapters.mlflow import ARTIFACT
from training.recommender_files import read_recommender


class RecommenderModel(PythonModel):
    def load_context(self, context: Any) -> None:
        self._model, items = read_recommender(Path(context.artifacts[ARTIFACT]))
        self._code = {item: code for code, item in enumerate(items)}

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """model_input: columns `rated` (ids, latest last), `stars` (their ratings) and `items` (candidates).

        Returns the column `scores`, one P(click) for each candidate. Unknown items are allowed everywhere.
        """
        columns = (model_input[name] for name in ("rated", "stars", "items"))
        return pd.DataFrame({"scores": [self._scores(*row) for row in zip(*columns, strict=True)]})

    def _scores(self, rated: Any, stars: Any, items: Any) -> list[float]:
        if len(rated) != len(stars):
            raise ValueError(f"rated has {len(rated)} items, stars has {len(stars)}: they belong together")
        table = self._model.inputs_of(self._codes(rated), np.array(stars, dtype=np.float64), self._codes(items))
        return [float(score) for score in self._model.score(table)]

    def _codes(self, items: Any) -> Any:
        return np.array([self._code.get(item, -1) for item in items], dtype=np.int64)


set_model(RecommenderModel())
