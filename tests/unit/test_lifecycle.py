"""The state machine of a model's life: nothing twice, nothing half, and on after a kill at any moment."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from sluice.domain.lifecycle import (
    LifecycleState,
    Policy,
    Step,
    check_schedule,
    event_id,
    fold,
    next_step,
    waits_for_approval,
)
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
    Paused,
    Promoted,
    Resumed,
    RetrainRequested,
    RolledBack,
    ShadowJudged,
    ShadowStarted,
    Skipped,
)

HOUR = 3600 * 1000
FREE = Policy(cooldown_s=0, daily_limit=100)


def drift(n: int, at_ms: int, version: str = "1") -> DriftDetected:
    return DriftDetected(id=f"d{n}", model="m", at_ms=at_ms, version=version, since_ms=0, until_ms=at_ms)


def request(n: int, at_ms: int = 0, against: str = "1") -> RetrainRequested:
    return RetrainRequested(id=f"r{n}", model="m", at_ms=at_ms, against=against, reason="drift")


def of(kind: type, attempt: str = "r1", at_ms: int = 0, **fields: object) -> LifecycleEvent:
    name = f"{kind.__name__}{attempt}{sorted(fields.items())}"
    made: LifecycleEvent = kind(id=event_id(name), model="m", at_ms=at_ms, attempt=attempt, **fields)
    return made


def release(n: int, version: str, at_ms: int = 0) -> list[LifecycleEvent]:
    """All of an attempt that goes well."""
    run, before = f"r{n}", str(int(version) - 1)
    return [
        request(n, at_ms, before),
        of(ModelTrained, run, version=version),
        of(GatePassed, run, version=version),
        of(ShadowStarted, run, version=version, experiment="e"),
        of(ShadowJudged, run, version=version, passed=True),
        of(CanaryAdvanced, run, version=version, share=5),
        of(CanaryAdvanced, run, version=version, share=100),
        of(Promoted, run, at_ms + HOUR, version=version, before=before),
    ]


def test_a_release_goes_through_every_stage_once() -> None:
    events = [drift(1, 0), *release(1, "2")]
    acts = [next_step(fold(events[:n]), 0, FREE) for n in range(1, len(events) + 1)]
    assert [act.act if act else None for act in acts] == [
        "request", "train", "judge", "start-shadow", "judge-shadow", "canary", "canary", "promote", None,
    ]  # fmt: skip
    state = fold(events)
    assert (state.in_force, state.before, state.promotions, state.running) == ("2", "1", 1, None)
    assert state.attempt is not None and state.attempt.outcome == "promoted"
    assert acts[0] == Step(act="request", cause="d1", reason="drift")


@pytest.mark.parametrize(
    "end",
    [
        [of(GateRefused, version="2", reasons=("no",))],
        [of(GatePassed, version="2"), of(ShadowStarted, version="2", experiment="e"),
         of(ShadowJudged, version="2", passed=False)],
        [of(GatePassed, version="2"), of(CanaryAdvanced, version="2", share=5),
         of(RolledBack, version="2", to="1")],
        [of(GatePassed, version="2"), of(RolledBack, version="2", to="1")],
        [of(Abandoned, reasons=("log too short",))],
        [of(Aborted, by="ada", why="holiday")],
    ],
)  # fmt: skip
def test_whatever_ends_an_attempt_the_version_in_force_stays(end: list[LifecycleEvent]) -> None:
    state = fold([request(1), of(ModelTrained, version="2"), *end, of(Promoted, version="2", before="1")])
    assert (state.in_force, state.running, state.promotions) == ("1", None, 0)
    assert state.attempt is not None and state.attempt.outcome == end[-1].__struct_config__.tag
    assert next_step(state, 0, FREE) is None


def test_drift_that_no_attempt_could_answer_is_open_again_after_the_cooldown() -> None:
    policy = Policy(cooldown_s=3600)
    asked = replace(request(1), cause="d1")
    refused = fold([drift(1, 0), asked, of(ModelTrained, version="2"), of(GateRefused, version="2", reasons=("few",))])
    assert next_step(refused, HOUR - 1, policy) is None
    assert next_step(refused, HOUR, policy) == Step(act="request", cause="d1", reason="drift")
    by_hand = fold([drift(1, 0), request(1), of(Abandoned, reasons=("log too short",))])
    assert by_hand.drift is None  # it was asked for something else
    stopped = fold([drift(1, 0), asked, of(Aborted, by="ada", why="holiday")])
    assert next_step(stopped, HOUR, policy) is None


def test_cooldown_and_daily_limit_hold_and_a_pause_stops_everything() -> None:
    policy = Policy(cooldown_s=3600, daily_limit=2)
    done = fold([request(1, 0), of(Abandoned, at_ms=HOUR, reasons=("x",)), drift(2, HOUR)])
    assert next_step(done, 2 * HOUR - 1, policy) is None
    step = next_step(done, 2 * HOUR, policy)
    assert step is not None and (step.act, step.cause) == ("request", "d2")
    twice = fold([request(2, 2 * HOUR), of(Abandoned, "r2", 2 * HOUR, reasons=("x",)), drift(3, 3 * HOUR)], done)
    assert next_step(twice, 20 * HOUR, policy) is None  # two requests within the last 24 hours
    assert next_step(twice, 24 * HOUR, policy) is not None
    paused = fold([Paused(id="p", model="m", at_ms=0, by="ada", why="audit")], done)
    assert next_step(paused, 2 * HOUR, policy) is None
    resumed = fold([Resumed(id="q", model="m", at_ms=0, by="ada", why="done")], paused)
    assert next_step(resumed, 2 * HOUR, policy) == step


def test_the_schedule_counts_from_the_last_request_and_names_the_same_event_to_everybody() -> None:
    nightly = Policy(drift=False, schedule="0 3 * * *", cooldown_s=0)
    assert next_step(LifecycleState(), 2 * HOUR, nightly, since_ms=HOUR) is None
    step = next_step(LifecycleState(), 3 * HOUR, nightly, since_ms=HOUR)
    assert step == next_step(LifecycleState(), 5 * HOUR, nightly, since_ms=2 * HOUR)
    assert step is not None and step.act == "request"
    asked = fold([request(1, 3 * HOUR), of(Abandoned, at_ms=4 * HOUR, reasons=("x",))])
    assert next_step(asked, 26 * HOUR, nightly) is None
    assert next_step(asked, 27 * HOUR, nightly) is not None
    with pytest.raises(ValueError, match="no cron expression"):
        check_schedule("61 * * * *")


def test_nobody_is_shown_what_nobody_approved() -> None:
    manual = Policy(approval="manual", cooldown_s=0)
    judged = fold(release(1, "2")[:5])
    assert next_step(judged, 0, manual) is None
    assert waits_for_approval(judged, manual)
    skipped = fold([of(Skipped, stage="canary", by="ada", why="urgent")], judged)
    assert next_step(skipped, 0, manual) is None
    approval = of(Approved, by="ada", why="looked at it")
    for state, act in ((judged, "canary"), (skipped, "promote")):
        step = next_step(fold([approval], state), 0, manual)
        assert step is not None and step.act == act


def test_a_breach_while_the_version_before_is_warm_brings_it_back_once() -> None:
    promoted = fold(release(1, "2"))
    breach = Breach(id="b", model="m", at_ms=2 * HOUR, version="2", reason="click rate fell")
    state = fold([breach], promoted)
    step = next_step(state, 2 * HOUR, FREE)
    assert step is not None and (step.act, step.version, step.cause) == ("roll-back", "2", "b")
    assert next_step(state, HOUR + FREE.warm_s * 1000 + 1, FREE) is None
    back = of(RolledBack, version="2", to="1", at_ms=3 * HOUR)
    returned = fold([back, replace(back, id="again")], state)
    assert (returned.in_force, returned.before) == ("1", "")
    assert next_step(returned, 3 * HOUR, FREE) is None
    late = replace(breach, id="late", version="2")
    assert fold([late], returned).breach is None


@pytest.mark.parametrize(
    ("changes", "at_ms", "act"),
    [
        ({"worse": True, "performance": True}, 2 * HOUR, "roll-back"),
        ({"worse": True, "performance": True}, 2 * HOUR + FREE.warm_s * 1000, "request"),  # warm no more
        ({"performance": True}, 2 * HOUR, "request"),  # other than expected, not worse: it learns anew
        ({"worse": True, "version": "1"}, 2 * HOUR, None),  # the version before does worse: it was replaced
    ],
)
def test_a_promoted_version_that_does_worse_than_expected_is_taken_back_while_the_one_before_is_warm(
    changes: dict[str, object], at_ms: int, act: str | None
) -> None:
    event = replace(drift(7, HOUR, version="2"), **changes)
    state = fold([*release(1, "2"), event])
    step = next_step(state, at_ms, FREE)
    assert (step and step.act) == act
    if act == "roll-back":
        assert step is not None and (step.version, step.cause) == ("2", "d7")
        after = fold([of(RolledBack, version="2", to="1", at_ms=at_ms)], state)
        assert (after.in_force, after.drift, next_step(after, at_ms, FREE)) == ("1", None, None)


def test_a_first_version_that_does_worse_is_trained_again() -> None:
    step = next_step(fold([replace(drift(1, 0), worse=True, performance=True)]), 0, FREE)
    assert step is not None and step.act == "request"


def test_drift_of_a_version_that_no_longer_serves_asks_for_nothing() -> None:
    state = fold([*release(1, "2"), drift(7, HOUR, version="1")])
    assert next_step(state, HOUR, FREE) is None
    assert next_step(fold([drift(8, HOUR, version="2")], state), HOUR, FREE) is not None


runs = st.sampled_from(["r1", "r2"])
versions = st.sampled_from(["1", "2", "3"])
ids = st.sampled_from([f"i{n}" for n in range(30)])
people = {"by": st.just("ada"), "why": st.just("x")}


def built(kind: type, **fields: st.SearchStrategy[object]) -> st.SearchStrategy[LifecycleEvent]:
    common = {"id": ids, "model": st.just("m"), "at_ms": st.integers(0, 10**9), **fields}
    return st.builds(kind, **common)


any_event = st.one_of(
    built(DriftDetected, version=versions, since_ms=st.just(0), until_ms=st.just(0)),
    built(Breach, version=versions, reason=st.just("x")),
    built(RetrainRequested, id=runs, against=versions, reason=st.just("x")),
    built(ModelTrained, attempt=runs, version=versions),
    built(GatePassed, attempt=runs, version=versions),
    built(GateRefused, attempt=runs, version=versions, reasons=st.just(())),
    built(ShadowStarted, attempt=runs, version=versions, experiment=st.just("e")),
    built(ShadowJudged, attempt=runs, version=versions, passed=st.booleans()),
    built(CanaryAdvanced, attempt=runs, version=versions, share=st.integers(1, 100)),
    built(Promoted, attempt=runs, version=versions, before=versions),
    built(RolledBack, attempt=runs, version=versions, to=versions),
    built(Abandoned, attempt=runs, reasons=st.just(())),
    built(Paused, **people),
    built(Resumed, **people),
    built(Approved, attempt=runs, **people),
    built(Skipped, attempt=runs, stage=st.sampled_from(["shadow", "canary"]), **people),
    built(Aborted, attempt=runs, **people),
)
logs = st.lists(any_event, max_size=40)


@given(logs, st.integers(0, 40))
def test_reading_any_part_of_the_topic_again_changes_nothing(events: list[LifecycleEvent], cut: int) -> None:
    once = fold(events)
    assert fold([*events[:cut], *events[:cut], *events[cut:]]) == once
    assert fold([*events, *events]) == once
    assert fold(events[cut:], fold(events[:cut])) == once


@given(logs)
def test_no_sequence_promotes_an_attempt_twice_or_a_version_that_passed_no_gate(events: list[LifecycleEvent]) -> None:
    state, promoted, gated = LifecycleState(), [], set()
    for event in events:
        after = fold([event], state)
        run = after.attempt
        if run is not None and run.stage in ("gated", "shadow", "judged", "canary"):
            gated.add((run.id, run.version))
        if after.promotions > state.promotions:
            assert isinstance(event, Promoted)
            promoted.append(event.attempt)
            assert (event.attempt, event.version) in gated
        if after.in_force != state.in_force:
            # Always one version, that somebody named: never none, never in between.
            match event:
                case Promoted():
                    assert (after.in_force, after.before) == (event.version, state.attempt and state.attempt.against)
                case RolledBack():
                    assert (after.in_force, state.before) == (event.to, event.to)
                case RetrainRequested():
                    assert (after.in_force, after.before) == (event.against, "")
                case _:
                    pytest.fail(f"{event} moved the version in force")
        state = after
    assert len(promoted) == len(set(promoted)) == state.promotions


@dataclass
class World:
    """A topic, an alias and workers that may be killed between what they do and what they say."""

    topic: list[LifecycleEvent] = field(default_factory=list)
    alias: str = "1"
    moves: list[str] = field(default_factory=list)
    trained: int = 1

    def turn(self, policy: Policy) -> Iterator[None]:
        """One step; it may be stopped at each yield."""
        state = fold(self.topic)
        step = next_step(state, 10, policy)
        yield
        if step is None:
            return
        run, event = state.running, None
        match step.act:
            case "request":
                event = RetrainRequested(
                    id=event_id(step.cause, "r"), model="m", at_ms=1, against=self.alias, reason="x"
                )
            case "train":
                self.trained += 1
                event = of(ModelTrained, step.attempt, version=str(self.trained))
                event = replace(event, id=event_id(step.attempt, "trained"))
            case "judge":
                event = of(GatePassed, step.attempt, version=step.version)
            case "start-shadow":
                event = of(ShadowStarted, step.attempt, version=step.version, experiment="e")
            case "judge-shadow":
                event = of(ShadowJudged, step.attempt, version=step.version, passed=True)
            case "canary":
                assert run is not None
                event = of(CanaryAdvanced, step.attempt, version=step.version, share={0: 5, 5: 50}.get(run.share, 100))
            case "promote":
                assert run is not None
                if self.alias != step.version:
                    self.alias = step.version
                    self.moves.append(step.version)
                event = of(Promoted, step.attempt, version=step.version, before=run.against)
        yield
        assert event is not None
        self.topic.append(event)


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 2)), max_size=40))
def test_killed_workers_and_two_at_once_come_to_the_same_end(schedule: list[tuple[int, int]]) -> None:
    world = World([drift(1, 0)])
    turns: list[Iterator[None] | None] = [None, None]
    for worker, what in schedule:
        if what == 0:  # killed: what it was about to say is lost
            turns[worker] = None
            continue
        turn = turns[worker] or world.turn(FREE)
        turns[worker] = turn if next(turn, "over") is None else None
    turns = [None, None]
    for _ in range(20):
        list(world.turn(FREE))
    state = fold(world.topic)
    assert state.attempt is not None
    assert (state.in_force, state.before, state.promotions) == (world.alias, "1", 1)
    assert state.in_force == state.attempt.version
    assert state.running is None
