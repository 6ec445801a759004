"""`sluice train`. Libraries: click, rich."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.table import Table

from sluice.settings import Settings
from training.options import DataOptions, data_options, needs_training, notice, progress_of

__all__ = ["train"]


@click.command()
@data_options
@click.option(
    "--trials",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Of other parameters, for each policy, judged inside the train part.",
)
@click.option("--prepare-only", is_flag=True, help="Prepare the data and stop.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object: figures by model, and the seconds it took.")
def train(given: DataOptions, trials: int, prepare_only: bool, as_json: bool) -> None:
    """Train the models that serve as variants and measure them on the part of the log that came later.

    \b
    sluice train --data ml-100k
    sluice train --data ratings.csv --columns user=uid,item=movie,rating=stars,time=ts --json

    PolicyA is a logistic regression, PolicyB LightGBM; item_based and content are recommenders of the classical
    kind. Models see the first 60 % of the slates only; all figures are of the rest, where the models stay as they are
    while the features go on learning, as in the stream. Intervals hold with 95 % and take users as the units.

    Everything is logged to MLflow (SLUICE_MLFLOW, or a database in the state folder): look at it with `make mlflow`.
    """
    source = given.source()
    settings = Settings.load()
    if prepare_only:
        _prepare(given, source, settings, as_json)
        return
    with needs_training(), progress_of("train", quiet=as_json) as progress:
        # Imported late: scikit-learn takes a second, which --help should not.
        from training.session import run_training
        from training.tracking import Tracking

        progress("MLflow")
        tracking = Tracking(settings)
        progress("data")
        dataset, place = given.prepare(source, settings)
        session = run_training(
            tracking, dataset, place, seed=given.seed, trials=trials, notice=notice, progress=progress
        )
    report = {
        **session.report, "data": dataset.name, "fingerprint": dataset.fingerprint, "folder": str(place),
        "run_id": session.run.run_id, "models": {name: one._asdict() for name, one in session.run.models.items()},
    }  # fmt: skip
    if as_json:
        click.echo(msgspec.json.encode(report).decode())
    else:
        _print(report, Console(highlight=False))


def _prepare(given: DataOptions, source: str, settings: Settings, as_json: bool) -> None:
    with needs_training():
        dataset, place = given.prepare(source, settings)
    found = {
        "data": dataset.name, "fingerprint": dataset.fingerprint, "folder": str(place),
        "train_slates": len(dataset.train), "test_slates": len(dataset.test),
    }  # fmt: skip
    if as_json:
        click.echo(msgspec.json.encode(found).decode())
    else:
        click.echo(f"{_sizes(found)}\nprepared in {place}")


def _sizes(report: Mapping[str, Any]) -> str:
    train, test = report["train_slates"], report["test_slates"]
    return f"{report['data']}: {train:,} slates to train, {test:,} later ones to test"


_COLUMNS = {"auc": "AUC", "ctr_at_1": "click rate at 1", "ndcg_at_3": "NDCG@3", "log_loss": "log loss"}


def _print(report: Mapping[str, Any], console: Console) -> None:
    console.print(_sizes(report))
    table = Table("", *_COLUMNS.values())
    for name, one in report.items():
        if isinstance(one, dict) and "auc" in one:
            table.add_row(name, *(_cell(one, key, interval=key in ("auc", "ctr_at_1")) for key in _COLUMNS))
    console.print(table)
    if difference := report.get("PolicyB - PolicyA"):
        from training.verdict import p_value

        console.print(f"AUC of PolicyB against PolicyA: {p_value(difference['auc_p_value'])} (DeLong, by user)")
    console.print(f"PolicyA, PolicyB and their features: {report['seconds']:.1f} s; data {report['fingerprint']}")
    console.print(f"MLflow run {report['run_id']}: make mlflow")


def _cell(one: Mapping[str, Any], key: str, *, interval: bool) -> str:
    """With half the width of its interval."""
    value = one.get(key)
    if value is None:
        return "–"
    if not interval:
        return f"{value:.4f}"
    low, high = one["intervals"][key]
    return f"{value:.4f} ±{(high - low) / 2:.3f}"
