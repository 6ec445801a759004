"""Segments on what the router answers: one more assignment for each attribute that an experiment names."""

from __future__ import annotations

import logging

import msgspec
import pytest

from router import AssignmentRequest, MemoryAssignments, Router, carried
from router.segments import MAX_VALUES
from sluice.domain.events import MAX_ASSIGNMENTS, Assignment, AssignmentMade, ImpressionShown
from sluice.domain.experiment import Experiment, Variant
from sluice.domain.segments import parse_segment
from sluice.domain.status import State

VARIANTS = (Variant(name="a"), Variant(name="b"))
DEMO = Experiment(name="demo", unit="slate", variants=VARIANTS, segments=("history", "age"))
PLAIN = Experiment(name="plain", variants=VARIANTS)


def request(number: int, **attributes: str) -> AssignmentRequest:
    return AssignmentRequest(f"u{number}", {"slate": f"s{number}"}, number, attributes)


def names(assignments: tuple[Assignment, ...]) -> list[str]:
    return [assignment.experiment for assignment in assignments]


def test_the_assignment_is_repeated_for_every_attribute_that_is_named_and_there() -> None:
    router = Router([DEMO, PLAIN], MemoryAssignments())
    answers = router.assign([
        request(1, age="18-24", history="new", colour="red"), request(2, history="returning"), request(3),
    ])  # fmt: skip
    assert [names(carried(answer)) for answer in answers] == [
        ["demo", "plain", "demo@history=new", "demo@age=18-24"],
        ["demo", "plain", "demo@history=returning"],
        ["demo", "plain"],
    ]
    for answer in answers:
        demo = answer[0].assignment
        for segment in answer[0].segments:
            assert msgspec.structs.replace(segment, experiment="demo") == demo


def test_attributes_change_no_assignment_and_are_not_exposures() -> None:
    log: list[AssignmentMade] = []
    with_them = Router([DEMO], MemoryAssignments(), exposures=log.extend)
    plain = Router([msgspec.structs.replace(DEMO, segments=())], MemoryAssignments())
    one = with_them.assign([request(n, history="new") for n in range(50)])
    other = plain.assign([request(n, history="new") for n in range(50)])
    assert [a.assignment for (a,) in one] == [a.assignment for (a,) in other]
    assert not any(a.segments for (a,) in other)
    assert [made.experiment for made in log] == ["demo"] * 50


def test_a_sticky_unit_goes_to_the_segment_of_each_request() -> None:
    users = msgspec.structs.replace(DEMO, unit="user")
    router = Router([users], MemoryAssignments())
    (first,), (second,) = router.assign([request(1, history="new"), request(1, history="returning")])
    assert names(first.segments) == ["demo@history=new"]
    assert names(second.segments) == ["demo@history=returning"]
    assert second.sticky
    assert second.segments[0].variant == first.assignment.variant


@pytest.mark.parametrize("count", [31, 32])
def test_what_does_not_fit_is_left_out_for_all_requests_alike(count: int, caplog: pytest.LogCaptureFixture) -> None:
    others = [Experiment(name=f"e{n}", variants=VARIANTS) for n in range(count - 1)]
    with caplog.at_level(logging.WARNING):
        router = Router([*others, DEMO], MemoryAssignments())
        answers = router.assign([request(1, history="new", age="18-24"), request(2, age="18-24")])
    room = MAX_ASSIGNMENTS - count
    assert names(carried(answers[0]))[count:] == ["demo@history=new"][:room]
    assert names(carried(answers[1]))[count:] == []
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.endswith(", ".join(["demo@history", "demo@age"][room:]))


def test_many_values_do_not_crowd_out_other_experiments(caplog: pytest.LogCaptureFixture) -> None:
    router = Router([DEMO], MemoryAssignments())
    with caplog.at_level(logging.WARNING):
        answers = router.assign([request(n, history=f"v{n}", age="18-24") for n in range(MAX_VALUES + 50)])
        again = router.assign([request(n, history=f"v{n}", age="18-24") for n in range(MAX_VALUES + 50)])
    assert [a.segments for (a,) in answers] == [a.segments for (a,) in again]
    values = [parse_segment(a.segments[0].experiment) for (a,) in answers]
    assert [found.value for found in values if found] == [f"v{n}" for n in range(MAX_VALUES)] + ["other"] * 50
    assert {a.segments[1].experiment for (a,) in answers} == {"demo@age=18-24"}
    assert len(caplog.records) == 1


def test_the_longest_names_and_the_most_segments_make_a_well_formed_impression() -> None:
    experiments = [
        Experiment(name=f"{n}".ljust(64, "x"), variants=VARIANTS, segments=tuple(f"{k}".ljust(40, "k") for k in "abcd"))
        for n in range(8)
    ]
    attributes = {f"{k}".ljust(40, "k"): "é" * 40 for k in "abcd"}
    ((*answer,),) = Router(experiments, MemoryAssignments()).assign([AssignmentRequest("u", {}, 1, attributes)])
    shown = ImpressionShown(impression_id="i", user_id="u", item_id="i", at_ms=1, assignments=carried(answer))
    assert len(shown.assignments) == len({one.experiment for one in shown.assignments}) == MAX_ASSIGNMENTS
    assert msgspec.json.decode(msgspec.json.encode(shown), type=ImpressionShown) == shown


def test_values_that_were_met_are_remembered_when_experiments_change() -> None:
    router = Router([DEMO], MemoryAssignments())
    many = [f"v{n}" for n in range(MAX_VALUES)]
    router.assign([request(n, age=value) for n, value in enumerate(many)])
    router.define(PLAIN)
    ((demo, _),) = router.assign([request(99, age="late")])
    assert names(demo.segments) == ["demo@age=other"]


def test_what_is_paused_takes_no_room_from_segments() -> None:
    paused = [Experiment(name=f"p{n}", variants=VARIANTS, state=State(status="paused")) for n in range(MAX_ASSIGNMENTS)]
    answer = Router([DEMO, *paused], MemoryAssignments()).assign([request(1, age="9", history="new")])[0]
    assert names(carried(answer)) == ["demo", "demo@history=new", "demo@age=9"]


def test_more_experiments_than_an_impression_carries_are_told(caplog: pytest.LogCaptureFixture) -> None:
    experiments = [Experiment(name=f"e{n}", variants=VARIANTS) for n in range(MAX_ASSIGNMENTS + 2)]
    with caplog.at_level(logging.WARNING):
        router = Router(experiments, MemoryAssignments())
    (record,) = caplog.records
    assert "34 experiments give assignments" in record.message and "those of e32, e33" in record.message
    (answer,) = router.assign([request(1)])
    assert len(answer) == MAX_ASSIGNMENTS + 2
    assert names(carried(answer)) == [f"e{n}" for n in range(MAX_ASSIGNMENTS)]
