"""Experiments are created and changed over HTTP, by those who have the token. Libraries: FastAPI, msgspec."""

from __future__ import annotations

import re
from typing import Annotated

import msgspec
from fastapi import APIRouter, Path, Request, Response
from starlette.concurrency import run_in_threadpool

from router.api_document import answers, takes
from router.api_problems import ApiProblem, answered, decoded
from router.api_reading import unknown_experiment
from router.serving import Service
from sluice.adapters import catalogue
from sluice.domain.api import ChangeBody, CreateBody
from sluice.domain.experiment import Experiment, load_experiments
from sluice.domain.status import ACTIONS, Action
from sluice.errors import ConfigError, Conflict

__all__ = ["routes"]

_CREATE = CreateBody(
    experiment=msgspec.Raw(b'{"name": "ranking", "variants": [{"name": "a", "ranker": "random"}, {"name": "b"}]}'),
    by="ada", why="the first comparison",
)  # fmt: skip
_CHANGE = ChangeBody(by="ada", why="clicks are lost since noon", revision=3)

MAX_EXPERIMENT_BYTES = 32 * 1024
_LABEL = "experiment"

Name = Annotated[str, Path(max_length=64, examples=["demo"])]


def routes(service: Service) -> APIRouter:
    """Their routes on `service`."""
    api = APIRouter(tags=["control"])
    create_body, change_body = msgspec.json.Decoder(CreateBody), msgspec.json.Decoder(ChangeBody)
    settings = service.settings

    @api.post(
        "/experiments", status_code=201, summary="Create an experiment, as a draft",
        responses=answers(Experiment, 403, 409, 422, 503, status=201), openapi_extra=takes(CreateBody, _CREATE),
    )  # fmt: skip
    async def create(request: Request) -> Response:
        """With the fields of an experiment's file. Start it with `/experiments/{name}/start`."""
        _allowed(service)
        body = await decoded(request, create_body)
        if len(body.experiment) > MAX_EXPERIMENT_BYTES:
            raise ApiProblem(422, f"at most {MAX_EXPERIMENT_BYTES} bytes", kind="invalid", field="experiment")

        def made() -> Experiment:
            # JSON is YAML: the same rules and the same messages as for a file.
            (experiment,) = load_experiments(bytes(body.experiment).decode(), _LABEL)[:1]
            return catalogue.create(settings, [experiment], by=body.by, why=body.why)[0]

        try:
            return answered(await run_in_threadpool(made), 201)
        except Conflict:
            raise
        except ConfigError as error:
            raise _at_fault(str(error)) from error

    def change(action: Action, meaning: str) -> None:
        @api.post(
            f"/experiments/{{name}}/{action}", summary=f"{action.capitalize()} an experiment", name=action,
            description=f"{meaning[0].upper()}{meaning[1:]}. All services follow within a second.",
            responses=answers(Experiment, 403, 404, 409, 422, 503), openapi_extra=takes(ChangeBody, _CHANGE),
        )  # fmt: skip
        async def act(request: Request, name: Name) -> Response:
            _allowed(service)
            body = await decoded(request, change_body)
            # Not what the router knows: it follows a little later than an experiment is made.
            if name not in await run_in_threadpool(catalogue.load, settings):
                raise unknown_experiment(service, name)
            made = await run_in_threadpool(
                catalogue.change, settings, name, action, by=body.by, why=body.why, expected_revision=body.revision,
                variant=body.variant,
            )  # fmt: skip
            return answered(made)

    for action, (_, meaning) in ACTIONS.items():
        change(action, meaning)
    return api


def _at_fault(text: str) -> ApiProblem:
    """`experiment: variants[0].share: 0: allowed are …` names the field."""
    _, _, rest = text.partition(f"{_LABEL}: ")
    found = re.match(r"[a-z_][\w.\[\]]*(?=: )", rest)
    return ApiProblem(422, rest or text, kind="invalid", field=f"{_LABEL}.{found[0]}" if found else _LABEL)


def _allowed(service: Service) -> None:
    if not service.settings.token:
        raise ApiProblem(403, "changes need a token: start the service with SLUICE_TOKEN", kind="no-token")
