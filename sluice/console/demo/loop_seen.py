"""What the demo of the loop sees on topics: the life of the model, and which version served when."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from msgspec import Struct

from sluice.domain.lifecycle_events import LifecycleEvent
from sluice.domain.rankings import SlateRanked
from sluice.settings import Settings
from sluice.subscription import subscribe

__all__ = ["Served", "Witness"]


class Served(Struct):
    """Slates that one version ranked, by number and event time."""

    first: int
    first_ms: int
    last: int
    slates: int = 1

    def add(self, number: int, at_ms: int) -> None:
        if number < self.first:
            self.first, self.first_ms = number, at_ms
        self.last = max(self.last, number)
        self.slates += 1


class Witness:
    """Reads both topics as they grow. Use as a context manager. Raises TransportError when the broker is away."""

    def __init__(self, settings: Settings, experiment: str) -> None:
        self.events: list[LifecycleEvent] = []
        self.served: dict[str, Served] = {}
        """Version of the model → what it ranked"""
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
            self._take(slate)
        new = [event for event in self._life.poll() if event.id not in self._seen]
        self._seen.update(event.id for event in new)
        self.events += new
        return new

    def __enter__(self) -> Witness:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def _take(self, slate: SlateRanked) -> None:
        self.at_ms = max(self.at_ms, slate.at_ms)
        if not slate.model_version:
            return
        number = int(slate.slate_id.rpartition(".")[2], 36)
        known = self.served.get(slate.model_version)
        if known is None:
            self.served[slate.model_version] = Served(number, slate.at_ms, number)
        else:
            known.add(number, slate.at_ms)
