"""Rates that drift: old evidence weighs less in what moves the traffic, by a half-life or by a window of event time.

A decision carries its history as epochs whose sums are the totals, so the next decision finds what is new by
subtraction, and no state lives outside the records. Posteriors follow the weighed counts; confidence sequences and
design effects rest on the whole evidence.

Library: numpy. Sources: Garivier, Moulines 2011 (discounted and sliding-window bandits); Raj, Kalyani 2017 (discounted
Thompson sampling).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from analyzer.engine.moments import Floats
from sluice.domain.epochs import Epoch

__all__ = ["Span", "advance", "discount_weights", "discounted", "window_weights", "windowed"]

_Weights: TypeAlias = Callable[[ArrayLike, ArrayLike], Floats]


class Span(NamedTuple):
    """How finely and how far back a history is kept, in ms of event time."""

    epoch_ms: float
    """A new epoch begins when the last one is as long"""
    keep_ms: float
    """Epochs that ended longer ago are one"""

    @classmethod
    def of_half_life(cls, half_life_ms: float) -> Span:
        """Quarters of the half-life, up to six half-lives: at most 26 epochs; what is older weighs below 1/64."""
        return cls(_positive("half_life_ms", half_life_ms) / 4, half_life_ms * 6)

    @classmethod
    def of_window(cls, window_ms: float) -> Span:
        """Eighths of the window: at most 10 epochs."""
        return cls(_positive("window_ms", window_ms) / 8, window_ms)


def advance(
    history: tuple[Epoch, ...], at_ms: int, impressions: Sequence[int], outcomes: Sequence[float], span: Span
) -> tuple[Epoch, ...]:
    """The history at event time `at_ms`, when the totals are these, per variant. Its sums are the totals.

    Oldest first. A history of other variants, of a later time or of more than the totals belongs to other evidence:
    it is dropped, and all counts as if it were new. Raises ValueError when a total is negative or not finite.
    """
    if len(impressions) != len(outcomes) or not all(0 <= n < math.inf for n in impressions):
        raise ValueError(f"impressions: must be ≥ 0, one a variant, got {tuple(impressions)}")
    if not all(math.isfinite(c) for c in outcomes):
        raise ValueError(f"outcomes: must be finite, got {tuple(outcomes)}")
    new = Epoch(start_ms=at_ms, end_ms=at_ms, impressions=tuple(impressions), outcomes=tuple(outcomes))
    known = _merged(history) if history else None
    if known is not None and len(known.impressions) == len(impressions) and known.end_ms <= at_ms:
        new = Epoch(
            start_ms=known.end_ms,
            end_ms=at_ms,
            impressions=tuple(now - then for now, then in zip(impressions, known.impressions, strict=True)),
            outcomes=tuple(now - then for now, then in zip(outcomes, known.outcomes, strict=True)),
        )
        if min(new.impressions) < 0 or min(new.outcomes) < 0:
            return advance((), at_ms, impressions, outcomes, span)
        if not any(new.impressions) and not any(new.outcomes):
            new, history = history[-1], history[:-1]
        elif history[-1].end_ms - history[-1].start_ms < span.epoch_ms and len(history) > 1:
            new, history = _merged((history[-1], new)), history[:-1]
    else:
        history = ()
    old = [epoch for epoch in history if epoch.end_ms <= at_ms - span.keep_ms]
    kept = history[len(old) :]
    return (*((_merged(tuple(old)),) if old else ()), *kept, new)


def discounted(history: Sequence[Epoch], at_ms: int, half_life_ms: float) -> tuple[Floats, Floats]:
    """Impressions and outcomes (k,) as they weigh at `at_ms`: half after each half-life. Outcomes come later than their
    impressions, so with few impressions they can weigh more."""
    _positive("half_life_ms", half_life_ms)
    return _weighed(history, lambda start, end: discount_weights(start, end, at_ms, half_life_ms))


def windowed(history: Sequence[Epoch], at_ms: int, window_ms: float) -> tuple[Floats, Floats]:
    """Impressions and outcomes (k,) of the last `window_ms`; of an epoch across its edge the part inside, by time."""
    _positive("window_ms", window_ms)
    return _weighed(history, lambda start, end: window_weights(start, end, at_ms, window_ms))


def discount_weights(start_ms: ArrayLike, end_ms: ArrayLike, at_ms: float, half_life_ms: float) -> Floats:
    """Mean of 2^(−age / half-life) over evenly spread moments of each epoch; arrays of one shape."""
    start, end = np.asarray(start_ms, dtype=np.float64), np.asarray(end_ms, dtype=np.float64)
    rate = math.log(2.0) / half_life_ms
    length = np.maximum(end - start, 0.0) * rate
    long = length > 1e-9
    spread = np.where(long, -np.expm1(-length) / np.where(long, length, 1.0), 1.0)
    return np.asarray(np.exp(-rate * np.maximum(at_ms - end, 0.0)) * spread, dtype=np.float64)


def window_weights(start_ms: ArrayLike, end_ms: ArrayLike, at_ms: float, window_ms: float) -> Floats:
    """The part of each epoch that lies in the last `window_ms`; arrays of one shape."""
    start, end = np.asarray(start_ms, dtype=np.float64), np.asarray(end_ms, dtype=np.float64)
    edge = at_ms - window_ms
    length = end - start
    inside = np.clip((end - edge) / np.where(length > 0, length, 1.0), 0.0, 1.0)
    return np.where(length > 0, inside, (end > edge) * 1.0)


def _weighed(history: Sequence[Epoch], weights: _Weights) -> tuple[Floats, Floats]:
    if not history:
        raise ValueError("history: at least one epoch is needed")
    w = weights(np.array([epoch.start_ms for epoch in history]), np.array([epoch.end_ms for epoch in history]))
    n = np.array([epoch.impressions for epoch in history], dtype=np.float64)
    c = np.array([epoch.outcomes for epoch in history], dtype=np.float64)
    return (w[:, None] * n).sum(axis=0), (w[:, None] * c).sum(axis=0)


def _merged(epochs: Sequence[Epoch]) -> Epoch:
    return Epoch(
        start_ms=epochs[0].start_ms,
        end_ms=epochs[-1].end_ms,
        impressions=tuple(map(sum, zip(*(epoch.impressions for epoch in epochs), strict=True))),
        outcomes=tuple(map(sum, zip(*(epoch.outcomes for epoch in epochs), strict=True))),
    )


def _positive(name: str, value: float) -> float:
    if not 0 < value < math.inf:
        raise ValueError(f"{name}: must be positive and finite, got {value}")
    return value
