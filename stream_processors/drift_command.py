"""`sluice drift`. Libraries: click, msgspec, rich."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from sluice.adapters import logs
from sluice.adapters.exporter import exporting
from sluice.adapters.kafka import KafkaException, producer, wait_for_broker
from sluice.adapters.metrics import Metrics
from sluice.console.options import metrics_port_option
from sluice.domain.drift import LEAST_USERS, DriftOptions, DriftReport, SettlingSeen
from sluice.domain.segments import parse_segment
from sluice.errors import ConfigError, LogTruncated, ModelUnusable, TransportError
from sluice.names import Keys
from sluice.pages.files import check_place, write_whole
from sluice.settings import Settings

if TYPE_CHECKING:
    from stream_processors.drift import Following

__all__ = ["NICE", "drift"]

log = logging.getLogger(__name__)

NICE = 10
"""Whoever counts or serves on the same machine goes first"""
_SHOWN = 15


@click.command()
@click.argument("model", required=False)
@click.option("--follow", is_flag=True, help="Go on, and publish drift on topic `lifecycle`.")
@click.option("--every", type=click.FloatRange(0.1), default=10.0, show_default=True, metavar="SECONDS")
@click.option(
    "--alpha", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.05, show_default=True,
    help="Probability of any false alarm, ever.",
)  # fmt: skip
@click.option(
    "--window", "window_h", type=click.FloatRange(0, min_open=True), default=24.0, show_default=True, metavar="HOURS",
    help="Of event time.",
)  # fmt: skip
@click.option("--features", type=click.IntRange(1), default=30, show_default=True, help="To watch, by importance.")
@click.option(
    "--settle", type=click.IntRange(LEAST_USERS), default=DriftOptions().settle_users, show_default=True,
    metavar="USERS", help="Of whom the reference is made, where that of the training does not hold.",
)  # fmt: skip
@click.option("--variant", default="", metavar="NAME", help="Only what this variant showed.")
@click.option("--segment", default="", metavar="KEY=VALUE", help="Only requests of this segment, as history=new.")
@click.option(
    "--report", "page", type=click.Path(path_type=Path), metavar="FILE", help="Also write it as one HTML file.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON object; with --follow one a line whenever it changes.")
@metrics_port_option
def drift(
    model: str | None, follow: bool, every: float, alpha: float, window_h: float, features: int, settle: int,
    variant: str, segment: str, page: Path | None, as_json: bool, metrics_port: int | None,
) -> None:  # fmt: skip
    """Whether the world, or a model, is not what it was when the model was trained.

    \b
    sluice drift movielens_ctr_ab@PolicyB --report drift.html
    sluice drift movielens_ctr_ab/3 --follow
    sluice drift movielens_ctr_ab@PolicyB --segment history=new

    MODEL is NAME@ALIAS, followed when it moves, or NAME/VERSION; by default the version that ranked last. It is
    compared with the reference that was logged when it was trained. Experiments log what they show with
    `rankings: true`. With --follow, an alias that is not there yet is waited for.

    A version that was trained from the log, and every segment, is compared with its own beginnings: it settles until
    enough users were seen. Of a variant or segment --follow reports, and publishes nothing: the life of a model is of
    all that it shows.
    """
    from sluice.adapters.mlflow import Registry, parse_model_uri
    from stream_processors.drift import DriftWatch, Following, latest_served
    from stream_processors.drift_join import Part

    if segment and parse_segment(f"all@{segment}") is None:
        raise ConfigError(f"--segment {segment}: KEY=VALUE is wanted, as history=new")
    part = Part(variant, segment)
    settings = Settings.load()
    if page is not None:
        if follow:
            raise ConfigError("--report: of one look, so without --follow")
        check_place("--report", page)
    if follow:
        logs.configure("drift", settings)
    wait_for_broker(settings)
    if model is None:
        served = latest_served(settings)
        if served is None:
            raise ConfigError("no model has ranked: experiments log what they show with `rankings: true`")
        model = "/".join(served)
    ref = parse_model_uri(f"models:/{model.removeprefix('models:/')}")
    registry = Registry(settings)
    window_ms = max(round(window_h * 3_600_000), 1)
    options = DriftOptions(alpha=alpha, window_ms=window_ms, features=features, settle_users=settle)
    if not follow:
        report = DriftWatch(settings, registry, registry.resolve(ref), options, part).advance()
        _print(report, as_json)
        if page is not None:
            from stream_processors.drift_page import drift_page

            write_whole(page, drift_page(report).encode())
        return
    if ref.version:
        registry.resolve(ref)  # an alias may come, a version that nobody knows is a slip
    metrics = Metrics("drift")
    with exporting(metrics, settings, metrics_port):
        try:
            _follow(settings, lambda: Following(settings, registry, ref, options, part), metrics, every, as_json)
        finally:
            metrics.stop_reading()


def _follow(
    settings: Settings, begin: Callable[[], Following], metrics: Metrics, every: float, as_json: bool
) -> None:  # fmt: skip
    """Until SIGINT or SIGTERM. What `begin` needs, and what `advance` does, is waited for: a model may still come."""
    from sluice.adapters.drift import DriftBoard
    from sluice.adapters.redis import connect
    from sluice.domain.api_drift import DriftSeen
    from stream_processors.drift import publish, said_of
    from stream_processors.drift_pace import Pace

    os.nice(NICE)
    stop, client = threading.Event(), producer(settings)
    board, pace = DriftBoard(connect(settings), Keys(settings.prefix)), Pace(stop)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    following: Following | None = None
    before: DriftReport | None = None
    said = "nothing was looked at yet"
    metrics.read_from(lambda: following.readings() if following is not None else (), ready=lambda: not said)
    while True:
        try:
            now_ms = time.time_ns() // 1_000_000
            following = following or begin()
            report, events = following.advance(now_ms, pace)
            for event in events:
                publish(client, event)
                following.published(event)
                log.warning("%s: %s", following.watch.version, said_of(event))
            if as_json and report != before:
                click.echo(msgspec.json.encode(report).decode())
            before = report
            board.put(DriftSeen(checked_ms=now_ms, report=report))
            said = ""
        except LogTruncated as error:
            following, said = None, str(error)
            log.warning("drift: %s", said)
        except (TransportError, ModelUnusable, KafkaException) as error:
            if str(error) != said:
                said = str(error)
                log.warning("drift is not watched: %s; trying again until it works", said)
        if stop.wait(every):
            return


def _print(report: DriftReport, as_json: bool) -> None:
    if as_json:
        click.echo(msgspec.json.encode(report).decode())
        return
    from rich.console import Console
    from rich.table import Column, Table

    console = Console(highlight=False)
    window, performance = report.window, report.performance
    subject = f"[bold]{report.model} version {report.version}[/bold]" + (f" ({report.part})" if report.part else "")
    if report.settling is not None:
        console.print(f"{subject} is {_settling(report.settling)}")
        return
    state = "has drifted" if report.drifted else "has not drifted"
    console.print(f"{subject} {state} (false alarms: {report.alpha:g})")
    if report.settled_ms is not None:
        console.print(f"compared with what it showed itself until {_day(report.settled_ms)}")
    if not window.number:
        console.print("no window of rankings is complete yet")
        return
    console.print(f"{_day(window.start_ms)} to {_day(window.end_ms)}: {window.rows:,} rows of {window.users:,} users")
    name, seen = Column("", no_wrap=True), Column("since", no_wrap=True)
    table = Table(name, "effect", "PSI", "KS", "missing", "p at any time", "clicks beyond", seen, box=None)
    for one in report.features[:_SHOWN]:
        table.add_row(
            one.name, _told(one.effect, "+.3f"), _told(one.psi, ".3f"), _told(one.ks, ".3f"), f"{one.missing:.1%}",
            f"{one.p_value:.2g}", _told(one.relation_p_value, ".2g"), _day(one.since_ms) if one.since_ms else "",
            style="bold" if one.drifted else None,
        )  # fmt: skip
    console.print(table)
    if len(report.features) > _SHOWN:
        console.print(f"and {len(report.features) - _SHOWN} more")
    for measure in performance.measures:
        since = f", drifted since {_day(measure.since_ms)}" if measure.since_ms else ""
        console.print(
            f"{measure.name.replace('_', ' ')}: {_told(measure.value, '.3f')} instead of {measure.expected:.3f} "
            f"(p {measure.p_value:.2g}){since}"
        )


def _settling(seen: SettlingSeen) -> str:
    if not seen.rows:
        return f"settling: nothing that it showed is known yet; what is normal takes {seen.needed:,} users"
    enough = ", until the window ends" if seen.users >= seen.needed else ""
    return f"settling: {seen.users:,} of {seen.needed:,} users{enough}, {seen.rows:,} rows since {_day(seen.since_ms)}"


def _told(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _day(at_ms: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(at_ms / 1000))
