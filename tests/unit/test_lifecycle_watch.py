"""Which experiments may take a promoted version back, and what they must say: decisions are the analyzer's own."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from canary_worlds import World, order

from analyzer.engine import Previous, Snapshot, decide
from sluice.domain.events import DecisionMade
from sluice.domain.experiment import Experiment, load_experiments
from sluice.domain.status import Change, State
from training.lifecycle_release import Decided
from training.lifecycle_watch import Complaint, complaint, witnesses

SERVING = "models:/films@PolicyA"
PROMOTED_MS = 1_000_000
BEGUN_MS = PROMOTED_MS + 60_001
GUARDED = """
name: e
unit: slate
variants: [{name: A, ranker: popularity}, {name: B, ranker: "models:/films@PolicyA"}]
guardrails: [{outcome: error, margin: 0.1, better: lower}]
"""
CANARY = """
name: e
unit: slate
variants: [{name: A, ranker: popularity}, {name: B, ranker: "models:/films@PolicyA"}]
canary: {steps: [{share: 50, margin: 0.1, shortest_s: 10, longest_s: 100}], on_longest: rollback}
"""


def change(revision: int, action: str = "apply", at_ms: int = BEGUN_MS, **more: Any) -> Change:
    return msgspec.structs.replace(order(revision, "apply"), action=action, at_ms=at_ms, **more)


def experiment(*changes: Change, text: str = GUARDED, **words: str) -> Experiment:
    for old, new in words.items():
        text = text.replace(old, new)
    (found,) = load_experiments(text, "test")
    made = changes or (change(1),)
    return msgspec.structs.replace(found, state=State(status=made[-1].status, revision=made[-1].revision, changes=made))


def decided(of: Experiment, world: World, *, at_s: float = 20, before: DecisionMade | None = None) -> DecisionMade:
    previous = None
    if before is not None:
        place = before.canary.place if before.canary is not None else None
        previous = Previous(before.version, before.allocation, before.allocation_version, canary=place)
    return decide(of, Snapshot(world.cells, {0: (1, 1)}, int(1000 * at_s)), previous)


def world(candidate: int, errors: int = 0) -> World:
    made = World()
    made.add(50, (2000, 1000), (2000, candidate), error=(0, errors))
    return made


@pytest.mark.parametrize(
    ("one", "counts"),
    [
        (experiment(), True),
        (experiment(change(1, "create"), change(2, "start"), change(3, "pause"), change(4, "start")), True),
        (experiment(change(1, at_ms=BEGUN_MS - 1)), False),  # routers may have served the version before
        (experiment(change(1), change(2)), False),  # configured anew: of its evidence nobody knows of what it is
        (experiment(change(21)), False),  # its first changes are forgotten
        (msgspec.structs.replace(experiment(), state=State()), False),  # nobody knows when it began
        (experiment(change(1), change(2, "pause", status="paused")), False),
        (experiment(**{"@PolicyA": "@PolicyB"}), False),
        (experiment(**{"@PolicyA": "/2"}), False),
        (experiment(**{"unit: slate": "unit: slate\ncontrol: B"}), False),  # what is judged is the other one
    ],
)  # fmt: skip
def test_evidence_counts_where_all_of_it_is_of_the_promoted_version(one: Experiment, counts: bool) -> None:
    assert witnesses([one], SERVING, PROMOTED_MS) == ([one] if counts else [])


def test_a_guardrail_that_it_broke_is_a_complaint() -> None:
    one = experiment()
    broken = decided(one, world(1000, errors=1000))
    assert broken.verdict == "rollback"
    assert complaint(one, SERVING, Decided(broken, broken)) == Complaint(
        "e", 1, "experiment e: error of B is worse than that of A by more than 0.1"
    )
    fine = decided(one, world(1000), before=broken)
    assert complaint(one, SERVING, Decided(fine, broken)) is None
    assert complaint(one, SERVING, None) is None


def test_a_canary_of_it_that_does_worse_is_a_complaint_and_one_whose_time_is_up_is_none() -> None:
    one = experiment(text=CANARY)
    begun = decided(one, world(1000), at_s=1)
    worse = decided(one, world(700), before=begun)
    later = decided(one, world(700), at_s=30, before=worse)  # says no more why
    found = complaint(one, SERVING, Decided(later, worse))
    assert found is not None and (found.experiment, found.decision) == ("e", 3)
    assert "B is worse than A in click" in found.reason
    few = World()
    few.add(50, (60, 30), (60, 30))
    begun = decided(one, few, at_s=1)
    given_up = decided(one, few, at_s=200, before=begun)
    assert given_up.verdict == "rollback"
    assert complaint(one, SERVING, Decided(given_up, given_up)) is None
