"""Charts of an evaluation as SVG that stands in a page and follows its colours. Library: matplotlib."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from training.curves import Bin, Curve
from training.simultaneous import Interval

__all__ = ["COLOURS", "Chart", "boxes", "curves", "dots", "inline", "reliability_chart"]

# Light page. In a page each becomes the variable of its name, so that a dark page can choose others.
COLOURS = {
    "ink": "#1d2433", "faint": "#c9ced8", "paper": "#fefefd",
    "c1": "#0b62b4", "c2": "#c94f04", "c3": "#0c8662", "c4": "#8d4fb0", "c5": "#7a7f8c",
}  # fmt: skip
_LINES: Sequence[Any] = ("-", (0, (4, 2)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5)), (0, (2, 2)))
_MARKS = ("o", "s", "^", "D", "v")
_STYLE: Any = {
    "svg.fonttype": "none", "svg.hashsalt": "sluice", "text.parse_math": False,
    "font.size": 9.5, "axes.edgecolor": COLOURS["faint"],
    "axes.labelcolor": COLOURS["ink"], "text.color": COLOURS["ink"], "xtick.color": COLOURS["ink"],
    "ytick.color": COLOURS["ink"], "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "grid.color": COLOURS["faint"], "grid.alpha": 0.5, "grid.linewidth": 0.6, "legend.frameon": False,
    "legend.fontsize": 8.5, "axes.axisbelow": True,
}  # fmt: skip
_WIDTH = 4.7
"""Inches: 340 points, the width of a phone, so that text keeps its size there."""


class Chart(NamedTuple):
    name: str
    """Of the file, and of the ids in a page"""
    alt: str
    """What a person sees in it, in words"""
    svg: str
    """A document of its own"""


def curves(
    name: str, alt: str, lines: Mapping[str, Curve], x: str, y: str, *, reference: Curve | None = None,
    top: float | None = 1.0, bottom: float | None = 0.0,
) -> Chart:  # fmt: skip
    """A line a model; `reference` is what chance gives."""

    def draw(axes: Axes) -> None:
        if reference is not None:
            axes.plot(*reference, color=COLOURS["faint"], linewidth=1.2, label="chance")
        for place, (label, line) in enumerate(lines.items()):
            axes.plot(*line, color=_colour(place), linestyle=_LINES[place % len(_LINES)], linewidth=1.6, label=label)
        axes.set(xlabel=x, ylabel=y, xlim=(0, 1), ylim=(bottom, top))
        axes.legend(loc="best")

    return _chart(name, alt, 3.5, draw)


def reliability_chart(name: str, alt: str, models: Mapping[str, Sequence[Bin]]) -> Chart:
    """What was said against what was observed, with intervals."""

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=COLOURS["faint"], linewidth=1.2, label="as said")
        for place, (label, bins) in enumerate(models.items()):
            said = np.array([one.predicted for one in bins]) + 0.008 * (place - (len(models) - 1) / 2)
            _intervals(axes, said, [one.observed for one in bins], place, label)
        axes.set(xlabel="P(click) as said", ylabel="share of clicks observed", xlim=(0, 1), ylim=(0, 1))
        axes.legend(loc="upper left")

    return _chart(name, alt, 3.5, draw)


def dots(
    name: str, alt: str, labels: Sequence[str], series: Mapping[str, Sequence[Interval | None]], x: str, *,
    zero: bool = False,
) -> Chart:  # fmt: skip
    """A row a label, from above, with an interval a series. zero: a line where there is no difference."""

    def draw(axes: Axes) -> None:
        places = np.arange(len(labels), dtype=np.float64)
        for number, (label, values) in enumerate(series.items()):
            known = [(place, one) for place, one in zip(places, values, strict=True) if one is not None]
            shift = 0.26 * (number - (len(series) - 1) / 2)
            _intervals(axes, np.array([p for p, _ in known]) + shift, [v for _, v in known], number, label, flat=True)
        if zero:
            axes.axvline(0, color=COLOURS["ink"], linewidth=0.8)
        axes.set_yticks(places, labels)
        axes.set(xlabel=x, ylim=(len(labels) - 0.5, -0.5))
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
        if len(series) > 1:
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(series), borderpad=0)

    return _chart(name, alt, 0.9 + 0.26 * len(labels), draw)


def boxes(name: str, alt: str, models: Mapping[str, Sequence[float]], y: str) -> Chart:
    """A box a model over its folds, and every fold as a point."""

    def draw(axes: Axes) -> None:
        places = range(1, len(models) + 1)
        line = {"color": COLOURS["ink"], "linewidth": 1.0}
        axes.boxplot(
            list(models.values()), positions=list(places), widths=0.5, whis=(0, 100), medianprops=line,
            boxprops=line, whiskerprops=line, capprops=line,
        )  # fmt: skip
        for place, values in zip(places, models.values(), strict=True):
            spread = place + np.linspace(-0.12, 0.12, len(values))
            axes.plot(spread, values, linestyle="", marker=_MARKS[(place - 1) % len(_MARKS)], markersize=4.5,
                      color=_colour(place - 1))  # fmt: skip
        axes.set_xticks(list(places), list(models))
        axes.set(ylabel=y)
        axes.grid(axis="x", visible=False)

    return _chart(name, alt, 2.9, draw)


def inline(chart: Chart) -> str:
    """An `<svg>` element for a page: its colours are variables, its ids are its own, it refers to nothing outside."""
    svg = chart.svg[chart.svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{chart.name}-", svg)
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(r" font-family: [^;]*;", "", svg)
    for name, colour in COLOURS.items():
        svg = svg.replace(colour, f"var(--{name})")
    # Width and height give way to the page; viewBox keeps the proportions.
    head, rest = svg[: svg.index(">")], svg[svg.index(">") :]
    head = re.sub(r'\s(width|height)="[^"]*"', "", head)
    return f'{head} role="img" aria-label="{html.escape(chart.alt)}"{rest}'


def _chart(name: str, alt: str, height: float, draw: Callable[[Axes], None]) -> Chart:
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        draw(figure.add_subplot())
        target = io.StringIO()
        # Without a date the same numbers give the same bytes.
        figure.savefig(target, format="svg", transparent=True, metadata={"Date": None})
    return Chart(name, alt, target.getvalue())


def _intervals(
    axes: Axes, places: np.ndarray[Any, np.dtype[np.float64]], values: Sequence[Interval], number: int, label: str, *,
    flat: bool = False,
) -> None:  # fmt: skip
    middle = np.array([one.value for one in values])
    ends = np.array([[one.value - one.low, one.high - one.value] for one in values]).reshape(-1, 2).T
    style: dict[str, Any] = {
        "fmt": _MARKS[number % len(_MARKS)],
        "color": _colour(number),
        "markersize": 4,
        "linewidth": 1.2,
    }
    if flat:
        axes.errorbar(middle, places, xerr=ends, label=label, **style)
    else:
        axes.errorbar(places, middle, yerr=ends, label=label, **style)


def _colour(place: int) -> str:
    return COLOURS[f"c{place % 5 + 1}"]
