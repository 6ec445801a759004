"""From evidence to a decision: verdicts, traffic, versions, and the same bytes for the same evidence."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr

from analyzer.engine import Case, Previous, Snapshot, decide, decide_many, merge_cells, recompute, segment_sums
from sluice.domain.allocation import allocation_key
from sluice.domain.events import DecisionMade, DelayEvidence, MovedUnits, StatsCell, encode
from sluice.domain.experiment import Experiment, Guardrail, Stopping, load_experiments
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
        ([cell("control", 19, 10), cell("new", 50, 20)], "insufficient-data", "19.0 of the 20 effective slates"),
        ([cell("control", 210, 19), cell("new", 199, 20)], "insufficient-data", "19 of the 20 × click"),
        ([cell("control", 210, 50), cell("new", 199, 180)], "insufficient-data", "19 of the 20 impressions without"),
        ([cell("control", 5000, 500), cell("new", 5000, 520)], "continue", "new leads"),
        ([cell("control", 5000, 500), cell("new", 5000, 700)], "ship", "Ship new"),
        ([cell("control", 5000, 700), cell("new", 5000, 500)], "stop", "keep the control:"),
        ([cell("control", 5000, 500), cell("new", 4000, 700)], "invalid", "p = "),
        ([cell("control", 300, 500), cell("new", 300, 30)], "invalid", "not a rate"),
    ],
)
def test_the_verdict_follows_from_the_counts(cells: list[StatsCell], verdict: str, words: str) -> None:
    decision = decide(experiment(), snapshot(*cells))
    assert decision.verdict == verdict
    assert words in decision.reasons[0]


def stopping(**changes: Any) -> Stopping:
    return msgspec.structs.replace(experiment().stopping, **changes)


def test_a_likely_winner_that_may_still_be_worse_by_much_is_not_called() -> None:
    rule = stopping(rule="bayesian", p_best=0.9, expected_loss=0.0001)
    decision = decide(experiment(stopping=rule), snapshot(cell("control", 300, 60), cell("new", 300, 78)))
    assert decision.results[1].p_best > 0.9
    assert decision.verdict == "continue"
    assert "but choosing it risks" in decision.reasons[0]


def test_the_primary_outcome_decides() -> None:
    cells = [cell("control", 5000, 500, outcome="buy"), cell("new", 5000, 700, outcome="buy")]
    evidence = merge_cells(cells, "e", "buy")
    decision = decide(experiment(primary="buy"), Snapshot(evidence, {}, 0))
    assert decision.verdict == "ship"
    assert [result.outcomes for result in decision.results] == [500, 700]


def test_traffic_waits_for_the_burn_in_then_follows_p_best() -> None:
    early = decide(experiment(), snapshot(cell("control", 99, 19), cell("new", 100, 70)))
    assert (early.allocation, early.allocation_version) == ({"control": 50, "new": 50}, 0)
    assert "stays at its start until every variant has enough" in " ".join(early.reasons)
    later = decide(experiment(), snapshot(cell("control", 99, 20), cell("new", 100, 70)))
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


def guarded(new_errors: int, control_errors: int, units: int, clicks: tuple[int, int]) -> list[StatsCell]:
    cells = []
    for name, clicked, errors in (("control", clicks[0], control_errors), ("new", clicks[1], new_errors)):
        outcomes = {
            "click": OutcomeStatistics(clicked, clicked, clicked),
            "error": OutcomeStatistics(errors, errors, errors),
        }
        statistics = CellStatistics(units, units, units, outcomes)
        cells.append(StatsCell(experiment="e", variant=name, allocation=EVEN, statistics=statistics))
    return cells


GUARDED = experiment(guardrails=(Guardrail(outcome="error", margin=0.02, better="lower"),))


@pytest.mark.parametrize(
    ("errors", "units", "verdict", "status", "allocation"),
    [
        ((100, 100), 10_000, "ship", "passed", {"control": 5, "new": 95}),
        ((200, 200), 2000, "continue", "open", {"control": 5, "new": 95}),  # not yet known not to be worse by 2 points
        ((1000, 100), 10_000, "rollback", "breached", {"control": 100, "new": 0}),
    ],
)
def test_a_guardrail_can_veto(
    errors: tuple[int, int], units: int, verdict: str, status: str, allocation: dict[str, int]
) -> None:
    cells = guarded(*errors, units, (units // 10, units // 5))
    decision = decide(GUARDED, Snapshot(merge_cells(cells, "e", "click", "error"), {}, 0))
    assert (decision.verdict, decision.guardrails[0].status) == (verdict, status)
    assert decision.allocation == allocation
    assert recompute(msgspec.json.decode(encode(decision), type=DecisionMade)) == decision


def test_only_the_variant_with_a_breached_guardrail_loses_its_traffic() -> None:
    text = "{name: e, unit: slate, variants: [{name: control}, {name: new}, {name: third}]}"
    three = msgspec.structs.replace(load_experiments(text, "test")[0], guardrails=GUARDED.guardrails)
    key = "control=34,new=33,third=33"
    cells = [msgspec.structs.replace(one, allocation=key) for one in guarded(1000, 100, 10_000, (1000, 2000))]
    cells.append(msgspec.structs.replace(cells[0], variant="third"))
    decision = decide(three, Snapshot(merge_cells(cells, "e", "click", "error"), {}, 0))
    assert decision.allocation["new"] == 0
    assert min(decision.allocation["control"], decision.allocation["third"]) >= 5
    assert decision.verdict == "continue"


def three(**changes: Any) -> Experiment:
    text = "{name: e, unit: slate, variants: [{name: control}, {name: new}, {name: third}]}"
    fields = {"guardrails": GUARDED.guardrails, **changes}
    return msgspec.structs.replace(load_experiments(text, "test")[0], **fields)


def guarded_three(errors: dict[str, int], clicks: dict[str, int], units: int = 10_000) -> Snapshot:
    key = "control=34,new=33,third=33"
    cells = [
        StatsCell(
            experiment="e",
            variant=name,
            allocation=key,
            statistics=CellStatistics(
                units,
                units,
                units,
                {
                    "click": OutcomeStatistics(clicks[name], clicks[name], clicks[name]),
                    "error": OutcomeStatistics(errors[name], errors[name], errors[name]),
                },
            ),
        )
        for name in ("control", "new", "third")
    ]
    return Snapshot(merge_cells(cells, "e", "click", "error"), {}, 0)


ERRORS = {"control": 100, "new": 1000, "third": 100}


@pytest.mark.parametrize("rule", ["sequential", "bayesian"])
def test_a_variant_with_a_breached_guardrail_does_not_stand_in_the_way_of_another(rule: str) -> None:
    """The best by far is out; what is left is compared among itself."""
    it = three(stopping=stopping(rule=rule))
    decision = decide(it, guarded_three(ERRORS, {"control": 1000, "new": 3000, "third": 2000}))
    assert decision.verdict == "ship"
    assert decision.reasons[0].startswith("Ship third: ")
    assert "risks less than 0.0001 percentage points" in decision.reasons[0]
    assert decision.results[1].p_best > 0.999  # as a figure it is still told
    assert any(reason.startswith("Traffic leaves new: ") for reason in decision.reasons)
    assert "converged on third" in " ".join(decision.reasons)
    assert recompute(msgspec.json.decode(encode(decision), type=DecisionMade)) == decision


def test_a_variant_with_a_breached_guardrail_neither_leads_nor_counts_as_worse() -> None:
    leading = decide(three(), guarded_three(ERRORS, {"control": 1000, "new": 3000, "third": 1010}))
    assert (leading.verdict, leading.reasons[0][:26]) == ("continue", "No winner yet: third leads")
    kept = decide(three(), guarded_three(ERRORS, {"control": 2000, "new": 3000, "third": 1000}))
    assert (kept.verdict, "new" in kept.reasons[0]) == ("stop", False)
    rope = three(stopping=stopping(rope=0.05))
    same = decide(rope, guarded_three(ERRORS, {"control": 1000, "new": 3000, "third": 1010}))
    assert same.reasons[0].startswith("Stop: no variant that the guardrails leave differs from the control")


def test_all_variants_out_leave_the_control_with_all_traffic_and_say_so() -> None:
    errors = {"control": 100, "new": 1000, "third": 1000}
    clicks = {"control": 1000, "new": 3000, "third": 2000}
    for policy in ("thompson", "fixed"):
        it = three(bandit=msgspec.structs.replace(experiment().bandit, policy=policy))
        decision = decide(it, guarded_three(errors, clicks))
        assert decision.verdict == "rollback"
        assert decision.reasons[0].startswith("Roll back new, third: ")
        said = [reason for reason in decision.reasons if reason.startswith("Traffic")]
        assert said == [
            "Traffic leaves new, third: control 100 %, new 0 %, third 0 % (was: control 34 %, new 33 %, third 33 %)."
        ]
        assert "converged" not in " ".join(decision.reasons)


def test_fixed_traffic_of_a_variant_that_is_out_goes_to_the_control_if_nobody_else_has_any() -> None:
    shares = "[{name: control, share: 0}, {name: new, share: 100}]"
    text = f"{{name: e, unit: slate, bandit: {{policy: fixed}}, variants: {shares}}}"
    it = msgspec.structs.replace(load_experiments(text, "test")[0], guardrails=GUARDED.guardrails)
    cells = guarded(1000, 100, 10_000, (1000, 2000))
    decision = decide(it, Snapshot(merge_cells(cells, "e", "click", "error"), {}, 0))
    assert (decision.verdict, decision.allocation) == ("rollback", {"control": 100, "new": 0})


def test_a_guardrail_takes_the_traffic_of_a_variant_that_nobody_clicks_on() -> None:
    """It would never pass the gate, and a canary must not wait for that."""
    cells = guarded(900, 100, 1000, (100, 0))
    decision = decide(GUARDED, Snapshot(merge_cells(cells, "e", "click", "error"), {}, 0))
    assert (decision.verdict, decision.allocation) == ("rollback", {"control": 100, "new": 0})
    assert "Traffic leaves new: control 100 %, new 0 % (was: control 50 %, new 50 %)." in decision.reasons


@pytest.mark.parametrize("better", ["lower", "higher"])
def test_a_variant_whose_units_all_fail_breaches_its_guardrail(better: str) -> None:
    """Units that all agree have no variance; the worst must not be the only ones that stay unnoticed."""
    it = experiment(guardrails=(Guardrail(outcome="error", margin=0.02, better=better),))  # type: ignore[arg-type]
    worst, usual = (300, 30) if better == "lower" else (0, 270)
    cells = guarded(worst, usual, 300, (100, 100))
    decision = decide(it, Snapshot(merge_cells(cells, "e", "click", "error"), {}, 0))
    assert (decision.guardrails[0].status, decision.verdict) == ("breached", "rollback")
    fine = guarded(300 - worst, usual, 300, (100, 100))
    open_yet = decide(it, Snapshot(merge_cells(fine, "e", "click", "error"), {}, 0))
    assert open_yet.guardrails[0].status == "open"


def test_a_breached_guardrail_makes_an_aa_test_invalid() -> None:
    cells = guarded(1000, 100, 10_000, (1000, 1000))
    decision = decide(
        msgspec.structs.replace(GUARDED, aa=True), Snapshot(merge_cells(cells, "e", "click", "error"), {}, 0)
    )
    assert decision.verdict == "invalid"
    assert "a guardrail of new is breached" in decision.reasons[0]


def test_traffic_that_goes_back_to_its_start_says_so() -> None:
    before = Previous(4, {"control": 5, "new": 95}, 2)
    decision = decide(experiment(), snapshot(cell("control", 99, 19), cell("new", 100, 70)), before)
    said = next(reason for reason in decision.reasons if reason.startswith("Traffic"))
    assert said.startswith("Traffic goes back to its start until every variant has enough: control 50 %, new 50 % (was")


def test_what_is_missing_is_what_the_gate_asks_for() -> None:
    # 30 clicks of a variant whose units weigh between 1 and 20 count as fewer.
    key = "control=95,new=5"
    cells = (cell("control", 500, 200), cell("new", 400, 28), cell("control", 950, 400, key), cell("new", 50, 2, key))
    weighed = decide(experiment(), snapshot(*cells))
    assert weighed.verdict == "insufficient-data"
    assert "new has 30, which weigh" in weighed.reasons[0] and "of the 20 × click" in weighed.reasons[0]
    few = CellStatistics(60, 60, 60, {"click": OutcomeStatistics(60, 60, 60, 100_000, 5_000_000_000, 100_000)})
    values = [StatsCell(experiment="e", variant=name, allocation=EVEN, statistics=few) for name in ("control", "new")]
    rule = stopping(planned_effect=1.0)
    uneven = decide(experiment(measure="value", stopping=rule), Snapshot(merge_cells(values, "e", "click"), {}, 0))
    assert uneven.verdict == "insufficient-data"
    assert "control has too few values of click for their spread" in uneven.reasons[0]


def test_wide_intervals_are_written_in_full() -> None:
    decision = decide(
        experiment(stopping=stopping(planned_effect=1e-6)), snapshot(cell("control", 40, 20), cell("new", 40, 20))
    )
    assert "e+02" not in " ".join(decision.reasons)


def test_equal_variants_that_differ_make_an_aa_test_invalid() -> None:
    aa = experiment(aa=True)
    alike = decide(aa, snapshot(cell("control", 5000, 500), cell("new", 5000, 520)))
    assert (alike.verdict, alike.reasons[0][:9]) == ("continue", "A/A test:")
    apart = decide(aa, snapshot(cell("control", 5000, 500), cell("new", 5000, 700)))
    assert apart.verdict == "invalid"
    assert "new is 4 percentage points better" in apart.reasons[0]


@pytest.mark.parametrize("rule", ["sequential", "bayesian"])
def test_a_difference_known_to_be_small_stops_where_a_rope_says_so(rule: str) -> None:
    cells = (cell("control", 40_000, 4000), cell("new", 40_000, 4010))
    assert decide(experiment(stopping=stopping(rule=rule)), snapshot(*cells)).verdict == "continue"
    decision = decide(experiment(stopping=stopping(rule=rule, rope=0.02)), snapshot(*cells))
    assert decision.verdict == "stop"
    assert "by more than 2 percentage points" in decision.reasons[0]


def test_a_moving_allocation_does_not_distort_the_comparison() -> None:
    # Everybody clicks more in the second half, when nearly all are shown `new`: by plain rates it would win.
    cells = [
        cell("control", 5000, 500), cell("new", 5000, 500),
        cell("control", 500, 250, "control=5,new=95"), cell("new", 9500, 4750, "control=5,new=95"),
    ]  # fmt: skip
    decision = decide(experiment(), snapshot(*cells))
    control, new = decision.results
    assert new.rate - control.rate > 0.2
    assert new.contrast is not None
    assert new.contrast.difference == pytest.approx(0, abs=1e-12)
    assert decision.verdict == "continue"


def test_values_are_compared_where_the_experiment_asks_for_it() -> None:
    # 2,000 units of one impression; one in ten buys, for 10 or for 12.
    cells = []
    for name, milli in (("control", 10_000), ("new", 12_000)):
        buy = OutcomeStatistics(200, 200, 200, 200 * milli, 200 * milli**2, 200 * milli)
        statistics = CellStatistics(2000, 2000, 2000, {"buy": buy})
        cells.append(StatsCell(experiment="e", variant=name, allocation=EVEN, statistics=statistics))
    values = experiment(primary="buy", measure="value", stopping=stopping(planned_effect=0.5, expected_loss=0.05))
    decision = decide(values, Snapshot(merge_cells(cells, "e", "buy"), {}, 0))
    control, new = decision.results
    assert (control.rate, new.rate) == (1.0, 1.2)
    assert new.alpha is None
    # A textbook normal: √(Σv²/n − mean²)/√n of each.
    spread = [(200 * v * v / 2000 - (v / 10) ** 2) / 1999 for v in (10, 12)]
    z = 0.2 / sum(spread) ** 0.5
    assert new.contrast is not None
    assert new.contrast.p_better == pytest.approx(float(ndtr(z)), abs=1e-4)
    assert new.contrast.fixed_horizon_p == pytest.approx(2 * float(ndtr(-z)), rel=1e-9)


def test_the_reserved_units_are_an_honest_test_of_their_own() -> None:
    kept = experiment(bandit=msgspec.structs.replace(experiment().bandit, reserve=0.2))
    cells = [cell("control", 1000, 100), cell("new", 1000, 150), cell("new", 9500, 4750, "control=5,new=95")]
    decision = decide(kept, snapshot(*cells, cell("control", 500, 250, "control=5,new=95")))
    assert [(result.units, result.outcomes) for result in decision.uniform] == [(1000, 100), (1000, 150)]
    contrast = decision.uniform[1].contrast
    assert contrast is not None
    assert contrast.difference == pytest.approx(0.05)
    assert decide(experiment(), snapshot(*cells)).uniform == ()


def test_segments_are_corrected_for_their_number() -> None:
    segmented = experiment(segments=("device",))
    cells = {
        ("device", f"d{i}"): [cell("control", 2000, 400), cell("new", 2000, 600 if i == 3 else 400)] for i in range(10)
    }
    cells[("device", "rare")] = [cell("control", 5, 1), cell("new", 5, 2)]
    sums = segment_sums(segmented, cells)
    decision = decide(
        segmented, snapshot(cell("control", 20_000, 4000), cell("new", 20_000, 4200))._replace(segments=sums)
    )
    assert [one.value for one in decision.segments] == [f"d{i}" for i in range(10)]
    found = {one.value: one for one in decision.segments}
    assert found["d3"].p_holm == pytest.approx(10 * found["d3"].p)
    assert found["d3"].p_holm < 0.01 < found["d0"].p_fdr
    assert "10 segments looked at: stand out after Holm's correction: new in device=d3" in " ".join(decision.reasons)
    assert recompute(msgspec.json.decode(encode(decision), type=DecisionMade)) == decision


def test_a_batch_decides_as_each_alone() -> None:
    rng = random.Random(5)
    cases = []
    for index in range(60):
        names = ["control", "new", "x", "y"][: rng.randint(2, 4)]
        text = f"{{name: e, unit: slate, variants: [{', '.join(f'{{name: {name}}}' for name in names)}]}}"
        one = load_experiments(text, "test")[0]
        one = msgspec.structs.replace(one, control=rng.choice(names), seed=index)
        cells = []
        for shares in (
            dict.fromkeys(names, 100 // len(names)),
            dict.fromkeys(names, 5) | {names[0]: 105 - 5 * len(names)},
        ):
            for name in names:
                units = rng.randint(0, 10 ** rng.randint(1, 6))
                cells.append(cell(name, units, rng.randint(0, units), allocation_key(shares)))
        cases.append(Case(one, snapshot(*cells)))
    assert [encode(decision) for decision in decide_many(cases)] == [encode(decide(*case)) for case in cases]


@pytest.mark.parametrize("memory", [{"half_life_s": 10}, {"window_s": 20}])
def test_traffic_follows_recent_evidence_where_rates_drift(memory: dict[str, int]) -> None:
    forgets = experiment(bandit=msgspec.structs.replace(experiment().bandit, **memory))
    shares = {}
    for one in (experiment(), forgets):
        last = None
        for step in range(1, 41):
            # `new` is the better one for 20 steps of five seconds, and the worse one afterwards.
            good, bad = 40 * min(step, 20) + 10 * max(step - 20, 0), 10 * min(step, 20) + 40 * max(step - 20, 0)
            evidence = snapshot(cell("control", 100 * step, bad), cell("new", 100 * step, good))._replace(
                at_ms=5000 * step
            )
            before = Previous(last.version, last.allocation, last.allocation_version, last.history) if last else None
            last = decide(one, evidence, before)
            assert encode(recompute(msgspec.json.decode(encode(last), type=DecisionMade))) == encode(last)
        assert last is not None
        shares[one.bandit] = last.allocation["control"]
        assert last.results[1].rate == pytest.approx(0.25)
    assert shares[forgets.bandit] == 95
    assert shares[experiment().bandit] < 90


def test_the_bandit_says_when_nothing_is_left_to_gain() -> None:
    early = decide(experiment(), snapshot(cell("control", 500, 100), cell("new", 500, 110)))
    late = decide(experiment(), snapshot(cell("control", 50_000, 10_000), cell("new", 50_000, 14_000)))
    assert "converged" not in " ".join(early.reasons)
    assert "has converged on new" in " ".join(late.reasons)


def test_top_two_explores_more() -> None:
    cells = (cell("control", 500, 100), cell("new", 500, 140))
    top_two = experiment(bandit=msgspec.structs.replace(experiment().bandit, policy="top-two", floor=0.0))
    thompson = experiment(bandit=msgspec.structs.replace(experiment().bandit, floor=0.0))
    assert decide(top_two, snapshot(*cells)).allocation["control"] > 40
    assert decide(thompson, snapshot(*cells)).allocation["control"] < 5


def test_units_that_moved_are_counted_and_said() -> None:
    moved = (MovedUnits(experiment="e", variant="new", units=3, impressions=13),)
    decision = decide(
        experiment(unit="user"), snapshot(cell("control", 500, 100), cell("new", 500, 110))._replace(moved=moved)
    )
    assert decision.moved == moved
    assert "new 3 (13 impressions)" in " ".join(decision.reasons)
    assert recompute(msgspec.json.decode(encode(decision), type=DecisionMade)) == decision


def test_clicks_that_are_still_to_come_are_no_failures() -> None:
    # Of `new` half of the impressions are fresh; what was clicked of the others is better than the control.
    cells = (cell("control", 4000, 1000), cell("new", 4000, 600))
    delay = DelayEvidence(
        immature=False, impressions={"control": 4000.0, "new": 2000.0}, inflation={"control": 1.0, "new": 1.2}
    )
    plain, aware = decide(experiment(), snapshot(*cells)), decide(experiment(), snapshot(*cells)._replace(delay=delay))
    assert plain.allocation["new"] == 5
    assert aware.allocation["new"] == 95
    assert aware.results[1].alpha == pytest.approx(1 + 600 / 1.2)
    assert aware.results[1].beta == pytest.approx(1 + 1400 / 1.2)
    assert "Clicks are still to come" in " ".join(aware.reasons)
    assert encode(recompute(msgspec.json.decode(encode(aware), type=DecisionMade))) == encode(aware)
