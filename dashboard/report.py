"""The report of an experiment: one HTML file that needs nothing else. Libraries: jinja2, matplotlib (`sluice.pages`).

Equal evidence gives equal bytes: the page knows no clock.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from dashboard.report_caveats import caveats, lasted_ms
from dashboard.report_charts import draw_all, drawn_variants
from dashboard.report_checks import Check, checks
from dashboard.report_design import Design, design_of, design_rows, planned_rows
from dashboard.report_format import count, moment
from dashboard.report_reading import Evidence
from dashboard.report_tables import Cell, Table, key_table, tables
from dashboard.report_words import headline, lead_sentences, leader
from sluice.domain.events import DecisionMade
from sluice.pages.drawing import Chart, Drawing, inline
from sluice.pages.page import render

__all__ = ["Report", "make_report"]

TEMPLATE = Path(__file__).with_name("templates") / "report.html.j2"
MOST_RECORD = 256 * 1024
"""Characters of the record on the page"""
_TONES = {"ship": "good", "stop": "look", "rollback": "alarm", "invalid": "alarm"}
_SECTIONS = {
    "design": "Design", "sample": "Sample", "results": "Results", "course": "Course", "checks": "Checks",
    "segments": "Segments", "canary": "Canary", "shadows": "Shadows", "history": "History", "caveats": "Caveats",
    "reproduce": "Reproduce",
}  # fmt: skip


class Report(NamedTuple):
    page: str
    """HTML, one file that needs nothing else"""
    drawings: Sequence[Drawing]
    headline: str
    leader: str
    """The variant that the verdict is for; empty while it is for none"""
    checks: Sequence[Check]
    caveats: Sequence[str]


def make_report(evidence: Evidence, models: Mapping[str, str] | None = None) -> Report:
    """models: variant → the version of its model in words, for those who know."""
    decision, design = evidence.decision, design_of(evidence.decision)
    it = design.experiment
    allowed = it.stopping.expected_loss if it is not None and it.canary is None and not it.aa else None
    drawings = draw_all(evidence.course, decision, design.metric, design.control, allowed)
    found, warned, first = checks(evidence, design), caveats(evidence, design), leader(decision, design)
    said = headline(decision, design)
    lead, *sentences = lead_sentences(decision, said)
    shadows = evidence.counters.shadows if evidence.counters is not None else ()
    made = tables(decision, evidence.course, design, models or {}, shadows, first)
    values = {
        "name": decision.experiment,
        "decision": decision,
        "headline": said,
        "tone": _TONES.get(decision.verdict, "unknown"),
        "status": evidence.experiment.state.status if evidence.experiment is not None else "",
        "lead": lead,
        "sentences": sentences,
        "alarms": [check.title for check in found if check.state == "alarm"],
        "sections": [(key, title) for key, title in _SECTIONS.items() if _there(key, made, decision)],
        "key_table": key_table(decision, design, first),
        "design_rows": design_rows(design, decision),
        "planned": planned_rows(design, decision, lasted_ms(evidence)),
        "plan_command": _plan_command(decision, design),
        "control": design.control,
        "learns": it is not None and it.canary is None and it.bandit.policy != "fixed",
        "tables": made,
        "allowed": allowed is not None,
        "over_time": any(drawing.name == "rate" for drawing in drawings),
        "undrawn": len(decision.results) - len(drawn_variants(decision, design.control)),
        "since": _since(evidence),
        "checks": found,
        "counters_words": _counters_words(evidence),
        "canary": _canary(decision),
        "history": _history(evidence),
        "changes": _changes(evidence),
        "caveats": warned,
        "commands": _commands(decision),
        "provenance": _provenance(evidence),
        **_record(evidence.record),
        **_charts(drawings),
    }
    page = render(TEMPLATE, values, {"moment": moment})
    return Report(page, drawings, said, first, found, warned)


def _charts(drawings: Sequence[Drawing]) -> dict[str, Any]:
    from markupsafe import Markup

    drawn: dict[str, Chart] = {drawing.name: drawing.chart() for drawing in drawings}
    # The SVG comes from matplotlib, which escapes the texts in it.
    return {"charts": drawn, "chart": lambda name: Markup(inline(drawn[name]))}


def _there(section: str, made: Mapping[str, Table], decision: DecisionMade) -> bool:
    if section == "canary":
        return decision.canary is not None
    return section in made or section not in ("segments", "shadows")


def _since(evidence: Evidence) -> str:
    verdicts = evidence.course.verdicts
    last = (verdicts.last or verdicts.first)[-1]
    began = evidence.course.first
    if last.at_ms < 0 or began is None or last.version == began.version:
        return ""
    return f" Dotted: since decision {last.version} the verdict is {last.verdict}."


def _counters_words(evidence: Evidence) -> str:
    if evidence.counters is None:
        return "Without the counters this page tells nothing of duplicates, late and malformed records."
    return (
        "Records are those of all experiments together, as counted when this page was made: "
        f"{_offsets(evidence.counters.snapshot.offsets)}."
    )


def _offsets(offsets: Mapping[Any, tuple[int, int]]) -> str:
    said = [f"{p}: {i:,}/{c:,}" for p, (i, c) in sorted(offsets.items(), key=lambda item: int(item[0]))]
    return f"partition: impressions/clicks {'; '.join(said)}" if said else "nothing"


def _canary(decision: DecisionMade) -> dict[str, str]:
    found = decision.canary
    if found is None:
        return {}
    rows = {
        "state": f"{found.place.state}, step {found.place.step}, since {moment(found.place.since_ms)}",
        "traffic of the candidate": f"{found.share} %",
    }
    if found.needed_units:
        needed = ", ".join(f"{name} {count(number)}" for name, number in found.needed_units.items())
        rows["still expected to be needed"] = f"{needed} units"
    return rows


def _history(evidence: Evidence) -> str:
    course = evidence.course
    first = course.first or evidence.decision
    return (
        f"{count(course.count)} decisions, versions {first.version} to {evidence.decision.version}, evidence from "
        f"{moment(course.began_ms)} to {moment(evidence.decision.at_ms)}. The verdict changed "
        f"{count(max(0, course.verdicts.count - 1))} times, the traffic {count(course.allocations.count)} times."
    )


def _changes(evidence: Evidence) -> Table | None:
    changes = evidence.experiment.state.changes if evidence.experiment is not None else ()
    if not changes:
        return None
    rows = [
        [Cell(one.action), Cell(moment(one.at_ms), words=True), Cell(one.by or "–", words=True),
         Cell(one.why or "–", words=True), Cell(one.variant or one.status, words=True)]
        for one in changes
    ]  # fmt: skip
    return Table("changes", ["what", "when", "by", "why", "then"], rows, stacks=True)


def _plan_command(decision: DecisionMade, design: Design) -> str:
    """What `sluice plan` would have been asked, knowing what is known now; empty where it cannot be said."""
    it = design.experiment
    control = next((one for one in decision.results if one.variant == design.control), None)
    if it is None or control is None or not design.metric.is_rate or not 0 < control.rate < 1 or it.canary is not None:
        return ""
    words = ["sluice", "plan", "--baseline", f"{control.rate:.4g}", "--mde-absolute", f"{it.planned_effect:g}",
             "--variants", str(len(it.variants)), "--alpha", f"{it.stopping.alpha:g}",
             "--design-effect", f"{max(1.0, control.design_effect):.3g}"]  # fmt: skip
    return shlex.join(words + (["--sequential"] if it.stopping.rule == "sequential" else []))


def _commands(decision: DecisionMade) -> list[str]:
    version, name = str(decision.version), decision.experiment
    return [
        shlex.join(["sluice", "explain", version, "--experiment", name]),
        "sluice verify",
        shlex.join(["sluice", "report", name, "--at", version, "--out", "report.html"]),
    ]


def _provenance(evidence: Evidence) -> dict[str, str]:
    decision, (partition, offset) = evidence.decision, evidence.place
    return {
        "record": f"topic decisions, partition {partition}, offset {offset:,}, written {moment(evidence.written_ms)}",
        "evidence": f"offsets ({_offsets(decision.offsets)}), exclusive",
        "configuration": f"{decision.config_hash}, seed {decision.seed}",
        "allocation": f"version {decision.allocation_version}",
    }


def _record(record: bytes) -> dict[str, str]:
    text = msgspec.json.format(record, indent=2).decode(errors="replace")
    if len(text) <= MOST_RECORD:
        return {"record": text, "record_cut": ""}
    said = f"The first {count(MOST_RECORD)} of {count(len(text))} characters; `sluice explain --json` prints all."
    return {"record": text[:MOST_RECORD], "record_cut": said}
