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
    changes,
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
    MovedByHand,
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
    assert by_hand.drift == drift(1, 0)  # whoever asked: the version in force has still drifted
    stopped = fold([drift(1, 0), asked, of(Aborted, by="ada", why="holiday")])
    assert next_step(stopped, HOUR, policy) is None


@pytest.mark.parametrize(
    ("end", "is_open"),
    [
        (of(Abandoned, reasons=("log too short",)), True),
        (of(GateRefused, version="2", reasons=("few",)), True),
        (of(Aborted, by="ada", why="holiday"), False),
        (of(RolledBack, version="2", to="1"), False),
        (of(Promoted, version="2", before="1"), False),
    ],
)
def test_drift_that_is_seen_during_an_attempt_is_answered_by_it_or_open_after_it(
    end: LifecycleEvent, is_open: bool
) -> None:
    stage = [] if isinstance(end, GateRefused) else [of(GatePassed, version="2")]
    before = fold([replace(request(1), reason="schedule"), of(ModelTrained, version="2"), *stage, drift(1, 5)])
    assert before.running is not None
    after = fold([drift(9, 5, version="0"), end], before)  # of a version that does not serve
    assert after.running is None
    assert after.drift == (drift(1, 5) if is_open else None)
    # The monitor says it again after a restart: that is no other drift.
    assert fold([drift(1, 9)], after).drift == after.drift


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


def test_a_breach_during_the_next_attempt_ends_that_first() -> None:
    breach = Breach(id="b", model="m", at_ms=2 * HOUR, version="2", reason="click rate fell")
    state = fold([*release(1, "2"), request(2, 2 * HOUR, "2"), breach])
    step = next_step(state, 2 * HOUR, FREE)
    assert step is not None and (step.act, step.attempt, step.cause) == ("abandon", "r2", "b")
    ended = fold([of(Abandoned, "r2", 2 * HOUR, reasons=(step.reason,))], state)
    back = next_step(ended, 2 * HOUR, FREE)
    assert back is not None and (back.act, back.version) == ("roll-back", "2")
    late = next_step(state, 2 * HOUR + FREE.warm_s * 1000, FREE)
    assert late is not None and late.act == "train"  # nothing is warm any more: the attempt is what helps


def test_what_was_taken_back_is_not_tried_again_for_the_same_drift() -> None:
    drifted = replace(request(1, 1), cause="d1")
    worse = replace(drift(7, 2 * HOUR, version="2"), worse=True)
    taken_back = of(RolledBack, version="2", to="1", at_ms=3 * HOUR)
    state = fold([drift(1, 0), drifted, *release(1, "2")[1:], worse, taken_back, drift(1, 4 * HOUR), worse])
    assert (state.in_force, state.drift, state.reversals) == ("1", None, 1)
    assert next_step(state, 30 * HOUR, FREE) is None
    for policy, event in ((Policy(schedule="0 3 * * *"), None), (FREE, drift(8, 4 * HOUR))):
        step = next_step(fold([event] if event else [], state), 30 * HOUR, policy)
        assert step is not None and step.act == "request"


def test_a_version_that_somebody_else_put_in_force_is_not_taken_back() -> None:
    breach = Breach(id="b", model="m", at_ms=2 * HOUR, version="2", reason="click rate fell")
    moved = MovedByHand(id="h", model="m", at_ms=2 * HOUR, version="7", before="2")
    state = fold([*release(1, "2"), breach, drift(3, 2 * HOUR, "2"), moved])
    assert (state.in_force, state.before, state.drift, state.breach) == ("7", "", None, None)
    assert next_step(state, 2 * HOUR, FREE) is None
    running = fold([request(2, 2 * HOUR, "2"), replace(moved, id="i")], fold(release(1, "2")))
    assert running.in_force == "2"  # the attempt finds out for itself when it comes to move the alias


def test_a_clock_that_was_wrong_holds_nothing_up() -> None:
    ahead = 400 * 24 * HOUR
    policy = Policy(cooldown_s=3600, daily_limit=1, schedule="0 3 * * *")
    state = fold([request(1, ahead), of(Abandoned, at_ms=ahead, reasons=("x",)), drift(2, 0)])
    step = next_step(state, 10 * HOUR, policy)
    assert step is not None and step.cause == "d2"
    no_drift = fold([of(Promoted, at_ms=ahead, version="2", before="1")], fold(release(1, "2", ahead)[:-1]))
    step = next_step(no_drift, 4 * HOUR, policy, since_ms=2 * HOUR)
    assert step is not None and step.reason == "schedule"
    # Clocks of two machines that differ by a second are no reason to forget the cooldown.
    recent = fold([request(1, 0), of(Abandoned, at_ms=10 * HOUR + 1000, reasons=("x",)), drift(2, 0)])
    assert next_step(recent, 10 * HOUR, Policy(cooldown_s=3600)) is None


def test_only_what_passed_the_gate_can_be_approved_and_only_once() -> None:
    approval = of(Approved, by="ada", why="looked at it")
    trained = fold(release(1, "2")[:2])
    assert not changes(trained, approval)
    assert fold([approval], trained).running == trained.running
    gated = fold(release(1, "2")[:3])
    assert changes(gated, approval)
    assert not changes(fold([approval], gated), replace(approval, id="by-ben", by="ben"))


def test_long_lives_are_folded_in_time_that_grows_with_their_length() -> None:
    events: list[LifecycleEvent] = []
    for n in range(50_000):
        events += [request(n, n), of(Abandoned, f"r{n}", n, reasons=("x",))]
    state = fold(events)  # minutes, were anything copied with each of them
    assert state.outcomes == {"abandoned": 50_000}


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
    built(MovedByHand, version=versions),
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
                case MovedByHand():
                    assert (after.in_force, after.before) == (event.version, "")
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
