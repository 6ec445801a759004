"""The dashboard in a thread of the test, on a real socket, and viewers of its stream."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import msgspec
import uvicorn
from ports import own_port

from dashboard.app import create_app
from dashboard.service import Service
from sluice.adapters.kafka import producer
from sluice.names import DECISIONS
from sluice.settings import Settings


@contextmanager
def serving(settings: Settings, *, port: int = 0, ready: bool = True) -> Iterator[httpx.Client]:
    """A client of a running dashboard. ready: wait until it has read everything."""
    service = Service(settings)
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(("127.0.0.1", port or own_port()))
    listening.listen(128)
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    app = create_app(settings, service=service)
    server = uvicorn.Server(
        uvicorn.Config(app, access_log=False, log_config=None, lifespan="on", timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    headers = {"Authorization": f"Bearer {settings.token}"} if settings.token else {}
    with httpx.Client(base_url=url, headers=headers, timeout=60) as client:
        deadline = time.monotonic() + 60
        while not server.started or (ready and client.get("/ready").status_code != 200):
            assert time.monotonic() < deadline, "the dashboard did not start"
            time.sleep(0.01)
        try:
            yield client
        finally:
            service.hub.close()
            server.should_exit = True
            thread.join(60)
            assert not thread.is_alive(), "the dashboard did not end"


class Watcher:
    """Reads the stream in a thread of its own."""

    def __init__(self, client: httpx.Client, experiment: str = "demo", last_id: str = "") -> None:
        self.events: list[tuple[str, str, dict[str, Any], float]] = []
        """(id, kind, body, when it came)"""
        self._path = f"/api/stream?experiment={experiment}"
        self._headers = {"Last-Event-ID": last_id} if last_id else {}
        self._url, self._headers = client.base_url, {**client.headers, **self._headers}
        self.ended = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        fields: dict[str, str] = {}
        try:
            with (
                httpx.Client(base_url=self._url, headers=self._headers, timeout=60) as client,
                client.stream("GET", self._path) as answer,
            ):
                for line in answer.iter_lines():
                    if line and not line.startswith(":"):
                        name, _, value = line.partition(": ")
                        fields[name] = value
                    elif fields:
                        body = msgspec.json.decode(fields["data"])
                        self.events.append((fields["id"], fields["event"], body, time.time()))
                        fields = {}
        except httpx.HTTPError:
            pass
        finally:
            self.ended.set()

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [body for _, found, body, _ in list(self.events) if found == kind]

    def has(self, version: int) -> bool:
        return version in self.versions

    @property
    def versions(self) -> list[int]:
        """Of all points that came, in order."""
        return [version for body in self.of("decision") for version in body["points"]["version"]]


def writer(settings: Settings, topic: str = DECISIONS) -> Callable[..., None]:
    """`write(record, …)` puts records on the topic and returns when the broker holds them."""
    out = producer(settings, {"linger.ms": 0})

    def write(*records: bytes | None, experiment: str = "demo") -> None:
        for record in records:
            out.produce(topic, key=experiment, value=record)
        assert out.flush(10) == 0

    return write
