"""The process that runs the servers: in the foreground (`run`) or detached from the shell (`up`)."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from infra import stack as stacks
from infra import state as states
from infra.stack import Options, Stack
from sluice.errors import ConfigError, TransportError
from sluice.settings import Settings

__all__ = ["down", "run", "up"]

POLL_S = 0.05
PARENT_POLL_S = 0.2
DOWN_DEADLINE_S = 20.0
LOG = "infra.log"
USAGE = 2
"""Exit code of a `run` that met a ConfigError."""


def run(mode: str, settings: Settings, options: Options, *, parent: int | None, ready: Callable[[Stack], None]) -> None:
    """Start the servers, call `ready`, and keep them until a signal, or until `parent` (a pid) is no longer ours.

    Raises TransportError when a server ends by itself, and what `stack.start` raises.
    """
    state = settings.state
    lock = states.hold(state)
    with lock, _signals():
        if parent is not None:
            threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
        states.forget(state)
        stack: Stack | None = None
        try:
            stack = stacks.start(mode, settings, options)
            states.publish(state, stack)
            ready(stack)
            while (dead := stack.dead()) is None:
                time.sleep(POLL_S)
            code = dead.process.returncode
            raise TransportError(f"{dead.name} ended by itself with code {code}: {dead.last_words()}")
        except KeyboardInterrupt:
            return
        finally:
            # A second Ctrl-C must not leave half of them running.
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            states.forget(state)
            if stack is not None:
                stack.stop()


def up(mode: str, settings: Settings, arguments: list[str], deadline_s: float) -> dict[str, Any]:
    """Start `sluice infra run` detached and return what it published. Servers that are up already are left alone.

    Raises ConfigError when servers of another mode are up, TransportError when these do not come up in time.
    """
    state = settings.state
    found = states.holder(state)
    if found is None:
        process, log = _detach(mode, state, arguments)
    else:
        process, log = None, state / "logs" / LOG
    deadline = time.monotonic() + deadline_s
    try:
        while True:
            holder = states.holder(state)
            if holder is not None and holder.ready is not None:
                if holder.ready["infra"] != mode:
                    raise ConfigError(f"{holder.ready['infra']} servers are up: `sluice infra down` stops them")
                if process is not None and holder.pid != process.pid:
                    _end(process)  # it came second: once the others are down, it would start servers of its own
                return holder.ready
            # When two start at once, one finds the folder taken: then the other's servers are waited for.
            ended = process is None or process.poll() is not None
            if ended and holder is None:
                refused = process is not None and process.returncode == USAGE
                raise (ConfigError if refused else TransportError)(_reason(log))
            if time.monotonic() >= deadline:
                raise TransportError(f"the servers are not up within {deadline_s:g} s; see {state / 'logs'}")
            time.sleep(POLL_S)
    except BaseException:
        if process is not None:
            _end(process)
        raise


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        process.wait(DOWN_DEADLINE_S)


def down(state: Path) -> bool:
    """Stop what `up` or `run` started here. False when nothing was running."""
    found = states.holder(state)
    if found is None:
        states.forget(state)
        return False
    deadline = time.monotonic() + DOWN_DEADLINE_S
    _send_signal(found.pid, signal.SIGTERM)
    while (now := states.holder(state)) is not None and now.pid == found.pid:
        if time.monotonic() >= deadline:
            # Its servers are tied to it: they end with it.
            _send_signal(found.pid, signal.SIGKILL)
            deadline += DOWN_DEADLINE_S
        time.sleep(POLL_S)
    states.forget(state)
    return True


def _send_signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has ended by itself since we looked
        os.kill(pid, number)


def _detach(mode: str, state: Path, arguments: list[str]) -> tuple[subprocess.Popen[bytes], Path]:
    log = state / "logs" / LOG
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"SLUICE_STATE: {state}: no folder can be made there: {error.strerror}") from error
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "sluice", "infra", "run", "--infra", mode, "--detached", *arguments],
            env={**os.environ, "SLUICE_STATE": str(state)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return process, log


def _reason(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines() if log.is_file() else []
    return lines[-1].removeprefix("sluice: ") if lines else f"the servers did not start; see {log.parent}"


def _end_with(parent: int) -> None:
    # Not PR_SET_PDEATHSIG: that would end us with the parent's *thread*, and is Linux only.
    while os.getppid() == parent:
        time.sleep(PARENT_POLL_S)
    os.kill(os.getpid(), signal.SIGTERM)


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end us the way Ctrl-C does: through every `finally`."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    for number in before:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
