"""`sluice evaluate`. Libraries: click, rich."""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from sluice.errors import ConfigError
from sluice.settings import Settings
from training.options import DataOptions, data_options, needs_training, notice

if TYPE_CHECKING:
    from training.evaluate import Figures
    from training.evaluation import Evaluation

__all__ = ["evaluate"]

STEPS = 21
"""Of an evaluation with four models and all folds."""


@click.command()
@data_options
@click.option("--report", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE.html",
              help="Where the report goes, one file that needs nothing else. MLflow keeps it in any case.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON object: all figures, differences, segments, folds.")
def evaluate(given: DataOptions, report: Path | None, as_json: bool) -> None:
    """Compare the models offline: which is better, how sure that is, for whom, and on other splits of the log.

    \b
    sluice evaluate --data ml-100k --report report.html
    sluice evaluate --data ml-100k --json

    Trains what `sluice train` trains, in the same way, and measures it on the later part of the log: figures and paired
    differences with 95 % intervals over users, curves, segments, known groups of users, and five folds each by time
    and by user, trained anew. Figures, CSV files and the report go to MLflow as a run `evaluate …`.
    """
    # Imported late: scikit-learn takes a second, which --help should not.
    from training.tracking import Subject, Tracking, environment, log_report

    begin = time.perf_counter()
    source = given.source()
    if report is not None:
        _check_place(report)
    settings = Settings.load()
    with needs_training(), _progress(quiet=as_json) as progress:
        from training.evaluation import run_evaluation
        from training.report import make_report

        progress("MLflow")
        Tracking(settings)  # a server that is away is told before the work
        progress("data")
        dataset, _ = given.prepare(source, settings)
        found = run_evaluation(dataset, seed=given.seed, notice=notice, progress=progress)
        progress("report")
        made = make_report(found, environment())
        if report is not None:
            _write(report, made.page)
        with tempfile.TemporaryDirectory() as folder:
            made.write(Path(folder))
            subject = Subject(dataset.name, dataset.fingerprint, given.seed)
            run_id = log_report(settings, subject, _metrics(found), Path(folder), note=_note(found))
    summary = _summary(found, made.tables) | {
        "seconds": round(time.perf_counter() - begin, 3), "run_id": run_id, "report": str(report) if report else None,
    }  # fmt: skip
    if as_json:
        click.echo(msgspec.json.encode(summary).decode())
    else:
        _print(found, summary, Console(highlight=False))


def _check_place(report: Path) -> None:
    """Before the work, which takes a minute."""
    if not report.parent.is_dir():
        raise ConfigError(f"--report: the folder {report.parent} does not exist: create it first")
    if not os.access(report if report.exists() else report.parent, os.W_OK):
        raise ConfigError(f"--report: {report} cannot be written: no permission")


def _write(report: Path, page: str) -> None:
    try:
        report.write_text(page, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--report: {report} cannot be written: {error.strerror or error}") from error


def _metrics(found: Evaluation) -> dict[str, float]:
    """Of a run that compares: the leader's name is in its note, the figures bear the names of their models."""
    values = {
        f"{name}_{key}": one.values[key]
        for name, one in found.figures.items() for key in ("auc", "ctr_at_1", "ndcg_at_3", "log_loss")
        if key in one.values
    }  # fmt: skip
    for one in found.differences:
        for key in ("auc", "ctr_at_1"):
            name, (low, high) = f"{one.first}_minus_{one.second}_{key}", one.intervals[key]
            values |= {name: one.values[key], f"{name}_low": low, f"{name}_high": high}
    return {name: value for name, value in values.items() if not math.isnan(value)}


def _note(found: Evaluation) -> str:
    return f"**{found.verdict.headline}.** {' '.join(found.verdict.sentences)} See `report.html` among the artifacts."


def _summary(found: Evaluation, made: Mapping[str, Any]) -> dict[str, Any]:
    """What `--json` prints. made: the tables of the report."""
    figures = {
        name: {
            **_defined(one.values),
            "intervals": {key: list(map(_number, ends)) for key, ends in one.intervals.items()},
        }
        for name, one in found.figures.items()
    }
    return {
        "data": found.data.name, "fingerprint": found.data.fingerprint, "seed": found.seed,
        "train_slates": len(found.data.train), "test_slates": len(found.data.test),
        "verdict": found.verdict._asdict(),
        "models": figures,
        "differences": [
            {"first": one.first, "second": one.second, **_defined(one.values),
             "intervals": _ends(one.intervals),
             "auc_p_value": _number(one.auc_test.p_value)}
            for one in found.differences
        ],
        **{name: _records(made[name]) for name in ("calibration", "segments", "folds", "fairness")},
    }  # fmt: skip


def _records(table: Any) -> list[dict[str, Any]]:
    """Rows by column; intervals as {value, low, high}."""
    return [
        {
            column.key: cell._asdict() if hasattr(cell, "_asdict") else cell
            for column, cell in zip(table.columns, row, strict=True)
        }
        for row in table.rows
    ]


def _defined(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: _number(value) for name, value in values.items()}


def _ends(intervals: Mapping[str, tuple[float, float]]) -> dict[str, list[float | None]]:
    return {name: [_number(low), _number(high)] for name, (low, high) in intervals.items()}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Callable[[str], None]]:
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield lambda name: None
        return
    bar = Progress(
        TextColumn("evaluate: {task.description}"), BarColumn(), TimeElapsedColumn(), console=console, transient=True
    )
    with bar:
        task = bar.add_task("", total=STEPS)
        yield lambda name: bar.update(task, description=name, advance=1)


_COLUMNS = {"ctr_at_1": "click rate at 1", "auc": "AUC", "ndcg_at_3": "NDCG@3", "log_loss": "log loss"}


def _print(found: Evaluation, summary: Mapping[str, Any], console: Console) -> None:
    from training.report_words import fairness_words, segment_words

    table = Table("", *_COLUMNS.values())
    for name, one in found.figures.items():
        table.add_row(name, *(_cell(one, key, interval=key in ("ctr_at_1", "auc")) for key in _COLUMNS))
    console.print(
        f"{found.data.name}: {len(found.data.train):,} slates to train, {len(found.data.test):,} later ones to test"
    )
    console.print(table)
    console.print(f"[bold]{found.verdict.headline}[/bold]")
    for sentence in found.verdict.sentences:
        console.print(sentence)
    differing = [one for one in segment_words(found) if " differ for " in one]
    for sentence in [*differing, *fairness_words(found)[:1]]:
        console.print(sentence)
    place = f"report {summary['report']}; " if summary["report"] else ""
    console.print(f"{place}MLflow run {summary['run_id']}; {summary['seconds']:.0f} s")


def _cell(one: Figures, key: str, *, interval: bool) -> str:
    """With half the width of its interval."""
    value = one.values.get(key, math.nan)
    if math.isnan(value):
        return "–"
    low, high = one.intervals[key]
    return f"{value:.4f} ±{(high - low) / 2:.3f}" if interval else f"{value:.4f}"
