"""What experiments say of a version that was just promoted: whether it broke what it must not. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from sluice.domain.events import DecisionMade
from sluice.domain.experiment import Experiment
from training.lifecycle_release import Decided

__all__ = ["Complaint", "complaint", "witnesses"]

FOLLOWED_MS = 60_000
"""Routers follow an alias within seconds; clocks of machines differ by as much"""


class Complaint(NamedTuple):
    """Why a version is to be taken back."""

    experiment: str
    decision: int
    reason: str


def witnesses(experiments: Iterable[Experiment], serving: str, promoted_ms: int) -> list[Experiment]:
    """Running experiments that compare what `serving` (`models:/NAME@ALIAS`) points to with their control, and whose
    evidence is all of the version that was promoted at `promoted_ms`.

    A decision does not say which of its evidence is older: so the experiment must have begun after the promotion, and
    must not have been configured anew.
    """
    return [
        one for one in experiments
        if one.state.status == "running"
        and any(one.rankers[name] == serving for name in one.rankers if name != one.control_name)
        and 0 < one.state.revision == len(one.state.changes)  # all of them are known
        and one.state.changes[0].at_ms > promoted_ms + FOLLOWED_MS
        and sum(change.action in ("create", "apply") for change in one.state.changes) == 1
    ]  # fmt: skip


def complaint(experiment: Experiment, serving: str, decided: Decided | None) -> Complaint | None:
    """What the analyzer has against `serving`: a guardrail that it broke, or the canary of it that was rolled back."""
    if decided is None or decided.latest.verdict != "rollback":
        return None
    reason = _broken(experiment, serving, decided.latest) or _rolled_back(decided.moved)
    if not reason:
        return None
    return Complaint(experiment.name, decided.latest.version, f"experiment {experiment.name}: {reason}")


def _broken(experiment: Experiment, serving: str, latest: DecisionMade) -> str:
    broken = [
        f"{one.outcome} of {one.variant} is worse than that of {experiment.control_name} by more than {one.margin:g}"
        for one in latest.guardrails
        if one.status == "breached" and experiment.rankers.get(one.variant) == serving
    ]
    return "; ".join(broken)


def _rolled_back(moved: DecisionMade) -> str:
    """Of a canary, which has one variant beside the control; not by somebody's command, or because time was up."""
    move = moved.canary.move if moved.canary is not None else None
    if move is None or move.state != "rolled-back" or move.because not in ("worse", "limit"):
        return ""
    return move.reason
