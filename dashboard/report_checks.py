"""What was checked before a figure is believed, and how it came out. Pure."""

from __future__ import annotations

from typing import Literal, NamedTuple

from dashboard.report_design import Design
from dashboard.report_format import count, p_value
from dashboard.report_reading import Evidence
from sluice.domain.events import DecisionMade

__all__ = ["Check", "checks"]

SAMPLE_RATIO_ALARM = 0.0005
"""As in the analyzer's verdict"""
_MUCH_MOVED = 0.05
_MUCH_LOST = 0.001
_MOST_NAMED = 8


class Check(NamedTuple):
    state: Literal["good", "look", "alarm", "unknown"]
    title: str
    text: str

    @property
    def sign(self) -> str:
        """What the state is called, for those who see no colour."""
        return {"good": "✓ in order", "look": "! look", "alarm": "✕ alarm", "unknown": "? unknown"}[self.state]


def checks(evidence: Evidence, design: Design) -> list[Check]:
    return [
        _sample_ratio(evidence.decision, design),
        *_guardrails(evidence.decision),
        _moved(evidence.decision, design),
        _delays(evidence.decision),
        *_unknown(evidence.decision),
        *_records(evidence),
        _journal(evidence),
    ]


def _sample_ratio(decision: DecisionMade, design: Design) -> Check:
    always, once = decision.sample_ratio_always_valid_p, decision.sample_ratio_p
    if always is None and once is None:
        return Check("unknown", "sample ratio", f"too few {design.unit}s to tell")
    seen = ", ".join(f"{one.variant} {count(one.units)}" for one in decision.results[:_MOST_NAMED])
    text = f"{seen} {design.unit}s against what each allocation promised: "
    text += f"always-valid p = {p_value(always)} (alarm below {SAMPLE_RATIO_ALARM:g}), p of one look = {p_value(once)}"
    bad = always is not None and always < SAMPLE_RATIO_ALARM
    return Check("alarm" if bad else "good", "sample ratio", text)


def _guardrails(decision: DecisionMade) -> list[Check]:
    found = decision.guardrails
    if not found:
        return []
    by = {state: [f"{one.outcome} of {one.variant}" for one in found if one.status == state]
          for state in ("breached", "open", "passed")}  # fmt: skip
    words = {"breached": "breached", "open": "not known yet", "passed": "held"}
    text = "; ".join(f"{words[state]}: {', '.join(names[:_MOST_NAMED])}" for state, names in by.items() if names)
    return [Check("alarm" if by["breached"] else "look" if by["open"] else "good", "guardrails", text)]


def _moved(decision: DecisionMade, design: Design) -> Check:
    if not decision.moved:
        return Check("good", "moved units", f"no {design.unit} came back under another variant")
    units = sum(one.units for one in decision.moved)
    shown = sum(one.impressions for one in decision.moved)
    share = shown / max(1, shown + sum(one.impressions for one in decision.results))
    text = (
        f"{count(units)} {design.unit}s came back under another variant; {count(shown)} impressions "
        f"({100 * share:.1f} %) they saw then are no evidence"
    )
    return Check("look" if share > _MUCH_MOVED else "good", "moved units", text)


def _delays(decision: DecisionMade) -> Check:
    found = decision.delay
    if found is None:
        return Check("unknown", "delayed outcomes", "no delays were told: all impressions count in full")
    if found.immature:
        return Check("look", "delayed outcomes", "no impression is as old as the attribution window: clicks will come")
    shown = sum(one.impressions for one in decision.results)
    full = sum(found.impressions.values())
    share = full / shown if shown else 1.0
    text = f"impressions with an open window count in part: all of them weigh as {100 * min(share, 1.0):.1f} %"
    return Check("look" if share < 0.9 else "good", "delayed outcomes", text)


def _unknown(decision: DecisionMade) -> list[Check]:
    names = {one.variant for one in decision.results}
    found: dict[str, int] = {}
    for cell in decision.evidence:
        if cell.variant not in names:
            found[cell.variant] = found.get(cell.variant, 0) + cell.statistics.impressions
    if not found:
        return []
    said = ", ".join(f"{name} ({count(number)} impressions)" for name, number in sorted(found.items())[:_MOST_NAMED])
    return [Check("look", "unknown variants", f"counted, but not part of the experiment: {said}")]


def _records(evidence: Evidence) -> list[Check]:
    if evidence.counters is None:
        return [Check("unknown", "records", f"the counters could not be read: {evidence.without_counters}")]
    found = evidence.counters.snapshot.records
    made = []
    for topic, outcomes in (("impressions", found.impressions), ("clicks", found.clicks)):
        total = sum(outcomes.values())
        said = ", ".join(f"{name} {count(number)}" for name, number in sorted(outcomes.items()) if number)
        lost = sum(outcomes.get(name, 0) for name in ("malformed", "late"))
        state: Literal["good", "look"] = "look" if total and lost / total > _MUCH_LOST else "good"
        made.append(Check(state, topic, said or "none was read"))
    gauges = f"{count(found.open)} impressions have an open window, {count(found.waiting)} clicks wait for theirs"
    return [*made, Check("good", "still open", gauges)]


def _journal(evidence: Evidence) -> Check:
    course = evidence.course
    said = [f"{count(course.count)} decisions that stand"]
    if course.missing:
        said.append(f"{count(course.missing)} versions between them are not in the log")
    if course.passed_over:
        said.append(f"{count(course.passed_over)} that do not stand: two analyzers decided at once")
    if evidence.malformed:
        said.append(f"{count(evidence.malformed)} records that could not be read")
    if course.first is not None and course.first.version > 1:
        said.append(f"the log begins with version {course.first.version}")
    return Check("look" if len(said) > 1 else "good", "decisions", "; ".join(said))
