"""A drift monitor that shares a machine rests, until it is stopped."""

from __future__ import annotations

import threading
import time

from stream_processors.drift_pace import Pace


def test_who_worked_rests_and_who_is_stopped_does_not() -> None:
    stop = threading.Event()
    pace = Pace(stop, share=1e-9)
    used = time.process_time()
    while time.process_time() == used:
        sum(range(1000))
    # The rest would take years: that this returns at all is the stop, and that it waited for it is the answer.
    threading.Timer(0.05, stop.set).start()
    assert not pace()
    assert not pace()


def test_who_used_less_than_the_share_goes_on() -> None:
    assert Pace(threading.Event(), share=1e9)()
