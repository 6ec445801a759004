"""The state folder: who runs the servers (a lock that ends with its holder) and where they are (`infra.json`)."""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from infra.stack import Stack
from sluice.errors import ConfigError
from sluice.settings import INFRA_FILE

__all__ = ["Holder", "describe", "forget", "hold", "holder", "publish"]

LOCK_FILE = "infra.lock"
ENDING_S = 0.5
"""A holder that is about to end is waited for so long."""


@dataclass(frozen=True)
class Holder:
    """The process that runs the servers of a state folder. `ready` is what it published, None while it starts."""

    pid: int
    ready: dict[str, Any] | None


def hold(state: Path) -> IO[str]:
    """Become the holder; keep the returned file open for as long. Raises ConfigError when somebody else is."""
    state.mkdir(parents=True, exist_ok=True)
    file = (state / LOCK_FILE).open("a+")
    deadline = time.monotonic() + ENDING_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if _only_looked_at(file):
                deadline = time.monotonic() + ENDING_S
            elif time.monotonic() >= deadline:
                file.close()
                raise ConfigError(f"servers already run from {state}: `sluice infra down` stops them") from None
            time.sleep(0.01)
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file


def _only_looked_at(file: IO[str]) -> bool:
    """Whether the lock is with those who look (`holder`): for an instant, but a busy machine can make that long."""
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(file, fcntl.LOCK_UN)
    return True


def holder(state: Path) -> Holder | None:
    """Who runs servers here, if anybody. A file that a killed process left is not believed: the lock is."""
    try:
        with (state / LOCK_FILE).open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return None
            except BlockingIOError:
                text = file.read().strip()
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not text.isdigit():  # it has locked the file, and not yet written who it is
        time.sleep(0.01)
        return holder(state)
    pid = int(text)
    try:
        ready = json.loads((state / INFRA_FILE).read_text())
    except (OSError, ValueError):
        ready = None
    return Holder(pid, ready if isinstance(ready, dict) and ready.get("pid") == pid else None)


def describe(stack: Stack) -> dict[str, Any]:
    """What others need to know of a running stack."""
    return {
        "infra": stack.infra,
        "kafka": stack.settings.kafka,
        "redis": stack.settings.redis,
        "pid": os.getpid(),
        "pids": stack.pids,
    }


def publish(state: Path, stack: Stack) -> None:
    """Write `infra.json` whole or not at all, for its owner only: a URL may carry a password."""
    handle, name = tempfile.mkstemp(dir=state, prefix=f".{INFRA_FILE}.")
    with os.fdopen(handle, "w") as file:
        json.dump(describe(stack), file, indent=2)
        file.write("\n")
    Path(name).replace(state / INFRA_FILE)


def forget(state: Path) -> None:
    (state / INFRA_FILE).unlink(missing_ok=True)
