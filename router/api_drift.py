"""Drift and lives of models: what those who watch or lead them last said, and rows beside the reference of a model.

Libraries: FastAPI, msgspec.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Annotated, TypeVar

import msgspec
import numpy as np
from fastapi import APIRouter, Path, Query, Request, Response

from router.api_document import answers, takes
from router.api_problems import ApiProblem, answered, decoded
from router.serving import Service
from sluice.adapters.drift import DriftBoard
from sluice.adapters.lives import LifeBoard
from sluice.adapters.mlflow import Registry, parse_model_uri
from sluice.adapters.redis import connect
from sluice.domain.api_drift import DriftAnswer, DriftCheckBody, DriftRow
from sluice.domain.drift import LEAST_USERS, DriftReport, Reference, Rows, check
from sluice.domain.lifecycle_waits import LifeAnswer
from sluice.errors import ConfigError, ModelUnusable
from sluice.names import Keys

__all__ = ["routes"]

MAX_WAITING = 8
"""Requests of this module; they share one thread, so that traffic keeps the rest of the machine"""
REFERENCES = 8
"""That are kept in memory"""

T = TypeVar("T")
Model = Annotated[str | None, Query(max_length=256, description="Only this registered model")]
Life = Annotated[str, Path(max_length=512, pattern=r"^[^/@]+@[^/@]+$", examples=["movielens_ctr_ab@PolicyB"])]
_CHECK = DriftCheckBody(
    model="movielens_ctr_ab@PolicyB", columns=("user_like_rate", "item_like_rate"),
    rows=(DriftRow(user_id="429", features=(0.61, None), score=0.58),),
)  # fmt: skip


class _Busy:
    """One thread, and few who wait for it."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="router-drift")
        self._waiting = 0

    async def run(self, work: Callable[[], T]) -> T:
        if self._waiting >= MAX_WAITING:
            raise ApiProblem.away(f"{MAX_WAITING} requests about drift are under way")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        finally:
            self._waiting -= 1


class _References:
    """References of models, by what they are called."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._reference = lru_cache(REFERENCES)(registry.reference)

    def find(self, model: str) -> tuple[Reference, str, str]:
        """(reference, name, version). Raises ApiProblem, TransportError when MLflow is away."""
        try:
            version = self._registry.resolve(parse_model_uri(f"models:/{model}"))
        except ModelUnusable as error:
            raise ApiProblem(404, str(error), kind="unknown-model", field="model") from error
        try:
            return self._reference(version), version.name, version.version
        except (ModelUnusable, ConfigError) as error:
            raise ApiProblem(404, str(error), kind="no-reference", field="model") from error


def routes(service: Service) -> APIRouter:
    """Their routes on `service`."""
    api = APIRouter(tags=["drift"])
    busy, references = _Busy(), _References(Registry(service.settings))
    client, keys = connect(service.settings, timeout_s=2.0), Keys(service.settings.prefix)
    board = DriftBoard(client, keys)
    check_body = msgspec.json.Decoder(DriftCheckBody)

    @api.get("/drift", summary="Drift of the models", responses=answers(DriftAnswer, 422, 503, body=False))
    async def drift(model: Model = None) -> Response:
        """What `sluice drift --follow` last said of each version that it watches."""
        if service.breaker.open:
            raise ApiProblem.away("Redis is away")
        return answered(DriftAnswer(drift=tuple(await busy.run(lambda: board.latest(model)))))

    @api.get("/lifecycle/{model}", summary="The life of a model", responses=answers(LifeAnswer, 422, 503, body=False))
    async def lifecycle(model: Life) -> Response:
        """Who leads it, and what it waits for: as `sluice lifecycle status --json` says."""
        if service.breaker.open:
            raise ApiProblem.away("Redis is away")
        name, _, alias = model.rpartition("@")
        return answered(await busy.run(LifeBoard(client, keys, name, alias).get))

    @api.post(
        "/drift-check", summary="Rows beside the reference of a model",
        responses=answers(DriftReport, 404, 422, 503), openapi_extra=takes(DriftCheckBody, _CHECK),
    )  # fmt: skip
    async def drift_check(request: Request) -> Response:
        """Whether a batch of rows is like what the model was trained on. One look: nothing is kept of it.

        At least 20 users are needed, as rows of one user tell little of others.
        """
        body = await decoded(request, check_body)
        return answered(await busy.run(lambda: _checked(references, body)))

    return api


def _checked(references: _References, body: DriftCheckBody) -> DriftReport:
    reference, name, version = references.find(body.model)
    order = _order(reference, body)
    users = [row.user_id for row in body.rows]
    if len(set(users)) < LEAST_USERS:
        text = f"rows of {len(set(users))} users: at least {LEAST_USERS} are needed to tell drift from chance"
        raise ApiProblem(422, text, kind="too-few-users", field="rows")
    features = np.array([row.features for row in body.rows], dtype=np.float64)[:, order]
    score = np.array([row.score for row in body.rows])
    rows = Rows(users, np.zeros(len(users), dtype=np.int64), features, score)
    return check(reference, rows, name, version, body.alpha)


def _order(reference: Reference, body: DriftCheckBody) -> list[int]:
    """Where the columns of the reference are in the rows. Raises ApiProblem where there are others."""
    given = reference.columns if body.columns is None else body.columns
    if sorted(given) != sorted(reference.columns):
        lacking = sorted(set(reference.columns) - set(given))
        said = f"lacking: {', '.join(lacking[:5])}" if lacking else "some are twice, or not of this model"
        text = f"the model has {len(reference.columns)} features, each once: {said}"
        raise ApiProblem(422, text, kind="invalid", field="columns")
    for place, row in enumerate(body.rows):
        if len(row.features) != len(given):
            text = f"{len(row.features)} features: the model has {len(given)}"
            raise ApiProblem(422, text, kind="invalid", field=f"rows[{place}].features")
    return [given.index(name) for name in reference.columns]
