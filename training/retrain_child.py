"""The child of `training.retrain_process`: `python -m training.retrain_child MIB PARENT`. Library: the standard one.

It binds itself before anything large is imported. Memory is limited by RLIMIT_DATA: what may be written to counts, not
the address space that threads and libraries reserve.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys

__all__ = ["main"]

MIB = 2**20
_PR_SET_PDEATHSIG = 1


def main(memory_mb: int, parent: int) -> None:
    """Train, within `memory_mb`, for as long as `parent` lives: afterwards nobody would take the answer."""
    with contextlib.suppress(OSError, AttributeError):  # Linux only
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)
    resource.setrlimit(resource.RLIMIT_DATA, (memory_mb * MIB, memory_mb * MIB))
    from training.retrain_process import work

    work()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
