"""`sluice bench`. Library: click."""

from __future__ import annotations

import click

from sluice.console.lazy import LazyGroup

__all__ = ["bench"]

BENCHES = {
    "count": ("stream_processors.bench:count", "Events counted per second, exactly once."),
    "route": ("router.bench:route", "Latency and throughput of the router over HTTP."),
}


@click.group(cls=LazyGroup, table=BENCHES)
def bench() -> None:
    """Measure against named baselines; ratios are of one run on one machine."""
