"""One server process: started through the launcher, waited for, stopped."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sluice.errors import TransportError

__all__ = ["HOST", "Server", "ServerDied", "free_port", "start", "wait_for"]

HOST = "127.0.0.1"
LAUNCHER = Path(__file__).with_name("launcher.py")
POLL_S = 0.02
TAIL_LINES = 6


class ServerDied(TransportError):
    """The process ended before it answered; a port that somebody else took meanwhile looks like this, too."""


@dataclass
class Server:
    """A running server. `graceful` servers are asked to end before they are killed, so that their files are whole."""

    name: str
    address: str
    process: subprocess.Popen[bytes]
    log: Path
    graceful: bool = False
    extra: dict[str, str] = field(default_factory=dict)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def stop(self, deadline_s: float = 10.0) -> None:
        """End it and wait until it is gone."""
        if not self.alive:
            return
        if self.graceful:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(deadline_s)
                return
            except subprocess.TimeoutExpired:
                pass
        self.process.kill()
        self.process.wait()

    def last_words(self) -> str:
        """The end of its log, for an error message."""
        try:
            lines = self.log.read_text(errors="replace").strip().splitlines()
        except OSError:
            return ""
        return " | ".join(line.strip() for line in lines[-TAIL_LINES:])


def free_port() -> int:
    """A port nobody listens on. Somebody may take it before it is used: callers try again."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    assert isinstance(port, int)
    return port


def start(
    name: str, address: str, command: list[str], log: Path, *, cwd: Path, env: Mapping[str, str] | None = None
) -> Server:
    """Start `command`, its output in `log`. It dies with this process at the latest.

    env: what the server may see beside PATH, HOME and the locale. The rest of the environment is kept from it, since
    servers take settings from there. Raises RuntimeError outside the main thread: the kernel ties a child to the
    *thread* that made it.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("servers must be started from the main thread: they end with the thread that started them")
    log.parent.mkdir(parents=True, exist_ok=True)
    passed = {key: os.environ[key] for key in ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR") if key in os.environ}
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid()), *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env={**passed, **(env or {})},
            start_new_session=True,  # Ctrl-C is for us: we stop the servers in order
        )
    return Server(name, address, process, log)


def wait_for(server: Server, answers: Callable[[], bool], deadline_s: float) -> Server:
    """Return the server once `answers()` is true. Otherwise kill it and raise.

    Raises ServerDied when it ended by itself, TransportError after `deadline_s`; both with the end of its log.
    """
    deadline = time.monotonic() + deadline_s
    try:
        while True:
            if not server.alive:
                code = server.process.returncode
                raise ServerDied(f"{server.name} ended with code {code} before it answered: {server.last_words()}")
            if answers():
                return server
            if time.monotonic() >= deadline:
                raise TransportError(
                    f"{server.name} does not answer at {server.address} within {deadline_s:g} s: {server.last_words()}"
                )
            time.sleep(POLL_S)
    except BaseException:
        server.graceful = False
        server.stop()
        raise
