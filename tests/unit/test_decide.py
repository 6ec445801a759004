"""From evidence to a decision: verdicts, traffic, versions, and the same bytes for the same evidence."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analyzer.engine import Previous, Snapshot, decide, merge_cells, recompute
from sluice.domain.events import DecisionMade, StatsCell, encode
from sluice.domain.experiment import Experiment, load_experiments
from sluice.domain.statistics import CellStatistics, OutcomeStatistics
from sluice.errors import InvalidEvent

EVEN = "control=50,new=50"


def experiment(**changes: Any) -> Experiment:
    text = "{name: e, unit: slate, variants: [{name: control}, {name: new}]}"
    return msgspec.structs.replace(load_experiments(text, "test")[0], **changes)


def cell(variant: str, units: int, clicks: int, allocation: str = EVEN, outcome: str = "click") -> StatsCell:
    """Units of one impression each."""
    statistics = CellStatistics(units, units, units, {outcome: OutcomeStatistics(clicks, clicks, clicks)})
    return StatsCell(experiment="e", variant=variant, allocation=allocation, statistics=statistics)


def snapshot(*cells: StatsCell) -> Snapshot:
    return Snapshot(merge_cells(cells, "e", "click"), {1: (5, 6), 0: (3, 4), 10: (7, 8)}, 123)


@pytest.mark.parametrize(
    ("cells", "verdict", "words"),
    [
        ([], "no-traffic", "No impression"),
        ([cell("control", 210, 50), cell("new", 199, 20)], "insufficient-data", "199 of the 200"),
        ([cell("control", 5000, 500), cell("new", 5000, 520)], "continue", "new leads"),
        ([cell("control", 5000, 500), cell("new", 5000, 700)], "ship", "Ship new"),
        ([cell("control", 5000, 700), cell("new", 5000, 500)], "stop", "keep the control control"),
        ([cell("control", 5000, 500), cell("new", 4000, 700)], "invalid", "p = "),
        ([cell("control", 300, 500), cell("new", 300, 30)], "invalid", "not a rate"),
    ],
)
def test_the_verdict_follows_from_the_counts(cells: list[StatsCell], verdict: str, words: str) -> None:
    decision = decide(experiment(), snapshot(*cells))
    assert decision.verdict == verdict
    assert words in decision.reasons[0]


def test_a_likely_winner_that_may_still_be_worse_by_much_is_not_called() -> None:
    rule = msgspec.structs.replace(experiment().stopping, p_best=0.9, expected_loss=0.0001)
    decision = decide(experiment(stopping=rule), snapshot(cell("control", 300, 60), cell("new", 300, 78)))
    assert decision.results[1].p_best > 0.9
    assert decision.verdict == "continue"
    assert "still risks" in decision.reasons[0]


def test_the_primary_outcome_decides() -> None:
    cells = [cell("control", 5000, 500, outcome="buy"), cell("new", 5000, 700, outcome="buy")]
    evidence = merge_cells(cells, "e", "buy")
    decision = decide(experiment(primary="buy"), Snapshot(evidence, {}, 0))
    assert decision.verdict == "ship"
    assert [result.outcomes for result in decision.results] == [500, 700]


def test_traffic_waits_for_the_burn_in_then_follows_p_best() -> None:
    early = decide(experiment(), snapshot(cell("control", 49, 1), cell("new", 60, 50)))
    assert (early.allocation, early.allocation_version) == ({"control": 50, "new": 50}, 0)
    assert "(control has 49)" in " ".join(early.reasons)
    later = decide(experiment(), snapshot(cell("control", 50, 1), cell("new", 60, 50)))
    assert (later.allocation, later.allocation_version) == ({"control": 5, "new": 95}, 1)


def test_small_moves_keep_the_allocation_and_its_version() -> None:
    first = decide(experiment(), snapshot(cell("control", 500, 50), cell("new", 500, 53)))
    share = first.allocation["new"]
    assert first.allocation_version == 1
    near = {"control": 100 - share - 1, "new": share + 1}
    held = decide(experiment(), snapshot(cell("control", 500, 50), cell("new", 500, 53)), Previous(7, near, 3))
    assert (held.version, held.allocation, held.allocation_version) == (8, near, 3)


def test_fixed_traffic_never_moves() -> None:
    fixed = experiment(bandit=msgspec.structs.replace(experiment().bandit, policy="fixed"))
    decision = decide(fixed, snapshot(cell("control", 5000, 500), cell("new", 5000, 700)))
    assert (decision.allocation, decision.allocation_version) == ({"control": 50, "new": 50}, 0)
    assert decision.verdict == "ship"


def test_invalid_evidence_moves_no_traffic() -> None:
    before = Previous(4, {"control": 30, "new": 70}, 2)
    decision = decide(experiment(), snapshot(cell("control", 5000, 500), cell("new", 4000, 700)), before)
    assert decision.verdict == "invalid"
    assert (decision.allocation, decision.allocation_version) == ({"control": 30, "new": 70}, 2)


def test_other_variants_than_before_start_over_with_a_new_version() -> None:
    before = Previous(4, {"control": 30, "old": 70}, 2)
    decision = decide(experiment(), snapshot(), before)
    assert (decision.allocation, decision.allocation_version) == ({"control": 50, "new": 50}, 3)


def test_a_variant_nobody_defined_is_named_and_left_out() -> None:
    decision = decide(experiment(), snapshot(cell("control", 300, 30), cell("new", 300, 30), cell("ghost", 7, 7, "?")))
    assert [result.variant for result in decision.results] == ["control", "new"]
    assert "ghost (7 impressions)" in " ".join(decision.reasons)


def test_resembling_impressions_are_counted_for_less_and_said_so() -> None:
    # 300 users of 20 impressions, who click on all or on nothing.
    click = OutcomeStatistics(60 * 20, 60 * 400, 60 * 400)
    users = CellStatistics(300, 6000, 300 * 400, {"click": click})
    cells = [StatsCell(experiment="e", variant=name, allocation=EVEN, statistics=users) for name in ("control", "new")]
    decision = decide(experiment(), snapshot(*cells))
    assert decision.results[0].effective_impressions == pytest.approx(300, rel=0.02)
    assert "design effect 20" in " ".join(decision.reasons)


counts = st.integers(0, 3000).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n)))


@settings(max_examples=40, deadline=None)
@given(st.lists(counts, min_size=4, max_size=4), st.randoms(use_true_random=False))
def test_equal_evidence_gives_equal_bytes_and_the_record_reproduces_itself(
    numbers: list[tuple[int, int]], shuffle: random.Random
) -> None:
    places = [("control", EVEN), ("new", EVEN), ("control", "control=30,new=70"), ("new", "control=30,new=70")]
    cells = [cell(variant, n, c, key) for (variant, key), (n, c) in zip(places, numbers, strict=True)]
    before = Previous(3, {"control": 40, "new": 60}, 2)
    data = encode(decide(experiment(), snapshot(*cells), before))
    shuffle.shuffle(cells)
    other_order = Snapshot(merge_cells(cells, "e", "click"), {0: (3, 4), 10: (7, 8), 1: (5, 6)}, 123)
    assert encode(decide(experiment(), other_order, before)) == data
    read = msgspec.json.decode(data, type=DecisionMade)
    assert encode(recompute(read)) == data
    assert list(read.offsets) == ["0", "1", "10"]
    assert abs(sum(result.p_best for result in read.results) - 1) < 1e-9
    assert sum(read.allocation.values()) == 100
    assert b"NaN" not in data
    assert all(result.interval[0] <= result.interval[1] for result in read.results)


def test_a_changed_figure_is_not_reproduced() -> None:
    decision = decide(experiment(), snapshot(cell("control", 300, 30), cell("new", 300, 30)))
    forged = msgspec.structs.replace(decision, allocation={"control": 1, "new": 99})
    assert encode(recompute(forged)) != encode(forged)


def test_a_configuration_that_is_none_is_an_invalid_event() -> None:
    decision = decide(experiment(), snapshot())
    with pytest.raises(InvalidEvent, match="decision 1 of e"):
        recompute(msgspec.structs.replace(decision, config={"name": 3}))


def test_variants_of_the_log_that_the_experiment_does_not_have_are_left_out_and_the_largest_are_named() -> None:
    known = (cell("control", 300, 30), cell("new", 300, 30))
    strangers = [cell(f"x{number}", 10 + number, 10) for number in range(8)]
    decision = decide(experiment(), snapshot(*known, *strangers))
    assert [result.variant for result in decision.results] == ["control", "new"]
    named = ", ".join(f"x{number} ({10 + number} impressions)" for number in (7, 6, 5, 4, 3))
    assert decision.reasons[-1] == f"Counted but not part of the experiment, and left out: {named} and 3 more."
    assert "more" not in decide(experiment(), snapshot(*known, *strangers[:5])).reasons[-1]
