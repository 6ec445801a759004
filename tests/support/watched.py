"""A service as a process of its own that serves its metrics: what it logs, and what it answers."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

__all__ = ["Watched"]


class Watched:
    """`sluice …` with `--metrics-port`; `folder` holds its stdout (`out`) and stderr (`log`)."""

    def __init__(self, env: dict[str, str], folder: Path, *arguments: str) -> None:
        self._log = folder / "log"
        command = [sys.executable, "-m", "sluice", *arguments, "--metrics-port", "0"]
        with self._log.open("wb") as err, (folder / "out").open("wb") as out:
            self.child = subprocess.Popen(command, env=env, stdout=out, stderr=err)

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._log.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def get(self, path: str) -> tuple[int, str]:
        (url,) = [one["message"].split()[-1] for one in self.lines if one["message"].startswith("metrics at ")]
        try:
            with urllib.request.urlopen(url.removesuffix("/metrics") + path, timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def ready(self) -> bool:
        assert self.child.poll() is None, self._log.read_text()
        return self.says("metrics at ") == 1 and self.get("/ready")[0] == 200

    def says(self, words: str) -> int:
        """How many lines of its log hold `words`."""
        return sum(words in one["message"] for one in self.lines)
