"""Which charts the report of an experiment has. Library: matplotlib, by `sluice.pages`; scipy for densities."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray
from scipy.stats import beta, norm

from dashboard.report_course import Course, Figure, Point
from dashboard.report_format import Metric, probability, shares
from sluice.domain.events import DecisionMade, Interval, SegmentResult, VariantResult
from sluice.pages.drawing import COLOURS, LINES, Drawing, colour

__all__ = ["MOST_DRAWN", "draw_all", "drawn_variants"]

MOST_DRAWN = 8
"""Variants: more lines than that nobody tells apart"""
MOST_SEGMENTS = 20
_LEAST_POINTS = 3
_HEIGHT = 3.1
_NO_DATE_MS = 9_999_999_999_999
_LONGEST_NAME = 22
_LEGEND_LINE = 34
"""Characters of four names that stand beside each other"""
_SMALLEST_LOSS = 1e-5
Floats = NDArray[np.float64]
Value = Callable[[Figure], float | None]
Ends = Callable[[Figure], Interval | None]


class _Sight(NamedTuple):
    """What is drawn over time."""

    points: Sequence[Point]
    names: Sequence[str]
    decision: DecisionMade
    metric: Metric
    control: str
    since_ms: int
    """Since when the verdict stands"""

    @property
    def last(self) -> Mapping[str, Figure]:
        return self.points[-1].figures

    @property
    def times(self) -> Any:
        return [_time(point.at_ms) for point in self.points]

    def series(self, variant: str, value: Value) -> Floats:
        found = (point.figures.get(variant) for point in self.points)
        numbers = (None if one is None else value(one) for one in found)
        return np.array([np.nan if number is None else number for number in numbers], dtype=np.float64)


def draw_all(
    course: Course, decision: DecisionMade, metric: Metric, control: str, allowed_loss: float | None
) -> list[Drawing]:
    """Those there are data for. allowed_loss: what a winner may risk, where the configuration says it."""
    names = drawn_variants(decision, control)
    points = [point for point in course.points.all() if 0 <= point.at_ms < _NO_DATE_MS]
    since = (course.verdicts.last or course.verdicts.first)[-1].at_ms
    drawings = []
    if len({point.at_ms for point in points}) >= _LEAST_POINTS:
        sight = _Sight(points, names, decision, metric, control, since)
        drawings += [
            *_differences(sight), _rates(sight), _allocations(sight), _best(sight), _losses(sight, allowed_loss),
        ]  # fmt: skip
    return [*drawings, *_posteriors(decision, names, metric), *_segments(decision.segments, metric)]


def drawn_variants(decision: DecisionMade, control: str) -> list[str]:
    """In the order of the experiment: all, or the control and those that are likeliest the best."""
    ranked = sorted(decision.results, key=lambda one: (one.variant != control, -one.p_best))
    kept = {one.variant for one in ranked[:MOST_DRAWN]}
    return [one.variant for one in decision.results if one.variant in kept]


def _rates(sight: _Sight) -> Drawing:
    metric, last = sight.metric, sight.last
    said = "; ".join(
        f"{name} {metric.value(last[name].rate)}"
        + (f" ({metric.values(last[name].sequence)})" if last[name].sequence else "")
        for name in sight.names if name in last
    )  # fmt: skip
    alt = f"{metric.name} of each variant over event time with bands that hold at all times. At the end: {said}."
    label = f"{metric.name}{', %' if metric.is_rate else ''}"
    return _bands("rate", alt, sight, sight.names, label, lambda of: of.rate, lambda of: of.sequence)


def _differences(sight: _Sight) -> list[Drawing]:
    metric, last = sight.metric, sight.last
    known = [name for name in sight.names if name in last and last[name].difference is not None]
    if not known:
        return []
    said = "; ".join(f"{name} {metric.difference(last[name].difference)} ({metric.differences(last[name].interval)})"
                     for name in known)  # fmt: skip
    alt = (
        f"Difference of each variant to {sight.control} over event time, in {metric.unit}, with bands that hold at all "
        f"times. At the end: {said}."
    )
    label = f"minus {_short(sight.control)}{', points' if metric.is_rate else ''}"
    return [_bands("difference", alt, sight, known, label, lambda of: of.difference, lambda of: of.interval, zero=True)]


def _bands(
    name: str, alt: str, sight: _Sight, names: Sequence[str], label: str, value: Value, ends: Ends, *,
    zero: bool = False,
) -> Drawing:  # fmt: skip
    scale = 100 if sight.metric.is_rate else 1

    def draw(axes: Axes) -> None:
        reach = [0.0] if zero else []
        for variant in names:
            place = sight.names.index(variant)
            line = scale * sight.series(variant, value)
            low, high = (scale * sight.series(variant, partial(_end, ends, which)) for which in (0, 1))
            axes.fill_between(sight.times, low, high, color=colour(place), alpha=0.12, linewidth=0)
            for edge in (low, high):
                axes.plot(sight.times, edge, color=colour(place), alpha=0.6, linewidth=0.6)
            axes.plot(sight.times, line, **_line(place), label=_short(variant))
            reach += _reach(line, low, high)
        if zero:
            axes.axhline(0, color=COLOURS["ink"], linewidth=0.8)
        if sight.points[0].at_ms < sight.since_ms:
            axes.axvline(_time(sight.since_ms), color=COLOURS["ink"], linewidth=0.9, linestyle=(0, (1, 2)))
        _dates(axes)
        axes.set(ylabel=label, ylim=_limits(reach))
        _legend(axes)

    return Drawing(name, alt, _HEIGHT, draw)


def _allocations(sight: _Sight) -> Drawing:
    alt = f"Share of new traffic of each variant over event time. At the end: {shares(sight.decision.allocation)}."

    def draw(axes: Axes) -> None:
        for place, variant in enumerate(sight.names):
            share = np.array([point.allocation.get(variant, np.nan) for point in sight.points], dtype=np.float64)
            axes.plot(sight.times, share, drawstyle="steps-post", **_line(place), label=_short(variant))
        _dates(axes)
        axes.set(ylabel="share of new traffic, %", ylim=(-3, 103))
        _legend(axes)

    return Drawing("allocation", alt, _HEIGHT, draw)


def _best(sight: _Sight) -> Drawing:
    last = sight.last
    said = "; ".join(f"{name} {probability(last[name].p_best)}" for name in sight.names if name in last)
    alt = f"Probability of each variant to be the best, over event time. At the end: {said}."

    def draw(axes: Axes) -> None:
        for place, variant in enumerate(sight.names):
            best = 100 * sight.series(variant, lambda of: of.p_best)
            axes.plot(sight.times, best, **_line(place), label=_short(variant))
        _dates(axes)
        axes.set(ylabel="P(best), %", ylim=(-3, 103))
        _legend(axes)

    return Drawing("p-best", alt, _HEIGHT, draw)


def _losses(sight: _Sight, allowed: float | None) -> Drawing:
    metric, last = sight.metric, sight.last
    said = "; ".join(f"{name} {metric.size(last[name].expected_loss)}" for name in sight.names if name in last)
    bound = "" if allowed is None else f" A winner may risk {metric.size(allowed)}."
    alt = f"Expected loss of choosing each variant for good, over event time. At the end: {said}.{bound}"
    scale = 100 if metric.is_rate else 1

    def draw(axes: Axes) -> None:
        for place, variant in enumerate(sight.names):
            loss = scale * sight.series(variant, lambda of: of.expected_loss)
            # Below the smallest it does not matter how small it is, and 0 has no place on such an axis.
            axes.plot(sight.times, np.maximum(loss, scale * _SMALLEST_LOSS), **_line(place), label=_short(variant))
        if allowed is not None:
            axes.axhline(scale * allowed, color=COLOURS["ink"], linewidth=0.8, label="allowed")
        _dates(axes)
        axes.set_yscale("log")
        axes.set(ylabel=f"expected loss{', points' if metric.is_rate else ''}")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        _legend(axes)

    return Drawing("expected-loss", alt, _HEIGHT, draw)


def _posteriors(decision: DecisionMade, names: Sequence[str], metric: Metric) -> list[Drawing]:
    known = [one for one in decision.results if one.variant in names and one.impressions and _spread(one) > 0]
    if not known:
        return []
    said = "; ".join(f"{one.variant} {metric.values(one.interval)}" for one in known)
    scale = 100 if metric.is_rate else 1

    def draw(axes: Axes) -> None:
        low = min(one.interval[0] - 0.6 * _spread(one) for one in known)
        high = max(one.interval[1] + 0.6 * _spread(one) for one in known)
        grid = np.linspace(max(low, 0.0) if metric.is_rate else low, min(high, 1.0) if metric.is_rate else high, 400)
        for one in known:
            place = names.index(one.variant)
            density = _density(one, grid)
            inside = (grid >= one.interval[0]) & (grid <= one.interval[1])
            axes.fill_between(
                scale * grid, 0, density, where=inside.tolist(), color=colour(place), alpha=0.16, linewidth=0
            )
            axes.plot(scale * grid, density, **_line(place), label=_short(one.variant))
        axes.set(xlabel=f"{metric.name}{', %' if metric.is_rate else ''}", ylim=(0, None))
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        _legend(axes)

    return [Drawing("posterior", f"Posterior density of each variant; 95 % lie within: {said}.", 2.9, draw)]


def _density(one: VariantResult, grid: Floats) -> Floats:
    if one.alpha is not None and one.beta is not None:
        found = beta.pdf(grid, one.alpha, one.beta)
    else:
        middle, spread = sum(one.interval) / 2, _spread(one) / (2 * 1.959964)
        found = norm.pdf(grid, middle, spread)
    return np.where(np.isfinite(found), found, 0.0)


def _spread(one: VariantResult) -> float:
    return one.interval[1] - one.interval[0]


def _segments(segments: Sequence[SegmentResult], metric: Metric) -> list[Drawing]:
    shown = sorted(segments, key=lambda one: -one.units)[:MOST_SEGMENTS]
    if not shown:
        return []
    labels = [_short(f"{one.key}={one.value}") + f" · {_short(one.variant)} ({one.units:,})" for one in shown]
    said = "; ".join(f"{label} {metric.difference(one.difference)}" for label, one in zip(labels, shown, strict=True))
    scale = 100 if metric.is_rate else 1

    def draw(axes: Axes) -> None:
        places = np.arange(len(shown), dtype=np.float64)
        middle = scale * np.array([one.difference for one in shown])
        ends = scale * np.array([[one.difference - one.interval[0], one.interval[1] - one.difference] for one in shown])
        axes.errorbar(middle, places, xerr=np.maximum(ends.T, 0), fmt="o", color=colour(0), markersize=4, linewidth=1.2)
        axes.axvline(0, color=COLOURS["ink"], linewidth=0.8)
        axes.set_yticks(places, labels)
        axes.set(xlabel=f"difference to the control{', points' if metric.is_rate else ''}",
                 ylim=(len(shown) - 0.5, -0.5))  # fmt: skip
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)

    return [Drawing("segments", f"Difference to the control by segment (units), with intervals: {said}.",
                    0.9 + 0.26 * len(shown), draw)]  # fmt: skip


def _time(at_ms: int) -> Any:
    return datetime.fromtimestamp(at_ms / 1000, UTC)


def _end(ends: Ends, which: int, of: Figure) -> float | None:
    found = ends(of)
    return None if found is None else found[which]


def _reach(line: Floats, low: Floats, high: Floats) -> list[float]:
    """What the axis must hold: the line, and its band as it was once the first noise had passed."""
    later = slice(len(line) // 4, None)
    parts: Iterable[Floats] = (line[later], low[later], high[later])
    return [float(number) for part in parts for number in part[np.isfinite(part)]]


def _limits(reach: Sequence[float]) -> tuple[float, float] | tuple[None, None]:
    if not reach:
        return None, None
    # The first half of the bands may be wide beyond all use: most of what is drawn counts.
    low, high = float(np.quantile(reach, 0.01)), float(np.quantile(reach, 0.99))
    room = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    return low - room, high + room


def _dates(axes: Axes) -> None:
    locator = AutoDateLocator(minticks=3, maxticks=8)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    axes.margins(x=0.02)


def _line(place: int) -> dict[str, Any]:
    return {"color": colour(place), "linestyle": LINES[place % len(LINES)], "linewidth": 1.5}


def _legend(axes: Axes) -> None:
    _, labels = axes.get_legend_handles_labels()
    columns = 4 if len(labels) == 4 and sum(map(len, labels)) < _LEGEND_LINE else min(len(labels), 3)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, borderpad=0, handlelength=2.4)


def _short(name: str) -> str:
    """A name as it stands in a chart: not too long, and never hidden, as matplotlib does with `_…`."""
    shown = name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
    return f"\u200b{shown}" if shown.startswith("_") else shown
