"""Where the traffic goes next, for many runs at once: the same rules as `analyzer.engine.decide`, as arrays."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from analyzer.engine.bandit import epsilon_greedy, kl_ucb, lifted, top_two, ucb1, whole
from analyzer.engine.bayes import compare
from analyzer.engine.drift import Span, advance, discounted, windowed
from analyzer.engine.evidence import design_effect
from analyzer.engine.moments import Floats, Moments
from analyzer.engine.normal import compare_normal, posterior
from sluice.domain.epochs import Epoch

__all__ = ["POLICIES", "Memory", "Name", "Policy", "next_percent", "shares", "start"]

Ints: TypeAlias = NDArray[np.int64]
Name: TypeAlias = Literal["thompson", "top-two", "epsilon-greedy", "ucb1", "kl-ucb", "fixed"]
LOOK_MS = 1000
"""Event time between two looks"""
POLICIES: tuple[Name, ...] = get_args(Name)
COUNTING = {"epsilon-greedy": epsilon_greedy, "ucb1": ucb1, "kl-ucb": kl_ucb}
"""Policies that ask only for impressions and outcomes"""


class Policy(NamedTuple):
    """How traffic moves; the defaults are those of an experiment."""

    name: Name = "thompson"
    floor: float = 0.05
    min_change: int = 2
    """Percentage points"""
    half_life: float = 0.0
    """Of evidence, in looks; 0 is for ever"""
    window: int = 0
    """Looks that count; 0 is all"""


def start(runs: int, k: int) -> Ints:
    """Equal whole percents, the rest to the first variants: (runs, k)."""
    base, rest = divmod(100, k)
    return np.tile(base + (np.arange(k) < rest), (runs, 1)).astype(np.int64)


def shares(policy: Policy, totals: Moments, recent: tuple[Floats, Floats] | None) -> Floats:
    """What the policy wants (runs, k). recent: impressions and outcomes as they count; None for values (Thompson)."""
    if recent is None:
        mean, variance = posterior(totals)
        # Unknown yet, but then the traffic does not move either.
        return compare_normal(mean, np.where(np.isfinite(variance), variance, 1.0)).p_best
    if policy.name in COUNTING:
        return COUNTING[policy.name](*recent)
    n, c = recent
    effect = design_effect(totals)
    p_best = compare(1 + c / effect, 1 + (n - c) / effect).p_best
    return top_two(p_best) if policy.name == "top-two" else p_best


def next_percent(policy: Policy, wanted: Floats, enough: NDArray[np.bool_], percent: Ints) -> Ints:
    """The allocation that follows on `percent` (runs, k), where every variant of a run has `enough` (runs,)."""
    whole_percent = whole(lifted(wanted, policy.floor))
    moved = np.abs(whole_percent - percent).max(axis=1) >= policy.min_change
    return np.where((enough & moved)[:, None], whole_percent, percent)


class Memory:
    """What a policy remembers: everything, or less of what is older, by the histories that decisions carry."""

    def __init__(self, policy: Policy, runs: int) -> None:
        self._half_life, self._window = policy.half_life * LOOK_MS, policy.window * LOOK_MS
        self._span = Span.of_half_life(self._half_life) if self._half_life else None
        if self._window:
            self._span = Span.of_window(self._window)
        self._histories: list[tuple[Epoch, ...]] = [()] * runs

    def at(self, look: int, totals: Moments) -> tuple[Floats, Floats]:
        """Impressions and outcomes (runs, k) as they count at `look`, when these are the totals."""
        if self._span is None:
            return totals.n, totals.c
        at_ms = (look + 1) * LOOK_MS
        recent = np.empty((2, *totals.n.shape))
        for run, (n, c) in enumerate(zip(totals.n.astype(np.int64).tolist(), totals.c.tolist(), strict=True)):
            history = self._histories[run] = advance(self._histories[run], at_ms, n, c, self._span)
            recent[:, run] = (
                windowed(history, at_ms, self._window) if self._window else discounted(history, at_ms, self._half_life)
            )
        return recent[0], recent[1]
