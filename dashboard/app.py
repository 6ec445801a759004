"""The dashboard over HTTP. `create_app(settings)` wires everything. Library: FastAPI.

| module | subject |
|---|---|
| `views` | the JSON contract |
| `records`, `decision_view`, `density`, `timeline`, `board` | what decisions say, kept small; pure |
| `live`, `hub` | counters and servers; events for all viewers |
| `feeds`, `lookups`, `explaining`, `shadows` | Kafka, Redis, `sluice explain` |
| `api`, `guard`, `problems`, `exports` | HTTP |
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from dashboard import problems
from dashboard.api import answer, routes
from dashboard.guard import Guard
from dashboard.service import Service
from sluice.adapters.metrics import CONTENT_TYPE
from sluice.settings import Settings

__all__ = ["LOOPBACK", "create_app"]

STATIC = Path(__file__).parent / "static"
LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})
_REVALIDATE = {"Cache-Control": "no-cache"}


def create_app(
    settings: Settings, *, service: Service | None = None, hosts: Iterable[str] | None = LOOPBACK
) -> FastAPI:
    """hosts: names by which the service may be called; None: any, for what does not listen on a loopback address.

    Raises ConfigError when no broker or no Redis is configured. Neither needs to be there.
    """
    service = service or Service(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await service.start()
        try:
            yield
        finally:
            await service.close()

    app = FastAPI(title="Sluice dashboard", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.service = service
    app.include_router(routes(service))

    @app.api_route("/", methods=["GET", "HEAD"])
    async def page() -> Response:
        return FileResponse(STATIC / "index.html", headers=_REVALIDATE)

    @app.get("/health")
    async def health() -> Response:
        return answer({"status": "ok"})

    @app.get("/ready")
    async def ready() -> Response:
        found = answer({"ready": service.ready, "sources": service.live.sources, "viewers": service.hub.viewers})
        found.status_code = 200 if service.ready else 503
        return found

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(service.metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    app.mount("/static", _Static(directory=STATIC))
    problems.install(app)
    app.add_middleware(GZipMiddleware, minimum_size=2048, compresslevel=4)
    names = None if hosts is None else frozenset(hosts)
    app.add_middleware(Guard, token=settings.token, hosts=names, metrics=service.metrics)
    return app


class _Static(StaticFiles):
    """Browsers ask each time whether a file is still the same: names stay when contents change."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        found = await super().get_response(path, scope)
        found.headers.update(_REVALIDATE)
        return found
