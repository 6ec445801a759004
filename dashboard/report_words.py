"""The verdict of an experiment in words. Pure."""

from __future__ import annotations

from dashboard.report_design import Design
from sluice.domain.events import DecisionMade

__all__ = ["headline", "lead_sentences", "leader"]


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


def lead_sentences(decision: DecisionMade, said: str) -> list[str]:
    """The reasons that the decision gives, at least one; the first is the verdict's, without the headline `said`."""
    first, *others = decision.reasons or ("This decision gives no reasons: an older version of Sluice made it.",)
    rest = first.removeprefix(f"{said}: ")
    return [rest[:1].upper() + rest[1:], *others]


def _breached(decision: DecisionMade) -> set[str]:
    return {one.variant for one in decision.guardrails if one.status == "breached"}
