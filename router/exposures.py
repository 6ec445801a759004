"""The exposure log: which unit was given what, when. Topic `assignments`, keyed by the user."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sluice.adapters.kafka import producer
from sluice.domain.events import AssignmentMade, encode
from sluice.errors import TransportError
from sluice.names import ASSIGNMENTS
from sluice.settings import Settings

__all__ = ["ExposureLog"]

FULL_WAIT_S = 0.1


class ExposureLog:
    """Writes exposures through an idempotent producer of its own. Close it, or exposures may be lost."""

    def __init__(self, settings: Settings) -> None:
        self._producer = producer(settings)
        self._failure: str | None = None

    def __call__(self, exposures: Sequence[AssignmentMade]) -> None:
        """Queue the exposures of one batch. Raises TransportError when an earlier one could not be delivered."""
        for made in exposures:
            value = encode(made)
            while True:
                try:
                    self._producer.produce(ASSIGNMENTS, value, made.user_id, on_delivery=self._delivered)
                    break
                except BufferError:
                    self._producer.poll(FULL_WAIT_S)
                    self._check()
        self._producer.poll(0)
        self._check()

    def close(self, timeout_s: float = 30.0) -> None:
        """Return once everything is acknowledged. Raises TransportError when something is not."""
        missing = self._producer.flush(timeout_s)
        self._check()
        if missing:
            raise TransportError(f"topic {ASSIGNMENTS}: {missing} records not acknowledged within {timeout_s:g} s")

    def _delivered(self, error: Any, _: Any) -> None:
        if error is not None:
            self._failure = error.str()

    def _check(self) -> None:
        if self._failure is not None:
            raise TransportError(f"topic {ASSIGNMENTS}: a record could not be delivered: {self._failure}")
