"""`sluice report`: an experiment as one HTML file that can be mailed. Library: click, rich (the progress bar)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sluice.errors import ConfigError, TransportError
from sluice.pages.files import check_place, write_whole
from sluice.settings import Settings

if TYPE_CHECKING:
    from dashboard.report import Report
    from dashboard.report_reading import Evidence
    from sluice.adapters.mlflow_runs import ServedModel

__all__ = ["report"]


@click.command()
@click.argument("experiment")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="HTML.  [default: EXPERIMENT.html]")
@click.option("--charts", type=click.Path(path_type=Path), metavar="FOLDER", help="Also write every chart as PNG.")
@click.option("--at", type=click.IntRange(min=1), metavar="VERSION", help="As of an earlier decision.")
@click.option(
    "--mlflow/--no-mlflow", "mlflow", default=None,
    help="Log the results as a run, beside the models that were served. By default where MLflow is: a server is named, "
    "or models were trained here.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print a summary as one JSON object.")
def report(
    experiment: str, out: Path | None, charts: Path | None, at: int | None, mlflow: bool | None, as_json: bool
) -> None:
    """Write what EXPERIMENT found as one HTML file: verdict, design, figures, charts, checks, history, caveats.

    Reads the topics `decisions` and `experiments` and the counters in Redis, and changes nothing there. The same
    decision and counters give the same bytes.
    """
    from dashboard.report import make_report
    from dashboard.report_reading import read_evidence

    settings = Settings.load()
    place = out if out is not None else Path(f"{_file_name(experiment)}.html")
    _check_place(place, charts)
    with _progress(quiet=as_json) as watch:
        evidence = read_evidence(settings, experiment, at, watch=watch)
    models, problem = _models(settings, evidence, mlflow)
    made = make_report(evidence, _words(models))
    write_whole(place, made.page.encode())
    if charts is not None:
        _write_charts(charts, made)
    run_id = None
    if models is not None:
        run_id, problem = _log(settings, evidence, made, models, asked=mlflow is True)
    if problem:
        click.echo(f"sluice: not logged: {problem}", err=True)
    if as_json:
        import msgspec

        click.echo(msgspec.json.encode(_summary(evidence, made, place, charts, run_id)).decode())
        return
    click.echo(f"{made.headline} ({experiment}, decision {evidence.decision.version})")
    for check in made.checks:
        if check.state in ("alarm", "look"):
            click.echo(f"  {check.sign}: {check.title}: {check.text}")
    drawn = f"; {len(made.drawings)} charts in {charts}" if charts is not None else ""
    logged = f"; MLflow run {run_id}" if run_id else ""
    click.echo(f"report {place}{drawn}{logged}")


def _file_name(experiment: str) -> str:
    """Names of experiments are file names, unless somebody asks for one that cannot be."""
    return "".join(char if char.isalnum() or char in "-_." else "-" for char in experiment).strip(".") or "report"


def _check_place(out: Path, charts: Path | None) -> None:
    """Before the work, so that nobody waits for nothing. Raises ConfigError."""
    check_place("--out", out)
    if charts is not None:
        try:
            charts.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"--charts: {charts}: {error.strerror}") from error


def _write_charts(folder: Path, made: Report) -> None:
    for drawing in made.drawings:
        write_whole(folder / f"{drawing.name}.png", drawing.png())


def _models(settings: Settings, evidence: Evidence, asked: bool | None) -> tuple[dict[str, ServedModel] | None, str]:
    """The models that were served, and why nothing will be logged: None without MLflow."""
    from sluice.adapters.mlflow_runs import mlflow_there

    if asked is False or (asked is None and not mlflow_there(settings)):
        return None, ""
    from dashboard.report_models import served_models

    try:
        return served_models(settings, evidence.decision), ""
    except (TransportError, ConfigError) as error:
        if asked:
            raise
        return None, str(error)


def _words(models: dict[str, ServedModel] | None) -> dict[str, str]:
    if models is None:
        return {}
    from dashboard.report_models import in_words

    return in_words(models)


def _log(
    settings: Settings, evidence: Evidence, made: Report, models: dict[str, ServedModel], *, asked: bool
) -> tuple[str | None, str]:
    """The run, or why there is none: the page is written by now, and whoever did not ask for a run gets along."""
    from dashboard.report_models import log_report

    try:
        return log_report(settings, evidence, made, models), ""
    except (TransportError, ConfigError) as error:
        if asked:
            raise
        return None, str(error)


def _summary(evidence: Evidence, made: Report, out: Path, charts: Path | None, run_id: str | None) -> dict[str, Any]:
    decision = evidence.decision
    return {
        "experiment": decision.experiment,
        "decision": decision.version,
        "latest_decision": evidence.later,
        "at_ms": decision.at_ms,
        "config_hash": decision.config_hash,
        "verdict": decision.verdict,
        "headline": made.headline,
        "variant": made.leader or None,
        "allocation": decision.allocation,
        "results": decision.results,
        "checks": [{"state": one.state, "title": one.title, "text": one.text} for one in made.checks],
        "caveats": list(made.caveats),
        "decisions": evidence.course.count,
        "report": str(out),
        "charts": [f"{drawing.name}.png" for drawing in made.drawings] if charts is not None else [],
        "mlflow_run": run_id,
    }


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Callable[[float], None]]:
    """A bar while a person is watching."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    console = Console(stderr=True)
    columns = TextColumn("reading decisions"), BarColumn()
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task("report", total=1.0)
        yield lambda share: bar.update(task, completed=share)
