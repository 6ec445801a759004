"""The router over HTTP. `create_app(settings)` wires everything. Library: FastAPI.

| module | subject |
|---|---|
| `api_assign` | `/assign`, `/rank` |
| `api_events` | `/events` |
| `api_reading` | experiments, decisions, counters, health, metrics |
| `api_drift` | drift and lives of models |
| `api_control` | experiments are created, started, paused, … |
| `api_gate`, `api_problems` | sizes, token, errors |
| `api_document`, `api_page` | OpenAPI, and the page that shows it |
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute

from router import api_assign, api_control, api_document, api_drift, api_events, api_page, api_problems, api_reading
from router.api_gate import Endpoint, Gate
from router.serving import Service, build_service
from sluice.domain.api import MAX_BODY_BYTES
from sluice.settings import Settings

__all__ = ["create_app"]

DIRECT = ("/assign", "/rank", "/events")
"""Paths of the busiest routes"""

_ABOUT = """Assigns units to variants, ranks with what the variant is, and takes in what was shown and what followed.

Errors are problem details (RFC 9457). Bodies are JSON of at most 1 MiB."""


def create_app(settings: Settings, *, service: Service | None = None, max_body_bytes: int = MAX_BODY_BYTES) -> FastAPI:
    """The application; it closes `service`, or the one it builds, when it ends.

    Raises TransportError when Redis or the broker is away, ConfigError for what is not configured right.
    """
    service = service or build_service(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        try:
            yield
        finally:
            service.close()

    app = FastAPI(
        title="Sluice router", version=version("sluice-experiments"), description=_ABOUT, lifespan=lifespan,
        docs_url=None, redoc_url=None, openapi_url="/openapi.json",
    )  # fmt: skip
    app.state.service = service
    parts = [part.routes(service) for part in (api_assign, api_events, api_reading, api_drift, api_control)]
    for part in parts:
        app.include_router(part)
    api_problems.install(app)
    api_document.install(app, token=bool(settings.token))
    api_page.install(app)
    app.add_middleware(
        Gate, metrics=service.metrics, direct=_direct(parts), token=settings.token, max_bytes=max_body_bytes
    )
    return app


def _direct(parts: Iterable[APIRouter]) -> dict[tuple[str, str], Endpoint]:
    routes = [route for part in parts for route in part.routes if isinstance(route, APIRoute)]
    return {(method, r.path): r.endpoint for r in routes if r.path in DIRECT for method in r.methods or ()}
