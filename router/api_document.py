"""The OpenAPI document: schemas from the structs, by FastAPI's routes. Libraries: FastAPI, msgspec."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from router.api_problems import PROBLEM_TYPE
from sluice.domain.api import Event, Problem

__all__ = ["answers", "install", "takes"]

_REFERENCE = "#/components/schemas/{name}"
_MEANING = {
    400: "The body is not JSON",
    401: "The token is missing or wrong",
    403: "This service has no token, so it changes nothing",
    404: "No such experiment, or model",
    409: "It was changed meanwhile, or cannot go that way from where it is",
    413: "The body is too large",
    415: "The body is not `application/json`",
    422: "A field is not right; `errors` says which",
    503: "A real outage: come back after `Retry-After` seconds",
}
_EVENTS = {
    "impression": _REFERENCE.format(name="ImpressionShown"),
    "outcome": _REFERENCE.format(name="OutcomeObserved"),
}
_types: list[Any] = [Problem, Event]


def takes(kind: type[msgspec.Struct], example: object) -> dict[str, Any]:
    """For `openapi_extra`: a JSON body of `kind`."""
    _types.append(kind)
    schema = {"$ref": _REFERENCE.format(name=kind.__name__)}
    shown = msgspec.json.decode(msgspec.json.encode(_told(example)))
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema, "example": shown}}}}


def answers(
    kind: Any, *problems: int, status: int = 200, body: bool = True, example: object = None
) -> dict[int | str, dict[str, Any]]:
    """For `responses`: JSON of `kind` (a struct), and what problems there may be besides those of every body."""
    _types.append(kind)
    content: dict[str, Any] = {"application/json": {"schema": {"$ref": _REFERENCE.format(name=kind.__name__)}}}
    if example is not None:
        content["application/json"]["example"] = msgspec.to_builtins(example)
    usual = (400, 413, 415) if body else ()
    return {status: {"description": (kind.__doc__ or "").partition("\n")[0], "content": content}} | problem_answers(
        *usual, *problems
    )


def problem_answers(*problems: int) -> dict[int | str, dict[str, Any]]:
    """For `responses`: the problems alone."""
    content = {PROBLEM_TYPE: {"schema": {"$ref": _REFERENCE.format(name="Problem")}}}
    return {status: {"description": _MEANING[status], "content": content} for status in sorted(problems)}


def install(app: FastAPI, *, token: bool) -> None:
    """`app.openapi()` knows the structs and, with `token`, what to send."""

    @cache
    def document() -> dict[str, Any]:
        found = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes,
                            tags=app.openapi_tags)  # fmt: skip
        _, schemas = msgspec.json.schema_components(_types, schema_hook=_hook, ref_template=_REFERENCE)
        _precise(schemas)
        components = found.setdefault("components", {})
        components["schemas"] = {**schemas, **components.get("schemas", {})}
        if token:
            components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
            for path, methods in found["paths"].items():
                for operation in methods.values():
                    if path not in ("/health", "/ready"):
                        operation["security"] = [{"token": []}]
                        operation["responses"] = {**operation["responses"], **{
                            str(status): told for status, told in problem_answers(401).items()
                        }}  # fmt: skip
        return found

    app.openapi = document  # type: ignore[method-assign]


def _told(value: object) -> object:
    """Without what is there by default: an example shows what a person would write."""
    if isinstance(value, msgspec.Struct):
        defaults = {field.name: field.default for field in msgspec.structs.fields(value)}
        return {
            name: _told(found)
            for name in value.__struct_fields__
            if (found := getattr(value, name)) != defaults[name] and found != {}
        }
    if isinstance(value, tuple):
        return [_told(item) for item in value]
    return value


def _precise(schemas: dict[str, Any]) -> None:
    """What msgspec cannot know: the events of a body are checked by themselves."""
    body = schemas.get("EventsBody")
    if body is not None:
        body["properties"]["events"]["items"] = {"$ref": _REFERENCE.format(name="Event")}
    create = schemas.get("CreateBody")
    if create is not None:
        create["properties"]["experiment"] = {"$ref": _REFERENCE.format(name="Experiment")}
    schemas["Event"] = {
        "oneOf": [{"$ref": reference} for reference in _EVENTS.values()],
        "discriminator": {"propertyName": "type", "mapping": _EVENTS},
    }


def _hook(kind: type) -> dict[str, Any]:
    return {"description": "any JSON value"}
