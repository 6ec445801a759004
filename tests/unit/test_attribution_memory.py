"""The memory of a worker is bounded by the open attribution window."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

SCRIPT = """
import gc, sys
from pathlib import Path
from sluice.domain.definitions import Definitions
from sluice.domain.events import Assignment, ImpressionShown, OutcomeObserved, encode
from stream_processors.partition import PartitionCounter
from memory_store import MemoryStore

class LogEntry:
    __slots__ = ("_offset", "_value")

    def __init__(self, offset, value):
        self._offset, self._value = offset, value

    def value(self):
        return self._value

    def key(self):
        return b"u"

    def offset(self):
        return self._offset

    def timestamp(self):
        return (2, 2 * 10**12)

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

OPEN, SLATE = 1_000_000, int(sys.argv[1])
counter, store = PartitionCounter(0, Definitions(10**9, 60_000, 300_000, 3_600_000), None), MemoryStore()
gc.collect()
before, offset, clicks_offset = resident(), 0, 0
for base in range(0, OPEN, 10_000):
    impressions, clicks = [], []
    for index in range(base, base + 10_000):
        slate, user = index // SLATE, f"u{index // SLATE % 100_000}"
        at, name = 10**12 + slate * 100, f"5v0t.{index // SLATE:x}.{index % SLATE}"
        made = (Assignment("demo", "affinity", "affinity=34,popularity=33,random=33", f"s{slate}", 0.3, "slate"),)
        shown = ImpressionShown(impression_id=name, user_id=user, item_id="m", at_ms=at, assignments=made)
        impressions.append(LogEntry(len(impressions) + base, encode(shown)))
        if index % 2:
            hit = OutcomeObserved(click_id=name + "c", impression_id=name, user_id=user, at_ms=at + 5)
            clicks.append(LogEntry(clicks_offset, encode(hit)))
            clicks_offset += 1
    counter.read_impressions(impressions)
    counter.read_clicks(clicks)
    update, _ = counter.prepare(store)
    assert store.commit([update]) == [None]
    counter.committed(update)
assert counter.core.open_count == OPEN
del impressions, clicks, update
gc.collect()
print((resident() - before) / OPEN)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
@pytest.mark.slow
@pytest.mark.parametrize("slate", [1, 3])
def test_a_million_open_impressions_take_at_most_400_bytes_each(slate: int):
    support = Path(__file__).parents[1] / "support"
    code = f"import sys; sys.path.insert(0, {str(support)!r})\n" + textwrap.dedent(SCRIPT)
    done = subprocess.run(
        [sys.executable, "-c", code, str(slate)], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    per_impression = float(done.stdout)
    print(f"{per_impression:.0f} bytes an open impression")
    assert 50 < per_impression <= 400
