"""How things look: bars, numbers, the demo's pictures at 80 columns, a line for every kind of event."""

from __future__ import annotations

import io

import msgspec
import pytest
from rich.console import Console, RenderableType

from sluice.console import text
from sluice.console.demo.observer import Seen, includes
from sluice.console.demo.result import Decided, Outcome, VariantOutcome, final_table
from sluice.console.demo.view import picture
from sluice.console.watch import line
from sluice.domain.events import (
    AssignmentMade,
    DeadLetter,
    DecisionMade,
    OutcomeObserved,
    StatsCell,
    StatsPublished,
    VariantResult,
)
from sluice.domain.statistics import CellStatistics, OutcomeStatistics
from sluice.live import ExperimentCounts, VariantCounts

REASON = "No winner yet: a rather long explanation in words of what is going on here. " * 4


def shown(content: RenderableType, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    with console.capture() as capture:
        console.print(content)
    return capture.get().splitlines()


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.0, "    "), (1.0, "████"), (0.5, "██  "), (1 / 32, "▏   "), (0.9, "███▋"), (7.0, "████"), (-1.0, "    ")],
)
def test_a_bar_is_exact_to_an_eighth_and_never_longer(share: float, expected: str) -> None:
    assert text.bar(share, 4).plain == expected


def test_numbers() -> None:
    assert text.count(1234567) == "1,234,567"
    assert (text.percent(0.4215), text.percent(None)) == ("42.1 %", "–")
    assert (text.moment(-1), text.moment(0)) == ("–", "1970-01-01 00:00:00")
    assert text.shares({"a": 30, "b": 70, "c": 0}) == "b 70 % · a 30 % · c 0 %"


def cell(variant: str, clicks: int, **outcomes: OutcomeStatistics) -> StatsCell:
    statistics = CellStatistics(9, 27, 81, {"click": OutcomeStatistics(clicks), **outcomes})
    return StatsCell(experiment="e", variant=variant, allocation="a=50,b=50", statistics=statistics)


def decision(*evidence: StatsCell) -> DecisionMade:
    results = [
        VariantResult(
            variant=name, units=9, impressions=27, outcomes=5, rate=0.2, alpha=1.0, beta=1.0, design_effect=1.0,
            effective_impressions=27.0, interval=(0.1, 0.3), p_best=p_best, expected_loss=0.01,
        )
        for name, p_best in (("a", 0.25), ("b", 0.75))
    ]  # fmt: skip
    return DecisionMade(
        experiment="e", version=12, at_ms=0, offsets={}, config_hash="", config={}, seed=0, evidence=evidence,
        results=tuple(results), sample_ratio_p=None, allocation={"a": 25, "b": 75}, allocation_version=3,
        verdict="continue", reasons=(REASON, "second"),
    )  # fmt: skip


def counts(*cells: StatsCell) -> ExperimentCounts:
    rows = {
        c.variant: VariantCounts(
            variant=c.variant, known=True, units=9, impressions=27, clicks=c.statistics.outcome("click").count,
            ctr=0.2, outcomes={}, cells={c.allocation: c.statistics},
        )
        for c in cells
    }  # fmt: skip
    return ExperimentCounts(experiment="e", known=True, impressions=54, clicks=10, variants=rows)


def seen(found: DecisionMade | None) -> Seen:
    return Seen(
        counts=counts(cell("a", 4), cell("b", 6)),
        decision=found,
        decisions=(),
        produced=120,
        counted=100,
        per_second=9.6,
    )


def test_a_decision_includes_the_counts_when_the_primary_sums_agree() -> None:
    rating = {"rating": OutcomeStatistics(3)}
    there = counts(cell("a", 4, **rating), cell("b", 6))
    assert includes(decision(cell("a", 4), cell("b", 6)), there, "click")
    assert not includes(decision(cell("a", 4), cell("b", 5)), there, "click")
    assert not includes(decision(cell("a", 4)), there, "click")
    assert not includes(None, there, "click")


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("share", [None, 0.4])
def test_the_picture_fits_and_keeps_its_height(width: int, share: float | None) -> None:
    pictures = [
        shown(picture("embedded", "replaying", ["a", "b"], seen(found), 7.0, share, width), width)
        for found in (None, decision(cell("a", 4), cell("b", 6)))
    ]
    assert {len(lines) for lines in pictures} == {12}
    assert max(len(line) for lines in pictures for line in lines) <= width
    joined = "\n".join(pictures[1])
    for words in ("replaying", "lag      20 events", "continue", "decision 12", "0.75", "75 %"):
        assert words in joined


@pytest.mark.parametrize("width", [80, 120])
def test_the_final_table_fits_and_says_what_differs(width: int) -> None:
    row = VariantOutcome(impressions=1_000_000, clicks=500_000, ctr=0.5, true_ctr=None, p_best=0.123456, allocation=100)
    found = Outcome(
        ratings=25_000_095, slates=2_500_000, impressions=7_500_000, clicks=3_000_000, counted_impressions=7_500_000,
        counted_clicks=3_000_000, variants={"a-variant-with-a-long-name": row, "b": row},
        decision=Decided(version=1, verdict="ship", reasons=(REASON,)), regret=12.0, regret_fixed_split=34.5,
        verify="differs in 1 integers", infra="local", seconds=31.0, events_per_second=12345.0,
    )  # fmt: skip
    lines = shown(final_table(found, "ml-25m"), width)
    assert max(map(len, lines)) <= width
    assert lines[-1].split() == ["verify", "differs", "in", "1", "integers"]
    assert "7,500,000 of 7,500,000 impressions, 3,000,000 of 3,000,000 clicks" in "\n".join(lines)


def test_every_kind_of_event_has_a_line() -> None:
    events: list[tuple[object, str]] = [
        (decision(), "e v12  continue  b 75 % · a 25 %  P(best) b 0.750"),
        (
            StatsPublished(
                partition=3, impressions_offset=7, clicks_offset=8, window_ms=1, lateness_ms=1, at_ms=-1,
                watermark_ms=-1, cells=(cell("a", 1),), records={},
            ),
            "–  partition 3  offsets 7, 8  27 impressions in 1 cells",
        ),
        (
            StatsPublished(
                partition=3, impressions_offset=7, clicks_offset=8, window_ms=1, lateness_ms=1, at_ms=-1,
                watermark_ms=-1, records={},
                cells=(cell("a", 1), msgspec.structs.replace(cell("a", 1), experiment="e@history=new")),
            ),
            "27 impressions in 1 cells  1 cells of segments",
        ),
        (
            AssignmentMade(
                experiment="e", variant="a", unit="u", unit_kind="user", user_id="u", allocation="a=100",
                allocation_version=2, propensity=0.5, at_ms=0,
            ),
            "e  user u  a  propensity 0.5, allocation v2",
        ),
        (
            OutcomeObserved(
                click_id="c", impression_id="i", user_id="u", at_ms=0, outcome="rating", value_milli=4500
            ),
            "i  user u  rating 4.5",
        ),
        (
            DeadLetter(topic="clicks", partition=0, offset=5, reason="malformed", detail="x", key=b"", value=b""),
            "clicks [0] 5  malformed  x",
        ),
        ({"type": "promoted"}, '{"type":"promoted"}'),
    ]  # fmt: skip
    for event, words in events:
        assert words in line(event).plain
