"""What the page asks for. The answers are the structs of `dashboard.views`. Library: FastAPI."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

import anyio.to_thread
import msgspec
from fastapi import APIRouter, Header, Path, Query
from starlette.responses import Response, StreamingResponse

from dashboard.board import Known
from dashboard.decision_view import decision_line, decision_view
from dashboard.exports import attachment, series_csv
from dashboard.hub import Viewer
from dashboard.live import now_ms
from dashboard.lookups import Found, Span
from dashboard.problems import NotFound
from dashboard.service import Service
from dashboard.shadows import Shadows
from dashboard.timeline import MAX_POINTS
from dashboard.views import DecisionLine, DecisionLog, DecisionView, Detail, Overview

__all__ = ["routes"]

Name = Annotated[str, Path(min_length=1, max_length=200)]
Version = Annotated[int, Path(ge=0, le=2**53)]
MAX_LINES = 200


def answer(body: object) -> Response:
    return Response(msgspec.json.encode(body), media_type="application/json", headers={"Cache-Control": "no-store"})


def routes(service: Service) -> APIRouter:
    """All under /api. Names may hold slashes, so the longest paths come first."""
    api = APIRouter(prefix="/api")
    reading = Reading(service)

    @api.get("/experiments")
    async def overview() -> Response:
        board, live = service.board, service.live
        return answer(
            Overview(
                experiments=board.entries(), now_ms=now_ms(), server=service.server, sources=live.sources,
                skipped=board.skipped,
            )
        )  # fmt: skip

    @api.get("/models")
    async def models() -> Response:
        return answer({"lives": service.lives.views(), "now_ms": now_ms()})

    @api.get("/stream")
    async def stream(
        experiment: Annotated[str | None, Query(max_length=200)] = None,
        last_event_id: Annotated[str, Header(max_length=100)] = "",
    ) -> Response:
        viewer = service.hub.join(experiment, last_event_id, now_ms())
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(_streamed(service, viewer), media_type="text/event-stream", headers=headers)

    @api.get("/experiments/{name:path}/decisions/{version}/explain")
    async def explain(name: Name, version: Version) -> Response:
        await reading.decision(name, version)  # unknown ones are known without a child
        return answer(await service.explainer.explain(name, version))

    @api.get("/experiments/{name:path}/decisions/{version}")
    async def decision(name: Name, version: Version) -> Response:
        return answer(await reading.decision(name, version))

    @api.get("/experiments/{name:path}/decisions")
    async def decisions(
        name: Name,
        before: Annotated[int | None, Query(ge=0, le=2**53)] = None,
        limit: Annotated[int, Query(ge=1, le=MAX_LINES)] = 50,
    ) -> Response:
        return answer(await reading.log(name, before, limit))

    @api.get("/experiments/{name:path}/series")
    async def series(name: Name, until: Annotated[int | None, Query(ge=0, le=2**53)] = None) -> Response:
        return answer(reading.known(name).timeline.series(until=until, true_rates=service.live.true_rates(name)))

    @api.get("/experiments/{name:path}/export.csv")
    async def as_csv(name: Name) -> Response:
        body = series_csv(_all_points(service, reading.known(name)))
        return _file(body, "text/csv; charset=utf-8", attachment(name, "csv"))

    @api.get("/experiments/{name:path}/export.json")
    async def as_json(name: Name) -> Response:
        known = reading.known(name)
        body = {
            "name": name, "experiment": known.configured, "decision": known.view,
            "series": _all_points(service, known), "truth": service.live.truths.get(name),
        }  # fmt: skip
        return _file(msgspec.json.encode(body), "application/json", attachment(name, "json"))

    @api.get("/experiments/{name:path}")
    async def detail(name: Name) -> Response:
        return answer(await reading.detail(name))

    return api


class Reading:
    """Answers that need more than memory: records of the log, sums of shadows."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._shadows = Shadows(service.settings)
        self._limit = anyio.CapacityLimiter(4)

    def known(self, name: str) -> Known:
        """Raises NotFound."""
        found = self._service.board.find(name)
        if found is None:
            names = self._service.board.names()
            there = f"there are: {', '.join(names[:20])}" if names else "there is none yet"
            raise NotFound(f"no experiment {name!r}; {there}")
        return found

    async def detail(self, name: str) -> Detail:
        known, live = self.known(name), self._service.live
        has_shadow = bool((known.configured or {}).get("shadow"))
        shadow = await anyio.to_thread.run_sync(self._shadows.of, name, limiter=self._limit) if has_shadow else None
        return Detail(
            name=name,
            entry=known.entry(),
            experiment=known.configured,
            state=known.state,
            decision=known.view,
            series=known.timeline.series(true_rates=live.true_rates(name)),
            counters=live.counters(name, known.primary, known.variants),
            shadow=shadow,
            truth=live.truths.get(name),
            lag=live.lag(),
            sources=live.sources,
            now_ms=now_ms(),
            server=self._service.server,
        )

    async def decision(self, name: str, version: int) -> DecisionView:
        """Raises NotFound, TransportError, LogTruncated."""
        known = self.known(name)
        if known.last is not None and known.last.recorded.version == version and known.view is not None:
            return known.view
        span = self._span(known, version, version + 1)
        found: Found | None = None
        if span is not None:
            read = self._service.lookups.decision
            found = await anyio.to_thread.run_sync(read, name, version, span, limiter=self._limit)
        if found is None:
            last = known.timeline.last_version
            there = "it has none yet" if last is None else f"it has {known.timeline.first_version} to {last}"
            raise NotFound(f"experiment {name!r} has no decision {version}; {there}")
        return decision_view(found.recorded, found.wall_ms, known.moves)

    async def log(self, name: str, before: int | None, limit: int) -> DecisionLog:
        """Raises NotFound, TransportError, LogTruncated."""
        known = self.known(name)
        first, last = known.timeline.first_version, known.timeline.last_version
        if first is None or last is None:
            return DecisionLog(decisions=(), more=False)
        stop = min(last + 1, last + 1 if before is None else before)
        start = max(first, stop - limit)
        lines = await self._lines(known, start, stop) if start < stop else []
        return DecisionLog(decisions=tuple(reversed(lines)), more=stop > first and start > first)

    async def _lines(self, known: Known, start: int, stop: int) -> list[DecisionLine]:
        if known.lines and known.lines[0].version <= start:
            return [line for line in known.lines if start <= line.version < stop]
        span = self._span(known, start, stop)
        if span is None:
            return []
        read = self._service.lookups.decisions
        found = await anyio.to_thread.run_sync(read, known.name, start, stop, span, limiter=self._limit)
        return [decision_line(one.recorded, one.wall_ms) for one in found]

    def _span(self, known: Known, first: int, before: int) -> Span | None:
        """Where records with first ≤ version < before lie; None when they cannot be."""
        timeline = known.timeline
        if timeline.first_version is None or before <= timeline.first_version or first > (timeline.last_version or 0):
            return None
        return Span(timeline.partition, *timeline.bracket(first, before - 1))


async def _streamed(service: Service, viewer: Viewer) -> AsyncIterator[bytes]:
    try:
        async for data in viewer.stream():
            yield data
    finally:
        service.hub.leave(viewer)


def _all_points(service: Service, known: Known) -> Any:
    return known.timeline.series(true_rates=service.live.true_rates(known.name), points=MAX_POINTS)


def _file(body: str | bytes, media_type: str, disposition: str) -> Response:
    headers = {"Content-Disposition": disposition, "Cache-Control": "no-store"}
    return Response(body, media_type=media_type, headers=headers)
