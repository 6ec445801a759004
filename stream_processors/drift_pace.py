"""What a drift monitor may use of a machine that it shares. Library: none."""

from __future__ import annotations

import threading
import time

__all__ = ["SHARE", "Pace"]

SHARE = 0.25
"""Of one core. `nice` gives way to others on a core, but what the broker does for a reader knows nothing of that"""


class Pace:
    """Lets one that is behind read on slowly. Not thread-safe."""

    def __init__(self, stop: threading.Event, share: float = SHARE) -> None:
        self._stop, self._share = stop, share
        self._at, self._cpu = time.monotonic(), time.process_time()

    def __call__(self) -> bool:
        """After a piece of work: rests for so long that the process used its share. False once it shall stop."""
        cpu = time.process_time()
        rest = (cpu - self._cpu) / self._share - (time.monotonic() - self._at)
        stopped = self._stop.wait(max(rest, 0.0))
        self._at, self._cpu = time.monotonic(), cpu
        return not stopped
