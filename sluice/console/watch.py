"""`sluice watch`: subscribe to a topic and print what arrives. Libraries: click, rich."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.text import Text

from sluice.console import text
from sluice.domain.events import (
    AssignmentMade,
    DeadLetter,
    DecisionMade,
    ImpressionShown,
    OutcomeObserved,
    RawImpressionShown,
    StatsPublished,
)
from sluice.domain.experiment import Experiment
from sluice.domain.segments import parse_segment
from sluice.names import DECISIONS
from sluice.subscription import EVENT_TYPES, subscribe

__all__ = ["line", "watch"]


@click.command()
@click.argument("topic", type=click.Choice(list(EVENT_TYPES)), default=DECISIONS)
@click.option("--experiment", metavar="NAME", help="Only events of this experiment.")
@click.option("--from-start", is_flag=True, help="Begin with the oldest record kept.")
@click.option("--follow/--no-follow", default=True, help="Go on for ever (default), or end at what is there now.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="End after N events.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def watch(topic: str, experiment: str | None, from_start: bool, follow: bool, limit: int | None, as_json: bool) -> None:
    """Subscribe to TOPIC (`decisions` by default) and print every event as it arrives.

    Every subscriber sees every event. Ctrl-C ends it. Records that are no event of the topic are
    skipped, with one line each on stderr.
    """
    logging.basicConfig(level=logging.WARNING, format="sluice: %(message)s")
    show = _json_printer() if as_json else _line_printer()
    left = limit
    with subscribe(topic, experiment=experiment, from_start=from_start, follow=follow) as events:
        for batch in events.batches():
            chosen = batch if left is None else batch[:left]
            show(chosen)
            if left is not None:
                left -= len(chosen)
                if left == 0:
                    return


def _json_printer() -> Callable[[list[Any]], None]:
    encoder = msgspec.json.Encoder()

    def show(events: list[Any]) -> None:
        sys.stdout.buffer.write(encoder.encode_lines(events))
        sys.stdout.buffer.flush()

    return show


def _line_printer() -> Callable[[list[Any]], None]:
    console = Console(highlight=False)

    def show(events: list[Any]) -> None:
        for event in events:
            console.print(line(event), soft_wrap=True)

    return show


def line(event: object) -> Text:
    """One event for people: a line, or two for a decision. Never fails on a decoded event."""
    match event:
        case DecisionMade():
            return _decision(event)
        case StatsPublished():
            cells = [cell for cell in event.cells if parse_segment(cell.experiment) is None]
            impressions = sum(cell.statistics.impressions for cell in cells)
            segments = len(event.cells) - len(cells)
            return _joined(
                text.moment(event.at_ms),
                f"partition {event.partition}",
                f"offsets {event.impressions_offset}, {event.clicks_offset}",
                f"{text.count(impressions)} impressions in {len(cells)} cells",
                f"{segments} cells of segments" if segments else "",
            )
        case AssignmentMade():
            sticky = "sticky" if event.sticky else f"propensity {event.propensity:g}"
            return _joined(
                text.moment(event.at_ms),
                event.experiment,
                f"{event.unit_kind} {event.unit}",
                event.variant,
                f"{sticky}, allocation v{event.allocation_version}",
            )
        case ImpressionShown():
            variants = ", ".join(f"{a.experiment}={a.variant}" for a in event.assignments)
            return _joined(
                text.moment(event.at_ms),
                event.impression_id,
                f"user {event.user_id}",
                f"item {event.item_id}",
                variants,
            )
        case RawImpressionShown():
            return _joined(
                text.moment(event.at_ms), event.impression_id, f"user {event.user_id}", f"item {event.item_id}"
            )
        case OutcomeObserved():
            value = "" if event.value_milli is None else f" {event.value_milli / 1000:g}"
            return _joined(
                text.moment(event.at_ms), event.impression_id, f"user {event.user_id}", f"{event.outcome}{value}"
            )
        case DeadLetter():
            return _joined(f"{event.topic} [{event.partition}] {event.offset}", event.reason, event.detail)
        case Experiment():
            names = ", ".join(variant.name for variant in event.variants)
            return _joined(event.name, f"{event.unit} → {names}", f"primary {event.primary}", event.bandit.policy)
    return Text(msgspec.json.encode(event).decode())


def _decision(event: DecisionMade) -> Text:
    best = max(event.results, key=lambda result: result.p_best, default=None)
    found = Text()
    found.append(text.moment(event.at_ms), style="dim")
    found.append(f"  {event.experiment} v{event.version}  ", style="bold")
    found.append_text(text.verdict(event.verdict))
    found.append(f"  {text.shares(event.allocation)}")
    if best is not None:
        found.append(f"  P(best) {best.variant} {best.p_best:.3f}")
    if event.reasons:  # the first is the verdict in words; --json has them all
        found.append(f"\n    {event.reasons[0]}", style="dim")
    return found


def _joined(first: str, *rest: str) -> Text:
    return Text.assemble((first, "dim"), *(f"  {part}" for part in rest if part))
