"""The process that leads a model through its life: it folds topic `lifecycle`, does the step that is due, and says so.

Everything it does can be done again: a version that was registered for an attempt is found, an experiment that is
configured is left alone, an alias that points there is not moved. So after a kill at any moment the step is repeated
and its event, which has the same id, counts once. Libraries: mlflow (through sluice.adapters), msgspec.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeAlias

import msgspec

from sluice.adapters import catalogue
from sluice.adapters.mlflow import ModelRef, Registry
from sluice.adapters.redis import connect
from sluice.adapters.shadow import ShadowStore
from sluice.domain.experiment import Experiment
from sluice.domain.lifecycle import Attempt, LifecycleState, Step, event_id, is_warm, next_step
from sluice.domain.lifecycle_events import (
    Abandoned,
    Aborted,
    Breach,
    CanaryAdvanced,
    GatePassed,
    GateRefused,
    LifecycleEvent,
    ModelTrained,
    MovedByHand,
    Promoted,
    RetrainRequested,
    RolledBack,
    ShadowJudged,
    ShadowStarted,
)
from sluice.domain.lifecycle_waits import Waits, waits
from sluice.errors import ConfigError, Conflict, ModelUnusable, SluiceError, TransportError
from sluice.names import Keys
from sluice.settings import Settings
from training.lifecycle_alias import ServingAlias
from training.lifecycle_journal import Journal
from training.lifecycle_plan import Plan
from training.lifecycle_release import BY, Decisions, hold, judge_shadow, stop_others
from training.lifecycle_watch import complaint, witnesses
from training.retrain import RESULT_TAG, Job, Result
from training.retrain_process import retrain_apart

__all__ = ["Lifecycle"]

log = logging.getLogger(__name__)

Deed: TypeAlias = LifecycleEvent | Waits
"""What came of a step"""
WATCH_EVERY_MS = 10_000
LONGEST, MOST = 1000, 20
"""Characters of a text, and texts, in what is said"""
OVERTAKEN = Waits(reason="overtaken", words="somebody else has changed it at this moment")


class _Over(Exception):
    """The attempt was ended while it was at work: nobody wants what would come of it."""


class Lifecycle:
    """One life. `turn` does one step; nothing is kept between turns that the topic does not hold."""

    def __init__(
        self, settings: Settings, plan: Plan, journal: Journal, *,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        tell: Callable[[Waits], None] = lambda _: None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:  # fmt: skip
        """tell: hears what is waited for, and what is begun. stopping: ends a training, on a thread of its own."""
        self._settings, self._plan, self._journal, self._clock_ms, self._tell = settings, plan, journal, clock_ms, tell
        self._stopping = stopping
        self._registry = Registry(settings)
        self._alias = ServingAlias(settings, plan, journal)
        self._since_ms = clock_ms()
        self._decisions = Decisions(settings)
        self._tidied: tuple[str, bool] | None = None
        self._held = ""
        self._watched_ms = 0
        self._stray = ""
        self._do: dict[str, Callable[[LifecycleState, Step, Attempt | None], Deed]] = {
            "request": self._request, "train": self._train, "judge": self._judge,
            "start-shadow": self._start_shadow, "judge-shadow": self._judge_shadow, "canary": self._canary,
            "promote": self._promote, "roll-back": self._roll_back, "abandon": self._abandon,
        }  # fmt: skip

    def turn(self) -> LifecycleEvent | None:
        """Do what is due and say so; None when nothing was, or it is not known yet how it goes.

        Raises TransportError when something is away: the step is due again.
        """
        state, now_ms = self._journal.poll(), self._clock_ms()
        self._tidy(state)
        step = next_step(state, now_ms, self._plan.policy, self._since_ms)
        found: Deed = self._seen(state, now_ms, step) or (
            self._done(state, step) if step is not None else waits(state, now_ms, self._plan.policy, self._since_ms)
        )
        if isinstance(found, Waits):
            self._tell(found)
            return None
        if found.id in self._journal.state.seen:
            return None  # somebody else was quicker
        self._journal.append(found)
        self._alias.put_right(found)
        log.info("%s@%s: %s", self._plan.model, self._plan.alias, found.__struct_config__.tag)
        return found

    def close(self) -> None:
        self._decisions.close()

    def _seen(self, state: LifecycleState, now_ms: int, step: Step | None) -> LifecycleEvent | None:
        """What nobody says on the topic, looked at now and then."""
        if state.paused is not None or abs(now_ms - self._watched_ms) < WATCH_EVERY_MS:
            return None
        self._watched_ms = now_ms
        if (step is None or state.running is not None) and (moved := self._strayed(state)) is not None:
            return moved
        warm = is_warm(state, now_ms, self._plan.policy) and state.breach is None
        return self._breach(state) if warm else None

    def _strayed(self, state: LifecycleState) -> LifecycleEvent | None:
        """An alias that points elsewhere at two looks: `sluice lifecycle rollback` moves it just before it says so."""
        run, before = state.running, self._stray
        try:
            now = self._alias.version()
        except (TransportError, ModelUnusable):
            return None  # no step waits for it
        expected = (state.in_force,) if run is None else (run.against, run.version)
        self._stray = "" if not state.in_force or now in expected else now
        if not self._stray or self._stray != before:
            return None
        if run is None:
            return self._moved_by_hand(state, now, "")
        return self._passed_by(Step(act="abandon", cause=run.latest), run, now)

    def _breach(self, state: LifecycleState) -> LifecycleEvent | None:
        """While a version is warm: what experiments have against it."""
        serving = self._plan.serving
        for one in witnesses(catalogue.load(self._settings).values(), serving, state.promoted_ms):
            found = complaint(one, serving, self._decisions.of(one))
            if found is not None:
                about = self._about("breach", state.in_force, one.name, cause=f"{one.name}/{found.decision}")
                if about["id"] not in state.seen:
                    return _made(Breach, about, version=state.in_force, reason=found.reason)
        return None

    def _done(self, state: LifecycleState, step: Step) -> Deed:
        run = state.running
        if step.act not in ("judge-shadow", "canary"):  # these look, again and again
            words = f"{step.act}: version {step.version}" if step.version else step.act
            self._tell(Waits(reason="at-work", words=words))
        try:
            return self._do[step.act](state, step, run)
        except ModelUnusable as error:
            if run is None or step.act == "request":
                raise
            # A version or an alias that somebody deleted: waiting does not bring it back.
            return self._ended(step, run, [str(error)])

    def _about(self, *parts: str | int, cause: str) -> dict[str, str | int]:
        plan = self._plan
        told = event_id(plan.model, plan.alias, *parts)
        return {"id": told, "model": plan.model, "alias": plan.alias, "at_ms": self._clock_ms(), "cause": cause}

    def _request(self, state: LifecycleState, step: Step, _: Attempt | None) -> LifecycleEvent:
        drift = state.drift if state.drift is not None and state.drift.id == step.cause else None
        now = self._alias.version()
        if drift is not None and drift.version not in ("", now):
            return self._moved_by_hand(state, now, step.cause)
        # The attempt before is a part of the id: what it left open is asked for once more.
        before = state.attempt.id if state.attempt is not None else ""
        about = self._about("request", step.cause, before, cause=step.cause)
        since_ms = drift.since_ms if drift is not None else 0
        return _made(RetrainRequested, about, against=now, reason=step.reason, since_ms=since_ms)

    def _moved_by_hand(self, state: LifecycleState, now: str, cause: str) -> LifecycleEvent:
        # It may be moved to and fro, and what is said during an attempt changes nothing: each time another id.
        about = self._about("moved", now, len(state.seen), cause=cause)
        return _made(MovedByHand, about, version=now, before=state.in_force)

    def _train(self, state: LifecycleState, step: Step, run: Attempt | None) -> Deed:
        assert run is not None
        plan, training = self._plan, self._plan.training
        asked = next(event for event in self._journal.events if event.id == run.id)
        job = Job(
            model=plan.model, alias=plan.alias, experiment=training.experiment, holdout=training.holdout,
            weights=training.weights, seed=training.seed, bounds=training.bounds, attempt=run.id, cause=asked.cause,
            since_ms=asked.since_ms if isinstance(asked, RetrainRequested) else 0,
        )  # fmt: skip

        def progress(name: str, share: float | None = None) -> None:
            self._tell(Waits(reason="at-work", words=f"train: {name}" + (f" {share:.0%}" if share is not None else "")))
            running = self._journal.poll().running
            if running is None or running.id != run.id:
                raise _Over

        try:
            made = retrain_apart(
                job, seconds=training.seconds, memory_mb=training.memory_mb, progress=progress, stopping=self._stopping
            )
        except _Over:
            return OVERTAKEN
        except TransportError:
            raise
        except SluiceError as error:
            if self._stopping():
                return Waits(reason="at-work", words="stopped; the next process trains again")
            return self._ended(step, run, [str(error)])
        return self._of(
            ModelTrained, run, step, "trained", version=made.version, run_id=made.run_id,
            fingerprint=made.fingerprint, rows=made.train_rows, model_hash=made.model_hash,
        )  # fmt: skip

    def _judge(self, state: LifecycleState, step: Step, run: Attempt | None) -> LifecycleEvent:
        assert run is not None
        tags = dict(self._registry.resolve(ModelRef(self._plan.model, version=run.version)).tags)
        try:
            found = msgspec.json.decode(tags.get(RESULT_TAG, ""), type=Result)
        except msgspec.DecodeError:  # of another release, or somebody changed it
            return self._ended(step, run, [f"version {run.version} carries no verdict of its model tests"])
        figures = dict(found.figures)
        if found.passed:
            return self._of(GatePassed, run, step, "gate", version=run.version, figures=figures)
        return self._of(GateRefused, run, step, "gate", version=run.version, reasons=found.refusals, figures=figures)

    def _start_shadow(self, state: LifecycleState, step: Step, run: Attempt | None) -> LifecycleEvent:
        assert run is not None
        release = self._plan.release(run.version, canary=False)
        catalogue.apply(self._settings, [release], by=BY, why=f"shadow of version {run.version}")
        return self._of(ShadowStarted, run, step, "shadow", version=run.version, experiment=release.name)

    def _judge_shadow(self, state: LifecycleState, step: Step, run: Attempt | None) -> Deed:
        assert run is not None
        name = self._plan.release(run.version, canary=False).name
        release = catalogue.load(self._settings).get(name)
        if release is not None and release.state.status == "stopped":
            return self._stopped_from_outside(release, step, run)
        with connect(self._settings) as client:
            found = ShadowStore(client, Keys(self._settings.prefix)).figures(name)
        verdict = judge_shadow(found, self._plan.shadow, run.version)
        if isinstance(verdict, Waits):
            return verdict
        return self._of(
            ShadowJudged, run, step, "shadow judged", version=run.version, passed=not verdict.reasons,
            reasons=verdict.reasons, figures=verdict.figures,
        )  # fmt: skip

    def _canary(self, state: LifecycleState, step: Step, run: Attempt | None) -> Deed:
        assert run is not None
        wanted = self._plan.release(run.version, canary=True)
        (release,) = catalogue.apply(self._settings, [wanted], by=BY, why=f"canary of version {run.version}")
        if release.state.status == "paused" and [one.by for one in release.state.changes[-1:]] == [BY]:
            catalogue.change(self._settings, release.name, "start", by=BY, why="the lifecycle was resumed")
        if release.state.status == "stopped":
            return self._stopped_from_outside(release, step, run)
        decided = self._decisions.of(wanted)
        if decided is None or (report := decided.latest.canary) is None:
            words = f"the canary of version {run.version}: no decision on experiment {release.name} yet"
            return Waits(reason="canary", words=words)
        if report.place.state == "rolled-back":
            return self._of(
                RolledBack, run, step, "canary", version=run.version, to=run.against, reasons=decided.moved.reasons
            )
        share = 100 if report.place.state == "promoted" else min(report.share, 99)
        if share <= run.share:
            return Waits(reason="canary", words=f"experiment {release.name}: {' '.join(decided.latest.reasons[:2])}")
        return self._of(
            CanaryAdvanced, run, step, f"canary {share}", version=run.version, share=share,
            experiment=release.name, decision=decided.moved.version,
        )  # fmt: skip

    def _stopped_from_outside(self, release: Experiment, step: Step, run: Attempt) -> LifecycleEvent:
        by, why = next(((last.by, last.why) for last in reversed(release.state.changes)), ("", ""))
        why = f"experiment {release.name} was stopped" + (f": {why}" if why else "")
        return self._of(Aborted, run, step, "stopped", by=by or "somebody", why=why)

    def _promote(self, state: LifecycleState, step: Step, run: Attempt | None) -> Deed:
        assert run is not None
        now = self._alias.version()
        if now not in (run.against, run.version):
            return self._passed_by(step, run, now)

        def due(state: LifecycleState) -> bool:
            return state.paused is None and state.running is not None and state.running.id == run.id

        if now != run.version and not self._alias.move(run.version, due):
            return OVERTAKEN
        return self._of(Promoted, run, step, "promoted", version=run.version, before=run.against)

    def roll_back(self, reason: str, *, by: str = "", cause: str = "") -> LifecycleEvent:
        """Bring the version before the last promotion back, at once. Raises ConfigError when there is none."""
        state = self._journal.catch_up()
        if not state.before:
            raise ConfigError(f"{self._plan.serving}: no promotion that could be taken back")
        if state.running is not None:
            raise ConfigError(f"{self._plan.serving}: a release is under way: abort it first")
        event = self._taken_back(state, reason, by, cause)
        if isinstance(event, MovedByHand):
            raise ConfigError(f"{self._plan.serving}: moved by hand to version {event.version}: it is not moved back")
        if isinstance(event, Waits):
            raise Conflict(f"{self._plan.serving}: {event.words}: look again")
        latest = self._journal.append(event)
        self._alias.put_right(event)
        if isinstance(event, RolledBack) and latest.in_force != event.to:
            raise Conflict(f"{self._plan.serving}: {OVERTAKEN.words}: look again")
        return event

    def _roll_back(self, state: LifecycleState, step: Step, _: Attempt | None) -> Deed:
        return self._taken_back(state, step.reason, "", step.cause)

    def _taken_back(self, state: LifecycleState, reason: str, by: str, cause: str) -> Deed:
        run = state.attempt
        assert run is not None and state.before
        now = self._alias.version()
        if now not in (state.in_force, state.before):
            return self._moved_by_hand(state, now, cause)

        def due(latest: LifecycleState) -> bool:
            return latest.running is None and (latest.in_force, latest.before) == (state.in_force, state.before)

        if now != state.before and not self._alias.move(state.before, due):
            return OVERTAKEN
        about = self._about(f"back {state.in_force}", run.id, cause=cause)
        return _made(
            RolledBack, about, attempt=run.id, version=state.in_force, to=state.before, reasons=(reason,), by=by
        )

    def _abandon(self, state: LifecycleState, step: Step, run: Attempt | None) -> LifecycleEvent:
        assert run is not None
        return self._ended(step, run, [step.reason])

    def _ended(self, step: Step, run: Attempt, reasons: list[str]) -> LifecycleEvent:
        return self._of(Abandoned, run, step, "abandoned", reasons=tuple(reasons))

    def _passed_by(self, step: Step, run: Attempt, now: str) -> LifecycleEvent:
        return self._ended(step, run, [f"the alias was moved by hand, from version {run.against} to {now}"])

    def _of(self, kind: type, run: Attempt, step: Step, what: str, **fields: object) -> LifecycleEvent:
        return _made(kind, self._about(what, run.id, cause=step.cause), attempt=run.id, **fields)

    def _tidy(self, state: LifecycleState) -> None:
        """Releases of attempts that have ended are stopped, and that of a life that is paused is held."""
        run = state.attempt
        if run is None:
            return
        now = run.id, run.stage == "ended"
        if self._tidied != now:
            version, outcome = ("", f": {run.outcome}") if run.stage == "ended" else (run.version, "")
            stop_others(self._settings, self._plan, version, f"its attempt has ended{outcome}")
            self._tidied = now
        if state.paused is not None and run.stage != "ended" and self._held != state.paused.id:
            why = f"the lifecycle is paused by {state.paused.by}"
            hold(self._settings, self._plan.release(run.version or "0", canary=True).name, why)
            self._held = state.paused.id


def _made(kind: type, about: dict[str, str | int], **fields: object) -> LifecycleEvent:
    made: LifecycleEvent = kind(**about, **{name: _short(value) for name, value in fields.items()})
    return made


def _short(value: object) -> object:
    """What others said (an error, a monitor) fits into an event."""
    match value:
        case str() if len(value) > LONGEST:
            return value[: LONGEST - 1] + "…"
        case tuple():
            return tuple(_short(one) for one in value[:MOST])
    return value
