"""What every request passes: its size, its token, the clock. Plain ASGI, so that it costs next to nothing."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Awaitable, Callable, Mapping
from time import perf_counter

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from router.api_problems import ApiProblem, as_problem, problem_response
from sluice.adapters.metrics import Metrics

__all__ = ["OPEN_PATHS", "Endpoint", "Gate"]

Endpoint = Callable[[Request], Awaitable[Response]]

log = logging.getLogger(__name__)

OPEN_PATHS = ("/health", "/ready")
"""Need no token: whoever restarts the service has none"""


class Gate:
    """Refuses what is too large or has no right to ask, and measures the rest.

    `direct` endpoints are called here: routing and dependency injection, which they do not use, would be half of what
    a request costs. The application knows them as well, and documents them.
    """

    def __init__(
        self, app: ASGIApp, *, metrics: Metrics, direct: Mapping[tuple[str, str], Endpoint], token: str, max_bytes: int
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._direct = direct
        self._expected = token.encode()
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = perf_counter()
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        endpoint = self._direct.get((scope["method"], scope["path"]))
        try:
            limited = self._checked(scope, receive)
            if endpoint is None:
                await self._app(scope, limited, sending)
            else:
                response = await endpoint(Request(scope, limited))
                await response(scope, limited, sending)
        except ClientDisconnect:
            return  # nobody is left to answer
        except Exception as error:
            problem = as_problem(error)
            if problem is None:
                log.exception("%s %s failed", scope["method"], scope["path"])
                problem = ApiProblem(500, f"an error of the service: {type(error).__name__}")
            if status:
                raise  # too late to say so; the server closes the connection
            await problem_response(problem)(scope, receive, sending)
        finally:
            route = scope["path"] if endpoint is not None else getattr(scope.get("route"), "path", "other")
            self._metrics.count("sluice_http_requests_total", route, str(status))
            self._metrics.observe("sluice_http_request_seconds", perf_counter() - begun, route)

    def _checked(self, scope: Scope, receive: Receive) -> Receive:
        """`receive`, limited where the length was not announced. Raises ApiProblem."""
        token = length = b""
        chunked = False
        for name, value in scope["headers"]:
            if name == b"authorization":
                token = value
            elif name == b"content-length":
                length = value
            elif name == b"transfer-encoding":
                chunked = True
        scheme, _, given = token.partition(b" ")
        known = scheme.lower() == b"bearer" and hmac.compare_digest(given, self._expected)
        if self._expected and scope["path"] not in OPEN_PATHS and not known:
            raise ApiProblem(
                401, "send `Authorization: Bearer …` with the token of the service", kind="token",
                headers={"WWW-Authenticate": "Bearer"},
            )  # fmt: skip
        if length.isdigit() and int(length[:20]) > self._max_bytes:
            raise self._too_large()
        return self._limited(receive) if chunked else receive

    def _limited(self, receive: Receive) -> Receive:
        seen = 0

        async def limited() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._max_bytes:
                raise self._too_large()
            return message

        return limited

    def _too_large(self) -> ApiProblem:
        return ApiProblem(413, f"a body has at most {self._max_bytes} bytes", kind="body-size")
