"""Events of a model's life in words. Pure."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

from sluice.domain.lifecycle_events import (
    Abandoned,
    Aborted,
    Approved,
    Breach,
    CanaryAdvanced,
    DriftDetected,
    GatePassed,
    GateRefused,
    LifecycleEvent,
    ModelTrained,
    MovedByHand,
    Paused,
    Promoted,
    Resumed,
    RetrainRequested,
    RolledBack,
    ShadowJudged,
    ShadowStarted,
    Skipped,
)

__all__ = ["Told", "Tone", "told"]

Tone: TypeAlias = Literal["ok", "warn", "bad", "calm"]


class Told(NamedTuple):
    kind: str
    tone: Tone
    words: str
    reasons: tuple[str, ...]
    by: str


def told(event: LifecycleEvent) -> Told:
    """One line, the reasons it gives, and who did it where a person did."""
    tone, words = _words(event)
    reasons = getattr(event, "reasons", None)
    if reasons is None:
        reason = getattr(event, "reason", "") or getattr(event, "why", "")
        reasons = (reason,) if reason else ()
    return Told(str(event.__struct_config__.tag), tone, words, tuple(reasons), getattr(event, "by", ""))


def _words(event: LifecycleEvent) -> tuple[Tone, str]:
    match event:
        case DriftDetected():
            return "warn", f"Drift of version {event.version}"
        case Breach():
            return "bad", f"Version {event.version} does worse than what it replaced"
        case RetrainRequested():
            return "calm", f"Retraining, against version {event.against}"
        case ModelTrained():
            return "calm", f"Version {event.version} is trained, on {event.rows:,} rows"
        case GatePassed():
            return "ok", f"Version {event.version} passes the model tests"
        case GateRefused():
            return "bad", f"Version {event.version} is refused by the model tests"
        case ShadowStarted():
            return "calm", f"Version {event.version} is asked beside the one in force, and shown to nobody"
        case ShadowJudged():
            return ("ok", "The shadow passes") if event.passed else ("bad", "The shadow fails")
        case CanaryAdvanced(share=100):
            return "ok", f"Version {event.version} has shown enough to be promoted"
        case CanaryAdvanced():
            return "calm", f"Version {event.version} gets {event.share} % of the traffic"
        case Promoted():
            return "ok", f"Version {event.version} is in force, in place of {event.before}"
        case RolledBack():
            return "bad", f"Version {event.version} is taken back: {event.to} serves"
    return _by_hand(event)


def _by_hand(event: LifecycleEvent) -> tuple[Tone, str]:
    match event:
        case MovedByHand():
            return "warn", f"The alias was moved by hand: version {event.version} is in force"
        case Abandoned():
            return "warn", "The attempt is abandoned"
        case Aborted():
            return "warn", "The attempt is ended"
        case Paused():
            return "warn", "Paused"
        case Resumed():
            return "calm", "Resumed"
        case Approved():
            return "ok", "Approved: users may be shown it"
        case Skipped():
            return "warn", f"The {event.stage} is skipped"
    return "calm", "An event of another version of Sluice"
