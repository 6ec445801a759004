"""Errors as the page gets them: `{"error": "one clear sentence"}`. Libraries: FastAPI, msgspec."""

from __future__ import annotations

import logging

import msgspec
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from dashboard.explaining import ExplainFailed, ExplainTooSlow, TooManyExplains
from dashboard.hub import TooManyViewers
from sluice.errors import LogTruncated, SluiceError, TransportError

__all__ = ["NotFound", "install", "problem"]

log = logging.getLogger(__name__)


class NotFound(SluiceError):
    """There is no such experiment or decision."""


_STATUS: dict[type[Exception], int] = {
    NotFound: 404,
    LogTruncated: 410,
    TooManyExplains: 429,
    TooManyViewers: 503,
    ExplainFailed: 502,
    TransportError: 503,
    ExplainTooSlow: 504,
}


def problem(status: int, sentence: str) -> Response:
    return Response(
        msgspec.json.encode({"error": sentence}), status, media_type="application/json",
        headers={"Cache-Control": "no-store"},
    )  # fmt: skip


def install(app: FastAPI) -> None:
    """Let every error be told as one."""
    app.add_exception_handler(SluiceError, _ours)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _unexpected)


def _ours(_: Request, error: Exception) -> Response:
    return problem(next((status for kind, status in _STATUS.items() if isinstance(error, kind)), 500), str(error))


def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return problem(error.status_code, f"{request.method} {request.url.path}: {error.detail}")


def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return problem(400, f"{'.'.join(map(str, first['loc'][1:]))}: {first['msg']}")


def _unexpected(request: Request, error: Exception) -> Response:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return problem(500, f"an error of the service: {type(error).__name__}")
