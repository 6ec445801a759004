"""What `sluice train`, `evaluate` and `register` share: the options that say which data, and how work is shown.

Libraries: click, rich.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from producers.columns import parse_columns
from producers.sources import SYNTHETIC, find_data
from sluice.errors import ConfigError
from sluice.settings import Settings

if TYPE_CHECKING:
    from training.dataset import Dataset

__all__ = ["DataOptions", "Steps", "data_options", "needs_training", "notice", "progress_of"]

FOLDER = "training"
"""Of the prepared data, in the state folder."""
_OPTIONS = (
    click.option("--data", help="MovieLens folder or zip, CSV or Parquet.  [default: SLUICE_DATA, data/, a download]"),
    click.option("--columns", help="Columns of a CSV or Parquet: user=…,item=…,rating=…,time=…[,genres=…]."),
    click.option("--out", type=click.Path(path_type=Path, file_okay=False), metavar="FOLDER",
                 help=f"For prepared data, by fingerprint.  [default: {FOLDER} in the state folder]"),
    click.option("--train-share", type=float, default=0.6, show_default=True,
                 help="Of the slates, by time of request."),
    click.option("--slate-size", type=click.IntRange(2), default=10, show_default=True),
    click.option("--click-from", type=float, default=4.0, show_default=True, help="Ratings from here on are clicks."),
    click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True),
)  # fmt: skip


@dataclass(frozen=True)
class DataOptions:
    """Which data, and how they are cut."""

    data: str | None
    columns: str | None
    out: Path | None
    train_share: float
    slate_size: int
    click_from: float
    seed: int

    def source(self) -> str:
        """Where the ratings are. Raises ConfigError when there are none to learn from."""
        source = find_data(self.data, notice=notice)
        if source.partition(":")[0] == SYNTHETIC:
            raise ConfigError("--data: synthetic logs have planted click rates and no ratings to learn from")
        return source

    def prepare(self, source: str, settings: Settings) -> tuple[Dataset, Path]:
        """The dataset of the ratings at `source`, and its folder. Raises ConfigError when they are unfit."""
        # Imported late: pandas and pyarrow take a second, which --help should not.
        from training.prepare import PrepareOptions, prepare

        options = PrepareOptions(self.slate_size, self.click_from, self.train_share, self.seed)
        columns = parse_columns(self.columns) if self.columns else None
        return prepare(source, self.out or settings.state / FOLDER, options, columns)


def data_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options; the command gets them as one `DataOptions`, its first argument."""

    @functools.wraps(command)
    def wrapped(
        *, data: str | None, columns: str | None, out: Path | None, train_share: float, slate_size: int,
        click_from: float, seed: int, **rest: Any,
    ) -> Any:  # fmt: skip
        return command(DataOptions(data, columns, out, train_share, slate_size, click_from, seed), **rest)

    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped


@contextmanager
def needs_training() -> Iterator[None]:
    """Libraries that are not there, said as one line with the way out."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error.name} is not installed: pip install 'sluice-experiments[training]'") from error


def notice(line: str) -> None:
    """A line for people, beside what is printed."""
    click.echo(line, err=True)


class Steps(Protocol):
    """What hears the name of each step."""

    def __call__(self, name: str, share: float | None = None) -> None:
        """share: of the step that is done, where that is known."""


@contextmanager
def progress_of(command: str, *, quiet: bool) -> Iterator[Steps]:
    """Steps that are shown, with a bar, while a person is watching."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield lambda name, share=None: None
        return
    columns = SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(command, total=None)

        def show(name: str, share: float | None = None) -> None:
            total = None if share is None else 1.0
            progress.update(task, description=f"{command}: {name}", completed=share or 0.0, total=total)

        yield show
