"""The router: units in, assignments out, a whole batch at a time.

Each experiment may keep a *reserve* (`bandit.reserve`): units whose place under the salt `{salt}/reserve` lies below
it are drawn uniformly, whatever the allocation in force, and say so by key and propensity. Membership depends on
nothing but the unit and the salt, so within either part the propensity is that of the allocation it names. Their
allocation version is 0, as nothing that was decided later has a say in them.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import NamedTuple

from router.segments import Segmenter
from sluice.domain.allocation import allocation_key, choose, equal_percents
from sluice.domain.assignment import AssignmentClaims, Claim, StoredAssignment
from sluice.domain.bucketing import bucket
from sluice.domain.events import Assignment, AssignmentMade, UnitKind
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


class Routed(NamedTuple):
    """What one experiment answered to one request."""

    assignment: Assignment
    """As the unit's impressions carry it."""
    version: int
    """Version of the allocation it was drawn from."""
    sticky: bool
    """True when it came from an earlier request of the unit."""
    segments: tuple[Assignment, ...] = ()
    """The same assignment under the names of the segments this request belongs to."""


def carried(answer: Sequence[Routed]) -> tuple[Assignment, ...]:
    """What the impressions of one request carry: every experiment's assignment, then those of the segments."""
    return (*[routed.assignment for routed in answer], *[part for routed in answer for part in routed.segments])


class _InForce(NamedTuple):
    version: int
    shares: Mapping[str, int]
    stored: Mapping[str, StoredAssignment]
    """Variant → what is remembered of a unit that draws it now; variants of share 0 cannot be drawn."""

    def draw(self, place: float) -> StoredAssignment:
        """What is remembered of a unit at `place` in [0, 1)."""
        return self.stored[choose(self.shares, place)]


class Router:
    """Gives units their variants: deterministic from the unit, the salt and the allocation, sticky in `store`.

    Safe to `update` from another thread while one thread assigns. Use as a context manager, or `close` it.
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
        self.experiments = tuple(experiments)
        self._store = store
        self._exposures = exposures
        self._retry_s = retry_s
        self._closing = threading.Event()
        self._stop = stop or self._closing
        self._on_close: list[Callable[[], None]] = []
        self._update_lock = threading.Lock()
        self._in_force = {e.name: _in_force(0, e.starting_allocation) for e in self.experiments}
        self._uniform = {e.name: _in_force(0, e.uniform_allocation) for e in self.experiments if e.bandit.reserve}
        self._segmenter = Segmenter(self.experiments)
        self._variants = {e.name: frozenset(variant.name for variant in e.variants) for e in self.experiments}
        if len(self._in_force) != len(self.experiments):
            raise ConfigError("two experiments of one router share a name; names are unique")

    def allocation(self, experiment: str) -> tuple[int, dict[str, int]]:
        """(version, variant → whole percents) with which new units of `experiment` are drawn now, but the reserved."""
        version, shares, _ = self._in_force[experiment]
        return version, dict(shares)

    def update(self, experiment: str, version: int, shares: Mapping[str, int]) -> bool:
        """Draw new units from `shares` from now on; True unless it is old or not an allocation of the experiment."""
        current = self._in_force.get(experiment)
        if current is None:
            return False
        if shares.keys() != self._variants[experiment] or sum(shares.values()) != 100 or min(shares.values()) < 0:
            log.warning(
                "experiment %s: allocation %d (%s) ignored: expected whole percents of %s that sum to 100",
                experiment, version, allocation_key(shares)[:200], ", ".join(sorted(self._variants[experiment])),
            )  # fmt: skip
            return False
        with self._update_lock:
            if version <= self._in_force[experiment].version:
                return False
            self._in_force[experiment] = _in_force(version, dict(shares))
            if experiment in self._uniform:
                # A variant that a guardrail has taken out of the traffic is not shown for the sake of a comparison.
                shown = [name for name in self._uniform[experiment].shares if shares[name]]
                self._uniform[experiment] = _in_force(0, dict.fromkeys(shares, 0) | equal_percents(shown))
        return True

    def assign(self, requests: Sequence[AssignmentRequest]) -> list[tuple[Routed, ...]]:
        """One tuple a request, one `Routed` an experiment, both in order; one round trip to the store.

        A unit that was assigned before keeps its variant, propensity and allocation. A unit that occurs twice
        in the batch is sticky the second time. Raises ConfigError when a request lacks the unit an experiment
        randomises, TransportError when the store stays away (the call can be repeated).
        """
        claims: dict[tuple[str, str], Claim] = {}
        wanted: list[list[tuple[str, str]]] = [[] for _ in requests]
        for experiment in self.experiments:
            name, kind, salt = experiment.name, experiment.unit, experiment.salt or experiment.name
            in_force, uniform, reserve = self._in_force[name], self._uniform.get(name), experiment.bandit.reserve
            ttl_ms = experiment.assignment_ttl_s * 1000
            for request, keys in zip(requests, wanted, strict=True):
                unit = request.units.get(kind) or (request.user_id if kind == "user" else "")
                if not unit:
                    raise ConfigError(
                        f"experiment {name} randomises by {kind}; the request has {sorted(request.units) or 'no units'}"
                    )
                key = (name, unit)
                keys.append(key)
                if key not in claims:
                    reserved = uniform if uniform and bucket(f"{salt}/reserve", unit) < reserve else None
                    claims[key] = Claim(name, unit, (reserved or in_force).draw(bucket(salt, unit)), ttl_ms)
        return self._answer(requests, wanted, self._claim(claims))

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

    def _answer(
        self,
        requests: Sequence[AssignmentRequest],
        wanted: Sequence[Sequence[tuple[str, str]]],
        in_force: dict[tuple[str, str], tuple[StoredAssignment, bool]],
    ) -> list[tuple[Routed, ...]]:
        kinds = {experiment.name: experiment.unit for experiment in self.experiments}
        exposures: list[AssignmentMade] = []
        answers = []
        for request, keys in zip(requests, wanted, strict=True):
            answer = []
            for key in keys:
                stored, made = in_force[key]
                if made:
                    in_force[key] = (stored, False)
                name, unit = key
                kind = kinds[name]
                assignment = Assignment(name, stored.variant, stored.allocation, unit, stored.propensity, kind)
                segments = self._segmenter.parts(assignment, request.attributes)
                answer.append(Routed(assignment, stored.version, not made, segments))
                if self._exposures is not None:
                    exposures.append(
                        AssignmentMade(
                            experiment=name, variant=stored.variant, unit=unit, unit_kind=kind,
                            user_id=request.user_id, allocation=stored.allocation,
                            allocation_version=stored.version, propensity=stored.propensity,
                            at_ms=request.at_ms, sticky=not made,
                        )
                    )  # fmt: skip
            answers.append(tuple(answer))
        if self._exposures is not None and exposures:
            self._exposures(exposures)
        return answers

    def _claim(self, claims: dict[tuple[str, str], Claim]) -> dict[tuple[str, str], tuple[StoredAssignment, bool]]:
        batch = list(claims.values())
        answers = self._patiently(lambda: self._store.claim(batch))
        in_force = dict(zip(claims, answers, strict=True))
        # A variant that has left the experiment can no longer be shown: its units are drawn again.
        gone = [
            (claims[key], stored)
            for key, (stored, made) in in_force.items()
            if not made and stored.variant not in self._variants[key[0]]
        ]
        if gone:
            replaced = self._patiently(lambda: self._store.replace(gone))
            in_force.update(((c.experiment, c.unit), answer) for (c, _), answer in zip(gone, replaced, strict=True))
        return in_force

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


def _in_force(version: int, shares: Mapping[str, int]) -> _InForce:
    key = allocation_key(shares)
    stored = {n: StoredAssignment(n, key, version, share / 100) for n, share in shares.items() if share}
    return _InForce(version, shares, stored)
