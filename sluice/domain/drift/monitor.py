"""The monitor of one version of a model: rows and outcomes in, reports out. Pure. Library: numpy.

Windows collect whole numbers by cell of users, so neither the order of rows nor how partitions share them matters. When
a window is closed its users bet (`evidence`), and its sums are forgotten, save what the latest distances need.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from msgspec import Struct

from sluice.domain.drift import scoring
from sluice.domain.drift.bins import RANK_UNIT, Bins
from sluice.domain.drift.evidence import Evidence, Scores
from sluice.domain.drift.make import LEAST_USERS
from sluice.domain.drift.measures import distance, expected_counts
from sluice.domain.drift.reference import SCORE, FeatureReference, Reference
from sluice.domain.drift.report import (
    Distribution,
    DriftReport,
    DriftWindow,
    FeatureDrift,
    PerformanceDrift,
    PerformanceMeasure,
)
from sluice.domain.drift.samples import Floats, Ints, Outcomes, Rows, cells_of, with_score
from sluice.domain.drift.windows import CellSums, OpenWindows, no_sums
from sluice.errors import ConfigError

__all__ = ["DriftOptions", "Monitor", "Seen", "check"]

DAY_MS = 86_400_000
_RECENT_ROWS = 1000
_RECENT_WINDOWS = 64
_OUTCOMES = len(scoring.MEASURES)


class DriftOptions(Struct, frozen=True, kw_only=True):
    alpha: float = 0.05
    """Probability of any alarm, ever, while nothing changes; half of it for features, half for outcomes"""
    window_ms: int = DAY_MS
    """Of event time"""
    features: int = 30
    """That are watched, the most important ones; those that grow and the score come on top"""
    settle_users: int = 100
    """Of these a version whose training cannot tell what is normal makes its reference"""


class Seen(NamedTuple):
    """A window of rows."""

    sums: CellSums
    counts: Ints
    """(features, ages, bins)"""

    def __add__(self, other: Seen) -> Seen:  # type: ignore[override]
        return Seen(self.sums + other.sums, self.counts + other.counts)


class Recent(NamedTuple):
    """What is kept of a closed window."""

    begin_ms: int
    rows: int
    cells: Ints
    totals: Ints
    """Counts by bin, or sums of the measures of outcomes"""


class Alarm(NamedTuple):
    since_ms: int
    began_ms: int


class Track:
    """Windows of one kind of rows, and the evidence they gave."""

    def __init__(self, evidence: Evidence, limits: Floats) -> None:
        """limits (groups,): p-values that are alarms."""
        self.evidence, self._limits = evidence, limits
        self.alarms: dict[int, Alarm] = {}
        """By group; an alarm stays"""
        self.recent: list[Recent] = []

    def play(self, recent: Recent, end_ms: int, scores: Scores) -> None:
        self.evidence.play(recent.begin_ms, recent.cells, scores)
        for group in np.flatnonzero(self.evidence.p_values() <= self._limits).tolist():
            if group not in self.alarms:
                self.alarms[group] = Alarm(end_ms, self.evidence.began_ms(group))
        self.recent.append(recent)
        rows = sum(one.rows for one in self.recent)
        while len(self.recent) > _RECENT_WINDOWS or rows - self.recent[0].rows >= _RECENT_ROWS:
            rows -= self.recent.pop(0).rows

    def totals(self, empty: Ints) -> Ints:
        return sum((one.totals for one in self.recent), start=empty)


class Monitor:
    """Watches one version of a model. Rows may come in any order until their window is closed."""

    def __init__(self, reference: Reference, model: str, version: str, options: DriftOptions | None = None) -> None:
        self.reference, self.model, self.version = reference, model, version
        self.options = options or DriftOptions()
        _check(self.options)
        self.watched = _watched(reference, self.options.features)
        names = (*reference.columns, SCORE)
        self._columns = [names.index(one.name) for one in self.watched]
        self._ranked = [place for place, one in enumerate(self.watched) if one.kind == "rank"]
        self.bins = Bins(self.watched)
        self._related_bins = Bins([self.watched[place] for place in self._ranked])
        self.rows = OpenWindows[Seen](self.options.window_ms)
        self.outcomes = OpenWindows[CellSums](self.options.window_ms)
        k, related, half = len(self.watched), len(self._ranked), self.options.alpha / 2
        self.row_track = Track(Evidence(scoring.feature_bets(self.watched)), np.full(k, half / k))
        limits = [half / 2 / _OUTCOMES] * _OUTCOMES + [half / 2 / related] * related
        bets = scoring.outcome_bets(self._related)
        self.outcome_track = Track(Evidence(bets), np.array(limits))

    def take(self, rows: Rows) -> None:
        """Rows that were shown. Raises ConfigError when they do not have the columns of the reference."""
        self.check_columns(rows)
        ages, cells = self.reference.ages(rows.features), cells_of(rows.user)
        codes = self.bins.codes(with_score(rows)[:, self._columns])
        measures = scoring.feature_measures(codes, self.bins.ranks_of(codes, ages))
        self.rows.add(
            rows.at_ms,
            lambda some: Seen(CellSums.of(cells[some], measures[some]), self.bins.counts(codes[some], ages[some])),
        )

    def take_outcomes(self, outcomes: Outcomes) -> None:
        """What became of rows whose attribution window is closed. Raises ConfigError as `take`."""
        self.check_columns(outcomes)
        cells, bins = cells_of(outcomes.user), self._related_bins
        columns = [self._columns[place] for place in self._ranked]
        ranks = bins.ranks_of(bins.codes(with_score(outcomes)[:, columns]), self.reference.ages(outcomes.features))
        measures = scoring.outcome_measures(outcomes.score, outcomes.clicked, ranks)
        self.outcomes.add(outcomes.at_ms, lambda some: CellSums.of(cells[some], measures[some]))

    def merge(self, other: Monitor) -> None:
        """Add the open windows of a monitor with the same reference and options, which saw other rows."""
        self.rows.merge(other.rows)
        self.outcomes.merge(other.outcomes)

    def close_until(self, at_ms: int, outcomes_ms: int | None = None) -> DriftReport:
        """Close the windows of rows that end at or before `at_ms`, and of outcomes before `outcomes_ms`.

        outcomes_ms: `at_ms` less the attribution window and the lateness; `at_ms` by default.
        """
        length = self.options.window_ms
        for begin, seen in self.rows.close_until(at_ms):
            recent = Recent(begin, int(seen.sums.rows.sum()), seen.sums.cells, seen.counts)
            self.row_track.play(
                recent, begin + length, scoring.feature_scores(seen.sums, self.watched, self.reference.users)
            )
        for begin, sums in self.outcomes.close_until(at_ms if outcomes_ms is None else outcomes_ms):
            recent = Recent(begin, int(sums.rows.sum()), sums.cells, sums.sums.sum(axis=0))
            scores = scoring.outcome_scores(sums, self.reference.performance, self._related)
            self.outcome_track.play(recent, begin + length, scores)
        return self.report()

    def report(self) -> DriftReport:
        """What is known from closed windows."""
        features = self._features()
        performance = self._performance()
        alarms = [*self.row_track.alarms.values(), *self.outcome_track.alarms.values()]
        first = min(alarms, default=None)
        return DriftReport(
            model=self.model, version=self.version, window=self._window(), features=features, performance=performance,
            drifted=first is not None, alpha=self.options.alpha, since_ms=first.since_ms if first else None,
            began_ms=first.began_ms if first else None,
        )  # fmt: skip

    @property
    def _related(self) -> list[FeatureReference]:
        return [self.watched[place] for place in self._ranked]

    def check_columns(self, rows: Rows | Outcomes) -> None:
        """Raises ConfigError when they do not have the columns of the reference."""
        width = len(self.reference.columns)
        if rows.features.ndim != 2 or rows.features.shape[1] != width:
            raise ConfigError(
                f"{self.model} version {self.version}: rows of {rows.features.shape[-1]} features, its reference has "
                f"{width}: they belong to another model"
            )

    def _window(self) -> DriftWindow:
        recent = self.row_track.recent
        users = np.unique(np.concatenate([one.cells for one in recent])) if recent else ()
        return DriftWindow(
            start_ms=recent[0].begin_ms if recent else 0,
            end_ms=recent[-1].begin_ms + self.options.window_ms if recent else 0,
            number=self.row_track.evidence.windows, rows=sum(one.rows for one in recent), users=len(users),
            late=self.rows.late + self.outcomes.late,
        )  # fmt: skip

    def _features(self) -> tuple[FeatureDrift, ...]:
        counts = self.row_track.totals(np.zeros_like(self.bins.reference))
        rows = sum(one.rows for one in self.row_track.recent)
        p_values = self.row_track.evidence.p_values()
        relations = self.outcome_track.evidence.p_values()[_OUTCOMES:]
        found = []
        for place, one in enumerate(self.watched):
            related = self._ranked.index(place) if one.kind == "rank" else None
            alarms = [self.row_track.alarms.get(place)]
            if related is not None:
                alarms.append(self.outcome_track.alarms.get(_OUTCOMES + related))
            alarm = min((known for known in alarms if known is not None), default=None)
            found.append(
                self._feature(
                    one,
                    place,
                    counts[place],
                    rows,
                    float(p_values[place]),
                    None if related is None else float(relations[related]),
                    alarm,
                )
            )
        found.sort(key=lambda one: (not one.drifted, -abs(one.effect or 0.0) * one.importance, -abs(one.effect or 0.0)))
        return tuple(found)

    def _feature(
        self, one: FeatureReference, place: int, counts: Ints, rows: int, p_value: float, relation: float | None,
        alarm: Alarm | None,
    ) -> FeatureDrift:  # fmt: skip
        width = len(one.edges) + 1
        before, after = expected_counts(self.bins.reference[place], counts)[:width], counts.sum(axis=0)[:width]
        known = int(after.sum())
        apart = distance(before, after)
        effect = 2 * float((counts * self.bins.ranks[place]).sum()) / (RANK_UNIT * known) if known else None
        return FeatureDrift(
            name=one.name, kind=one.kind, **{name: _known(value) for name, value in apart._asdict().items()},
            p_value=p_value, relation_p_value=relation, effect=None if one.kind == "growing" else effect,
            missing=1 - known / rows if rows else 0.0, importance=one.importance, drifted=alarm is not None,
            since_ms=alarm.since_ms if alarm else None, began_ms=alarm.began_ms if alarm else None,
            distribution=Distribution(
                edges=one.edges, before=tuple((before / max(before.sum(), 1)).tolist()),
                after=tuple((after / max(known, 1)).tolist()),
            ),
        )  # fmt: skip

    def _performance(self) -> PerformanceDrift:
        reference, track = self.reference.performance, self.outcome_track
        rows = sum(one.rows for one in track.recent)
        empty = no_sums(scoring.PLAIN + len(self._ranked)).sums.sum(axis=0)
        sums = track.totals(empty)
        means = sums / (scoring.OUTCOME_UNIT * rows) if rows else np.full(len(sums), np.nan)
        measures = []
        for place, name in enumerate(scoring.MEASURES):
            centre, alarm = getattr(reference, name), track.alarms.get(place)
            value = _known(float(means[place]))
            measures.append(
                PerformanceMeasure(
                    name=name,
                    value=value,
                    expected=centre.mean,
                    effect=None if value is None or not centre.between else (value - centre.mean) / centre.between,
                    p_value=float(track.evidence.p_values()[place]),
                    drifted=alarm is not None,
                    since_ms=alarm.since_ms if alarm else None,
                    began_ms=alarm.began_ms if alarm else None,
                )
            )
        return PerformanceDrift(
            impressions=rows, clicks=int(sums[0]) // scoring.OUTCOME_UNIT, click_rate=measures[0].value,
            expected_click_rate=reference.click_rate.mean, mean_score=_known(float(means[3])),
            log_loss=_known(float(means[4])), expected_log_loss=reference.mean_log_loss, measures=tuple(measures),
            drifted=bool(track.alarms),
        )  # fmt: skip


def check(reference: Reference, rows: Rows, model: str, version: str, alpha: float = 0.05) -> DriftReport:
    """One batch of rows against the reference, whatever their times. Raises ConfigError as `Monitor.take`."""
    monitor = Monitor(reference, model, version, DriftOptions(alpha=alpha))
    monitor.take(rows._replace(at_ms=np.zeros(len(rows.score), dtype=np.int64)))
    return monitor.close_until(monitor.options.window_ms)


def _watched(reference: Reference, features: int) -> list[FeatureReference]:
    ranked = [one for one in reference.features if one.kind == "rank" and one.name != SCORE]
    chosen = {one.name for one in sorted(ranked, key=lambda one: -one.importance)[:features]} | {SCORE}
    return [one for one in reference.features if one.kind == "growing" or one.name in chosen]


def _check(options: DriftOptions) -> None:
    if not 0 < options.alpha < 1:
        raise ConfigError(f"alpha: must lie in (0, 1), got {options.alpha:g}")
    if options.window_ms < 1 or options.features < 1:
        raise ConfigError("window_ms and features: at least 1")
    if options.settle_users < LEAST_USERS:
        raise ConfigError(f"settle_users: at least {LEAST_USERS}, or there is no telling how much users differ")


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
