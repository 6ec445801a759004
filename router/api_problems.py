"""Errors as RFC 9457 problem details, and bodies decoded or answered with one. Libraries: msgspec, Starlette."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

import msgspec
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from sluice.domain.api import FieldProblem, Problem
from sluice.errors import ConfigError, Conflict, TransportError

__all__ = ["PROBLEM_TYPE", "ApiProblem", "answered", "as_problem", "decoded", "decoded_json", "install"]
__all__ += ["problem_response"]

PROBLEM_TYPE = "application/problem+json"
RETRY_AFTER_S = 1

T = TypeVar("T")

_TITLES = {
    400: "Not JSON", 401: "Token missing or wrong", 403: "Not allowed", 404: "Not found", 405: "Method not allowed",
    409: "Conflict", 413: "Too large", 415: "Wrong content type", 422: "Not valid", 500: "Internal error",
    503: "Not available",
}  # fmt: skip

_encode = msgspec.json.Encoder().encode


class ApiProblem(Exception):
    """Raise it anywhere behind a route: it becomes the answer."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        kind: str = "",
        field: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """kind: what programs compare, as `unknown-experiment`. field: the one at fault, as `units[0].user_id`."""
        super().__init__(detail)
        errors = () if field is None else (FieldProblem(field=field, detail=detail),)
        self.problem = Problem(
            type=f"urn:sluice:{kind}" if kind else "about:blank", title=_TITLES.get(status, "Error"), status=status,
            detail=detail, errors=errors,
        )  # fmt: skip
        self.headers = dict(headers or {})

    @classmethod
    def away(cls, detail: str) -> ApiProblem:
        """A real outage: come back later."""
        return cls(503, detail, kind="away", headers={"Retry-After": str(RETRY_AFTER_S)})


def answered(value: object, status: int = 200) -> Response:
    """`value` as JSON."""
    return Response(_encode(value), status, media_type="application/json")


async def decoded(request: Request, decoder: msgspec.json.Decoder[T]) -> T:
    """The request's body. Raises ApiProblem: 415 unless it is JSON by its content type, 400 or 422 with the field."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiProblem(415, f"content type {kind[:80] or 'none'!r}: send application/json", kind="content-type")
    try:
        return decoded_json(decoder, await request.body())
    except msgspec.ValidationError as error:
        text, _, path = str(error).partition(" - at `$")
        raise ApiProblem(422, text, kind="invalid", field=path.rstrip("`").lstrip(".")) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ApiProblem(400, str(error), kind="not-json") from None


def decoded_json(decoder: msgspec.json.Decoder[T], data: bytes | msgspec.Raw) -> T:
    """As `decoder` does, but 5.0 is a whole number, as in JSON Schema. Raises what the decoder raises."""
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as error:
        if "got `float`" not in str(error):
            raise
        return decoder.decode(_encode(_whole(msgspec.json.decode(data))))


def _whole(value: object) -> object:
    match value:
        case float() if value.is_integer() and abs(value) < 2**53:
            return int(value)
        case dict():
            return {key: _whole(item) for key, item in value.items()}
        case list():
            return [_whole(item) for item in value]
    return value


def problem_response(error: ApiProblem) -> Response:
    return Response(_encode(error.problem), error.problem.status, error.headers, PROBLEM_TYPE)


def install(app: FastAPI) -> None:
    """Every error of `app` leaves it as a problem."""

    async def answer(request: Request, error: Exception) -> Response:
        found = as_problem(error)
        assert found is not None
        if found.problem.status == 405:
            found.headers["Allow"] = ", ".join(_methods(app, request.url.path)) or found.headers.get("Allow", "")
        return problem_response(found)

    for kind in (ApiProblem, HTTPException, RequestValidationError, TransportError, ConfigError):
        app.add_exception_handler(kind, answer)


def _methods(app: FastAPI, path: str) -> list[str]:
    """All that `path` takes: the framework names those of one route only."""
    for template, methods in app.openapi()["paths"].items():
        if re.fullmatch(re.sub(r"\{[^}]*\}", "[^/]+", template), path):
            return sorted(method.upper() for method in methods)
    return []


def as_problem(error: Exception) -> ApiProblem | None:
    """What the caller is told of `error`; None when it is none that is raised on purpose."""
    match error:
        case ApiProblem():
            return error
        case HTTPException():
            return ApiProblem(error.status_code, str(error.detail), headers=error.headers)
        case RequestValidationError():
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"][1:])
            return ApiProblem(422, str(first["msg"]), kind="invalid", field=field)
        case TransportError():
            return ApiProblem.away(str(error))
        case Conflict():
            return ApiProblem(409, str(error), kind="conflict")
        case ConfigError():
            return ApiProblem(422, str(error), kind="invalid")
    return None
