"""Starts a server that cannot outlive its parent: `python launcher.py PARENT_PID COMMAND…`.

Run as a script with nothing but the standard library, so that it costs a few milliseconds. On Linux the kernel
kills the server when the parent dies (`PR_SET_PDEATHSIG`), however it dies. Elsewhere this process stays as a small
watching parent.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys

PR_SET_PDEATHSIG = 1
ORPHANED = 70
LOOK_AGAIN_S = 0.1


def bound(parent: int, command: list[str]) -> int:
    """Replace this process by `command`, tied to the parent by the kernel. Returns only when it was too late."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    # The parent may have died before the line above: then no signal will ever come.
    if os.getppid() != parent:
        return ORPHANED
    os.execv(command[0], command)
    raise AssertionError("execv returned")


def watched(parent: int, command: list[str]) -> int:
    """Run `command` as a child, and kill it once the parent has gone. Returns its exit code."""
    child = subprocess.Popen(command)
    for kind in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(kind, lambda number, _: child.send_signal(number))
    try:
        while os.getppid() == parent:
            try:
                return child.wait(LOOK_AGAIN_S)
            except subprocess.TimeoutExpired:
                continue
        return ORPHANED
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()


if __name__ == "__main__":
    run = bound if sys.platform == "linux" else watched
    sys.exit(run(int(sys.argv[1]), sys.argv[2:]))
