"""The router as an MLflow model: who gets which policy, and how that policy ranks the candidates. Library: mlflow.

Logged as this code, the policies' text files and the states of users and items as Parquet (no pickle); MLflow runs
this file when the model is loaded. The answer is a function of the request: nothing is remembered between calls.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

from sluice.domain.allocation import allocation_key, choose, equal_percents, parse_allocation_key
from sluice.domain.bucketing import bucket
from sluice.errors import InvalidEvent
from sluice.features import Catalogue, ItemState, UserState, feature_rows
from sluice.models import read_model
from sluice.models.states import STATES_FILE, read_states


class Router(PythonModel):
    def load_context(self, context: Any) -> None:
        files = {name: Path(path) for name, path in context.artifacts.items()}
        online = read_states(files.pop(STATES_FILE), Catalogue())
        self._users, self._items = online.users, online.items
        self._models = {name: read_model(path) for name, path in sorted(files.items())}
        ends = (state.last_ms for states in (self._users, self._items) for state in states.values())
        self._after_ms = max(ends, default=0) + 1
        """Just after the log: the time of requests that name none"""

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """model_input: `user_id`, `items` and, if given, `at_ms`, a request a row.

        Returns `variant`, `items` (best first) and `scores` (P(click) of each). params: `allocation`, whole percents
        such as `PolicyA=90,PolicyB=10`; `salt`, on which a user's place among the shares depends.
        """
        shares = self._shares((params or {}).get("allocation", ""))
        salt = (params or {}).get("salt", "")
        users = [str(user) for user in model_input["user_id"]]
        slates = [[str(item) for item in items] for items in model_input["items"]]
        times = model_input["at_ms"].tolist() if "at_ms" in model_input else [self._after_ms] * len(users)
        if not all(slates):
            raise MlflowException.invalid_parameter_value("items: every request needs one candidate at least")
        variants = [choose(shares, bucket(salt, user)) for user in users]
        asked = defaultdict(list)
        for row, variant in enumerate(variants):
            asked[variant].append(row)
        scores: dict[int, Any] = {}
        for variant, rows in asked.items():
            features = [self._features(variant, users[row], slates[row], int(times[row])) for row in rows]
            ends = np.cumsum([len(own) for own in features])
            found = np.split(self._models[variant].score(np.concatenate(features)), ends[:-1])
            scores |= zip(rows, found, strict=True)
        answers = []
        for row, (variant, items) in enumerate(zip(variants, slates, strict=True)):
            order = np.argsort(-scores[row], kind="stable")
            ranked, best = [items[place] for place in order], scores[row][order].tolist()
            answers.append({"variant": variant, "items": ranked, "scores": best})
        return pd.DataFrame(answers, columns=["variant", "items", "scores"])

    def _features(self, variant: str, user: str, items: list[str], at_ms: int) -> Any:
        states = [self._items.get(item) or ItemState.new(item) for item in items]
        known = self._users.get(user, UserState())
        return feature_rows(self._models[variant].catalogue, known, items, states, at_ms)

    def _shares(self, allocation: str) -> dict[str, int]:
        """Equal ones where `allocation` is empty."""
        equal = equal_percents(list(self._models))
        try:
            shares = parse_allocation_key(allocation) if allocation else equal
        except InvalidEvent:
            shares = {}
        if shares.keys() != equal.keys() or sum(shares.values()) != 100:
            raise MlflowException.invalid_parameter_value(
                f"allocation: {allocation[:80]!r}: whole percents of all policies that sum to 100, "
                f"as {allocation_key(equal)}"
            )
        return shares


set_model(Router())
