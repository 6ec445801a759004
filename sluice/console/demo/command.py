"""`sluice demo`: the whole loop with one command. Library: click."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

import click
import msgspec
from rich.console import Console

from sluice.console.demo.children import ChildFailed, Children
from sluice.console.demo.result import final_table
from sluice.console.demo.run import DemoRun
from sluice.console.demo.view import LiveView, PlainView, SilentView
from sluice.domain.experiment import Experiment, load_experiments
from sluice.errors import ConfigError
from sluice.settings import Settings

__all__ = ["demo"]

# Servers that the demo starts are plain ones: nothing of how a cluster is reached may get in.
OUTER = ("SLUICE_KAFKA", "SLUICE_KAFKA_CONFIG", "SLUICE_REDIS")


@click.command()
@click.option("--infra", type=click.Choice(["embedded", "local", "external"]), default="embedded", show_default=True,
              help="A broker from a wheel, a real Apache Kafka, or SLUICE_KAFKA and SLUICE_REDIS.")  # fmt: skip
@click.option("--data", help="As of `sluice replay`; the best MovieLens data there is, by default.")
@click.option("--speed", default="20s", show_default=True,
              help="20s for the whole replay, 500/s slates, 60x event time, or max.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--limit", type=click.IntRange(1), metavar="N", help="At most N slates.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def demo(infra: str, data: str | None, speed: str, seed: int, limit: int | None, as_json: bool) -> None:
    """Replay MovieLens through router, Kafka, counting and analyzer, and check every number at the end.

    Two models are trained on the first 60 % of the log, once, and registered in MLflow; the rest is replayed with them
    and a random order. Starts servers and services as processes of their own and ends them all. Exit code 0 only when
    the recount of the log equals the counters to the last integer.
    """
    console = Console(highlight=False)
    definition = (resources.files("sluice") / "experiments" / "demo.yaml").read_text(encoding="utf-8")
    (experiment,) = load_experiments(definition, "demo.yaml")
    view = _view(console, infra, experiment, as_json)
    source = ["--data", data] if data is not None else []
    replay = ["replay", "--json", "--speed", speed, "--seed", str(seed), *source]
    synthetic = (data or os.environ.get("SLUICE_DATA", "")).partition(":")[0] == "synthetic"
    register = [] if synthetic else ["register", "--json", *source]
    replay += ["--limit", str(limit)] if limit is not None else []
    outer = Settings.load()
    with _folder() as folder, _ended_by_signal():
        try:
            with view, Children(_environment(infra, folder, outer), folder) as children:
                run = DemoRun(infra, definition, replay, register, _seconds(speed), children, outer.state, view)
                found = run.run()
        except ChildFailed as failure:
            for line in failure.tail:
                click.echo(f"  {line}", err=True)
            if failure.wrong_use:  # all is said: the logs hold no more
                raise ConfigError(str(failure)) from failure
            raise
    for line in run.notices:
        click.echo(line, err=True)
    if as_json:
        click.echo(msgspec.json.encode(found))
    else:
        console.print(final_table(found, run.data))
    if found.verify != "exact":
        raise click.exceptions.Exit(1)


def _view(console: Console, infra: str, experiment: Experiment, as_json: bool) -> SilentView:
    if as_json:
        return SilentView()
    if console.is_terminal:
        return LiveView(console, infra, [variant.name for variant in experiment.variants])
    return PlainView(console)


def _seconds(speed: str) -> float | None:
    """How long the replay takes at least, when `speed` says so; the replay checks what it means."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)s", speed)
    return float(found[1]) or None if found else None


def _environment(infra: str, folder: Path, outer: Settings) -> dict[str, str]:
    if infra == "external":
        return dict(os.environ)
    kept = {name: value for name, value in os.environ.items() if name not in OUTER}
    # Models stay for the next demo; everything else is gone with the folder.
    return {**kept, "SLUICE_STATE": str(folder), "SLUICE_MLFLOW": outer.mlflow_uri}


@contextmanager
def _folder() -> Iterator[Path]:
    """For logs and servers. Kept, and named, when a child failed."""
    folder = Path(tempfile.mkdtemp(prefix="sluice-demo-"))
    keep = False
    try:
        yield folder
    except ChildFailed:
        keep = True
        click.echo(f"  (all logs: {folder})", err=True)
        raise
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _ended_by_signal() -> Iterator[None]:
    """SIGTERM and a closed terminal end the demo in order, as Ctrl-C does."""

    def end(number: int, _: object) -> None:
        sys.exit(128 + number)

    before = {kind: signal.signal(kind, end) for kind in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
