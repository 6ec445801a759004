"""What the demo of the loop sees on topics: the life of the model, and which version ranked which slate."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import NamedTuple

from sluice.domain.lifecycle_events import LifecycleEvent
from sluice.domain.rankings import SlateRanked
from sluice.settings import Settings
from sluice.subscription import subscribe

__all__ = ["Ranked", "Witness", "reign", "seen"]


class Ranked(NamedTuple):
    """A slate that a version of the model ranked."""

    number: int
    """Of the slate in the log, from 0"""
    at_ms: int
    version: str
    user_id: str


class Witness:
    """Reads both topics as they grow. Use as a context manager. Raises TransportError when the broker is away."""

    def __init__(self, settings: Settings, experiment: str) -> None:
        self.events: list[LifecycleEvent] = []
        self.ranked: list[Ranked] = []
        """What the model ranked, in the order of reading"""
        self.at_ms = 0
        """Event time that the replay has reached"""
        self._seen: set[str] = set()
        with ExitStack() as closing:
            self._life = closing.enter_context(subscribe("lifecycle", from_start=True, settings=settings))
            self._rankings = closing.enter_context(
                subscribe("rankings", experiment=experiment, from_start=True, settings=settings)
            )
            self._closing = closing.pop_all()

    def look(self) -> Sequence[LifecycleEvent]:
        """Read on; the events that are new, once each."""
        for slate in self._rankings.poll():
            self.at_ms = max(self.at_ms, slate.at_ms)
            if slate.model_version:
                self.ranked.append(seen(slate))
        new = [event for event in self._life.poll() if event.id not in self._seen]
        self._seen.update(event.id for event in new)
        self.events += new
        return new

    def __enter__(self) -> Witness:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()


def seen(slate: SlateRanked) -> Ranked:
    """Who ranked it; the last part of a slate's name is its number in the log."""
    number = int(slate.slate_id.rpartition(".")[2], 36)
    return Ranked(number, slate.at_ms, slate.model_version, slate.user_id)


def reign(ranked: Sequence[Ranked], before: str, version: str) -> Sequence[Ranked]:
    """What `version` ranked once `before` had ranked its last, in the order of the log; empty when it ranked nothing.

    Its canary is left out, and so is what `before` ranked after it was brought back.
    """
    own = sorted(one for one in ranked if one.version == version)
    if not own:
        return own
    last = max((one.number for one in ranked if one.version == before and one.number < own[-1].number), default=-1)
    return [one for one in own if one.number > last]
