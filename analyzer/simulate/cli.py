"""`sluice simulate`. Libraries: click, msgspec, rich."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import msgspec

from analyzer.simulate import aa, bandit, coverage, delay, drift
from analyzer.simulate.blocks import Result, Simulate, processes
from analyzer.simulate.blocks import simulate as run
from analyzer.simulate.log import Log, find_log
from analyzer.simulate.report import Report, write_csv, write_png

__all__ = ["simulate"]


class _Finite(click.FloatRange):
    """A range that nan and infinity are outside of."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value}: must be a finite number", param, ctx)
        return number


@click.group()
def simulate() -> None:
    """Measure the engine on data whose truth is known: many seeded runs, without Kafka.

    Everything random follows from --seed; the number of processes changes nothing. Users come with the activity and
    in the order of --data (or SLUICE_DATA): MovieLens, a file of `sluice replay --truth`, or a lognormal fit.
    """


def _common(runs: int, looks: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The options that every simulation has."""
    options = [
        click.option("--runs", type=click.IntRange(1), default=runs, show_default=True, help="Of every setting."),
        click.option("--seed", type=click.IntRange(0), default=0, show_default=True),
        click.option(
            "--looks", type=click.IntRange(2, 1000), default=looks, show_default=True, help="Equally spaced, in a run."
        ),
        click.option("--data", help="MovieLens folder or zip, synthetic:…, or a file of `sluice replay --truth`."),
        click.option("--jobs", type=click.IntRange(1), help="Processes; as many as processors by default."),
        click.option("--csv", "csv_file", type=click.Path(path_type=Path, dir_okay=False), help="Curves over looks."),
        click.option("--png", "png_file", type=click.Path(path_type=Path, dir_okay=False), help="The same, drawn."),
        click.option("--json", "as_json", is_flag=True, help="Print the figures as one JSON object."),
    ]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


class _Run:
    """The common options of one call, and what they lead to."""

    def __init__(
        self, runs: int, seed: int, looks: int, data: str | None, jobs: int | None, csv_file: Path | None,
        png_file: Path | None, as_json: bool,
    ) -> None:  # fmt: skip
        self.runs, self.seed, self.looks = runs, seed, looks
        self._data, self._jobs = data, jobs or processes()
        self._csv, self._png, self._json = csv_file, png_file, as_json
        self._log: Log | None = None

    @property
    def log(self) -> Log:
        if self._log is None:
            self._log = find_log(self._data)
        return self._log

    def all(self, *parts: tuple[Simulate, Mapping[str, Any], int]) -> list[dict[str, Result]]:
        """(function, settings, runs) each → its results, with one progress bar over all of them."""
        with _progress_bar(sum(runs * len(settings) for _, settings, runs in parts), quiet=self._json) as done:
            return [
                run(function, settings, runs, self.seed, jobs=self._jobs, done=done)
                for function, settings, runs in parts
            ]

    def show(self, title: str, report: Report) -> None:
        """Print, and write the files that were asked for."""
        if self._csv is not None:
            write_csv(self._csv, report.curves)
        if self._png is not None:
            write_png(self._png, report.curves, title, report.measure)
        about: dict[str, Any] = {"runs": self.runs, "seed": self.seed, "looks": self.looks}
        if self._log is not None:
            about |= {"data": self._log.name, "users": self._log.users, "concentration": self._log.concentration}
        if self._json:
            click.echo(msgspec.json.encode(about | report.figures).decode())  # infinity is null
        else:
            _print(title, about, report)


@simulate.command("aa")
@_common(runs=200, looks=50)
@click.option("--alpha", type=_Finite(0, 0.5, min_open=True), default=0.05, show_default=True)
def aa_command(alpha: float, **options: Any) -> None:
    """How often the default rule calls a difference that is not there, looked at all the time.

    Beside it: a z test of the same runs, and the power at a planted difference of ten points.
    """
    it = _Run(**options)
    same = aa.settings(it.log, it.looks, alpha)
    different = {name: aa.planted(setting) for name, setting in same.items()}
    found, power = it.all((aa.calls, same, it.runs), (aa.calls, different, it.runs))
    it.show("A/A tests", aa.report(same, found, power))


@simulate.command("coverage")
@_common(runs=200, looks=50)
@click.option("--alpha", type=_Finite(0, 0.5, min_open=True), default=0.05, show_default=True)
def coverage_command(alpha: float, **options: Any) -> None:
    """How often intervals hold the truth at every look at once, while Thompson sampling moves the traffic.

    Last, the posterior's intervals at one look, with and without the design effect.
    """
    it = _Run(**options)
    settings = coverage.settings(it.log, it.looks, alpha)
    found, fixed = it.all((coverage.misses, settings, it.runs), (coverage.posterior, coverage.POSTERIOR_USERS, it.runs))
    it.show("Coverage under Thompson sampling", coverage.report(settings, found, fixed))


@simulate.command("bandit")
@_common(runs=200, looks=50)
@click.option("--floor", type=_Finite(0, 0.5), default=0.05, show_default=True, help="Least share.")
@click.option("--library", is_flag=True, help="Compare with MABWiser's Thompson sampling (50 ms a run).")
def bandit_command(floor: float, library: bool, **options: Any) -> None:
    """Clicks that each policy gives away against always the best variant, and an equal split beside it."""
    it = _Run(**options)
    settings = bandit.settings(it.log, it.looks, floor)
    beside = bandit.library_settings(it.looks) if library else {}
    found, own, theirs = it.all(
        (bandit.regret, settings, it.runs), (bandit.regret, beside, it.runs), (bandit.library_regret, beside, it.runs)
    )
    it.show("Regret", bandit.report(settings, found, own, theirs))


@simulate.command("drift")
@_common(runs=200, looks=50)
@click.option(
    "--half-life", type=_Finite(0, min_open=True), default=5.0, show_default=True, metavar="LOOKS",
    help="Of the evidence of the discounted bandit.",
)  # fmt: skip
@click.option(
    "--window", type=click.IntRange(1), default=10, show_default=True, metavar="LOOKS",
    help="Of the bandit that forgets what is older.",
)  # fmt: skip
def drift_command(half_life: float, window: int, **options: Any) -> None:
    """Whether traffic follows when the best of two variants becomes the worse halfway."""
    it = _Run(**options)
    settings = drift.settings(it.looks, half_life, window)
    (found,) = it.all((drift.follow, settings, it.runs))
    it.show("Drift", drift.report(settings, found))


@simulate.command("delay")
@_common(runs=200, looks=50)
def delay_command(**options: Any) -> None:
    """How far off rates are while clicks are still to come, with a window of a quarter of the test.

    Delay-aware estimates, and beside them what counting immature impressions as failures gives.
    """
    it = _Run(**options)
    settings = delay.settings(it.looks)
    (found,) = it.all((delay.errors, settings, it.runs))
    it.show("Delay", delay.report(settings, found))


@contextmanager
def _progress_bar(total: int, *, quiet: bool) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("simulate"), BarColumn(), MofNCompleteColumn(), TextColumn("runs"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task("simulate", total=total)
        yield lambda runs: bar.update(task, advance=runs)


def _print(title: str, about: Mapping[str, Any], report: Report) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    said = ", ".join(f"{value:,} {name}" for name, value in (("runs", about["runs"]), ("looks", about["looks"])))
    data = f"; activity of {about['data']}" if "data" in about else ""
    console.print(f"[bold]{title}[/bold]: {said}, seed {about['seed']}{data}", highlight=False)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for place, name in enumerate(report.header):
        table.add_column(name, justify="right" if place else "left", no_wrap=not place)
    for row in report.rows:
        table.add_row(*row)
    console.print(table)
    for note in report.notes:
        console.print(note, highlight=False, markup=False)
