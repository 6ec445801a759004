"""The router: units in, assignments out, a whole batch at a time.

Each batch goes one experiment at a time, as a column: who is outside (`router.plans`), what the others draw, what the
store holds of them, in one call for all experiments. Library: msgspec.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import NamedTuple

from msgspec import Struct

from router.plans import Plan, make_plan
from router.segments import Segmenter
from sluice.domain.allocation import allocation_key
from sluice.domain.assignment import AssignmentClaims, Claim, StoredAssignment
from sluice.domain.audience import Outside
from sluice.domain.events import MAX_ASSIGNMENTS, Assignment, AssignmentMade, UnitKind
from sluice.domain.experiment import Experiment
from sluice.errors import ConfigError, TransportError

__all__ = ["AssignmentRequest", "Exposures", "Routed", "Router", "carried"]

log = logging.getLogger(__name__)

Exposures = Callable[[Sequence[AssignmentMade]], None]
"""Takes the exposure log of one batch. Whatever it raises reaches the caller of `assign`."""

FIRST_WAIT_S = 0.05
LONGEST_WAIT_S = 2.0
_NO_ATTRIBUTES: Mapping[str, str] = MappingProxyType({})


class AssignmentRequest(NamedTuple):
    """One user at one moment, and the ids of the units the moment belongs to. `user` defaults to the user id."""

    user_id: str
    units: Mapping[UnitKind, str]
    at_ms: int
    attributes: Mapping[str, str] = _NO_ATTRIBUTES
    """What is known of user or moment; those that an experiment names (`segments`) say where it is also counted"""


class Routed(Struct, frozen=True, gc=False):
    """What one experiment answered to one request."""

    experiment: str
    variant: str
    """What the request is shown"""
    assignment: Assignment | None
    """As the unit's impressions carry it; None when the unit is outside the experiment."""
    outside: Outside | None = None
    """Why it is"""
    version: int = 0
    """Version of the allocation it was drawn from."""
    sticky: bool = False
    """True when it came from an earlier request of the unit."""
    segments: tuple[Assignment, ...] = ()
    """The same assignment under the names of the segments this request belongs to."""


def carried(answer: Sequence[Routed]) -> tuple[Assignment, ...]:
    """What the impressions of one request carry: every experiment's assignment, then those of the segments.

    There is room for `MAX_ASSIGNMENTS`; what comes after them is not counted.
    """
    assignments = [routed.assignment for routed in answer if routed.assignment is not None]
    return (*assignments, *[part for routed in answer for part in routed.segments])[:MAX_ASSIGNMENTS]


Drawn = StoredAssignment | None
"""None: left out by the bucketing"""
Answer = tuple[StoredAssignment, bool]
"""(in force, made by this call)"""
Cell = Routed | str
"""Of a column of answers while it is made: the unit that is in, or what is told to one that is outside"""


class Router:
    """Gives units their variants: deterministic from the unit, the salt and the allocation, sticky in `store`.

    Safe to `define`, `remove` and `update` from other threads while one thread assigns. Use as a context manager, or
    `close` it.
    """

    def __init__(
        self,
        experiments: Iterable[Experiment],
        store: AssignmentClaims,
        *,
        exposures: Exposures | None = None,
        retry_s: float = 30.0,
        stop: threading.Event | None = None,
    ) -> None:
        """Every experiment starts with its starting allocation, version 0.

        `retry_s`: seconds for which `assign` retries, with backoff, while the store is away; `stop` ends that.
        """
        self._store = store
        self._exposures = exposures
        self._retry_s = retry_s
        self._closing = threading.Event()
        self._stop = stop or self._closing
        self._on_close: list[Callable[[], None]] = []
        self._lock = threading.Lock()
        given = tuple(experiments)
        # Replaced as a whole, never altered: a batch sees one state of everything.
        self._plans = {e.name: make_plan(e, 0, e.starting_allocation) for e in given}
        if len(self._plans) != len(given):
            raise ConfigError("two experiments of one router share a name; names are unique")
        self._segmenter = Segmenter(_open(self._plans))
        self._begun_s = time.monotonic()
        self._updated_s: dict[str, float] = {}

    @property
    def experiments(self) -> tuple[Experiment, ...]:
        """Those it answers for, in the order of its answers."""
        return tuple(plan.experiment for plan in self._plans.values())

    def allocation(self, experiment: str) -> tuple[int, dict[str, int]]:
        """(version, variant → whole percents) with which new units of `experiment` are drawn now, but the reserved."""
        plan = self._plans[experiment]
        return plan.version, dict(plan.shares)

    def allocation_age_s(self, experiment: str) -> float:
        """Seconds since this router took up the allocation of `experiment` that is in use."""
        return time.monotonic() - self._updated_s.get(experiment, self._begun_s)

    def define(self, experiment: Experiment) -> None:
        """Answer for `experiment` from now on as it is given here; the allocation in force stays, if it still fits."""
        name = experiment.name
        with self._lock:
            before = self._plans.get(name)
            fits = (
                before is not None and before.version and before.shares.keys() == experiment.starting_allocation.keys()
            )
            version, shares = (
                (before.version, before.shares) if before and fits else (0, experiment.starting_allocation)
            )
            self._replan({**self._plans, name: make_plan(experiment, version, shares)})

    def remove(self, experiment: str) -> None:
        """Answer for it no more."""
        with self._lock:
            self._replan({name: plan for name, plan in self._plans.items() if name != experiment})

    def update(self, experiment: str, version: int, shares: Mapping[str, int]) -> bool:
        """Draw new units from `shares` from now on; True unless it is old or not an allocation of the experiment."""
        with self._lock:
            plan = self._plans.get(experiment)
            if plan is None:
                return False
            if shares.keys() != plan.variants or sum(shares.values()) != 100 or min(shares.values()) < 0:
                log.warning(
                    "experiment %s: allocation %d (%s) ignored: expected whole percents of %s that sum to 100",
                    experiment, version, allocation_key(shares)[:200], ", ".join(sorted(plan.variants)),
                    extra={"experiment": experiment, "version": version},
                )  # fmt: skip
                return False
            if version <= plan.version:
                return False
            self._plans = {**self._plans, experiment: make_plan(plan.experiment, version, shares)}
            self._updated_s[experiment] = time.monotonic()
        return True

    def assign(
        self, requests: Sequence[AssignmentRequest], only: Collection[str] | None = None
    ) -> list[tuple[Routed, ...]]:
        """One tuple a request, one `Routed` an experiment, both in order; one round trip to the store.

        A unit that was assigned before keeps its variant, propensity and allocation, unless the experiment is a
        roll-out. A unit that occurs twice in the batch is sticky the second time. A unit outside an experiment is
        told what it sees and why. only: names of the experiments that answer; all by default. Raises ConfigError
        when a request lacks the unit an experiment randomises, TransportError when the store stays away (the call
        can be repeated).
        """
        plans = [plan for name, plan in self._plans.items() if only is None or name in only]
        columns = [_ask(plan, requests) for plan in plans]
        drawn = [_draw(plan, column) for plan, column in zip(plans, columns, strict=True)]
        found = self._claim(plans, drawn)
        filled = [
            self._fill(plan, column, requests, answers)
            for plan, column, answers in zip(plans, columns, found, strict=True)
        ]
        answers: list[tuple[Routed, ...]] = list(zip(*filled, strict=True)) if filled else [()] * len(requests)
        if self._exposures is not None:
            self._log(plans, requests, answers)
        return answers

    def on_close(self, action: Callable[[], None]) -> None:
        """Run `action` when the router is closed, last one first."""
        self._on_close.append(action)

    def close(self) -> None:
        """Stop retrying and close what was made for this router. Closing twice does nothing."""
        self._closing.set()
        while self._on_close:
            self._on_close.pop()()

    def __enter__(self) -> Router:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _replan(self, plans: dict[str, Plan]) -> None:
        self._segmenter.follow(_open(plans))
        self._plans = plans

    def _claim(self, plans: Sequence[Plan], drawn: Sequence[dict[str, Drawn]]) -> list[dict[str, Answer]]:
        """Unit → (what is in force, made by this call) for each plan, in one call of the store."""
        claims = [
            Claim(plan.experiment.name, unit, wanted, plan.ttl_ms)
            for plan, units in zip(plans, drawn, strict=True)
            if plan.sticky
            for unit, wanted in units.items()
            if wanted is not None
        ]
        answers = iter(self._patiently(lambda: self._store.claim(claims)) if claims else [])
        found: list[dict[str, Answer]] = []
        for plan, units in zip(plans, drawn, strict=True):
            inside = [unit for unit, wanted in units.items() if wanted is not None] if plan.leaves_out else units
            if plan.sticky:
                found.append(dict(zip(inside, answers, strict=False)))
                self._draw_again(plan, units, found[-1])
            else:
                found.append({unit: (wanted, True) for unit, wanted in units.items() if wanted is not None})
        return found

    def _draw_again(self, plan: Plan, drawn: Mapping[str, Drawn], found: dict[str, Answer]) -> None:
        """A variant that has left the experiment can no longer be shown."""
        if plan.variants.issuperset([stored.variant for stored, _ in found.values()]):
            return
        gone = [
            (Claim(plan.experiment.name, unit, wanted, plan.ttl_ms), stored)
            for unit, (stored, _) in found.items()
            if stored.variant not in plan.variants and (wanted := drawn[unit]) is not None
        ]
        replaced = self._patiently(lambda: self._store.replace(gone))
        found.update((claim.unit, answer) for (claim, _), answer in zip(gone, replaced, strict=True))

    def _fill(
        self,
        plan: Plan,
        column: Sequence[Cell],
        requests: Sequence[AssignmentRequest],
        found: dict[str, Answer],
    ) -> list[Routed]:
        """The column with every unit that is in answered."""
        name, kind = plan.experiment.name, plan.experiment.unit
        parts = self._segmenter.parts if plan.experiment.segments else None
        left_out = Routed(name, plan.experiment.control_name, None, "traffic")
        repeats = plan.sticky and len(found) < len(column)
        answers = []
        for row, cell in enumerate(column):
            if not isinstance(cell, str):
                answers.append(cell)
                continue
            answer = found.get(cell)
            if answer is None:
                answers.append(left_out)
                continue
            stored, made = answer
            if made and repeats:
                found[cell] = (stored, False)
            assignment = Assignment(name, stored.variant, stored.allocation, cell, stored.propensity, kind)
            segments = parts(assignment, requests[row].attributes) if parts else ()
            answers.append(Routed(name, stored.variant, assignment, None, stored.version, not made, segments))
        return answers

    def _log(
        self, plans: Sequence[Plan], requests: Sequence[AssignmentRequest], answers: Sequence[Sequence[Routed]]
    ) -> None:
        """Tell the exposure log who was given what, and who was held out."""
        exposures = []
        held = {
            plan.experiment.name: (plan.experiment.unit, plan.experiment.holdout.share)
            for plan in plans
            if plan.experiment.holdout is not None
        }
        for request, answer in zip(requests, answers, strict=True):
            for routed in answer:
                assignment = routed.assignment
                if assignment is not None:
                    exposures.append(
                        AssignmentMade(
                            experiment=routed.experiment, variant=routed.variant, unit=assignment.unit,
                            unit_kind=assignment.unit_kind, user_id=request.user_id, allocation=assignment.allocation,
                            allocation_version=routed.version, propensity=assignment.propensity,
                            at_ms=request.at_ms, sticky=routed.sticky,
                        )
                    )  # fmt: skip
                elif routed.outside == "holdout" and routed.experiment in held:
                    kind, share = held[routed.experiment]
                    exposures.append(
                        AssignmentMade(
                            experiment=routed.experiment, variant=routed.variant, unit=_unit(request, kind),
                            unit_kind=kind, user_id=request.user_id, allocation="", allocation_version=0,
                            propensity=share, at_ms=request.at_ms, outside="holdout",
                        )
                    )  # fmt: skip
        if self._exposures is not None and exposures:
            self._exposures(exposures)

    def _patiently(self, ask: Callable[[], list[tuple[StoredAssignment, bool]]]) -> list[tuple[StoredAssignment, bool]]:
        wait_s, waited_s = FIRST_WAIT_S, 0.0
        while True:
            try:
                return ask()
            except TransportError as error:
                if waited_s >= self._retry_s or self._stop.is_set() or self._closing.is_set():
                    raise TransportError(f"{error} (retried for {waited_s:.1f} s)") from error
                if not waited_s:
                    log.warning("assignments: %s; retrying", error)
                self._stop.wait(wait_s)
                waited_s += wait_s
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)


def _open(plans: Mapping[str, Plan]) -> list[Experiment]:
    """Those that give assignments."""
    return [plan.experiment for plan in plans.values() if plan.closed is None]


def _ask(plan: Plan, requests: Sequence[AssignmentRequest]) -> list[Cell]:
    """The unit of each request, or what it is told where it is outside."""
    experiment = plan.experiment
    name, kind = experiment.name, experiment.unit
    if plan.closed is not None:
        return [Routed(name, plan.closed[0], None, plan.closed[1])] * len(requests)
    units = [_unit(request, kind) for request in requests]
    if not all(units):
        given = sorted(requests[units.index("")].units) or "no units"
        raise ConfigError(f"experiment {name} randomises by {kind}; the request has {given}")
    shunts = plan.shunts
    if shunts is None:
        return [*units]
    told = (shunts(unit, asks.user_id, asks.attributes) for unit, asks in zip(units, requests, strict=True))
    return [unit if why is None else Routed(name, why[0], None, why[1]) for unit, why in zip(units, told, strict=True)]


def _draw(plan: Plan, column: Sequence[Cell]) -> dict[str, Drawn]:
    """Unit → what it draws, each once."""
    if plan.closed is not None:
        return {}
    draw = plan.draw
    return {unit: draw(unit) for unit in dict.fromkeys(column) if isinstance(unit, str)}


def _unit(request: AssignmentRequest, kind: UnitKind) -> str:
    return request.units.get(kind) or (request.user_id if kind == "user" else "")
