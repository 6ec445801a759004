"""How long a tick takes: figures, and whole decision records, of 1,000 experiments with four variants.

`OPENBLAS_NUM_THREADS=1 python tests/benchmarks/test_bench_tick.py` prints it, beside the time of 100,000 draws
for each of them. Looked at by people, not asserted.
"""

from __future__ import annotations

import platform
import random
import time
from collections.abc import Callable

import numpy as np

from analyzer.engine import Case, Snapshot, decide_many
from analyzer.engine.evaluate import Problem, evaluate
from sluice.domain.allocation import allocation_key
from sluice.domain.events import StatsCell, encode
from sluice.domain.experiment import Experiment, Variant
from sluice.domain.statistics import CellStatistics, OutcomeStatistics

NAMES = ("a", "b", "c", "d")
ALLOCATIONS = ([25, 25, 25, 25], [5, 85, 5, 5], [10, 70, 10, 10])


def cases(count: int, seed: int = 1) -> list[Case]:
    """Slates of three impressions under three allocations, about one click in nine."""
    rng = random.Random(seed)
    made = []
    for number in range(count):
        experiment = Experiment(name=f"e{number}", unit="slate", variants=tuple(Variant(name=name) for name in NAMES))
        cells = []
        for percents in ALLOCATIONS:
            key = allocation_key(dict(zip(NAMES, percents, strict=True)))
            for name, percent in zip(NAMES, percents, strict=True):
                units = rng.randint(100, 200) * percent
                clicks = round(units * 3 * rng.uniform(0.10, 0.12))
                click = OutcomeStatistics(clicks, round(clicks * 1.2), 3 * clicks)
                sums = CellStatistics(units, 3 * units, 9 * units, {"click": click})
                cells.append(StatsCell(experiment=experiment.name, variant=name, allocation=key, statistics=sums))
        made.append(Case(experiment, Snapshot(tuple(cells), {0: (1, 1)}, 0)))
    return made


def test_a_tick_gives_every_experiment_a_whole_record() -> None:
    decisions = decide_many(cases(20))
    assert [decision.experiment for decision in decisions] == [f"e{number}" for number in range(20)]
    assert all(sum(decision.allocation.values()) == 100 for decision in decisions)


def best(call: Callable[[], object], rounds: int = 7) -> float:
    """Seconds a call, the best of several rounds."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    made = cases(1000)
    problems = [Problem(case.experiment, case.snapshot.cells) for case in made]
    decisions = decide_many(made)
    rng = np.random.default_rng(0)
    draws = best(lambda: rng.beta(np.arange(1, 5) * 100.0, 1000.0, (100_000, 4)).argmax(axis=1), 3)
    print(platform.processor() or platform.machine(), platform.python_version(), "numpy", np.__version__)
    print(f"figures of {len(made):,} experiments: {1e3 * best(lambda: evaluate(problems)):.0f} ms")
    print(f"decision records of them: {1e3 * best(lambda: decide_many(made)):.0f} ms")
    print(f"as bytes: {1e3 * best(lambda: [encode(decision) for decision in decisions]):.0f} ms")
    print(f"P(best) alone by 100,000 draws each: {draws * len(made):.0f} s")


if __name__ == "__main__":
    main()
