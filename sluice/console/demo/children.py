"""The demo's child processes: `python -m sluice …`, each with a log file, all gone when the demo is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from sluice.errors import SluiceError

__all__ = ["Child", "ChildFailed", "Children", "printed"]

TAIL_LINES = 12
STOP_S = 3.0
"""For each child: one that does not listen shall not cost those it depends on their orderly end"""
WRONG_USE = 2
"""Exit code of a command that was asked for what cannot be: ours is the same then."""


class ChildFailed(SluiceError):
    """A child ended that should not have. `tail` are the last lines of its log."""

    def __init__(self, child: Child, problem: str) -> None:
        super().__init__(f"{child.title} {problem}")
        self.tail = child.tail()
        self.wrong_use = child.code == WRONG_USE


class Child:
    """One process. Its stdout and stderr go to files of their own in `folder`."""

    def __init__(
        self,
        name: str,
        arguments: list[str],
        env: Mapping[str, str],
        folder: Path,
        good: Collection[int],
        module: str = "sluice",
    ) -> None:
        """good: exit codes with which it may end, whenever it does; services never end."""
        self.name = name
        self.good = good
        shown = [] if module != "sluice" else arguments[:2] if name == "infra" else arguments[:1]
        self.title = f"`{' '.join([module, *shown])}`"
        self.stdout = folder / f"{name}.out"
        self.log = folder / f"{name}.log"
        # The launcher ties the child to this process: it dies with it, even by kill -9.
        command = [sys.executable, "-m", "infra.launcher", str(os.getpid()), sys.executable, "-m", module, *arguments]
        with self.stdout.open("wb") as out, self.log.open("wb") as log:
            # A group of its own, so that Ctrl-C reaches the demo alone, which then stops all in order.
            self._process = subprocess.Popen(
                command, env=dict(env), stdin=subprocess.DEVNULL, stdout=out, stderr=log, start_new_session=True
            )

    @property
    def code(self) -> int | None:
        """Exit code; negative for a signal; None while it runs."""
        return self._process.poll()

    @property
    def pid(self) -> int:
        return self._process.pid

    def output(self) -> str:
        return self.stdout.read_text(encoding="utf-8", errors="replace")

    def logged(self) -> list[str]:
        """What it wrote to stderr, without empty lines."""
        return [line for line in self.log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]

    def tail(self) -> list[str]:
        """The last lines it logged."""
        return self.logged()[-TAIL_LINES:]

    def signal(self, number: int) -> None:
        if self.code is None:
            self._process.send_signal(number)

    def wait(self, timeout_s: float) -> bool:
        """Whether it ended within `timeout_s`."""
        try:
            self._process.wait(max(timeout_s, 0.0))
        except subprocess.TimeoutExpired:
            return False
        return True


class Children:
    """Starts, watches and stops them; the latest first. Use as a context manager."""

    def __init__(self, env: Mapping[str, str], folder: Path) -> None:
        # People read these logs; and one address for the metrics of them all would be the first one's alone.
        self.env = {name: value for name, value in env.items() if name != "SLUICE_METRICS"} | {"SLUICE_LOG": "text"}
        self.folder = folder
        self._running: list[Child] = []

    def start(
        self,
        name: str,
        *arguments: str,
        good: Collection[int] = (),
        env: Mapping[str, str] | None = None,
        module: str = "sluice",
    ) -> Child:
        """A service; with `good` exit codes, a job. `env` is added to that of all. module: what is run."""
        child = Child(name, list(arguments), {**self.env, **(env or {})}, self.folder, good, module)
        self._running.append(child)
        return child

    def check(self) -> None:
        """Raises ChildFailed for the first that has ended as it should not have."""
        for child in self._running:
            if child.code is not None and child.code not in child.good:
                raise ChildFailed(child, f"ended with {_reason(child.code)}")

    def done(self, job: Child) -> bool:
        """Whether `job` has ended. Raises ChildFailed as `check` does."""
        self.check()
        return job.code is not None

    def stop(self) -> None:
        """SIGTERM one by one, the latest first, so that nobody misses a server it needs; then SIGKILL."""
        while self._running:
            child = self._running.pop()
            child.signal(signal.SIGTERM)
            if not child.wait(STOP_S):
                child.signal(signal.SIGKILL)
                child.wait(STOP_S)

    def __enter__(self) -> Children:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def printed(child: Child) -> dict[str, Any]:
    """The JSON object that `child` printed. Raises ChildFailed when it did not."""
    try:
        found = json.loads(child.output())
    except ValueError as error:
        raise ChildFailed(child, f"did not print JSON: {error}") from error
    assert isinstance(found, dict)
    return found


def _reason(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
