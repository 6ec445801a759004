"""What the demo concludes: one object for `--json`, one table for people."""

from __future__ import annotations

from typing import Any

from msgspec import Struct
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sluice.console import text
from sluice.console.demo.observer import Seen

__all__ = ["Decided", "Outcome", "VariantOutcome", "final_table", "outcome"]


class VariantOutcome(Struct, frozen=True, kw_only=True):
    """One variant at the end. Rates are clicks per impression, None where nothing was shown."""

    impressions: int
    clicks: int
    ctr: float | None
    true_ctr: float | None
    """The rate had this variant ranked every slate: the log holds the rating of every item."""
    p_best: float | None
    allocation: int | None
    """Percent"""


class Decided(Struct, frozen=True, kw_only=True):
    """The last decision, which rests on everything counted."""

    version: int
    verdict: str
    reasons: tuple[str, ...]


class Outcome(Struct, frozen=True, kw_only=True):
    """`sluice demo --json`. Impressions and clicks are what the replay sent; counted_… what Redis holds."""

    ratings: int
    slates: int
    impressions: int
    clicks: int
    counted_impressions: int
    counted_clicks: int
    variants: dict[str, VariantOutcome]
    decision: Decided
    regret: float
    """Clicks fewer than the truly best variant would have had on the same slates."""
    regret_fixed_split: float
    """The same for a fixed equal split."""
    verify: str
    """`exact`, or what differs."""
    infra: str
    seconds: float
    """The whole demo, servers included."""
    events_per_second: float
    """Records of both topics, from the first one sent to the last one counted."""


def outcome(replayed: dict[str, Any], seen: Seen, *, verify: str, infra: str, seconds: float, rate: float) -> Outcome:
    """`replayed` is the summary of `sluice replay --json`, `seen` the last look, with a decision."""
    decision = seen.decision
    assert decision is not None
    p_best = {result.variant: result.p_best for result in decision.results}
    return Outcome(
        ratings=replayed["ratings"],
        slates=replayed["slates"],
        impressions=replayed["impressions"],
        clicks=replayed["clicks"],
        counted_impressions=seen.counts.impressions,
        counted_clicks=seen.counts.clicks,
        variants={
            name: VariantOutcome(
                impressions=row["impressions"],
                clicks=row["clicks"],
                ctr=row["ctr"],
                true_ctr=row["true_ctr"],
                p_best=p_best.get(name),
                allocation=decision.allocation.get(name),
            )
            for name, row in replayed["variants"].items()
        },
        decision=Decided(version=decision.version, verdict=decision.verdict, reasons=decision.reasons),
        regret=replayed["regret"],
        regret_fixed_split=replayed["regret_fixed_split"],
        verify=verify,
        infra=infra,
        seconds=round(seconds, 1),
        events_per_second=round(rate),
    )


def final_table(found: Outcome, data: str) -> RenderableType:
    """Fits 80 columns. `data` names what was replayed."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("variant", no_wrap=True, overflow="ellipsis", max_width=16)
    for name in ("impressions", "clicks", "click rate", "true rate", "P(best)", "allocation"):
        table.add_column(name, justify="right", no_wrap=True)
    best = max(found.variants, key=lambda name: found.variants[name].true_ctr or 0.0)
    for name, row in found.variants.items():
        table.add_row(
            name,
            text.count(row.impressions),
            text.count(row.clicks),
            text.percent(row.ctr),
            text.percent(row.true_ctr),
            "–" if row.p_best is None else f"{row.p_best:.3f}",
            "–" if row.allocation is None else f"{row.allocation} %",
            style="bold" if name == best else "",
        )
    return Group(table, Text(), _facts(found, data))


def _facts(found: Outcome, data: str) -> RenderableType:
    facts = Table.grid(padding=(0, 2, 0, 0))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column()
    verdict = text.verdict(found.decision.verdict).append(f", decision {found.decision.version}", style="default")
    facts.add_row("decision", verdict)
    # The first reason is the verdict in words; --json has them all.
    facts.add_row("", next(iter(found.decision.reasons), ""))
    saved = (
        f"{text.count(round(found.regret))} clicks; a fixed equal split: {text.count(round(found.regret_fixed_split))}"
    )
    facts.add_row("regret", saved)
    facts.add_row(
        "counted",
        f"{text.count(found.counted_impressions)} of {text.count(found.impressions)} impressions, "
        f"{text.count(found.counted_clicks)} of {text.count(found.clicks)} clicks",
    )
    facts.add_row("replayed", f"{data}: {text.count(found.ratings)} ratings, {text.count(found.slates)} slates")
    facts.add_row("took", f"{found.seconds:.0f} s, {text.count(round(found.events_per_second))} events/s")
    facts.add_row("verify", Text(found.verify, style="bold green" if found.verify == "exact" else "bold red"))
    return facts
