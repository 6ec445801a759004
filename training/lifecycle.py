"""The process that leads a model through its life: it folds topic `lifecycle`, does the step that is due, and says so.

Everything it does can be done again: a version that was registered for an attempt is found, an experiment that is
configured is left alone, an alias that points there is not moved. So after a kill at any moment the step is repeated
and its event, which has the same id, counts once. Libraries: mlflow (through training.aliases).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import msgspec

from sluice.adapters import catalogue
from sluice.adapters.mlflow import ModelRef, ModelVersion, Registry
from sluice.adapters.redis import connect
from sluice.adapters.shadow import ShadowStore
from sluice.domain.events import DecisionMade
from sluice.domain.lifecycle import Attempt, LifecycleState, Step, event_id, next_step
from sluice.domain.lifecycle_events import (
    Abandoned,
    CanaryAdvanced,
    GatePassed,
    GateRefused,
    LifecycleEvent,
    ModelTrained,
    Promoted,
    RetrainRequested,
    RolledBack,
    ShadowJudged,
    ShadowStarted,
)
from sluice.errors import ConfigError, Conflict, SluiceError, TransportError
from sluice.names import DECISIONS, Keys
from sluice.settings import Settings
from sluice.subscription import Subscription
from training.aliases import Aliases
from training.lifecycle_journal import Journal
from training.lifecycle_plan import Plan
from training.retrain import RESULT_TAG, Job, Result
from training.retrain_process import retrain_apart
from training.tracking import Tracking

__all__ = ["Lifecycle"]

log = logging.getLogger(__name__)

BY = "sluice lifecycle"


class Lifecycle:
    """One life. `turn` does one step; nothing is kept between turns that the topic does not hold."""

    def __init__(
        self, settings: Settings, plan: Plan, journal: Journal, *,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:  # fmt: skip
        self._settings, self._plan, self._journal, self._clock_ms = settings, plan, journal, clock_ms
        self._registry = Registry(settings)
        self._since_ms = clock_ms()
        self._decisions: tuple[str, Subscription[DecisionMade]] | None = None
        self._latest: DecisionMade | None = None
        self._tidied = ""
        self._do: dict[str, Callable[[LifecycleState, Step, Attempt | None], LifecycleEvent | None]] = {
            "request": self._request, "train": self._train, "judge": self._judge,
            "start-shadow": self._start_shadow, "judge-shadow": self._judge_shadow, "canary": self._canary,
            "promote": self._promote, "roll-back": self._roll_back, "abandon": self._abandon,
        }  # fmt: skip

    def turn(self) -> LifecycleEvent | None:
        """Do what is due and say so; None when nothing was, or it is not known yet how it goes.

        Raises TransportError when something is away: the step is due again.
        """
        state = self._journal.poll()
        if state.running is None:
            self._tidy(state)
        step = next_step(state, self._clock_ms(), self._plan.policy, self._since_ms)
        if step is None:
            return None
        event = self._do[step.act](state, step, state.running)
        if event is not None:
            if event.id not in self._journal.state.seen:
                self._journal.append(event)
            log.info("%s@%s: %s", self._plan.model, self._plan.alias, event.__struct_config__.tag)
        return event

    def close(self) -> None:
        if self._decisions is not None:
            self._decisions[1].close()

    def _about(self, *parts: str | int, cause: str) -> dict[str, str | int]:
        plan = self._plan
        told = event_id(plan.model, plan.alias, *parts)
        return {"id": told, "model": plan.model, "alias": plan.alias, "at_ms": self._clock_ms(), "cause": cause}

    def _in_force(self) -> ModelVersion:
        return self._registry.resolve(ModelRef(self._plan.model, alias=self._plan.alias))

    def _request(self, state: LifecycleState, step: Step, _: Attempt | None) -> LifecycleEvent:
        since_ms = state.drift.since_ms if state.drift is not None and state.drift.id == step.cause else 0
        # The attempt before is a part of the id: what it left open is asked for once more.
        before = state.attempt.id if state.attempt is not None else ""
        about = self._about("request", step.cause, before, cause=step.cause)
        return _made(RetrainRequested, about, against=self._in_force().version, reason=step.reason, since_ms=since_ms)

    def _train(self, state: LifecycleState, step: Step, run: Attempt | None) -> LifecycleEvent:
        assert run is not None
        plan, training = self._plan, self._plan.training
        asked = next(event for event in self._journal.events if event.id == run.id)
        job = Job(
            model=plan.model, alias=plan.alias, experiment=training.experiment, holdout=training.holdout,
            weights=training.weights, seed=training.seed, bounds=training.bounds, attempt=run.id, cause=asked.cause,
            since_ms=asked.since_ms if isinstance(asked, RetrainRequested) else 0,
        )  # fmt: skip
        try:
            made = retrain_apart(job, seconds=training.seconds, memory_mb=training.memory_mb)
        except TransportError:
            raise
        except SluiceError as error:
            return self._ended(step, run, [str(error)])
        return self._of(
            ModelTrained, run, step, "trained", version=made.version, run_id=made.run_id,
            fingerprint=made.fingerprint, rows=made.train_rows, model_hash=made.model_hash,
        )  # fmt: skip

    def _judge(self, state: LifecycleState, step: Step, run: Attempt | None) -> LifecycleEvent:
        assert run is not None
        tags = dict(self._registry.resolve(ModelRef(self._plan.model, version=run.version)).tags)
        if RESULT_TAG not in tags:
            return self._ended(step, run, [f"version {run.version} carries no verdict of its model tests"])
        found = msgspec.json.decode(tags[RESULT_TAG], type=Result)
        figures = dict(found.figures)
        if found.passed:
            return self._of(GatePassed, run, step, "gate", version=run.version, figures=figures)
        return self._of(GateRefused, run, step, "gate", version=run.version, reasons=found.refusals, figures=figures)

    def _start_shadow(self, state: LifecycleState, step: Step, run: Attempt | None) -> LifecycleEvent:
        assert run is not None
        release = self._plan.release(run.version, canary=False)
        catalogue.apply(self._settings, [release], by=BY, why=f"shadow of version {run.version}")
        return self._of(ShadowStarted, run, step, "shadow", version=run.version, experiment=release.name)

    def _judge_shadow(self, state: LifecycleState, step: Step, run: Attempt | None) -> LifecycleEvent | None:
        assert run is not None
        rule = self._plan.shadow
        with connect(self._settings) as client:
            store = ShadowStore(client, Keys(self._settings.prefix))
            found = store.figures(self._plan.release(run.version, canary=False).name)
        # A candidate that cannot even be loaded tells no version: all that is asked in this experiment is of it.
        own = [one for one in found if one.shadow_version in (run.version, "")]
        compared, failed = sum(one.compared for one in own), sum(sum(one.errors.values()) for one in own)
        if compared + failed < rule.requests:
            return None
        errors = failed / (compared + failed)
        p99_ms = max((one.shadow_ms.get("p99", 0.0) for one in own), default=0.0)
        overlap = min((one.overlap.mean for one in own if one.overlap.mean is not None), default=0.0)
        reasons = []
        if errors > rule.max_errors:
            reasons.append(f"{errors:.1%} of its rankings failed, more than {rule.max_errors:.1%}")
        if p99_ms > rule.max_p99_ms:
            reasons.append(f"99 % of its rankings take up to {p99_ms:.0f} ms, more than {rule.max_p99_ms:g}")
        if overlap < rule.min_overlap:
            reasons.append(f"{overlap:.1%} of the best items are those of the version in force: too few")
        figures = {"compared": float(compared), "errors": errors, "p99_ms": p99_ms, "overlap": overlap}
        return self._of(
            ShadowJudged, run, step, "shadow judged", version=run.version, passed=not reasons,
            reasons=tuple(reasons), figures=figures,
        )  # fmt: skip

    def _canary(self, state: LifecycleState, step: Step, run: Attempt | None) -> LifecycleEvent | None:
        assert run is not None
        release = self._plan.release(run.version, canary=True)
        catalogue.apply(self._settings, [release], by=BY, why=f"canary of version {run.version}")
        decision = self._decision(release.name)
        if decision is None or decision.canary is None:
            return None
        report = decision.canary
        if report.place.state == "rolled-back":
            return self._of(
                RolledBack, run, step, "canary", version=run.version, to=run.against, reasons=decision.reasons
            )
        share = 100 if report.place.state == "promoted" else min(report.share, 99)
        if share <= run.share:
            return None
        return self._of(
            CanaryAdvanced, run, step, f"canary {share}", version=run.version, share=share,
            experiment=release.name, decision=decision.version,
        )  # fmt: skip

    def _decision(self, experiment: str) -> DecisionMade | None:
        """The latest of `experiment`."""
        if self._decisions is None or self._decisions[0] != experiment:
            self.close()
            self._latest = None
            found: Subscription[DecisionMade] = Subscription(
                DECISIONS, experiment=experiment, from_start=True, settings=self._settings
            )
            self._decisions = experiment, found
        for decision in self._decisions[1].poll(0.2):
            self._latest = decision
        return self._latest

    def _promote(self, state: LifecycleState, step: Step, run: Attempt | None) -> LifecycleEvent | None:
        assert run is not None
        now = self._in_force().version
        if now not in (run.against, run.version):
            return self._ended(step, run, [f"the alias was moved by hand, from version {run.against} to {now}"])

        def due(state: LifecycleState) -> bool:
            return state.paused is None and state.running is not None and state.running.id == run.id

        if now != run.version and not self._move(run.version, due):
            return None
        return self._of(Promoted, run, step, "promoted", version=run.version, before=run.against)

    def roll_back(self, reason: str, *, by: str = "", cause: str = "") -> LifecycleEvent:
        """Bring the version before the last promotion back, at once. Raises ConfigError when there is none."""
        event = self._taken_back(self._journal.catch_up(), reason, by, cause)
        if event is None:
            raise Conflict(f"{self._plan.serving}: somebody else has changed it at this moment: look again")
        self._journal.append(event)
        return event

    def _roll_back(self, state: LifecycleState, step: Step, _: Attempt | None) -> LifecycleEvent | None:
        return self._taken_back(state, step.reason, "", step.cause)

    def _taken_back(self, state: LifecycleState, reason: str, by: str, cause: str) -> LifecycleEvent | None:
        run = state.attempt
        if run is None or not state.before:
            raise ConfigError(f"{self._plan.serving}: no promotion that could be taken back")
        if state.running is not None:
            raise ConfigError(f"{self._plan.serving}: a release is under way: abort it first")
        now = self._in_force().version
        if now not in (state.in_force, state.before):
            raise ConfigError(f"{self._plan.serving}: moved by hand to version {now}: it is not moved back")

        def due(latest: LifecycleState) -> bool:
            return latest.running is None and (latest.in_force, latest.before) == (state.in_force, state.before)

        if now != state.before and not self._move(state.before, due):
            return None
        about = self._about(f"back {state.in_force}", run.id, cause=cause)
        return _made(
            RolledBack, about, attempt=run.id, version=state.in_force, to=state.before, reasons=(reason,), by=by
        )

    def _move(self, version: str, due: Callable[[LifecycleState], bool]) -> bool:
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
            if state.in_force not in ("", version) and self._in_force().version == version:
                stands = self._registry.resolve(ModelRef(self._plan.model, version=state.in_force))
                aliases.move(self._plan.alias, stands)
                log.warning("%s: overtaken: version %s stays in force", self._plan.serving, state.in_force)
        return False

    def _abandon(self, state: LifecycleState, step: Step, run: Attempt | None) -> LifecycleEvent:
        assert run is not None
        return self._ended(step, run, [step.reason])

    def _ended(self, step: Step, run: Attempt, reasons: list[str]) -> LifecycleEvent:
        return self._of(Abandoned, run, step, "abandoned", reasons=tuple(reasons))

    def _of(self, kind: type, run: Attempt, step: Step, what: str, **fields: object) -> LifecycleEvent:
        return _made(kind, self._about(what, run.id, cause=step.cause), attempt=run.id, **fields)

    def _tidy(self, state: LifecycleState) -> None:
        """The experiment of an attempt that has ended is stopped: everybody sees the version in force."""
        run = state.attempt
        if run is None or not run.version or self._tidied == run.id:
            return
        name = self._plan.release(run.version, canary=False).name
        known = catalogue.load(self._settings).get(name)
        if known is not None and known.state.status in ("running", "paused"):
            catalogue.change(self._settings, name, "stop", by=BY, why=f"its attempt has ended: {run.outcome}")
        self._tidied = run.id


def _made(kind: type, about: dict[str, str | int], **fields: object) -> LifecycleEvent:
    made: LifecycleEvent = kind(**about, **fields)
    return made
