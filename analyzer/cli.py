"""`sluice analyze`. Library: click."""

from __future__ import annotations

import logging
import signal

import click

from analyzer.service import build
from sluice.adapters import logs
from sluice.adapters.exporter import exporting
from sluice.adapters.metrics import Metrics
from sluice.console.options import metrics_port_option
from sluice.settings import Settings

__all__ = ["analyze"]


@click.command()
@click.option(
    "--every-ms",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    envvar="SLUICE_ANALYZE_EVERY_MS",
    show_envvar=True,
    help="Shortest time between two decisions on one experiment.",
)
@click.option(
    "--deadline",
    "timeout_s",
    type=click.FloatRange(min=0.1),
    default=15.0,
    show_default=True,
    metavar="SECONDS",
    help="Give up when broker or Redis have not answered by then.",
)
@metrics_port_option
def analyze(every_ms: int, timeout_s: float, metrics_port: int | None) -> None:
    """Read the counts of every partition and publish a decision whenever they change.

    Runs until Ctrl-C or SIGTERM. May be restarted at any time: versions go on where they were.
    """
    settings, metrics = Settings.load(), Metrics("analyze")
    logs.configure("analyze", settings)
    with exporting(metrics, settings, metrics_port):
        analyzer = build(settings, every_ms=every_ms, timeout_s=timeout_s, metrics=metrics)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: analyzer.stop())
        analyzer.run()
    logging.getLogger("analyzer").info(
        "stopped after %d decisions (longest computation %.1f ms), %d malformed snapshots",
        analyzer.decisions,
        analyzer.longest_ms,
        analyzer.malformed,
    )
