"""`sluice counters`: the live counters in Redis. Libraries: click, rich."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence

import click
import msgspec
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sluice.console import text
from sluice.errors import ConfigError
from sluice.live import BucketCounts, ExperimentCounts, LiveCounters, RecordCounts, Snapshot, VariantCounts

__all__ = ["bucket_table", "counters", "experiment_table", "record_lines", "segment_tables"]

SHOWN_BUCKETS = 24


@click.command()
@click.argument("experiment", required=False)
@click.option("--buckets", is_flag=True, help="Over event time: EXPERIMENT by time bucket.")
@click.option("--watch", is_flag=True, help="Read again and again until Ctrl-C.")
@click.option("--every", type=click.FloatRange(min=0.05), default=1.0, show_default=True, metavar="SECONDS",
              help="How often with --watch.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON object, or one a line with --watch.")
def counters(experiment: str | None, buckets: bool, watch: bool, every: float, as_json: bool) -> None:
    """Impressions, clicks and click rate of every variant, and what became of every record.

    With EXPERIMENT only that one and its segments, or one segment (`demo@history=new`). Experiments and variants that
    the catalogue does not know are marked `?`.
    """
    logging.basicConfig(level=logging.WARNING, format="sluice: %(message)s")
    if buckets and experiment is None:
        raise ConfigError("--buckets: name an EXPERIMENT")
    with LiveCounters() as live:

        def look(must_exist: bool = False) -> RenderableType:
            if buckets and experiment is not None:
                found = live.buckets(experiment)
                if not found and must_exist:
                    _one(live.snapshot(), experiment)
                return bucket_table(found)
            return _shown(live.snapshot(), experiment, must_exist=must_exist)

        if as_json:
            while True:
                if buckets and experiment is not None:
                    click.echo(msgspec.json.encode(live.buckets(experiment)))
                else:
                    click.echo(_json(live.snapshot(), experiment))
                if not watch:
                    return
                time.sleep(every)
        console = Console(highlight=False)
        if not watch:
            console.print(look(must_exist=True))
            return
        with Live(console=console, auto_refresh=False, screen=False) as view:
            while True:
                view.update(look(), refresh=True)
                time.sleep(every)


def _json(snapshot: Snapshot, experiment: str | None) -> str:
    shown: object = snapshot if experiment is None else _one(snapshot, experiment)
    return msgspec.json.encode(shown).decode()


def _one(snapshot: Snapshot, name: str) -> ExperimentCounts:
    found = snapshot.experiment(name)
    if found is None:
        known = ", ".join(snapshot.experiments) or "none yet"
        raise ConfigError(f"experiment {name!r}: nothing is counted or defined under that name; there are: {known}")
    return found


def _shown(snapshot: Snapshot, experiment: str | None, *, must_exist: bool) -> RenderableType:
    if experiment is not None:
        if must_exist or snapshot.experiment(experiment) is not None:
            found = _one(snapshot, experiment)
            return Group(experiment_table(found), *segment_tables(found))
        return Text(f"{experiment}: nothing counted yet", style="dim")
    parts: list[RenderableType] = []
    for found in snapshot.experiments.values():
        parts.append(experiment_table(found))
        if found.segments:
            parts.append(Text(f"by {', '.join(found.segments)}: sluice counters {found.experiment}\n", style="dim"))
    if not parts:
        parts.append(Text("nothing counted yet", style="dim"))
    return Group(*parts, record_lines(snapshot.records))


def experiment_table(found: ExperimentCounts) -> RenderableType:
    """Impressions, clicks, click rate and other outcomes by variant."""
    title = Text(found.experiment, style="bold")
    if found.known is False:
        title.append(" ?", style="bold yellow").append("  not in the catalogue", style="yellow")
    others = sorted({name for row in found.variants.values() for name in row.outcomes if name != "click"})
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("variant", no_wrap=True)
    for name in ("units", "impressions", "clicks", "click rate", *others):
        table.add_column(name, justify="right", no_wrap=True)
    for row in found.variants.values():
        # The mark says something new only where the experiment itself is known.
        unknown = found.known is not False and row.known is False
        table.add_row(
            Text(row.variant).append(" ?" if unknown else "", style="bold yellow"),
            text.count(row.units),
            text.count(row.impressions),
            text.count(row.clicks),
            text.percent(row.ctr),
            *(_outcome(row, name) for name in others),
        )
    return Group(title, table, Text())


def segment_tables(found: ExperimentCounts) -> list[RenderableType]:
    """For each attribute the same by value, the largest values first."""
    tables: list[RenderableType] = []
    for key, values in found.segments.items():
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        unknown = found.known is not False and any(part.known is False for part in values.values())
        table.add_column(Text(key).append(" ?" if unknown else "", style="bold yellow"), no_wrap=True)
        table.add_column("variant", no_wrap=True)
        for name in ("units", "impressions", "clicks", "click rate"):
            table.add_column(name, justify="right", no_wrap=True)
        for value, part in sorted(values.items(), key=lambda item: -item[1].impressions):
            for first, row in enumerate(part.variants.values()):
                table.add_row(
                    Text("" if first else value),
                    Text(row.variant),
                    text.count(row.units),
                    text.count(row.impressions),
                    text.count(row.clicks),
                    text.percent(row.ctr),
                )
        tables += [table, Text()]
    return tables


def _outcome(row: VariantCounts, name: str) -> str:
    found = row.outcomes.get(name)
    if found is None:
        return "–"
    mean = f" · mean {found.value / found.count:.2f}" if found.value and found.count else ""
    return text.count(found.count) + mean


def bucket_table(found: Mapping[str, Sequence[BucketCounts]]) -> RenderableType:
    """The latest buckets, a line for each variant; all of them are in the JSON."""
    starts = sorted({bucket.start_ms for buckets in found.values() for bucket in buckets})
    if not starts:
        return Text("nothing counted yet", style="dim")
    hidden = max(0, len(starts) - SHOWN_BUCKETS)
    rows = [
        (bucket.start_ms, variant, bucket)
        for variant, buckets in found.items()
        for bucket in buckets
        if bucket.start_ms >= starts[hidden]
    ]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("from (UTC)", no_wrap=True)
    table.add_column("variant", no_wrap=True)
    for name in ("impressions", "clicks", "click rate"):
        table.add_column(name, justify="right", no_wrap=True)
    last = None
    for start_ms, variant, bucket in sorted(rows, key=lambda row: row[:2]):
        click_count = bucket.outcomes["click"].count if "click" in bucket.outcomes else 0
        table.add_row(
            "" if start_ms == last else text.moment(start_ms),
            variant,
            text.count(bucket.impressions),
            text.count(click_count),
            text.percent(click_count / bucket.impressions if bucket.impressions else None),
        )
        last = start_ms
    if not hidden:
        return table
    return Group(table, Text(f"{text.count(hidden)} earlier buckets: --json shows all", style="dim"))


def record_lines(records: RecordCounts) -> RenderableType:
    """What became of every record, by topic, and the gauges."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    for topic, outcomes in (("impressions", records.impressions), ("clicks", records.clicks)):
        line = " · ".join(f"{name} {text.count(number)}" for name, number in sorted(outcomes.items()) if number)
        table.add_row(topic, line or "none")
    table.add_row("open now", f"impressions {text.count(records.open)} · clicks waiting {text.count(records.waiting)}")
    return table
