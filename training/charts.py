"""Charts of an evaluation. Library: matplotlib, by `sluice.pages`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from sluice.pages.drawing import COLOURS, LINES, MARKS, Chart, Drawing, colour
from training.curves import Bin, Curve
from training.simultaneous import Interval

__all__ = ["boxes", "curves", "dots", "reliability_chart"]


def curves(
    name: str, alt: str, lines: Mapping[str, Curve], x: str, y: str, *, reference: Curve | None = None,
    top: float | None = 1.0, bottom: float | None = 0.0,
) -> Chart:  # fmt: skip
    """A line a model; `reference` is what chance gives."""

    def draw(axes: Axes) -> None:
        if reference is not None:
            axes.plot(*reference, color=COLOURS["faint"], linewidth=1.2, label="chance")
        for place, (label, line) in enumerate(lines.items()):
            axes.plot(*line, color=colour(place), linestyle=LINES[place % len(LINES)], linewidth=1.6, label=label)
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
            axes.plot(spread, values, linestyle="", marker=MARKS[(place - 1) % len(MARKS)], markersize=4.5,
                      color=colour(place - 1))  # fmt: skip
        axes.set_xticks(list(places), list(models))
        axes.set(ylabel=y)
        axes.grid(axis="x", visible=False)

    return _chart(name, alt, 2.9, draw)


def _chart(name: str, alt: str, height: float, draw: Callable[[Axes], None]) -> Chart:
    return Drawing(name, alt, height, draw).chart()


def _intervals(
    axes: Axes, places: np.ndarray[Any, np.dtype[np.float64]], values: Sequence[Interval], number: int, label: str, *,
    flat: bool = False,
) -> None:  # fmt: skip
    middle = np.array([one.value for one in values])
    ends = np.array([[one.value - one.low, one.high - one.value] for one in values]).reshape(-1, 2).T
    style: dict[str, Any] = {
        "fmt": MARKS[number % len(MARKS)],
        "color": colour(number),
        "markersize": 4,
        "linewidth": 1.2,
    }
    if flat:
        axes.errorbar(middle, places, xerr=ends, label=label, **style)
    else:
        axes.errorbar(places, middle, yerr=ends, label=label, **style)
