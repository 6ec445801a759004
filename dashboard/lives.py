"""The lives of registered models as the page shows them: topic `lifecycle` folded, with the drift that was seen. Pure.

All of it belongs to one thread, the event loop. Bounds: `MAX_LIVES` lives, `SHOWN` events of each.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from msgspec import Struct

from dashboard.life_words import Tone, told
from sluice.domain.api_drift import DriftSeen
from sluice.domain.lifecycle import LifecycleState, fold
from sluice.domain.lifecycle_events import LifecycleEvent

__all__ = ["MAX_LIVES", "SHOWN", "AttemptView", "DriftView", "EventView", "LifeView", "Lives", "MeasureView"]

MAX_LIVES = 200
SHOWN = 50
FEATURES = 8
REASONS = 10
REASON = 500
"""Characters"""


class EventView(Struct, frozen=True, kw_only=True):
    id: str
    at_ms: int
    kind: str
    """Tag of the event (docs/lifecycle.md)"""
    tone: Tone
    words: str
    reasons: tuple[str, ...]
    by: str
    """Who, where a person did it"""


class AttemptView(Struct, frozen=True, kw_only=True):
    """The attempt to release a version that is under way, or the last one (stage `ended`)."""

    version: str
    stage: str
    share: int
    outcome: str
    reason: str
    began_ms: int


class MeasureView(Struct, frozen=True, kw_only=True):
    name: str
    effect: float | None
    """Of a feature Cliff's delta, −1 to 1; of performance the change in standard deviations between users"""
    drifted: bool


class DriftView(Struct, frozen=True, kw_only=True):
    """What a monitor last said, of the version in force where that is known."""

    version: str
    checked_ms: int
    rows: int
    drifted: bool
    settling: str | None
    """While it learns what is normal: how far that is, in words"""
    measures: tuple[MeasureView, ...]
    """Performance, then the worst features"""


class LifeView(Struct, frozen=True, kw_only=True):
    """One alias of a registered model; its version serves."""

    model: str
    alias: str
    in_force: str
    """Version; empty until an event has named one"""
    before: str
    promotions: int
    paused: str | None
    """Why, while it is"""
    attempt: AttemptView | None
    drift: DriftView | None
    events: tuple[EventView, ...]
    """The newest first"""


class _Life:
    def __init__(self) -> None:
        self.state = LifecycleState()
        self.events: deque[EventView] = deque(maxlen=SHOWN)

    def take(self, events: Iterable[LifecycleEvent]) -> None:
        """As many at once as there are: each fold copies what was seen."""
        fresh: dict[str, LifecycleEvent] = {}
        for event in events:
            if event.id not in self.state.seen:
                fresh.setdefault(event.id, event)
        self.state = fold(fresh.values(), self.state)
        for event in list(fresh.values())[-SHOWN:]:
            words = told(event)
            self.events.appendleft(
                EventView(
                    id=event.id, at_ms=event.at_ms, kind=words.kind, tone=words.tone, words=words.words,
                    reasons=tuple(reason[:REASON] for reason in words.reasons[:REASONS]), by=words.by,
                )
            )  # fmt: skip


class Lives:
    """Every model that an event or a monitor named."""

    def __init__(self) -> None:
        self._lives: dict[tuple[str, str], _Life] = {}
        self._of_any_alias: dict[str, deque[LifecycleEvent]] = {}
        self._drift: dict[str, tuple[DriftSeen, ...]] = {}

    def forget_events(self) -> None:
        """The topic has begun anew."""
        self._lives, self._of_any_alias = {}, {}

    def take(self, events: Iterable[LifecycleEvent]) -> set[str]:
        """Names of the models they concern."""
        concerned: set[str] = set()
        news: dict[_Life, list[LifecycleEvent]] = {}
        for event in events:
            if event.alias:
                lives = [self._life(event.model, event.alias)]
            else:
                lives = [self._lives[key] for key in self._lives if key[0] == event.model]
                lives = lives or [self._life(event.model, "")]
                self._of_any_alias.setdefault(event.model, deque(maxlen=SHOWN)).append(event)
            for life in lives:
                news.setdefault(life, []).append(event)
            concerned.add(event.model)
        for life, told_of_it in news.items():
            life.take(told_of_it)
        return concerned

    def see(self, seen: Sequence[DriftSeen]) -> set[str]:
        """What monitors say now. Names of the models of which they say something else than before."""
        found: dict[str, tuple[DriftSeen, ...]] = {}
        for one in seen:
            found[one.report.model] = (*found.get(one.report.model, ()), one)
        changed = {name for name in {*found, *self._drift} if found.get(name) != self._drift.get(name)}
        self._drift = found
        return changed

    def views(self, model: str | None = None) -> tuple[LifeView, ...]:
        """In order of name; of one model, or of all. A model that is only watched is a life without events."""
        keys = set(self._lives) | {(name, "") for name in self._drift if not any(key[0] == name for key in self._lives)}
        return tuple(self._view(key) for key in sorted(keys) if model in (None, key[0]))

    def _life(self, model: str, alias: str) -> _Life:
        found = self._lives.get((model, alias))
        if found is None:
            found = _Life()
            found.take(self._of_any_alias.get(model, ()))
            self._lives.pop((model, ""), None)  # stood for an alias that nothing had named
            if len(self._lives) < MAX_LIVES:
                self._lives[model, alias] = found
        return found

    def _view(self, key: tuple[str, str]) -> LifeView:
        life = self._lives.get(key) or _Life()
        state = life.state
        run = state.attempt
        return LifeView(
            model=key[0],
            alias=key[1],
            in_force=state.in_force,
            before=state.before,
            promotions=state.promotions,
            paused=state.paused.why if state.paused is not None else None,
            attempt=None if run is None else AttemptView(
                version=run.version, stage=run.stage, share=run.share, outcome=run.outcome, reason=run.reason[:REASON],
                began_ms=run.began_ms,
            ),
            drift=self._drift_of(key[0], state.in_force),
            events=tuple(life.events),
        )  # fmt: skip

    def _drift_of(self, model: str, version: str) -> DriftView | None:
        seen = tuple(one for one in self._drift.get(model, ()) if not one.report.part)
        found = next((one for one in seen if one.report.version == version), seen[0] if seen and not version else None)
        return None if found is None else _drift(found)


def _drift(seen: DriftSeen) -> DriftView:
    report, settling = seen.report, seen.report.settling
    measures = [
        MeasureView(name=one.name, effect=one.effect, drifted=one.drifted) for one in report.performance.measures
    ]
    measures += [
        MeasureView(name=one.name, effect=one.effect, drifted=one.drifted) for one in report.features[:FEATURES]
    ]
    return DriftView(
        version=report.version, checked_ms=seen.checked_ms, drifted=report.drifted,
        rows=report.window.rows if settling is None else settling.rows,
        settling=None if settling is None else f"{settling.users:,} of {settling.needed:,} users",
        measures=tuple(measures) if settling is None else (),
    )  # fmt: skip
