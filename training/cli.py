"""`sluice train`. Libraries: click, rich."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.table import Table

from producers.columns import parse_columns
from producers.sources import SYNTHETIC, find_data
from sluice.errors import ConfigError
from sluice.settings import Settings

__all__ = ["train"]

FOLDER = "training"
"""Of the prepared data, in the state folder."""


@click.command()
@click.option("--data", help="MovieLens folder or zip, CSV or Parquet.  [default: SLUICE_DATA, data/, a download]")
@click.option("--columns", help="Columns of a CSV or Parquet: user=…,item=…,rating=…,time=…[,genres=…].")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), metavar="FOLDER",
              help=f"For prepared data, by fingerprint.  [default: {FOLDER} in the state folder]")  # fmt: skip
@click.option("--train-share", type=float, default=0.6, show_default=True, help="Of the slates, by time of request.")
@click.option("--slate-size", type=click.IntRange(2), default=10, show_default=True)
@click.option("--click-from", type=float, default=4.0, show_default=True, help="Ratings from here on are clicks.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object: figures by model, and the seconds it took.")
def train(
    data: str | None, columns: str | None, out: Path | None, train_share: float, slate_size: int, click_from: float,
    seed: int, as_json: bool,
) -> None:  # fmt: skip
    """Train the models that serve as variants and measure them on the part of the log that came later.

    \b
    sluice train --data ml-100k
    sluice train --data ratings.csv --columns user=uid,item=movie,rating=stars,time=ts --json

    PolicyA is a logistic regression, PolicyB LightGBM; item_based and content are recommenders of the classical
    kind. Models see the first 60 % of the slates only; all figures are of the rest, where the models stay as they are
    while the features go on learning, as in the stream. Intervals hold with 95 % and take users as the units.
    """
    # Imported late: scikit-learn takes a second, which --help should not.
    from training.prepare import PrepareOptions, prepare
    from training.session import run_training
    from training.tracking import Tracking

    source = find_data(data, notice=_notice)
    if source.partition(":")[0] == SYNTHETIC:
        raise ConfigError("--data: synthetic logs have planted click rates and no ratings to learn from")
    options = PrepareOptions(slate_size, click_from, train_share, seed)
    settings = Settings.load()
    try:
        with _progress(quiet=as_json) as progress:
            progress("MLflow")
            tracking = Tracking(settings)
            progress("data")
            columns_of = parse_columns(columns) if columns else None
            dataset, place = prepare(source, out or settings.state / FOLDER, options, columns_of)
            session = run_training(tracking, dataset, place, seed=seed, notice=_notice, progress=progress)
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error.name} is not installed: pip install 'sluice-experiments[training]'") from error
    report = {
        **session.report, "data": dataset.name, "fingerprint": dataset.fingerprint, "folder": str(place),
        "run_id": session.run.run_id, "models": {name: one._asdict() for name, one in session.run.models.items()},
    }  # fmt: skip
    if as_json:
        click.echo(msgspec.json.encode(report).decode())
    else:
        _print(report, Console(highlight=False))


def _notice(line: str) -> None:
    click.echo(line, err=True)


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Callable[[str], None]]:
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield lambda name: None
        return
    with console.status("train") as status:
        yield lambda name: status.update(f"train: {name}")


_COLUMNS = {"auc": "AUC", "ctr_at_1": "click rate at 1", "ndcg_at_3": "NDCG@3", "log_loss": "log loss"}


def _print(report: Mapping[str, Any], console: Console) -> None:
    console.print(
        f"{report['data']}: {report['train_slates']:,} slates to train, {report['test_slates']:,} later ones to test"
    )
    table = Table("", *_COLUMNS.values())
    for name, one in report.items():
        if isinstance(one, dict):
            table.add_row(name, *(_cell(one, key, interval=key in ("auc", "ctr_at_1")) for key in _COLUMNS))
    console.print(table)
    if difference := report.get("PolicyB - PolicyA"):
        console.print(f"AUC of PolicyB and PolicyA differ with p = {difference['auc_p_value']:.3f} (DeLong, by user)")
    console.print(f"PolicyA, PolicyB and their features: {report['seconds']:.1f} s; data {report['fingerprint']}")


def _cell(one: Mapping[str, Any], key: str, *, interval: bool) -> str:
    """With half the width of its interval."""
    value = one.get(key)
    if value is None:
        return "–"
    if not interval:
        return f"{value:.4f}"
    low, high = one["intervals"][key]
    return f"{value:.4f} ±{(high - low) / 2:.3f}"
