"""The canary of the demo: what is released, and what became of it. Libraries: PyYAML, rich."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources

import yaml
from msgspec import Struct
from rich.console import Group, RenderableType
from rich.text import Text

from sluice.domain.events import DecisionMade

__all__ = ["CanaryOutcome", "Moved", "canary_outcome", "course", "definition"]

RULES = [{"name": "popularity"}, {"name": "affinity"}]
BAD = {"name": "random"}


class Moved(Struct, frozen=True, kw_only=True):
    """One change of step, or the end."""

    version: int
    """Of the decision"""
    at_ms: int
    state: str
    step: int
    allocation: dict[str, int]
    because: str
    reason: str


class CanaryOutcome(Struct, frozen=True, kw_only=True):
    """Where the canary stands at the end of the demo."""

    state: str
    step: int
    moves: tuple[Moved, ...]
    needed_units: dict[str, int] | None
    """Variant → units that its step is expected to need beyond the log; null when it has ended, or that is unknown"""


def definition(*, bad: bool, models: bool) -> str:
    """The experiment in YAML: trained models, or rules that need no training."""
    content = yaml.safe_load((resources.files("sluice") / "experiments" / "canary.yaml").read_text(encoding="utf-8"))
    control, candidate = content["variants"] if models else RULES
    # Synthetic clicks are planted in the order of the variants, the best last.
    content |= {"control": control["name"], "variants": [BAD, control] if bad else [control, candidate]}
    return yaml.safe_dump(content, sort_keys=False)


def canary_outcome(decisions: Sequence[DecisionMade]) -> CanaryOutcome:
    """decisions: all of the run, in order; the last one stands."""
    last = decisions[-1].canary
    assert last is not None
    moves = tuple(
        Moved(
            version=one.version,
            at_ms=one.at_ms,
            state=one.canary.move.state,
            step=one.canary.move.step,
            allocation=one.allocation,
            because=one.canary.move.because,
            reason=one.canary.move.reason,
        )
        for one in decisions
        if one.canary is not None and one.canary.move is not None and one.canary.move.because != "evidence"
    )
    return CanaryOutcome(
        state=last.place.state, step=last.place.step, moves=moves, needed_units=last.needed_units
    )  # fmt: skip


def course(found: CanaryOutcome) -> RenderableType:
    """The end in one line."""
    style = {"promoted": "bold green", "rolled-back": "bold yellow"}.get(found.state, "bold")
    lines = [Text.assemble(("canary    ", "dim"), (found.state, style))]
    if found.needed_units is not None and any(found.needed_units.values()):
        more = ", ".join(f"{name} {units:,}" for name, units in found.needed_units.items())
        lines.append(Text(f"          the log is at its end; step {found.step} would need about so many more: {more}"))
    return Group(*lines)
