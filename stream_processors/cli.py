"""`sluice process`, `sluice features`, `sluice verify`, `sluice resolve`. Libraries: click, rich."""

from __future__ import annotations

import gc
import logging
import signal
import sys
import threading

import click
import msgspec

from sluice.adapters import logs
from sluice.adapters.exporter import exporting
from sluice.adapters.kafka import partition_count, producer, wait_for_broker
from sluice.adapters.metrics import Metrics
from sluice.adapters.redis import wait_for_redis
from sluice.console.options import metrics_port_option
from sluice.names import CLICKS, IMPRESSIONS
from sluice.settings import Settings

__all__ = ["features", "process", "resolve", "verify"]


@click.command()
@click.option("--web-port", type=click.IntRange(1, 65535), help="Serve /state/ on 127.0.0.1 at this port.")
@click.option("--batch", type=click.IntRange(1, 100_000), default=10_000, show_default=True, help="Records a batch.")
@click.option("--loglevel", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True)
@metrics_port_option
def process(web_port: int | None, batch: int, loglevel: str, metrics_port: int | None) -> None:
    """Attribute and count, exactly once into Redis. Any number may run; they share the partitions."""
    settings = Settings.load()
    logs.configure("process", settings, level=loglevel)
    wait_for_broker(settings)
    wait_for_redis(settings)
    client = producer(settings)
    for topic in (IMPRESSIONS, CLICKS):
        partition_count(client, topic)  # a clear error now instead of a worker that waits for a topic
    import faust

    from stream_processors.app import build

    # Open impressions are many, live long and hold no cycles: looking for garbage among them is waste.
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
    metrics = Metrics("process")
    worker = faust.Worker(
        build(settings, web_port=web_port, batch_size=batch, metrics=metrics),
        override_logging=False,
        redirect_stdouts=False,
        quiet=True,
    )
    logging.getLogger("faust").setLevel(logging.WARNING)
    logging.getLogger("mode").setLevel(logging.ERROR)
    logging.getLogger("aiokafka").setLevel(logging.ERROR)
    with exporting(metrics, settings, metrics_port):
        worker.execute_from_commandline()


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def verify(as_json: bool) -> None:
    """Recount the log up to the stored offsets and compare every integer. Exit code 1 when one differs."""
    from stream_processors.verify import verify as run

    checks = run(Settings.load())
    differences = [(check, difference) for check in checks for difference in check.differences]
    result = "differs" if differences else "exact"
    if as_json:
        click.echo(msgspec.json.encode({"verify": result, "partitions": checks}))
    else:
        for check in checks:
            click.echo(
                f"partition {check.partition}: impressions[:{check.impressions_offset}] "
                f"clicks[:{check.clicks_offset}], {check.numbers:,} integers, {len(check.differences)} differ"
            )
        for check, difference in differences[:20]:
            click.echo(
                f"  partition {check.partition}: {difference.name}: "
                f"stored {difference.stored}, recounted {difference.recounted}"
            )
        if len(differences) > 20:
            click.echo(f"  and {len(differences) - 20} more")
        behind = sum(check.not_counted for check in checks)
        if behind:
            click.echo(f"{behind:,} later records of the log are not counted yet")
        click.echo(f"verify: {result}")
    sys.exit(1 if differences else 0)


@click.command()
@metrics_port_option
def resolve(metrics_port: int | None) -> None:
    """Give the impressions of an existing click stream (topic `raw-impressions`) their assignments."""
    from stream_processors.resolver import run_resolver

    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    settings, metrics = Settings.load(), Metrics("resolve")
    logs.configure("resolve", settings)
    with exporting(metrics, settings, metrics_port):
        run_resolver(settings, stop, metrics)


@click.command()
@click.option("--rebuild", is_flag=True, help="Forget all states first, and read the log from its beginning.")
@click.option("--loglevel", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True)
@metrics_port_option
def features(rebuild: bool, loglevel: str, metrics_port: int | None) -> None:
    """Keep the features of users and items in Redis, from what the log says of ended slates.

    One keeper runs at a time: a second one takes over, and the first one ends.
    """
    from stream_processors.feature_worker import FeatureWorker

    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    settings, metrics = Settings.load(), Metrics("features")
    logs.configure("features", settings, level=loglevel)
    with exporting(metrics, settings, metrics_port):
        wait_for_broker(settings)
        worker = FeatureWorker(settings)
        metrics.read_from(worker.readings, ready=lambda: worker.keeping)
        try:
            if rebuild:
                worker.reset()
            worker.run(stop)
        finally:
            metrics.stop_reading()
            worker.close()
