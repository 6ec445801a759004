"""A load generator for one address on this machine: at a fixed rate, or as fast as answers come. Library: asyncio.

At a fixed rate a request counts from when it was due, not from when a connection was free for it: a server that stalls
is charged for everybody who came meanwhile.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, cast
from urllib.parse import urlsplit

from sluice.errors import TransportError

__all__ = ["Load", "at_most", "at_rate"]

CONNECTIONS = 32

Body = Callable[[int], bytes]
"""Number of a request → its JSON"""


class Load(NamedTuple):
    """What came of it."""

    per_second: float
    latencies_ms: list[float]
    """Of every request, ascending"""

    def quantile(self, share: float) -> float:
        """Milliseconds within which `share` of the requests were answered"""
        return self.latencies_ms[min(len(self.latencies_ms) - 1, int(share * len(self.latencies_ms)))]


class _Connection(asyncio.Protocol):
    """One request at a time; the answer's length must be announced."""

    def __init__(self, answered: Callable[[_Connection, int], None]) -> None:
        self._answered = answered
        self._received = b""
        self.begun = 0.0
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's does not inherit from it

    def send(self, request: bytes, begun: float) -> None:
        self.begun = begun
        assert self.transport is not None
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found:
            return
        _, _, length = head.lower().partition(b"content-length:")
        if len(body) >= int(length.partition(b"\r\n")[0]):
            status = int(self._received[9:12])
            self._received = b""
            self._answered(self, status)


async def at_rate(url: str, body: Body, *, per_second: float, seconds: float) -> Load:
    """Requests that come at even distances. Raises TransportError when one is not answered with 2xx."""
    wanted = int(per_second * seconds)
    run = _Run(url, body)
    await run.connect()
    start = time.perf_counter()
    for number in range(wanted):
        due = start + number / per_second
        wait_s = due - time.perf_counter()
        if wait_s > 0:
            await asyncio.sleep(wait_s)
        run.request(due)
    return await run.end(wanted, start)


async def at_most(url: str, body: Body, *, seconds: float) -> Load:
    """As many as are answered, with `CONNECTIONS` at work. Raises TransportError as `at_rate`."""
    run = _Run(url, body)
    await run.connect()
    start = time.perf_counter()
    run.until = start + seconds
    for _ in range(CONNECTIONS):
        run.request(time.perf_counter())
    await asyncio.sleep(seconds)
    return await run.end(None, start)


class _Run:
    def __init__(self, url: str, body: Body) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._head = f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
        self._body = body
        self._free: list[_Connection] = []
        self._all: list[_Connection] = []
        self._due: deque[float] = deque()
        self._sent = 0
        self._bad: int | None = None
        self._latencies: list[float] = []
        self.until = 0.0

    async def connect(self) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(CONNECTIONS):
            _, connection = await loop.create_connection(lambda: _Connection(self._answered), self._host, self._port)
            self._all.append(connection)
        self._free = list(self._all)

    def request(self, due: float) -> None:
        """Send one as soon as a connection is free."""
        if not self._free:
            self._due.append(due)
            return
        body = self._body(self._sent)
        self._sent += 1
        self._free.pop().send(f"{self._head}Content-Length: {len(body)}\r\n\r\n".encode() + body, due)

    async def end(self, wanted: int | None, start: float) -> Load:
        """Wait until all that were sent are answered, and close."""
        deadline = time.perf_counter() + 10
        while len(self._latencies) < (self._sent + len(self._due) if wanted is None else wanted) and not self._bad:
            if time.perf_counter() > deadline:
                raise TransportError(f"{self._sent - len(self._latencies)} requests were not answered within 10 s")
            await asyncio.sleep(0.005)
        took_s = time.perf_counter() - start
        for connection in self._all:
            if connection.transport is not None:
                connection.transport.close()
        if self._bad:
            raise TransportError(f"a request was answered with {self._bad}")
        return Load(len(self._latencies) / took_s, sorted(1000 * latency for latency in self._latencies))

    def _answered(self, connection: _Connection, status: int) -> None:
        now = time.perf_counter()
        self._latencies.append(now - connection.begun)
        if not 200 <= status < 300:
            self._bad = status
        self._free.append(connection)
        if self._due:
            self.request(self._due.popleft())
        elif now < self.until:
            self.request(now)
