"""What reports are made from, for tests: decisions that the analyzer's engine made of growing counts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from analyzer.engine import Previous, Snapshot, decide, merge_cells, segment_sums
from dashboard.report_course import Course
from dashboard.report_reading import Counters, Evidence
from sluice.domain.allocation import allocation_key
from sluice.domain.events import DecisionMade, StatsCell, encode
from sluice.domain.experiment import Experiment, load_experiments
from sluice.domain.shadow import Mean, ShadowFigures
from sluice.domain.statistics import CellStatistics, OutcomeStatistics
from sluice.live import RecordCounts
from sluice.live import Snapshot as Live

START_MS = 1_500_000_000_000
HOUR_MS = 3_600_000

YAML = """
name: films
unit: slate
control: random
primary: click
guardrails: [{outcome: complaint, margin: 0.05, better: lower}]
segments: [history]
bandit: {floor: 0.1, reserve: 0.1}
stopping: {expected_loss: 0.005}
variants:
  - name: random
  - {name: PolicyA, ranker: "models:/films@PolicyA"}
"""


def experiment(text: str = YAML) -> Experiment:
    return load_experiments(text, "test")[0]


def cells(it: Experiment, units: int, name: str = "") -> list[StatsCell]:
    """Units of two impressions each; later variants are clicked more often."""
    key = allocation_key(it.starting_allocation)
    found = []
    for place, variant in enumerate(it.variants):
        of = units * it.starting_allocation[variant.name] // 50
        clicks = round(of * min(0.9, 0.6 + 0.25 * place))
        outcomes = {
            it.primary: OutcomeStatistics(clicks, clicks, 2 * clicks, 1500 * clicks, 2_250_000 * clicks, 3000 * clicks),
            "complaint": OutcomeStatistics(of // 50, of // 50, of // 25),
        }
        statistics = CellStatistics(of, 2 * of, 4 * of, outcomes)
        found.append(StatsCell(experiment=name or it.name, variant=variant.name, allocation=key, statistics=statistics))
    return found


def decisions(it: Experiment, sizes: Sequence[int] = (0, 30, 100, 300, 1000)) -> list[DecisionMade]:
    """One decision a size: units of each variant under equal shares."""
    made: list[DecisionMade] = []
    for size in sizes:
        before = made[-1] if made else None
        previous = Previous(before.version, before.allocation, before.allocation_version) if before else None
        counted = cells(it, size) if size else []
        split = {("history", "new"): cells(it, size // 2)} if size and it.segments else {}
        snapshot = Snapshot(
            merge_cells(counted, it.name, *it.outcomes), {0: (2 * size, size), 1: (7, 3)},
            START_MS + HOUR_MS * len(made) if size else -1, segment_sums(it, split),
        )  # fmt: skip
        made.append(decide(it, snapshot, previous))
    return made


def evidence(made: Iterable[DecisionMade], **given: object) -> Evidence:
    """As it would be read, with counters of a small log and one shadow."""
    course, last = Course(), None
    for decision in made:
        course.take(decision)
        last = decision
    assert last is not None
    values: dict[str, object] = {
        "decision": last, "record": encode(last), "place": (0, 41), "written_ms": last.at_ms + 1000,
        "course": course, "later": last.version, "malformed": 0, "experiment": None, "counters": counters(),
    }  # fmt: skip
    return Evidence(**{**values, **given})  # type: ignore[arg-type]


def counters(shadow: str = "next") -> Counters:
    records = RecordCounts(
        impressions={"counted": 2000, "duplicate": 3}, clicks={"counted": 1200, "unmatched": 2}, waiting=1, open=4
    )
    seen = ShadowFigures(
        experiment="films", variant="PolicyA", version="3", shadow=shadow, shadow_version="4", requests=50, compared=48,
        dropped=1, errors={"timeout": 2}, overlap=Mean(0.8, (0.7, 0.9)), rank_correlation=Mean(0.6, None),
        score_distance=0.1, served_ms={"p95": 3.0}, shadow_ms={"p95": 4.0},
    )  # fmt: skip
    return Counters(Live(experiments={}, records=records, offsets={0: (2003, 1202)}, watermark_ms=1), (seen,))
