"""What there is to read: experiments, decisions, counters, health, metrics. Libraries: FastAPI, prometheus-client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated

import msgspec
from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import StreamingResponse

from router.api_document import answers, problem_answers
from router.api_problems import ApiProblem, answered
from router.decisions import Posted
from router.serving import Service
from sluice.adapters.metrics import CONTENT_TYPE
from sluice.domain.api import DecisionsAnswer, ExperimentAnswer, ExperimentsAnswer, HealthAnswer, ReadyAnswer
from sluice.domain.experiment import Experiment, config_hash
from sluice.live import ExperimentCounts, LiveCounters

__all__ = ["routes", "unknown_experiment"]

MAX_STREAMS = 100
PAUSE_S = 15.0
"""A stream says something at least so often, so that whoever stands between does not close it"""

Name = Annotated[str, Path(max_length=160, examples=["demo"])]
Wanted = Annotated[str | None, Query(max_length=64, description="Only this experiment")]


def routes(service: Service) -> APIRouter:
    """Their routes on `service`."""
    api = APIRouter(tags=["reading"])

    @api.get(
        "/experiments", summary="The experiments that are served", responses=answers(ExperimentsAnswer, body=False)
    )
    async def experiments() -> Response:
        """With every default filled in, and the allocation in use."""
        return answered(ExperimentsAnswer(experiments=tuple(_experiments(service))))

    @api.get("/experiments/{name}", summary="One experiment", responses=answers(ExperimentAnswer, 404, 422, body=False))
    async def experiment(name: Name) -> Response:
        """As in the list."""
        found = next((one for one in _experiments(service) if one.experiment.name == name), None)
        if found is None:
            raise unknown_experiment(service, name)
        return answered(found)

    @api.get("/decisions", summary="The latest decisions", responses=answers(DecisionsAnswer, 422, body=False))
    async def decisions(experiment: Wanted = None) -> Response:
        """Of every experiment among the latest records of topic `decisions`, as they stand there."""
        latest = service.board.latest
        names = [name for name in sorted(latest) if experiment in (None, name)]
        return answered(DecisionsAnswer(decisions=tuple(msgspec.Raw(latest[name].record) for name in names)))

    _streams(api, service)
    _counters(api, service)
    _states(api, service)
    return api


def unknown_experiment(service: Service, name: str) -> ApiProblem:
    """The 404 that says which there are."""
    known = ", ".join(sorted(experiment.name for experiment in service.router.experiments)) or "none yet"
    return ApiProblem(404, f"experiment {name[:160]!r}: there are: {known}", kind="unknown-experiment", field="name")


def _streams(api: APIRouter, service: Service) -> None:
    streams = 0

    @api.get(
        "/decisions/stream", summary="Decisions as they are made (server-sent events)",
        response_class=StreamingResponse, responses={
            200: {"description": "`event: decision`, its `id` is the offset on the topic",
                  "content": {"text/event-stream": {"schema": {"type": "string"}}}},
            **problem_answers(422, 503)},
    )  # fmt: skip
    async def stream(request: Request, experiment: Wanted = None) -> Response:
        """From now on, or after the one that the header `Last-Event-ID` names, as browsers send it when they reconnect.

        Decisions older than those that are kept (the latest thousand) are left out: a comment says so.
        """
        if streams >= MAX_STREAMS:
            raise ApiProblem.away(f"{MAX_STREAMS} streams are open")
        last = request.headers.get("last-event-id", "")
        if last and not (last.isdecimal() and len(last) < 19):
            raise ApiProblem(422, "the id of an event is a whole number", kind="invalid", field="Last-Event-ID")
        lines = _lines(service, int(last) if last else service.board.end, experiment)
        return StreamingResponse(counted(lines), media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    async def counted(lines: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        nonlocal streams
        streams += 1
        try:
            async for line in lines:
                yield line
        finally:
            streams -= 1


async def _lines(service: Service, offset: int, experiment: str | None) -> AsyncIterator[bytes]:
    kept = service.board.after(-1)
    yield b"retry: 1000\n\n"
    if kept and offset + 1 < kept[0].offset:
        yield b": older decisions are no longer kept here\n\n"
    while not service.closing.is_set():
        fresh: list[Posted] = service.board.after(offset)
        for posted in fresh:
            offset = posted.offset
            if experiment in (None, posted.experiment):
                yield b"id: %d\nevent: decision\ndata: %b\n\n" % (posted.offset, posted.record)
        if not fresh:
            await service.board.change(PAUSE_S)
            if not service.board.after(offset):
                yield b": waiting\n\n"


def _counters(api: APIRouter, service: Service) -> None:
    # One thread: the counters are for people and dashboards, and must not take what traffic needs.
    thread = ThreadPoolExecutor(1, thread_name_prefix="router-counters")
    readers: list[LiveCounters] = []
    known: dict[str, Experiment] = {}

    def read(name: str) -> ExperimentCounts | None:
        known.clear()
        known.update({experiment.name: experiment for experiment in service.router.experiments})
        if not readers:
            readers.append(LiveCounters(service.settings, known=known))
        return readers[0].snapshot().experiment(name)

    @api.get(
        "/counters/{experiment}", summary="The live counters",
        responses=answers(ExperimentCounts, 404, 422, 503, body=False),
    )  # fmt: skip
    async def counters(experiment: Name) -> Response:
        """Exact totals of an experiment, or of a segment of it (`demo@history=new`)."""
        if service.breaker.open:
            raise ApiProblem.away("Redis is away")
        found = await asyncio.get_running_loop().run_in_executor(thread, read, experiment)
        if found is None:
            raise unknown_experiment(service, experiment)
        return answered(found)


def _states(api: APIRouter, service: Service) -> None:
    @api.get("/health", summary="Alive", responses=answers(HealthAnswer, body=False))
    async def health() -> Response:
        """Needs no token."""
        return answered(HealthAnswer())

    @api.get("/ready", summary="Ready for traffic", responses={
        **answers(ReadyAnswer, body=False),
        503: {**answers(ReadyAnswer, body=False)[200], "description": "The service is closing"}})  # fmt: skip
    async def ready() -> Response:
        """Ready also while Redis or Kafka are away, since requests are answered then. Needs no token."""
        closing = service.closing.is_set()
        answer = ReadyAnswer(
            status="closing" if closing else "ready", redis="away" if service.breaker.open else "ok",
            kafka="away" if service.courier.spooling else "ok", spool_bytes=service.spool.bytes,
            experiments=len(service.router.experiments), models=service.scoring.versions(),
            unserved=service.scoring.unserved(),
        )  # fmt: skip
        return answered(answer, 503 if closing else 200)

    @api.get("/metrics", summary="Metrics for Prometheus", responses={
        200: {"description": "Text format", "content": {"text/plain": {"schema": {"type": "string"}}}}})  # fmt: skip
    async def metrics() -> Response:
        """Names, kinds, units and labels are in the documentation."""
        return Response(service.metrics.text(), headers={"Content-Type": CONTENT_TYPE})


def _experiments(service: Service) -> list[ExperimentAnswer]:
    found = sorted(service.in_use(), key=lambda told: told[0].name)
    return [
        ExperimentAnswer(
            experiment=experiment, config_hash=config_hash(experiment), allocation=shares, allocation_version=version
        )
        for experiment, version, shares in found
    ]
