"""What every request passes: the host it names, the token, the clock, and the headers of every answer. Plain ASGI.

With a token, scripts send `Authorization: Bearer …`; a person opens `/?token=…` once or types it into a form, and the
browser then keeps a cookie that proves it without holding it.
"""

from __future__ import annotations

import hashlib
import hmac
from time import perf_counter
from urllib.parse import parse_qs

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dashboard.problems import problem
from sluice.adapters.metrics import Metrics

__all__ = ["COOKIE", "HEADERS", "Guard"]

COOKIE = "sluice_dashboard"
MAX_FORM_BYTES = 4096
OPEN_PATHS = ("/health", "/ready")
"""Need no token: whoever restarts the service has none"""
STREAM = "/api/stream"
"""Lasts as long as somebody looks, which says nothing about how quick we are"""
_DAY_S = 24 * 3600

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; font-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}

_FORM = """<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width"><title>Sluice</title></head><body><main><h1>Sluice</h1>
<form method="post" action="/login"><p><label>Token <input name="token" type="password" autofocus required></label>
<button>Open the dashboard</button></p></form><p>It is what SLUICE_TOKEN says where the dashboard runs.</p>
</main></body></html>"""


class Guard:
    """Refuses requests without the token, and those that a foreign page lets a browser send to a loopback address."""

    def __init__(self, app: ASGIApp, *, token: str, hosts: frozenset[str] | None, metrics: Metrics) -> None:
        """hosts: names by which the service may be called, without ports; None: any."""
        self._app = app
        self._metrics = metrics
        self._token = token.encode()
        self._proof = hmac.new(self._token, b"sluice dashboard", hashlib.sha256).hexdigest()
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        began_s, status = perf_counter(), 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        request = Request(scope, receive)
        answer = self._foreign(request) or await self._login(request)
        try:
            await (answer or self._app)(scope, receive, sending)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.count("sluice_http_requests_total", route, str(status))
            if route != STREAM:
                self._metrics.observe("sluice_http_request_seconds", perf_counter() - began_s, route)

    def _foreign(self, request: Request) -> Response | None:
        """A name of its own that a foreign page lets point to 127.0.0.1 would make that page ours (DNS rebinding)."""
        if self._hosts is None or _name(request.headers.get("host", "")) in self._hosts:
            return None
        return problem(421, f"this service answers to {', '.join(sorted(self._hosts))} only")

    async def _login(self, request: Request) -> Response | None:
        """An answer of our own, or None when the application may answer."""
        path = request.url.path
        if path == "/login":
            return await self._form(request)
        if not self._token or path in OPEN_PATHS:
            return None
        if path == "/" and "token" in request.query_params:
            return self._admitted(request.query_params["token"].encode())
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(given.encode(), self._token):
            return None
        if hmac.compare_digest(request.cookies.get(COOKIE, "").encode(), self._proof.encode()):
            return None
        if path == "/":
            return HTMLResponse(_FORM, status_code=401)
        return problem(401, "open `/` and give the token, or send `Authorization: Bearer …`")

    async def _form(self, request: Request) -> Response:
        if request.method != "POST" or not self._token:
            return RedirectResponse("/", status_code=303)
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > MAX_FORM_BYTES:
                return problem(413, f"a form has at most {MAX_FORM_BYTES} bytes")
        given = parse_qs(body.decode(errors="replace")).get("token", [""])[0]
        return self._admitted(given.encode())

    def _admitted(self, given: bytes) -> Response:
        if not hmac.compare_digest(given, self._token):
            return HTMLResponse(_FORM, status_code=401)
        answer = RedirectResponse("/", status_code=303)
        answer.set_cookie(COOKIE, self._proof, max_age=_DAY_S, httponly=True, samesite="strict")
        return answer


def _name(host: str) -> str:
    """`[::1]:8050` → `[::1]`"""
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdigit() and (not name.startswith("[") or name.endswith("]")) else host).lower()
