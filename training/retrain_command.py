"""`sluice retrain`. Libraries: click, rich."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from sluice.errors import ConfigError
from training.options import needs_training, progress_of

if TYPE_CHECKING:
    from training.retrain import Result
    from training.retrain_log import Offsets

__all__ = ["parse_model", "retrain"]

_MODEL = re.compile(r"(?:models:/)?(?P<name>[^/@]{1,250})@(?P<alias>[A-Za-z0-9_.-]{1,250})\Z")


@click.command()
@click.argument("model")
@click.option("--experiment", default="", help="Only what this experiment showed.  [default: all]")
@click.option("--since", help="Only what was shown from then on: event time, ISO 8601 or milliseconds.")
@click.option(
    "--offsets",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Read these offsets: the output of an earlier --json.",
)
@click.option(
    "--holdout",
    type=click.FloatRange(0.05, 0.9),
    default=0.25,
    show_default=True,
    help="Share of the slates, the last by time, that judge.",
)
@click.option("--weights", is_flag=True, help="Weigh rows with 1 / the probability that they were shown, at most 20.")
@click.option(
    "--min-effective",
    type=click.FloatRange(0, 1),
    default=0.1,
    show_default=True,
    help="Share of their number that weighted rows must be worth.",
)
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True)
@click.option("--seconds", type=click.FloatRange(1), default=1800, show_default=True, help="Longest time it may take.")
@click.option(
    "--memory",
    type=click.IntRange(512),
    default=4096,
    show_default=True,
    metavar="MIB",
    help="Most memory it may take.",
)
@click.option("--dry-run", is_flag=True, help="Read the log and say what would be learned from; train nothing.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def retrain(
    model: str, experiment: str, since: str | None, offsets: Path | None, holdout: float, weights: bool,
    min_effective: float, seed: int, seconds: float, memory: int, dry_run: bool, as_json: bool,
) -> None:  # fmt: skip
    """Train MODEL again from the log of what was shown, and judge it beside the version in force.

    \b
    sluice retrain movielens_ctr_ab@PolicyB --dry-run
    sluice retrain movielens_ctr_ab@PolicyB --since 1997-12-01 --json

    MODEL is a registered model and the alias that serves: NAME@ALIAS. Needs an experiment with `rankings: true`. The
    new version is registered in MLflow with what the gate said; no alias moves. The same offsets give the same model.
    """
    name, alias = parse_model(model)
    with needs_training(), progress_of("retrain", quiet=as_json) as progress:
        from training.retrain import Job
        from training.retrain_process import retrain_apart

        job = Job(
            model=name, alias=alias, experiment=experiment, since_ms=_since(since), offsets=_offsets(offsets),
            holdout=holdout, weights=weights, min_effective=min_effective, seed=seed, dry_run=dry_run,
        )  # fmt: skip
        result = retrain_apart(job, seconds=seconds, memory_mb=memory, progress=progress)
    if as_json:
        click.echo(msgspec.json.encode(result).decode())
    else:
        _print(result)


def parse_model(text: str) -> tuple[str, str]:
    """(registered model, alias) of `NAME@ALIAS`. Raises ConfigError."""
    found = _MODEL.match(text)
    if not found:
        raise ConfigError(f"MODEL: {text!r}: allowed is NAME@ALIAS, as in movielens_ctr_ab@PolicyB")
    return found["name"], found["alias"]


def _since(text: str | None) -> int:
    if text is None:
        return 0
    if text.isdigit():
        return int(text)
    try:
        when = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(
            f"--since: {text!r}: allowed are ISO 8601 (1997-12-01) and milliseconds since 1970"
        ) from error
    return int((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() * 1000)


def _offsets(path: Path | None) -> Offsets | None:
    if path is None:
        return None

    class _Told(msgspec.Struct):
        offsets: dict[str, dict[int, tuple[int, int]]]

    try:
        return msgspec.json.decode(path.read_bytes(), type=_Told).offsets
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"--offsets: {path}: {error}") from error


def _print(result: Result) -> None:
    click.echo(
        f"{result.model}@{result.alias}: version {result.against} ({result.policy}) is in force\n"
        f"log: {result.slates:,} slates of {result.users:,} users, click rate {result.click_rate:.1%}; "
        f"{result.train_rows:,} rows to learn from, {result.test_rows:,} later ones to judge by\n"
        f"propensities: {result.random_share:.1%} of the slates to judge by were ordered by chance; weighted they are "
        f"worth {result.effective_test_rows:,.0f} rows\n"
        f"fingerprint {result.fingerprint}, rows {result.rows_hash}"
    )
    for text, number in sorted(result.dropped.items()):
        click.echo(f"left out: {number:,} impressions that {text}")
    for line in result.truncated:
        click.echo(f"the log is no longer whole: {line}")
    if result.passed is None:
        return
    for name, value in result.figures.items():
        click.echo(f"  {name:24} {value:.4f}")
    click.echo(f"version {result.version} ({result.model_hash}) {'passes' if result.passed else 'is refused'}")
    for reason in result.refusals:
        click.echo(f"  {reason}")
