"""`sluice explain` for the page: a child process, since what recomputes decisions belongs to another service.

One at a time, whoever asks, and each decision once: the answer is kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import sys
import time
from collections import OrderedDict
from typing import Any

import msgspec

from dashboard.records import read_decision
from dashboard.views import Explanation
from sluice.errors import SluiceError
from sluice.settings import Settings

__all__ = ["ExplainFailed", "ExplainTooSlow", "Explainer", "TooManyExplains", "command_line"]

DEADLINE_S = 60.0
MAX_WAITING = 8
KEPT = 32
MAX_KEPT_BYTES = 500_000
"""A larger answer is not kept"""


class TooManyExplains(SluiceError):
    """Try again later."""


class ExplainTooSlow(SluiceError):
    """The child did not answer within the deadline and was ended."""


class ExplainFailed(SluiceError):
    """The child said why."""


class _Printed(msgspec.Struct):
    reproduced: bool
    difference: str | None
    decision: msgspec.Raw


class Explainer:
    """Belongs to the event loop."""

    def __init__(self, settings: Settings, *, deadline_s: float = DEADLINE_S) -> None:
        self._settings = settings
        self._deadline_s = deadline_s
        self._turn = asyncio.Lock()
        self._running: dict[tuple[str, int], asyncio.Task[Explanation]] = {}
        self._kept: OrderedDict[tuple[str, int], Explanation] = OrderedDict()

    def forget(self) -> None:
        """The topic has begun anew."""
        self._kept.clear()

    async def explain(self, experiment: str, version: int) -> Explanation:
        """Raises TooManyExplains, ExplainTooSlow, ExplainFailed."""
        key = (experiment, version)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        task = self._running.get(key)
        if task is None:
            if len(self._running) >= MAX_WAITING:
                raise TooManyExplains(f"{MAX_WAITING} explanations are being computed already; try again in a moment")
            task = self._running[key] = asyncio.create_task(self._explain(experiment, version))
            task.add_done_callback(lambda _: self._running.pop(key, None))
        # Whoever else asks for the same waits for the same child, also when the first one goes away.
        return await asyncio.shield(task)

    async def close(self) -> None:
        """End what runs."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _explain(self, experiment: str, version: int) -> Explanation:
        async with self._turn:
            began_s = time.monotonic()
            code, out, problem = await self._child(experiment, version)
            seconds = round(time.monotonic() - began_s, 3)
        try:
            printed = msgspec.json.decode(out, type=_Printed)
        except msgspec.DecodeError:
            last = problem.strip().splitlines()[-1:] or [f"`sluice explain` ended with exit code {code}"]
            raise ExplainFailed(last[0].removeprefix("sluice: ")) from None
        told = _told(experiment, version, printed, seconds)
        if len(out) <= MAX_KEPT_BYTES:
            self._kept[experiment, version] = told
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return told

    async def _child(self, experiment: str, version: int) -> tuple[int | None, bytes, str]:
        """(exit code, stdout, stderr)"""
        arguments = ("-m", "sluice", "explain", str(version), f"--experiment={experiment}", "--json")
        pipe = asyncio.subprocess.PIPE
        child = await asyncio.create_subprocess_exec(
            sys.executable, *arguments, env=_environment(self._settings),
            stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe,
        )  # fmt: skip
        try:
            out, problem = await asyncio.wait_for(child.communicate(), self._deadline_s)
        except TimeoutError:
            raise ExplainTooSlow(f"`sluice explain` did not answer within {self._deadline_s:g} s") from None
        finally:
            if child.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    child.kill()
                await child.wait()
        return child.returncode, out, problem.decode(errors="replace")


def command_line(experiment: str, version: int) -> str:
    """What a person types for the same answer."""
    return shlex.join(["sluice", "explain", str(version), "--experiment", experiment])


def _told(experiment: str, version: int, printed: _Printed, seconds: float) -> Explanation:
    record = bytes(printed.decision)
    recorded = read_decision(record)
    reproduced = "yes, the same bytes" if printed.reproduced else f"no: {printed.difference}"
    lines = [
        f"{experiment}, decision {version}: {recorded.verdict}, configuration {recorded.config_hash}",
        *recorded.reasons,
        f"Computed again from its own evidence: {reproduced}.",
    ]
    return Explanation(
        version=version,
        matches=printed.reproduced,
        difference=printed.difference,
        seconds=seconds,
        command=command_line(experiment, version),
        text="\n".join(lines),
        record=msgspec.Raw(record),
        config_hash=recorded.config_hash,
        offsets=recorded.offsets,
        seed=recorded.seed,
    )


def _environment(settings: Settings) -> dict[str, Any]:
    """Of a child that looks where we look. Our token is none of its business."""
    kept = {name: value for name, value in os.environ.items() if name != "SLUICE_TOKEN"}
    config = ",".join(f"{key}={value}" for key, value in settings.kafka_config.items())
    return {
        **kept,
        "SLUICE_KAFKA": settings.kafka,
        "SLUICE_KAFKA_CONFIG": config,
        "SLUICE_REDIS": settings.redis,
        "SLUICE_PREFIX": settings.prefix,
        "SLUICE_STATE": str(settings.state),
    }
