"""The canary: when it goes on, when it stops, and that nothing else moves it."""

from __future__ import annotations

import copy
import itertools
from typing import Any, cast

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analyzer.engine import Case, Previous, Snapshot, decide, decide_many, recompute
from analyzer.engine.canary import ENDED, Course, advance, due
from analyzer.engine.canary_bounds import judge_metrics, metrics_of
from analyzer.engine.moments import Moments
from analyzer.engine.sequential import contrasts
from sluice.domain.canary import CanaryPlace, CanaryState
from sluice.domain.events import DecisionMade, DelayEvidence, encode
from sluice.domain.experiment import Experiment, load_experiments
from sluice.domain.statistics import OutcomeStatistics
from sluice.domain.status import Change
from sluice.errors import ConfigError
from tests.support.canary_worlds import CANARY, World, canary, cell, order, share_at

E = canary()
GOOD = (2000, 1000), (2000, 1000)
BAD = (2000, 1000), (2000, 800)
UNCLEAR = (60, 30), (60, 30)
FEW = (9, 5), (9, 5)


def look(
    world: World, at_s: float, before: CanaryPlace | None, *orders: Change, experiment: Experiment = E, **more: Any
) -> Course:
    return advance(experiment, world.cells, int(1000 * at_s), before, orders, **more)


def at(state: CanaryState, step: int = 1, since_s: int = 0, **more: Any) -> CanaryPlace:
    place = look(World(), since_s, None).place
    return msgspec.structs.replace(place, state=state, step=step, **more)


# time        0         10                    100
#             |---------|---------------------|
#             begins    shortest              longest


def test_it_begins_without_traffic_and_its_clock_begins_with_the_first() -> None:
    world = World()
    begun = look(world, -0.001, None)
    assert (begun.place.state, begun.place.step, begun.because) == ("no-traffic", 1, "begun")
    # Events may be decades old: what was before them counts for no duration.
    world.add(10, *GOOD)
    first = look(world, 800_000_000, begun.place)
    assert (first.place.state, first.place.since_ms) == ("running", 800_000_000_000)
    assert look(world, 800_000_009, first.place).place.step == 1
    assert look(world, 800_000_010, first.place).place.step == 2


@pytest.mark.parametrize(
    ("counts", "at_s", "state", "step"),
    [
        (GOOD, 9, "running", 1),
        (GOOD, 10, "no-traffic", 2),
        (GOOD, 1000, "no-traffic", 2),
        (BAD, 1, "rolled-back", 1),
        (UNCLEAR, 99, "running", 1),
        (UNCLEAR, 100, "held", 1),
        (FEW, 99, "insufficient-data", 1),
        (FEW, 100, "held", 1),
        (((2000, 1000), (19, 9)), 50, "insufficient-data", 1),
        (((2000, 19), (2000, 19)), 50, "insufficient-data", 1),
        (((2000, 20), (2000, 20)), 50, "no-traffic", 2),
        (((2000, 1981), (2000, 1981)), 50, "insufficient-data", 1),
        (((2000, 1000), (2000, 0)), 1, "rolled-back", 1),
        (((2000, 1000), (0, 0)), 100, "held", 1),
    ],
)
def test_one_look_at_the_first_step(counts: Any, at_s: int, state: str, step: int) -> None:
    world = World()
    world.add(10, *counts)
    found = look(world, at_s, at("running"))
    assert (found.place.state, found.place.step) == (state, step)


def test_past_the_last_step_it_is_promoted_and_stays_so() -> None:
    world = World()
    world.add(50, *GOOD)
    done = look(world, 10, at("running", 3))
    assert (done.place.state, done.because) == ("promoted", "passed")
    world.add(50, *BAD)
    world.add(50, *BAD)
    assert look(world, 1000, done.place).place == done.place


def test_the_longest_duration_rolls_back_where_that_is_asked_for() -> None:
    world = World()
    world.add(10, *UNCLEAR)
    strict = canary(**{"canary:": "canary:\n  on_longest: rollback"})
    place = look(World(), 0, None, experiment=strict).place
    found = look(world, 100, msgspec.structs.replace(place, state="running"), experiment=strict)
    assert (found.place.state, found.because) == ("rolled-back", "longest")


def test_a_held_step_never_advances_by_itself_and_still_rolls_back() -> None:
    world = World()
    world.add(10, *GOOD)
    assert look(world, 200, at("held")).place.state == "held"
    worse = World()
    worse.add(10, *BAD)
    assert look(worse, 200, at("held")).place.state == "rolled-back"
    # Started again it has its whole time once more, and all of its evidence.
    paused = look(world, 200, at("held"), order(1, "pause", "paused")).place
    resumed = look(world, 300, paused, order(2, "start"))
    assert (resumed.place.state, resumed.place.since_ms) == ("running", 300_000)
    assert look(world, 310, resumed.place).place.step == 2


@pytest.mark.parametrize(
    ("crashes", "shown", "rolled"),
    [(4, 10, False), (5, 10, True), (5, 100, False), (6, 100, True), (100, 2000, False), (101, 2000, True)],
)
def test_a_hard_limit_asks_for_no_statistics(crashes: int, shown: int, rolled: bool) -> None:
    world = World()
    world.add(10, (9, 5), (shown, shown // 2), crash=(0, crashes))
    found = look(world, 0, at("running"), trusted=False)
    assert (found.place.state == "rolled-back") == rolled
    assert (found.because, found.about) == (("limit", "crash") if rolled else ("evidence", ""))


def test_evidence_that_cannot_be_right_moves_nothing() -> None:
    good, bad = World(), World()
    good.add(10, *GOOD)
    bad.add(10, *BAD)
    for world in (good, bad):
        assert look(world, 50, at("running"), trusted=False).place.state == "running"
        assert look(world, 100, at("running"), trusted=False).place.state == "held"


def test_every_guardrail_must_hold_too() -> None:
    for errors, state in [((0, 0), "no-traffic"), ((20, 20), "no-traffic"), ((0, 90), "rolled-back")]:
        world = World()
        world.add(10, *GOOD, error=errors)
        assert look(world, 10, at("running")).place.state == state
    # Without a single error in few units nobody knows that there are few.
    world = World()
    world.add(10, (1000, 500), (60, 30))
    wide = canary(**{"{share: 10, margin: 0.1,": "{share: 10, margin: 0.9,"})
    place = msgspec.structs.replace(look(World(), 0, None, experiment=wide).place, state="running")
    found = look(world, 10, place, experiment=wide)
    assert found.judged is not None and found.judged.metrics[0].status == "passed"
    rail = metrics_of(wide, 1)[1]
    assert rail.margin == pytest.approx(0.9)  # 0.1 at the last step, in the proportion of the steps' margins
    tight = judge_metrics(E, world.cells, world.cells, metrics_of(E, 1), {})
    assert tight.metrics[1].status == "open"


@pytest.mark.parametrize(("errors", "status"), [(5, "open"), (19, "open"), (20, "worse")])
def test_a_few_rare_events_are_neither_worse_nor_good_enough(errors: int, status: str) -> None:
    world = World()
    world.add(10, (20_000, 10_000), (300, 150), error=(20, errors))
    rail = judge_metrics(E, world.cells, world.cells, metrics_of(E, 1), {}).metrics[1]
    assert rail.interval is not None and rail.interval[1] < 0
    assert rail.status == status


def test_without_an_error_in_either_arm_the_bound_is_below_that_of_one_more_unit_with_one() -> None:
    world = World()
    world.add(10, (500, 250), (2000, 1000), error=(0, 0))
    metric = metrics_of(E, 1)[1]
    rail = judge_metrics(E, world.cells, world.cells, (metric,), {}).metrics[0]
    drawn = contrasts(
        Moments(*np.array([(n, n, 1, n, 1, 1) for n in (501, 2001)], dtype=float).T), 0, alpha=metric.alpha, tau=0.1
    )
    assert rail.interval is not None and rail.status == "passed"
    # The unit makes the control look worse than it was: that is taken off again.
    assert rail.interval[0] == pytest.approx(-drawn.high[1] - (1 / 501 - 1 / 2001))
    assert rail.interval[1] == pytest.approx(-drawn.low[1])


def delay(a: float, b: float, *, immature: bool = False) -> DelayEvidence:
    return DelayEvidence(immature=immature, impressions={"A": a, "B": b}, inflation={"A": 1.0, "B": 1.0})


def test_clicks_that_are_still_to_come_are_no_reason_to_go_on() -> None:
    world = World()
    world.add(10, *GOOD)
    assert look(world, 10, at("running"), delays={"click": delay(2000, 2000)}).place.step == 2
    young = look(world, 10, at("running"), delays={"click": delay(2000, 2000, immature=True)})
    assert (young.place.state, young.place.step) == ("insufficient-data", 1)
    # 200 of 2,000 open: clicks of the control worth 0.5 · 200 / 1800 = 5.6 points may still come. 20: 0.5 points.
    few, many = (look(world, 10, at("running"), delays={"click": delay(n, n)}) for n in (1980, 1800))
    assert (few.place.step, many.place.step) == (2, 1)
    whole = look(world, 10, at("running")).judged
    assert whole is not None and few.judged is not None and many.judged is not None
    lows = [cast(Any, one.metrics[0].interval)[0] for one in (whole, few.judged, many.judged)]
    assert lows[0] - lows[1] == pytest.approx(0.5 * 20 / 1980)
    assert lows[0] - lows[2] == pytest.approx(0.5 * 200 / 1800)
    # Where less is better, what is still to come of the candidate counts against it.
    flawed = World()
    flawed.add(10, *GOOD, error=(40, 40))
    for both, further in ((delay(2000, 1800), 0.02 * 200 / 1800), (delay(1800, 2000), 0.0)):
        judged = [look(flawed, 5, at("running"), delays=of).judged for of in ({}, {"error": both})]
        ends = [cast(Any, one).metrics[1].interval[0] for one in judged]
        assert ends[0] - ends[1] == pytest.approx(further)
    # All that is open is taken to be of this step.
    world.add(30, *GOOD)
    late = look(world, 10, at("running"), delays={"click": delay(3800, 3800)}).judged
    assert late is not None and cast(Any, late.metrics[0].interval)[0] == pytest.approx(lows[2])


@pytest.mark.parametrize("state", ["no-traffic", "insufficient-data", "running", "held"])
def test_commands(state: CanaryState) -> None:
    world = World()
    world.add(10, *UNCLEAR)
    paused = look(world, 50, at(state), order(3, "pause", "paused"))
    assert (paused.place.state, paused.place.step, paused.because) == ("paused", 1, "pause")
    world.add(10, *BAD)
    assert look(world, 90, paused.place).place == paused.place
    stopped = look(world, 90, paused.place, order(4, "stop", "stopped"))
    assert (stopped.place.state, stopped.because, stopped.place.revision) == ("rolled-back", "stop", 4)
    for variant, end in (("A", "rolled-back"), ("B", "promoted")):
        assert look(world, 90, at(state), order(4, "ship", "shipped", variant=variant)).place.state == end


def test_a_pause_counts_for_no_duration() -> None:
    world = World()
    world.add(10, *GOOD)
    place = look(world, 8, at("running"), order(1, "pause", "paused")).place
    place = look(world, 500, place, order(2, "start")).place
    assert (place.step, place.since_ms) == (1, 492_000)
    assert look(world, 501, place).place.step == 1
    assert look(world, 502, place).place.step == 2


def test_after_a_rollback_only_a_start_begins_again_and_on_new_evidence() -> None:
    world = World()
    world.add(10, *BAD)
    rolled = look(world, 5, at("running")).place
    world.add(10, *GOOD)
    world.add(10, *GOOD)
    for action in ("pause", "apply"):
        assert look(world, 50, rolled, order(2, cast(Any, action))).place.state == "rolled-back"
    again = look(world, 50, rolled, order(2, "pause", "paused"), order(3, "start"))
    assert (again.place.state, again.place.step, again.because) == ("no-traffic", 1, "again")
    world.add(10, *GOOD)
    running = look(world, 60, again.place)
    assert running.judged is not None and running.judged.units == (2000.0, 2000.0)
    assert look(world, 70, running.place).place.step == 2


def test_another_plan_begins_again_but_does_not_undo_a_rollback() -> None:
    world = World()
    world.add(30, *GOOD)
    other = canary(**{"{name: B}": "{name: B, ranker: affinity}"})
    begun = look(world, 50, at("running", 2), experiment=other)
    assert (begun.place.state, begun.place.step, begun.because) == ("no-traffic", 1, "changed")
    world.add(10, *BAD)
    assert look(world, 51, at("running", 2), experiment=other).place.state == "no-traffic"
    assert look(world, 50, at("paused", 2), experiment=other).place.state == "paused"
    assert look(world, 50, at("rolled-back", 2), experiment=other).place.state == "rolled-back"
    promoted = look(world, 50, at("promoted", 3), experiment=other).place
    assert (promoted.state, promoted.step) == ("no-traffic", 1)


def test_durations_and_limits_may_be_changed_on_the_way() -> None:
    world = World()
    world.add(10, *GOOD)
    for changed, step in (
        ({"longest_s: 100": "longest_s: 900"}, 2), ({"least_events: 5": "least_events: 6"}, 2),
        ({"shortest_s: 10": "shortest_s: 11"}, 1),
    ):  # fmt: skip
        found = look(world, 10, at("running"), experiment=canary(**changed))
        assert (found.place.step, found.because) == (step, "passed" if step == 2 else "")


def test_users_who_come_again_after_a_new_start_make_no_impossible_sums() -> None:
    # 100 users before; afterwards the same ones again, so no new unit, and each of them twice as much.
    before = (cell("A", 10, 100, {"click": 50}), cell("B", 10, 100, {"click": 50}))
    after = (cell("A", 10, 100, {"click": 50}, size=2), cell("B", 10, 100, {"click": 50}, size=2))
    place = advance(E, before, 0, None, fresh=False).place
    judged = advance(E, after, 1000, place).judged
    assert judged is not None
    # 100 impressions with Σn² = 400 − 100: 10000 / 300
    assert judged.units == (pytest.approx(33.3, abs=0.1), pytest.approx(33.3, abs=0.1))


def test_it_says_how_many_units_are_missing() -> None:
    # With a margin of 0.02, α = 0.05 / 5 and no difference: some thousand slates of three independent films per arm.
    default = load_experiments("{name: e, unit: slate, variants: [{name: A}, {name: B}], canary: {}}", "test")[0]

    def judged(slates: int) -> Any:
        clicks, square = round(1.8 * slates), round((0.72 + 1.8**2) * slates)
        sums = {"click": OutcomeStatistics(clicks, square, 3 * clicks)}
        cells = [
            msgspec.structs.replace(of, statistics=msgspec.structs.replace(of.statistics, outcomes=sums))
            for of in (cell("A", 50, slates, {}, 3), cell("B", 50, slates, {}, 3))
        ]
        return judge_metrics(default, cells, cells, metrics_of(default, 5), {})

    needed = judged(1000).needed
    assert needed is not None and 3000 < needed[1] < 8000
    there = judged(1000 + needed[1])
    assert there.allows and there.needed == (0, 0)
    assert not judged(round((1000 + needed[1]) * 0.85)).allows
    nothing = World()
    nothing.add(10, (100, 0), (100, 0))
    assert judge_metrics(E, nothing.cells, nothing.cells, metrics_of(E, 1)[:1], {}).needed is not None


# What may happen between two looks: counts of the step in force, time, commands.
EVENTS: dict[str, Any] = {
    "good": GOOD,
    "bad": BAD,
    "unclear": UNCLEAR,
    "short time": 10,
    "long time": 100,
    "pause": ("pause", "paused"),
    "start": ("start", "running"),
}


class Walk:
    """One course, looked at after every event, and what an observer would demand of it."""

    def __init__(self) -> None:
        self.world, self.at_s, self.revision = World(), 0, 0
        self.place: CanaryPlace | None = None
        self.orders: list[Change] = []

    def happens(self, event: str) -> None:
        what = EVENTS[event]
        if event.endswith("time"):
            self.at_s += what
        elif event in ("pause", "start"):
            self.revision += 1
            self.orders.append(order(self.revision, what[0], what[1]))
        else:
            share = share_at(E, self.place)
            if 0 < share < 100:
                self.world.add(share, *what)

    def look(self) -> Course:
        found = look(self.world, self.at_s, self.place, *self.orders)
        self.orders = []
        return found


def lowest(world: World, share: int, alpha: float) -> float:
    """The lower bound of click on the cells of one share, by the engine's sequences alone."""
    sums = []
    for variant in ("A", "B"):
        of = [one.statistics for one in world.cells if one.variant == variant and f"B={share}" in one.allocation]
        n, c = sum(one.impressions for one in of), sum(one.outcome("click").count for one in of)
        sums.append((n, n, c, n, c, c))
    arms = Moments(*np.array(sums, dtype=float).T)
    return float(contrasts(arms, 0, alpha=alpha, tau=0.1).low[1])


def demand(before: CanaryPlace | None, found: Course, walk: Walk, orders: list[Change]) -> None:
    """What must hold of every single look."""
    place = found.place
    actions = [one.action for one in orders]
    if before is None:
        assert place.step == 1 and place.state != "promoted"
        return
    if before.state == "rolled-back":
        assert "start" in actions or place == msgspec.structs.replace(before, revision=place.revision)
        return
    if before.state == "promoted":
        assert place.state == "promoted"
        return
    moved = place.step - before.step if place.state != "promoted" else 1
    assert moved in (0, 1)
    if moved:
        share = share_at(E, before)
        assert before.state in ("running", "insufficient-data", "no-traffic") or "start" in actions
        assert actions[-1:] != ["pause"]
        assert lowest(walk.world, share, 0.05 / 6) > -0.1
        assert 1000 * walk.at_s - before.since_ms >= 10_000
    if actions[-1:] == ["pause"] and place.state not in ENDED:
        assert place.state == "paused"


def test_every_short_course_keeps_the_rules_and_a_restart_changes_none() -> None:
    """All sequences of four events, looked at after each; and each from the bytes of the last place alone."""
    ends: set[tuple[str, int]] = set()

    def follow(walk: Walk, left: int) -> None:
        if not left:
            assert walk.place is not None
            ends.add((walk.place.state, walk.place.step))
            return
        for event in EVENTS:
            other = copy.deepcopy(walk)
            other.happens(event)
            orders = list(other.orders)
            found = other.look()
            demand(walk.place, found, other, orders)
            other.place = msgspec.json.decode(msgspec.json.encode(found.place), type=CanaryPlace)
            assert other.place == found.place
            follow(other, left - 1)

    follow(Walk(), 4)
    assert {state for state, _ in ends} >= {"no-traffic", "running", "held", "paused", "rolled-back"}
    assert {step for _, step in ends} == {1, 2, 3}


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(sorted(EVENTS)), st.booleans()), max_size=40))
def test_looks_that_are_left_out_never_advance_two_steps_on_the_evidence_of_one(events: list[tuple[str, bool]]) -> None:
    walk, passed = Walk(), {10: 0, 30: 0, 50: 0}
    for event, looked in events:
        walk.happens(event)
        if not looked:
            continue
        before, orders = walk.place, list(walk.orders)
        found = walk.look()
        demand(before, found, walk, orders)
        if before is not None and found.because == "passed":
            passed[share_at(E, before)] += 1
        if found.because in ("again", "begun"):
            passed = dict.fromkeys(passed, 0)
        walk.place = found.place
        # A step is passed once, in order, each on its own cells.
        assert sorted(passed.values(), reverse=True) == list(passed.values())
        assert max(passed.values()) <= 1
        if found.place.state == "promoted":
            assert set(passed.values()) == {1}


@settings(max_examples=200, deadline=None)
@given(
    a=st.integers(0, 5000), b=st.integers(0, 5000), rate_a=st.floats(0, 1), rate_b=st.floats(0, 1),
    margin=st.floats(0.001, 0.5), lasted_s=st.integers(0, 120), least=st.integers(2, 500),
)  # fmt: skip
def test_no_counts_advance_below_the_margin_the_gate_or_the_shortest_duration(
    a: int, b: int, rate_a: float, rate_b: float, margin: float, lasted_s: int, least: int
) -> None:
    text = CANARY.replace("{share: 10, margin: 0.1,", f"{{share: 10, margin: {margin},").replace(
        "guardrails: [{outcome: error, margin: 0.1, better: lower}]", f"stopping: {{least_units: {least}}}"
    )
    experiment = canary(text)
    world = World()
    world.add(10, (a, round(rate_a * a)), (b, round(rate_b * b)))
    place = msgspec.structs.replace(look(World(), 0, None, experiment=experiment).place, state="running")
    found = look(world, lasted_s, place, experiment=experiment)
    sums = [(n, n, c, n, c, c) for n, c in ((a, round(rate_a * a)), (b, round(rate_b * b)))]
    bounds = contrasts(Moments(*np.array(sums, dtype=float).T), 0, alpha=0.05 / 3, tau=margin)
    if found.place.step == 2:
        assert bounds.low[1] > -margin
        assert min(a, b) >= least and lasted_s >= 10
        assert min(round(rate_a * a), round(rate_b * b)) >= 20
    if found.place.state == "rolled-back":
        assert min(a, b) >= least
        assert rate_b < rate_a


# As decisions.


def in_proportion(share: int, clicks: float) -> Any:
    """2,000 units of B and those of A that belong to them; `clicks` per unit of B, a half per unit of A."""
    a = 2000 * (100 - share) // share
    return (a, a // 2), (2000, round(2000 * clicks))


def decided(
    world: World, at_s: float, last: DecisionMade | None, *orders: Change, experiment: Experiment = E
) -> DecisionMade:
    previous = None
    if last is not None:
        assert last.canary is not None
        previous = Previous(last.version, last.allocation, last.allocation_version, last.history, last.canary.place)
    made = decide(experiment, Snapshot(world.cells, {0: (1, 1)}, int(1000 * at_s)), previous, orders)
    data = encode(made)
    assert encode(recompute(msgspec.json.decode(data, type=DecisionMade))) == data
    return made


def test_a_canary_in_decisions_from_the_start_to_the_promotion() -> None:
    world, said = World(), []
    made = decided(world, -0.001, None)
    said.append((made.verdict, made.allocation, made.allocation_version, made.reasons[0]))
    at_s = 0
    for share in (10, 30, 50):
        world.add(share, *in_proportion(share, 0.5))
        made = decided(world, at_s, made)
        assert (made.verdict, made.allocation["B"]) == ("continue", share)
        at_s += 10
        made = decided(world, at_s, made)
        said.append((made.verdict, made.allocation, made.allocation_version, made.reasons[0]))
    assert [one[:3] for one in said] == [
        ("no-traffic", {"A": 90, "B": 10}, 0),
        ("continue", {"A": 70, "B": 30}, 1),
        ("continue", {"A": 50, "B": 50}, 2),
        ("ship", {"A": 0, "B": 100}, 3),
    ]
    assert said[0][3] == "The canary of B against A begins at step 1 of 3 (B 10 %)."
    assert said[1][3] == (
        "On to step 2 of 3 (B 30 %): at step 1 of 3 (B 10 %) nothing is worse than A by its margin or more: "
        "click -4.43 to +4.43 points (margin 10): passed; error -1.1 to +0.0489 points (margin 10): passed."
    )
    assert said[3][3].startswith("Promoted: at step 3 of 3 (B 50 %) nothing is worse than A by its margin or more: ")
    # The figures are of the step alone: the candidate's late days are not compared with the control's early ones.
    assert [(one.variant, one.units) for one in made.results] == [("A", 2000), ("B", 2000)]
    world.add(100, (0, 0), (500, 250))
    made = decided(world, 99, made)
    assert (made.verdict, made.allocation, made.reasons[0]) == (
        "ship", {"A": 0, "B": 100}, "Promoted: B gets all traffic."
    )  # fmt: skip


def test_a_rollback_in_decisions_and_what_people_do_then() -> None:
    world = World()
    world.add(10, (540, 270), (60, 30))
    made = decided(world, 0, None)
    assert made.verdict == "continue"
    world.add(10, *in_proportion(10, 0.4))
    made = decided(world, 1, made)
    assert (made.verdict, made.allocation) == ("rollback", {"A": 100, "B": 0})
    assert made.reasons[0].startswith("Rolled back at step 1 of 3 (B 10 %): B is worse than A in click -")
    assert made.canary is not None and made.canary.move is not None
    assert (made.canary.move.from_state, made.canary.move.state) == ("running", "rolled-back")
    world.add(0, (500, 250), (0, 0))
    made = decided(world, 2, made)
    assert made.verdict == "rollback" and made.canary is not None and made.canary.move is None
    assert "until somebody starts the canary again" in made.reasons[0]
    made = decided(world, 3, made, order(1, "pause", "paused"), order(2, "start"))
    assert (made.allocation, made.allocation_version) == ({"A": 90, "B": 10}, 2)
    assert made.reasons[0] == (
        "Started again by anna (because): the canary of B begins at step 1 of 3 (B 10 %), on new evidence."
    )
    made = decided(world, 4, made, order(3, "pause", "paused"))
    assert (made.verdict, made.reasons[0]) == ("continue", "Paused by anna (because) at step 1 of 3 (B 10 %).")
    made = decided(world, 5, made, order(4, "stop", "stopped"))
    assert made.reasons[0] == "Stopped by anna (because) at step 1 of 3 (B 10 %): rolled back."


def test_lost_units_make_the_decision_invalid_and_leave_the_canary_where_it_is() -> None:
    world = World()
    world.add(10, (2000, 1000), (2000, 1000))
    made = decided(world, 50, None)
    assert (made.verdict, made.allocation) == ("invalid", {"A": 90, "B": 10})
    assert "did not arrive in the proportions" in made.reasons[0]


def test_a_canary_in_a_batch_is_decided_as_alone() -> None:
    world = World()
    world.add(10, *GOOD)
    plain = load_experiments("{name: e, unit: slate, variants: [{name: A}, {name: B}]}", "test")[0]
    snapshot = Snapshot(world.cells, {}, 5)
    both = decide_many([Case(E, snapshot), Case(plain, snapshot)])
    assert [encode(one) for one in both] == [encode(decide(E, snapshot)), encode(decide(plain, snapshot))]
    assert both[1].canary is None


def test_time_alone_is_due_once_for_each_duration() -> None:
    place = at("running", since_s=1)
    when = [(decided_s, at_s) for decided_s, at_s in itertools.product((5, 11, 50, 101, 200), repeat=2)
            if decided_s <= at_s and due(E, place, 1000 * decided_s, 1000 * at_s)]  # fmt: skip
    assert when == [(5, 11), (5, 50), (5, 101), (5, 200), (11, 101), (11, 200), (50, 101), (50, 200)]
    for state in (*ENDED, "paused", "no-traffic"):
        assert not due(E, at(cast(CanaryState, state), since_s=1), 5000, 200_000)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("variants: [{name: A}, {name: B}, {name: C}]\ncanary: {}", "canary: for two variants, control and candidate"),
        ("aa: true\ncanary: {}", "aa: not with `canary`"),
        ("variants: [{name: A, share: 50}, {name: B, share: 50}]\ncanary: {}", "variants: no shares with `canary`"),
        ("bandit: {policy: thompson}\ncanary: {}", "bandit: with `canary`, which moves the traffic, allowed is policy"),
        ("bandit: {reserve: 0.1}\ncanary: {}", "bandit: with `canary`"),
        ("assignment: sticky\ncanary: {}", "assignment: 'sticky': with `canary` allowed is rollout"),
        ("canary: {steps: []}", "canary.steps: []: Expected `array` of length >= 1"),
        ("canary: {steps: [{share: 100, margin: 0.1}]}", "canary.steps[0].share: 100: allowed are 1 to 99"),
        (
            "canary: {steps: [{share: 9, margin: 0.1}, {share: 9, margin: 0.1}]}",
            "canary.steps[1].share: 9: allowed are 10 to 99, more at every step",
        ),
        ("canary: {steps: [{share: 9, margin: 0}]}", "canary.steps[0].margin: 0"),
        ("canary: {steps: [{share: 9, margin: 1.5}]}", "canary.steps[0].margin: 1.5: a rate is at most 1"),
        ("canary: {steps: [{share: 9}]}", "canary.steps[0]: {'share': 9}: Object missing required field `margin`"),
        (
            "canary: {steps: [{share: 9, margin: 0.1, shortest_s: 5, longest_s: 5}]}",
            "canary.steps[0].longest_s: 5: must be more than shortest_s, 5",
        ),
        ("canary: {on_longest: promote}", "canary.on_longest: 'promote': allowed are hold, rollback"),
        ("canary: {limits: [{outcome: error, rate: 2}]}", "canary.limits[0].rate: 2"),
        (
            "canary: {limits: [{outcome: e, rate: 0.1}, {outcome: e, rate: 0.2}]}",
            "canary.limits[1].outcome: 'e': allowed are 1 to 64 characters, each outcome once",
        ),
        ("measure: value\nstopping: {planned_effect: 1}\ncanary: {}", "canary.steps: missing; `measure: value`"),
    ],
)
def test_what_is_written_wrong_is_named(text: str, said: str) -> None:
    start = "name: x\n" if "variants:" in text else "name: x\nvariants: [{name: A}, {name: B}]\n"
    with pytest.raises(ConfigError) as error:
        load_experiments(start + text, "file.yaml")
    assert said in str(error.value)


def test_a_canary_needs_nothing_but_its_name() -> None:
    (found,) = load_experiments("{name: x, control: B, variants: [{name: A}, {name: B}], canary: {}}", "file.yaml")
    assert (found.bandit.policy, found.assignment) == ("fixed", "rollout")
    assert found.starting_allocation == {"A": 1, "B": 99}
    assert found.canary is not None
    assert [(step.share, step.margin) for step in found.canary.steps] == [
        (1, 0.10), (5, 0.05), (10, 0.03), (25, 0.02), (50, 0.02)
    ]  # fmt: skip
