"""Tables of the report of an experiment, as text that is ready to be shown. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from dashboard.report_course import Course, Edge, Moment
from dashboard.report_design import Design
from dashboard.report_format import Metric, count, lift, lifts, minus, moment, p_value, probability, shares
from sluice.domain.canary import CanaryMetric
from sluice.domain.events import DecisionMade, VariantResult
from sluice.domain.shadow import Mean, ShadowFigures

__all__ = ["Cell", "Table", "key_table", "tables"]

MOST_SEGMENTS = 100


class Cell(NamedTuple):
    text: str
    note: str = ""
    """Under it, smaller: an interval"""
    words: bool = False
    """Text to be read, not a number to be compared"""


class Table(NamedTuple):
    name: str
    heads: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    """The first cell of a row names it"""
    leader: str = ""
    """The row that is marked"""
    after: str = ""
    """What the table does not show"""
    stacks: bool = False
    """Mostly words: on a narrow page its rows become paragraphs"""


def tables(
    decision: DecisionMade, course: Course, design: Design, models: Mapping[str, str],
    shadows: Sequence[ShadowFigures], leader: str,
) -> dict[str, Table]:  # fmt: skip
    """By name; those without rows are left out. models: variant → the version of its model, in words."""
    metric = design.metric
    made = [
        _variants(decision, design, models),
        _results(decision, metric, leader),
        _comparison("comparison", decision.results, metric),
        _comparison("uniform", decision.uniform, metric),
        _guardrails(decision),
        _segments(decision, metric),
        _canary_metrics(decision, metric),
        _canary_moves(course),
        _shadows(shadows),
        _moments("verdicts", course.verdicts),
        _moments("allocations", course.allocations),
        _moments("configurations", course.configurations),
    ]
    return {table.name: table for table in made if table.rows}


def key_table(decision: DecisionMade, design: Design, leader: str) -> Table:
    """What the first screen shows: the best first."""
    metric = design.metric
    ordered = sorted(decision.results, key=lambda one: (-one.p_best, one.variant != design.control))
    rows = []
    for one in ordered[:MOST_KEY_ROWS]:
        contrast = one.contrast
        against = Cell("control") if one.variant == design.control else Cell("–")
        if contrast is not None:
            against = Cell(metric.difference(contrast.difference), metric.differences(contrast.interval))
        best = one.weighted_rate if one.weighted_rate is not None else one.rate if one.impressions else None
        rows.append(
            [Cell(one.variant), Cell(metric.value(best), metric.values(one.sequence)), against,
             Cell(f"{decision.allocation.get(one.variant, 0)} %")]
        )  # fmt: skip
    left = len(ordered) - len(rows)
    heads = ["variant", metric.name, f"to the control, {metric.unit}", "traffic"]
    return Table("key figures", heads, rows, leader, f"{left} more variants below." if left > 0 else "")


MOST_KEY_ROWS = 6


def _variants(decision: DecisionMade, design: Design, models: Mapping[str, str]) -> Table:
    it = design.experiment
    if it is None:
        return Table("variants", [], [])
    start = it.starting_allocation
    rows = []
    for one in it.variants:
        ranker = one.ranker or one.name
        role = "control" if one.name == design.control else "candidate"
        known = models.get(one.name, "")
        rows.append(
            [Cell(one.name), Cell(role, words=True), Cell(ranker, known, words=True),
             Cell(one.fallback or "order of the request", words=True), Cell(f"{start.get(one.name, 0)} %"),
             Cell(f"{decision.allocation.get(one.name, 0)} %")]
        )  # fmt: skip
    heads = ["variant", "role", "ranked by", "when that fails", "traffic first", "traffic now"]
    return Table("variants", heads, rows, stacks=True)


def _results(decision: DecisionMade, metric: Metric, leader: str) -> Table:
    rows = [
        [
            Cell(one.variant),
            Cell(count(one.units), f"{count(one.effective_units)} effective"),
            Cell(count(one.impressions)),
            Cell(count(one.outcomes)),
            Cell(metric.value(one.rate if one.impressions else None)),
            Cell(metric.value(one.weighted_rate), metric.values(one.sequence)),
            Cell(metric.value(sum(one.interval) / 2 if one.impressions else None), metric.values(one.interval)),
            Cell(f"{one.design_effect:.2f}"),
            Cell(probability(one.p_best)),
            Cell(metric.size(one.expected_loss)),
        ]
        for one in decision.results
    ]
    heads = [
        "variant", "units", "impressions", f"× {metric.outcome}", metric.name, "weighted, at all times",
        "posterior, 95 %", "design effect", "P(best)", "expected loss",
    ]  # fmt: skip
    return Table("results", heads, rows, leader)


def _comparison(name: str, results: Iterable[VariantResult], metric: Metric) -> Table:
    rows = []
    for one in results:
        found = one.contrast
        if found is None:
            continue
        rows.append(
            [
                Cell(one.variant),
                Cell(metric.difference(found.difference), metric.differences(found.interval)),
                Cell(p_value(found.always_valid_p)),
                Cell(lift(found.lift), lifts(found.lift_interval)),
                Cell(probability(found.p_better)),
                Cell("–" if found.p_rope is None else probability(found.p_rope)),
                Cell(p_value(found.fixed_horizon_p)),
            ]
        )
    heads = ["variant", f"difference, {metric.unit}", "always-valid p", "lift", "P(better)", "P(equivalent)",
             "z test, one look"]  # fmt: skip
    return Table(name, heads, rows)


def _guardrails(decision: DecisionMade) -> Table:
    rows = []
    for one in decision.guardrails:
        ends = "" if one.interval is None else " to ".join(minus(f"{100 * end:+.2f}") for end in one.interval)
        shown = "–" if one.difference is None else minus(f"{100 * one.difference:+.2f}")
        rows.append([Cell(f"{one.outcome} of {one.variant}"), Cell(_STATUS.get(one.status, one.status), words=True),
                     Cell(shown, ends), Cell(minus(f"{-100 * one.margin:.2f}"))])  # fmt: skip
    return Table("guardrails", ["guardrail", "state", "better by, points", "must stay above"], rows)


_STATUS = {"passed": "✓ holds", "breached": "✕ breached", "open": "… not known yet", "worse": "✕ worse"}


def _segments(decision: DecisionMade, metric: Metric) -> Table:
    ordered = sorted(decision.segments, key=lambda one: (one.p_holm, one.p, one.key, one.value, one.variant))
    rows = [
        [
            Cell(f"{one.key} = {one.value}"), Cell(one.variant, words=True), Cell(count(one.units)),
            Cell(metric.difference(one.difference), metric.differences(one.interval)), Cell(p_value(one.p)),
            Cell(p_value(one.p_holm)), Cell(p_value(one.p_fdr)),
        ]
        for one in ordered[:MOST_SEGMENTS]
    ]  # fmt: skip
    left = len(ordered) - len(rows)
    heads = ["segment", "variant", "units", f"difference, {metric.unit}", "p alone", "p, Holm", "p, false discovery"]
    return Table("segments", heads, rows, after=f"{left} more are in the record." if left > 0 else "")


def _canary_metrics(decision: DecisionMade, metric: Metric) -> Table:
    found = decision.canary.metrics if decision.canary is not None else ()
    return Table(
        "canary-metrics",
        ["metric", "state", "better by", "must stay above"],
        [_canary_metric(one, metric if one.outcome == metric.outcome else Metric(one.outcome, True)) for one in found],
    )


def _canary_metric(one: CanaryMetric, metric: Metric) -> list[Cell]:
    return [
        Cell(one.outcome), Cell(_STATUS.get(one.status, one.status), words=True),
        Cell(metric.difference(one.difference), metric.differences(one.interval)), Cell(metric.difference(-one.margin)),
    ]  # fmt: skip


def _canary_moves(course: Course) -> Table:
    def row(at: Moment, said: str, state: str) -> list[Cell]:
        return [Cell(f"v{at.version}"), *(Cell(text, words=True) for text in (moment(at.at_ms), state, said))]

    kept = [*course.canary.first, *course.canary.last]
    rows = [row(at, move.reason, f"{move.state}, step {move.step}") for at, move in kept]
    after = _left_out(course.canary.left_out)
    return Table("canary-moves", ["decision", "event time", "state", "why"], rows, after=after, stacks=True)


def _shadows(found: Sequence[ShadowFigures]) -> Table:
    rows = [
        [
            Cell(f"{one.shadow} beside {one.variant}"),
            Cell(f"{one.shadow_version or '–'} / {one.version or '–'}"),
            Cell(count(one.compared), f"of {count(one.requests)} asked, {count(one.dropped)} more not"),
            Cell(count(sum(one.errors.values()))),
            _mean(one.overlap, percent=True),
            _mean(one.rank_correlation, percent=False),
            Cell("–" if one.score_distance is None else f"{one.score_distance:.3f}"),
            Cell(_p95(one.shadow_ms), f"shown: {_p95(one.served_ms)}"),
        ]
        for one in found
    ]
    heads = ["shadow", "versions", "compared", "errors", "same top k", "Kendall's tau", "score distance", "p95"]
    return Table("shadows", heads, rows)


def _mean(found: Mean, *, percent: bool) -> Cell:
    def told(value: float) -> str:
        return f"{100 * value:.1f} %" if percent else minus(f"{value:+.3f}")

    if found.mean is None:
        return Cell("–")
    ends = "" if found.interval is None else f"{told(found.interval[0])} to {told(found.interval[1])}"
    return Cell(told(found.mean), ends)


def _p95(found: Mapping[str, float]) -> str:
    return f"{found['p95']:.1f} ms" if "p95" in found else "–"


def _moments(name: str, found: Edge[Moment]) -> Table:
    rows = [
        [Cell(f"v{at.version}"), Cell(moment(at.at_ms), words=True), Cell(at.verdict, words=True),
         Cell(shares(at.allocation), words=True), *([Cell(at.reason, words=True)] if name == "verdicts" else [])]
        for at in [*found.first, *found.last]
    ]  # fmt: skip
    heads = ["decision", "event time", "verdict", "traffic", *(["in words"] if name == "verdicts" else [])]
    return Table(name, heads, rows, after=_left_out(found.left_out), stacks=True)


def _left_out(number: int) -> str:
    return f"{count(number)} more lie between the first and the last ones shown." if number else ""
