"""The router as a library: `build(settings, experiments)` for services, `Router(experiments, MemoryAssignments())`
for simulations. Ranking rules are in `router.rankers`, trained models in `router.models`."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from router.exposures import ExposureLog
from router.live import AllocationFollower
from router.memory import MemoryAssignments
from router.rankers import Context, Ranker, is_model, make_ranker, top_k
from router.routing import AssignmentRequest, Exposures, Routed, Router, carried
from sluice.adapters.allocations import AllocationStore
from sluice.adapters.assignments import AssignmentStore
from sluice.adapters.redis import wait_for_redis
from sluice.domain.experiment import Experiment
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
    "build",
    "carried",
    "is_model",
    "make_ranker",
    "top_k",
]


def build(
    settings: Settings,
    experiments: Iterable[Experiment],
    *,
    exposures: Exposures | None = None,
    retry_s: float = 30.0,
    stop: threading.Event | None = None,
) -> Router:
    """A router whose assignments are sticky in Redis and whose allocations follow topic `decisions`.

    The exposure log goes to topic `assignments`, or to `exposures` if the caller wants to write it.
    `retry_s` and `stop` as for `Router`. Close the router to stop its thread and to flush. Raises
    TransportError when Redis or the broker is away.
    """
    keys = Keys(settings.prefix)
    client = wait_for_redis(settings)
    log = ExposureLog(settings) if exposures is None else None
    router = Router(experiments, AssignmentStore(client, keys), exposures=exposures or log, retry_s=retry_s, stop=stop)
    router.on_close(client.close)
    if log is not None:
        router.on_close(log.close)
    try:
        names = [experiment.name for experiment in router.experiments]
        follower = AllocationFollower(settings, AllocationStore(client, keys), names, router.update)
    except BaseException:
        router.close()
        raise
    router.on_close(follower.close)
    return router
