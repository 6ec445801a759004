"""Seeded runs in blocks, over processes: the same figures whatever the number of processes.

A block is a number of runs side by side as arrays; its random numbers follow from (seed, name, block) alone.
Library: numpy.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeAlias
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

__all__ = ["BLOCK", "Result", "Simulate", "processes", "simulate"]

BLOCK = 100
"""Runs side by side: enough to make Python's own time small, few enough for the processor's cache."""

Result: TypeAlias = dict[str, NDArray[Any]]
Simulate: TypeAlias = Callable[[Any, int, np.random.Generator], Result]
"""(setting, runs, rng) → arrays whose first axis are the runs. Of a module, so that other processes find it."""


def simulate(
    function: Simulate,
    settings: Mapping[str, Any],
    runs: int,
    seed: int,
    *,
    jobs: int = 1,
    done: Callable[[int], None] = lambda runs: None,
) -> dict[str, Result]:
    """Every setting, `runs` times. `jobs`: processes; `done` gets the number of runs that have just been finished.

    Raises ValueError when `runs` or `jobs` is below 1.
    """
    if runs < 1:
        raise ValueError(f"runs: must be ≥ 1, got {runs}")
    if jobs < 1:
        raise ValueError(f"jobs: must be ≥ 1, got {jobs}")
    tasks = [
        (function, setting, min(BLOCK, runs - start), [seed, crc32(name.encode()), start // BLOCK])
        for name, setting in settings.items()
        for start in range(0, runs, BLOCK)
    ]
    parts: list[Result] = []
    for task, result in zip(tasks, _results(tasks, min(jobs, len(tasks))), strict=True):
        parts.append(result)
        done(task[2])
    blocks = len(tasks) // max(len(settings), 1)
    return {
        name: {key: np.concatenate([part[key] for part in parts[i * blocks : (i + 1) * blocks]]) for key in parts[0]}
        for i, name in enumerate(settings)
    }


def processes() -> int:
    """As many as this process may use processors."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _results(tasks: list[tuple[Simulate, Any, int, list[int]]], jobs: int) -> Iterator[Result]:
    if jobs <= 1:
        yield from map(_block, tasks)
        return
    # Not forked: the parent may have threads.
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(_block, tasks)


def _block(task: tuple[Simulate, Any, int, list[int]]) -> Result:
    function, setting, runs, entropy = task
    return function(setting, runs, np.random.default_rng(entropy))
