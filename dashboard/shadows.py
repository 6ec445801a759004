"""What shadows said, from Redis, looked up at most every few seconds. Blocking. Library: redis-py, by the adapter."""

from __future__ import annotations

import time
from threading import Lock

from dashboard.views import ShadowView
from sluice.adapters.redis import connect
from sluice.adapters.shadow import ShadowStore
from sluice.domain.shadow import ShadowFigures
from sluice.errors import TransportError
from sluice.names import Keys
from sluice.settings import Settings

__all__ = ["Shadows"]

FRESH_S = 5.0
ANSWER_S = 3.0


class Shadows:
    """May be asked by several threads; one at a time looks."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = Lock()
        self._read_s = -FRESH_S
        self._found: dict[str, tuple[ShadowView, ...]] = {}

    def of(self, experiment: str) -> tuple[ShadowView, ...] | None:
        """Those beside its variants; None while Redis is away."""
        with self._lock:
            if time.monotonic() - self._read_s >= FRESH_S:
                try:
                    with connect(self._settings, timeout_s=ANSWER_S) as client:
                        figures = ShadowStore(client, Keys(self._settings.prefix)).figures()
                except TransportError:
                    return None
                self._found = {}
                for one in figures:
                    self._found[one.experiment] = (*self._found.get(one.experiment, ()), _view(one))
                self._read_s = time.monotonic()
            return self._found.get(experiment, ())


def _view(found: ShadowFigures) -> ShadowView:
    return ShadowView(
        variant=found.variant,
        version=found.version,
        shadow=found.shadow,
        shadow_version=found.shadow_version,
        requests=found.requests,
        compared=found.compared,
        dropped=found.dropped,
        errors=found.errors,
        overlap=found.overlap.mean,
        overlap_interval=found.overlap.interval,
        rank_correlation=found.rank_correlation.mean,
        rank_correlation_interval=found.rank_correlation.interval,
        score_distance=found.score_distance,
        served_ms=found.served_ms,
        shadow_ms=found.shadow_ms,
    )
