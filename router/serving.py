"""The router as a service: assignments and rankings in batches, through everything that may be slow or away."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from msgspec.structs import replace

from router import following
from router.batching import Batcher
from router.courier import Courier
from router.decisions import DecisionBoard
from router.degrading import Breaker, GuardedClaims
from router.live import AllocationFollower, CatalogueFollower
from router.metrics import Metrics
from router.routing import AssignmentRequest, Routed, Router
from router.scoring import Scoring
from router.spool import Record, Spool
from sluice.adapters.allocations import AllocationStore
from sluice.adapters.assignments import AssignmentStore
from sluice.adapters.features import FeatureStore
from sluice.adapters.redis import connect, ping, wait_for_redis
from sluice.domain.events import AssignmentMade, encode
from sluice.domain.experiment import Experiment
from sluice.errors import ConfigError, InvalidEvent, TransportError
from sluice.names import ASSIGNMENTS, Keys
from sluice.settings import Settings

__all__ = ["Assigned", "Service", "build_service"]

log = logging.getLogger(__name__)

HOT_TIMEOUT_S = 0.1
"""Longest wait for Redis on the way of a request; then the circuit opens"""
SPOOL_FOLDER = "spool"


class Ask(NamedTuple):
    """What `Router.assign` is asked by one HTTP request."""

    requests: Sequence[AssignmentRequest]
    only: tuple[str, ...] | None = None


class Assigned(NamedTuple):
    """What `Router.assign` answered to some requests, in order."""

    answers: list[tuple[Routed, ...]]
    degraded: bool


@dataclass
class Service:
    """Everything behind the HTTP API; `build_service` makes it, `close` ends it."""

    settings: Settings
    router: Router
    metrics: Metrics
    courier: Courier
    spool: Spool
    breaker: Breaker
    board: DecisionBoard
    assigning: Batcher[Ask, Assigned]
    scoring: Scoring
    closing: threading.Event = field(default_factory=threading.Event)
    _closers: list[Callable[[], None]] = field(default_factory=list)

    def begin_closing(self) -> None:
        """Let streams end and balancers look elsewhere; everything else goes on until `close`."""
        self.closing.set()
        self.board.wake()

    def close(self) -> None:
        """End every thread; what was taken in is on the broker or on the disk."""
        while self._closers:
            try:
                self._closers.pop()()
            except TransportError as error:
                log.warning("while closing: %s", error)


class _Assigner:
    """Runs in the thread of the batcher, one batch at a time."""

    def __init__(self, claims: GuardedClaims, metrics: Metrics, courier: Courier, versions: Callable[[str, str], str]):
        self._claims = claims
        self._metrics = metrics
        self._courier = courier
        self._versions = versions
        self.router: Router | None = None

    def expose(self, made: Sequence[AssignmentMade]) -> None:
        """The exposure log of one batch, and its counts."""
        degraded = self._claims.degraded
        records = [Record(ASSIGNMENTS, one.user_id, encode(one)) for one in made] if not degraded else [
            Record(ASSIGNMENTS, one.user_id, encode(replace(one, degraded=True))) for one in made
        ]  # fmt: skip
        self._courier.post(records)
        for (experiment, variant), number in Counter([(one.experiment, one.variant) for one in made]).items():
            version = self._versions(experiment, variant)
            self._metrics.count("sluice_assignments_total", experiment, variant, version, by=number)
            if degraded:
                self._metrics.count("sluice_assignments_degraded_total", experiment, by=number)

    def work(self, batch: Sequence[Ask]) -> list[Assigned | Exception]:
        """One call of `Router.assign` for all that ask the same experiments; where one is wrong, one call each."""
        begun = time.perf_counter()
        groups: dict[tuple[str, ...] | None, list[int]] = {}
        for place, ask in enumerate(batch):
            groups.setdefault(ask.only, []).append(place)
        found: dict[int, Assigned | Exception] = {}
        for only, places in groups.items():
            asked = [batch[place].requests for place in places]
            try:
                found |= zip(places, self._assign(asked, only), strict=True)
            except (ConfigError, InvalidEvent):
                found |= {place: self._single(batch[place]) for place in places}
        self._metrics.observe("sluice_assignment_batch_seconds", time.perf_counter() - begun)
        return [found[place] for place in range(len(batch))]

    def _single(self, ask: Ask) -> Assigned | Exception:
        try:
            return self._assign([ask.requests], ask.only)[0]
        except (ConfigError, InvalidEvent) as error:  # what stands in Redis under this unit's key is not ours
            return error

    def _assign(self, asked: list[Sequence[AssignmentRequest]], only: tuple[str, ...] | None) -> list[Assigned]:
        assert self.router is not None
        self._claims.degraded = False
        answers = iter(self.router.assign([request for requests in asked for request in requests], only))
        degraded = self._claims.degraded
        return [Assigned([next(answers) for _ in requests], degraded) for requests in asked]


def build_service(settings: Settings, *, spool_bytes: int = 256 * 1024 * 1024) -> Service:
    """Connect everything and return once allocations and models are known.

    Raises TransportError when Redis or the broker is away: a service that starts must know the allocations in force.
    ConfigError for what is not configured right.
    """
    closers: list[Callable[[], None]] = []
    try:
        return _build(settings, spool_bytes, closers)
    except BaseException:
        while closers:
            closers.pop()()
        raise


def _build(settings: Settings, spool_bytes: int, closers: list[Callable[[], None]]) -> Service:
    keys, metrics = Keys(settings.prefix), Metrics()
    patient = wait_for_redis(settings)
    closers.append(patient.close)
    spool = Spool(settings.state / SPOOL_FOLDER, max_bytes=spool_bytes)
    courier = Courier(settings, spool)
    closers.append(courier.close)
    hot = connect(settings, timeout_s=HOT_TIMEOUT_S)
    closers.append(hot.close)
    store = AssignmentStore(hot, keys)
    breaker = Breaker("Redis", lambda: ping(hot))
    closers.append(breaker.close)
    claims = GuardedClaims(store, breaker)
    scoring = Scoring(settings, FeatureStore(hot, keys), breaker, metrics)
    closers.append(scoring.close)
    assigner = _Assigner(claims, metrics, courier, scoring.version)
    router = Router((), claims, exposures=assigner.expose, retry_s=0)
    closers.append(router.close)
    assigner.router = router
    changed: dict[str, float] = {}

    def update(experiment: str, version: int, shares: Mapping[str, int]) -> bool:
        taken = router.update(experiment, version, shares)
        if taken:
            changed[experiment] = time.monotonic()
        return taken

    allocations = AllocationFollower(settings, AllocationStore(patient, keys), (), update)
    closers.append(allocations.close)
    define = following(router, None, allocations.follow)

    def followed(name: str, experiment: Experiment | None) -> None:
        define(name, experiment)
        scoring.follow(router.experiments)

    closers.append(CatalogueFollower(settings, followed).close)
    board = DecisionBoard(settings)
    closers.append(board.close)
    assigning: Batcher[Ask, Assigned] = Batcher(assigner.work, name="router-assign")
    closers.append(assigning.close)
    service = Service(settings, router, metrics, courier, spool, breaker, board, assigning, scoring,
                      _closers=closers)  # fmt: skip
    scoring.wait()
    begun = time.monotonic()
    metrics.read_from(lambda: _readings(service, changed, begun))
    return service


def _readings(
    service: Service, changed: Mapping[str, float], begun: float
) -> Iterator[tuple[str, tuple[str, ...], float]]:
    now = time.monotonic()
    yield "sluice_waiting", ("assign",), len(service.assigning)
    yield "sluice_waiting", ("rank",), len(service.scoring)
    yield "sluice_waiting", ("kafka",), service.courier.queued
    yield "sluice_spool_bytes", (), service.spool.bytes
    yield "sluice_records_lost_total", (), service.courier.lost
    yield "sluice_away", ("redis",), service.breaker.open
    yield "sluice_away", ("kafka",), service.courier.spooling
    for experiment in service.router.experiments:
        name = experiment.name
        yield "sluice_allocation_version", (name,), service.router.allocation(name)[0]
        yield "sluice_allocation_age_seconds", (name,), now - changed.get(name, begun)
    for model, version in service.scoring.versions().items():
        yield "sluice_model_version", (model, version), 1
