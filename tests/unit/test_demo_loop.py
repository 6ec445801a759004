"""What the demo of the loop concludes from the events and from who served when."""

from __future__ import annotations

import io
from typing import Any

import msgspec
import pytest
from rich.console import Console

from sluice.console.demo.loop_result import LoopOutcome, loop_outcome, loop_table, stopped_at
from sluice.console.demo.loop_run import LoopPlan
from sluice.console.demo.loop_seen import Served
from sluice.console.demo.loop_view import words
from sluice.domain.lifecycle_events import (
    Abandoned,
    CanaryAdvanced,
    DriftDetected,
    GateRefused,
    LifecycleEvent,
    ModelTrained,
    Promoted,
    RetrainRequested,
    RolledBack,
    ShadowJudged,
)

TRUTH: dict[str, Any] = {
    "drift_at_ms": 50, "slates": {"before": 2000, "between": 900, "after": 3000}, "behind_fresh": 0.008,
    "behind_fresh_error": 0.002, "won_back": 0.82, "lost_clicks": 340,
    **{name: {"impressions": 10, "clicks": 7, "ctr": ctr} for name, ctr in
       (("before", 0.71), ("between", 0.66), ("stale", 0.68), ("promoted", 0.716), ("fresh", 0.724))},
}  # fmt: skip


def about(n: int) -> dict[str, Any]:
    return {"id": f"e{n}", "model": "m", "alias": "a", "at_ms": n}


def of(n: int) -> dict[str, Any]:
    return about(n) | {"attempt": "e2"}


DRIFT = DriftDetected(**about(1), version="1", since_ms=60, until_ms=90, reasons=("click_rate: 0.5 instead of 0.7",))
ASKED = RetrainRequested(**about(2), against="1", reason="drift")
TRAINED = ModelTrained(**of(3), version="3", rows=1776)
PROMOTED = Promoted(**of(9), version="3", before="1")


class Witness:
    def __init__(self, events: list[LifecycleEvent], served: dict[str, Served]) -> None:
        self.events, self.served = events, served


def outcome(events: list[LifecycleEvent], served: dict[str, Served], truth: dict[str, Any] | None) -> LoopOutcome:
    return loop_outcome({"data": "ml"}, Witness(events, served), truth, "1", 1.0)  # type: ignore[arg-type]


def told(found: LoopOutcome) -> str:
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(loop_table(found))
    return console.export_text()


def test_a_promotion_is_when_the_new_version_ranked_first_and_nobody_was_exposed() -> None:
    served = {"1": Served(0, 10, 2900, 900), "3": Served(2700, 95, 5900, 2000)}
    found = outcome([DRIFT, ASKED, TRAINED, PROMOTED], served, TRUTH)
    assert (found.drift_at, found.detected_at, found.promoted_at) == (50, 90, 95)
    assert (found.units_exposed_share, found.stopped_at, found.attempts) == (0.0, None, 1)
    assert [event["type"] for event in found.events] == [
        "drift-detected", "retrain-requested", "model-trained", "promoted",
    ]  # fmt: skip
    keys = set(msgspec.to_builtins(found))
    assert keys >= {"ctr_before", "ctr_drifted", "ctr_recovered", "ctr_without_loop", "ctr_fresh_model", "events"}
    page = told(found)
    assert "71.6 %" in page and "82 %" in page and "0.80 ± 0.20 points" in page
    assert max(len(line) for line in page.splitlines()) <= 80


def test_a_version_that_was_not_promoted_counts_those_it_served() -> None:
    events = [DRIFT, ASKED, TRAINED, CanaryAdvanced(**of(6), version="3", share=25),
              RolledBack(**of(7), version="3", to="1")]  # fmt: skip
    found = outcome(events, {"1": Served(0, 10, 900, 900), "3": Served(500, 60, 700, 100)}, None)
    assert (found.stopped_at, found.units_exposed_share, found.ctr_recovered) == ("canary", 0.1, None)
    assert "canary" in told(found) and "10.0 %" in told(found)


@pytest.mark.parametrize(
    ("end", "where"),
    [
        ([GateRefused(**of(4), version="3", reasons=("auc",))], "gate"),
        ([ShadowJudged(**of(5), version="3", passed=False)], "shadow"),
        ([ShadowJudged(**of(5), version="3", passed=True), RolledBack(**of(7), version="3", to="1")], "canary"),
        ([Abandoned(**of(4), reasons=("the log has too little",))], "gate"),
        ([], None),
    ],
)
def test_where_it_was_stopped(end: list[LifecycleEvent], where: str | None) -> None:
    assert stopped_at([ASKED, TRAINED, *end]) == where


def test_events_are_one_line_and_their_reasons() -> None:
    assert words(DRIFT).plain.splitlines()[1].strip() == "click_rate: 0.5 instead of 0.7"
    assert words(TRAINED).plain == "model trained  version 3, from 1,776 shown items"
    assert words(PROMOTED).plain == "promoted  version 3, before it version 1"


def test_the_replay_is_asked_for_what_was_asked_for() -> None:
    plan = LoopPlan(["--data", "ml"], 0.4, 0.6, 1.0, 0.4, 3, "60s")
    assert plan.drift == "genres:amplitude=1,at=0.6,seed=3"
    assert plan.replay[plan.replay.index("--poison") + 1] == "share=0.4,at=0.6,seed=3"
    assert "--poison" not in plan._replace(bad=0.0).replay
