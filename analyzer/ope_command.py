"""`sluice ope`. Libraries: click, rich."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import pyarrow as pa
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from analyzer.engine.ope import Estimate
from analyzer.engine.sequential import PLANNED_EFFECT
from analyzer.exposures import join_topics
from analyzer.log_files import read_log, write_log
from analyzer.ope import METHODS, Report, evaluate, fields_of
from sluice.adapters import catalogue
from sluice.adapters.kafka import wait_for_broker
from sluice.console.text import print_whole
from sluice.errors import ConfigError
from sluice.settings import Settings

__all__ = ["ope"]


@click.command()
@click.option("--log", "file", type=click.Path(path_type=Path), metavar="FILE",
              help="Parquet, Feather (Arrow) or CSV, a row an impression.")  # fmt: skip
@click.option("--experiment", "name", metavar="NAME", help="Read its impressions and clicks from Kafka instead.")
@click.option("--target", default="uniform", show_default=True,
              help="uniform, a VARIANT, percents like a=20,b=80, or column:NAME (a variant by row, or the "
              "probability that the target shows what was shown).")  # fmt: skip
@click.option("--columns", "mapping", help="Where columns have other names: unit=…,variant=…,propensity=…,reward=…")
@click.option("--context", multiple=True, metavar="COLUMN",
              help="The outcome model of dm and dr is the mean by variant within its values. Repeatable.")  # fmt: skip
@click.option("--predictions", metavar="PREFIX",
              help="Take the outcome model from columns PREFIX + VARIANT; fitted on other rows.")  # fmt: skip
@click.option("--clip", type=float, metavar="WEIGHT", help="Largest weight: less variance, some bias, which is told.")
@click.option("--alpha", type=float, default=0.05, show_default=True, help="Intervals hold with 1 − alpha.")
@click.option("--effect", type=float,
              help="Difference in reward for which the always-valid interval is tightest.  [default: as the "
              f"experiment plans, else {PLANNED_EFFECT}]")  # fmt: skip
@click.option("--outcome", help="With --experiment: the reward.  [default: the experiment's primary, else click]")
@click.option("--save", type=click.Path(path_type=Path), metavar="FILE",
              help="With --experiment: also write the log, as Parquet for --log.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def ope(
    file: Path | None, name: str | None, target: str, mapping: str | None, context: tuple[str, ...],
    predictions: str | None, clip: float | None, alpha: float, effect: float | None, outcome: str | None,
    save: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """What would another policy have earned? From a log of what was shown, with propensities.

    Reward per impression by inverse propensities (ips), the same self-normalised (snips), an outcome model (dm),
    both together (dr) and replay. Without options on columns these names are found: unit (unit_id, user_id,
    user), variant (action, arm), propensity (pscore), reward (click, clicked), allocation.

    `interval` is for one look, `sequence` for any number of looks while the log grows. Both are clustered on
    the unit of randomisation.
    """
    logging.basicConfig(level=logging.WARNING, format="sluice ope: %(message)s")
    if (file is None) == (name is None):
        raise ConfigError("name one source: --log FILE or --experiment NAME")
    columns = _mapping(mapping) if mapping else None
    if file is not None:
        if save or outcome:
            raise ConfigError(f"{'--save' if save else '--outcome'} goes with --experiment")
        table = read_log(
            file, lambda names: fields_of(names, target, columns=columns, context=context, predictions=predictions)
        )
    else:
        assert name is not None
        table, effect = _joined(name, outcome, effect, quiet=as_json)
        if save:
            write_log(save, table)
    report = evaluate(
        table, target, columns=columns, context=context, predictions=predictions, clip=clip, alpha=alpha,
        effect=PLANNED_EFFECT if effect is None else effect,
    )  # fmt: skip
    if as_json:
        click.echo(report.encode())
    else:
        _print(report)


def _mapping(text: str) -> dict[str, str]:
    columns: dict[str, str] = {}
    for part in text.split(","):
        meaning, _, column = (piece.strip() for piece in part.partition("="))
        if not column:
            raise ConfigError(f"--columns: {part!r}: expected MEANING=COLUMN")
        columns[meaning] = column
    return columns


def _joined(name: str, outcome: str | None, effect: float | None, *, quiet: bool) -> tuple[pa.Table, float | None]:
    """The experiment's log as it stands, and the effect to plan for."""
    settings = Settings.load()
    wait_for_broker(settings)
    experiments = catalogue.load(settings)
    found = experiments.get(name)
    primary, measure = (found.primary, found.measure) if found else ("click", "rate")
    outcome = outcome or primary
    with _progress(quiet=quiet) as progress:
        joined = join_topics(
            settings, name, outcome=outcome, value=outcome == primary and measure == "value", progress=progress
        )
    if joined.malformed:
        click.echo(f"sluice ope: {joined.malformed:,} records are no events: left out", err=True)
    if joined.open:
        click.echo(f"sluice ope: {joined.open:,} impressions left out: their window is still open", err=True)
    if not joined.table.num_rows:
        why = "all windows are still open" if joined.open else f"applied are {', '.join(experiments) or 'none'}"
        raise ConfigError(f"experiment {name!r}: no impressions to evaluate in the log; {why}")
    return joined.table, found.planned_effect if found and effect is None else effect


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    console = Console(stderr=True)
    columns = (TextColumn("reading"), BarColumn(), MofNCompleteColumn(), TextColumn("records"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task("reading", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _print(report: Report) -> None:
    console = Console(highlight=False)
    console.print(
        f"[bold]{report.target}[/bold] from {report.rows:,} rows of {report.units:,} units, in reward per row",
        highlight=False,
    )
    level = f"{100 * (1 - report.alpha):g} %"
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("method", no_wrap=True)
    clipped = report.overlap.clipped > 0
    for title in ("estimate", "stderr", f"{level}, one look", "always valid", "effective units"):
        table.add_column(title, justify="right", no_wrap=True)
    if clipped:
        table.add_column("clip bias", justify="right", no_wrap=True)
    for method in (*METHODS, "logged"):
        found: Estimate | None = getattr(report, method)
        if found is None:
            table.add_row(method, "–")
            continue
        row = [_number(found.estimate), _number(found.stderr), _range(found.interval), _range(found.sequence)]
        row += [f"{found.effective_size:,.1f}", *([f"{found.clip_bias:+.2g}"] if clipped else [])]
        table.add_row(method, *row, style="dim" if method == "logged" else "")
    print_whole(table, console)
    shown = " · ".join(
        f"{name} {rows.rows:,} × {_number(rows.mean_reward)} (mean propensity {rows.mean_propensity:.3g})"
        for name, rows in report.variants.items()
    )
    console.print(f"logged: {shown}", style="dim", markup=False)
    overlap = report.overlap
    console.print(
        f"mean weight {overlap.mean_weight:.4f} ± {_number(overlap.mean_weight_stderr)} (should be 1) · largest "
        f"{overlap.max_weight:.4g} · replay keeps {overlap.replayed:,} rows",
        style="dim",
    )
    for note in report.notes:
        console.print(f"! {note}", style="yellow", markup=False)


def _number(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "–"


def _range(ends: tuple[float, float]) -> str:
    return f"{_number(ends[0])} to {_number(ends[1])}"
