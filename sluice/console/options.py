"""Options that several commands share. Library: click."""

from __future__ import annotations

import click

__all__ = ["metrics_port_option"]

metrics_port_option = click.option(
    "--metrics-port",
    type=click.IntRange(0, 65535),
    metavar="PORT",
    help="Serve /metrics, /health and /ready on 127.0.0.1; 0 takes a free port. SLUICE_METRICS=host:port serves them "
    "elsewhere.",
)
"""Passes `metrics_port: int | None` for `sluice.adapters.exporter.exporting`"""
