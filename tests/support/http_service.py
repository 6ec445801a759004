"""The router's HTTP service in a thread of the test, on a real socket, over servers that can be stopped."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import uvicorn
from ports import own_port

from infra import stack as stacks
from infra import tansu
from infra.redis_server import bundled, installed
from infra.redis_server import start as start_redis
from infra.server import Server
from router.api import create_app
from router.serving import Service, build_service
from sluice.adapters.kafka import ensure_topics
from sluice.domain.events import DecisionMade, encode
from sluice.settings import Settings


@dataclass
class Running:
    """A service that answers at `url`."""

    url: str
    service: Service
    http: httpx.Client

    def post(self, path: str, body: Any, **more: Any) -> httpx.Response:
        return self.http.post(path, json=body, **more)

    def get(self, path: str, **more: Any) -> httpx.Response:
        return self.http.get(path, **more)

    def metric(self, name: str, **labels: str) -> float:
        """A sample of `/metrics`; 0 when there is none."""
        wanted = {f'{key}="{value}"' for key, value in labels.items()}
        for line in self.get("/metrics").text.splitlines():
            found, _, value = line.rpartition(" ")
            told, _, rest = found.partition("{")
            if told == name and wanted <= set(rest.rstrip("}").split(",")):
                return float(value)
        return 0.0


@contextmanager
def serving(settings: Settings, **options: Any) -> Iterator[Running]:
    """Start the service, wait until it is ready, end it."""
    service = build_service(settings, **options)
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
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
        while not server.started:
            assert time.monotonic() < deadline, "the service did not start"
            time.sleep(0.005)
        try:
            yield Running(url, service, client)
        finally:
            service.begin_closing()
            server.should_exit = True
            thread.join(60)
            assert not thread.is_alive(), "the service did not end"


class Servers:
    """A broker and a Redis of one's own that can be frozen, killed and brought back."""

    def __init__(self, settings: Settings, mode: str = "embedded") -> None:
        # Ports that are still free when one of them comes back.
        options = stacks.Options(kafka_port=own_port(), redis_port=own_port(), deadline_s=120)
        self.stack = stacks.start(mode, settings, options)
        self.settings = self.stack.settings

    def _find(self, name: str) -> Server:
        return next(server for server in self.stack.servers if (server.name == "redis-server") == (name == "redis"))

    def freeze(self, name: str) -> None:
        os.kill(self._find(name).pid, signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        os.kill(self._find(name).pid, signal.SIGCONT)

    def kill(self, name: str) -> None:
        self._find(name).process.kill()
        self._find(name).process.wait()

    def bring_back(self, name: str) -> None:
        """Empty, at the same address: both embedded servers keep everything in memory."""
        gone = self._find(name)
        state = self.settings.state
        port = int(gone.address.rpartition(":")[2].partition("/")[0])
        if name == "redis":
            back = start_redis(bundled() or installed(), state / "redis", state / "logs" / "redis.log", port,
                               memory="256mb", persist=False)  # fmt: skip
        else:
            back = tansu.start(state / "kafka", state / "logs" / "kafka.log", port, 120)
            ensure_topics(self.settings)
        back.graceful = False
        self.stack.servers[self.stack.servers.index(gone)] = back

    def stop(self) -> None:
        for server in self.stack.servers:
            if server.alive:
                os.kill(server.pid, signal.SIGCONT)
        self.stack.stop()


def decision_of(experiment: str, version: int, shares: dict[str, int]) -> bytes:
    """A record of topic `decisions` that gives `shares`."""
    return encode(
        DecisionMade(
            experiment=experiment, version=version, at_ms=0, offsets={}, config_hash="", config={}, seed=0,
            evidence=(), results=(), sample_ratio_p=None, allocation=shares, allocation_version=version,
            verdict="continue", reasons=(),
        )
    )  # fmt: skip
