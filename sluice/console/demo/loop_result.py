"""What `sluice demo loop` concludes: one object for `--json`, a table for people."""

from __future__ import annotations

from collections import Counter
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
    ShadowStarted,
)

__all__ = ["LoopOutcome", "loop_outcome", "loop_table", "reasons_of", "stopped_at"]


class LoopOutcome(Struct, frozen=True, kw_only=True):
    """`sluice demo loop --json`. Times are event times in milliseconds. Rates are clicks per impression of what a
    version would show of every slate, worked out from the log, which holds the rating of every item. Null what did not
    happen; what is said of a promotion is of the first after the change."""

    drift_at: int
    detected_at: int | None
    """Up to when the stream had been read when drift was first seen after the change"""
    promoted_at: int | None
    """When the new version ranked its first slate as the only one"""
    ctr_before: float
    ctr_drifted: float
    """Of the stale version from the change to the promotion, or to the end"""
    ctr_recovered: float | None
    """Of the new version from the promotion to the next one, or to the end"""
    ctr_without_loop: float
    """Of the stale version on the same slates; without a promotion `ctr_drifted`"""
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
    """Where the last version that was not kept was stopped: `gate`, `shadow`, `canary`, or `promoted`"""
    attempts: int
    promotions: int
    ranked: dict[str, int]
    """Version → slates that it ranked since the change"""
    units_exposed_share: float
    """Of those slates, by versions that were not promoted or were taken back"""
    users_exposed_share: float
    """Of the users to whom the model ranked since the change, those who met such a version"""
    events: list[dict[str, Any]]
    data: str
    seconds: float


def loop_outcome(
    summary: Mapping[str, Any], witness: Witness, truth: Mapping[str, Any], first: str, seconds: float
) -> LoopOutcome:
    """summary: of `sluice replay --json`; truth: of `training.loop_truth`; first: version in force at first."""
    events = witness.events
    changed_ms = truth["drift_at_ms"]
    alarms = [event.until_ms for event in events if isinstance(event, DriftDetected) and event.until_ms > changed_ms]
    promoted = [event.version for event in events if isinstance(event, Promoted)]
    good = {first, *promoted} - {event.version for event in events if isinstance(event, RolledBack)}
    since = [one for one in witness.ranked if one.at_ms >= changed_ms]
    exposed = [one for one in since if one.version not in good]
    rate = {name: truth[name]["ctr"] for name in ("before", "between", "promoted", "stale", "fresh") if name in truth}
    return LoopOutcome(
        drift_at=changed_ms, detected_at=min(alarms, default=None), promoted_at=truth.get("promoted_at_ms"),
        ctr_before=rate["before"], ctr_drifted=rate["between"], ctr_recovered=rate.get("promoted"),
        ctr_without_loop=rate.get("stale", rate["between"]), ctr_fresh_model=rate.get("fresh"),
        behind_fresh_error=truth.get("behind_fresh_error"), won_back=truth.get("won_back"),
        clicks_lost=truth.get("lost_clicks"), slates=truth["slates"],
        stopped_at=stopped_at(events), attempts=sum(isinstance(event, RetrainRequested) for event in events),
        promotions=len(promoted), ranked=dict(Counter(one.version for one in since)),
        units_exposed_share=len(exposed) / max(1, len(since)),
        users_exposed_share=len({one.user_id for one in exposed}) / max(1, len({one.user_id for one in since})),
        events=[msgspec.to_builtins(event) for event in events], data=summary["data"], seconds=round(seconds, 1),
    )  # fmt: skip


def stopped_at(events: Sequence[LifecycleEvent]) -> str | None:
    """Where the latest version that was not kept was stopped; null when none was."""
    found, stage, promoted = None, "gate", set()
    for event in events:
        match event:
            case RetrainRequested():
                stage = "gate"
            case ShadowStarted():
                stage = "shadow"
            case ShadowJudged(passed=True) | CanaryAdvanced():
                stage = "canary"
            case Promoted():
                promoted.add(event.version)
            case RolledBack() if event.version in promoted:
                found = "promoted"
            case GateRefused() | ShadowJudged() | RolledBack() | Abandoned():
                found = stage
    return found


def reasons_of(event: LifecycleEvent) -> str:
    """Why, in words; empty where the event says all."""
    reasons = getattr(event, "reasons", ()) or (getattr(event, "reason", ""),)
    return "; ".join(filter(None, reasons))


def loop_table(found: LoopOutcome) -> RenderableType:
    """Fits 80 columns."""
    attempts = f"{found.attempts}, {found.promotions} of them promoted"
    facts = {"attempts": attempts, "replayed": f"{found.data}, {found.seconds:.0f} s"}
    if found.ctr_recovered is None:
        before, since = text.percent(found.ctr_before), text.percent(found.ctr_drifted)
        units, users = text.percent(found.units_exposed_share), text.percent(found.users_exposed_share)
        told = {
            "stopped at": found.stopped_at or "nothing was trained",
            "seen by": f"{users} of the users, in {units} of the model's slates",
            "click rate": f"{before} before the change, {since} since, by what users like",
        }
        return Group(*_lines(told | facts))
    behind = 100 * ((found.ctr_fresh_model or 0.0) - found.ctr_recovered)
    told = {
        "behind the fresh model": f"{behind:.2f} ± {100 * (found.behind_fresh_error or 0.0):.2f} points",
        "clicks lost": f"{text.count(found.clicks_lost or 0)} from the change to the promotion",
    }
    note = (
        "Nothing was replayed twice: the log holds the rating of every item, so it is known what each version would "
        "have shown of the same slates, and what of that is clicked."
    )
    return Group(_rates(found), Text(), *_lines(told | facts), Text(), Text(note, style="dim"))


def _rates(found: LoopOutcome) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("click rate", "before", "changed", "after", "won back"):
        table.add_column(name, justify="left" if name == "click rate" else "right", no_wrap=True)
    before, between = text.percent(found.ctr_before), text.percent(found.ctr_drifted)
    share = text.percent(found.won_back, 0)
    table.add_row("with the loop", before, between, text.percent(found.ctr_recovered), share, style="bold")
    table.add_row("without it", before, between, text.percent(found.ctr_without_loop), "0 %")
    table.add_row("fresh model", "", "", text.percent(found.ctr_fresh_model), "100 %")
    parts = [text.count(found.slates[name]) for name in ("before", "between", "after")]
    table.add_row("slates", *parts, "", style="dim")
    return table


def _lines(told: Mapping[str, str]) -> list[Text]:
    return [Text.assemble((f"{name:24}", "dim"), value) for name, value in told.items()]
