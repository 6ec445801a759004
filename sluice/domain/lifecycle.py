"""The life of a registered model: what happened (topic `lifecycle`) makes a state, the state says what is next. Pure.

One life belongs to one alias of a registered model: the version it points to is in force. `fold` turns events into a
state, `next_step` names the step that is due; whoever does it writes the event that says so. Nothing else is remembered
anywhere: a process that is killed folds the topic again and goes on.

Ids make this safe. The id of an event is made of what it is about (`event_id`), so a step that was done twice says the
same thing twice, and what an id has said once it does not say again. An event that does not fit the state (of another
attempt, of a step that is over) changes nothing: of two who decide at once, the first on the topic stands.

Library: msgspec, cronsim.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Annotated, Literal, TypeAlias

from cronsim import CronSim, CronSimError
from msgspec import Meta, Struct
from msgspec.structs import replace

from sluice.domain.lifecycle_events import (
    Abandoned,
    Aborted,
    Approved,
    Breach,
    CanaryAdvanced,
    DriftDetected,
    GatePassed,
    GateRefused,
    LifecycleEvent,
    ModelTrained,
    MovedByHand,
    OfAttempt,
    Paused,
    Promoted,
    Resumed,
    RetrainRequested,
    RolledBack,
    ShadowJudged,
    ShadowStarted,
    Skipped,
)

__all__ = [
    "Attempt", "LifecycleState", "Policy", "Stage", "Step", "changes", "check_schedule", "event_id", "fold",
    "held_back", "is_warm", "next_schedule_ms", "next_step", "waits_for_approval", "wanted",
]  # fmt: skip

DAY_MS = 24 * 3600 * 1000
_UNANSWERED = ("gate-refused", "abandoned")
"""Outcomes of attempts that more of the log may change"""
Stage: TypeAlias = Literal["requested", "trained", "gated", "shadow", "judged", "canary", "ended"]
Act: TypeAlias = Literal[
    "request", "train", "judge", "start-shadow", "judge-shadow", "canary", "promote", "roll-back", "abandon"
]


def event_id(*parts: str | int) -> str:
    """The id of what is said with these parts: 16 hex digits, the same for the same parts."""
    return blake2b("\0".join(map(str, parts)).encode(), digest_size=8).hexdigest()


class Policy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a model is trained again, and how it is released."""

    drift: bool = True
    """Train again when drift of the version in force was detected"""
    schedule: str = ""
    """Cron expression (UTC) of trainings that need no other reason"""
    cooldown_s: Annotated[int, Meta(ge=0)] = 3600
    """After an attempt has ended, none begins for so long; commands need not wait"""
    daily_limit: Annotated[int, Meta(ge=1, le=100)] = 4
    """Attempts within 24 hours, by whatever asked"""
    approval: Literal["auto", "manual"] = "auto"
    """`manual`: somebody approves a version before any user is shown what it ranks"""
    shadow: bool = True
    canary: bool = True
    warm_s: Annotated[int, Meta(ge=0)] = 24 * 3600
    """For so long after a promotion a breach, or drift for the worse, brings the version before back by itself"""
    longest_s: Annotated[int, Meta(ge=1)] = 7 * 24 * 3600
    """An attempt that takes longer is abandoned"""


class Attempt(Struct, frozen=True, kw_only=True):
    """One way from a request to a version in force, or to nothing."""

    id: str
    """Of its `RetrainRequested`"""
    reason: str
    began_ms: int
    against: str
    """The version in force when it began"""
    stage: Stage = "requested"
    version: str = ""
    """The one that was trained"""
    share: int = 0
    """Percents of the traffic that the canary has reached"""
    approved: bool = False
    latest: str = ""
    """Id of its latest event"""
    outcome: str = ""
    """How it ended: tag of the event that ended it"""
    drift: DriftDetected | None = None
    """The latest of the version in force, which it answers; open again when it is refused at the gate or abandoned"""


class LifecycleState(Struct, frozen=True, kw_only=True):
    """What all events of one life come to."""

    in_force: str = ""
    """Version; empty until an event has named one"""
    before: str = ""
    """The version that was in force before, as long as nothing has called it back"""
    promoted_ms: int = 0
    attempt: Attempt | None = None
    """The one under way, or the last one, whose stage is `ended`"""
    ended_ms: int = 0
    requests_ms: tuple[int, ...] = ()
    """Of the last 100 requests"""
    drift: DriftDetected | None = None
    """The latest of the version in force that no attempt has answered"""
    breach: Breach | None = None
    """Of the version in force"""
    paused: Paused | None = None
    promotions: int = 0
    reversals: int = 0
    """Promotions that were taken back"""
    outcomes: Mapping[str, int] = {}
    """How attempts ended → how many"""
    seen: frozenset[str] = frozenset()
    """Ids of all events"""

    @property
    def running(self) -> Attempt | None:
        """The attempt under way"""
        return self.attempt if self.attempt is not None and self.attempt.stage != "ended" else None


class Step(Struct, frozen=True, kw_only=True):
    """What is to be done, and the id of the event that asked for it."""

    act: Act
    cause: str = ""
    attempt: str = ""
    version: str = ""
    reason: str = ""


def fold(events: Iterable[LifecycleEvent], state: LifecycleState | None = None) -> LifecycleState:
    """The state after `events`, in their order on the topic. Equal events, again, change nothing."""
    state = state or LifecycleState()
    seen = set(state.seen)  # copied once, not with every event
    for event in events:
        if event.id not in seen:
            seen.add(event.id)
            state = _after(state, event)
    return replace(state, seen=frozenset(seen))


def changes(state: LifecycleState, event: LifecycleEvent) -> bool:
    """Whether `event` would say anything new to `state`."""
    return event.id not in state.seen and _after(state, event) != state


def next_step(state: LifecycleState, now_ms: int, policy: Policy, since_ms: int = 0) -> Step | None:
    """What is due at `now_ms`; None while there is nothing to do but to wait.

    since_ms: when somebody began to watch: the schedule counts from there until the first request. `canary` and
    `judge-shadow` are due again and again, until what they look at is enough for an event.
    """
    if state.paused is not None:
        return None
    run = state.running
    back = _roll_back(state, now_ms, policy)
    if run is None:
        return back or (None if held_back(state, now_ms, policy) else wanted(state, now_ms, policy, since_ms))
    if back is not None:
        reason = f"version {state.in_force}, which it is compared with, is taken back: {back.reason}"
        return Step(act="abandon", cause=back.cause, attempt=run.id, version=run.version, reason=reason)
    if now_ms - run.began_ms > policy.longest_s * 1000:
        reason = f"not released within {policy.longest_s} s: {run.stage}"
        return Step(act="abandon", cause=run.latest, attempt=run.id, version=run.version, reason=reason)
    act = _act(run, policy)
    return None if act is None else Step(act=act, cause=run.latest, attempt=run.id, version=run.version)


def check_schedule(expression: str) -> None:
    """Raises ValueError, with the reason, for what is no cron expression."""
    try:
        CronSim(expression, datetime.now(UTC))
    except CronSimError as error:
        raise ValueError(f"{expression!r} is no cron expression: {error}") from error


def waits_for_approval(state: LifecycleState, policy: Policy) -> bool:
    """Whether the next step is one that users would notice, and nobody has approved it."""
    run = state.running
    if run is None or run.approved or policy.approval == "auto":
        return False
    return run.stage in ("judged", "canary") or (run.stage == "gated" and not policy.shadow)


def _act(run: Attempt, policy: Policy) -> Act | None:
    match run.stage:
        case "requested":
            return "train"
        case "trained":
            return "judge"
        case "gated" if policy.shadow:
            return "start-shadow"
        case "shadow":
            return "judge-shadow"
    if policy.approval == "manual" and not run.approved:
        return None
    return "canary" if run.share < 100 and (policy.canary or run.stage == "canary") else "promote"


def held_back(
    state: LifecycleState, now_ms: int, policy: Policy
) -> tuple[Literal["cooldown", "daily-limit"], int] | None:
    """What keeps the next attempt from beginning, unless somebody asks for it, and until when."""
    if _within(policy.cooldown_s * 1000, state.ended_ms, now_ms):
        return "cooldown", state.ended_ms + policy.cooldown_s * 1000
    recent = [at_ms for at_ms in state.requests_ms if _within(DAY_MS, at_ms, now_ms)]
    if len(recent) >= policy.daily_limit:
        return "daily-limit", sorted(recent)[-policy.daily_limit] + DAY_MS
    return None


def wanted(state: LifecycleState, now_ms: int, policy: Policy, since_ms: int = 0) -> Step | None:
    """The attempt that there is a reason for; `held_back` says whether it may begin."""
    if policy.drift and state.drift is not None:
        return Step(act="request", cause=state.drift.id, reason="; ".join(state.drift.reasons) or "drift")
    due_ms = next_schedule_ms(state, now_ms, policy, since_ms)
    if due_ms is not None and due_ms <= now_ms:
        return Step(act="request", cause=event_id("schedule", policy.schedule, due_ms), reason="schedule")
    return None


def next_schedule_ms(state: LifecycleState, now_ms: int, policy: Policy, since_ms: int = 0) -> int | None:
    """The first time of the schedule after the last request, or after `since_ms`; None without a schedule."""
    # A request of the day after tomorrow was made by a clock that was wrong.
    anchor_ms = next((at_ms for at_ms in reversed(state.requests_ms) if at_ms < now_ms + DAY_MS), since_ms)
    if not policy.schedule or not anchor_ms:
        return None
    return int(next(CronSim(policy.schedule, datetime.fromtimestamp(anchor_ms / 1000, UTC))).timestamp() * 1000)


def is_warm(state: LifecycleState, now_ms: int, policy: Policy) -> bool:
    """Whether the version before would come back by itself."""
    return bool(state.before) and now_ms <= state.promoted_ms + policy.warm_s * 1000


def _within(span_ms: int, at_ms: int, now_ms: int) -> bool:
    """Clocks that disagree a little are borne; for what lies further ahead, by a clock that was wrong, nobody waits."""
    return abs(now_ms - at_ms) < span_ms


def _roll_back(state: LifecycleState, now_ms: int, policy: Policy) -> Step | None:
    if not is_warm(state, now_ms, policy):
        return None
    if state.breach is not None:
        return Step(act="roll-back", cause=state.breach.id, version=state.in_force, reason=state.breach.reason)
    drift = state.drift
    if drift is None or not drift.worse or drift.version != state.in_force:
        return None
    reason = "; ".join(drift.reasons) or "it does worse than it let expect"
    return Step(act="roll-back", cause=drift.id, version=state.in_force, reason=reason)


def _after(state: LifecycleState, event: LifecycleEvent) -> LifecycleState:
    match event:
        case Paused():
            return replace(state, paused=event)
        case Resumed():
            return replace(state, paused=None)
        case DriftDetected():
            return _drifted(state, event)
        case MovedByHand() if state.running is None and event.version != state.in_force:
            return replace(state, in_force=event.version, before="", breach=None, drift=None)
        case Breach():
            return replace(state, breach=event) if event.version == state.in_force else state
        case RetrainRequested():
            return _requested(state, event) if state.running is None else state
        case RolledBack() if state.running is None:
            return _rolled_back(state, event)
    run = state.running
    if run is None or not isinstance(event, OfAttempt) or event.attempt != run.id:
        return state
    run = _moved(run, event)
    if run is state.attempt:
        return state
    run = replace(run, latest=event.id)
    if isinstance(event, Promoted):
        state = replace(
            state, in_force=event.version, before=run.against, promoted_ms=event.at_ms, drift=None, breach=None,
            promotions=state.promotions + 1,
        )  # fmt: skip
    if run.outcome in _UNANSWERED:
        state = replace(state, drift=run.drift)
    if run.stage == "ended":
        outcomes = {**state.outcomes, run.outcome: state.outcomes.get(run.outcome, 0) + 1}
        state = replace(state, ended_ms=event.at_ms, outcomes=outcomes)
    return replace(state, attempt=run)


def _drifted(state: LifecycleState, event: DriftDetected) -> LifecycleState:
    if state.in_force and event.version not in ("", state.in_force):
        return state
    if state.running is None:
        return replace(state, drift=event)
    return replace(state, attempt=replace(state.running, drift=event))


def _requested(state: LifecycleState, event: RetrainRequested) -> LifecycleState:
    drift = state.drift if state.drift is not None and state.drift.version in ("", event.against) else None
    run = Attempt(
        id=event.id, reason=event.reason, began_ms=event.at_ms, against=event.against, latest=event.id, drift=drift
    )
    requests = (*state.requests_ms, event.at_ms)[-100:]
    state = replace(state, attempt=run, requests_ms=requests, drift=None)
    if event.against != state.in_force:  # moved by hand: there is nothing that we could take back
        state = replace(state, in_force=event.against, before="", breach=None)
    return state


def _rolled_back(state: LifecycleState, event: RolledBack) -> LifecycleState:
    """Of a promotion, not of a canary."""
    if (event.version, event.to) != (state.in_force, state.before) or not event.to:
        return state
    return replace(
        state, in_force=event.to, before="", breach=None, drift=None, ended_ms=event.at_ms,
        reversals=state.reversals + 1,
    )  # fmt: skip


def _moved(run: Attempt, event: OfAttempt) -> Attempt:
    """The attempt after one of its events; itself when the event does not fit its stage."""
    stage = run.stage
    match event:
        case ModelTrained() if stage == "requested":
            return replace(run, stage="trained", version=event.version)
        case GatePassed() if stage == "trained":
            return replace(run, stage="gated")
        case GateRefused() if stage == "trained":
            return _ended(run, event)
        case ShadowStarted() if stage == "gated":
            return replace(run, stage="shadow")
        case ShadowJudged() if stage == "shadow":
            return replace(run, stage="judged") if event.passed else _ended(run, event)
        case CanaryAdvanced() if stage in ("gated", "judged", "canary") and event.share > run.share:
            return replace(run, stage="canary", share=event.share)
        case Promoted() if stage in ("gated", "judged", "canary") and event.version == run.version:
            return _ended(run, event)
        case RolledBack() if stage in ("gated", "judged", "canary") and event.version == run.version:
            return _ended(run, event)
        case Approved() if stage in ("gated", "shadow", "judged", "canary") and not run.approved:
            return replace(run, approved=True)
        case Skipped(stage="shadow") if stage in ("gated", "shadow"):
            return replace(run, stage="judged")
        case Skipped(stage="canary") if stage in ("judged", "canary"):
            return replace(run, stage="canary", share=100)
        case Abandoned() | Aborted():
            return _ended(run, event)
    return run


def _ended(run: Attempt, event: OfAttempt) -> Attempt:
    return replace(run, stage="ended", outcome=str(event.__struct_config__.tag))
