"""How long P(best) and expected loss take beside the same figures from 100,000 posterior draws.

`OPENBLAS_NUM_THREADS=1 python tests/benchmarks/test_bench_bayes.py` prints them. Looked at by people, not asserted.
"""

from __future__ import annotations

import platform
import timeit
from collections.abc import Callable

import numpy as np
import pytest

from analyzer.engine.bandit import lifted, whole
from analyzer.engine.bayes import Comparison, compare
from analyzer.engine.delay import delay_aware
from analyzer.engine.lift import lifts, rope
from analyzer.engine.normal import compare_normal

ALPHA, BETA = np.array([1381.0, 1546.0]), np.array([7121.0, 6656.0])
DRAWS = 100_000


def by_draws(alpha: np.ndarray, beta: np.ndarray, rng: np.random.Generator) -> Comparison:
    rates = rng.beta(alpha, beta, (DRAWS, len(alpha)))
    p_best = np.bincount(rates.argmax(axis=1), minlength=len(alpha)) / DRAWS
    return Comparison(p_best, rates.max(axis=1).mean() - rates.mean(axis=0), np.float64(0.0))


def test_draws_and_quadrature_agree() -> None:
    alpha, beta = np.array([101.0, 108.0, 95.0]), np.array([901.0, 890.0, 905.0])
    drawn, exact = by_draws(alpha, beta, np.random.default_rng(0)), compare(alpha, beta)
    assert drawn.p_best == pytest.approx(exact.p_best, abs=5 * 0.5 / np.sqrt(DRAWS))
    assert drawn.expected_loss == pytest.approx(exact.expected_loss, abs=5e-4)


def best(call: Callable[[], object], number: int) -> float:
    """Seconds a call, the best of several rounds."""
    return min(timeit.repeat(call, number=number, repeat=7)) / number


def main() -> None:
    rng = np.random.default_rng(0)
    n = 10 ** rng.uniform(1, 6, (1000, 4))
    c = np.round(n * rng.uniform(0.05, 0.5, (1000, 1)))
    alpha, beta = 1 + c, 1 + n - c
    draws = best(lambda: by_draws(ALPHA, BETA, rng), 3)
    one = best(lambda: compare(ALPHA, BETA), 300)
    many = best(lambda: compare(np.tile(ALPHA, (1000, 1)), np.tile(BETA, (1000, 1))), 3) / 1000
    print(platform.processor() or platform.machine(), platform.python_version(), "numpy", np.__version__)
    print(f"two variants by {DRAWS:,} draws: {1e3 * draws:.1f} ms")
    print(f"two variants, alone: {1e6 * one:.0f} µs, {draws / one:.0f} times faster")
    print(f"two variants, among 1,000: {1e6 * many:.1f} µs, {draws / many:.0f} times faster")
    shown = rng.integers(10, 1000, (1000, 4, 33)).astype(float)
    clicked = rng.integers(0, 9, (1000, 4, 33, 16)).astype(float)
    total, hits, age = shown.sum(axis=-1), clicked.sum(axis=(-1, -2)), np.arange(33.0)[::-1] - 0.3
    p_best = compare(alpha, beta).p_best
    for name, call in (
        ("P(best), expected loss, Beta", lambda: compare(alpha, beta)),
        ("P(best), expected loss, Normal", lambda: compare_normal(alpha / (alpha + beta), 0.2 / n)),
        ("lifts and their intervals", lambda: lifts(alpha, beta, 0)),
        ("region of equivalence", lambda: rope(alpha, beta, 0, -0.01, 0.01)),
        ("floor and whole percents", lambda: whole(lifted(p_best, 0.05))),
        ("delay: 33 cohorts of 16 bins", lambda: delay_aware(total, hits, shown, clicked, age, age + 1, 16.0)),
    ):
        print(f"1,000 experiments of 4 variants, {name}: {1e3 * best(call, 2):.1f} ms")


if __name__ == "__main__":
    main()
