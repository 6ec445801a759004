"""PolicyA or PolicyB as an MLflow model, logged as this code and our text files (no pickle). Library: mlflow.

Rows of features in, P(click) out; MLflow runs this file when the model is loaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

from sluice.adapters.mlflow import ARTIFACT
from sluice.models import read_model


class Policy(PythonModel):
    def load_context(self, context: Any) -> None:
        self._model = read_model(Path(context.artifacts[ARTIFACT]))

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """model_input: the feature columns, as `sluice.features` makes them. Returns the column `p_click`."""
        features = model_input[list(self._model.columns)].to_numpy(np.float32)
        return pd.DataFrame({"p_click": self._model.score(features)})


set_model(Policy())
