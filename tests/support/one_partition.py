"""One partition without servers: two logs that grow, and the store they are counted into, held to the recount."""

from __future__ import annotations

from collections.abc import Sequence

from memory_store import MemoryStore

from sluice.domain.definitions import Definitions
from sluice.domain.events import StatsPublished
from stream_processors.partition import PartitionCounter
from stream_processors.recount import recount

BROKER_MS = 10**9


class Consumed:
    """A record with the methods of a consumed message."""

    def __init__(self, offset: int, value: bytes) -> None:
        self._offset, self._value = offset, value

    def offset(self) -> int:
        return self._offset

    def value(self) -> bytes:
        return self._value

    def key(self) -> bytes:
        return b"user"

    def timestamp(self) -> tuple[int, int]:
        return (2, BROKER_MS)


class Partition:
    def __init__(self, definitions: Definitions) -> None:
        self.definitions = definitions
        self.store = MemoryStore()
        self.logs: tuple[list[Consumed], list[Consumed]] = ([], [])
        self.counter = PartitionCounter(0, definitions, None)

    def write(self, *, impressions: Sequence[bytes] = (), clicks: Sequence[bytes] = ()) -> None:
        for log, values in zip(self.logs, (impressions, clicks), strict=True):
            log += [Consumed(len(log) + n, value) for n, value in enumerate(values)]

    def restart(self) -> None:
        self.counter = PartitionCounter(0, self.definitions, self.store.read(0))
        assert self.counter.rebuild is not None
        (a0, a1), (b0, b1) = self.counter.rebuild
        self.counter.read_impressions(self.logs[0][a0:a1])
        self.counter.read_clicks(self.logs[1][b0:b1])
        self.counter.rebuilt(self.store)

    def count(self) -> StatsPublished:
        """Read what is new, commit it, and compare. Returns the snapshot."""
        a, b = self.counter.offsets
        self.counter.read_impressions(self.logs[0][a:])
        self.counter.read_clicks(self.logs[1][b:])
        update, _ = self.counter.prepare(self.store)
        assert self.store.commit([update]) == [None]
        self.counter.committed(update)
        found = self.counter.snapshot()
        wanted = recount(*([(m.offset(), m.value(), BROKER_MS) for m in log] for log in self.logs), self.definitions)
        cells = {(c.experiment, c.variant, c.allocation): c.statistics for c in found.cells}
        named = {key: sums for key, sums in wanted.cells.items() if sums[0]}
        assert {key: (s.units, s.impressions, s.impressions_squared) for key, s in cells.items()} == named
        assert {(m.experiment, m.variant): (m.units, m.impressions) for m in found.moved} == wanted.moved
        return found
