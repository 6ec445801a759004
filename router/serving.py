"""The router as a service: assignments and rankings in batches, through everything that may be slow or away."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from msgspec.structs import replace

from router import following
from router.batching import Batcher
from router.courier import Courier
from router.decisions import DecisionBoard
from router.degrading import Breaker, GuardedClaims
from router.heartbeats import Heartbeats
from router.live import AllocationFollower, CatalogueFollower
from router.ranking_log import RankingLog
from router.routing import AssignmentRequest, Routed, Router
from router.scoring import Scoring
from router.shadow import Shadows, Work
from router.shadow_worker import run as shadow_work
from router.spool import Record, Spool
from router.tally import allocation_readings, count_assignments
from sluice.adapters.allocations import AllocationStore
from sluice.adapters.assignments import AssignmentStore
from sluice.adapters.features import FeatureStore
from sluice.adapters.kafka import missing_topics
from sluice.adapters.metrics import Metrics, Reading, experiment_readings
from sluice.adapters.redis import connect, ping, wait_for_redis
from sluice.domain.events import AssignmentMade, encode
from sluice.domain.experiment import Experiment
from sluice.errors import ConfigError, InvalidEvent, TransportError
from sluice.names import ASSIGNMENTS, SHADOW, Keys
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
    heartbeats: Heartbeats
    spool: Spool
    breaker: Breaker
    board: DecisionBoard
    assigning: Batcher[Ask, Assigned]
    scoring: Scoring
    shadows: Shadows
    rankings: RankingLog
    closing: threading.Event = field(default_factory=threading.Event)
    _closers: list[Callable[[], None]] = field(default_factory=list)

    def in_use(self) -> Iterator[tuple[Experiment, int, dict[str, int]]]:
        """(experiment, version of its allocation, variant → whole percents) of all that are served now."""
        for experiment in self.router.experiments:
            try:
                version, shares = self.router.allocation(experiment.name)
            except KeyError:
                continue  # deleted this moment
            yield experiment, version, shares

    def away(self) -> dict[str, bool]:
        """Server → whether the service does without it."""
        return {"redis": self.breaker.open, "kafka": self.courier.spooling}

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
        count_assignments(self._metrics, made, self._versions)
        if degraded:
            for experiment, number in Counter([one.experiment for one in made]).items():
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


def build_service(
    settings: Settings, *, spool_bytes: int = 256 * 1024 * 1024, shadow_work: Work = shadow_work
) -> Service:
    """Connect everything and return once allocations and models are known.

    shadow_work: what the process of a shadow runs.

    Raises TransportError when Redis or the broker is away: a service that starts must know the allocations in force.
    ConfigError for what is not configured right.
    """
    closers: list[Callable[[], None]] = []
    try:
        return _build(settings, spool_bytes, shadow_work, closers)
    except BaseException:
        while closers:
            closers.pop()()
        raise


def _build(settings: Settings, spool_bytes: int, shadow_work: Work, closers: list[Callable[[], None]]) -> Service:
    keys, metrics = Keys(settings.prefix), Metrics("router")
    patient = wait_for_redis(settings)
    closers.append(patient.close)
    spool = Spool(settings.state / SPOOL_FOLDER, max_bytes=spool_bytes)
    courier = Courier(settings, spool)
    closers.append(courier.close)
    heartbeats = Heartbeats(settings, lambda: courier.spooling)
    closers.append(heartbeats.close)
    hot = connect(settings, timeout_s=HOT_TIMEOUT_S)
    closers.append(hot.close)
    store = AssignmentStore(hot, keys)
    breaker = Breaker("Redis", lambda: ping(hot))
    closers.append(breaker.close)
    claims = GuardedClaims(store, breaker)
    scoring = Scoring(settings, FeatureStore(hot, keys), breaker, metrics)
    closers.append(scoring.close)
    shadows = _shadows(settings, metrics, courier, shadow_work)
    closers.append(shadows.close)
    assigner = _Assigner(claims, metrics, courier, scoring.version)
    router = Router((), claims, exposures=assigner.expose, retry_s=0)
    closers.append(router.close)
    assigner.router = router
    allocations = AllocationFollower(settings, AllocationStore(patient, keys), (), router.update)
    closers.append(allocations.close)
    define = following(router, None, allocations.follow)

    def followed(name: str, experiment: Experiment | None) -> None:
        if experiment is not None:  # first, so that no unit is assigned that cannot be ranked for yet
            scoring.follow([*(one for one in router.experiments if one.name != name), experiment])
        define(name, experiment)
        scoring.follow(router.experiments)
        shadows.follow(router.experiments)

    closers.append(CatalogueFollower(settings, followed).close)
    board = DecisionBoard(settings)
    closers.append(board.close)
    assigning: Batcher[Ask, Assigned] = Batcher(assigner.work, name="router-assign")
    closers.append(assigning.close)
    service = Service(settings, router, metrics, courier, heartbeats, spool, breaker, board, assigning, scoring,
                      shadows, RankingLog(settings, scoring, courier), _closers=closers)  # fmt: skip
    scoring.wait()
    metrics.read_from(lambda: _readings(service), ready=lambda: not service.closing.is_set(), away=service.away)
    return service


def _shadows(settings: Settings, metrics: Metrics, courier: Courier, work: Work) -> Shadows:
    there = SHADOW not in missing_topics(settings)
    if not there:
        # Sent all the same, they would pass for a broker that is away.
        log.warning("there is no topic %s: what shadows say is dropped; `sluice infra topics` creates it", SHADOW)

    def post(records: list[Record]) -> bool:
        if not there or courier.spooling:  # the disk is for what must not be lost
            return False
        courier.post(records)
        return True

    return Shadows(settings, metrics, post, work)


def _readings(service: Service) -> Reading:
    yield "sluice_waiting", ("assign",), len(service.assigning)
    yield "sluice_waiting", ("rank",), len(service.scoring)
    yield "sluice_waiting", ("shadow",), len(service.shadows)
    yield "sluice_waiting", ("kafka",), service.courier.queued
    yield "sluice_spool_bytes", (), service.spool.bytes
    yield "sluice_spool_limit_bytes", (), service.spool.max_bytes
    yield "sluice_records_lost_total", (), service.courier.lost
    yield from experiment_readings(service.router.experiments)
    yield from allocation_readings(service.router)
    yield "sluice_models_unserved", (), len(service.scoring.unserved())
    for model, number in service.scoring.versions().items():
        yield "sluice_model_version", (model, number), 1
