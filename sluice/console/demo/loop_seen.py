"""What the demo of the loop sees on topics: the life of the model, and which version ranked which slate."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import NamedTuple

from sluice.domain.lifecycle_events import LifecycleEvent, Promoted, RolledBack
from sluice.domain.rankings import SlateRanked
from sluice.settings import Settings
from sluice.subscription import subscribe

__all__ = ["Ranked", "Reign", "Witness", "reigns", "seen"]


class Ranked(NamedTuple):
    """A slate that a version of the model ranked."""

    number: int
    """Of the slate in the log, from 0"""
    at_ms: int
    version: str
    user_id: str


class Reign(NamedTuple):
    """A version in force."""

    version: str
    begin: int
    """Number of the first slate that it ranked when the version before ranked no more"""


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


def reigns(events: Sequence[LifecycleEvent], ranked: Sequence[Ranked], first: str) -> list[Reign]:
    """Who was in force, in order, beginning with `first`. A canary still belongs to the version before it, and who was
    promoted and ranked nothing is left out."""
    found = [Reign(first, 0)]
    for event in events:
        match event:
            case Promoted(version=version, before=before):
                pass
            case RolledBack(version=before, to=version) if before == found[-1].version:
                pass
            case _:
                continue
        begin = _begin(ranked, before, version)
        if begin is not None:
            found.append(Reign(version, begin))
    return found


def _begin(ranked: Sequence[Ranked], before: str, version: str) -> int | None:
    own = [one.number for one in ranked if one.version == version]
    last = max((one.number for one in ranked if one.version == before and one.number < max(own, default=0)), default=-1)
    return min((number for number in own if number > last), default=None)
