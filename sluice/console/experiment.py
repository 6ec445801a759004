"""`sluice experiment`: check files, publish them, look at the catalogue. Libraries: click, PyYAML, rich."""

from __future__ import annotations

import logging
from pathlib import Path

import click
import msgspec
import yaml
from rich.console import Console
from rich.table import Table

from sluice.console import text
from sluice.domain.experiment import Experiment, config_hash, load_experiments
from sluice.errors import ConfigError
from sluice.settings import Settings

__all__ = ["experiment", "read_files"]

_files = click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path))
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def experiment() -> None:
    """Check, publish and list experiments.

    An experiment is a YAML file: a name, at least two variants, the unit that is randomised, the bandit
    and the rule for stopping. Published ones live on topic `experiments`, which every service reads.
    """
    logging.basicConfig(level=logging.WARNING, format="sluice: %(message)s")


@experiment.command()
@_files
@_json
def check(files: tuple[Path, ...], as_json: bool) -> None:
    """Validate FILEs without publishing anything. A bad file: one line, exit code 2."""
    _report(read_files(files), as_json, "is valid")


@experiment.command("apply")
@_files
@_json
def apply_(files: tuple[Path, ...], as_json: bool) -> None:
    """Validate FILEs, then publish all of their experiments; nothing is published when one is bad."""
    from sluice.adapters import catalogue

    found = read_files(files)
    catalogue.apply(Settings.load(), [item for items in found.values() for item in items])
    _report(found, as_json, "applied")


@experiment.command("list")
@_json
def list_(as_json: bool) -> None:
    """The experiments of the catalogue."""
    found = _load()
    if as_json:
        click.echo(msgspec.json.encode([_summary(item) for item in found.values()]))
        return
    if not found:
        click.echo("no experiments yet; publish one with `sluice experiment apply FILE`")
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("name", "unit", "primary", "bandit", "hash", "starts with"):
        table.add_column(name)
    for item in found.values():
        shares = text.shares(item.starting_allocation)
        table.add_row(item.name, item.unit, item.primary, item.bandit.policy, config_hash(item), shares)
    Console(highlight=False).print(table)


@experiment.command()
@click.argument("name")
@_json
def show(name: str, as_json: bool) -> None:
    """One experiment with every default filled in, as YAML."""
    found = _load()
    if name not in found:
        known = ", ".join(found) or "none yet"
        raise ConfigError(f"experiment {name!r}: not in the catalogue; there are: {known}")
    data = msgspec.to_builtins(found[name])
    click.echo(
        msgspec.json.encode(data) if as_json else yaml.safe_dump(data, sort_keys=False, allow_unicode=True), nl=as_json
    )


def read_files(files: tuple[Path, ...]) -> dict[Path, tuple[Experiment, ...]]:
    """File → its experiments. Raises ConfigError, naming the file, for the first that is not right."""
    found: dict[Path, tuple[Experiment, ...]] = {}
    owner: dict[str, Path] = {}
    for file in files:
        try:
            content = file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ConfigError(f"{file}: not UTF-8 text: {error.reason} at byte {error.start}") from error
        except OSError as error:
            raise ConfigError(f"{file}: {(error.strerror or str(error)).lower()}") from error
        found[file] = load_experiments(content, str(file))
        for item in found[file]:
            if owner.setdefault(item.name, file) != file:
                raise ConfigError(f"{file}: name: {item.name!r} is also in {owner[item.name]}; names are unique")
    return found


def _load() -> dict[str, Experiment]:
    from sluice.adapters import catalogue

    return catalogue.load(Settings.load())


def _summary(item: Experiment) -> dict[str, object]:
    return {
        "name": item.name,
        "unit": item.unit,
        "primary": item.primary,
        "variants": [variant.name for variant in item.variants],
        "allocation": item.starting_allocation,
        "config_hash": config_hash(item),
    }


def _report(found: dict[Path, tuple[Experiment, ...]], as_json: bool, done: str) -> None:
    if as_json:
        rows = [{"file": str(file), **_summary(item)} for file, items in found.items() for item in items]
        click.echo(msgspec.json.encode(rows))
        return
    for file, items in found.items():
        for item in items:
            click.echo(
                f"{file}: {item.name} {done} ({len(item.variants)} variants by {item.unit}, {config_hash(item)})"
            )
