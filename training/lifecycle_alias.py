"""The alias whose version serves, moved as topic `lifecycle` says. Libraries: mlflow (through training.aliases)."""

from __future__ import annotations

import logging
from collections.abc import Callable

from sluice.adapters.mlflow import ModelRef, Registry
from sluice.domain.lifecycle import LifecycleState
from sluice.domain.lifecycle_events import LifecycleEvent, Promoted, RolledBack
from sluice.settings import Settings
from training.aliases import Aliases
from training.lifecycle_journal import Journal
from training.lifecycle_plan import Plan
from training.tracking import Tracking

__all__ = ["ServingAlias"]

log = logging.getLogger(__name__)


class ServingAlias:
    """That of one plan. Every method raises ModelUnusable for what is not there, TransportError when MLflow is away."""

    def __init__(self, settings: Settings, plan: Plan, journal: Journal) -> None:
        self._settings, self._plan, self._journal = settings, plan, journal
        self._registry = Registry(settings)

    def version(self) -> str:
        """The one it points to at this moment."""
        return self._registry.resolve(ModelRef(self._plan.model, alias=self._plan.alias)).version

    def move(self, version: str, due: Callable[[LifecycleState], bool]) -> bool:
        """One call moves the alias: whoever asks meets the version before or this one.

        False: the topic has meanwhile said that it is not to be moved. This process may have been suspended at any
        moment, and MLflow compares nothing: so the topic is read to its end before, and once more after.
        """
        tracking = Tracking(self._settings)
        with tracking.errors():
            aliases = Aliases(tracking, self._settings, self._plan.model, "")
            wanted = self._registry.resolve(ModelRef(self._plan.model, version=version))
            if not due(self._journal.catch_up()):
                return False
            aliases.move(self._plan.alias, wanted)
            state = self._journal.catch_up()
            if due(state):
                return True
            self._restore(aliases, version, state.in_force)
        return False

    def put_right(self, said: LifecycleEvent) -> None:
        """What stood on the topic before `said` counts first: an alias that was moved for nothing goes back."""
        stands, moved_to = self._journal.state.in_force, ""
        if isinstance(said, Promoted | RolledBack):
            moved_to = said.version if isinstance(said, Promoted) else said.to
        if moved_to not in ("", stands):
            tracking = Tracking(self._settings)
            with tracking.errors():
                self._restore(Aliases(tracking, self._settings, self._plan.model, ""), moved_to, stands)

    def _restore(self, aliases: Aliases, version: str, stands: str) -> None:
        if stands not in ("", version) and self.version() == version:
            aliases.move(self._plan.alias, self._registry.resolve(ModelRef(self._plan.model, version=stands)))
            log.warning("%s: overtaken: version %s stays in force", self._plan.serving, stands)
