"""Who is in an experiment: layers exclude each other, targeting is pure, holdouts are shared, shares only grow."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from router import AssignmentRequest, MemoryAssignments, Routed, Router
from sluice.domain.audience import Forced, Holdout, Layer, Outside, Rule, holds
from sluice.domain.bucketing import Bucketing, Gate, bucket, drawing
from sluice.domain.events import AssignmentMade
from sluice.domain.experiment import Experiment, Variant
from sluice.domain.status import State, Status

TWO = (Variant(name="a"), Variant(name="b"))
E = Experiment(name="e", variants=TWO, control="b")
USERS = [f"u{n}" for n in range(2000)]
SD = (2000 * 0.25) ** 0.5


def ask(*experiments: Experiment, users: list[str] = USERS, **attributes: str) -> list[tuple[Routed, ...]]:
    router = Router(experiments, MemoryAssignments())
    return router.assign([AssignmentRequest(user, {}, 1, attributes) for user in users])


def inside(experiment: Experiment, users: list[str] = USERS, **attributes: str) -> set[str]:
    """Users with an assignment."""
    answers = ask(experiment, users=users, **attributes)
    return {user for user, (answer,) in zip(users, answers, strict=True) if answer.assignment is not None}


def why(experiment: Experiment, user: str = "u", **attributes: str) -> Outside | None:
    (((answer,)),) = ask(experiment, users=[user], **attributes)
    assert (answer.assignment is None) == (answer.outside is not None)
    return answer.outside


@pytest.mark.parametrize(
    ("rule", "value", "expected"),
    [
        (Rule(attribute="x", operator="in", values=("DE", 7)), "DE", True),
        (Rule(attribute="x", operator="in", values=("DE", 7)), "7", True),
        (Rule(attribute="x", operator="in", values=("DE", 7)), "de", False),
        (Rule(attribute="x", operator="in", values=("DE",)), None, False),
        (Rule(attribute="x", operator="not_in", values=("DE",)), "AT", True),
        (Rule(attribute="x", operator="not_in", values=("DE",)), "DE", False),
        (Rule(attribute="x", operator="not_in", values=("DE",)), None, False),
        (Rule(attribute="x", operator="at_least", values=(18,)), "18", True),
        (Rule(attribute="x", operator="at_least", values=(18,)), "9", False),  # as numbers, not as text
        (Rule(attribute="x", operator="at_least", values=(18,)), "old", False),
        (Rule(attribute="x", operator="below", values=(1.5,)), "1.5", False),
        (Rule(attribute="x", operator="below", values=(1.5,)), "-1e3", True),
        (Rule(attribute="x", operator="below", values=(1.5,)), "nan", False),
        (Rule(attribute="x", operator="at_least", values=(1.5,)), "nan", False),
    ],
)
def test_rules(rule: Rule, value: str | None, expected: bool) -> None:
    assert holds([rule], {} if value is None else {"x": value}) is expected


def test_all_rules_must_hold() -> None:
    adult = Rule(attribute="age", operator="at_least", values=(18,))
    german = Rule(attribute="country", operator="in", values=("DE",))
    targeted = replace(E, targeting=(adult, german))
    assert why(targeted, age="30", country="DE", other="x") is None
    for attributes in ({"age": "30"}, {"age": "3", "country": "DE"}, {"age": "30", "country": "FR"}, {}):
        assert why(targeted, **attributes) == "not targeted"


@given(st.dictionaries(st.sampled_from(["age", "country"]), st.sampled_from(["7", "30", "DE", "FR"])))
def test_targeting_changes_nobody_s_variant(attributes: dict[str, str]) -> None:
    targeted = replace(E, targeting=(Rule(attribute="country", operator="in", values=("DE",)),))
    plain = ask(E, users=USERS[:50])
    for (answer,), (without,) in zip(ask(targeted, users=USERS[:50], **attributes), plain, strict=True):
        if attributes.get("country") == "DE":
            assert answer == without
        else:
            assert (answer.variant, answer.assignment, answer.outside) == ("b", None, "not targeted")


cuts = st.lists(st.integers(0, 100), min_size=1, max_size=6, unique=True).map(sorted)


@settings(max_examples=30)
@given(cuts)
def test_experiments_of_a_layer_never_share_a_unit_and_leave_none_out(points: list[int]) -> None:
    edges = sorted({0, *points, 100})
    parts = [
        Experiment(name=f"e{n}", variants=TWO, layer=Layer(name="page", range=(low / 100, high / 100)))
        for n, (low, high) in enumerate(pairwise(edges))
    ]
    users = USERS[:300]
    for answer in ask(*parts, users=users):
        assert [routed.outside for routed in answer].count(None) == 1
        assert {routed.outside for routed in answer} <= {None, "layer"}


def test_two_layers_are_independent_of_each_other_and_of_the_variant() -> None:
    one, other = (replace(E, layer=Layer(name=name, range=(0, 0.5))) for name in ("page", "mail"))
    assert abs(len(inside(one) & inside(other)) - 500) < 5 * SD
    variants = Counter(answer.variant for (answer,) in ask(one) if answer.assignment)
    assert abs(variants["a"] - variants["b"]) < 5 * SD


def test_a_holdout_is_the_same_units_in_every_experiment_that_names_it() -> None:
    held = Holdout(name="winter", share=0.2)
    plain, salted = replace(E, holdout=held), Experiment(name="x", variants=TWO, salt="s", holdout=held)
    out = [{u for u, (a,) in zip(USERS, ask(e), strict=True) if a.outside == "holdout"} for e in (plain, salted)]
    assert out[0] == out[1]
    assert abs(len(out[0]) - 400) < 5 * (2000 * 0.16) ** 0.5
    assert inside(replace(E, holdout=Holdout(name="summer", share=0.2))) & out[0]
    slates = Router([replace(plain, unit="slate")], MemoryAssignments())
    requests = [AssignmentRequest(user, {"slate": f"s{n}"}, 1) for user in USERS[:200] for n in (1, 2)]
    held_out = {r.user_id for r, (a,) in zip(requests, slates.assign(requests), strict=True) if a.outside == "holdout"}
    assert held_out == out[0] & set(USERS[:200]), "people, whatever is randomised"


@settings(max_examples=30)
@given(st.floats(0, 1), st.floats(0, 1))
def test_more_traffic_keeps_everybody_and_their_variants(one: float, other: float) -> None:
    less, more = (replace(E, traffic=share) for share in sorted((one, other)))
    users = USERS[:300]
    for (few,), (many,) in zip(ask(less, users=users), ask(more, users=users), strict=True):
        assert few.assignment is None or few.assignment == many.assignment


def test_traffic_is_a_share_of_the_units_and_independent_of_the_variant() -> None:
    answers = [answer for (answer,) in ask(replace(E, traffic=0.4))]
    got = Counter(answer.variant for answer in answers if answer.assignment)
    assert abs(sum(got.values()) - 800) < 5 * (2000 * 0.24) ** 0.5
    assert abs(got["a"] - got["b"]) < 5 * SD
    assert {(a.variant, a.outside) for a in answers if not a.assignment} == {("b", "traffic")}
    assert inside(replace(E, traffic=0.0)) == set()
    assert inside(replace(E, traffic=1.0)) == set(USERS)


def test_why_comes_in_order() -> None:
    """Forced, targeting, holdout, layer, traffic: the first that holds is told."""
    everything = replace(
        E,
        targeting=(Rule(attribute="country", operator="in", values=("DE",)),),
        holdout=Holdout(name="h", share=0.5),
        layer=Layer(name="l", range=(0, 0.5)),
        traffic=0.5,
        forced=(Forced(variant="a", units=("vip",)),),
    )
    found: Counter[Outside | None] = Counter()
    for user in USERS:
        expected: Outside | None = None
        if bucket("holdout/h", user) < 0.5:
            expected = "holdout"
        elif bucket("layer/l", user) >= 0.5:
            expected = "layer"
        elif bucket("e/traffic", user) >= 0.5:
            expected = "traffic"
        found[expected] += 1
        assert why(everything, user, country="DE") == expected
        assert why(everything, user, country="FR") == "not targeted"
    assert min(found.values()) > 100
    assert why(everything, "vip", country="FR") == "forced"


def test_forced_units_see_their_variant_and_are_no_evidence() -> None:
    tester = Rule(attribute="tester", operator="in", values=("yes",))
    forced = replace(E, forced=(Forced(variant="a", units=("u1", "u2")), Forced(variant="b", when=(tester,))))
    log: list[AssignmentMade] = []
    router = Router([forced], MemoryAssignments(), exposures=log.extend)

    def told(user: str, **attributes: str) -> tuple[str, Any]:
        (((answer,)),) = router.assign([AssignmentRequest(user, {}, 1, attributes)])
        return answer.variant, answer.outside

    assert told("u1", tester="yes") == ("a", "forced")
    assert told("u3", tester="yes") == ("b", "forced")
    assert log == []
    assert told("u3")[1] is None
    assert [made.unit for made in log] == ["u3"]


@pytest.mark.parametrize(
    ("status", "variant", "outside"),
    [("draft", "b", "draft"), ("paused", "b", "paused"), ("stopped", "b", "stopped"), ("shipped", "a", "shipped")],
)
def test_what_does_not_run_gives_no_assignments(status: Status, variant: str, outside: Outside) -> None:
    store = MemoryAssignments()
    state = State(status=status, variant="a" if status == "shipped" else "")
    forced = (Forced(variant="a", units=("u0",)),)
    router = Router([replace(E, state=state, forced=forced)], store)
    answers = [answer for (answer,) in router.assign([AssignmentRequest(user, {}, 1) for user in USERS[:50]])]
    assert {(a.variant, a.outside, a.assignment) for a in answers[1:]} == {(variant, outside, None)}
    assert (answers[0].variant, answers[0].outside) == (("a", "forced") if status == "draft" else (variant, outside))
    # Nothing was remembered meanwhile: once it runs, units are drawn from what stands then.
    router.define(E)
    assert router.update("e", 1, {"a": 0, "b": 100})
    assert {a.version for (a,) in router.assign([AssignmentRequest(user, {}, 1) for user in USERS[:50]])} == {1}


ROLLOUT = replace(E, assignment="rollout")


@settings(max_examples=40)
@given(st.lists(st.integers(0, 100), min_size=2, max_size=6))
def test_a_rollout_moves_exactly_the_units_between_the_borders(shares: list[int]) -> None:
    router = Router([ROLLOUT], MemoryAssignments())
    users = USERS[:200]
    before: dict[str, str] = {}
    last = 50
    for version, share in enumerate(shares, 1):
        router.update("e", version, {"a": share, "b": 100 - share})
        answers = router.assign([AssignmentRequest(user, {}, 1) for user in users])
        now = {user: answer.variant for user, (answer,) in zip(users, answers, strict=True)}
        moved = {user for user in before if before[user] != now[user]}
        between = {user for user in users if min(last, share) <= 100 * bucket("e", user) < max(last, share)}
        assert moved == (between if before else set())
        assert {answer.assignment.propensity for (answer,) in answers if answer.assignment} <= {
            share / 100,
            (100 - share) / 100,
        }
        assert {now[user] for user in moved} <= {"a" if share > last else "b"}
        before, last = now, share


def test_a_rollout_stores_nothing_and_starts_as_a_sticky_experiment_would() -> None:
    class Untouched(MemoryAssignments):
        def claim(self, claims: Any) -> Any:
            raise AssertionError("asked")

    requests = [AssignmentRequest(user, {}, 1) for user in USERS[:100]]
    rolled = Router([ROLLOUT], Untouched()).assign(requests)
    assert [a.assignment for (a,) in rolled] == [a.assignment for (a,) in ask(E, users=USERS[:100])]


@pytest.mark.parametrize("algorithm", ["growthbook-v2", "optimizely", "split", "launchdarkly", "eppo", "planout"])
def test_units_lie_where_the_tool_they_come_from_put_them(algorithm: Any) -> None:
    rule = Bucketing(algorithm=algorithm, seed="1234")
    # Not in order of name: the tool's order is that of the experiment.
    experiment = Experiment(
        name="e", variants=(Variant(name="b", share=70), Variant(name="a", share=30)), bucketing=rule
    )
    draw = drawing(rule, {"b": 70, "a": 30})
    for user, (answer,) in zip(USERS[:300], ask(experiment, users=USERS[:300]), strict=True):
        assert answer.variant == draw(user)
        assert answer.assignment is not None
        assert answer.assignment.propensity == {"b": 0.7, "a": 0.3}[answer.variant]


def test_units_that_the_tool_leaves_out_are_outside_the_traffic() -> None:
    rule = Bucketing(algorithm="growthbook-v2", seed="s", gates=(Gate(seed="g", ranges=((0.0, 0.25),)),))
    gated = replace(E, bucketing=rule)
    draw = drawing(rule, {"a": 50, "b": 50})
    for user, (answer,) in zip(USERS, ask(gated), strict=True):
        drawn = draw(user)
        assert (answer.outside, answer.variant) == ((None, drawn) if drawn else ("traffic", "b"))
    twice = ask(gated, users=[*USERS[:50], *USERS[:50]])
    assert [a.assignment for (a,) in twice[:50]] == [a.assignment for (a,) in twice[50:]]


def test_a_router_takes_definitions_while_it_works() -> None:
    router = Router([E], MemoryAssignments())
    requests = [AssignmentRequest(user, {}, 1) for user in USERS[:40]]
    before = router.assign(requests)
    assert router.update("e", 4, {"a": 10, "b": 90})
    router.define(replace(E, traffic=0.5))
    assert router.allocation("e") == (4, {"a": 10, "b": 90})
    router.define(Experiment(name="f", variants=TWO))
    assert [[r.experiment for r in answer] for answer in router.assign(requests[:1])] == [["e", "f"]]
    assert [[r.experiment for r in answer] for answer in router.assign(requests[:1], ["f"])] == [["f"]]
    router.define(E)
    assert [a.assignment for a, _ in router.assign(requests)] == [a.assignment for (a,) in before], "kept meanwhile"
    # Another set of variants: the allocation in force is of the old ones.
    three = Experiment(name="e", variants=(*TWO, Variant(name="c")))
    router.define(three)
    assert router.allocation("e") == (0, three.starting_allocation)
    router.remove("e")
    router.remove("f")
    assert router.assign(requests[:2]) == [(), ()]
