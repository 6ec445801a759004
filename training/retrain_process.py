"""A retraining in a process of its own (`training.retrain_child`), with limits on time and memory. Library: msgspec.

The job goes in as JSON on stdin, steps and the result come out as lines of JSON.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import IO

import msgspec
from msgspec import Struct

from sluice import errors
from sluice.errors import SluiceError
from sluice.settings import Settings
from training.options import Steps
from training.retrain import Job, Result, retrain

__all__ = ["error_name", "follow", "retrain_apart", "work"]

LOOK_EVERY_S = 0.2
# More threads would change the order of sums, and so the last bits of a model.
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class _Line(Struct, omit_defaults=True):
    """One line of what the child says."""

    step: str = ""
    share: float | None = None
    result: Result | None = None
    error: str = ""
    """Name of the error's class"""
    text: str = ""


def retrain_apart(
    job: Job, *, seconds: float = 1800, memory_mb: int = 4096, progress: Steps = lambda name, share=None: None,
    stopping: Callable[[], bool] = lambda: False,
) -> Result:  # fmt: skip
    """`training.retrain.retrain`, in a child process that ends with this one, or once `stopping` says so (on a thread).

    Raises what that raises, and SluiceError when the child needs more time or memory, was stopped, or crashes.
    """
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(
            [sys.executable, "-m", "training.retrain_child", str(memory_mb), str(os.getpid())],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, env={**os.environ, **_ENVIRONMENT},
        )  # fmt: skip
        over, late, deadline = threading.Event(), threading.Event(), time.monotonic() + seconds

        def watch() -> None:
            while not over.wait(min(LOOK_EVERY_S, seconds)):
                if time.monotonic() > deadline:
                    late.set()
                if late.is_set() or stopping():
                    child.kill()
                    return

        threading.Thread(target=watch, name="training", daemon=True).start()
        try:
            assert child.stdin is not None and child.stdout is not None
            with contextlib.suppress(BrokenPipeError):
                child.stdin.write(msgspec.json.encode(job))
                child.stdin.close()
            last = follow(child.stdout, progress)
            code = child.wait()
        finally:
            over.set()
            child.kill()
            child.wait()
        if last is not None and last.result is not None:
            return last.result
        if late.is_set():
            raise SluiceError(f"the training took longer than {seconds:g} s and was ended")
        if last is not None and last.error:
            raise _error(last, memory_mb)
        if stopping():
            raise SluiceError("the training was stopped")
        if code < 0:
            raise SluiceError(f"the training was ended by signal {-code}: it may need more than {memory_mb} MiB")
        said.seek(0)
        lines = said.read().decode(errors="replace").strip().splitlines() or [""]
        raise SluiceError(f"the training ended with exit code {code}: {lines[-1][:300]}")


def follow(lines: IO[bytes], progress: Steps) -> _Line | None:
    """The last line that is no step; none where it is cut off, as by a kill."""
    last = None
    for text in lines:
        try:
            line = msgspec.json.decode(text, type=_Line)
        except msgspec.DecodeError:
            return None
        if line.step:
            progress(line.step, line.share)
        else:
            last = line
    return last


def _error(line: _Line, memory_mb: int) -> SluiceError:
    if line.error == MemoryError.__name__:
        return SluiceError(f"the training needs more than {memory_mb} MiB: give it more, or ask for a later --since")
    kind = getattr(errors, line.error, None)
    if isinstance(kind, type) and issubclass(kind, SluiceError):
        return kind(line.text)
    return SluiceError(f"the training failed: {line.error}: {line.text}")


def work() -> None:
    """What the child does, once it is bound: a job from stdin, lines to what was stdout."""
    # Libraries print: stdout is only for lines of ours.
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)

    def tell(line: _Line) -> None:
        out.write(msgspec.json.encode(line) + b"\n")

    try:
        job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
        result = retrain(Settings.load(), job, lambda name, share=None: tell(_Line(step=name, share=share)))
        tell(_Line(result=result))
    except BaseException as error:  # noqa: BLE001 - it is told to the parent, in one line
        tell(_Line(error=error_name(error), text=" ".join(str(error).split())))


def error_name(error: BaseException) -> str:
    """Of its class, or of the one of `sluice.errors` that it is a kind of: what the parent can raise again."""
    names = [one.__name__ for one in type(error).__mro__]
    return next((name for name in names if name in errors.__all__), names[0])
