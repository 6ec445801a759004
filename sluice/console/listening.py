"""The socket that a service listens on, made before anything else is, so that a taken port is one clear line."""

from __future__ import annotations

import socket

from sluice.errors import ConfigError

__all__ = ["listen"]

BACKLOG = 2048


def listen(host: str, port: int) -> socket.socket:
    """A TCP socket that listens; port 0 takes a free one. Raises ConfigError."""
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise ConfigError(
            f"--host {host} --port {port}: {(error.strerror or str(error)).lower()}; --port 0 takes a free one"
        ) from error
    return listening
