"""Drift of a version of a model as one HTML file that needs nothing else. By `sluice.pages`: jinja2, matplotlib.

Equal reports give equal bytes: the page knows no clock.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from pathlib import Path

from sluice.domain.drift import DriftReport, FeatureDrift, PerformanceMeasure
from sluice.pages.drawing import inline
from sluice.pages.page import render
from stream_processors.drift_charts import draw_feature

__all__ = ["MOST_PICTURES", "drift_page"]

TEMPLATE = Path(__file__).with_name("templates") / "drift.html.j2"
MOST_PICTURES = 12
_UNALARMED = 4
"""Pictures where nothing drifted: what moved most"""
_MEASURES = {
    "click_rate": "click rate", "calibration": "clicks beyond the score", "log_loss": "log loss beyond the expected",
}  # fmt: skip


def drift_page(report: DriftReport) -> str:
    """The features come in the order of the report: drifted ones first, by effect and importance."""
    from markupsafe import Markup

    drifted = [one for one in report.features if one.drifted]
    shown = [one for one in report.features if one.drifted or one.kind == "rank"]
    shown = shown[: min(len(drifted), MOST_PICTURES) or _UNALARMED] if report.window.number else []
    pictures = [
        # The SVG comes from matplotlib, which escapes the texts in it.
        (one, Markup(inline(draw_feature(number, one).chart())), _said(one))
        for number, one in enumerate(shown)
    ]
    values = {
        "report": report,
        "title": _title(report),
        "yardstick": "at training" if report.settled_ms is None else f"until {_day(report.settled_ms)}",
        "lead": _lead(report, drifted),
        "pictures": pictures,
        "drifted": drifted,
        "measures": [(_MEASURES[one.name], one) for one in report.performance.measures],
        "loses": [_MEASURES[one.name] for one in report.performance.measures if one.drifted],
        "command": shlex.join(["sluice", "drift", f"{report.model}/{report.version}", *_options(report), "--json"]),
    }
    return render(TEMPLATE, values, {"day": _day, "figure": _figure, "p": _p, "share": _share})


def _title(report: DriftReport) -> str:
    part = f" ({report.part})" if report.part else ""
    state = "settles" if report.settling else "has drifted" if report.drifted else "has not drifted"
    return f"{report.model} version {report.version}{part} {state}"


def _options(report: DriftReport) -> list[str]:
    """By which the same part is looked at again."""
    names = [name for name in report.part.split(" ") if name]
    return [f"--{name}" if name.startswith("variant=") else f"--segment={name}" for name in names]


def _lead(report: DriftReport, drifted: Sequence[FeatureDrift]) -> list[str]:
    if (seen := report.settling) is not None:
        return [
            "It settles: what is normal is learned from what the version itself shows.",
            f"So far {seen.rows:,} rows of {seen.users:,} users; {seen.needed:,} users are needed.",
        ]
    if not report.window.number:
        return ["No window of rankings is complete yet: nothing can be said."]
    if report.since_ms is None or report.began_ms is None:
        return ["Nothing moved by more than is tolerated, as far as the rows shown can tell."]
    said = [f"Seen on {_day(report.since_ms)}; it most likely began on {_day(report.began_ms)}."]
    if drifted:
        names = ", ".join(one.name for one in drifted[:5])
        more = f" and {len(drifted) - 5} more" if len(drifted) > 5 else ""
        said.append(f"Drifted: {names}{more}.")
    said += [_lost(one) for one in report.performance.measures if one.drifted]
    return said


def _lost(one: PerformanceMeasure) -> str:
    name = _MEASURES[one.name]
    return f"{name[0].upper()}{name[1:]}: {_figure(one.value)} instead of {_figure(one.expected)}."


def _said(one: FeatureDrift) -> str:
    parts = []
    if one.effect is not None:
        way = "higher" if one.effect > 0 else "lower"
        parts.append(f"{way} than before (effect {_figure(one.effect)})")
    if one.psi is not None:
        parts.append(f"PSI {_figure(one.psi)}")
    if one.missing >= 0.001:
        parts.append(f"{_share(one.missing)} missing or never seen before")
    if one.relation_p_value is not None and one.relation_p_value < one.p_value and one.drifted:
        parts.append("clicks go with it in another way than the model learned")
    if one.began_ms is not None:
        parts.append(f"since {_day(one.began_ms)}")
    return "; ".join(parts)


def _day(at_ms: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(at_ms / 1000))


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}".replace("-", "−")


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _p(value: float | None) -> str:
    if value is None:
        return "–"
    return "< 0.0001" if value < 0.0001 else f"{value:.2g}"
