"""`sluice compare`: every figure of two or more variants from plain counts alone. Libraries: click, msgspec, rich."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from analyzer.comparison import Asked, Data, Figures, figures
from analyzer.engine.moments import moments
from analyzer.engine.sequential import PLANNED_EFFECT
from analyzer.unit_rows import read_unit_rows
from sluice.console.text import count, percent, print_whole
from sluice.errors import ConfigError

__all__ = ["SeveralValues", "compare", "spread_values"]

_LEAST, _MOST = 1e-12, 1e12
_LONGEST_NAME = 24


class SeveralValues(click.Command):
    """Options with `multiple=True` may be written with all their values at once: `--clicks 1380 1545`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        several = {name for option in self.params if getattr(option, "multiple", False) for name in option.opts}
        return super().parse_args(ctx, spread_values(args, several))


def spread_values(args: Sequence[str], several: set[str]) -> list[str]:
    """`--clicks 1 2` → `--clicks 1 --clicks 2`, for the options in `several`. A negative number is a value."""
    spread: list[str] = []
    name, first = "", False
    for place, argument in enumerate(args):
        if argument == "--":
            return [*spread, *args[place:]]
        if argument.startswith("-") and not _is_number(argument):
            option, equals, _ = argument.partition("=")
            name, first = (option, not equals) if option in several else ("", False)
            spread.append(argument)
        elif name and not first:
            spread += [name, argument]
        else:
            spread.append(argument)
            first = False
    return spread


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@click.command(cls=SeveralValues)
@click.option("--clicks", type=float, multiple=True, metavar="N N …", help="By variant, the control first.")
@click.option("--impressions", type=float, multiple=True, metavar="N N …", help="By variant.")
@click.option("--csv", "path", type=click.Path(path_type=Path), metavar="FILE",
              help="Instead of counts: a row a unit, with columns variant, impressions, clicks and, if there, value. "
              "Impressions of one unit resemble each other, and only this way the variances know. Columns "
              "pre_impressions and pre_clicks, both from before the experiment, give CUPED figures; "
              "a column unit, a name a row, gives bootstrap intervals for heavy tails.")  # fmt: skip
@click.option("--control", metavar="NAME", help="With --csv: the variant to compare with; default: that of row 1.")
@click.option("--alpha", type=float, default=0.05, show_default=True, help="Intervals hold with 1 - alpha.")
@click.option(
    "--planned-effect",
    type=float,
    default=PLANNED_EFFECT,
    show_default=True,
    metavar="DIFF",
    help="Absolute difference of rates for which the confidence sequence is tightest; fixed before the start.",
)
@click.option(
    "--planned-value-effect",
    type=float,
    metavar="DIFF",
    help="The same for column value, per impression; without it that has no confidence sequence.",
)
@click.option("--prior", type=float, nargs=2, default=(1.0, 1.0), show_default=True, metavar="A B",
              help="Beta prior of a rate.")  # fmt: skip
@click.option("--expected-shares", type=float, multiple=True, metavar="S S …",
              help="Shares in which units were assigned, by variant: checks the sample ratio.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON object; what cannot be known is null, with a reason.")
def compare(
    clicks: tuple[float, ...],
    impressions: tuple[float, ...],
    path: Path | None,
    control: str | None,
    alpha: float,
    planned_effect: float,
    planned_value_effect: float | None,
    prior: tuple[float, float],
    expected_shares: tuple[float, ...],
    as_json: bool,
) -> None:
    """Compare click rates: z test, Bayesian posterior and confidence sequence. The first variant is the control.

    \b
    sluice compare --clicks 1380 1545 --impressions 8500 8200
    sluice compare --csv units.csv --expected-shares 50 50

    With two variants the figures of the comparison are numbers, with more of them lists by variant, null for the
    control. The figures of a fixed horizon hold once, at the planned sample size; those of the confidence
    sequence hold whenever you look. --json also has an exact p-value of counts, which needs no Normal limit but far
    more data.
    """
    if not _LEAST <= alpha < 1:
        raise ConfigError(f"--alpha: must lie in [{_LEAST:g}, 1), got {alpha}")
    for name, value in (("--planned-effect", planned_effect), ("--planned-value-effect", planned_value_effect)):
        if value is not None and not _LEAST <= value <= _MOST:
            raise ConfigError(f"{name}: must lie in [{_LEAST:g}, {_MOST:g}], got {value}")
    if not all(0.02 <= part <= _MOST for part in prior):
        raise ConfigError(f"--prior: both must lie in [0.02, 1e12], got {prior[0]} {prior[1]}")
    data = _from_counts(clicks, impressions) if path is None else _from_file(path, control, clicks or impressions)
    if path is None and control is not None:
        raise ConfigError("--control: only with --csv; of counts the first are the control's")
    if expected_shares and len(expected_shares) != len(data.variants):
        raise ConfigError(f"--expected-shares: {len(expected_shares)} for {len(data.variants)} variants")
    if not all(_LEAST <= share <= _MOST for share in expected_shares):
        raise ConfigError(f"--expected-shares: must lie in [{_LEAST:g}, {_MOST:g}]")
    if planned_value_effect is not None and data.values is None:
        raise ConfigError("--planned-value-effect: there are no values; it goes with --csv and a column value")
    found = figures(data, Asked(alpha, planned_effect, planned_value_effect, prior, expected_shares))
    if as_json:
        click.echo(msgspec.json.encode(found.as_json()).decode())
    else:
        _print(found, Console(highlight=False))


def _from_counts(clicks: Sequence[float], impressions: Sequence[float]) -> Data:
    for name, values in (("--clicks", clicks), ("--impressions", impressions)):
        if len(values) < 2:
            raise ConfigError(f"{name}: at least two numbers are needed, got {len(values)} (or give --csv)")
        for value in values:
            if not (0 <= value <= _MOST and value == int(value)):
                raise ConfigError(f"{name}: whole numbers from 0 to 10^12, got {value:g}")
    if len(clicks) != len(impressions):
        raise ConfigError(f"--clicks: {len(clicks)} numbers, but --impressions: {len(impressions)}")
    names = [chr(ord("A") + i) if i < 26 else f"V{i + 1}" for i in range(len(clicks))]
    for name, c, n in zip(names, clicks, impressions, strict=True):
        if c > n:
            raise ConfigError(f"--clicks: {c:.0f} of {n:.0f} impressions (variant {name})")
    arms = moments(impressions, impressions, clicks)
    return Data(names, arms, clustered=False)


def _from_file(path: Path, control: str | None, counts: Sequence[float]) -> Data:
    if counts:
        raise ConfigError("--csv: the counts are in the file; leave --clicks and --impressions out")
    rows = read_unit_rows(path, control)
    return Data(
        rows.variants,
        rows.clicks,
        clustered=True,
        values=rows.values,
        before=rows.before,
        clicks_resampled=rows.clicks_resampled,
        values_resampled=rows.values_resampled,
        left_out=rows.without_impressions,
    )


def _print(found: Figures, console: Console) -> None:
    level = f"{100 * (1 - found.alpha):g} %"
    arms = _table("variant", "units", "impressions", "clicks", "rate", f"{level} credible", "P(best)", "loss")
    for i, name in enumerate(found.variants):
        low, high = found.credible_intervals[i]
        arms.add_row(
            _name(name),
            count(found.units[i]),
            count(found.impressions[i]),
            count(found.clicks[i]),
            percent(found.rates[i], 2),
            f"{100 * low:.2f} – {100 * high:.2f} %",
            f"{found.p_best[i]:.4f}",
            f"{found.expected_loss[i]:.2g}",
        )
    print_whole(arms, console)
    console.print()
    control = Text("against ").append(_name(found.variants[0]))
    always = _table(control, "difference", f"{level} sequence", "always-valid p", "P(better)")
    intervals = _table(control, "difference", f"{level} interval", "lift", f"{level} interval")
    tests = _table(control, "t" if found.clustered else "z", "p", "Cohen's h", "", "observed power")
    for i, name in enumerate(found.variants[1:], start=1):
        difference = _number(found.difference[i], "+.2f", 100)
        always.add_row(
            _name(name),
            difference,
            _range(found.confidence_sequence[i]),
            _number(found.always_valid_p[i], ".3g"),
            _number(found.p_better[i], ".6f"),
        )
        intervals.add_row(
            _name(name),
            difference,
            _range(found.difference_interval[i]),
            _number(found.lift[i], "+.2f", 100),
            _range(found.lift_interval[i]),
        )
        tests.add_row(
            _name(name),
            _number(found.z[i], ".3f"),
            _number(found.p_value[i], ".3g"),
            _number(found.cohens_h[i], "+.4f"),
            found.effect_size[i] or "–",
            _number(found.observed_power[i], ".4f"),
        )
    console.print("[bold]At any time[/bold] (differences in points)")
    print_whole(always, console)
    console.print()
    console.print("[bold]Fixed horizon[/bold]: valid once, at the sample size planned beforehand (lift in %)")
    print_whole(intervals, console)
    print_whole(tests, console)
    _print_optional(found, level, console)
    if len(found.variants) > 2:
        square = found.chi_square
        console.print(
            f"all equal: chi-square {_number(square['statistic'], '.3f')} on {square['degrees']:g} degrees of freedom, "
            f"p {_number(square['p_value'], '.3g')}"
        )
    if found.value is not None:
        _print_value(found, console)
    if found.sample_ratio_p is not None:
        console.print(f"units against the expected shares: p {found.sample_ratio_p:.3g}")
    for reason in found.reasons:
        console.print(Text("! ", style="yellow").append(" ".join(reason.split()), style="default"), soft_wrap=True)


def _print_optional(found: Figures, level: str, console: Console) -> None:
    """What only some files allow."""
    cuped = _table("CUPED", "difference", f"{level} interval", "p", "variance taken away")
    bootstrap = _table("bootstrap", f"{level} interval")
    for i, name in enumerate(found.variants[1:], start=1):
        cuped.add_row(
            _name(name),
            _number(found.cuped_difference[i], "+.2f", 100),
            _range(found.cuped_interval[i]),
            _number(found.cuped_p_value[i], ".3g"),
            _number(found.variance_reduction[i], ".1f", 100) + " %",
        )
        bootstrap.add_row(_name(name), _range(found.bootstrap_interval[i]))
    if any(found.cuped_interval):
        print_whole(cuped, console)
    if any(found.bootstrap_interval):
        print_whole(bootstrap, console)


def _print_value(found: Figures, console: Console) -> None:
    assert found.value is not None
    value = found.value
    once = _table("value", "per impression", "difference", "interval", "p")
    always = _table("value", "sequence", "always-valid p")
    resampled = ["bootstrap interval"] if any(value["bootstrap_interval"]) else []
    others = _table("value", "Welch p, per unit", *resampled)
    for i, name in enumerate(found.variants):
        once.add_row(
            _name(name),
            _number(value["means"][i], ".6g"),
            _number(value["difference"][i], "+.4g"),
            _range(value["difference_interval"][i], 1, "+.4g"),
            _number(value["p_value"][i], ".3g"),
        )
        sequence = _range(value["confidence_sequence"][i], 1, "+.4g")
        always.add_row(_name(name), sequence, _number(value["always_valid_p"][i], ".3g"))
        if i > 0:
            ends = (_range(value["bootstrap_interval"][i], 1, "+.4g") for _ in resampled)
            others.add_row(_name(name), _number(value["welch_p_value"][i], ".3g"), *ends)
    console.print()
    print_whole(once, console)
    print_whole(others, console)
    if any(value["confidence_sequence"]):
        print_whole(always, console)


def _name(name: str) -> Text:
    """On one line, and not so long that no room is left for figures."""
    text = Text(" ".join(name.split()), no_wrap=True)
    text.truncate(_LONGEST_NAME, overflow="ellipsis")
    return text


def _table(first: str | Text, *others: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for place, title in enumerate((first, *others)):
        table.add_column(title, justify="right" if place else "left", no_wrap=True)
    return table


def _number(value: float | None, form: str, times: float = 1) -> str:
    return "–" if value is None else f"{times * value:{form}}"


def _range(ends: Sequence[float | None] | None, times: float = 100, form: str = "+.2f") -> str:
    if ends is None:
        return "–"
    return " … ".join(_number(end, form, times) for end in ends)
