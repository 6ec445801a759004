"""What the demo of the loop concludes from the events and from who served when."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

import pytest
from rich.console import Console

from sluice.console.demo.loop_result import LoopOutcome, loop_outcome, loop_table, stopped_at
from sluice.console.demo.loop_run import LoopPlan, at_work
from sluice.console.demo.loop_seen import Ranked, reigns, seen
from sluice.console.demo.loop_view import words
from sluice.domain.lifecycle import fold
from sluice.domain.lifecycle_events import (
    Abandoned,
    CanaryAdvanced,
    DriftDetected,
    GatePassed,
    GateRefused,
    LifecycleEvent,
    ModelTrained,
    Promoted,
    RetrainRequested,
    RolledBack,
    ShadowJudged,
    ShadowStarted,
)
from sluice.domain.rankings import RankedItem, SlateRanked

TRUTH: dict[str, Any] = {
    "drift_at_ms": 50, "promoted_at_ms": 89, "slates": {"before": 2000, "between": 900, "after": 3000},
    "behind_fresh": 0.008, "behind_fresh_error": 0.002, "won_back": 0.82, "lost_clicks": 340,
    **{name: {"impressions": 10, "clicks": 7, "ctr": ctr} for name, ctr in
       (("before", 0.71), ("between", 0.66), ("stale", 0.68), ("promoted", 0.716), ("fresh", 0.724))},
}  # fmt: skip
UNTIL_THE_END = {name: TRUTH[name] for name in ("drift_at_ms", "slates", "before", "between")}


def about(n: int) -> dict[str, Any]:
    return {"id": f"e{n}", "model": "m", "alias": "a", "at_ms": n}


def of(n: int) -> dict[str, Any]:
    return about(n) | {"attempt": "e2"}


DRIFT = DriftDetected(**about(1), version="1", since_ms=60, until_ms=90, reasons=("click_rate: 0.5 instead of 0.7",))
ASKED = RetrainRequested(**about(2), against="1", reason="drift")
TRAINED = ModelTrained(**of(3), version="3", rows=1776)
SHADOW = ShadowStarted(**of(4), version="3", experiment="films-3")
PROMOTED = Promoted(**of(9), version="3", before="1")


class Witness:
    def __init__(self, events: list[LifecycleEvent], ranked: list[Ranked]) -> None:
        self.events, self.ranked = events, ranked


def outcome(events: list[LifecycleEvent], ranked: list[Ranked], truth: dict[str, Any]) -> LoopOutcome:
    return loop_outcome({"data": "ml"}, Witness(events, ranked), truth, "1", 1.0)  # type: ignore[arg-type]


def slates(version: str, numbers: Iterable[int], user: str = "") -> list[Ranked]:
    """One a millisecond, of ten users unless it is said whose."""
    return [Ranked(number, number, version, user or f"u{number % 10}") for number in numbers]


def told(found: LoopOutcome) -> str:
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(loop_table(found))
    return console.export_text()


def test_a_promotion_is_when_the_new_version_ranked_alone_and_nobody_was_exposed() -> None:
    # 1: ------------------- change at 50 ------------ 90
    # 3:                              canary 80 ------ 90 ---------- 120
    ranked = slates("1", [*range(80), *range(80, 90, 2)]) + slates("3", [*range(81, 90, 2), *range(92, 121)])
    found = outcome([DRIFT, ASKED, TRAINED, PROMOTED], ranked, TRUTH)
    assert (found.drift_at, found.detected_at, found.promoted_at) == (50, 90, 89)
    assert (found.units_exposed_share, found.users_exposed_share, found.stopped_at) == (0.0, 0.0, None)
    assert (found.attempts, found.promotions, found.ranked) == (1, 1, {"1": 35, "3": 34})
    assert [event["type"] for event in found.events] == [
        "drift-detected", "retrain-requested", "model-trained", "promoted",
    ]  # fmt: skip
    page = told(found)
    assert "71.6 %" in page and "82 %" in page and "0.80 ± 0.20 points" in page
    assert "Nothing was replayed twice" in page and "1, 1 of them promoted" in page
    assert max(len(line) for line in page.splitlines()) <= 80


def test_what_was_stopped_is_told_with_who_met_it_since_the_change() -> None:
    events = [DRIFT, ASKED, TRAINED, CanaryAdvanced(**of(6), version="3", share=25),
              RolledBack(**of(7), version="3", to="1")]  # fmt: skip
    ranked = slates("1", range(100)) + slates("3", range(100, 105), "u1") + slates("1", range(105, 150))
    found = outcome(events, ranked, UNTIL_THE_END)
    assert (found.stopped_at, found.units_exposed_share, found.users_exposed_share) == ("canary", 0.05, 0.1)
    assert (found.drift_at, found.promoted_at, found.clicks_lost) == (50, None, None)
    assert (found.ctr_before, found.ctr_drifted, found.ctr_without_loop) == (0.71, 0.66, 0.66)
    assert (found.ctr_recovered, found.ctr_fresh_model, found.won_back) == (None, None, None)
    page = told(found)
    assert "canary" in page and "10.0 % of the users, in 5.0 % of the model's slates" in page
    assert max(len(line) for line in page.splitlines()) <= 80


def test_a_promotion_that_was_taken_back_was_met_by_those_it_served() -> None:
    back = RolledBack(**of(12), version="3", to="1")
    ranked = slates("1", range(60)) + slates("3", range(60, 80)) + slates("1", range(80, 100))
    found = outcome([DRIFT, ASKED, TRAINED, PROMOTED, back], ranked, TRUTH)
    assert (found.stopped_at, found.units_exposed_share) == ("promoted", 0.4)
    assert reigns([PROMOTED, back], ranked, "1") == [("1", 0), ("3", 60), ("1", 80)]


def test_a_reign_begins_when_the_version_before_ranks_no_more() -> None:
    # 1: ------------------ 90                  4: canary 150 -- 160 -----
    # 3:         canary 80 ----- 120 ------------------------ 155
    ranked = slates("1", [*range(80), *range(80, 91, 2)])
    ranked += slates("3", [*range(81, 90, 2), *range(120, 150), *range(151, 156, 2)])
    ranked += slates("4", [*range(150, 156, 2), *range(160, 170)])
    later = Promoted(**about(20), attempt="e9", version="4", before="3")
    assert reigns([PROMOTED, later], ranked, "1") == [("1", 0), ("3", 120), ("4", 160)]
    assert reigns([DRIFT, PROMOTED], slates("1", range(9)), "1") == [("1", 0)], "who ranked nothing is left out"


def test_the_number_of_a_slate_is_that_of_the_log() -> None:
    item = RankedItem(item_id="i", impression_id="p", score=0.5, shown=1.0, features=b"")
    slate = SlateRanked(experiment="loop", variant="model", model="m", model_version="3", features_version=1,
                        user_id="u", slate_id="ml.rs", at_ms=9, items=(item,))  # fmt: skip
    assert seen(slate) == Ranked(1000, 9, "3", "u")


@pytest.mark.parametrize(
    ("end", "where"),
    [
        ([GateRefused(**of(4), version="3", reasons=("auc",))], "gate"),
        ([SHADOW, ShadowJudged(**of(5), version="3", passed=False)], "shadow"),
        ([ShadowJudged(**of(5), version="3", passed=True), RolledBack(**of(7), version="3", to="1")], "canary"),
        ([Abandoned(**of(4), reasons=("the log has too little",))], "gate"),
        ([SHADOW, Abandoned(**of(6), reasons=("late",))], "shadow"),
        ([CanaryAdvanced(**of(6), version="3", share=25), Abandoned(**of(7), reasons=("late",)),
          RetrainRequested(**about(8), against="1", reason="drift"), Abandoned(**of(9), reasons=("little",))], "gate"),
        ([PROMOTED, RolledBack(**of(10), version="3", to="1")], "promoted"),
        ([PROMOTED], None),
        ([], None),
    ],
)  # fmt: skip
def test_where_it_was_stopped(end: list[LifecycleEvent], where: str | None) -> None:
    assert stopped_at([ASKED, TRAINED, *end]) == where


def test_events_are_one_line_and_their_reasons() -> None:
    assert words(DRIFT).plain.splitlines()[1].strip() == "click_rate: 0.5 instead of 0.7"
    assert words(TRAINED).plain == "model trained  version 3, from 1,776 shown items"
    assert words(PROMOTED).plain == "promoted  version 3, before it version 1"


def test_the_replay_stands_still_while_a_model_is_trained_and_judged() -> None:
    passed = [DRIFT, ASKED, TRAINED, GatePassed(**of(4), version="3")]
    assert [at_work(fold(passed[:n])) for n in range(5)] == [False, True, True, True, False]
    refused = [DRIFT, ASKED, TRAINED, GateRefused(**of(4), version="3", reasons=("auc",))]
    assert not at_work(fold(refused)), "the drift is open, and the log must grow"


def test_the_replay_is_asked_for_what_was_asked_for() -> None:
    plan = LoopPlan(["--data", "ml"], 0.4, 0.6, 1.0, 0.4, 3, "60s")
    assert plan.drift == "genres:amplitude=1,at=0.6,seed=3"
    assert plan.replay[plan.replay.index("--poison") + 1] == "share=0.4,at=0.6,seed=3"
    assert "--poison" not in plan._replace(bad=0.0).replay
