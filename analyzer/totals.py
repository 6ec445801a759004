"""The latest snapshot of every partition, and what they add up to. Pure. Library: msgspec."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from typing import cast

from msgspec.structs import replace

from analyzer.engine import Snapshot, merge_cells, segment_sums
from analyzer.engine.cohorts import delay_evidence
from sluice.domain.definitions import DELAY_BINS
from sluice.domain.events import DelayEvidence, MovedUnits, StatsCell, StatsPublished, decode
from sluice.domain.experiment import Experiment
from sluice.domain.segments import parse_segment
from sluice.errors import InvalidEvent

__all__ = ["Totals", "parse_snapshot"]


def parse_snapshot(data: bytes | None) -> StatsPublished:
    """The snapshot in a record of `variant-stats`. Raises InvalidEvent when it is not one, or its sums are impossible.

    What passes cannot make the engine fail: units exist where impressions do, and Cauchy's inequality holds.
    """
    snapshot = cast(StatsPublished, decode(data, StatsPublished))
    if min(snapshot.partition, snapshot.impressions_offset, snapshot.clicks_offset) < 0:
        raise InvalidEvent("partition and offsets must be ≥ 0")
    for cell in snapshot.cells:
        sums = cell.statistics
        counts = [sums.units, sums.impressions, sums.impressions_squared]
        for outcome in sums.outcomes.values():
            counts += [outcome.count, outcome.count_squared, outcome.count_impressions, outcome.value_squared]
        where = f"{cell.experiment}/{cell.variant}/{cell.allocation}"
        if min(counts) < 0:
            raise InvalidEvent(f"{where}: counts must be ≥ 0")
        if not sums.units <= sums.impressions <= sums.impressions_squared:
            raise InvalidEvent(f"{where}: units ≤ impressions ≤ impressions_squared does not hold")
        if sums.impressions**2 > sums.units * sums.impressions_squared:
            raise InvalidEvent(f"{where}: no {sums.units} units have these impressions and squares")
    _check_delays(snapshot)
    return snapshot


def _check_delays(snapshot: StatsPublished) -> None:
    delays = snapshot.delays
    if delays is None:
        return
    if delays.cohort_ms < 1 or snapshot.window_ms < 1:
        raise InvalidEvent("delays: cohorts and windows have a width")
    counted: dict[tuple[str, str], int] = {}
    for cell in snapshot.cells:
        place = cell.experiment, cell.variant
        counted[place] = counted.get(place, 0) + cell.statistics.impressions
    for one in delays.variants:
        rows = [row for of in one.outcomes.values() for row in of]
        if min((one.ahead, *one.impressions, *(count for row in rows for count in row))) < 0:
            raise InvalidEvent(f"delays of {one.experiment}/{one.variant}: counts must be ≥ 0")
        if max((len(row) for row in rows), default=0) > DELAY_BINS:
            raise InvalidEvent(f"delays of {one.experiment}/{one.variant}: more than {DELAY_BINS} bins")
        if max((len(of) for of in one.outcomes.values()), default=0) > len(one.impressions):
            raise InvalidEvent(f"delays of {one.experiment}/{one.variant}: outcomes of cohorts without impressions")
        if sum(one.impressions) + one.ahead > counted.get((one.experiment, one.variant), 0):
            raise InvalidEvent(f"delays of {one.experiment}/{one.variant}: more impressions than were counted")


class Totals:
    """Snapshots are totals, so the one with the larger offsets holds everything the other does."""

    def __init__(self) -> None:
        self._latest: dict[int, StatsPublished] = {}
        self._cells: dict[int, dict[str, tuple[StatsCell, ...]]] = {}

    def offer(self, snapshot: StatsPublished) -> set[str]:
        """Take `snapshot` if it is the newer one of its partition. Returns the experiments whose totals it changed.

        While a worker counts again from an empty Redis, its snapshots start at small offsets: they wait until they
        reach what is known. A snapshot with another window or lateness counts by other rules and replaces at once.
        """
        held = self._latest.get(snapshot.partition)
        if held is not None and held.delays is None and snapshot.delays is not None:
            held = None  # of an older Sluice, which counted by other rules, or of the very beginning
        if held is not None and _definitions(held) == _definitions(snapshot) and _place(snapshot) <= _place(held):
            return set()
        before = self._cells.get(snapshot.partition, {})
        after: dict[str, tuple[StatsCell, ...]] = {}
        for cell in snapshot.cells:
            after[cell.experiment] = (*after.get(cell.experiment, ()), cell)
        self._latest[snapshot.partition] = snapshot
        self._cells[snapshot.partition] = after
        changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
        return {name for name in changed if parse_segment(name) is None}

    @property
    def experiments(self) -> set[str]:
        """Every experiment that something was counted for, defined or not; segments are parts of theirs."""
        return {name for cells in self._cells.values() for name in cells if parse_segment(name) is None}

    def sums(self, wanted: Container[tuple[str, str]]) -> dict[tuple[str, str], tuple[int, int, dict[str, int]]]:
        """(experiment, variant) → units, impressions, outcome → impressions with it; of those `wanted`.

        May be asked by another thread than the one that offers: each partition is then of one moment.
        """
        found: dict[tuple[str, str], tuple[int, int, dict[str, int]]] = {}
        for partition in list(self._cells.values()):
            for cells in list(partition.values()):
                for cell in cells:
                    place = cell.experiment, cell.variant
                    if place in wanted:
                        units, impressions, outcomes = found.get(place, (0, 0, {}))
                        sums = cell.statistics
                        for name, outcome in sums.outcomes.items():
                            outcomes[name] = outcomes.get(name, 0) + outcome.count
                        found[place] = units + sums.units, impressions + sums.impressions, outcomes
        return found

    def snapshot(self, experiment: Experiment) -> Snapshot:
        """The evidence of one experiment over all partitions; empty when nothing was counted for it."""
        cells = merge_cells(self._of(experiment.name), experiment.name, *experiment.outcomes)
        offsets = {p: (held.impressions_offset, held.clicks_offset) for p, held in self._latest.items()}
        at_ms = max((held.at_ms for held in self._latest.values()), default=-1)
        segments = segment_sums(experiment, self._segments(experiment))
        delay = self._delay(experiment, cells)
        metric_delays = None
        if experiment.canary is not None:
            asked = {
                one.outcome: replace(experiment, primary=one.outcome, measure="rate") for one in experiment.guardrails
            }
            found = {outcome: self._delay(of, cells) for outcome, of in asked.items()}
            metric_delays = {outcome: delay for outcome, delay in found.items() if delay is not None}
        return Snapshot(cells, offsets, at_ms, segments, self._moved(experiment.name), delay, metric_delays)

    def _delay(self, experiment: Experiment, cells: Iterable[StatsCell]) -> DelayEvidence | None:
        """What the impressions are worth for the primary outcome of `experiment`."""
        totals = {variant.name: (0, 0) for variant in experiment.variants}
        for cell in cells:
            if cell.variant in totals:
                n, c = totals[cell.variant]
                sums = cell.statistics
                totals[cell.variant] = n + sums.impressions, c + sums.outcome(experiment.primary).count
        return delay_evidence(experiment, totals, self._latest.values())

    def _moved(self, experiment: str) -> tuple[MovedUnits, ...]:
        """Over all partitions, in order of the variant. A user lives in one partition, so units add up."""
        sums: dict[str, tuple[int, int]] = {}
        for held in self._latest.values():
            for one in held.moved:
                if one.experiment == experiment:
                    units, impressions = sums.get(one.variant, (0, 0))
                    sums[one.variant] = units + one.units, impressions + one.impressions
        return tuple(
            MovedUnits(experiment=experiment, variant=variant, units=units, impressions=impressions)
            for variant, (units, impressions) in sorted(sums.items())
        )

    def _segments(self, experiment: Experiment) -> dict[tuple[str, str], list[StatsCell]]:
        """(key, value) → cells of that segment, for the keys that the experiment names."""
        found: dict[tuple[str, str], list[StatsCell]] = {}
        if experiment.segments:
            for partition in self._cells.values():
                for name, cells in partition.items():
                    segment = parse_segment(name)
                    if segment and segment.experiment == experiment.name and segment.key in experiment.segments:
                        found.setdefault((segment.key, segment.value), []).extend(cells)
        return found

    def _of(self, experiment: str) -> Iterator[StatsCell]:
        for cells in self._cells.values():
            yield from cells.get(experiment, ())


def _definitions(snapshot: StatsPublished) -> tuple[int, int]:
    return snapshot.window_ms, snapshot.lateness_ms


def _place(snapshot: StatsPublished) -> int:
    # Both topics together: after a recount the two may have been read in another interleaving.
    return snapshot.impressions_offset + snapshot.clicks_offset
