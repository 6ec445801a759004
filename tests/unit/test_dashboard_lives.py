"""The lives of models as the page shows them."""

from __future__ import annotations

import typing
from typing import Any

import msgspec
import pytest
from lives_told import drift_seen
from msgspec.structs import replace

from dashboard.life_words import told
from dashboard.lives import MAX_LIVES, REASON, SHOWN, Lives
from sluice.domain.drift import SettlingSeen
from sluice.domain.lifecycle_events import (
    CanaryAdvanced,
    DriftDetected,
    GateRefused,
    LifecycleEvent,
    ModelTrained,
    Paused,
    Promoted,
    RetrainRequested,
)

KINDS = typing.get_args(LifecycleEvent)
COMMON: dict[str, Any] = {"model": "m", "alias": "champion", "at_ms": 1000}


def released() -> list[LifecycleEvent]:
    return [
        RetrainRequested(id="r", against="1", reason="asked for", by="ada", **COMMON),
        ModelTrained(id="t", attempt="r", version="2", rows=1234, **COMMON),
        CanaryAdvanced(id="c", attempt="r", version="2", share=25, **COMMON),
        Promoted(id="p", attempt="r", version="2", before="1", **COMMON),
    ]


def example(kind: Any) -> LifecycleEvent:
    """The least that an event of this kind says."""
    least: dict[str, Any] = {
        field.encode_name: {"passed": True, "stage": "canary", "share": 5, "reasons": ["a reason"]}.get(field.name, 7)
        if field.type in (int, bool) or field.name in ("passed", "stage", "share", "reasons", "at_ms", "since_ms")
        or field.name.endswith("_ms")
        else "x"
        for field in msgspec.structs.fields(kind)
        if field.required
    }  # fmt: skip
    event: LifecycleEvent = msgspec.convert({**least, "type": kind.__struct_config__.tag}, kind)
    return event


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_event_has_words_of_its_own(kind: Any) -> None:
    words = told(example(kind))
    assert words.words and "another version" not in words.words and words.kind == kind.__struct_config__.tag


def test_of_two_events_of_one_id_the_first_stands() -> None:
    lives = Lives()
    (request, *_) = released()
    lives.take([request, replace(request, against="9")])
    (life,) = lives.views()
    assert (life.in_force, len(life.events)) == ("1", 1)


def test_a_life_from_request_to_promotion() -> None:
    lives = Lives()
    events = released()
    assert lives.take(events[:3]) == {"m"}
    (life,) = lives.views()
    assert life.attempt is not None
    assert (life.in_force, life.attempt.version, life.attempt.stage) == ("1", "2", "trained")  # no canary without tests
    lives.take([event for event in events for _ in range(2)])  # who says the same again changes nothing
    (life,) = lives.views("m")
    assert [event.id for event in life.events] == ["p", "c", "t", "r"]
    assert [event.words for event in life.events][2:] == [
        "Version 2 is trained, on 1,234 rows", "Retraining, against version 1",
    ]  # fmt: skip
    assert (life.events[-1].by, life.events[-1].reasons) == ("ada", ("asked for",))
    assert lives.views("other") == ()


def test_what_names_no_alias_concerns_all() -> None:
    lives = Lives()
    anybody = {**COMMON, "alias": ""}
    lives.take([Paused(id="1", by="ada", why="holidays", **anybody)])
    assert [(life.alias, life.paused) for life in lives.views()] == [("", "holidays")]
    lives.take(
        [DriftDetected(id="2", version="1", since_ms=0, until_ms=1, **{**COMMON, "alias": alias}) for alias in "ab"]
    )
    assert [(life.alias, life.paused) for life in lives.views()] == [("a", "holidays"), ("b", "holidays")]


def test_what_is_kept_is_bounded() -> None:
    lives = Lives()
    refused = {"attempt": "r", "version": "1", "reasons": ("r" * 10_000,) * 100}
    lives.take(GateRefused(id=str(i), **refused, **COMMON) for i in range(10 * SHOWN))
    (life,) = lives.views()
    assert len(life.events) == SHOWN and len(life.events[0].reasons) == 10 and len(life.events[0].reasons[0]) == REASON
    lives.take(GateRefused(id="x", **refused, **{**COMMON, "model": f"m{i}"}) for i in range(2 * MAX_LIVES))
    assert len(lives.views()) == MAX_LIVES


def test_drift_is_that_of_the_version_in_force() -> None:
    lives = Lives()
    seen = [drift_seen("m", "2", drifted=True), drift_seen("m", "1")]
    assert lives.see(seen) == {"m"} and lives.see(seen) == set()
    (life,) = lives.views()  # watched, and nothing has happened to it
    assert (life.model, life.alias, life.events) == ("m", "", ()) and life.drift is not None
    lives.take(released()[:1])
    (life,) = lives.views()
    assert life.drift is not None and (life.drift.version, life.drift.drifted) == ("1", False)
    assert [(one.name, one.effect) for one in life.drift.measures] == [("click_rate", -0.2), ("item_history", 0.4)]
    assert lives.see([]) == {"m"} and lives.views()[0].drift is None
    lives.forget_events()
    assert lives.views() == ()


def test_drift_of_a_part_is_not_that_of_the_version_and_what_settles_says_so() -> None:
    lives, seen = Lives(), drift_seen("m", "1")
    part = replace(seen, report=replace(seen.report, part="history=new", drifted=True))
    settling = SettlingSeen(users=23, needed=100, rows=310, since_ms=0)
    lives.see([part, replace(seen, report=replace(seen.report, settling=settling))])
    (life,) = lives.views()
    assert life.drift is not None and not life.drift.drifted
    assert (life.drift.settling, life.drift.rows, life.drift.measures) == ("23 of 100 users", 310, ())
