"""`sluice experiment`: validate files, publish them, start, pause, stop and ship. Libraries: click, PyYAML, rich."""

from __future__ import annotations

import getpass
import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec
import yaml
from rich.console import Console
from rich.table import Table

from sluice.console import text
from sluice.console.canary import standings
from sluice.domain.experiment import Experiment, check_together, config_hash, load_experiments
from sluice.domain.status import Action, Change
from sluice.errors import ConfigError
from sluice.settings import Settings

__all__ = ["experiment", "read_files"]


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container may have nobody
        return "unknown"


_files = click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path))
_name = click.argument("name")
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_by = click.option("--by", default=_user, metavar="WHO", help="Who changes it; the user of the environment by default.")
_why = click.option("--why", default="", metavar="TEXT", help="Why; kept with the change.")
_revision = click.option(
    "--revision", type=click.IntRange(0), metavar="N",
    help="Refuse when another one is in force: somebody changed it meanwhile.",
)  # fmt: skip


@click.group()
def experiment() -> None:
    """Validate, publish, start, pause, stop, ship and list experiments.

    An experiment is a YAML file: a name, at least two variants, the unit that is randomised, the bandit
    and the rule for stopping. Published ones live on topic `experiments`, which every service follows: each change
    is versioned with who made it and why.
    """
    logging.basicConfig(level=logging.WARNING, format="sluice: %(message)s")


@experiment.command(short_help="Look for mistakes in files.")
@_files
@_json
def validate(files: tuple[Path, ...], as_json: bool) -> None:
    """Look for mistakes in FILEs without publishing anything. A bad file: one line, exit code 2."""
    found = read_files(files)
    _report({str(file): list(items) for file, items in found.items()}, as_json, "is valid")


# The name it had first.
experiment.add_command(
    click.Command("check", params=validate.params, callback=validate.callback, help=validate.help, hidden=True)
)


@experiment.command(short_help="Publish files as drafts.")
@_files
@_by
@_why
@_json
def create(files: tuple[Path, ...], by: str, why: str, as_json: bool) -> None:
    """Publish the experiments of FILEs as drafts, which only forced units see; all of them or none."""
    from sluice.adapters import catalogue

    _published(read_files(files), lambda items: catalogue.create(Settings.load(), items, by=by, why=why), as_json)


@experiment.command("apply", short_help="Publish files: new experiments run at once.")
@_files
@_by
@_why
@_json
def apply_(files: tuple[Path, ...], by: str, why: str, as_json: bool) -> None:
    """Publish the experiments of FILEs: new ones run at once, others keep their status; all of them or none."""
    from sluice.adapters import catalogue

    _published(read_files(files), lambda items: catalogue.apply(Settings.load(), items, by=by, why=why), as_json)


@experiment.command(short_help="Start a draft, or go on with a paused one.")
@_name
@_by
@_why
@_revision
@_json
def start(name: str, by: str, why: str, revision: int | None, as_json: bool) -> None:
    """Start the draft NAME, or go on with a paused one."""
    _change(name, "start", by, why, revision, as_json)


@experiment.command(short_help="The control for everybody, for now.")
@_name
@_by
@_why
@_revision
@_json
def pause(name: str, by: str, why: str, revision: int | None, as_json: bool) -> None:
    """Everybody sees the control of NAME until it is started again; units keep their variants for then."""
    _change(name, "pause", by, why, revision, as_json)


@experiment.command(short_help="The control for everybody, for good.")
@_name
@_by
@_why
@_revision
@_json
def stop(name: str, by: str, why: str, revision: int | None, as_json: bool) -> None:
    """End NAME for good: everybody sees the control."""
    _change(name, "stop", by, why, revision, as_json)


@experiment.command(short_help="One variant for everybody, for good.")
@_name
@click.argument("variant")
@_by
@_why
@_revision
@_json
def ship(name: str, variant: str, by: str, why: str, revision: int | None, as_json: bool) -> None:
    """End NAME for good: everybody sees VARIANT."""
    _change(name, "ship", by, why, revision, as_json, variant)


@experiment.command("list")
@_json
def list_(as_json: bool) -> None:
    """The experiments of the catalogue."""
    found = _load()
    canaries = standings(Settings.load(), found)
    if as_json:
        rows = [
            _summary(item) | ({"canary": canaries.get(name)} if item.canary else {}) for name, item in found.items()
        ]
        click.echo(msgspec.json.encode(rows))
        return
    if not found:
        click.echo("no experiments yet; publish one with `sluice experiment apply FILE`")
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("name", "status", "unit", "bandit", "hash", "starts with"):
        table.add_column(name)
    for item in found.values():
        shares = text.shares(item.starting_allocation)
        stands = canaries.get(item.name) if item.state.status == "running" else None
        status = f"{stands.state}, step {stands.step}" if stands is not None else _status(item)
        policy = item.bandit.policy if item.canary is None else "canary"
        table.add_row(item.name, status, item.unit, policy, config_hash(item), shares)
    Console(highlight=False).print(table)


@experiment.command(short_help="Status, last changes and configuration of one.")
@_name
@_json
def show(name: str, as_json: bool) -> None:
    """One experiment: status and last changes, and its configuration with every default filled in, as YAML."""
    found = _load()
    if name not in found:
        known = ", ".join(found) or "none yet"
        raise ConfigError(f"experiment {name!r}: not in the catalogue; there are: {known}")
    item = found[name]
    data = msgspec.to_builtins(item)
    if as_json:
        click.echo(msgspec.json.encode(data))
        return
    del data["state"]  # a comment: what is printed is a file that can be applied
    click.echo(f"# {_status(item)}, revision {item.state.revision}")
    for change in item.state.changes:
        click.echo(f"# {_told(change)}")
    stands = standings(Settings.load(), {name: item}).get(name)
    if stands is not None:
        click.echo(f"# canary: {stands.state} at step {stands.step}, {stands.share} % (decision {stands.version})")
        for reason in stands.reasons:
            click.echo(f"#   {reason}")
    click.echo(yaml.safe_dump(data, sort_keys=False, allow_unicode=True), nl=False)


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
    check_together([item for items in found.values() for item in items], ", ".join(map(str, found)))
    return found


def _load() -> dict[str, Experiment]:
    from sluice.adapters import catalogue

    return catalogue.load(Settings.load())


def _published(
    found: Mapping[Path, Sequence[Experiment]], publish: Callable[[list[Experiment]], list[Experiment]], as_json: bool
) -> None:
    standing = {item.name: item for item in publish([item for items in found.values() for item in items])}
    _report({str(file): [standing[item.name] for item in items] for file, items in found.items()}, as_json, None)


def _change(
    name: str, action: Action, by: str, why: str, revision: int | None, as_json: bool, variant: str = ""
) -> None:
    from sluice.adapters import catalogue

    item = catalogue.change(Settings.load(), name, action, by=by, why=why, expected_revision=revision, variant=variant)
    if as_json:
        click.echo(msgspec.json.encode({**_summary(item), "change": item.state.changes[-1]}))
    else:
        click.echo(f"{name} is {_status(item)} (revision {item.state.revision})")


def _status(item: Experiment) -> str:
    state = item.state
    return f"{state.status} {state.variant}" if state.status == "shipped" else state.status


def _told(change: Change) -> str:
    moment = datetime.fromtimestamp(change.at_ms // 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    what = f"{change.action} {change.variant}".rstrip()
    by = f" by {change.by}" if change.by else ""
    # A comment ends with its line.
    return " ".join(f"{moment}  {what}{by}{': ' if change.why else ''}{change.why}".split("\n"))


def _summary(item: Experiment) -> dict[str, object]:
    return {
        "name": item.name,
        "status": item.state.status,
        "shipped": item.state.variant or None,
        "revision": item.state.revision,
        "unit": item.unit,
        "primary": item.primary,
        "variants": [variant.name for variant in item.variants],
        "allocation": item.starting_allocation,
        "config_hash": config_hash(item),
    }


def _report(found: Mapping[str, Sequence[Experiment]], as_json: bool, done: str | None) -> None:
    if as_json:
        rows = [{"file": file, **_summary(item)} for file, items in found.items() for item in items]
        click.echo(msgspec.json.encode(rows))
        return
    for file, items in found.items():
        for item in items:
            said = done or f"is {_status(item)}, revision {item.state.revision}"
            click.echo(
                f"{file}: {item.name} {said} ({len(item.variants)} variants by {item.unit}, {config_hash(item)})"
            )
