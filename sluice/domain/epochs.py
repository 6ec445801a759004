"""When evidence was counted, coarsely: what a decision remembers so that the next one can weigh old evidence less.

Library: msgspec.
"""

from __future__ import annotations

from msgspec import Struct

__all__ = ["Epoch"]


class Epoch(Struct, frozen=True, kw_only=True):
    """What was counted between two moments of event time, per variant in the order of the experiment."""

    start_ms: int
    """Exclusive"""
    end_ms: int
    """Inclusive; equal to `start_ms` when nothing is known about when it was counted"""
    impressions: tuple[int, ...]
    outcomes: tuple[float, ...]
    """Counted in the epoch, also those of earlier impressions; values where the experiment compares values"""
