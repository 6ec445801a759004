"""One command at a time registers models, of all that share a state folder. Library: fcntl."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sluice.errors import ConfigError

__all__ = ["LOCK_FILE", "alone"]

LOCK_FILE = "register.lock"


@contextmanager
def alone(state: Path, notice: Callable[[str], None]) -> Iterator[None]:
    """Wait until nobody else registers with this state folder. The system lets go of the lock of a killed process.

    Raises ConfigError when the folder cannot be written.
    """
    try:
        state.mkdir(parents=True, exist_ok=True)
        lock = (state / LOCK_FILE).open("a")
    except OSError as error:
        raise ConfigError(f"{state / LOCK_FILE}: cannot be written: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            notice("another `sluice register` is at work: waiting until it has ended")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
