"""`sluice bench route` runs and says what it promises. Its figures are looked at by people, not asserted."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from router.bench_load import at_most, at_rate
from sluice.errors import TransportError

KEYS = {"assign_p99_ms", "assign_rps_ratio_to_echo", "rank_p99_ms", "batch_units_per_second", "allocation_p99_ms"}


@pytest.mark.slow
def test_bench_route_prints_the_figures_of_one_run(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sluice", "bench", "route", "--seconds", "0.5", "--rounds", "1", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result.keys() >= KEYS
    assert all(result[key] > 0 for key in KEYS)
    assert not list(tmp_path.iterdir()), "nothing is left in the working directory"


class Server:
    """Answers every request with one status; counts them."""

    def __init__(self, status: bytes) -> None:
        self.status = status
        self.requests = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]))
                self.requests += 1
                writer.write(b"HTTP/1.1 " + self.status + b"\r\nContent-Length: 2\r\n\r\n{}")
        except asyncio.IncompleteReadError:
            writer.close()


async def against(server: Server, rate: float | None) -> tuple[int, float]:
    listening = await asyncio.start_server(server, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/x"
    body = lambda number: b"%d" % number  # noqa: E731
    load = await (at_most(url, body, seconds=0.2) if rate is None else at_rate(url, body, per_second=rate, seconds=0.5))
    listening.close()
    return len(load.latencies_ms), load.quantile(0.99)


def test_the_load_is_what_was_asked_for() -> None:
    server = Server(b"200 OK")
    answered, slow_ms = asyncio.run(against(server, 300))
    assert answered == server.requests == 150
    assert slow_ms > 0
    server = Server(b"202 Accepted")
    answered, _ = asyncio.run(against(server, None))
    assert answered == server.requests > 32


@pytest.mark.parametrize("rate", [100, None])
def test_answers_that_are_refusals_are_no_answers(rate: float | None) -> None:
    with pytest.raises(TransportError, match="answered with 503"):
        asyncio.run(against(Server(b"503 Away"), rate))
