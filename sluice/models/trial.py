"""A model is tried in a process of its own, which it may crash: LightGBM follows whatever a booster says.

Digests find accidents; this finds a booster that was written to be wrong. It is no sandbox. Library: subprocess.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import suppress
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import numpy as np

from sluice.errors import ModelUnusable
from sluice.models.files import BOOSTER_FILE, MODEL_FILE, check_model, read_model

__all__ = ["LIMIT_S", "try_model"]

LIMIT_S = 30
ROWS = 256


def try_model(folder: Path, passed: Path) -> None:
    """Read and score the model in `folder` in a child process, which takes a second or two.

    Without trees nothing can crash, and nothing is tried. passed: a file that remembers what has passed, so that the
    same model is tried once. Raises ModelUnusable when the files are not what was written, when the child crashes,
    or takes longer than LIMIT_S.
    """
    check_model(folder)
    if not (folder / BOOSTER_FILE).exists():
        return
    # The file of the model holds the digest of its trees; another LightGBM may crash where this one did not.
    tried = f"{sha256((folder / MODEL_FILE).read_bytes()).hexdigest()} lightgbm {version('lightgbm')}\n"
    with suppress(OSError, ValueError):
        if passed.read_text() == tried:
            return
    _try(folder)
    with suppress(OSError):
        passed.write_text(tried)


def _try(folder: Path) -> None:
    # -P: a `sluice` in the current folder is not ours.
    command = [sys.executable, "-P", "-m", "sluice.models.trial", str(folder), str(LIMIT_S)]
    try:
        done = subprocess.run(
            command, timeout=LIMIT_S, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
    except subprocess.TimeoutExpired:
        raise ModelUnusable(f"{folder}: not loaded and tried within {LIMIT_S} s") from None
    except OSError as error:
        raise ModelUnusable(f"{folder}: cannot be tried: {error.strerror}") from error
    if done.returncode < 0:
        raise ModelUnusable(f"{folder}: crashed while loading: {_signal(-done.returncode)}")
    if done.returncode > 0:
        lines = done.stderr.decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), f"exit code {done.returncode}")
        raise ModelUnusable(f"{folder}: crashed while loading: {last[:300]}")


def _signal(number: int) -> str:
    with suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"


def _main(folder: Path, limit_s: int) -> None:
    signal.alarm(limit_s)  # ends this process, too, when nobody is left to wait for it
    try:
        model = read_model(folder)
    except ModelUnusable:
        return  # whoever reads it next says why
    rows = np.random.default_rng(0).normal(scale=10, size=(ROWS, len(model.columns))).astype(np.float32)
    rows[0], rows[1], rows[2] = 0, np.nan, np.inf
    model.score(rows)
    # Explaining visits every node of every tree, also those that no row here leads to.
    model.model.contributions(rows[:2])


if __name__ == "__main__":
    _main(Path(sys.argv[1]), int(sys.argv[2]))
