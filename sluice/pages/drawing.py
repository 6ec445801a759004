"""Charts as SVG that stands in a page and follows its colours, or as PNG beside it. Library: matplotlib."""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = ["COLOURS", "LINES", "MARKS", "Chart", "Drawing", "colour", "inline"]

# Light page. In a page each becomes the variable of its name, so that a dark page can choose others.
COLOURS = {
    "ink": "#1d2433", "faint": "#c9ced8", "paper": "#fefefd",
    "c1": "#0b62b4", "c2": "#c94f04", "c3": "#0c8662", "c4": "#8d4fb0", "c5": "#7a7f8c",
}  # fmt: skip
LINES: Sequence[Any] = ("-", (0, (4, 2)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5)), (0, (2, 2)))
MARKS = ("o", "s", "^", "D", "v")
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
_DPI = 200


class Chart(NamedTuple):
    name: str
    """Of the file, and of the ids in a page"""
    alt: str
    """What a person sees in it, in words"""
    svg: str
    """A document of its own"""


class Drawing(NamedTuple):
    """What can be drawn; equal drawings give equal bytes."""

    name: str
    alt: str
    height: float
    """Inches"""
    draw: Callable[[Axes], None]

    def chart(self) -> Chart:
        # Without a date the same numbers give the same bytes.
        made = self._made("svg", transparent=True, metadata={"Date": None})
        return Chart(self.name, self.alt, made.decode())

    def png(self) -> bytes:
        """For documents that take no SVG: on paper, 200 dots an inch."""
        return self._made("png", dpi=_DPI, facecolor=COLOURS["paper"], metadata={"Software": None})

    def _made(self, kind: str, **options: Any) -> bytes:
        with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
            # Names may be in scripts that the font lacks, dates too few for a round step: nobody needs to hear of it.
            warnings.simplefilter("ignore", UserWarning)
            figure = Figure(figsize=(_WIDTH, self.height), layout="constrained")
            self.draw(figure.add_subplot())
            target = io.BytesIO()
            figure.savefig(target, format=kind, **options)
        return target.getvalue()


def inline(chart: Chart) -> str:
    """An `<svg>` element for a page: its colours are variables, its ids are its own, it refers to nothing outside."""
    svg = chart.svg[chart.svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{chart.name}-", svg)
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(r" font-family: [^;]*;", "", svg)
    for name, value in COLOURS.items():
        svg = svg.replace(value, f"var(--{name})")
    # Width and height give way to the page; viewBox keeps the proportions.
    head, rest = svg[: svg.index(">")], svg[svg.index(">") :]
    head = re.sub(r'\s(width|height)="[^"]*"', "", head)
    return f'{head} role="img" aria-label="{html.escape(chart.alt)}"{rest}'


def colour(place: int) -> str:
    """Of the series at this place; `LINES` and `MARKS` tell apart those that share one."""
    return COLOURS[f"c{place % 5 + 1}"]
