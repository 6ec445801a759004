"""Why nothing happens, said to whoever asks; and never what is due said to be waited for."""

from __future__ import annotations

import pytest

from sluice.domain.lifecycle import LifecycleState, Policy, fold, next_step
from sluice.domain.lifecycle_events import (
    Aborted,
    DriftDetected,
    GatePassed,
    LifecycleEvent,
    ModelTrained,
    Paused,
    Promoted,
    RetrainRequested,
)
from sluice.domain.lifecycle_waits import waits

HOUR = 3600 * 1000
DRIFT = DriftDetected(id="d", model="m", at_ms=HOUR, version="1", since_ms=0, until_ms=1, reasons=("clicks fell",))
REQUEST = RetrainRequested(id="r", model="m", at_ms=HOUR, against="1", reason="by hand")
ABORTED = Aborted(id="a", model="m", at_ms=HOUR, attempt="r", by="ada", why="no")
GATED = (
    REQUEST,
    ModelTrained(id="t", model="m", at_ms=HOUR, attempt="r", version="2"),
    GatePassed(id="g", model="m", at_ms=HOUR, attempt="r", version="2"),
)
PROMOTED = Promoted(id="p", model="m", at_ms=HOUR, attempt="r", version="2", before="1")


@pytest.mark.parametrize(
    ("events", "policy", "reason", "words", "until_ms"),
    [
        ((), Policy(), "reason", "no drift was seen; there is no schedule", None),
        ((*GATED, PROMOTED), Policy(), "reason", "no drift of version 2 is open; there is no schedule", None),
        ((DRIFT,), Policy(drift=False), "reason", "drift is open, and the plan trains on a schedule or a command "
         "alone; there is no schedule", None),
        ((), Policy(schedule="0 3 * * *"), "reason", "no drift was seen; by schedule the next attempt begins at "
         "1970-01-01 03:00:00 UTC", 3 * HOUR),
        ((REQUEST, ABORTED, DRIFT), Policy(cooldown_s=7200), "cooldown", "the next attempt (clicks fell) begins at "
         "1970-01-01 03:00:00 UTC: cooldown of the last one", 3 * HOUR),
        ((REQUEST, ABORTED), Policy(cooldown_s=7200), "reason", "no drift of version 1 is open; there is no schedule",
         None),
        ((REQUEST, ABORTED, DRIFT), Policy(cooldown_s=0, daily_limit=1), "daily-limit", "the next attempt (clicks "
         "fell) begins at 1970-01-02 01:00:00 UTC: the daily limit of 1 is reached", 25 * HOUR),
        (GATED, Policy(approval="manual", shadow=False), "approval", "version 2 has passed: `sluice lifecycle approve` "
         "shows it to users", None),
        ((*GATED, Paused(id="x", model="m", at_ms=HOUR, by="ada", why="holiday")), Policy(), "paused",
         "paused by ada: holiday", None),
    ],
)  # fmt: skip
def test_what_is_waited_for(
    events: tuple[LifecycleEvent, ...], policy: Policy, reason: str, words: str, until_ms: int | None
) -> None:
    state, now_ms = fold(events) if events else LifecycleState(), 2 * HOUR
    assert next_step(state, now_ms, policy, HOUR) is None
    found = waits(state, now_ms, policy, HOUR)
    assert (found.reason, found.words, found.until_ms) == (reason, words, until_ms)
    if until_ms is not None:
        assert next_step(state, until_ms, policy, HOUR) is not None
