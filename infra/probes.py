"""Whether the server at an address answers, and is the one we started: another may have taken its port."""

from __future__ import annotations

import socket
from pathlib import Path

from sluice.adapters.kafka import cluster_id
from sluice.adapters.redis import server_info
from sluice.errors import TransportError
from sluice.settings import Settings

__all__ = ["broker_answers", "redis_answers"]

TIMEOUT_S = 1.0


def broker_answers(address: str, cluster: str) -> bool:
    """cluster: the id it was started with."""
    if not _listens(address):
        return False
    try:
        return cluster_id(Settings(kafka=address), TIMEOUT_S) == cluster
    except TransportError:
        return False


def redis_answers(url: str, config: Path) -> bool:
    """config: the file it was started with."""
    try:
        return server_info(Settings(redis=url)).get("config_file") == str(config)
    except TransportError:
        return False


def _listens(address: str) -> bool:
    # A Kafka client that meets a closed port backs off; a bare connect tells at once.
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), TIMEOUT_S):
            return True
    except OSError:
        return False
