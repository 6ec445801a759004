"""The router as a library: `build(settings, experiments)` for services, `Router(experiments, MemoryAssignments())`
for simulations. Ranking rules are in `router.rankers`, trained models in `router.models`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping

from msgspec.structs import replace

from router.exposures import ExposureLog
from router.live import AllocationFollower, CatalogueFollower
from router.memory import MemoryAssignments
from router.rankers import Context, Ranker, is_model, make_ranker, top_k
from router.routing import AssignmentRequest, Exposures, Routed, Router, carried
from router.tally import allocation_readings, count_assignments
from sluice.adapters.allocations import AllocationStore
from sluice.adapters.assignments import AssignmentStore
from sluice.adapters.redis import wait_for_redis
from sluice.domain.experiment import Experiment
from sluice.domain.status import State
from sluice.names import Keys
from sluice.settings import Settings

__all__ = [
    "AssignmentRequest",
    "Context",
    "Exposures",
    "MemoryAssignments",
    "Ranker",
    "Routed",
    "Router",
    "allocation_readings",
    "build",
    "carried",
    "count_assignments",
    "following",
    "is_model",
    "make_ranker",
    "top_k",
]


def build(
    settings: Settings,
    experiments: Iterable[Experiment] | None = None,
    *,
    exposures: Exposures | None = None,
    retry_s: float = 30.0,
    stop: threading.Event | None = None,
) -> Router:
    """A router whose assignments are sticky in Redis and whose allocations follow topic `decisions`.

    Without `experiments` it answers for all of the catalogue, and follows that: new ones appear, changed ones change.
    Of those that are given only the state is followed (paused, stopped, shipped): they stay configured as they are.
    The exposure log goes to topic `assignments`, or to `exposures` if the caller wants to write it.
    `retry_s` and `stop` as for `Router`. Close the router to stop its thread and to flush. Raises
    TransportError when Redis or the broker is away.
    """
    keys = Keys(settings.prefix)
    client = wait_for_redis(settings)
    log = ExposureLog(settings) if exposures is None else None
    listed = () if experiments is None else tuple(experiments)
    router = Router(listed, AssignmentStore(client, keys), exposures=exposures or log, retry_s=retry_s, stop=stop)
    router.on_close(client.close)
    if log is not None:
        router.on_close(log.close)
    try:
        names = [experiment.name for experiment in listed]
        given = None if experiments is None else dict(zip(names, listed, strict=True))
        allocations = AllocationFollower(settings, AllocationStore(client, keys), names, router.update)
        router.on_close(allocations.close)
        catalogue = CatalogueFollower(settings, following(router, given, allocations.follow))
        router.on_close(catalogue.close)
    except BaseException:
        router.close()
        raise
    return router


def following(
    router: Router, given: Mapping[str, Experiment] | None, follow: Callable[[str], None]
) -> Callable[[str, Experiment | None], None]:
    """What `CatalogueFollower` calls. given: experiments that stay configured as they are; None: all are followed.

    follow: is told of names that are new to `router`, whose allocation may be in force already.
    """
    told: set[str] = set()

    def changed(name: str, experiment: Experiment | None) -> None:
        if given is not None:
            if name in given:
                router.define(replace(given[name], state=State() if experiment is None else experiment.state))
        elif experiment is None:
            router.remove(name)
            told.discard(name)
        else:
            router.define(experiment)
            if name not in told:
                follow(name)
                told.add(name)

    return changed
