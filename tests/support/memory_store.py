"""CounterStore in memory. tests/contracts/test_counter_store.py holds it and Redis to the same contract."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from sluice.adapters.counters import PartitionCounts, PartitionUpdate, decode_counts
from sluice.errors import Fenced


@dataclass
class _Hashes:
    counts: dict[str, str] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)
    buckets: dict[str, str] = field(default_factory=dict)


class MemoryStore:
    def __init__(self) -> None:
        self._of: dict[int, _Hashes] = {}

    def commit(self, updates: Sequence[PartitionUpdate]) -> list[Fenced | None]:
        return [self._commit(update) for update in updates]

    def _commit(self, update: PartitionUpdate) -> Fenced | None:
        hashes = self._of.get(update.partition) or _Hashes()
        found = hashes.counts.get("offsets", ""), hashes.counts.get("definitions", "")
        if found != (update.expected_offsets, update.expected_definitions):
            return Fenced(f"partition {update.partition}: expected {update.expected_offsets}, found {found[0]}")
        if update.reset:
            hashes = _Hashes()
        self._of[update.partition] = hashes
        hashes.counts.update(update.counts)
        hashes.units.update(update.units)
        hashes.buckets.update(update.buckets)
        return None

    def rows(self, partition: int, units: Sequence[str], buckets: Sequence[str]) -> list[str | None]:
        hashes = self._of.get(partition) or _Hashes()
        return [hashes.units.get(key) for key in units] + [hashes.buckets.get(key) for key in buckets]

    def partitions(self) -> list[int]:
        return sorted(self._of)

    def offsets(self, partitions: Iterable[int]) -> dict[int, tuple[int, int]]:
        counts = {partition: self.read(partition) for partition in partitions}
        return {p: (found.impressions_offset, found.clicks_offset) if found else (0, 0) for p, found in counts.items()}

    def read(self, partition: int) -> PartitionCounts | None:
        hashes = self._of.get(partition) or _Hashes()
        return decode_counts(partition, {key.encode(): value.encode() for key, value in hashes.counts.items()})

    def read_all(self, partition: int) -> tuple[PartitionCounts | None, dict[str, tuple[int, ...]]]:
        hashes = self._of.get(partition) or _Hashes()
        return self.read(partition), {key: _vector(text) for key, text in hashes.buckets.items()}


def _vector(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))
