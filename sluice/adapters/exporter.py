"""Serves `/metrics`, `/health` and `/ready` of a process that has no HTTP of its own. Library: prometheus-client.

Few threads, plain HTTP, no token: it tells numbers and names of experiments. It listens on the loopback unless
`SLUICE_METRICS` says otherwise.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client.exposition import ThreadingWSGIServer, make_wsgi_app

from sluice.adapters.metrics import Metrics
from sluice.errors import ConfigError
from sluice.settings import Settings

__all__ = ["exporting"]

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
PATIENCE_S = 10
"""Who says nothing for so long is not waited for"""

Start = Callable[[str, list[tuple[str, str]]], object]


@contextmanager
def exporting(metrics: Metrics, settings: Settings, port: int | None) -> Iterator[str]:
    """Serve `metrics` while the block runs: on the loopback at `port` (0: a free one), else as `SLUICE_METRICS` says.

    Yields the URL, empty where neither is given. Raises ConfigError when the address cannot be had.
    """
    address = _address(settings.metrics, port)
    if address is None:
        yield ""
        return
    server = _listen(*address, metrics)
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    url = f"http://{host}:{server.server_port}/metrics"
    log.info("metrics at %s", url)
    try:
        yield url
    finally:
        server.shutdown()
        server.server_close()


class _Handler(WSGIRequestHandler):
    timeout = PATIENCE_S

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: one line a scrape is of no use."""


def _address(text: str, port: int | None) -> tuple[str, int] | None:
    if port is not None:
        return LOOPBACK, port
    if not text:
        return None
    host, _, number = text.rpartition(":")
    if not number.isdecimal() or int(number) > 65535:
        raise ConfigError(f"SLUICE_METRICS: {text!r}: allowed is host:port, as 127.0.0.1:9100, 0.0.0.0:9100 or [::]:0")
    return host.removeprefix("[").removesuffix("]") or LOOPBACK, int(number)


def _listen(host: str, port: int, metrics: Metrics) -> WSGIServer:
    class Server(ThreadingWSGIServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

    try:
        return make_server(host, port, _app(metrics), Server, _Handler)
    except OSError as error:
        raise ConfigError(f"metrics at {host}:{port}: {(error.strerror or str(error)).lower()}") from error


def _app(metrics: Metrics) -> Callable[[dict[str, Any], Start], Iterable[bytes]]:
    prometheus = make_wsgi_app(metrics.registry)

    def app(environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            found: Iterable[bytes] = prometheus(environ, start)
            return found
        if path == "/health":
            return _say(start, "200 OK", "ok")
        if path == "/ready":
            ready = metrics.is_ready()
            return _say(start, "200 OK" if ready else "503 Service Unavailable", "ready" if ready else "not ready")
        return _say(start, "404 Not Found", "there are /metrics, /health and /ready")

    return app


def _say(start: Start, status: str, words: str) -> Iterable[bytes]:
    body = f"{words}\n".encode()
    start(status, [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))])
    return [body]
