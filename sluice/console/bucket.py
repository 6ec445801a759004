"""`sluice bucket`: where units lie, and which variant they get, in any supported tool's algorithm.

Libraries: click, msgspec.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, cast

import click
import msgspec

from sluice.domain.bucketing import ALGORITHMS, AlgorithmName, Bucketing, drawing, number, place, told
from sluice.errors import ConfigError

__all__ = ["bucket"]

MAX_UNIT_BYTES = 10_000
_LISTED = "\b\nALGORITHMS\n\n\b\n" + "\n".join(
    f"{name:<14}  {rule.summary}\n{'':<16}seed: {rule.seed}" for name, rule in ALGORITHMS.items()
)


@click.command(epilog=_LISTED)
@click.option("--algorithm", type=click.Choice(list(ALGORITHMS)), default="sluice", show_default=True, metavar="NAME",
              help="One of those below.")  # fmt: skip
@click.option("--seed", required=True, help="What the tool hashes with the unit; may be empty.")
@click.option("--unit", "units", multiple=True, help="May be repeated. Without it: one a line from the standard input.")
@click.option("--weights", metavar="A=50,B=50", help="Percents in the tool's order: prints the variant too.")
@click.option("--coverage", type=click.FloatRange(0, 1), default=1.0, metavar="SHARE",
              help="GrowthBook's: how much of each variant's range takes part, 0 to 1.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON object; with several units a list under `units`.")
def bucket(
    algorithm: str, seed: str, units: tuple[str, ...], weights: str | None, coverage: float, as_json: bool
) -> None:
    """The bucket of each UNIT, as its tool reports it, and its variant.

    Prints unit, bucket and (with --weights) variant with tabs between them, `-` where the tool leaves the unit out.
    --json adds `number`, the tool's integer, and `place`, the same in [0, 1) for every tool.

    \b
      sluice bucket --algorithm growthbook-v2 --seed my-test --unit user-7 --weights control=50,new=50
      cut -d, -f1 users.csv | sluice bucket --algorithm optimizely --seed 1886780721
    """
    name = cast(AlgorithmName, algorithm)
    _encoded(seed, "--seed")
    told(name, seed, "")  # a seed that the tool cannot have, before the first line is printed
    draw = None
    if weights is not None:
        draw = drawing(Bucketing(algorithm=name, coverage=coverage), _parsed(weights), salt=seed)
    elif coverage != 1:
        raise ConfigError("--coverage: goes with --weights; without them no variant is chosen")

    def row(unit: str) -> dict[str, Any]:
        found = {"unit": unit, "bucket": told(name, seed, unit), "number": number(name, seed, unit),
                 "place": place(name, seed, unit)}  # fmt: skip
        return found if draw is None else found | {"variant": draw(unit)}

    rows = (row(unit) for unit in (map(_valid, units) if units else _lines()))
    if as_json:
        found = list(rows)
        about = {"algorithm": algorithm, "seed": seed}
        click.echo(msgspec.json.encode(about | (found[0] if len(units) == 1 else {"units": found})))
        return
    for found_row in rows:
        shown = [found_row["unit"], f"{found_row['bucket']!r}"]
        click.echo("\t".join(shown if draw is None else [*shown, found_row["variant"] or "-"]))


def _parsed(weights: str) -> dict[str, float]:
    parsed: dict[str, float] = {}
    for part in weights.split(","):
        variant, _, percents = (text.strip() for text in part.rpartition("="))
        try:
            share = float(percents)
        except ValueError:
            share = None
        if not variant or share is None:
            raise ConfigError(f"--weights: {part[:80]!r}: write name=percents, as in a=50,b=50")
        if variant in parsed:
            raise ConfigError(f"--weights: {variant!r} stands there twice")
        parsed[variant] = share
    return parsed


def _lines() -> Iterator[str]:
    if sys.stdin.isatty():
        raise ConfigError("--unit: missing; name one, or pipe one a line into the standard input")
    stream = click.get_binary_stream("stdin")
    while line := stream.readline(MAX_UNIT_BYTES + 2):
        if unit := line.rstrip(b"\r\n"):
            yield _valid(unit.decode(errors="surrogateescape"))


def _valid(unit: str) -> str:
    size = len(_encoded(unit, "unit"))
    if not 1 <= size <= MAX_UNIT_BYTES:
        raise ConfigError(f"unit: {size} bytes: allowed are 1 to {MAX_UNIT_BYTES}")
    return unit


def _encoded(text: str, label: str) -> bytes:
    try:
        return text.encode()
    except UnicodeError:
        raise ConfigError(f"{label}: {text[:80]!r}: not UTF-8") from None
