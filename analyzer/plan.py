"""`sluice plan`: how many units, how long, or how small an effect, before a start. Libraries: click, msgspec, rich."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import click
import msgspec
import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from rich.console import Console

from analyzer.engine.planning import (
    CONVENTIONS,
    Convention,
    Design,
    detectable_effect,
    fixed_power,
    fixed_size,
    sequential_power,
    sequential_size,
)
from sluice.console.text import count
from sluice.errors import ConfigError

__all__ = ["plan", "power_chart"]

_OPTION = {"effect": "--mde", "deviation": "--sd", "design_effect": "--design-effect", "n": "--units"}


@click.command()
@click.option("--baseline", type=float, required=True, help="The control's rate, or its mean with --sd.")
@click.option("--mde-relative", type=float, metavar="LIFT",
              help="Smallest effect to find, over the baseline: -0.10 is a tenth less.")  # fmt: skip
@click.option("--mde-absolute", type=float, metavar="DIFF", help="The same as a difference: 0.02 is two points more.")
@click.option("--alpha", type=float, default=0.05, show_default=True, help="Two-sided, of all comparisons together.")
@click.option("--power", type=float, default=0.8, show_default=True, help="Chance to find the effect.")
@click.option("--variants", type=int, default=2, show_default=True,
              help="With the control; each is compared with it at alpha/(variants - 1).")  # fmt: skip
@click.option("--ratio", type=float, default=1.0, show_default=True,
              help="Units of each further variant over those of the control.")  # fmt: skip
@click.option("--design-effect", type=float, default=1.0, show_default=True,
              help="By how much clustering widens variances; `sluice compare --csv` measures it.")  # fmt: skip
@click.option("--sd", type=float, help="Plan a mean with this standard deviation instead of a rate.")
@click.option("--sequential", is_flag=True, help="For the confidence sequence that may be looked at all the time.")
@click.option("--units-per-day", type=float, metavar="N", help="Traffic of all variants together: gives the days.")
@click.option("--days", type=float, help="With --units-per-day and no effect: the smallest effect that can be found.")
@click.option("--units", type=float, metavar="N", help="The same for so many units of the control.")
@click.option("--convention", type=click.Choice(list(CONVENTIONS)), default="pooled", show_default=True,
              help="; ".join(f"{name}: {text}" for name, text in CONVENTIONS.items()) + ".")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def plan(
    baseline: float,
    mde_relative: float | None,
    mde_absolute: float | None,
    alpha: float,
    power: float,
    variants: int,
    ratio: float,
    design_effect: float,
    sd: float | None,
    sequential: bool,
    units_per_day: float | None,
    days: float | None,
    units: float | None,
    convention: Convention,
    as_json: bool,
) -> None:
    """Sample size and duration for an effect, or the smallest effect for a given traffic.

    Give an effect (--mde-relative or --mde-absolute), or the traffic (--units, or --units-per-day with --days).

    \b
    sluice plan --baseline 0.18 --mde-relative -0.10
    sluice plan --baseline 0.18 --mde-relative -0.10 --sequential --units-per-day 2000
    sluice plan --baseline 0.18 --units-per-day 2000 --days 14
    """
    _positive({"--units-per-day": units_per_day, "--days": days, "--units": units})
    if mde_relative is not None and mde_absolute is not None:
        raise ConfigError("--mde-relative, --mde-absolute: give one of them")
    if (mde_relative is not None or mde_absolute is not None) and (days is not None or units is not None):
        raise ConfigError("--days, --units: the effect is given already; leave one of them out")
    effect = mde_absolute if mde_relative is None else mde_relative * baseline
    design = Design(baseline, effect or 0.0, alpha, power, variants, ratio, design_effect, sd, convention)
    arms = 1 + ratio * (variants - 1)
    try:
        if effect is not None:
            found = _for_effect(design, sequential)
        else:
            found = _for_units(design, _units(units, units_per_day, days, arms), sequential)
    except ValueError as error:
        name, _, text = str(error).partition(":")
        raise ConfigError(f"{_OPTION.get(name, f'--{name}')}:{text}") from error
    if units_per_day is not None:
        expected = found.expected_n_per_variant
        found = replace(
            found,
            days=math.ceil(found.n_total / units_per_day),
            expected_days=None if expected is None else math.ceil(expected * arms / units_per_day),
        )
    if as_json:
        shown = {**msgspec.structs.asdict(found), "design": found.design._asdict()}
        click.echo(msgspec.json.encode(shown).decode())
    else:
        _print(found)


class _Plan(Struct, frozen=True, kw_only=True):
    """What is printed."""

    n_per_variant: int
    """Of the control; the largest number for a sequential test"""
    n: list[int]
    """By variant, the control first"""
    n_total: int
    expected_n_per_variant: float | None = None
    """Sequential: mean at the stop, if the effect is as planned"""
    fixed_n_per_variant: int | None = None
    """Sequential: what one test at the end, without looks, would need"""
    days: int | None = None
    expected_days: int | None = None
    mde_absolute: float | None
    mde_relative: float | None
    mde_decrease_absolute: float | None = None
    """For a given traffic the smallest decrease; the smallest increase is another number"""
    mde_decrease_relative: float | None = None
    test: Literal["fixed", "sequential"]
    alpha_each: float
    design: Design
    """What was asked for; `effect` is what was asked or found"""


def _for_effect(design: Design, sequential: bool) -> _Plan:
    fixed = fixed_size(design)
    if not sequential:
        return _planned(design, fixed)
    size = sequential_size(design)
    return replace(
        _planned(design, size.maximum),
        test="sequential",
        expected_n_per_variant=min(size.expected, size.maximum),
        fixed_n_per_variant=fixed,
    )


def _for_units(design: Design, units: float, sequential: bool) -> _Plan:
    """With the smallest increase, and beside it the smallest decrease; only a decrease where no increase is found."""
    up = detectable_effect(design, units, sequential=sequential)
    down = detectable_effect(design, units, sequential=sequential, direction=-1)
    effect = down if up is None else up
    if effect is None:
        raise ConfigError(f"--units: {units:g} of the control find no effect at all with power {design.power}")
    design = design._replace(effect=effect)
    found = replace(
        _planned(design, max(math.floor(units), 1)),
        mde_absolute=up,
        mde_relative=_relative(up, design),
        mde_decrease_absolute=down,
        mde_decrease_relative=_relative(down, design),
    )
    if not sequential:
        return found
    return replace(found, test="sequential", expected_n_per_variant=min(sequential_size(design).expected, units))


def _planned(design: Design, n: int) -> _Plan:
    others = math.ceil(design.ratio * n)
    return _Plan(
        n_per_variant=n,
        n=[n, *[others] * (design.variants - 1)],
        n_total=n + others * (design.variants - 1),
        mde_absolute=design.effect,
        mde_relative=_relative(design.effect, design),
        test="fixed",
        alpha_each=design.each_alpha,
        design=design,
    )


def _relative(effect: float | None, design: Design) -> float | None:
    # Without the last bits: a tenth shall read as 0.1.
    return round(effect / design.baseline, 12) if effect is not None and design.baseline > 0 else None


def _units(units: float | None, units_per_day: float | None, days: float | None, arms: float) -> float:
    if units is not None and days is not None:
        raise ConfigError("--days, --units: give one of them")
    if units is not None:
        return units
    if units_per_day is None or days is None:
        raise ConfigError("--mde-relative: give an effect, or --units, or --units-per-day with --days")
    return units_per_day * days / arms


def _print(found: _Plan) -> None:
    console = Console(highlight=False, soft_wrap=True)
    design, sequential = found.design, found.test == "sequential"

    def line(name: str, text: str) -> None:
        console.print(f"  {name:<22}{text}", markup=False)

    kind = "a confidence sequence, looked at all the time" if sequential else "one test at the end"
    console.print(f"[bold]{design.variants} variants, {kind}[/bold]")
    line(
        "rate" if design.deviation is None else "mean",
        f"{design.baseline:g} against {design.baseline + design.effect:.6g}",
    )
    line("smallest effect found", _effect_text(found.mde_absolute, found.mde_relative))
    if found.mde_decrease_absolute is not None:
        line("", _effect_text(found.mde_decrease_absolute, found.mde_decrease_relative))
    line("alpha", f"{design.alpha:g} two-sided" + (f", {found.alpha_each:g} each" if design.variants > 2 else ""))
    line("power", f"{100 * design.power:g} %")
    each = count(found.n[0]) + (
        f" of the control, {count(found.n[1])} of each other" if found.n[0] != found.n[1] else ""
    )
    line("units per variant", each + (" at most" if sequential else ""))
    if found.expected_n_per_variant is not None:
        line("", f"{count(math.ceil(found.expected_n_per_variant))} on average, if the effect is as planned")
    if found.fixed_n_per_variant is not None:
        line("", f"{count(found.fixed_n_per_variant)} would do for one test at the end, without looks")
    line("units in all", count(found.n_total))
    if found.days is not None:
        average = "" if found.expected_days is None else f", {count(found.expected_days)} on average"
        line("days", f"{count(found.days)}{average}; plan whole weeks, weekdays differ")
    console.print()
    at = np.linspace(0, 1.6 * found.n_per_variant, 57)[1:]
    powers = (sequential_power if sequential else fixed_power)(design, at)
    for row in power_chart(at.tolist(), powers.tolist(), found.n_per_variant, design.power):
        console.print(row, markup=False)


def _effect_text(absolute: float | None, relative: float | None) -> str:
    if absolute is None:
        return "no increase"
    return f"{absolute:+.4g}" + ("" if relative is None else f" ({100 * relative:+.2f} %)")


def power_chart(at: Sequence[float], powers: Sequence[float], planned: float, wanted: float) -> list[str]:
    """Columns of eighths of a cell, ten rows high; a line where the wanted power is, a mark at the planned number."""
    rows = 10
    blocks = " ▁▂▃▄▅▆▇█"
    target = min(int(wanted * rows), rows - 1)
    lines = []
    for row in reversed(range(rows)):
        filled = [min(max(round((power * rows - row) * 8), 0), 8) for power in powers]
        cells = "".join("┄" if row == target and not eighths else blocks[eighths] for eighths in filled)
        label = f"{100 * (row + 1) // rows} %" if row % 2 == 1 else ""
        lines.append(f"{label:>7} │{cells}")
    mark = min(range(len(at)), key=lambda i: abs(at[i] - planned))
    lines.append(f"{'power':>7} └{'─' * mark}┴{'─' * (len(at) - mark - 1)}")
    # Below the mark, but not beyond the right end.
    text = f"{count(round(planned))} units per variant"
    lines.append(" " * 9 + " " * min(mark, len(at) - len(text)) + text)
    return lines


def _positive(given: Mapping[str, float | None]) -> None:
    for name, value in given.items():
        if value is not None and not 0 < value < math.inf:
            raise ConfigError(f"{name}: must be > 0 and finite, got {value}")
