"""A replay that is held stands still, and goes on where it was."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from producers.pacing import Pace, parse_speed

A_WHILE_S = 0.2
"""What would be over at once, were it not held"""


@pytest.mark.parametrize("speed", ["max", "1000/s", "1000x"])
@pytest.mark.parametrize("by", ["going on", "stop"])
def test_nothing_is_due_while_it_is_held(speed: str, by: str) -> None:
    stop, held = threading.Event(), threading.Event()
    pace = Pace(parse_speed(speed), stop, lambda _: None, held=held)
    pace.slates(1), pace.event_time(0, 0)
    held.set()
    waits = [threading.Thread(target=pace.slates, args=(1,))]
    if pace.by_event_time:
        waits.append(threading.Thread(target=pace.event_time, args=(1, 0)))
    for wait in waits:
        wait.start()
    for wait in waits:
        wait.join(A_WHILE_S)
        assert wait.is_alive()
    held.clear() if by == "going on" else stop.set()
    for wait in waits:
        wait.join(60)
        assert not wait.is_alive()


class Waited(threading.Event):
    """Time passes by waiting only. What is held goes on after an hour."""

    def __init__(self, held: threading.Event) -> None:
        super().__init__()
        self.held, self.now_s = held, 0.0

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.now_s += timeout
        if self.now_s > 3600:
            self.held.clear()
        return False


def test_the_time_it_was_held_is_not_made_up_for(monkeypatch: pytest.MonkeyPatch) -> None:
    held = threading.Event()
    stop = Waited(held)
    monkeypatch.setattr("producers.pacing.time", SimpleNamespace(monotonic=lambda: stop.now_s))
    pace = Pace(parse_speed("1x"), stop, lambda _: None, held=held)
    pace.event_time(0, 0)
    held.set()
    pace.event_time(1000, 0)
    assert not held.is_set()
    assert 1 <= stop.now_s - 3600 <= 1.1
