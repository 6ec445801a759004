"""`sluice explain`: one decision, computed again from its own record and told in full. Libraries: click, rich."""

from __future__ import annotations

import math

import click
import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from analyzer.engine import recompute
from analyzer.engine.effects import novelty, weekday_effect
from analyzer.journal import find_decision
from sluice.adapters import catalogue
from sluice.adapters.kafka import wait_for_broker
from sluice.domain.events import DecisionMade, VariantResult, encode
from sluice.errors import ConfigError, InvalidEvent, SluiceError
from sluice.live import LiveCounters
from sluice.settings import Settings

__all__ = ["explain"]


@click.command()
@click.argument("version", type=click.IntRange(min=1), required=False)
@click.option("--experiment", "name", metavar="NAME", help="Needed when there is more than one.")
@click.option(
    "--effects",
    "with_effects",
    is_flag=True,
    help="Also look for effects of novelty and of weekdays in the live time buckets (exploratory).",
)
@click.option("--json", "as_json", is_flag=True, help="The decision and whether it was reproduced, as JSON.")
def explain(version: int | None, name: str | None, with_effects: bool, as_json: bool) -> None:
    """Fetch decision VERSION (default: the latest), compute it again from its own evidence, and compare bytes."""
    settings = Settings.load()
    wait_for_broker(settings)
    name = name or _only_experiment(settings)
    data = find_decision(settings, name, version)
    if data is None:
        raise SluiceError(f"experiment {name} has no decision{'' if version is None else f' {version}'}")
    recorded = msgspec.json.decode(data, type=DecisionMade)
    difference = _difference(recorded, data)
    effects = _effects(settings, recorded) if with_effects else {}
    if as_json:
        shown = {"reproduced": difference is None, "difference": difference, "decision": msgspec.Raw(data)}
        click.echo(msgspec.json.encode(shown | ({"effects": effects} if with_effects else {})).decode())
    else:
        _print(recorded, difference)
        for variant, words in effects.items():
            click.echo(f"{variant}: {_effect_words(words)}")
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
    rates = decision.config.get("measure", "rate") == "rate"
    _standing(console, decision, rates)
    _comparison(console, "Against the control", decision.results, rates)
    if decision.uniform:
        _comparison(console, "The same on the reserved uniform units alone", decision.uniform, rates)
    offsets = ", ".join(f"{p}: {i:,}/{c:,}" for p, (i, c) in decision.offsets.items())
    console.print(f"evidence up to offsets (partition: impressions/clicks) {offsets or '–'}", highlight=False)
    if difference is None:
        console.print("reproduced: yes", style="green", highlight=False)
    else:
        console.print(f"reproduced: no – {difference}", style="red", highlight=False, markup=False)


def _table(*titles: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column(titles[0], no_wrap=True)
    for title in titles[1:]:
        table.add_column(title, justify="right", no_wrap=True)
    return table


def _standing(console: Console, decision: DecisionMade, rates: bool) -> None:
    table = _table("variant", "units", "shown", "outcomes", "rate", "95 % interval", "P(best)", "loss", "share")
    for result in decision.results:
        low, high = result.interval
        table.add_row(
            result.variant,
            f"{result.units:,}",
            f"{result.impressions:,}",
            f"{result.outcomes:,}",
            f"{100 * result.rate:.2f}%" if rates else f"{result.rate:.4g}",
            f"{100 * low:.2f}–{100 * high:.2f}%" if rates else f"{low:.4g}–{high:.4g}",
            f"{result.p_best:.4f}",
            f"{result.expected_loss:.1g}",
            f"{decision.allocation.get(result.variant, 0)}%",
        )
    console.print(table)


def _comparison(console: Console, title: str, results: tuple[VariantResult, ...], rates: bool) -> None:
    """What holds however often somebody looks, and beside it what holds for one planned look."""
    compared = [(result.variant, result.contrast) for result in results if result.contrast is not None]
    if not compared:
        return
    scale, digits = (100, 1) if rates else (1, 3)
    console.print(f"{title}:", highlight=False)
    table = _table("variant", "points" if rates else "value", "at all times", "p", "lift", "at all times", "z test")
    for variant, found in compared:
        low, high = (scale * end for end in found.interval)
        lift = "–" if found.lift is None else f"{100 * found.lift:+.1f}%"
        ends = (
            "–" if found.lift_interval is None else "{:+.0f}…{:+.0f}%".format(*(100 * e for e in found.lift_interval))
        )
        table.add_row(
            variant,
            f"{scale * found.difference:+.{digits}f}",
            f"{low:+.{digits}f}…{high:+.{digits}f}",
            f"{found.always_valid_p:.2g}",
            lift,
            ends,
            f"{found.fixed_horizon_p:.2g}",
        )
    console.print(table)


def _effects(settings: Settings, decision: DecisionMade) -> dict[str, dict[str, float | None]]:
    """Variant → figures of novelty and weekday effects, from the time buckets as they are now."""
    settings.require_redis()
    buckets = LiveCounters(settings, known={}).buckets(decision.experiment)
    outcome = str(decision.config.get("primary", "click"))
    names = [result.variant for result in decision.results]
    starts = sorted({bucket.start_ms for of in buckets.values() for bucket in of})
    if not starts:
        return {}
    n, c = np.zeros((len(starts), len(names))), np.zeros((len(starts), len(names)))
    for column, name in enumerate(names):
        for bucket in buckets.get(name, ()):
            row = starts.index(bucket.start_ms)
            n[row, column] = bucket.impressions
            c[row, column] = bucket.outcomes[outcome].count if outcome in bucket.outcomes else 0
    control = names.index(str(decision.config.get("control") or names[0]))
    design = [result.design_effect for result in decision.results]
    trend = novelty(starts, n, c, control=control, design_effect=design)
    weekday = weekday_effect(starts, n, c, control=control, design_effect=design)
    return {
        name: {
            "slope_per_day": _known(trend.slope_per_day[i]),
            "slope_p": _known(trend.p[i]),
            "weekday_p": _known(weekday.p[i]),
        }
        for i, name in enumerate(names)
        if i != control
    }


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _effect_words(found: dict[str, float | None]) -> str:
    if found["slope_p"] is None or found["slope_per_day"] is None:
        trend = "too few time buckets for a trend"
    else:
        trend = f"difference moves by {100 * found['slope_per_day']:+.3g} points a day (p = {found['slope_p']:.2g})"
    days = "too few weekdays" if found["weekday_p"] is None else f"weekdays differ with p = {found['weekday_p']:.2g}"
    return f"{trend}; {days}; exploratory"
