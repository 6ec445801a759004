"""What the figures of an experiment cannot tell, found in the figures themselves. Pure."""

from __future__ import annotations

from dashboard.report_design import Design, audience
from dashboard.report_format import duration
from dashboard.report_reading import Evidence
from sluice.domain.events import VariantResult

__all__ = ["caveats", "lasted_ms"]

_FEW_UNITS = 100
_WEEK_MS = 7 * 86_400_000
_REPLAY_MS = 30 * 86_400_000
_MOST_NAMED = 8


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
            f"The configuration changed {evidence.course.configurations.count} times while the experiment ran: what "
            "was counted before a change is in the figures, too."
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
            f"“No difference” is not shown for {', '.join(wide[:_MOST_NAMED])}: the interval still holds differences "
            f"of the planned {metric.size(effect)}."
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
            "The traffic moved while rates may have moved, too: compare the weighted rates, not the plain ones, which "
            "mix times of different shares."
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
            "The slate is the unit, so a user meets several variants: effects that last (habits, being tired of a "
            "list) carry over and are not seen, and slates of one user are taken as independent."
        )
    if design.unit == "session":
        said.append("The session is the unit: what a user carries over from one session to the next is not seen.")
    lasted = lasted_ms(evidence)
    if lasted is not None and lasted < _WEEK_MS:
        said.append(
            f"The evidence spans {duration(lasted)}: differences between weekdays, and novelty that "
            "wears off, are not seen."
        )
    if it is not None and audience(it):
        said.append(f"It holds for those who took part: {'; '.join(audience(it))}.")
    behind = evidence.written_ms - decision.at_ms
    if evidence.written_ms > 0 and decision.at_ms >= 0 and behind > _REPLAY_MS:
        said.append(
            f"The events are {duration(behind)} older than the decision: this looks like a replay of a log. It says "
            "what users would have done with items that the log knows, not with others; only the replay itself knows "
            "the true rates."
        )
    said.append(f"It is about {design.metric.name} alone, and what it stands for is for people to say.")
    return said


def lasted_ms(evidence: Evidence) -> int | None:
    """Event time from the first decision with evidence to this one; None where there is none."""
    began, end = evidence.course.began_ms, evidence.decision.at_ms
    return end - began if 0 <= began < end else None


def _blind(one: VariantResult, design: Design) -> bool:
    """Whether a difference of the planned size is still possible."""
    effect = design.experiment.planned_effect if design.experiment is not None else 0.0
    assert one.contrast is not None
    low, high = one.contrast.interval
    return effect > 0 and low < 0 < high and max(-low, high) >= effect
