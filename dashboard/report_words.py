"""The verdict of an experiment in words, what was checked, and what its figures cannot tell. Pure."""

from __future__ import annotations

from typing import Literal, NamedTuple

from dashboard.report_design import Design, audience
from dashboard.report_format import count, duration, p_value
from dashboard.report_reading import Evidence
from sluice.domain.events import DecisionMade, VariantResult

__all__ = ["Check", "caveats", "checks", "headline", "leader", "lead_sentences", "served_models"]

SAMPLE_RATIO_ALARM = 0.0005
"""As in the analyzer's verdict"""
_FEW_UNITS = 100
_MUCH_MOVED = 0.05
_WEEK_MS = 7 * 86_400_000
_REPLAY_MS = 30 * 86_400_000
_MOST_NAMED = 8


class Check(NamedTuple):
    state: Literal["good", "look", "alarm", "unknown"]
    title: str
    text: str

    @property
    def sign(self) -> str:
        """What the state is called, for those who see no colour."""
        return {"good": "✓ in order", "look": "! look", "alarm": "✕ alarm", "unknown": "? unknown"}[self.state]


def leader(decision: DecisionMade, design: Design) -> str:
    """The variant that the verdict is for; empty while it is for none."""
    if decision.verdict == "stop":
        return design.control
    if decision.verdict != "ship":
        return ""
    if decision.canary is not None:
        return next((one.variant for one in decision.results if one.variant != design.control), "")
    out = _breached(decision)
    left = [one for one in decision.results if one.variant not in out]
    return max(left, key=lambda one: one.p_best).variant if left else ""


def headline(decision: DecisionMade, design: Design) -> str:
    it = design.experiment
    if it is not None and it.aa:
        broken = decision.verdict == "invalid"
        return "The A/A test failed: find the cause first" if broken else "A/A test: no difference found so far"
    first = leader(decision, design)
    match decision.verdict:
        case "ship":
            return f"Ship {first}" if decision.canary is None else f"Ship {first}: the canary passed every step"
        case "stop":
            return f"Stop, and keep {first}"
        case "rollback":
            out = sorted(_breached(decision))
            if decision.canary is not None:
                out = [one.variant for one in decision.results if one.variant != design.control]
            return f"Roll back {', '.join(out)}" if out else "Roll back"
        case "invalid":
            return "Do not use these figures"
        case "no-traffic":
            return "No traffic yet"
        case "insufficient-data":
            return "Too early to say"
    if decision.canary is not None:
        return "The canary goes on"
    best = max(decision.results, key=lambda one: one.p_best, default=None)
    return "No winner yet" if best is None else f"No winner yet: {best.variant} leads"


def lead_sentences(decision: DecisionMade) -> list[str]:
    """The reasons that the decision gives; the first is the verdict's."""
    return list(decision.reasons) or ["This decision gives no reasons: an older version of Sluice made it."]


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
        state: Literal["good", "look"] = "look" if total and lost / total > 0.001 else "good"
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


def caveats(evidence: Evidence, design: Design) -> list[str]:
    """What these figures cannot tell, the gravest first."""
    return [
        *_about_trust(evidence, design), *_about_size(evidence, design), *_about_method(evidence, design),
        *_about_reach(evidence, design),
    ]  # fmt: skip


def _about_trust(evidence: Evidence, design: Design) -> list[str]:
    decision, said = evidence.decision, []
    if decision.verdict == "invalid":
        said.append("The evidence is invalid: no figure of this page is to be used before the cause is found.")
    if evidence.course.configurations.count:
        said.append(
            f"The configuration changed {evidence.course.configurations.count} times while the experiment ran: what was "
            f"counted before a change is in the figures, too."
        )
    if evidence.later > decision.version:
        said.append(f"This is an earlier state: the latest decision is version {evidence.later}.")
    if design.experiment is None:
        said.append("The configuration is of another version of Sluice: what it means was not looked at.")
    elif decision.config_hash and evidence.counters is not None and evidence.counters.shadows:
        said.append("What shadows say is agreement with what is shown, not whether anybody would click.")
    return said


def _about_size(evidence: Evidence, design: Design) -> list[str]:
    decision, metric, said = evidence.decision, design.metric, []
    few = [one for one in decision.results if one.effective_units < _FEW_UNITS]
    if few:
        named = ", ".join(f"{one.variant} {one.effective_units:,.0f}" for one in few[:_MOST_NAMED])
        said.append(
            f"Few {design.unit}s ({named} effective): intervals rest on a normal limit that so few reach roughly."
        )
    wide = [one.variant for one in decision.results if one.contrast and _blind(one, design)]
    if wide and decision.verdict in ("continue", "insufficient-data", "stop"):
        effect = design.experiment.planned_effect if design.experiment else 0.0
        said.append(
            f"“No difference” is not shown for {', '.join(wide[:_MOST_NAMED])}: the interval still holds differences of "
            f"the planned {metric.size(effect)}."
        )
    if decision.moved:
        said.append(
            f"Some {design.unit}s met more than one variant. What they saw under the second is left out, but what they "
            f"learned from it is not."
        )
    return said


def _about_method(evidence: Evidence, design: Design) -> list[str]:
    decision, it = evidence.decision, design.experiment
    said = []
    if it is not None and it.stopping.rule == "bayesian" and not it.aa:
        said.append("The Bayesian rule does not bound how often equal variants are called different.")
    if len(decision.results) > 2:
        said.append(
            "With more than two variants, always-valid p and intervals are corrected for all of them; P(best) and the "
            "posteriors are not, nor is a comparison of two variants of which none is the control."
        )
    if evidence.course.allocations.count and decision.canary is None:
        said.append(
            "The traffic moved while rates may have moved, too: compare the weighted rates, not the plain ones, which mix "
            "times of different shares."
        )
    if decision.canary is not None:
        said.append("The figures of a canary are those of its step alone, not of all that was counted.")
    if it is not None and (it.bandit.half_life_s or it.bandit.window_s):
        said.append("Posteriors and P(best) rest on recent evidence, the confidence sequences on all of it.")
    if any(one.contrast is not None for one in decision.results):
        said.append("The z test of one look is right only if nobody looked before and the sample was fixed in advance.")
    if decision.segments:
        said.append("Segments are exploratory: one that stands out is a question for a new experiment.")
    if not design.metric.is_rate:
        said.append("Means of values with a heavy tail may miss what is too rare to have come yet.")
    return said


def _about_reach(evidence: Evidence, design: Design) -> list[str]:
    decision, it, said = evidence.decision, design.experiment, []
    if design.unit == "slate":
        said.append(
            "The slate is the unit, so a user meets several variants: effects that last (habits, being tired of a list) "
            "carry over and are not seen, and slates of one user are taken as independent."
        )
    if design.unit == "session":
        said.append("The session is the unit: what a user carries over from one session to the next is not seen.")
    lasted = lasted_ms(evidence)
    if lasted is not None and lasted < _WEEK_MS:
        said.append(
            f"The evidence spans {duration(lasted)}: differences between weekdays, and novelty that wears off, are not seen."
        )
    if it is not None and audience(it):
        said.append(f"It holds for those who took part: {'; '.join(audience(it))}.")
    behind = evidence.written_ms - decision.at_ms
    if evidence.written_ms > 0 and decision.at_ms >= 0 and behind > _REPLAY_MS:
        said.append(
            f"The events are {duration(behind)} older than the decision: this looks like a replay of a log. It says what "
            "users would have done with items that the log knows, not with others; only the replay itself knows the "
            "true rates."
        )
    said.append(f"It is about {design.metric.name} alone, and what it stands for is for people to say.")
    return said


def lasted_ms(evidence: Evidence) -> int | None:
    """Event time from the first decision with evidence to this one; None where there is none."""
    began, end = evidence.course.began_ms, evidence.decision.at_ms
    return end - began if 0 <= began < end else None


def served_models(evidence: Evidence) -> dict[str, str]:
    """Variant → versions of its model that a shadow was compared with: what was really served."""
    found: dict[str, set[str]] = {}
    for one in evidence.counters.shadows if evidence.counters is not None else ():
        if one.version:
            found.setdefault(one.variant, set()).add(one.version)
    return {name: ", ".join(sorted(versions)) for name, versions in found.items()}


def _breached(decision: DecisionMade) -> set[str]:
    return {one.variant for one in decision.guardrails if one.status == "breached"}


def _blind(one: VariantResult, design: Design) -> bool:
    """Whether a difference of the planned size is still possible."""
    effect = design.experiment.planned_effect if design.experiment is not None else 0.0
    assert one.contrast is not None
    low, high = one.contrast.interval
    return effect > 0 and low < 0 < high and max(-low, high) >= effect
