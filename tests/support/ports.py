"""Ports of one's own: for servers that come back at the same address, and for addresses where nobody shall listen."""

from __future__ import annotations

import os
import socket
from itertools import cycle, islice

__all__ = ["own_port"]

# Below those that the kernel hands out by itself (from 32,768 on Linux): no client's end of a connection takes them,
# and no other server that asked for any. Each process of pytest-xdist has a thousand; the bus of a Redis Cluster is at
# its port + 10,000, which is below, too.
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 10
_PORTS = islice(cycle(range(12_000 + 1000 * _WORKER, 13_000 + 1000 * _WORKER)), os.getpid() % 1000, None)


def own_port() -> int:
    """A port that nobody listens on and that this run gives to nobody else."""
    for port in _PORTS:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("unreachable")
