"""`sluice analyze`. Library: click."""

from __future__ import annotations

import logging
import signal

import click

from analyzer.service import build
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
def analyze(every_ms: int, timeout_s: float) -> None:
    """Read the counts of every partition and publish a decision whenever they change.

    Runs until Ctrl-C or SIGTERM. May be restarted at any time: versions go on where they were.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    analyzer = build(Settings.load(), every_ms=every_ms, timeout_s=timeout_s)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: analyzer.stop())
    analyzer.run()
    logging.getLogger("analyzer").info(
        "stopped after %d decisions (longest computation %.1f ms), %d malformed snapshots",
        analyzer.decisions,
        analyzer.longest_ms,
        analyzer.malformed,
    )
