"""When the service says what time it is."""

from __future__ import annotations

from router.heartbeats import BEHIND_MS, Pulse
from sluice.settings import Settings

NOW_MS = 1_700_000_000_000
SETTINGS = Settings(window_ms=1000, lateness_ms=100, skew_ms=50)
SETTLED_MS = 1000 + 2 * 100


def test_event_time_is_the_clock_s_after_events_of_the_clock_until_they_are_settled() -> None:
    pulse = Pulse(SETTINGS)
    assert pulse.at(NOW_MS) is None, "nothing came in yet"
    pulse.saw([NOW_MS - 100_000, NOW_MS - 100], NOW_MS)
    times = [pulse.at(NOW_MS + passed) for passed in range(0, 20_000, 100)]
    sent = [at_ms for at_ms in times if at_ms is not None]
    assert sent == [NOW_MS + passed - BEHIND_MS for passed in range(0, 100 * len(sent), 100)]
    assert sent[-1] > NOW_MS + SETTLED_MS, "the latest event's window and lateness have passed"
    assert times[-1] is None, "nothing waits any more"


def test_a_log_of_the_past_and_clocks_that_are_wrong_cause_none() -> None:
    pulse = Pulse(SETTINGS)
    pulse.saw([0, NOW_MS - 101, NOW_MS + 51], NOW_MS)
    assert pulse.at(NOW_MS) is None
