"""What is known of every experiment: configuration, decisions, where they stand. No I/O; the clock is an argument.

All of it belongs to one thread, the event loop. Bounds: `MAX_UNDEFINED` experiments that the catalogue does not have;
of each experiment the columns of `dashboard.timeline`, `LINES` lines of its log and `MOVES` moves of its canary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec

from dashboard.decision_view import decision_line, decision_view, move_of
from dashboard.records import Recorded
from dashboard.timeline import Place, Timeline
from dashboard.views import DecisionLine, DecisionView, Entry, Kind, MoveView
from sluice.domain.experiment import Experiment, configuration

__all__ = ["Arrived", "Board", "Known"]

MAX_UNDEFINED = 1000
LINES = 200
MOVES = 100
SPARK = 32
"""Points of the small curve in the list"""


class Arrived(NamedTuple):
    """A decision that was read from the topic."""

    recorded: Recorded
    place: Place


class Known:
    """All that is kept of one experiment."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.defined: Experiment | None = None
        self.timeline = Timeline()
        self.last: Arrived | None = None
        self.lines: deque[DecisionLine] = deque(maxlen=LINES)
        self.moves: deque[MoveView] = deque(maxlen=MOVES)
        self.updated_ms = 0
        self._view: DecisionView | None = None

    def take(self, arrived: Arrived) -> bool:
        """False for a decision that does not stand."""
        recorded, place = arrived
        if not self.timeline.offer(recorded, place):
            return False
        self.last, self._view = arrived, None
        self.lines.append(decision_line(recorded, place.wall_ms))
        move = move_of(recorded)
        if move is not None:
            self.moves.append(move)
        self.updated_ms = max(self.updated_ms, place.wall_ms)
        return True

    @property
    def view(self) -> DecisionView | None:
        """The latest decision."""
        if self._view is None and self.last is not None:
            self._view = decision_view(self.last.recorded, self.last.place.wall_ms, self.moves)
        return self._view

    @property
    def primary(self) -> str:
        if self.defined is not None:
            return self.defined.primary
        return self.last.recorded.setting("primary", "click") if self.last is not None else "click"

    @property
    def variants(self) -> tuple[str, ...]:
        if self.defined is not None:
            return tuple(variant.name for variant in self.defined.variants)
        return self.last.recorded.variants if self.last is not None else ()

    @property
    def configured(self) -> dict[str, Any] | None:
        """As the catalogue has it, else as the last decision tells it."""
        if self.defined is not None:
            return configuration(self.defined)
        return self.last.recorded.config or None if self.last is not None else None

    @property
    def state(self) -> dict[str, Any] | None:
        if self.defined is None:
            return None
        told: dict[str, Any] = msgspec.to_builtins(self.defined.state)
        return told

    def entry(self) -> Entry:
        recorded = self.last.recorded if self.last is not None else None
        totals = recorded.totals.values() if recorded is not None else ()
        control = self.defined.control_name if self.defined is not None else recorded.control if recorded else ""
        leader = recorded.leader if recorded is not None else None
        return Entry(
            name=self.name,
            status=self.defined.state.status if self.defined is not None else "unknown",
            kind=self._kind(),
            verdict=recorded.verdict if recorded is not None else None,
            reason=next(iter(recorded.reasons), None) if recorded is not None else None,
            version=recorded.version if recorded is not None else None,
            at_ms=recorded.at_ms if recorded is not None else -1,
            updated_ms=self.updated_ms,
            variants=self.variants,
            control=control,
            metric=self.primary,
            impressions=sum(impressions for impressions, _ in totals),
            clicks=sum(outcomes for _, outcomes in totals),
            leader=leader,
            defined=self.defined is not None,
            spark=self.timeline.rates(leader, SPARK),
        )

    def _kind(self) -> Kind:
        config = self.configured or {}
        if config.get("canary") is not None:
            return "canary"
        bandit = config.get("bandit")
        return "fixed" if isinstance(bandit, dict) and bandit.get("policy") == "fixed" else "bandit"


class Board:
    """Every experiment that the catalogue has or a decision names."""

    def __init__(self) -> None:
        self._known: dict[str, Known] = {}
        self.skipped = 0
        """Records that are no decision or no experiment, or of one experiment too many"""

    def find(self, name: str) -> Known | None:
        return self._known.get(name)

    def names(self) -> list[str]:
        return sorted(self._known)

    def entries(self) -> tuple[Entry, ...]:
        """In order of name."""
        return tuple(self._known[name].entry() for name in self.names())

    def take_decisions(self, batch: Iterable[Arrived]) -> dict[str, list[int]]:
        """Name → versions that now stand, of the experiments that moved on."""
        moved: dict[str, list[int]] = {}
        for arrived in batch:
            known = self._get(arrived.recorded.experiment)
            if known is None:
                self.skipped += 1
            elif known.take(arrived):
                moved.setdefault(known.name, []).append(arrived.recorded.version)
        return moved

    def define(self, name: str, experiment: Experiment | None, at_ms: int) -> Known | None:
        """An experiment as the catalogue now has it; None: it was deleted. Returns what is left of it."""
        if experiment is None:
            known = self._known.get(name)
            if known is not None and known.last is None:
                del self._known[name]
                return None
        else:
            known = self._known.setdefault(name, Known(name))
        if known is not None:
            known.defined = experiment
            known.updated_ms = max(known.updated_ms, at_ms)
        return known

    def forget_decisions(self) -> None:
        """The topic has begun anew."""
        kept = {name: known.defined for name, known in self._known.items() if known.defined is not None}
        self._known = {}
        for name, experiment in kept.items():
            self.define(name, experiment, 0)

    def _get(self, name: str) -> Known | None:
        found = self._known.get(name)
        if found is None and len(self._known) < MAX_UNDEFINED:
            found = self._known[name] = Known(name)
        return found
