"""`sluice demo`: the whole loop with one command. Library: click."""

from __future__ import annotations

import functools
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import click
import msgspec
from click.core import ParameterSource
from rich.console import Console, Group

from sluice.console.demo.canary import canary_outcome, course
from sluice.console.demo.canary import definition as canary_definition
from sluice.console.demo.children import ChildFailed, Children
from sluice.console.demo.result import Outcome, final_table
from sluice.console.demo.run import DemoRun
from sluice.console.demo.view import LiveView, PlainView, SilentView
from sluice.domain.experiment import Experiment, load_experiments
from sluice.errors import ConfigError
from sluice.settings import Settings

__all__ = ["demo"]

# Servers that the demo starts are plain ones: nothing of how a cluster is reached may get in.
OUTER = ("SLUICE_KAFKA", "SLUICE_KAFKA_CONFIG", "SLUICE_REDIS")
BAD_SHARE = 0.4
"""Of the users, who turn over"""


class Asked(NamedTuple):
    """The options that all demos share."""

    infra: str
    data: str | None
    speed: str
    seed: int
    limit: int | None
    as_json: bool
    browser: bool | None
    """Serve the dashboard: with a browser, without, or (None) not at all"""


def asking(command: Callable[..., None]) -> Callable[..., None]:
    """The options of `Asked`, for a command that takes them as one."""
    options = [
        click.option("--infra", type=click.Choice(["embedded", "local", "external"]), default="embedded",
                     show_default=True, help="A broker from a wheel, a real Apache Kafka, or SLUICE_KAFKA and "
                     "SLUICE_REDIS."),
        click.option("--data", help="As of `sluice replay`; the best MovieLens data there is, by default."),
        click.option("--speed", default="20s", show_default=True,
                     help="20s for the whole replay, 500/s slates, 60x event time, or max."),
        click.option("--seed", type=click.IntRange(0), default=0, show_default=True),
        click.option("--limit", type=click.IntRange(1), metavar="N", help="At most N slates."),
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else."),
        click.option("--open/--no-browser", "browser", default=None, help="Serve the dashboard until Ctrl-C, and open "
                     "it in a browser or only print its address."),
    ]  # fmt: skip

    @functools.wraps(command)
    def together(
        *context: Any, infra: str, data: str | None, speed: str, seed: int, limit: int | None, as_json: bool,
        browser: bool | None, **own: Any,
    ) -> None:  # fmt: skip
        command(*context, Asked(infra, data, speed, seed, limit, as_json, browser), **own)

    for option in reversed(options):
        together = option(together)
    return together


@click.group(invoke_without_command=True)
@asking
@click.pass_context
def demo(context: click.Context, asked: Asked) -> None:
    """Replay MovieLens through router, Kafka, counting and analyzer, and check every number at the end.

    Two models are trained on the first 60 % of the log, once, and registered in MLflow; the rest is replayed with them
    and a random order. Starts servers and services as processes of their own and ends them all. Exit code 0 only when
    the recount of the log equals the counters to the last integer.
    """
    if context.invoked_subcommand is not None:
        if any(context.get_parameter_source(name) is ParameterSource.COMMANDLINE for name in context.params):
            raise ConfigError(f"options of `demo {context.invoked_subcommand}` stand after its name")
        return
    definition = (resources.files("sluice") / "experiments" / "demo.yaml").read_text(encoding="utf-8")

    def show(run: DemoRun, found: Outcome) -> None:
        if asked.as_json:
            click.echo(msgspec.json.encode(found))
        else:
            Console(highlight=False).print(final_table(found, run.data))

    conduct(definition, asked, show)


@demo.command()
@asking
@click.option("--bad", is_flag=True, help="The candidate is a random order, which is much worse.")
def canary(asked: Asked, bad: bool) -> None:
    """Release a model beside another step by step: 10, 25, 50 %, then all of the traffic, or none.

    PolicyB is the candidate and PolicyA the control; affinity and popularity where the training extra is missing. Every
    move is told with its reason when it happens. Exit code 0 only when the recount equals the counters.
    """
    models = all(find_spec(package) is not None for package in ("mlflow", "lightgbm"))

    def show(run: DemoRun, found: Outcome) -> None:
        end = canary_outcome(run.decisions)
        if asked.as_json:
            click.echo(msgspec.json.encode(msgspec.structs.asdict(found) | {"canary": end}))
        else:
            Console(highlight=False).print(Group(final_table(found, run.data), course(end)))

    conduct(canary_definition(bad=bad, models=models), asked, show)


@demo.command()
@click.option("--infra", type=click.Choice(["embedded", "local"]), default="embedded", show_default=True)
@click.option("--data", help="MovieLens folder or zip; the best there is, by default.")
@click.option("--speed", default="120s", show_default=True, help="120s for the whole replay, or 50/s slates.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the change.")
@click.option(
    "--amplitude", type=click.FloatRange(0, 5), default=1.0, show_default=True, help="Of the change, in stars."
)
@click.option("--train-share", type=click.FloatRange(0.1, 0.8), default=0.4, show_default=True)
@click.option("--change", type=click.FloatRange(0.1, 0.95), default=0.6, show_default=True, help="Share of the log.")
@click.option("--bad", is_flag=True, help="From the change on 4 of 10 users click what they do not like.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def loop(
    infra: str, data: str | None, speed: str, seed: int, amplitude: float, train_share: float, change: float, bad: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Let tastes change in the middle of a replay, and watch the loop notice, retrain, release and recover.

    A model of the first part of the log is in force. The drift monitor sees that what it learned no longer holds, the
    lifecycle trains it again from the log of what was shown, tests it and promotes it. In the end it is told what the
    stale model would have earned on the same slates, and what one that had known everything.
    """
    if not change > train_share:
        raise ConfigError(
            f"--change {change:g}: lies before what the model is trained on (--train-share {train_share:g})"
        )
    from sluice.console.demo.loop_result import loop_table
    from sluice.console.demo.loop_run import LoopPlan, LoopRun
    from sluice.console.demo.loop_view import LoopView

    console = Console(highlight=False)
    source = ["--data", data] if data is not None else []
    plan = LoopPlan(source, train_share, change, amplitude, BAD_SHARE if bad else 0.0, seed, speed)
    outer = Settings.load()
    with _folder() as folder, _ended_by_signal(), _told():
        env = _environment(infra, folder, outer) | {"SLUICE_MLFLOW": f"sqlite:///{folder / 'mlflow.db'}"}
        with Children(env, folder) as children, LoopView(None if as_json else console) as view:
            found = LoopRun(infra, plan, children, outer.state, view).loop()
    if as_json:
        click.echo(msgspec.json.encode(found))
    else:
        console.print(Group("", loop_table(found)))


def conduct(definition: str, asked: Asked, show: Callable[[DemoRun, Outcome], None]) -> None:
    """One demo of the experiment that `definition` describes in YAML, from the first server to the last check.

    `show` prints what came of it; then the dashboard is served on, if one was asked for. Raises Exit with code 1 when
    the recount differs.
    """
    (experiment,) = load_experiments(definition, "demo.yaml")
    view = _view(Console(highlight=False), asked.infra, experiment, asked.as_json)
    source = ["--data", asked.data] if asked.data is not None else []
    replay = ["replay", "--json", "--speed", asked.speed, "--seed", str(asked.seed), *source]
    replay += ["--limit", str(asked.limit)] if asked.limit is not None else []
    synthetic = (asked.data or os.environ.get("SLUICE_DATA", "")).partition(":")[0] == "synthetic"
    trained = any(variant.ranker.startswith("models:") for variant in experiment.variants)
    register = ["register", "--json", *source] if trained and not synthetic else []
    outer = Settings.load()
    with (
        _folder() as folder,
        _ended_by_signal(),
        _told(),
        Children(_environment(asked.infra, folder, outer), folder) as children,
    ):
        with view:
            run = DemoRun(
                asked.infra, definition, replay, register, _seconds(asked.speed), children, outer.state, view,
                browser=asked.browser,
            )  # fmt: skip
            found = run.run()
        for line in run.notices:
            click.echo(line, err=True)
        show(run, found)
        if run.dashboard:
            _serve_on(children, run.dashboard)
    if found.verify != "exact":
        raise click.exceptions.Exit(1)


@contextmanager
def _told() -> Iterator[None]:
    """What a child that failed logged last."""
    try:
        yield
    except ChildFailed as failure:
        for line in failure.tail:
            click.echo(f"  {line}", err=True)
        if failure.wrong_use:  # all is said: the logs hold no more
            raise ConfigError(str(failure)) from failure
        raise


def _serve_on(children: Children, url: str) -> None:
    """Until Ctrl-C. Raises ChildFailed when a service ends meanwhile."""
    click.echo(f"the dashboard stays at {url} until Ctrl-C", err=True)
    try:
        while True:
            children.check()
            time.sleep(0.2)
    except KeyboardInterrupt:
        return


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
