"""What `sluice demo loop` concludes: one object for `--json`, a table for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sluice.console import text
from sluice.console.demo.loop_seen import Witness
from sluice.domain.lifecycle_events import (
    Abandoned,
    CanaryAdvanced,
    DriftDetected,
    GateRefused,
    LifecycleEvent,
    Promoted,
    RetrainRequested,
    RolledBack,
    ShadowJudged,
)

__all__ = ["LoopOutcome", "loop_outcome", "loop_table", "reasons_of", "stopped_at"]


class LoopOutcome(Struct, frozen=True, kw_only=True):
    """`sluice demo loop --json`. Times are event times in milliseconds, rates clicks per impression of the model's
    slates, computed from the log, which holds the rating of every item. Null what did not happen."""

    drift_at: int | None
    detected_at: int | None
    promoted_at: int | None
    """When the new version ranked its first slate"""
    ctr_before: float | None
    ctr_drifted: float | None
    """From the change to the promotion"""
    ctr_recovered: float | None
    """After the promotion"""
    ctr_without_loop: float | None
    """Of the stale version on the same slates"""
    ctr_fresh_model: float | None
    """Of a model that learned from all items of all slates between change and promotion, on the same slates"""
    behind_fresh_error: float | None
    """Standard error of `ctr_fresh_model` − `ctr_recovered`, over users"""
    won_back: float | None
    """Share of the loss without the loop"""
    clicks_lost: int | None
    """Between change and promotion, that the new version would have had"""
    slates: dict[str, int]
    """Of the parts `before`, `between`, `after`"""
    stopped_at: str | None
    """Where the last version that was not promoted was stopped: `gate`, `shadow` or `canary`"""
    attempts: int
    units_exposed_share: float
    """Of the units since the change, those that a version served which was not promoted"""
    events: list[dict[str, Any]]
    data: str
    seconds: float


def loop_outcome(
    summary: Mapping[str, Any], witness: Witness, truth: Mapping[str, Any] | None, stale: str, seconds: float
) -> LoopOutcome:
    """summary: of `sluice replay --json`; truth: of `training.loop_truth`, null when nothing was promoted."""
    events = witness.events
    drift = next((event for event in events if isinstance(event, DriftDetected)), None)
    promoted = next((event for event in events if isinstance(event, Promoted)), None)
    good = {stale, *[event.version for event in events if isinstance(event, Promoted)]}
    exposed = sum(served.slates for version, served in witness.served.items() if version not in good)
    told = truth or {}
    served = witness.served.get(promoted.version) if promoted is not None else None
    rate = {name: told[name]["ctr"] if truth else None for name in ("before", "between", "promoted", "stale", "fresh")}
    return LoopOutcome(
        drift_at=told.get("drift_at_ms"), detected_at=drift.until_ms if drift is not None else None,
        promoted_at=served.first_ms if served is not None else None,
        ctr_before=rate["before"], ctr_drifted=rate["between"], ctr_recovered=rate["promoted"],
        ctr_without_loop=rate["stale"], ctr_fresh_model=rate["fresh"],
        behind_fresh_error=told.get("behind_fresh_error"), won_back=told.get("won_back"),
        clicks_lost=told.get("lost_clicks"), slates=told.get("slates", {}),
        stopped_at=stopped_at(events), attempts=sum(isinstance(event, RetrainRequested) for event in events),
        units_exposed_share=exposed / max(1, sum(served.slates for served in witness.served.values())),
        events=[msgspec.to_builtins(event) for event in events], data=summary["data"], seconds=round(seconds, 1),
    )  # fmt: skip


def stopped_at(events: Sequence[LifecycleEvent]) -> str | None:
    """Where the latest version that was not promoted was stopped; null when none was."""
    found, canary = None, False
    for event in events:
        canary = canary or isinstance(event, CanaryAdvanced)
        if isinstance(event, GateRefused):
            found = "gate"
        elif isinstance(event, ShadowJudged) and not event.passed:
            found = "shadow"
        elif isinstance(event, RolledBack):
            found = "canary"
        elif isinstance(event, Abandoned):
            found = "canary" if canary else "gate"
    return found


def reasons_of(event: LifecycleEvent) -> str:
    """Why, in words; empty where the event says all."""
    reasons = getattr(event, "reasons", ()) or (getattr(event, "reason", ""),)
    return "; ".join(filter(None, reasons))


def loop_table(found: LoopOutcome) -> RenderableType:
    """Fits 80 columns."""
    if found.ctr_recovered is None:
        where = f"{found.stopped_at or 'nothing was trained'}, {found.attempts} attempts"
        exposed = text.percent(found.units_exposed_share)
        return Text.assemble(
            ("stopped at           ", "dim"), (where, "bold"), ("\nunits that it served ", "dim"), exposed
        )
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("click rate", "before", "changed", "after", "won back"):
        table.add_column(name, justify="left" if name == "click rate" else "right", no_wrap=True)
    before, between = text.percent(found.ctr_before), text.percent(found.ctr_drifted)
    share = text.percent(found.won_back, 0)
    table.add_row("with the loop", before, between, text.percent(found.ctr_recovered), share, style="bold")
    table.add_row("without it", before, between, text.percent(found.ctr_without_loop), "0 %")
    table.add_row("fresh model", "", "", text.percent(found.ctr_fresh_model), "100 %")
    table.add_row(
        "slates", *[text.count(found.slates[name]) for name in ("before", "between", "after")], "", style="dim"
    )
    error = 100 * (found.behind_fresh_error or 0.0)
    behind = 100 * ((found.ctr_fresh_model or 0.0) - found.ctr_recovered)
    return Group(
        table, Text(),
        Text(f"behind the fresh model  {behind:.2f} ± {error:.2f} points, on the same slates"),
        Text(f"clicks lost             {text.count(found.clicks_lost or 0)} from the change to the promotion"),
        Text(f"replayed                {found.data}, {found.seconds:.0f} s", style="dim"),
    )  # fmt: skip
