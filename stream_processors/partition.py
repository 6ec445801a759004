"""One partition's life: load, rebuild, count, commit. Meets the store and the log only through two ports."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import msgspec

from sluice.adapters.counters import PartitionCounts, PartitionUpdate
from sluice.domain.definitions import Definitions
from sluice.domain.events import MovedUnits, StatsCell, StatsPublished
from sluice.domain.statistics import CellStatistics, OutcomeStatistics
from stream_processors.attribution import Attribution, Rejected
from stream_processors.decoding import Record
from stream_processors.low_water import NEVER

__all__ = ["PartitionCounter", "RowSource"]

_encode = msgspec.json.Encoder().encode


class RowSource(Protocol):
    """Running totals that are not in memory."""

    def rows(self, partition: int, units: Sequence[str], buckets: Sequence[str]) -> list[str | None]: ...


class PartitionCounter:
    """Counts one partition from what the store holds of it.

    After construction, if `rebuild` is not None, read its ranges again with `read_impressions` and
    `read_clicks` (in any order), then call `rebuilt`. Then: read, `prepare`, commit, `committed`; after a
    commit that was refused or whose fate is unknown, throw the counter away and construct another.
    """

    def __init__(
        self,
        partition: int,
        definitions: Definitions,
        stored: PartitionCounts | None,
        *,
        start: tuple[int, int] = (0, 0),
    ) -> None:
        """`start`: first offsets of the logs, used when the store holds nothing counted by `definitions`."""
        self.partition = partition
        self.reset = stored is None or stored.definitions != definitions
        self._expected = ("", "")
        if stored is not None:
            offsets = f"{stored.impressions_offset},{stored.clicks_offset}"
            self._expected = (offsets, stored.definitions.encode())
        self.rebuild: tuple[tuple[int, int], tuple[int, int]] | None = None
        """((impressions from, to), (clicks from, to)), `to` exclusive"""
        if stored is None or stored.definitions != definitions:
            self.start = start
            self.core = Attribution(definitions, impressions_offset=start[0], clicks_offset=start[1])
        else:
            self.start = stored.impressions_start, stored.clicks_start
            self.core = Attribution(
                definitions,
                impressions_offset=stored.impressions_offset,
                clicks_offset=stored.clicks_offset,
                outcomes=stored.outcomes,
                records=stored.records,
                cells=stored.cells,
                moved=stored.moved,
            )
            low = stored.impressions_low, stored.clicks_low
            a, b = self.core.begin_rebuild(*low)
            self.rebuild = ((low[0], a), (low[1], b))
        self._written_records: dict[str, int] = dict(self.core.records)
        self._written_outcomes = 0

    @property
    def offsets(self) -> tuple[int, int]:
        """Next (impressions, clicks) offsets to read."""
        return self.core.impressions_offset, self.core.clicks_offset

    @property
    def held(self) -> int:
        """Open impressions and waiting clicks in memory."""
        return self.core.open_count + self.core.waiting_count

    def read_impressions(self, records: Iterable[Record]) -> None:
        self.core.read_impressions(records)

    def read_clicks(self, records: Iterable[Record]) -> None:
        self.core.read_clicks(records)

    def rebuilt(self, source: RowSource) -> None:
        assert self.rebuild is not None
        units, _ = self.core.counting.to_load()
        if units:
            texts = source.rows(self.partition, [unit.key for unit in units], [])
            known = [(unit, text) for unit, text in zip(units, texts, strict=True) if text]
            self.core.counting.load([unit for unit, _ in known], [], [text for _, text in known])
        (_, a), (_, b) = self.rebuild
        self.core.end_rebuild(a, b)
        self.rebuild = None

    def prepare(self, source: RowSource) -> tuple[PartitionUpdate, list[Rejected]]:
        """Finish the batch: the commit it asks for, and the records that must be dead letters before it.

        Raises Fenced when the store has changed in a way that only another worker can have caused.
        """
        core, counting = self.core, self.core.counting
        core.release()
        units, buckets = counting.to_load()
        if units or buckets:
            # What stands in the store before a reset was counted with other definitions.
            texts = (
                [None] * (len(units) + len(buckets))
                if self.reset
                else source.rows(self.partition, [unit.key for unit in units], [row.key for row in buckets])
            )
            counting.load(units, buckets, texts)
        settled = core.settle()
        low = core.low_water()
        counts = {
            "offsets": f"{core.impressions_offset},{core.clicks_offset}",
            "low": f"{low[0]},{low[1]}",
            "time": f"{_time(max(core.impressions_watermark, core.clicks_watermark))},{_time(core.watermark)}",
            "gauges": f"{core.waiting_count},{core.open_count}",
        }
        if self.reset:
            counts["definitions"] = core.definitions.encode()
            counts["start"] = f"{self.start[0]},{self.start[1]}"
        if len(core.outcomes) != self._written_outcomes or self.reset:
            counts["outcomes"] = _encode(list(core.outcomes)).decode()
            self._written_outcomes = len(core.outcomes)
        for name, count in core.records.items():
            if self._written_records.get(name) != count:
                counts[name] = str(count)
                self._written_records[name] = count
        names = list(core.outcomes)
        for cell in counting.changed:
            counts[cell.text] = f"{cell.units},{cell.impressions},{cell.impressions_squared}"
            for name, sums in zip(names, cell.outcomes, strict=False):
                if sums[0]:
                    counts[_encode((*cell.key, name)).decode()] = ",".join(map(str, sums))
        counting.changed.clear()
        for pair in counting.changed_moved:
            counts[_encode(pair).decode()] = "{},{}".format(*counting.moved[pair])
        counting.changed_moved.clear()
        update = PartitionUpdate(
            partition=self.partition,
            expected_offsets=self._expected[0],
            expected_definitions=self._expected[1],
            reset=self.reset,
            counts=counts,
            units=settled.units,
            buckets=settled.buckets,
        )
        return update, settled.rejected

    def committed(self, update: PartitionUpdate) -> None:
        """The store has taken `update`."""
        self._expected = (update.counts["offsets"], self.core.definitions.encode())
        self.reset = False

    def snapshot(self) -> StatsPublished:
        """Totals and offsets as of the last commit, for `variant-stats`."""
        core = self.core
        names = list(core.outcomes)
        cells = tuple(
            StatsCell(
                experiment=key[0],
                variant=key[1],
                allocation=key[2],
                statistics=CellStatistics(
                    cell.units,
                    cell.impressions,
                    cell.impressions_squared,
                    {
                        name: OutcomeStatistics(*sums)
                        for name, sums in zip(names, cell.outcomes, strict=False)
                        if sums[0]
                    },
                ),
            )
            for key, cell in sorted(core.counting.cells.items())
            if cell.units
        )
        moved = tuple(
            MovedUnits(experiment=pair[0], variant=pair[1], units=units, impressions=impressions)
            for pair, (units, impressions) in sorted(core.counting.moved.items())
        )
        return StatsPublished(
            partition=self.partition,
            impressions_offset=core.impressions_offset,
            clicks_offset=core.clicks_offset,
            window_ms=core.definitions.window_ms,
            lateness_ms=core.definitions.lateness_ms,
            at_ms=_time(max(core.impressions_watermark, core.clicks_watermark)),
            watermark_ms=_time(core.watermark),
            cells=cells,
            moved=moved,
            delays=core.delays(),
            records=dict(sorted(core.records.items())),
        )


def _time(watermark: int) -> int:
    """−1 before the first event."""
    return -1 if watermark == NEVER else watermark
