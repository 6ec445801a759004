"""`sluice analyze` and `sluice explain`. Libraries: click, rich."""

from __future__ import annotations

import logging
import signal

import click
import msgspec
from rich.console import Console
from rich.table import Table

from analyzer.engine import recompute
from analyzer.journal import find_decision
from analyzer.service import build
from sluice.adapters import catalogue
from sluice.adapters.kafka import wait_for_broker
from sluice.domain.events import DecisionMade, encode
from sluice.errors import ConfigError, InvalidEvent, SluiceError
from sluice.settings import Settings

__all__ = ["analyze", "explain"]


@click.command()
@click.option(
    "--every-ms",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    envvar="SLUICE_ANALYZE_EVERY_MS",
    show_envvar=True,
    help="Shortest time between two decisions on one experiment.",
)
@click.option(
    "--deadline",
    "timeout_s",
    type=click.FloatRange(min=0.1),
    default=15.0,
    show_default=True,
    metavar="SECONDS",
    help="Give up when broker or Redis have not answered by then.",
)
def analyze(every_ms: int, timeout_s: float) -> None:
    """Read the counts of every partition and publish a decision whenever they change.

    Runs until Ctrl-C or SIGTERM. May be restarted at any time: versions go on where they were.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    analyzer = build(Settings.load(), every_ms=every_ms, timeout_s=timeout_s)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: analyzer.stop())
    analyzer.run()
    logging.getLogger("analyzer").info(
        "stopped after %d decisions (longest computation %.1f ms), %d malformed snapshots",
        analyzer.decisions,
        analyzer.longest_ms,
        analyzer.malformed,
    )


@click.command()
@click.argument("version", type=click.IntRange(min=1), required=False)
@click.option("--experiment", "name", metavar="NAME", help="Needed when there is more than one.")
@click.option("--json", "as_json", is_flag=True, help="The decision and whether it was reproduced, as JSON.")
def explain(version: int | None, name: str | None, as_json: bool) -> None:
    """Fetch decision VERSION (default: the latest), compute it again from its own evidence, and compare bytes."""
    settings = Settings.load()
    wait_for_broker(settings)
    name = name or _only_experiment(settings)
    data = find_decision(settings, name, version)
    if data is None:
        raise SluiceError(f"experiment {name} has no decision{'' if version is None else f' {version}'}")
    recorded = msgspec.json.decode(data, type=DecisionMade)
    difference = _difference(recorded, data)
    if as_json:
        shown = {"reproduced": difference is None, "difference": difference, "decision": msgspec.Raw(data)}
        click.echo(msgspec.json.encode(shown).decode())
    else:
        _print(recorded, difference)
    if difference is not None:
        raise click.exceptions.Exit(1)


def _only_experiment(settings: Settings) -> str:
    names = sorted(catalogue.load(settings))
    if len(names) != 1:
        raise ConfigError(f"--experiment: name one of {', '.join(names) or '(no experiment is applied)'}")
    return names[0]


def _difference(recorded: DecisionMade, data: bytes) -> str | None:
    """None when the decision computed again has the same bytes, else the first thing that differs."""
    try:
        again = recompute(recorded)
    except (InvalidEvent, ValueError) as error:
        return str(error)
    if encode(again) == data:
        return None
    for field in recorded.__struct_fields__:
        was, now = getattr(recorded, field), getattr(again, field)
        if was != now:
            return f"{field}: recorded {_short(was)}, computed {_short(now)}"
    return "the same content in other bytes: written by another version of Sluice"


def _short(value: object) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 200 else f"{text[:200]}…"


def _print(decision: DecisionMade, difference: str | None) -> None:
    console = Console()
    console.print(
        f"[bold]{decision.experiment}[/bold] · decision {decision.version} · [bold]{decision.verdict}[/bold] · "
        f"configuration {decision.config_hash}",
        highlight=False,
    )
    for reason in decision.reasons:
        console.print(f"  {reason}", highlight=False, markup=False)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("variant", no_wrap=True)
    for title in ("units", "shown", "outcomes", "rate", "95 % interval", "P(best)", "loss", "share"):
        table.add_column(title, justify="right", no_wrap=True)
    for result in decision.results:
        low, high = result.interval
        table.add_row(
            result.variant,
            f"{result.units:,}",
            f"{result.impressions:,}",
            f"{result.outcomes:,}",
            f"{100 * result.rate:.2f}%",
            f"{100 * low:.2f}–{100 * high:.2f}%",
            f"{result.p_best:.4f}",
            f"{result.expected_loss:.1g}",
            f"{decision.allocation.get(result.variant, 0)}%",
        )
    console.print(table)
    offsets = ", ".join(f"{p}: {i:,}/{c:,}" for p, (i, c) in decision.offsets.items())
    console.print(f"evidence up to offsets (partition: impressions/clicks) {offsets or '–'}", highlight=False)
    if difference is None:
        console.print("reproduced: yes", style="green", highlight=False)
    else:
        console.print(f"reproduced: no – {difference}", style="red", highlight=False, markup=False)
