"""`sluice replay`. Library: click, rich."""

from __future__ import annotations

import json
import logging
import math
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import click

from producers.columns import parse_columns, to_ms
from producers.pacing import parse_speed
from producers.replay import OUTCOMES
from producers.service import ReplayOptions
from producers.service import replay as run_replay
from producers.service import truth as run_truth
from producers.worlds import parse_drift, parse_poison
from sluice.adapters import logs
from sluice.adapters.exporter import exporting
from sluice.adapters.metrics import Metrics
from sluice.console.options import metrics_port_option
from sluice.domain.experiment import Experiment, load_experiments
from sluice.errors import ConfigError
from sluice.settings import Settings

__all__ = ["bundled_experiments", "replay"]

log = logging.getLogger("producers")

SHARE = click.FloatRange(0, 1)


def bundled_experiments() -> tuple[Experiment, ...]:
    """The demo experiment that ships with Sluice."""
    file = resources.files("sluice") / "experiments" / "demo.yaml"
    return load_experiments(file.read_text(), "demo.yaml")


@click.command()
@click.option("--data", help="MovieLens folder or zip, CSV or Parquet, or synthetic[:slates=N,users=N,VARIANT=RATE,…].")
@click.option("--columns", help="Columns of a CSV or Parquet: user=…,item=…,rating=…,time=…[,genres=…].")
@click.option("--experiment", "files", multiple=True, type=click.Path(path_type=Path), help="YAML; the first ranks.")
@click.option(
    "--speed", default="max", show_default=True, help="max, 60x (event time), 500/s (slates a second) or 20s (for all)."
)
@click.option("--start", help="First event time: ISO 8601, or seconds or ms since 1970.")
@click.option("--from-share", type=SHARE, default=0.0, help="Leave out this share of the slates, the first by time.")
@click.option("--stop", "end", help="Event time to stop before.")
@click.option("--limit", type=click.IntRange(1), help="At most this many slates.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--slate-size", type=click.IntRange(2), default=10, show_default=True)
@click.option("--top-k", type=click.IntRange(1), default=3, show_default=True)
@click.option(
    "--delay", default="exponential:30s", show_default=True, help="Of outcomes: none, fixed:1s, lognormal:30s,1, …"
)
@click.option("--outcomes", default=",".join(OUTCOMES), show_default=True, help="Outcomes to record.")
@click.option("--disorder", type=SHARE, default=0.0, help="Share of records sent out of order, within the lateness.")
@click.option("--duplicates", type=SHARE, default=0.0, help="Share of records sent twice.")
@click.option("--late", type=SHARE, default=0.0, help="Share of records sent beyond the lateness.")
@click.option("--max-lag", type=click.IntRange(0), help="Wait while the counting is more records than this behind.")
@click.option("--final-heartbeat/--no-final-heartbeat", default=True, help="At the end, so that everything settles.")
@click.option("--name", default="", help="Keeps the checkpoint apart from other replays with the same options.")
@click.option("--restart", is_flag=True, help="Ignore the checkpoint of an earlier run with the same options.")
@click.option("--click-from", type=float, default=4.0, show_default=True, help="Ratings from here on are clicks.")
@click.option("--drift", help="Plant a change of tastes: genres[:amplitude=1,at=0.5,seed=0].")
@click.option("--poison", help="Plant users who click what they do not like: share=0.4,at=0.5,seed=0.")
@click.option(
    "--truth",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Send nothing; write what every variant would have earned on every slate to this Parquet file.",
)
@metrics_port_option
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object.")
def replay(
    data: str | None, columns: str | None, files: tuple[Path, ...], speed: str, start: str | None, from_share: float,
    end: str | None, limit: int | None, seed: int, slate_size: int, top_k: int, click_from: float, delay: str,
    outcomes: str, disorder: float, duplicates: float, late: float, max_lag: int | None, final_heartbeat: bool,
    name: str, restart: bool, drift: str | None, poison: str | None, truth: Path | None, metrics_port: int | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Replay a ratings log as impressions and clicks.

    A user's consecutive ratings form slates; the router picks a variant for each, the variant ranks it, the top
    items become impressions, and the logged ratings say what followed. A run that was killed goes on where it was.
    """
    settings, metrics = Settings.load(), Metrics("replay")
    logs.configure("replay", settings, level="warning", text="sluice replay: %(message)s")
    for telling in ("producers", "router.models", "sluice.adapters.exporter"):  # what was asked for, a model replaced
        logging.getLogger(telling).setLevel(logging.INFO)
    if not math.isfinite(click_from):
        raise ConfigError(f"--click-from: a rating, got {click_from:g}")
    options = ReplayOptions(
        data=data, columns=parse_columns(columns) if columns else None, speed=parse_speed(speed),
        start_ms=_moment("--start", start), from_share=from_share, stop_ms=_moment("--stop", end), limit=limit,
        seed=seed, slate_size=slate_size, top_k=top_k, click_from=click_from, delay=delay,
        outcomes=_outcomes(outcomes), disorder=disorder, duplicates=duplicates, late=late, max_lag=max_lag,
        final_heartbeat=final_heartbeat, name=name, restart=restart,
        drift=parse_drift(drift) if drift is not None else None,
        poison=parse_poison(poison) if poison is not None else None,
    )  # fmt: skip
    experiments = _experiments(files)
    if truth is not None:
        with _progress_bar(quiet=as_json) as progress:
            written = run_truth(
                settings, experiments[0], options, truth, notice=_notice, progress=progress
            )  # fmt: skip
        click.echo(json.dumps(written) if as_json else f"{written['slates']:,} slates → {truth}")
        return
    with (
        _told_by_signals() as (stop, held),
        _progress_bar(quiet=as_json) as progress,
        exporting(metrics, settings, metrics_port),
    ):
        summary = run_replay(
            settings, experiments, options, stop=stop, held=held, notice=_notice, progress=progress, metrics=metrics
        )  # fmt: skip
    if as_json:
        click.echo(json.dumps(summary))
    else:
        _print(summary)


def _notice(line: str) -> None:
    if logs.is_json():
        log.info("%s", line)
    else:
        click.echo(line, err=True)


def _moment(option: str, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return to_ms(text)
    except ValueError as error:
        raise ConfigError(f"{option}: {text!r}: allowed are ISO 8601, or seconds or ms since 1970") from error


def _outcomes(text: str) -> tuple[str, ...]:
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    for name in names:
        if name not in OUTCOMES:
            raise ConfigError(f"--outcomes: {name!r}: allowed are {', '.join(OUTCOMES)}")
    if not names:
        raise ConfigError(f"--outcomes: {text!r}: name at least one of {', '.join(OUTCOMES)}")
    return names


def _experiments(files: tuple[Path, ...]) -> tuple[Experiment, ...]:
    if not files:
        return bundled_experiments()
    experiments: list[Experiment] = []
    for file in files:
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ConfigError(f"--experiment: {file}: not UTF-8 text: {error.reason} at byte {error.start}") from error
        except OSError as error:
            raise ConfigError(f"--experiment: {file}: {(error.strerror or str(error)).lower()}") from error
        experiments += load_experiments(text, str(file))
    names = [experiment.name for experiment in experiments]
    if len(set(names)) != len(names):
        raise ConfigError(f"--experiment: names are unique, got {', '.join(names)}")
    return tuple(experiments)


@contextmanager
def _told_by_signals() -> Iterator[tuple[threading.Event, threading.Event]]:
    """`stop`, set by the first SIGTERM or Ctrl-C; a second one is not waited for. `held`, set by SIGUSR1 and cleared by
    SIGUSR2."""
    stop, held = threading.Event(), threading.Event()
    before: dict[signal.Signals, Any] = {}

    def handle(number: int, _: object) -> None:
        stop.set()
        for kind, handler in before.items():
            signal.signal(kind, handler)

    if threading.current_thread() is threading.main_thread():
        before = {kind: signal.signal(kind, handle) for kind in (signal.SIGTERM, signal.SIGINT)}
        signal.signal(signal.SIGUSR1, lambda *_: held.set())
        signal.signal(signal.SIGUSR2, lambda *_: held.clear())
    try:
        yield stop, held
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
        for kind in (signal.SIGUSR1, signal.SIGUSR2) if before else ():
            signal.signal(kind, signal.SIG_IGN)  # by default they would end a replay that is all but done


@contextmanager
def _progress_bar(*, quiet: bool) -> Iterator[Callable[[int, int, int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("replay"), BarColumn(), MofNCompleteColumn(), TextColumn("slates"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task("replay", total=None)

        def show(first: int, next_: int, stop: int) -> None:
            bar.update(task, completed=next_ - first, total=stop - first)

        yield show


def _print(summary: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    state = "" if summary["finished"] else "  (stopped early: the same command goes on)"
    console.print(
        f"{summary['data']}: {summary['ratings']:,} ratings, {summary['slates']:,} slates "
        f"({summary['dropped_slates']:,} short ones left out){state}"
    )
    table = Table("variant", "impressions", "clicks", "click rate", "true click rate")
    for name, row in summary["variants"].items():
        rates = ["–" if rate is None else f"{rate:.4f}" for rate in (row["ctr"], row["true_ctr"])]
        table.add_row(name, f"{row['impressions']:,}", f"{row['clicks']:,}", *rates)
    console.print(table)
    console.print(
        f"regret {summary['regret']:,} clicks (a fixed equal split: {summary['regret_fixed_split']:,.0f}); "
        f"{sum(summary['records'].values()):,} records in {summary['seconds']:.1f} s "
        f"({summary['events_per_second']:,}/s)"
    )
